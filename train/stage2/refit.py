"""The default of stage 2: a penalised refit whose strength all categories choose together.

Each category's logistic regression is fitted anew to the known labels of training and validation
films, starting from the trained one and held near it. The penalty is the same for all categories,
and so a prior: a category with many known labels moves far, one with few hardly at all. Its
strength is chosen by cross-validation over validation patients, by the mean over the categories,
and cautiously: the strongest penalty that cannot be told from the best one by one standard error.
The trained regressions are themselves on that path, as its end of infinite strength, and stay
where there is no evidence against them.

Why so, measured in docs/fine-tuning.md:

- *Cross-validated films are those of validation*, not of training. The backbone has been fitted to
  the training films, so on these the trained regressions look better than they are.
- *Known labels of both are fitted*, as a validation film says more than a training film that the
  backbone has already explained. Its own score is always that of a fit without its patient.
- *One strength for all categories* is one choice from many films. A choice per category follows
  the noise of the few positives that each one has.
- *The distance is measured between the features' metric and their plain one* (see `Refitter`).
- *The way to the chosen regressions is shortened by the doubt that is left* (`Choice.share`): all
  of it where the gain is many times its error, none where it is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.datasets.splits import patient_folds
from train.metrics.bootstrap import Bootstrap, bootstrap_auroc, bootstrap_average_precision
from train.precision import full_precision, symmetric_eigen
from train.stage2.penalised import fit_path
from train.threads import Map, parts_of, side_by_side

__all__ = ["FOLDS", "STRENGTHS", "Choice", "Path", "Refitter", "Starts", "basis_of", "choose"]

#: Strengths of the penalty, strongest first: precisions of the prior on a change of the logit by
#: one direction of unit spread.
STRENGTHS = (1e5, 3e4, 1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0)
FOLDS = 5
_REPLICATES = 400

# Directions with less than this share of the largest variance are rounding errors, not features.
_FLAT = 1e-6


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
class Starts:
    """Where the fits without each fold begin, if the trained regressions too are without it.

    Attributes
    ----------
    fold
        (N + M,) fold of each training and then each validation film, from 0.
    weights, biases
        (F, C, D) and (F, C): the trained regressions as they are without the films of each fold.
    """

    fold: np.ndarray
    weights: np.ndarray
    biases: np.ndarray


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


class Refitter:
    """Fits paths, category by category.

    The penalty on a change ``d`` of the weights is ``strength / 2 * d' S^(1/2) d`` with the
    features' covariance S: half-way between the distance in the features' metric, where a direction
    of little variance may change as much as any, and the plain distance, where it can change next
    to nothing. The scale is such that a change of penalty 1/2 along a direction, averaged over the
    directions, changes the logits by a variance of one. The logit is ``slope * trained logit + bias
    + d'z``; the slope is that of Platt's scaling, the bias is free, and the result is divided by
    the slope, so that it keeps the trained logits' scale.

    Parameters
    ----------
    z, z_valid
        (N, D) and (M, D) float32 features of training and validation films.
    patients_valid
        (M,) patients of the validation films; the folds go by them.
    weights, biases
        (C, D) and (C,) the trained logistic regressions.
    seed
        Of the folds.
    device
        Where to compute.
    power
        Of the covariance in the penalty, see `basis_of`; other values are for comparison.
    starts
        None: training films are in no fold, and every fit begins at the trained regressions.
    """

    def __init__(
        self,
        z: np.ndarray,
        z_valid: np.ndarray,
        patients_valid: np.ndarray,
        weights: np.ndarray,
        biases: np.ndarray,
        seed: int = 0,
        device: str | torch.device = "cpu",
        power: float = 0.25,
        starts: Starts | None = None,
    ):
        where = torch.device(device)
        weights, biases = np.asarray(weights)[:, None], np.asarray(biases)[:, None]
        if starts is not None:
            weights = np.concatenate([weights, starts.weights.transpose(1, 0, 2)], axis=1)
            biases = np.concatenate([biases, starts.biases.T], axis=1)
        # Where the fits of each category begin, all the same or each set's: (C, 1 or 1 + F, D).
        self._weights, self._biases = torch.from_numpy(weights).to(where), biases
        self._mean = torch.from_numpy(z.mean(0)).to(where)
        films = len(z) + len(z_valid)
        with full_precision(), side_by_side(where) as share:
            self._basis = _basis(_covariance(z, self._mean, share), power).to(self._mean)
            # Of the films, only their places along the directions of the basis are needed from here
            # on, and the logits of the trained regressions: for each category (1 or 1 + F, N + M).
            self._x = torch.empty(films, self._basis.shape[1], device=where)
            self._trained = torch.empty(*weights.shape[:2], films, device=where)
            self._spread = (self._place(z, 0, share) / len(z)).to(self._x)  # (R,)
            self._place(z_valid, len(z), share)
        if starts is None:
            folds = patient_folds(patients_valid, FOLDS, seed)
            # Films of training are in no fold: -2.
            self._fold = np.concatenate([np.full(len(z), -2), folds])
        else:
            self._fold = starts.fold

    def path(self, category: int, y: np.ndarray, y_valid: np.ndarray) -> Path:
        """Refit one category at every strength, whole and once without each fold.

        Parameters
        ----------
        category
            Row of the trained weights.
        y, y_valid
            (N,) and (M,) labels of the category in {1, 0, NaN}, with both classes in each.
        """
        with full_precision(), side_by_side(self._x.device) as share:
            return self._path(category, np.concatenate([y, y_valid]), share)

    def _path(self, category: int, labels: np.ndarray, share: Map) -> Path:
        known = np.flatnonzero(~np.isnan(labels))
        # Row 0 of the films to count: all of them; row 1 + f: those outside fold f.
        counted = np.stack([self._fold[known] != fold for fold in range(-1, FOLDS)])
        trained, own = self._weights[category], self._biases[category]
        place = torch.from_numpy(known).to(self._x.device)
        changes = fit_path(
            self._x[place],
            torch.from_numpy(labels[known]).to(self._x),
            torch.from_numpy(counted).to(self._x),
            self._trained[category][:, place],
            self._spread,
            STRENGTHS,
            share,
        )  # (1 + F, S, R)
        # The features were centred to fit; their mean goes back into the biases.
        biases = [float(b) + float(self._mean @ w) for w, b in zip(trained, own, strict=True)]
        judges = np.flatnonzero(self._fold >= 0)
        scores = np.empty((len(STRENGTHS), len(judges)), np.float32)
        for fold in range(FOLDS):
            places = np.flatnonzero(self._fold[judges] == fold)
            left_out = torch.from_numpy(judges[places]).to(self._x.device)
            own_set = 0 if len(own) == 1 else 1 + fold
            moved = changes[1 + fold] @ self._x[left_out].T
            moved += self._trained[category, own_set, left_out]
            scores[:, places] = moved.cpu().numpy() + np.float32(biases[own_set])
        weights = trained[0] + changes[0] @ self._basis.T  # (S, D)
        return Path(weights.cpu().numpy(), (biases[0] - weights @ self._mean).cpu().numpy(), scores)

    def _place(self, z: np.ndarray, first: int, share: Map) -> Tensor:
        """Fill in films from row `first` on; the sum of the squares of their places, (R,)."""

        def place(part: Sequence[slice]) -> Tensor:
            squares = torch.zeros(self._x.shape[1], dtype=torch.float64, device=self._x.device)
            for rows in part:
                here = slice(first + rows.start, first + rows.stop)
                centred = torch.from_numpy(z[rows]).to(self._mean) - self._mean
                x = torch.mm(centred, self._basis, out=self._x[here])
                self._trained[..., here] = self._weights @ centred.T
                squares += x.square().sum(0, dtype=torch.float64)
            return squares

        return torch.stack(list(share(place, parts_of(len(z), self._x.device)))).sum(0)


def choose(
    paths: Mapping[int, Path],
    trained: np.ndarray,
    y_valid: np.ndarray,
    patients_valid: np.ndarray,
    metric: str = "auroc",
    seed: int = 0,
) -> Choice:
    """Choose one step of their paths for all categories, from films that no fit has seen.

    They are the validation films, or with `Starts` those of training too.

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
    cases = _cases(y_valid, patients_valid)
    columns = [c for c in sorted(paths) if cases[c] > 1]
    steps = len(next(iter(paths.values())).scores)
    if not columns:
        return Choice(None, np.zeros(steps), np.zeros(steps))
    widened = np.sqrt(cases[columns] / (cases[columns] - 1))
    labels = y_valid[:, columns]
    draw = {"auroc": bootstrap_auroc, "ap": bootstrap_average_precision}[metric]

    def measured(scores: np.ndarray) -> Bootstrap:
        return draw(scores, labels, patients_valid, replicates=_REPLICATES, seed=seed)

    before = measured(trained[:, columns])
    gains, replicates = [], []
    for s in range(steps):
        after = measured(np.stack([paths[c].scores[s] for c in columns], axis=1))
        gain = after.estimate - before.estimate
        gains.append(_mean(gain))
        replicates.append(_mean(gain + widened * (after.replicates - before.replicates - gain)))
    of_steps, drawn = np.array(gains), np.array(replicates)
    return Choice(_most_cautious(of_steps, drawn), of_steps, drawn.std(axis=1))


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


def basis_of(z: Tensor, power: float = 0.25) -> Tensor:
    """(D, R) directions in which the penalty is a plain sum of squares; z (N, D) is centred.

    `power` 0 is the plain distance, 1/2 the features' metric.
    """
    return _basis((z.T @ z).double() / len(z), power).to(z.dtype)


def _covariance(z: np.ndarray, mean: Tensor, share: Map) -> Tensor:
    """(D, D) float64 covariance of features z (N, D) about their mean."""

    def products(part: Sequence[slice]) -> Tensor:
        total = torch.zeros(len(mean), len(mean), device=mean.device)
        for rows in part:
            centred = torch.from_numpy(z[rows]).to(mean) - mean
            total.addmm_(centred.T, centred)
        return total

    total = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
    for each in share(products, parts_of(len(z), mean.device)):
        total += each
    return total / len(z)


def _basis(covariance: Tensor, power: float) -> Tensor:
    """See `basis_of`; float64 of float64."""
    variances, directions = symmetric_eigen(covariance)
    kept = variances > _FLAT * variances.max()
    variances, directions = variances[kept], directions[:, kept]
    scale = variances**-power
    scale *= (len(variances) / (scale**2 * variances).sum()).sqrt()
    return directions * scale
