"""What stage 2 works on and gives back: films as features, logistic regressions, settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from train.command import Stop
from train.datasets.splits import patient_folds
from train.errors import Stopped
from train.frozen.rows import Matrix, Reader, places
from train.metrics.ranking import METRICS
from train.stage2.finished import Finished
from train.stage2.refit import FOLDS, Starts


@dataclass(frozen=True)
class Films:
    """Some films as stage 2 sees them.

    Attributes
    ----------
    z
        (n, D) float32 features: an array, or rows of one that are read when they are needed.
    y
        (n, C) float32 labels in {1, 0, NaN}; NaN is unknown.
    patients
        (n,) whose film each is; None: every film is another patient's.
    """

    z: Matrix
    y: np.ndarray
    patients: np.ndarray | None = None

    @property
    def groups(self) -> np.ndarray:
        """(n,) patients, or numbers of films."""
        return np.arange(len(self.z)) if self.patients is None else self.patients


@dataclass(frozen=True)
class Head:
    """The logistic regressions of C categories.

    Attributes
    ----------
    weights, biases
        (C, D) and (C,) float32.
    label_names
        The categories.
    """

    weights: np.ndarray
    biases: np.ndarray
    label_names: tuple[str, ...]

    def logits(self, z: Matrix) -> np.ndarray:
        """(n, D) features -> (n, C) float32, some rows at a time."""
        read, whole = Reader(), isinstance(z, np.ndarray)  # an array's rows lie there already
        blocks = (z[place] if whole else read(z, place) for place in places(len(z)))
        parts = [block @ self.weights.T + self.biases for block in blocks]
        return np.concatenate(parts) if parts else np.empty((0, len(self.biases)), np.float32)

    def copy(self) -> Head:
        """The same in arrays of its own."""
        return Head(self.weights.copy(), self.biases.copy(), self.label_names)


@dataclass(frozen=True)
class TuneSettings:
    """What decides the result of stage 2, besides the data.

    Attributes
    ----------
    method
        A key of `train.stage2.methods.METHODS`.
    fitness
        The metric that decides: "auroc" or "ap".
    loss
        Of the gradient; see `train.losses.loss_named`.
    seed
        Of folds, bootstrap and genetic algorithm.
    published
        Run the genetic algorithm as published, and choose by validation category by category.
    """

    method: str = "auto"
    fitness: str = "auroc"
    loss: str = "bce"
    seed: int = 0
    published: bool = False


@dataclass(frozen=True)
class Tuned:
    """What a method made of the logistic regressions.

    Attributes
    ----------
    head
        The regressions.
    methods
        (C,) whose regression each category has: "original" or a method's name.
    valid_scores
        (M, C) logits of the validation films that are fit to choose and calibrate by: where a
        method fits validation films too, each film's are from a fit without its patient.
    notes
        Facts for the report.
    history
        Category -> (G, 3) of its genetic search: best and mean fitness of each generation, and the
        validation of the best.
    """

    head: Head
    methods: list[str]
    valid_scores: np.ndarray
    notes: dict[str, Any] = field(default_factory=dict)
    history: dict[str, np.ndarray] = field(default_factory=dict)


class Recipe(Protocol):
    """How the trained regressions were fitted to the features of a frozen network."""

    def __call__(self, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same fit on other films.

        Parameters
        ----------
        counted
            (N, F) bool: the training films of each of F sets.

        Returns
        -------
        weights, biases
            (F, C, D) and (F, C) float32.
        """
        ...


@dataclass(frozen=True)
class Judges:
    """The films that choose: no regression that scores one of them has seen its patient.

    Attributes
    ----------
    scores
        (J, C) logits of the trained regressions.
    y, patients
        (J, C) and (J,) as in `Films`.
    valid
        The validation films among them.
    starts
        For `Refitter`, if the training films are among them.
    """

    scores: np.ndarray
    y: np.ndarray
    patients: np.ndarray
    valid: slice
    starts: Starts | None = None


class Method(Protocol):
    """A way to make other logistic regressions."""

    def tune(self, task: Task) -> Tuned:
        """Fit, choose by validation films, and say what was done."""
        ...


@dataclass(frozen=True)
class Task:
    """What a method is given.

    Attributes
    ----------
    train, valid
        The films to fit, and those to choose by.
    head
        The trained logistic regressions.
    settings
        What was asked for.
    finished
        What is done already, category by category.
    stop
        Says whether the user asked for the end.
    device
        Where to compute.
    recipe
        How the trained regressions were fitted, if the network is frozen and training films are to
        choose too; None: validation films choose.
    kept
        The file for what is computed of the training films' features alone, and found again by the
        next run on them, see `train.frozen.kept`; None: it is not kept.
    """

    train: Films
    valid: Films
    head: Head
    settings: TuneSettings = field(default_factory=TuneSettings)
    finished: Finished = field(default_factory=Finished)
    stop: Stop = field(default_factory=Stop)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    recipe: Recipe | None = None
    kept: Path | None = None

    @cached_property
    def skipped(self) -> dict[str, str]:
        """Category -> why it keeps its trained regression: a class without a known label."""
        skipped: dict[str, str] = {}
        for c, label in enumerate(self.head.label_names):
            for films, side in ((self.train, "training"), (self.valid, "validation")):
                for value, kind in ((1, "positive"), (0, "negative")):
                    if not (films.y[:, c] == value).any():
                        skipped.setdefault(label, f"no known {kind} {side} film")
        return skipped

    @property
    def columns(self) -> list[int]:
        """The categories that can be fitted."""
        return [c for c, label in enumerate(self.head.label_names) if label not in self.skipped]

    @cached_property
    def trained_scores(self) -> np.ndarray:
        """(M, C) logits of the trained regressions on the validation films."""
        return self.head.logits(self.valid.z)

    @cached_property
    def judges(self) -> Judges:
        """The films that choose."""
        valid = self.valid
        if self.recipe is None:
            return Judges(self.trained_scores, valid.y, valid.groups, slice(None))
        train = self.train
        patients = np.concatenate([train.groups, valid.groups])
        fold = patient_folds(patients, FOLDS, self.settings.seed)
        starts = Starts(fold, *self.recipe(fold[: len(train.z), None] != np.arange(FOLDS)))
        scores = np.empty((len(fold), len(self.head.label_names)), np.float32)
        read = Reader()
        for f in range(FOLDS):
            head = Head(starts.weights[f], starts.biases[f], self.head.label_names)
            for place, films in ((0, train), (len(train.z), valid)):
                rows = np.flatnonzero(fold[place : place + len(films.z)] == f)
                for some in (rows[part] for part in places(len(rows))):
                    scores[place + some] = head.logits(read(films.z, some))
        y = np.concatenate([train.y, valid.y])
        return Judges(scores, y, patients, slice(len(train.z), None), starts)

    def validation(self, scores: np.ndarray) -> np.ndarray:
        """(C,) the metric that decides, of (M, C) scores of the validation films."""
        columns = np.ascontiguousarray(scores.T), np.ascontiguousarray(self.valid.y.T)
        return METRICS[self.settings.fitness](*columns).numpy()

    @cached_property
    def train_z(self) -> torch.Tensor:
        """(N, D) features of the training films, on the device."""
        return self.tensor(self.train.z)

    @cached_property
    def valid_z(self) -> torch.Tensor:
        """(M, D) features of the validation films, on the device."""
        return self.tensor(self.valid.z)

    def tensor(self, array: Matrix) -> torch.Tensor:
        """An array on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def shown(self, columns: Iterable[int], what: str) -> tqdm:
        """The categories, with a progress bar."""
        return tqdm(columns, desc=what, unit="category", disable=None)

    def steps(self, what: str, unit: str) -> tqdm:
        """Progress of the work on one category, or on all at once."""
        return tqdm(desc=what, unit=unit, leave=False, position=1, disable=None)

    def stop_if_asked(self) -> None:
        """Raise `Stopped` if the user asked for the end."""
        if self.stop.asked:
            raise Stopped
