"""The methods of stage 2, on the features of one model."""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from train.command import Stop
from train.datasets.labels import LabelTable
from train.errors import CheckpointError, Stopped
from train.losses import loss_named
from train.metrics.ranking import METRICS
from train.stage2 import refit
from train.stage2.features import Features
from train.stage2.finished import Finished
from train.stage2.genetic import Evolution, Genetic
from train.stage2.gradient import Descent, descend
from train.stage2.refit import STRENGTHS, Refitter, basis_of, choose

METHODS = ("auto", "ga", "gradient", "greedy")

# Generations of the genetic algorithm that all categories choose among: every one at first, where
# a step changes much of what is still to be had, then ever fewer.
_PLACES = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 39)

# How often an unfinished search is written down.
_KEEP_SECONDS = 60.0


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
