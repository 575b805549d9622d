"""Stage 3: everything that is claimed about a model, in one command: python -m train.evaluate.

Either runs models on a dataset (--model, --dataset, --data) or scores tables of predictions
(--predictions, --truth). Writes one folder: report.json, report.md, predictions.csv and plots.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cft
from cft.calibration import RULES
from cft.hub import resolve
from cft.labels import CHEXPERT_5, DESCRIPTIONS
from cft.model_folder import WEIGHTS, ModelFolderError, atomic_write, read_config
from train import plots, report
from train.command import BETWEEN_ZERO_AND_ONE, POSITIVE, WHOLE, exit_code
from train.datasets import DatasetError, add_dataset_arguments, dataset_from_arguments
from train.ensemble import SPACES, combine, greedy_weights
from train.figures import named_subsets
from train.labels import LabelTable, UsageError
from train.predictions import (
    STUDY_RULES,
    Predictions,
    StudyError,
    TableError,
    Truth,
    column_names,
    predictions_csv,
    read_decisions,
    read_predictions,
    read_truth,
)
from train.protocol import Settings, choose_points, evaluate_models

__all__ = ["EvaluationError", "main"]

#: What the combination of the models is called among the models.
ENSEMBLE = "ensemble"


class EvaluationError(ValueError):
    """The evaluation cannot be done as asked; the message is one sentence for the user."""


@dataclasses.dataclass(frozen=True)
class _Scored:
    """Some models' scores for one truth."""

    truth: Truth
    models: list[Predictions]


@dataclasses.dataclass(frozen=True)
class _Run:
    """All that is scored: the truth first asked for, and further ones for the same models."""

    scored: list[_Scored]
    readers: list[Predictions]
    weights: dict[str, float]  # of the ensemble's members, where they were chosen


# --- Ensembles ----------------------------------------------------------------------------------


def _with_ensemble(
    scored: list[_Scored], validation: _Scored | None, args: argparse.Namespace
) -> tuple[list[_Scored], _Scored | None, dict[str, float]]:
    """Add the ensemble to every list of models; also says the weights if they were chosen."""
    if args.ensemble is None:
        return scored, validation, {}
    models = scored[0].models
    if any(model.name == ENSEMBLE for model in models):
        raise EvaluationError(f"a model is named {ENSEMBLE!r}, as the ensemble would be; rename it")
    weights = None
    if args.ensemble_weights == "greedy" and validation is not None:
        weights = _greedy(validation, args.ensemble)

    def add(to: _Scored) -> _Scored:
        return _Scored(to.truth, [*to.models, _ensemble(to.models, args.ensemble, weights)])

    named = {} if weights is None else dict(zip([m.name for m in models], weights, strict=True))
    return [add(one) for one in scored], validation and add(validation), named


def _greedy(validation: _Scored, space: str) -> list[float]:
    shared = _shared_labels(validation.models)
    scores = [model.columns(shared) for model in validation.models]
    try:
        return greedy_weights(scores, validation.truth.columns(shared), space).tolist()
    except ValueError as error:
        raise EvaluationError(f"the ensemble's weights cannot be chosen: {error}") from error


def _ensemble(
    models: Sequence[Predictions], space: str, weights: Sequence[float] | None
) -> Predictions:
    """The models' combination over the categories that all of them predict."""
    shared = _shared_labels(models)
    scores = [model.columns(shared) for model in models]
    notes = []
    if space == "mean":
        odd = [m.name for m, s in zip(models, scores, strict=True) if s.min() < 0 or s.max() > 1]
        if odd:
            notes.append(
                f"the ensemble averages scores as they are, but those of {', '.join(odd)} are no "
                "probabilities; --ensemble ranks needs no common scale"
            )
    try:
        combined = combine(scores, space, weights)
    except ValueError as error:
        raise EvaluationError(f"the ensemble cannot be made: {error}") from error
    return Predictions(
        ENSEMBLE, shared, combined, probabilities=space != "ranks", notes=tuple(notes)
    )


def _shared_labels(models: Sequence[Predictions]) -> tuple[str, ...]:
    shared = tuple(
        label for label in models[0].label_names if all(label in m.label_names for m in models)
    )
    if not shared:
        raise EvaluationError("the models share no category, so they make no ensemble")
    return shared


def _with_points(scored: _Scored, validation: _Scored, rule: str) -> _Scored:
    """Models without operating points of their own get those of the validation films."""
    models = []
    for model, fitted in zip(scored.models, validation.models, strict=True):
        if not model.source:
            labels = [x for x in fitted.label_names if x in validation.truth.label_names]
            points = choose_points(
                fitted.columns(labels), validation.truth.columns(labels), labels, rule
            )
            source = f"the validation films ({rule})"
            model = dataclasses.replace(model, operating_points=points, source=source)
        models.append(model)
    return _Scored(scored.truth, models)


# --- Tables of predictions ----------------------------------------------------------------------


def _score_tables(args: argparse.Namespace) -> _Run:
    truth = _read_truth(args.truth, args.predictions, args)
    scored = [_Scored(truth, _read_models(args.predictions, truth, args.key))]
    validation = None
    if args.validation_truth:
        held_out = _read_truth(args.validation_truth, args.validation_predictions, args)
        _check_disjoint(held_out, truth)
        models = _read_models(args.validation_predictions, held_out, args.key)
        if len(models) != len(scored[0].models):
            raise EvaluationError(
                f"{len(models)} models are predicted for validation and {len(scored[0].models)} "
                "for the films to be scored; give one table for each, in the same order"
            )
        validation = _Scored(held_out, models)
    scored, validation, weights = _with_ensemble(scored, validation, args)
    if validation:
        scored = [
            _without_ranks(_with_points(one, validation, args.threshold_rule), args)
            for one in scored
        ]
    return _Run(scored, _read_readers(args.radiologists, truth, args.key), weights)


def _with_notes(scored: _Scored, notes: tuple[str, ...]) -> _Scored:
    """The same with notes on the last model, the ensemble."""
    *models, last = scored.models
    last = dataclasses.replace(last, notes=(*last.notes, *notes))
    return _Scored(scored.truth, [*models, last])


def _without_ranks(scored: _Scored, args: argparse.Namespace) -> _Scored:
    """An ensemble of ranks has no operating point: a rank among other films is another number."""
    if args.ensemble != "ranks":
        return scored
    *models, last = scored.models
    return _Scored(
        scored.truth, [*models, dataclasses.replace(last, operating_points={}, source="")]
    )


def _read_truth(path: Path, predictions: Sequence[Path], args: argparse.Namespace) -> Truth:
    predicted = {column for table in predictions for column in column_names(table, args.key)}
    return read_truth(path, predicted, args.key, args.unit)


def _check_disjoint(held_out: Truth, truth: Truth) -> None:
    same = set(held_out.keys) & set(truth.keys)
    if same:
        raise EvaluationError(
            f"validation and test tables share {len(same)} rows (first {min(same)!r}); operating "
            "points and weights are never chosen on the films that are scored"
        )


def _read_models(paths: Sequence[Path], truth: Truth, key: str) -> list[Predictions]:
    models = [model for path in paths for model in read_predictions(path, truth, key)]
    names = [model.name for model in models]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise EvaluationError(f"two models are named {twice[0]!r}; rename one of their files")
    return models


def _read_readers(folder: Path | None, truth: Truth, key: str) -> list[Predictions]:
    if folder is None:
        return []
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise EvaluationError(f"there are no CSV tables of radiologists' decisions in {folder}")
    return [read_decisions(path, truth, key) for path in files]


# --- Models -------------------------------------------------------------------------------------

# Data set -> (reader of other labels for some of its films, the file that holds them).
_OTHER_LABELS = {"nih": ("nih-experts", "expert_labels.csv")}


def _run_models(args: argparse.Namespace) -> _Run:
    """Run the models on the data set, for every truth that its films have."""
    # Tables of predictions are scored without waiting for the import of networks.
    from train.inference import predictions_of, readable, run, truth_of

    names = _model_names(args.model)
    classifiers = {name: cft.load(ref) for name, ref in zip(names, args.model, strict=True)}
    if args.data is None and args.dataset is None:
        _check_phantoms(classifiers)
    table = dataset_from_arguments(args, args.seed)
    tested = table.subset(table.split == args.split)
    if not len(tested):
        raise EvaluationError(
            f"the data set {table.dataset!r} has no films in split {args.split!r}"
        )
    tables = [tested, *_other_labels(args, table)]
    held_out = _validation_films(args, table)
    _check_labels(classifiers, table)
    everything = [*tables, *held_out]
    films = {name: run(model, everything, args.batch_size) for name, model in classifiers.items()}
    splits = _Splits(args, table.dataset)

    def score(one: LabelTable) -> _Scored:
        one = readable(one, list(films.values()))
        models = [
            predictions_of(
                *(name, classifiers[name], films[name], one, args.films, args.threshold_rule)
            )
            for name in names
        ]
        models = [_with_warnings(m, classifiers[m.name], one, splits, args.split) for m in models]
        return _Scored(truth_of(one, args.films, args.unit), models)

    validation = score(held_out[0]) if held_out else None
    scored, validation, weights = _with_ensemble([score(one) for one in tables], validation, args)
    if held_out:
        notes = _seen_in_validation(classifiers, held_out[0], splits)
        scored = [_with_notes(one, notes) for one in scored]
    if validation:
        scored = [
            _without_ranks(_with_points(one, validation, args.threshold_rule), args)
            for one in scored
        ]
    return _Run(scored, _read_readers(args.radiologists, scored[0].truth, args.key), weights)


# Combination -> what the members of a saved ensemble are averaged as. A rank among the films of a
# test set means nothing for one film, so an ensemble of ranks cannot be saved.
_SAVED_AS = {"mean": "probabilities", "logits": "logits"}


def _save_ensemble(args: argparse.Namespace, results: Mapping[str, Any], run_: _Run) -> None:
    """Write the ensemble as a model folder, with its figures and operating points."""
    from cft.ensemble import write_ensemble

    members = [
        (name, resolve(reference).path, run_.weights.get(name, 1.0))
        for name, reference in zip(_model_names(args.model), args.model, strict=True)
    ]
    configs = [read_config(folder) for _, folder, _ in members]
    label_names = list(results["models"][ENSEMBLE]["categories"])
    points = run_.scored[0].models[-1].operating_points
    kept = [config for (_, _, weight), config in zip(members, configs, strict=True) if weight]
    config = {
        "architecture": "ensemble",
        "label_names": label_names,
        "label_descriptions": {x: DESCRIPTIONS[x] for x in label_names if x in DESCRIPTIONS},
        "pretrained_cfg": {**configs[0]["pretrained_cfg"], "num_classes": len(label_names)},
        "cft": {
            "categories": {
                label: {
                    "operating_point": None
                    if point is None
                    else {"threshold": point, "rule": args.threshold_rule}
                }
                for label, point in points.items()
            },
            "provenance": _ensemble_provenance(args, kept),
            "metrics": {
                one["truth"]["name"]: {
                    **{k: v for k, v in one["models"][ENSEMBLE].items() if k != "subgroups"},
                    "row": one["truth"]["row"],
                    "unit": one["truth"]["unit"],
                }
                for one in (results, *results["references"].values())
            },
        },
    }
    average, card = _SAVED_AS[args.ensemble], report.model_card(config)
    write_ensemble(args.save_ensemble, members, average=average, config=config, card=card)


def _ensemble_provenance(
    args: argparse.Namespace, configs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the members have in common, and how they were put together."""
    parents = [config.get("cft", {}).get("provenance", {}) for config in configs]
    trained_on = dict.fromkeys(p["trained_on"] for p in parents if p.get("trained_on"))
    datasets = {p.get("dataset") for p in parents}
    return {
        "stage": "ensemble",
        "trained_on": "; ".join(trained_on) or None,
        "dataset": datasets.pop() if len(datasets) == 1 else None,
        "seed": args.seed,
        "arguments": {
            "members": len(configs),
            "average": _SAVED_AS[args.ensemble],
            "weights": args.ensemble_weights,
        },
    }


def _other_labels(args: argparse.Namespace, table: LabelTable) -> list[LabelTable]:
    """Further truths for the films, where the data set comes with them."""
    reader, file = _OTHER_LABELS.get(table.dataset, ("", ""))
    if args.split != "test" or not reader or not args.data:
        return []
    folder = args.data if args.data.is_dir() else args.data.parent
    if not (folder / file).exists():
        return []
    return [
        dataset_from_arguments(argparse.Namespace(**{**vars(args), "dataset": reader}), args.seed)
    ]


def _validation_films(args: argparse.Namespace, table: LabelTable) -> list[LabelTable]:
    """The split that an ensemble's weights and operating points are chosen on; [] if not needed."""
    films = table.subset(table.split == "valid")
    usable = len(films) > 0 and args.split != "valid"
    if args.ensemble_weights == "greedy" and not usable:
        raise EvaluationError(
            "greedy weights are chosen on the split 'valid', which must have films and cannot be "
            "the split that is scored"
        )
    return [films] if args.ensemble and usable else []


def _model_names(references: Sequence[str]) -> list[str]:
    """The folders' own names; the whole references where these are not distinct."""
    names = [Path(reference).resolve().name for reference in references]
    names = names if len(set(names)) == len(names) else list(references)
    if len(set(names)) < len(names):
        raise EvaluationError("a model is named twice after --model")
    return names


def _members(model: Any) -> Sequence[Any]:
    """An ensemble's members, or the model itself."""
    return getattr(model, "members", [model])


def _provenance(model: Any) -> Mapping[str, Any]:
    return model.config.get("cft", {}).get("provenance", {})


def _check_phantoms(classifiers: Mapping[str, cft.Classifier]) -> None:
    """Phantoms are the films of a model that was trained on them; others must be asked for."""
    for name, classifier in classifiers.items():
        datasets = [_provenance(member).get("dataset") for member in _members(classifier)]
        if "phantoms" not in datasets:
            raise UsageError(
                f"{name} was not trained on phantoms: name the films to score with --data, or "
                "phantoms with --dataset phantoms"
            )


def _check_labels(classifiers: Mapping[str, cft.Classifier], table: LabelTable) -> None:
    for name, classifier in classifiers.items():
        if not set(classifier.label_names) & set(table.label_names):
            raise EvaluationError(
                f"{name} predicts no category of the data set {table.dataset!r}, which has "
                f"{', '.join(table.label_names)}"
            )


# --- Films that a model has seen ----------------------------------------------------------------

# Options of a data set that decide which films there are, and in which split.
_OF_SPLITS = ("valid", "test", "min_width", "shared_patients", "view", "map")
_OF_SPLITS += ("phantoms", "phantom_size", "missing")


class _Splits:
    """How the models' own runs drew the splits of a data set, each read once."""

    def __init__(self, args: argparse.Namespace, dataset: str):
        self._args, self._dataset = args, dataset
        self._drawn: dict[str, dict[str, str] | None] = {}  # options as text -> film -> split

    def seen(self, model: Any, films: Sequence[str], splits: Sequence[str]) -> str:
        """A phrase on the films among some that a model has seen in these splits; "" if none."""
        phrases = (self._seen_by(_provenance(m), films, splits) for m in _members(model))
        return "; ".join(dict.fromkeys(phrase for phrase in phrases if phrase))

    def _seen_by(
        self, provenance: Mapping[str, Any], films: Sequence[str], splits: Sequence[str]
    ) -> str:
        if provenance.get("dataset") != self._dataset:
            return ""
        own, chosen = None, {x: provenance.get("arguments", {}).get(x) for x in _OF_SPLITS}
        seed = provenance.get("stage_1", provenance).get("seed")  # stage 2 keeps the splits
        if "arguments" in provenance and seed is not None:
            own = self._read(chosen, seed)
        if own is None:
            return "the model does not say how its films were drawn, so these may be among them"
        count = sum(own.get(film) in splits for film in films)
        if not count:
            return ""
        words = []
        for option, value in {"seed": seed, **chosen}.items():
            if value not in (None, []):
                values = value if isinstance(value, list) else [value]
                words += [f"--{option.replace('_', '-')}", *map(str, values)]
        return (
            f"the model has been trained on {count:,} of the {len(films):,} films; the splits of "
            f"its own run are those of {shlex.join(words)}"
        )

    def _read(self, chosen: Mapping[str, Any], seed: int) -> dict[str, str] | None:
        """Film -> split as a run drew them; None if this data set cannot be drawn so."""
        name = json.dumps([chosen, seed], sort_keys=True)
        if name not in self._drawn:
            chosen = {**chosen, "map": chosen["map"] or []}
            chosen["shared_patients"] = chosen["shared_patients"] or self._args.shared_patients
            chosen["view"] = chosen["view"] or self._args.view
            options = argparse.Namespace(**{**vars(self._args), **chosen, "known": 1.0})
            try:
                table = dataset_from_arguments(options, seed, check_images=False)
                drawn = dict(zip(table.names.tolist(), table.split.tolist(), strict=True))
            except DatasetError:
                drawn = None
            self._drawn[name] = drawn
        return self._drawn[name]


def _with_warnings(
    model: Predictions, classifier: Any, table: LabelTable, splits: _Splits, scored: str
) -> Predictions:
    """The model with notes where it has seen, or may have seen, the films that are scored."""
    notes = list(model.notes)
    if scored != "test":
        notes.append(f"scored on the split {scored!r}, which the model has been fitted to")
    elif seen := splits.seen(classifier, table.names.tolist(), ("train", "valid")):
        notes.append(f"these figures may be too good: {seen}")
    return dataclasses.replace(model, notes=tuple(notes))


def _seen_in_validation(
    classifiers: Mapping[str, Any], table: LabelTable, splits: _Splits
) -> tuple[str, ...]:
    """Notes on members that were trained on the films that weights and points are chosen on."""
    films = table.names.tolist()
    seen = {name: splits.seen(model, films, ("train",)) for name, model in classifiers.items()}
    return tuple(
        f"the validation films may say too much for {name}: {phrase}"
        for name, phrase in seen.items()
        if phrase
    )


# --- Command line -------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 failed; wrong usage exits with 2)."""
    parser = _parser()
    args = parser.parse_args(arguments)
    _check_usage(parser, args)
    settings = Settings(
        replicates=args.replicates,
        seed=args.seed,
        level=args.level,
        subsets=dict(args.subset),
        optimistic_thresholds=args.optimistic_thresholds,
        threshold_rule=args.threshold_rule,
    )
    errors = EvaluationError, TableError, StudyError, DatasetError, ModelFolderError
    return exit_code(
        *("train.evaluate", lambda: _work_through(args, settings), *errors),
        interrupted="run the same command again",
    )


def _work_through(args: argparse.Namespace, settings: Settings) -> None:
    _check_places(args)
    run_ = _run_models(args) if args.model else _score_tables(args)
    _check_subsets(settings, run_)
    results = _results(run_, settings)
    _write(args, results, run_)
    if args.save_ensemble:
        _save_ensemble(args, results, run_)
    print(report.summary(results))
    print(f"written to {args.out}")


def _check_places(args: argparse.Namespace) -> None:
    """Refuse, before any work, what could not be written or would overwrite something else."""
    for folder in filter(None, (args.out, args.save_ensemble)):
        for place in (folder, *folder.parents):
            if place.exists() and not place.is_dir():
                raise EvaluationError(f"{place} is a file, so no folder can be made there")
    if args.save_ensemble and (args.save_ensemble / WEIGHTS).exists():
        raise EvaluationError(
            f"{args.save_ensemble} holds another model; give --save-ensemble a folder of its own"
        )


def _check_subsets(settings: Settings, run_: _Run) -> None:
    known = {label for model in run_.scored[0].models for label in model.label_names}
    for name, members in settings.subsets.items():
        missing = [label for label in members if label not in known]
        if missing:
            raise EvaluationError(f"subset {name!r} names {missing[0]!r}, which no model predicts")


def _results(run_: _Run, settings: Settings) -> dict[str, Any]:
    """``report.json``: the first truth's figures at the root, the others' under references."""
    results, *others = [
        evaluate_models(one.truth, one.models, [] if i else run_.readers, settings)
        for i, one in enumerate(run_.scored)
    ]
    results["references"] = {other["truth"]["name"]: other for other in others}
    for one in (results, *others):
        if run_.weights:
            one["models"][ENSEMBLE]["weights"] = run_.weights
    results["settings"] = dataclasses.asdict(settings)
    return results


# The files that are always written, and what the others may be called.
_ALWAYS = ("predictions.csv", "report.json", "report.md")
_PLOT = re.compile(r"plots/([\w-]+/)?[\w.-]+\.(png|svg)")


def _write(args: argparse.Namespace, results: dict[str, Any], run_: _Run) -> None:
    """Write report.json, report.md, predictions.csv and the plots, in place of an earlier report.

    ``files`` of report.json lists them. Plots that only the earlier report lists are removed.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    images = []
    for i, one in enumerate(run_.scored):
        folder = Path("plots", one.truth.name) if i else Path("plots")
        figures = results["references"][one.truth.name] if i else results
        drawn = plots.draw_all(args.out / folder, figures, one.truth, one.models)
        images += [str(folder / image) for image in drawn]
    images += _training_plots(args)
    stems = [image.removesuffix(".png") for image in images]
    files = sorted([*_ALWAYS, *(f"{stem}.{suffix}" for stem in stems for suffix in plots.SUFFIXES)])
    _remove_plots(args.out, _files_of(args.out / "report.json") - set(files))
    results["files"] = files
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(args.out / "report.json", text)
    atomic_write(args.out / "report.md", report.markdown(results, images))
    first = run_.scored[0]
    atomic_write(args.out / "predictions.csv", predictions_csv(first.truth, first.models, args.key))


def _files_of(earlier: Path) -> set[str]:
    """The files that an earlier report lists; none if it is absent or damaged."""
    try:
        files = json.loads(earlier.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    return {file for file in files if isinstance(file, str)} if isinstance(files, list) else set()


def _remove_plots(folder: Path, files: Iterable[str]) -> None:
    """Remove plots from a report's folder; names of anything else, or elsewhere, are passed by."""
    for file in files:
        if not _PLOT.fullmatch(file):
            continue
        plot = folder / file
        if plot.is_file() and plot.parent.resolve().is_relative_to(folder.resolve()):
            plot.unlink()


def _training_plots(args: argparse.Namespace) -> list[str]:
    """Draw the training curves of the models whose folder holds a run's log."""
    drawn = []
    for reference, name in zip(args.model or (), _model_names(args.model or ()), strict=True):
        log = Path(reference, "log.jsonl")
        if log.exists():
            file = "training-" + re.sub(r"[^\w.]+", "-", name).strip("-")
            title = f"Training of {name}{_trained_films(log.parent)}"
            image = plots.training_curves(log, args.out / "plots", file, title)
            drawn += [f"plots/{image}"] if image else []
    return drawn


def _trained_films(folder: Path) -> str:
    """How many films a run's training and validation used, from its model folder; "" if unsaid."""
    splits = read_config(folder).get("cft", {}).get("provenance", {}).get("splits", {})
    counts = [splits.get(split, {}).get("films") for split in ("train", "valid")]
    return ", on {:,} films (validation: {:,})".format(*counts) if all(counts) else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description="Score models with intervals, compare them, and write one report.",
    )
    models = parser.add_argument_group("models")
    models.add_argument("--model", nargs="+", metavar="REF", help="model folders to run")
    models.add_argument(
        "--split",
        choices=("test", "valid", "train"),
        default="test",
        help="films to score (default: test)",
    )
    models.add_argument(
        "--films",
        choices=STUDY_RULES,
        default="max",
        help="how the films of a study are combined (default: max, CheXpert's rule)",
    )
    models.add_argument(
        "--batch-size", type=POSITIVE, default=32, help="films at a time (default: 32)"
    )
    add_dataset_arguments(parser)
    tables = parser.add_argument_group("tables of predictions")
    tables.add_argument(
        "--predictions",
        nargs="+",
        type=Path,
        metavar="CSV",
        help="scores: a row per film or study, a column per category; a file per model, or a "
        "column 'model'",
    )
    tables.add_argument("--truth", type=Path, metavar="CSV", help="labels 1, 0, blank (unknown)")
    tables.add_argument("--key", default="Study", help="column to join by (default: Study)")
    tables.add_argument(
        "--validation-predictions",
        nargs="+",
        type=Path,
        metavar="CSV",
        help="the same models on validation films: operating points and weights come from these",
    )
    tables.add_argument(
        "--validation-truth", type=Path, metavar="CSV", help="labels of the validation films"
    )
    readers = parser.add_argument_group("radiologists")
    readers.add_argument(
        "--radiologists", type=Path, metavar="DIR", help="one CSV of decisions for each reader"
    )
    ensemble = parser.add_argument_group("ensemble")
    ensemble.add_argument("--ensemble", choices=SPACES, help="add the models' combination")
    ensemble.add_argument(
        "--save-ensemble", type=Path, metavar="DIR", help="write it as a model folder"
    )
    ensemble.add_argument(
        "--ensemble-weights",
        choices=("equal", "greedy"),
        default="equal",
        help="greedy: forward selection on validation films",
    )
    figures = parser.add_argument_group("figures")
    figures.add_argument(
        "--subset",
        action="append",
        type=_named_subset,
        default=[],
        metavar="NAME=LABEL,LABEL",
        help="a further mean over categories",
    )
    figures.add_argument(
        "--unit",
        choices=("patient", "study"),
        default="patient",
        help="what the bootstrap draws (default: patient)",
    )
    figures.add_argument(
        "--replicates", type=POSITIVE, default=1000, help="of the bootstrap (default: 1000)"
    )
    figures.add_argument(
        "--seed", type=WHOLE, default=0, help="of the bootstrap and of drawn splits (default: 0)"
    )
    figures.add_argument(
        "--level", type=BETWEEN_ZERO_AND_ONE, default=0.95, help="of intervals (default: 0.95)"
    )
    figures.add_argument(
        "--threshold-rule",
        choices=RULES,
        default="youden",
        help="of operating points, the model folder's or those chosen here: the largest "
        "sensitivity + specificity, or the best F1 (%(default)s)",
    )
    figures.add_argument(
        "--optimistic-thresholds",
        action="store_true",
        help="choose operating points on the films that are scored; the report marks them",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the report"
    )
    return parser


def _check_usage(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if bool(args.model) == bool(args.predictions):
        parser.error("give either --model with --data, or --predictions with --truth")
    if bool(args.predictions) != bool(args.truth):
        parser.error("--predictions and --truth go together")
    if args.predictions and (args.data or args.dataset):
        parser.error("--data and --dataset go with --model; tables of predictions have --truth")
    if len(dict(args.subset)) < len(args.subset):
        parser.error("two of --subset have the same name")
    if args.save_ensemble and args.optimistic_thresholds:
        parser.error(
            "--save-ensemble writes figures into a model card, so it does not go with "
            "--optimistic-thresholds"
        )
    if args.model and args.validation_truth:
        parser.error("--validation-truth goes with --predictions; models have a split 'valid'")
    if bool(args.validation_predictions) != bool(args.validation_truth):
        parser.error("--validation-predictions and --validation-truth go together")
    if args.save_ensemble and not (args.model and args.ensemble in _SAVED_AS):
        parser.error("--save-ensemble needs --model with --ensemble mean or logits")
    if args.ensemble_weights == "greedy" and not args.ensemble:
        parser.error("--ensemble-weights greedy needs --ensemble")
    if args.ensemble_weights == "greedy" and args.predictions and not args.validation_truth:
        parser.error(
            "--ensemble-weights greedy needs --validation-predictions: weights are never "
            "chosen on the films that are scored"
        )


def _named_subset(text: str) -> tuple[str, list[str]]:
    name, _, members = text.partition("=")
    labels = [label.strip() for label in members.split(",") if label.strip()]
    if not name or not labels:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=LABEL,LABEL")
    if name in named_subsets(CHEXPERT_5):
        raise argparse.ArgumentTypeError(f"{name!r} is a subset that every report has already")
    if len(set(labels)) < len(labels):
        raise argparse.ArgumentTypeError(f"{text!r} names a category twice")
    return name, labels


if __name__ == "__main__":
    sys.exit(main())
