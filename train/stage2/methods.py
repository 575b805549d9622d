"""The methods of stage 2 by name, and stage 2 on arrays: `tune`.

In five lines, on arrays that may come from anywhere:

>>> z, z_valid = (np.random.default_rng(seed).normal(size=(200, 4)).astype("f4") for seed in (0, 1))
>>> train, valid = (Films(x, np.float32(x[:, :1] > 1)) for x in (z, z_valid))
>>> head = Head(np.ones((1, 4), np.float32), np.zeros(1, np.float32), ("Effusion",))
>>> tuned = tune(train, valid, head)
>>> tuned.methods, tuned.head.weights.shape
(['auto'], (1, 4))

A method is an object with one function, `Method.tune`. There are two ways to choose, `Together` and
`BestByValidation`, and what they choose among: the penalised refit (`refitted`), the genetic search
(`Search`), the descent (`Gradient`).
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from train.command import Stop
from train.errors import CheckpointError
from train.frozen.rows import places
from train.losses import loss_named
from train.stage2.choice import Path, choose
from train.stage2.finished import Finished
from train.stage2.genetic import Evolution, Genetic
from train.stage2.gradient import Descent, descend
from train.stage2.lineage import Lineage
from train.stage2.refit import STRENGTHS, Refitter, basis_of, groups_of
from train.stage2.task import Films, Head, Method, Task, Tuned, TuneSettings

# Generations of the genetic search that all categories choose among: every one at first, where a
# step changes much of what is still to be had, then ever fewer.
GENERATIONS = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 39)

# How often an unfinished search is written down.
_KEEP_SECONDS = 60.0

History = dict[str, np.ndarray]


# --- Ways to choose -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Together:
    """One step for all categories: as far on their paths as the evidence goes together.

    Attributes
    ----------
    name
        Of the method.
    paths
        Task -> path of each category that can be fitted, and the histories of searches.
    what, steps
        What the steps of a path are, and their values, for the report.
    """

    name: str
    paths: Callable[[Task], tuple[dict[int, Path], History]]
    what: str
    steps: Sequence[float]

    def tune(self, task: Task) -> Tuned:
        """Choose one step by `train.stage2.choice.choose`, and go its share of the way."""
        paths, history = self.paths(task)
        head, scores = task.head.copy(), task.trained_scores.copy()
        methods = ["original"] * len(head.label_names)
        if not paths:
            return Tuned(head, methods, scores, {}, history)
        judges, settings = task.judges, task.settings
        facts = judges.scores, judges.y, judges.patients, settings.fitness, settings.seed
        choice = choose(paths, *facts)
        if choice.share > 0:
            for c, path in paths.items():
                trained = head.weights[c], head.biases[c], judges.scores[:, c]
                head.weights[c], head.biases[c], moved = path.towards(choice, *trained)
                if judges.starts is None:
                    scores[:, c] = moved
                else:  # the trained regression itself has seen no validation film: move its scores
                    scores[:, c] += (moved - judges.scores[:, c])[judges.valid]
                methods[c] = self.name
        notes: dict[str, Any] = {
            "chosen_among": self.what,
            "steps": list(self.steps),
            "gains": choice.gains.tolist(),
            "errors": choice.errors.tolist(),
            "chosen": None if choice.index is None else self.steps[choice.index],
            "share": choice.share,
            "judges": "validation" if judges.starts is None else "training and validation",
            "judging_films": len(judges.y),
        }
        return Tuned(head, methods, scores, notes, history)


class Fit(Protocol):
    """Something that fits each category by itself."""

    @property
    def name(self) -> str: ...

    def fit(self, task: Task) -> tuple[Head, History]:
        """The fitted regressions, and the histories of searches."""
        ...


@dataclass(frozen=True)
class BestByValidation:
    """For each category the best of some fits by validation; the trained one unless beaten."""

    fits: Sequence[Fit]

    def tune(self, task: Task) -> Tuned:
        """Fit, then choose category by category."""
        head, scores = task.head.copy(), task.trained_scores.copy()
        methods = ["original"] * len(head.label_names)
        history: History = {}
        best = task.validation(scores)
        for fit in self.fits:
            found, searched = fit.fit(task)
            history |= searched
            its_scores = found.logits(task.valid.z)
            measured = task.validation(its_scores)
            for c in task.columns:
                if measured[c] > best[c]:
                    best[c], methods[c] = measured[c], fit.name
                    head.weights[c], head.biases[c] = found.weights[c], found.biases[c]
                    scores[:, c] = its_scores[:, c]
        return Tuned(head, methods, scores, {}, history)


# --- What is chosen among -----------------------------------------------------------------------


def refitted(task: Task) -> tuple[dict[int, Path], History]:
    """The penalised refits of each category; see `train.stage2.refit`."""
    y, y_valid = task.train.y, task.valid.y
    left = [c for c in task.columns if task.finished.get(f"auto/{c}") is None]
    refitter: Refitter | None = None
    with task.shown(task.columns, "auto") as bar:
        bar.update(len(task.columns) - len(left))
        for group in groups_of(np.concatenate([y, y_valid])[:, left]):
            refitter = refitter or Refitter(
                task.train.z,
                task.valid.z,
                task.valid.groups,
                task.head.weights,
                task.head.biases,
                seed=task.settings.seed,
                device=task.device,
                starts=task.judges.starts,
                between=task.stop_if_asked,
                kept=task.kept,
            )
            own = [left[place] for place in group]
            found = zip(own, refitter.paths(own, y[:, own], y_valid[:, own]), strict=True)
            kept = {f"{c}/{name}": x for c, path in found for name, x in vars(path).items()}
            task.finished.keep("auto", kept)
            bar.update(len(own))
            task.stop_if_asked()
    paths = {c: task.finished.get(f"auto/{c}") for c in task.columns}
    return {c: Path(**found) for c, found in paths.items() if found is not None}, {}


@dataclass(frozen=True)
class Gradient:
    """The descent of `train.stage2.gradient`."""

    name: str = "gradient"

    def fit(self, task: Task) -> tuple[Head, History]:
        """Of each category the best epoch by validation."""
        head = task.head.copy()
        for c in task.shown(task.columns, self.name):
            found = task.finished.get(f"gradient/{c}")
            if found is None:
                descent = self._descend(task, c)
                task.stop_if_asked()
                found = {
                    "weights": descent.weights.numpy(force=True),
                    "biases": descent.biases.numpy(force=True),
                }
                task.finished.keep(f"gradient/{c}", found)
            head.weights[c], head.biases[c] = found["weights"][0], found["biases"][0]
        return head, {}

    def _descend(self, task: Task, c: int) -> Descent:
        with task.steps(task.head.label_names[c], "epoch") as bar:

            def watch(validation: float) -> bool:
                bar.set_postfix_str(f"validation {validation:.4f}", refresh=False)
                bar.update()
                return task.stop.asked

            return descend(
                task.train_z,
                task.tensor(task.train.y[:, [c]]),
                task.tensor(task.head.weights[[c]]),
                task.tensor(task.head.biases[[c]]),
                z_valid=task.valid_z,
                y_valid=task.tensor(task.valid.y[:, [c]]),
                loss=loss_named(task.settings.loss),
                metric=task.settings.fitness,
                watch=watch,
            )


@dataclass(frozen=True)
class Search:
    """The genetic search of `train.stage2.genetic`; biases are not in the genome."""

    genetic: Genetic = field(default_factory=Genetic)
    name: str = "ga"

    def fit(self, task: Task) -> tuple[Head, History]:
        """Of each category the best generation by validation."""
        found = self._searched(task, "ga", lambda lineage: lineage.weights)
        head, history = task.head.copy(), {}
        for c, arrays in found.items():
            head.weights[c] = arrays["weights"]
            history[task.head.label_names[c]] = arrays["history"]
        return head, history

    def paths(self, task: Task) -> tuple[dict[int, Path], History]:
        """Of each category what the search passes; it never sees a validation label."""

        def passed(lineage: Lineage) -> torch.Tensor:
            return torch.stack([lineage.path[place] for place in GENERATIONS])

        paths, history, z_valid = {}, {}, np.asarray(task.valid.z)
        for c, arrays in self._searched(task, "ga-path", passed).items():
            weights, bias = arrays["weights"], task.head.biases[c]
            paths[c] = Path(weights, np.full(len(weights), bias), weights @ z_valid.T + bias)
            history[task.head.label_names[c]] = arrays["history"]
        return paths, history

    def _searched(
        self, task: Task, part: str, weights_of: Callable[[Lineage], torch.Tensor]
    ) -> dict[int, dict[str, np.ndarray]]:
        """Of each category the weights that are wanted and the history, as they are kept.

        The guided search takes all categories at once, the published one each by itself: see
        `train.stage2.genetic`.
        """
        left = [c for c in task.columns if task.finished.get(f"{part}/{c}") is None]
        basis = None
        if left and self.genetic.guided:  # of all training films
            basis = basis_of(task.train_z - task.train_z.mean(0))
        groups = [left] if self.genetic.guided else [[c] for c in left]
        for columns in filter(None, groups):
            evolution = self._run(task, columns, basis)
            found = {}
            for c, lineage in zip(columns, evolution.lineages, strict=True):
                found[f"{c}/weights"] = weights_of(lineage).numpy(force=True)
                found[f"{c}/history"] = lineage.history_array()
            task.finished.keep(part, found, instead_of="ga-state")
        kept = {c: task.finished.get(f"{part}/{c}") for c in task.columns}
        return {c: arrays for c, arrays in kept.items() if arrays is not None}

    def _run(self, task: Task, columns: list[int], basis: torch.Tensor | None) -> Evolution:
        """The search for some categories, from its beginning or from where it was stopped."""
        labels = [task.head.label_names[c] for c in columns]
        evolution = Evolution(
            task.train_z,
            task.tensor(task.train.y[:, columns]),
            task.tensor(task.head.weights[columns]),
            z_valid=task.valid_z,
            y_valid=task.tensor(task.valid.y[:, columns]),
            settings=self.genetic,
            metric=task.settings.fitness,
            # By name: the result must not depend on the order of the categories.
            seeds=[task.settings.seed + zlib.crc32(label.encode()) for label in labels],
            basis=basis,
        )
        for c, label, lineage in zip(columns, labels, evolution.lineages, strict=True):
            state = task.finished.get(f"ga-state/{c}")
            if state is not None:
                try:
                    lineage.resume({name: torch.from_numpy(x) for name, x in state.items()})
                except ValueError as error:
                    raise CheckpointError(f"{label}: {error}; choose another --out") from None
        kept = time.monotonic()
        with task.steps(labels[0] if len(labels) == 1 else self.name, "generation") as bar:
            while not evolution.done:
                evolution.step()
                best = sum(lineage.validation for lineage in evolution.lineages) / len(labels)
                bar.set_postfix_str(f"validation {best:.4f}", refresh=False)
                bar.update()
                if task.stop.asked or time.monotonic() - kept > _KEEP_SECONDS:
                    states = {
                        f"{c}/{name}": x.numpy()
                        for c, lineage in zip(columns, evolution.lineages, strict=True)
                        for name, x in lineage.state().items()
                    }
                    task.finished.keep("ga-state", states)
                    kept = time.monotonic()
                task.stop_if_asked()
        return evolution


# --- By name ------------------------------------------------------------------------------------


def _searched_together() -> Method:
    return Together("ga", Search().paths, "generation", GENERATIONS)


#: Name -> what makes the method; the second of a pair runs the genetic algorithm as published.
METHODS: Mapping[str, tuple[Callable[[], Method], Callable[[], Method]]] = {
    "auto": (lambda: Together("auto", refitted, "penalty", STRENGTHS),) * 2,
    "ga": (_searched_together, lambda: BestByValidation([Search(Genetic.paper())])),
    "gradient": (lambda: BestByValidation([Gradient()]),) * 2,
    "greedy": (
        lambda: BestByValidation([Gradient(), Search()]),
        lambda: BestByValidation([Gradient(), Search(Genetic.paper())]),
    ),
}

#: Name -> settings of a published recipe.
PRESETS = {"paper": TuneSettings(method="greedy", published=True)}


def method_of(settings: TuneSettings) -> Method:
    """The method that settings ask for.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if settings.method not in METHODS:
        known = ", ".join(METHODS)
        raise ValueError(f"there is no method {settings.method!r}; choose from {known}")
    return METHODS[settings.method][settings.published]()


def tune(
    train: Films,
    valid: Films,
    head: Head,
    settings: TuneSettings | None = None,
    keep: str | os.PathLike | None = None,
    device: str | torch.device = "cpu",
) -> Tuned:
    """Fit the logistic regressions of all categories anew; see the example at the top.

    Parameters
    ----------
    train, valid
        The films to fit, and those to choose by; no patient is in both.
    head
        The trained logistic regressions.
    settings
        What to do; None: the default method.
    keep
        A file for the parts that are done, from which the same call goes on after an interruption.
    device
        Where to compute.

    Raises
    ------
    ValueError
        If there is no such method.
    CheckpointError
        If `keep` holds parts of other films, regressions or settings.
    """
    settings = settings or TuneSettings()
    finished = Finished()
    if keep is not None:
        finished = Finished(pathlib.Path(keep), _hash_of(train, valid, head, settings))
    task = Task(train, valid, head, settings, finished, Stop(), torch.device(device))
    return method_of(settings).tune(task)


def _hash_of(train: Films, valid: Films, head: Head, settings: TuneSettings) -> str:
    """Names everything that decides the result."""
    digest = hashlib.sha256(repr((settings, head.label_names)).encode())
    for films in (train, valid):
        for place in places(len(films.z)):
            digest.update(np.ascontiguousarray(films.z[place]).data)
        digest.update(np.ascontiguousarray(films.y).data)
        digest.update(repr(films.groups.tolist()).encode())
    for array in (head.weights, head.biases):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
