"""Which step of their paths the categories go to together, chosen cautiously.

A path leads from a category's trained logistic regression away: refits under ever weaker penalties
(`train.stage2.refit`), or what a genetic search passes (`train.stage2.genetic`). All categories
choose one step, by the mean of the metric over them on films that no fit of the path has seen: the
first step that cannot be told from the best one by one standard error, and of the way there the
share that the evidence allows. The trained regressions are the beginning of every path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from train.metrics.bootstrap import Bootstrap, bootstrap_auroc, bootstrap_average_precision

__all__ = ["Choice", "Path", "choose"]

_REPLICATES = 400


@dataclass(frozen=True)
class Path:
    """Regressions of one category, ever further from the trained one.

    Attributes
    ----------
    weights, biases
        (S, D) and (S,) float32: the logistic regressions.
    scores
        (S, M) float32 logits of the films that choose, each from a fit without its patient.
    """

    weights: np.ndarray
    biases: np.ndarray
    scores: np.ndarray

    def towards(
        self, choice: Choice, weights: np.ndarray, bias: float, scores: np.ndarray
    ) -> tuple[np.ndarray, float, np.ndarray]:
        """A trained regression moved towards the chosen one, by the choice's share of the way.

        Parameters
        ----------
        choice
            Of a strength; its index is not None.
        weights, bias, scores
            Of the trained regression: (D,), and its (M,) logits of the films that choose.

        Returns
        -------
        weights, bias, scores
            The same of the regression moved.
        """
        index, share = choice.index, choice.share
        assert index is not None  # the caller's duty
        return (
            weights + share * (self.weights[index] - weights),
            bias + share * (self.biases[index] - bias),
            scores + share * (self.scores[index] - scores),
        )


@dataclass(frozen=True)
class Choice:
    """The step of their paths that the categories chose together.

    Attributes
    ----------
    index
        Position in the path; None: the trained logistic regressions stay.
    gains, errors
        (S,) gain of the mean metric on validation films at each step, and its standard error.
    """

    index: int | None
    gains: np.ndarray
    errors: np.ndarray

    @property
    def share(self) -> float:
        """Share of the way to the refitted regressions that the evidence allows, in [0, 1).

        The positive part of 1 - (error / gain)^2, by which James and Stein (Fourth Berkeley
        Symposium, 1961) shrink a mean of that error: nothing at a gain of one error, three quarters
        at two, nearly all at five.
        """
        if self.index is None or self.gains[self.index] <= 0:
            return 0.0
        return max(0.0, 1 - (self.errors[self.index] / self.gains[self.index]) ** 2)


def choose(
    paths: Mapping[int, Path],
    trained: np.ndarray,
    y_valid: np.ndarray,
    patients_valid: np.ndarray,
    metric: str = "auroc",
    seed: int = 0,
) -> Choice:
    """Choose one step of their paths for all categories, from films that no fit has seen.

    They are the validation films, or with `train.stage2.refit.Starts` those of training too.

    Parameters
    ----------
    paths
        Column -> path of the categories that were refitted, all of the same length.
    trained
        (M, C) logits of the trained logistic regressions on the validation films.
    y_valid
        (M, C) labels in {1, 0, NaN}.
    patients_valid
        (M,) patients, whom the bootstrap draws.
    metric
        "auroc" or "ap": whose mean over the categories decides.
    seed
        Of the bootstrap.

    Notes
    -----
    The rule of one standard error (Breiman et al., Classification and Regression Trees, 1984,
    section 3.4.3), with the standard error of the paired difference.

    A bootstrap over n cases has (n - 1) / n of the variance, and of a single case it has none. So
    the deviations of a category with n patients of its rarer class are widened by the root of
    n / (n - 1); categories with one such patient have no vote, and go the way of the others.
    """
    _, people = np.unique(patients_valid, return_inverse=True)  # names are slower to sort again
    cases = _cases(y_valid, people)
    columns = [c for c in sorted(paths) if cases[c] > 1]
    steps = len(next(iter(paths.values())).scores)
    if not columns:
        return Choice(None, np.zeros(steps), np.zeros(steps))
    widened = np.sqrt(cases[columns] / (cases[columns] - 1))
    labels = _by_column(y_valid[:, columns].T)
    draw = {"auroc": bootstrap_auroc, "ap": bootstrap_average_precision}[metric]

    def measured(scores: np.ndarray) -> Bootstrap:
        return draw(scores, labels, people, replicates=_REPLICATES, seed=seed)

    before = measured(_by_column(trained[:, columns].T))
    gains, replicates = [], []
    for s in range(steps):
        after = measured(_by_column([paths[c].scores[s] for c in columns]))
        gain = after.estimate - before.estimate
        gains.append(_mean(gain))
        replicates.append(_mean(gain + widened * (after.replicates - before.replicates - gain)))
    of_steps, drawn = np.array(gains), np.array(replicates)
    return Choice(_most_cautious(of_steps, drawn), of_steps, drawn.std(axis=1))


def _by_column(columns: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """C columns of n numbers as (n, C), each column one run of memory: metrics copy none of it."""
    return np.ascontiguousarray(columns).T


def _cases(y: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """(C,) patients with films of the rarer class of each category; y is (M, C)."""
    return np.array(
        [min(len(np.unique(patients[column == value])) for value in (0, 1)) for column in y.T]
    )


def _most_cautious(gains: np.ndarray, replicates: np.ndarray) -> int | None:
    """The first candidate, from the trained regressions on, within one error of the best one."""
    best = int(gains.argmax())
    for index in range(-1, best + 1):
        gain, drawn = (0.0, 0.0) if index < 0 else (gains[index], replicates[index])
        if gain >= gains[best] - np.std(replicates[best] - drawn):
            return None if index < 0 else index
    return None  # the best one is no gain at all


def _mean(differences: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is defined; 0 where nothing is."""
    defined = ~np.isnan(differences)
    count = defined.sum(axis=-1)
    return np.where(defined, differences, 0.0).sum(axis=-1) / np.maximum(count, 1)
