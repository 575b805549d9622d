"""Run models on the films of a data set, for every truth that the films have."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cft
from train.datasets import DataOptions, table_of
from train.datasets.labels import LabelTable
from train.errors import EvaluationError
from train.evaluation.boxes import Boxes, film_id, read_boxes
from train.evaluation.explained import cannot
from train.evaluation.films import Chosen, choose
from train.evaluation.group_columns import of_films, table_of_groups
from train.evaluation.score_tables import read_readers
from train.evaluation.scored import (
    Evaluated,
    Scored,
    with_ensemble,
    with_notes,
    with_points,
    without_ranks,
)
from train.evaluation.seen import Origin, origins_of, seen_in_validation, with_warnings
from train.evaluation.shift import named_as_here

# --- Models -------------------------------------------------------------------------------------

# Data set -> (reader of other labels for some of its films, the file that holds them).
_OTHER_LABELS = {"nih": ("nih-experts", "expert_labels.csv")}


def run_models(args: argparse.Namespace, data: DataOptions) -> Evaluated:
    """Run the models on the data set, for every truth that its films have."""
    # Tables of predictions are scored without waiting for the import of networks.
    from train.evaluation.controls import (
        cross_fitted_control,
        metadata_control,
        shuffled_control,
        shuffled_runs,
    )
    from train.evaluation.inference import predictions_of, readable, run, truth_of

    names = model_names(args.model)
    classifiers = {name: cft.load(ref) for name, ref in zip(names, args.model, strict=True)}
    origins = {
        name: origins_of(model, ref)
        for (name, model), ref in zip(classifiers.items(), args.model, strict=True)
    }
    chosen = choose(args, data, origins)
    table = chosen.table
    tables = [chosen.films, *_other_labels(chosen)]
    held_out = _validation_films(args, chosen)
    trained = table.subset(table.split == "train")
    _check_labels(classifiers, table)
    boxes = _read_boxes(args, chosen.films)
    grouped = table_of_groups(args, data.data)
    tables = [of_films(one, grouped, args.group_column, args.key) for one in tables]
    shuffled = shuffled_runs(args.shuffled, args.model if args.controls else [])
    _check_maps(args.maps, classifiers)
    everything = [*tables, *held_out]
    films = {
        name: run(model, everything, args.batch_size, boxes, args.maps)
        for name, model in classifiers.items()
    }
    tables = [readable(one, list(films.values())) for one in tables]

    def score(one: LabelTable) -> Scored:
        one = readable(one, list(films.values()))
        models = [
            predictions_of(
                *(name, classifiers[name], films[name], one, args.films, args.threshold_rule)
            )
            for name in names
        ]
        models = [
            with_warnings(m, origins[m.name], one, chosen.splits, chosen.split) for m in models
        ]
        return Scored(truth_of(one, args.films, args.unit, args.group_column), models)

    validation = score(held_out[0]) if held_out else None
    further = [_on_another(path, args, data, classifiers, origins) for path in args.shift]
    scored = [*(score(one) for one in tables), *further]
    scored, validation, weights = with_ensemble(scored, validation, args)
    scored, shifts = scored[: len(tables)], scored[len(tables) :]
    if held_out:
        notes = seen_in_validation(origins, held_out[0], chosen.splits)
        scored = [with_notes(one, notes) for one in scored]
    if validation:
        rule = args.threshold_rule or "specificity"  # as a run chooses the points of its model
        scored = [without_ranks(with_points(one, validation, rule), args) for one in scored]
    if args.controls:
        # Of films that trained a control, and where none did, it guesses each from the others.
        inside = not len(trained) or chosen.split in ("train", "all")
        controls = [
            cross_fitted_control(one.truth, _predicted(one))
            if inside
            else metadata_control(trained, of, args.films)
            for one, of in zip(scored, tables, strict=True)
        ]
        scored = [
            replace(one, models=[*one.models, control])
            for one, control in zip(scored, controls, strict=True)
        ]
    for reference in shuffled:
        add = shuffled_control(reference, tables, args.batch_size, args.films)
        scored = [replace(s, models=[*s.models, m]) for s, m in zip(scored, add, strict=True)]
    readers = read_readers(args.radiologists, scored[0].truth, args.key)
    patients = dict(zip(map(film_id, table.names), map(str, table.patients), strict=True))
    configs = [model.config for model in classifiers.values()]
    return Evaluated(scored, readers, weights, boxes, configs, patients, shifts)


def _predicted(one: Scored) -> list[str]:
    """The categories that some model predicts."""
    return [label for model in one.models for label in model.label_names]


def _on_another(
    path: Path,
    args: argparse.Namespace,
    data: DataOptions,
    classifiers: Mapping[str, cft.Classifier | cft.Ensemble],
    origins: Mapping[str, Sequence[Origin]],
) -> Scored:
    """The models on a further data set: its test films; all, if it names no split."""
    from train.evaluation.inference import predictions_of, readable, run, truth_of

    asked = argparse.Namespace(**{**vars(args), "split": None, "given": {"data"}})
    chosen = choose(asked, DataOptions(data=path, view=data.view), origins)
    table = chosen.films
    names = named_as_here(table.label_names, dict(args.shift_map), table.dataset)
    table = replace(table, label_names=names)
    _check_labels(classifiers, table)
    films = {name: run(model, [table], args.batch_size) for name, model in classifiers.items()}
    table = readable(table, list(films.values()))
    models = [
        with_warnings(
            predictions_of(name, model, films[name], table, args.films, args.threshold_rule),
            *(origins[name], table, chosen.splits, chosen.split),
        )
        for name, model in classifiers.items()
    ]
    truth = truth_of(table, args.films, args.unit)
    return Scored(replace(truth, name=f"{table.dataset} ({path.name})"), models)


def _read_boxes(args: argparse.Namespace, films: LabelTable) -> Boxes | None:
    """The boxes of --boxes; those of films that are not scored only help to choose the floor."""
    if args.boxes is None:
        return None
    boxes = read_boxes(args.boxes, args.box_side)
    if not boxes.films & set(map(film_id, films.names)):
        raise EvaluationError(f"{args.boxes} has no box on any film that is scored")
    return boxes


def _check_maps(
    kinds: Sequence[str], classifiers: Mapping[str, cft.Classifier | cft.Ensemble]
) -> None:
    """Refuse, before any film is read, kinds of maps that a model cannot draw."""
    for name, classifier in classifiers.items():
        for kind in kinds:
            if why := cannot(classifier, kind):
                raise EvaluationError(f"{name} has no maps of the kind {kind!r}: {why}")


def _other_labels(chosen: Chosen) -> list[LabelTable]:
    """Further truths for the films, where the data set comes with them."""
    reader, file = _OTHER_LABELS.get(chosen.table.dataset, ("", ""))
    data = chosen.data
    if chosen.split != "test" or not reader or not data.data:
        return []
    folder = data.data if data.data.is_dir() else data.data.parent
    if not (folder / file).exists():
        return []
    return [table_of(replace(data, dataset=reader), chosen.seed)]


def _validation_films(args: argparse.Namespace, chosen: Chosen) -> list[LabelTable]:
    """The split that an ensemble's weights and operating points are chosen on; [] if not needed."""
    films = chosen.table.subset(chosen.table.split == "valid")
    usable = len(films) > 0 and chosen.split not in ("valid", "all")
    if args.ensemble_weights == "greedy" and not usable:
        raise EvaluationError(
            "greedy weights are chosen on the split 'valid', which must have films and cannot be "
            "among those that are scored"
        )
    return [films] if args.ensemble and usable else []


def model_names(references: Sequence[str]) -> list[str]:
    """The folders' own names; the whole references where these are not distinct."""
    names = [Path(reference).resolve().name for reference in references]
    names = names if len(set(names)) == len(names) else list(references)
    if len(set(names)) < len(names):
        raise EvaluationError("a model is named twice after --model")
    return names


def _check_labels(
    classifiers: Mapping[str, cft.Classifier | cft.Ensemble], table: LabelTable
) -> None:
    for name, classifier in classifiers.items():
        if not set(classifier.label_names) & set(table.label_names):
            raise EvaluationError(
                f"{name} predicts no category of the data set {table.dataset!r}, which has "
                f"{', '.join(table.label_names)}"
            )
