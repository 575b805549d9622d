"""Stage 2: category-wise fine-tuning. ``python -m train.cft``

The backbone of a trained model is frozen and the features of every film are computed once; then
the logistic regression of each category is re-fitted on *known labels only*, an uncertain mark
being as unknown as a blank. The result is a model folder whose other tensors are the parent's, byte
for byte.

Splits, hidden labels and categories are those of the parent's own run, which its ``config.json``
records; only where the data lies has to be said. Validation films choose and calibrate, test films
only measure. A run that is stopped keeps what is finished; ``--resume`` goes on with the rest.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import io
import json
import logging
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cft.classifier import Classifier
from cft.model_folder import (
    ModelFolder,
    atomic_write,
    read_model_folder,
    write_model_folder,
)
from train import refit, report
from train.checkpoint import CheckpointError
from train.command import POSITIVE, WHOLE, Stopped, exit_code
from train.datasets import add_dataset_arguments, dataset_from_arguments, read_dataset
from train.distributed import processes
from train.export import calibrate, evaluate, provenance_of, rounded, test_tables
from train.features import Features, features_of, linear_head
from train.figures import calibration_figures, compare_scores, sigmoid
from train.genetic import Evolution, Genetic
from train.gradient import Descent, descend
from train.labels import LabelTable
from train.losses import loss_named
from train.negative import (
    ERRORS,
    Stop,
    films_of,
    place_of_data,
    prepare_folder,
    rows_of_splits,
)
from train.push import (
    PUSH_OPTIONS,
    add_push_arguments,
    check_login,
    push_from_arguments,
)
from train.ranking import METRICS
from train.refit import STRENGTHS, Refitter, basis_of, choose
from train.settings import TrainingError, Work, command_of
from train.statistics import bootstrap_auroc

logger = logging.getLogger("train.cft")

METHODS = ("auto", "ga", "gradient", "greedy")
PRESETS = {"paper": {"method": "greedy"}}

# What belongs to one machine, not to the run.
_MACHINE = ("model", "out", "resume", "device", "cache", "workers", "threads", *PUSH_OPTIONS)

# Generations of the genetic algorithm that all categories choose among: every one at first, where
# a step changes much of what is still to be had, then ever fewer.
_PLACES = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 39)

# How often an unfinished search is written down.
_KEEP_SECONDS = 60.0

_DATA = ("dataset", "known", "labels", "view", "min_width", "valid", "test", "shared_patients")
_DATA += ("map", "phantoms", "phantom_size", "missing")


@dataclass(frozen=True)
class Films:
    """The films of one split as stage 2 sees them.

    Attributes
    ----------
    table
        n films with their labels; NaN is unknown.
    z
        (n, D) float32 features.
    """

    table: LabelTable
    z: np.ndarray

    def logits(self, weights: np.ndarray, biases: np.ndarray) -> np.ndarray:
        """(n, C) float32."""
        return self.z @ weights.T + biases


@dataclass(frozen=True)
class Tuned:
    """What a method made of the logistic regressions.

    Attributes
    ----------
    weights, biases
        (C, D) and (C,) float32.
    methods
        (C,) whose regression each category has: "original" or a method's name.
    valid_scores
        (M, C) logits of the validation films that are fit to choose and calibrate by: where a
        method fits validation films too, each film's are from a fit without its patient.
    notes
        Facts for the report.
    """

    weights: np.ndarray
    biases: np.ndarray
    methods: list[str]
    valid_scores: np.ndarray
    notes: dict[str, Any]


class Finished:
    """Parts of the work that are done, in one file, so that a stopped run can go on.

    Parameters
    ----------
    path
        The file; it need not be there.
    made_from
        Names model and films; parts of other ones are refused.

    Raises
    ------
    CheckpointError
        If the file is not readable, or holds parts made from something else.
    """

    def __init__(self, path: Path, made_from: str):
        self._path, self._facts = path, {"made_from": made_from}
        self._arrays: dict[str, np.ndarray] = {}
        if not path.exists():
            return
        try:
            with safetensors.safe_open(path, framework="np") as file:
                found = file.metadata() or {}
                self._arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{path} is not a readable checkpoint ({error})") from error
        if found.get("made_from") != made_from:
            raise CheckpointError(
                f"{path} was made from another model, other films or other labels; choose another "
                "--out"
            )

    def get(self, part: str) -> dict[str, np.ndarray] | None:
        """The arrays of a part, or None if it is still to do."""
        start = f"{part}/"
        found = {k.removeprefix(start): v for k, v in self._arrays.items() if k.startswith(start)}
        return found or None

    def keep(
        self, part: str, arrays: Mapping[str, np.ndarray], instead_of: str | None = None
    ) -> None:
        """Write the arrays of a part beside those already there, or in place of some part's."""
        if instead_of is not None:
            start = f"{instead_of}/"
            self._arrays = {k: x for k, x in self._arrays.items() if not k.startswith(start)}
        self._arrays |= {f"{part}/{name}": np.ascontiguousarray(x) for name, x in arrays.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self._path, safetensors.numpy.save(self._arrays, self._facts))


class Tuner:
    """The methods, on the features of one model.

    Parameters
    ----------
    features
        Of all films, with the trained logistic regressions.
    train, valid
        The films to fit and to choose by.
    options
        The command line.
    finished
        What is done already.
    stop
        Says whether the user asked for the end.
    device
        Where to compute.
    """

    def __init__(
        self,
        features: Features,
        train: Films,
        valid: Films,
        options: argparse.Namespace,
        finished: Finished,
        stop: Stop,
        device: torch.device,
    ):
        self.train, self.valid, self.options = train, valid, options
        self.weights, self.biases = features.weights, features.biases
        self.label_names = train.table.label_names
        self.skipped = why_skipped(train.table, valid.table)
        self.columns = [c for c, x in enumerate(self.label_names) if x not in self.skipped]
        self._finished, self._stop, self._device = finished, stop, device
        self.trained_scores = valid.logits(self.weights, self.biases)
        #: Category -> (G, 3) of its search: the generation's best and mean fitness, and validation.
        self.history: dict[str, np.ndarray] = {}

    def tune(self) -> Tuned:
        """Run the method that the options name."""
        method = self.options.method
        if method == "auto":
            return self._together(self.paths(), "penalty", STRENGTHS)
        if method == "ga" and self.options.preset != "paper":
            return self._together(self.search_paths(), "generation", _PLACES)
        names = {"greedy": ("gradient", "ga")}.get(method, (method,))
        run = {"gradient": self._gradient, "ga": self._ga}
        return self._best_by_validation({name: run[name]() for name in names})

    def _together(
        self, paths: Mapping[int, refit.Path], what: str, steps: Sequence[float]
    ) -> Tuned:
        """The step that all categories choose together, as far as the evidence goes.

        See `train.refit`; `what` the steps are is for the report.
        """
        weights, biases = self.weights.copy(), self.biases.copy()
        scores, methods = self.trained_scores.copy(), ["original"] * len(biases)
        if not paths:
            return Tuned(weights, biases, methods, scores, {})
        y, patients = self.valid.table.y, self.valid.table.patients
        choice = choose(paths, scores, y, patients, self.options.fitness, self.options.seed)
        if choice.share > 0:
            for c, path in paths.items():
                trained = weights[c], biases[c], scores[:, c]
                weights[c], biases[c], scores[:, c] = path.towards(choice, *trained)
                methods[c] = self.options.method
        notes = {
            "chosen_among": what,
            "steps": list(steps),
            "gains": choice.gains.tolist(),
            "errors": choice.errors.tolist(),
            "chosen": None if choice.index is None else steps[choice.index],
            "share": choice.share,
        }
        return Tuned(weights, biases, methods, scores, notes)

    def paths(self) -> dict[int, refit.Path]:
        """Column -> path of each category that has known labels of both kinds."""
        paths, refitter = {}, None
        for c in self._shown(self.columns, "auto"):
            found = self._finished.get(f"auto/{c}")
            if found is None:
                refitter = refitter or Refitter(
                    *(self.train.z, self.valid.z, self.valid.table.patients),
                    *(self.weights, self.biases, self.options.seed, self._device),
                )
                path = refitter.path(c, self.train.table.y[:, c], self.valid.table.y[:, c])
                self._finished.keep(f"auto/{c}", vars(path))
                found = vars(path)
            paths[c] = refit.Path(**found)
            self._stop_if_asked()
        return paths

    def search_paths(self) -> dict[int, refit.Path]:
        """Column -> what the genetic algorithm passes; it never sees a validation label."""
        paths = {}
        for c in self._shown(self.columns, "ga"):
            found = self._finished.get(f"ga-path/{c}")
            if found is None:
                search = self._evolution(c)
                self._evolve(search, c)
                passed = torch.stack([search.path[place] for place in _PLACES])
                found = {"weights": passed.numpy(force=True), "history": search.history_array()}
                self._finished.keep(f"ga-path/{c}", found, instead_of=f"ga-state/{c}")
            weights, self.history[self.label_names[c]] = found["weights"], found["history"]
            biases = np.full(len(weights), self.biases[c])
            paths[c] = refit.Path(weights, biases, weights @ self.valid.z.T + self.biases[c])
        return paths

    def _gradient(self) -> tuple[np.ndarray, np.ndarray]:
        """The method of `train.gradient`: weights (C, D) and biases (C,)."""
        weights, biases = self.weights.copy(), self.biases.copy()
        for c in self._shown(self.columns, "gradient"):
            found = self._finished.get(f"gradient/{c}")
            if found is None:
                descent = self._descend(c)
                self._stop_if_asked()
                found = {
                    "weights": descent.weights.numpy(force=True),
                    "biases": descent.biases.numpy(force=True),
                }
                self._finished.keep(f"gradient/{c}", found)
            weights[c], biases[c] = found["weights"][0], found["biases"][0]
        return weights, biases

    def _descend(self, c: int) -> Descent:
        with self._steps(c, "epoch") as bar:

            def watch(validation: float) -> bool:
                bar.set_postfix_str(f"validation {validation:.4f}", refresh=False)
                bar.update()
                return self._stop.asked

            return descend(
                *(self._train_z, self._tensor(self.train.table.y[:, [c]])),
                *(self._tensor(self.weights[[c]]), self._tensor(self.biases[[c]])),
                z_valid=self._valid_z,
                y_valid=self._tensor(self.valid.table.y[:, [c]]),
                loss=loss_named(self.options.loss),
                metric=self.options.fitness,
                watch=watch,
            )

    def _ga(self) -> tuple[np.ndarray, np.ndarray]:
        """The method of `train.genetic`; the biases are not in the genome."""
        weights = self.weights.copy()
        for c in self._shown(self.columns, "ga"):
            found = self._finished.get(f"ga/{c}")
            if found is None:
                search = self._evolution(c)
                self._evolve(search, c)
                found = {
                    "weights": search.weights.numpy(force=True),
                    "history": search.history_array(),
                }
                self._finished.keep(f"ga/{c}", found, instead_of=f"ga-state/{c}")
            weights[c], self.history[self.label_names[c]] = found["weights"], found["history"]
        return weights, self.biases.copy()

    def _evolution(self, c: int) -> Evolution:
        """The search for one category, at its beginning or where it was stopped."""
        published = self.options.preset == "paper"
        search = Evolution(
            *(self._train_z, self._tensor(self.train.table.y[:, c])),
            self._tensor(self.weights[c]),
            z_valid=self._valid_z,
            y_valid=self._tensor(self.valid.table.y[:, c]),
            settings=Genetic.paper() if published else Genetic(),
            metric=self.options.fitness,
            # By name: the result must not depend on the order of the categories.
            seed=self.options.seed + zlib.crc32(self.label_names[c].encode()),
            basis=None if published else self._basis,
        )
        state = self._finished.get(f"ga-state/{c}")
        if state is not None:
            try:
                search.resume({name: torch.from_numpy(x) for name, x in state.items()})
            except ValueError as error:
                raise CheckpointError(
                    f"{self.label_names[c]}: {error}; choose another --out"
                ) from None
        return search

    def _evolve(self, search: Evolution, c: int) -> None:
        """Run a search to its end, keeping where it is."""
        kept = time.monotonic()
        with self._steps(c, "generation") as bar:
            while not search.done:
                search.step()
                bar.set_postfix_str(f"validation {search.validation:.4f}", refresh=False)
                bar.update()
                if self._stop.asked or time.monotonic() - kept > _KEEP_SECONDS:
                    state = {name: x.numpy() for name, x in search.state().items()}
                    self._finished.keep(f"ga-state/{c}", state)
                    kept = time.monotonic()
                self._stop_if_asked()

    def _best_by_validation(self, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Tuned:
        """For each category the best regression on validation; the trained one unless beaten."""
        weights, biases = self.weights.copy(), self.biases.copy()
        methods, scores = ["original"] * len(biases), self.trained_scores.copy()
        best = self.validation(scores)
        for name, (its_weights, its_biases) in found.items():
            its_scores = self.valid.logits(its_weights, its_biases)
            measured = self.validation(its_scores)
            for c in self.columns:
                if measured[c] > best[c]:
                    best[c], methods[c] = measured[c], name
                    weights[c], biases[c] = its_weights[c], its_biases[c]
                    scores[:, c] = its_scores[:, c]
        return Tuned(weights, biases, methods, scores, {})

    @cached_property
    def _train_z(self) -> torch.Tensor:
        return self._tensor(self.train.z)

    @cached_property
    def _valid_z(self) -> torch.Tensor:
        return self._tensor(self.valid.z)

    @cached_property
    def _basis(self) -> torch.Tensor:
        """Of all training films, for the searches of all categories."""
        return basis_of(self._train_z - self._train_z.mean(0))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def validation(self, scores: np.ndarray) -> np.ndarray:
        """(C,) the metric that decides, on validation films."""
        columns = np.ascontiguousarray(scores.T), np.ascontiguousarray(self.valid.table.y.T)
        return METRICS[self.options.fitness](*columns).numpy()

    def _shown(self, columns: list[int], what: str) -> tqdm:
        return tqdm(columns, desc=what, unit="category", disable=None)

    def _steps(self, c: int, unit: str) -> tqdm:
        """Progress of the work on one category, below that over the categories."""
        return tqdm(desc=self.label_names[c], unit=unit, leave=False, position=1, disable=None)

    def _stop_if_asked(self) -> None:
        if self._stop.asked:
            raise Stopped


def why_skipped(train: LabelTable, valid: LabelTable) -> dict[str, str]:
    """Category -> why it keeps its trained regression: a class without a known label."""
    skipped = {}
    for c, label in enumerate(train.label_names):
        for table, side in ((train, "training"), (valid, "validation")):
            for value, kind in ((1, "positive"), (0, "negative")):
                if not (table.y[:, c] == value).any():
                    skipped.setdefault(label, f"no known {kind} {side} film")
    return skipped


# --- The result -------------------------------------------------------------------------------


def finish(
    tuner: Tuner,
    tuned: Tuned,
    test: Films,
    others: Sequence[LabelTable],
    parent: ModelFolder,
    provenance: Mapping[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Calibrate, measure both stages on the test films, write model folder and report.

    Returns
    -------
    dict
        What ``report.json`` holds.
    """
    before = calibrate(tuner.trained_scores, tuner.valid.table)
    after = calibrate(tuned.valid_scores, tuner.valid.table)
    scores = test.logits(tuner.weights, tuner.biases), test.logits(tuned.weights, tuned.biases)
    metrics = {
        table.dataset: both_stages(scores[0][rows], scores[1][rows], table, before, after)
        for table, rows in test_tables(test.table, others)
    }
    methods = dict(zip(tuner.label_names, tuned.methods, strict=True))
    config = copy.deepcopy(parent.config)
    config["cft"] = {
        **config.get("cft", {}),
        "categories": after,
        "provenance": {**provenance, "methods": methods},
        "metrics": rounded(metrics),
    }
    write_model_folder(
        out,
        state_dict=with_head(parent, tuned.weights, tuned.biases),
        config=config,
        card=report.model_card(config),
    )
    results = {
        "method": tuner.options.method,
        "fitness": tuner.options.fitness,
        "parent": parent.weights_sha256,
        **tuned.notes,
        "categories": categories_of(tuner, tuned),
        "metrics": metrics,
    }
    atomic_write(out / "report.json", json.dumps(results, indent=2) + "\n")
    if tuner.history:
        atomic_write(out / "search.csv", search_csv(tuner.history))
    return results


def search_csv(history: Mapping[str, np.ndarray]) -> str:
    """A line for each category and generation of the genetic algorithm; 0 is the beginning."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["category", "generation", "best", "mean", "validation"])
    for label, rows in history.items():
        table.writerows([label, g, *(f"{x:.6f}" for x in row)] for g, row in enumerate(rows))
    return text.getvalue()


def both_stages(
    first: np.ndarray,
    second: np.ndarray,
    table: LabelTable,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> dict[str, Any]:
    """Figures of stage 2 with those of stage 1 beside them.

    Parameters
    ----------
    first, second
        (N, C) logits of the two stages on test films.
    table
        The N films.
    before, after
        Calibrations of the two stages, from `train.export.calibrate`.

    Returns
    -------
    dict
        `train.report.evaluate_scores` of stage 2, and in it ``stage_1`` (the same of stage 1,
        shorter), ``change`` (paired, see `train.figures.compare_scores`) and ``uncalibrated``
        (Brier score and calibration error of stage 2 before Platt scaling).
    """
    labels, groups = table.y.astype(np.float64), table.patients
    draws = [bootstrap_auroc(scores, labels, groups) for scores in (second, first)]
    stage_1 = evaluate(first, table, before)
    kept = ("auroc", "ci_low", "ci_high", "ap", "brier", "ece")
    raw = sigmoid(second)
    return {
        **evaluate(second, table, after),
        "stage_1": {
            "subsets": stage_1["subsets"],
            "categories": {
                label: {key: row[key] for key in kept}
                for label, row in stage_1["categories"].items()
            },
        },
        "change": compare_scores(
            ("stage 2", second, draws[0]),
            ("stage 1", first, draws[1]),
            *(labels, groups, table.label_names),
        ),
        "uncalibrated": {
            label: calibration_figures(raw[:, c], labels[:, c])
            for c, label in enumerate(table.label_names)
        },
    }


def categories_of(tuner: Tuner, tuned: Tuned) -> dict[str, Any]:
    """Category -> known labels, the metric on validation before and after, and what was done."""
    scores = (tuner.trained_scores, tuned.valid_scores)
    before, after = (tuner.validation(x) for x in scores)
    rows = {}
    for c, label in enumerate(tuner.label_names):
        y, y_valid = tuner.train.table.y[:, c], tuner.valid.table.y[:, c]
        rows[label] = {
            "positives": int((y == 1).sum()),
            "negatives": int((y == 0).sum()),
            "valid_positives": int((y_valid == 1).sum()),
            "valid_negatives": int((y_valid == 0).sum()),
            "valid_before": _plain(before[c]),
            "valid_after": _plain(after[c]),
            "method": tuned.methods[c],
            "skipped": tuner.skipped.get(label),
        }
    return rows


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def with_head(
    parent: ModelFolder, weights: np.ndarray, biases: np.ndarray
) -> dict[str, torch.Tensor]:
    """The parent's tensors with other logistic regressions."""
    network = Classifier(parent, "cpu").network
    head = network.get_classifier()
    name = next(name for name, module in network.named_modules() if module is head)
    return {
        **parent.state_dict,
        f"{name}.weight": torch.from_numpy(weights).to(head.weight).reshape(head.weight.shape),
        f"{name}.bias": torch.from_numpy(biases).to(head.bias),
    }


# --- The command ------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, ModelFolder, dict[str, Any]]:
    """The command line -> options, the parent, and what the parent was trained with.

    What shapes the data has the parent's values as defaults, so any option given here wins.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    parent = read_model_folder(options.model)
    origin = parent.config.get("cft", {}).get("provenance", {})
    # The data's own seed is that of stage 1, also of a model that has been through stage 2.
    trained_with = origin.get("stage_1", origin).get("arguments", {})
    parser.set_defaults(
        **{name: trained_with[name] for name in _DATA if name in trained_with and name != "map"},
        **{name: trained_with.get(name) for name in ("judge_width", "also_test")},
    )
    if options.preset:
        parser.set_defaults(**PRESETS[options.preset])
    options = parser.parse_args(argv)
    options.map = options.map or trained_with.get("map", [])
    try:
        loss_named(options.loss)
    except ValueError as error:
        parser.error(str(error))
    trained_on = origin.get("dataset")
    if options.out.resolve() == options.model.resolve():
        parser.error(f"--out {options.out} is the model itself; choose another folder")
    if options.data is None and trained_on != "phantoms":
        options.data = place_of_data(options.model)
    if options.data is None and trained_on is None:
        parser.error(f"{options.model} does not say what it was trained on: name it with --data")
    if options.data is None and trained_on != "phantoms":
        parser.error(f"{options.model} was trained on {trained_on}: say where it is, --data")
    values = {**PRESETS.get(options.preset, {}), "map": trained_with.get("map", [])}
    options.command = command_of(
        "python -m train.cft --model MODEL", parser, options, _MACHINE, options.preset, values
    )
    return options, parent, trained_with


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.cft",
        description="Stage 2: fine-tune a model's logistic regressions category by category, on "
        "known labels only. Options of the data are those that the model was trained with; so is "
        "--data, its place, if the model is a run of stage 1 on this machine.",
    )
    add = parser.add_argument
    add("--model", type=Path, default=Path("runs/negative"), help="model folder (%(default)s)")
    add("--out", type=Path, default=Path("runs/cft"), help="folder of the result (%(default)s)")
    add(
        "--method",
        choices=METHODS,
        default="auto",
        help="auto: one penalised refit for all, its strength chosen by cross-validation; ga: a "
        "search for the best metric, as far as all categories gain by it together; gradient: "
        "descent, per category the best epoch by validation; greedy: per category the best by "
        "validation of gradient, ga and the original (%(default)s)",
    )
    add("--preset", choices=list(PRESETS), help="paper: the published method, greedy with its GA")
    add("--fitness", choices=list(METRICS), default="auroc", help="metric (%(default)s)")
    add("--loss", default="bce", help="of the gradient: bce, or asl:gamma_negative=,... (bce)")
    add(
        "--seed",
        type=WHOLE,
        default=0,
        help="of folds and GA; the data keeps its own (%(default)s)",
    )
    add(
        "--judge-width",
        type=WHOLE,
        default=0,
        metavar="PIXELS",
        help="validate and test only on films stored at least this wide (default: the model's)",
    )
    add("--also-test", metavar="NAME", help="reader of further labels of the data to test on")
    add("--resume", action="store_true", help="go on with what is finished")
    add("--device", help='such as "cpu" or "cuda" (default: a GPU if there is one)')
    add("--cache", type=Path, help="folder of packed films and features (default: beside --out)")
    add("--workers", type=POSITIVE, help="processes that pack films (default: one a core)")
    add("--threads", type=POSITIVE, help="CPU threads (default: PyTorch's choice)")
    add_dataset_arguments(parser)
    add_push_arguments(parser)
    return parser


def work_through(argv: Sequence[str] | None) -> None:
    """The whole of ``python -m train.cft``."""
    options, parent, trained_with = parse(argv)
    refuse_fine_tuned(options.model, parent)
    check_login(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger().setLevel(logging.INFO)
    with processes(options.device) as here, logging_redirect_tqdm():
        table = the_parents_table(options, parent, trained_with)
        others = [read_dataset(options.also_test, options.data)] if options.also_test else []
        others = [other.with_labels(table.label_names) for other in others]
        classifier = Classifier(parent, here.device)
        linear_head(classifier)  # a model without one is refused before its films are packed
        cache = options.cache or options.out.parent
        work = Work(
            out=options.out,
            resume=options.resume,
            cache=cache / "pixels",
            workers=options.workers,
        )
        arguments = arguments_of(options)
        prepare_folder(work, {**arguments, "parent": parent.weights_sha256}, options.data)
        pixels = films_of(table, classifier.preprocess, work, here)
        rows = rows_of_splits(table, pixels, options.judge_width or 0)
        warn_of_other_films(parent, len(rows["train"]))
        refuse_overlap(table, rows)
        features = features_of(classifier, pixels, cache / "features")
        sides = {side: Films(table.subset(r), features.z[r]) for side, r in rows.items()}
        finished = Finished(work.last, made_from(features, sides))
        with Stop() as stop:
            tuner = Tuner(
                *(features, sides["train"], sides["valid"]),
                *(options, finished, stop, here.device),
            )
            for label, reason in tuner.skipped.items():
                logger.info("%s keeps its trained regression: %s", label, reason)
            tuned = tuner.tune()
        results = finish(
            *(tuner, tuned, sides["test"], others, parent),
            provenance=provenance(options, arguments, table, rows, parent),
            out=options.out,
        )
    print(report.fine_tuning(results))
    print(f"wrote the model folder {options.out}")
    push_from_arguments(options, options.out)


def the_parents_table(
    options: argparse.Namespace, parent: ModelFolder, trained_with: Mapping[str, Any]
) -> LabelTable:
    """The films that the parent was trained on, with its splits and its categories."""
    table = dataset_from_arguments(options, trained_with.get("seed", 0))
    for note in table.notes:
        logger.info("%s", note)
    return table.with_labels(parent.label_names)


def refuse_fine_tuned(name: Path, parent: ModelFolder) -> None:
    """Raise if stage 2 has changed the parent already.

    It was fitted to, or chosen by, validation films; on these its scores are too good, and what
    they would choose and calibrate now would be wrong.
    """
    methods = parent.config.get("cft", {}).get("provenance", {}).get("methods", {})
    if set(methods.values()) - {"original"}:
        raise TrainingError(
            f"{name} has been through stage 2, so its validation films can judge nothing more; "
            "begin from the model of stage 1"
        )


def warn_of_other_films(parent: ModelFolder, films: int) -> None:
    """Say so if the parent was trained on another number of films."""
    splits = parent.config.get("cft", {}).get("provenance", {}).get("splits", {})
    trained = splits.get("train", {}).get("films", films)
    if trained != films:
        logger.warning(
            "%d training films are here, and the parent was trained on %d: unless it is the same "
            "data, films that trained it may test it",
            *(films, trained),
        )


def made_from(features: Features, sides: Mapping[str, Films]) -> str:
    """Names what decides a fit: weights, pixels, and the films and labels that fit and choose."""
    digest = hashlib.sha256(features.key.encode())
    for side in ("train", "valid"):
        table = sides[side].table
        digest.update(np.nan_to_num(table.y, nan=-1).tobytes())
        digest.update(json.dumps([side, table.names.tolist(), table.patients.tolist()]).encode())
    return digest.hexdigest()[:16]


def refuse_overlap(table: LabelTable, rows: Mapping[str, np.ndarray]) -> None:
    """Raise if a patient's films are both chosen by and measured on, or nothing can choose."""
    if not len(rows["valid"]):
        raise TrainingError("there are no validation films, so nothing can be chosen or calibrated")
    people = {side: set(table.patients[r].tolist()) for side, r in rows.items()}
    for first, second in (("valid", "test"), ("train", "valid"), ("train", "test")):
        shared = people[first] & people[second]
        if shared:
            raise TrainingError(
                f"{len(shared)} patients have films in {first} and in {second}, so what is "
                "measured would be too good; leave --shared-patients at skip"
            )


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options that decide the result, as JSON."""
    left_out = {*_MACHINE, "data", "command"}
    return {
        name: value if isinstance(value, (int, float, list, type(None))) else str(value)
        for name, value in sorted(vars(options).items())
        if name not in left_out
    }


def provenance(
    options: argparse.Namespace,
    arguments: Mapping[str, Any],
    table: LabelTable,
    rows: Mapping[str, np.ndarray],
    parent: ModelFolder,
) -> dict[str, Any]:
    """Where the model comes from: this stage, and in ``stage_1`` what stage 1 says of itself."""
    before = parent.config.get("cft", {}).get("provenance", {})
    told = ("command", "label_policy", "seed", "best_epoch", "arguments", "versions", "date")
    return {
        **provenance_of(table, rows),
        "stage": "cft",
        "parent": parent.weights_sha256,
        "command": options.command,
        "arguments": dict(arguments),
        "seed": options.seed,
        "label_policy": {"unknown": "ignore", "uncertain": "ignore", "overrides": {}},
        # A parent that stage 2 left as it was says what its own parent was.
        "stage_1": before.get("stage_1") or {key: before[key] for key in told if key in before},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 failed; wrong usage exits with 2)."""
    return exit_code(
        *("train.cft", lambda: work_through(argv), *ERRORS),
        interrupted="add --resume to go on",
    )


if __name__ == "__main__":
    sys.exit(main())
