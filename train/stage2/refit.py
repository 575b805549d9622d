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
- *The way to the chosen regressions is shortened by the doubt that is left* (see
  `train.stage2.choice`): all of it where the gain is many times its error, none where it is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

import numpy as np
import torch
from torch import Tensor

from cft.model.calibration import fit_platt
from train.datasets.splits import patient_folds
from train.frozen.design import Design
from train.frozen.kept import kept_tensors
from train.frozen.lbfgs import LOGITS, Labels, Regressions
from train.frozen.rows import BLOCK, Matrix, Reader, Stacked, in_double, places
from train.frozen.span import spanned
from train.precision import full_precision, symmetric_eigen
from train.stage2.choice import Path

__all__ = ["FOLDS", "STRENGTHS", "Refitter", "Starts", "basis_of", "groups_of"]

#: Strengths of the penalty, strongest first: precisions of the prior on a change of the logit by
#: one direction of unit spread.
STRENGTHS = (1e5, 3e4, 1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0)
FOLDS = 5

# Directions with less than this share of the largest variance are rounding errors, not features.
_FLAT = 1e-6

# What `Refitter` knows of the features before it fits.
_METRIC = ("mean", "basis", "variances")

# The slope of the trained logit in the new one is not below this: a category whose trained ranking
# is all but wrong on its known labels would otherwise become a fresh fit to these few.
_MIN_SLOPE = 0.1

# A fit ends when a further step would gain less log-likelihood than this per film: then logits are
# within some thousandths of those at the minimum.
_TOLERANCE = 5e-9


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


class Refitter:
    """Fits paths, several categories at a time.

    The penalty on a change ``d`` of the weights is ``strength / 2 * d' S^(1/2) d`` with the
    features' covariance S: half-way between the distance in the features' metric, where a direction
    of little variance may change as much as any, and the plain distance, where it can change next
    to nothing. The scale is such that a change of penalty 1/2 along a direction, averaged over the
    directions, changes the logits by a variance of one. The logit is ``slope * trained logit + bias
    + d'z``; the slope is that of Platt's scaling, the bias is free, and the result is divided by
    the slope, so that it keeps the trained logits' scale.

    Features are read when they are needed, block by block: they may be memory-mapped.

    Parameters
    ----------
    z, z_valid
        (N, D) and (M, D) features of training and validation films.
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
    between
        Called before each strength; what it raises ends the fits.
    kept
        The file of the features' metric, see `train.frozen.kept`; None: it is not kept.
    """

    def __init__(
        self,
        z: Matrix,
        z_valid: Matrix,
        patients_valid: np.ndarray,
        weights: np.ndarray,
        biases: np.ndarray,
        seed: int = 0,
        device: str | torch.device = "cpu",
        power: float = 0.25,
        starts: Starts | None = None,
        between: Callable[[], None] = lambda: None,
        kept: FilePath | None = None,
    ):
        self._z, self._device = Stacked([z, z_valid]), torch.device(device)
        metric = kept_tensors(kept, lambda: self._metric(z, power), self._device)
        self._mean, self._basis, self._variances = (metric[x] for x in _METRIC)
        self._weights, self._biases = np.asarray(weights), np.asarray(biases)
        self._starts, self._between = starts, between
        if starts is None:
            folds = patient_folds(patients_valid, FOLDS, seed)
            # Films of training are in no fold: -2.
            self._fold = np.concatenate([np.full(len(z), -2), folds])
        else:
            self._fold = starts.fold

    def path(self, category: int, y: np.ndarray, y_valid: np.ndarray) -> Path:
        """`paths` of one category, with (N,) and (M,) labels."""
        (path,) = self.paths([category], y[:, None], y_valid[:, None])
        return path

    def paths(self, categories: Sequence[int], y: np.ndarray, y_valid: np.ndarray) -> list[Path]:
        """Refit some categories at every strength, whole and once without each fold.

        The films that any of them knows are read; so it is for categories that know much the same
        films (see `groups_of`). But for rounding, a path does not depend on which others there are.

        Parameters
        ----------
        categories
            (G,) rows of the trained weights.
        y, y_valid
            (N, G) and (M, G) labels of these in {1, 0, NaN}, of both classes in each column.
        """
        labels = np.concatenate([y, y_valid])
        known = np.flatnonzero(~np.isnan(labels).all(axis=1))
        labels = labels[known]
        # Column 0 of the films to count: all of them; column 1 + f: those outside fold f.
        counted = np.stack([self._fold != fold for fold in range(-1, FOLDS)], axis=1)[known]
        trained, biases = self._begin(categories)  # (1 + FOLDS, G, D) and (1 + FOLDS, G)
        with full_precision(), torch.inference_mode():
            design = Design([self._z], known, self._mean, self._basis, self._variances)
            changes = _fit(*(design, labels, counted, trained.flatten(0, 1)), self._between)
            weights = trained + (changes @ self._basis.T).unflatten(1, trained.shape[:2])
            # The features were centred to fit; their mean goes back into the biases.
            centred = biases + trained @ self._mean
            scores = self._scores(design, weights[:, 1:], centred[1:])
            whole = weights[:, 0]
            found = whole, centred[0] - whole @ self._mean, scores
            return [Path(*(x[:, g].cpu().numpy() for x in found)) for g in range(len(categories))]

    def _scores(self, design: Design, weights: Tensor, biases: Tensor) -> Tensor:
        """(S, G, J) logits of the films that choose, each by the (S, FOLDS, G, D) weights without
        its fold.
        """
        steps, _, categories, _ = weights.shape
        judges = np.flatnonzero(self._fold >= 0)
        # By category, so that a path is one run of memory and is kept without a copy.
        kept = torch.empty(categories, steps, len(judges), dtype=weights.dtype)
        scores = kept.transpose(0, 1)
        for fold in range(FOLDS):
            left_out = np.flatnonzero(self._fold[judges] == fold)
            own = weights[:, fold].flatten(0, 1)
            for place in places(len(left_out)):
                some = left_out[place]
                found = own @ design.read(self._z, judges[some]).T
                found = found.unflatten(0, (steps, categories)) + biases[fold, :, None]
                scores[..., torch.from_numpy(some)] = found.cpu()
        return scores

    def _begin(self, categories: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Weights and biases of the trained regressions, first and without each fold."""
        weights, biases = (x[None, categories] for x in (self._weights, self._biases))
        if self._starts is None:
            weights, biases = (np.repeat(x, 1 + FOLDS, axis=0) for x in (weights, biases))
        else:
            weights = np.concatenate([weights, self._starts.weights[:, categories]])
            biases = np.concatenate([biases, self._starts.biases[:, categories]])
        return torch.from_numpy(weights).to(self._mean), torch.from_numpy(biases).to(self._mean)

    def _metric(self, z: Matrix, power: float) -> dict[str, Tensor]:
        """The features' mean, the directions of the penalty, and the variances along these."""
        mean = self._average(z)
        if len(z) < z.shape[1]:
            principal = spanned(self._centred(z, mean), _FLAT)
        else:
            principal = _principal(self._covariance(z, mean))
        numbers = torch.float64 if self._z.dtype == np.float64 else torch.float32
        found = mean, *_directions(*principal, power)
        return {name: x.to(numbers) for name, x in zip(_METRIC, found, strict=True)}

    def _average(self, z: Matrix) -> Tensor:
        """(D,) mean of the features, float64."""
        read = Reader()
        mean = torch.zeros(z.shape[1], dtype=torch.float64, device=self._device)
        memory = mean.new_empty(min(BLOCK, len(z)), z.shape[1])
        for place in places(len(z)):
            mean += in_double(torch.from_numpy(read(z, place)).to(self._device), memory).sum(0)
        return mean / len(z)

    def _covariance(self, z: Matrix, mean: Tensor) -> Tensor:
        """(D, D) covariance of the features, float64."""
        read = Reader()
        covariance = mean.new_zeros(len(mean), len(mean))
        with full_precision():
            for place in places(len(z)):
                x = torch.from_numpy(read(z, place)).to(self._device)
                centred = x.sub_(mean.to(x))
                covariance += centred.T @ centred
        return covariance / len(z)

    def _centred(self, z: Matrix, mean: Tensor) -> Tensor:
        """(n, D) features less their mean, in memory."""
        x = torch.from_numpy(Reader()(z, slice(None))).to(self._device)
        return x.sub_(mean.to(x))


def groups_of(y: np.ndarray) -> list[list[int]]:
    """Columns of (n, C) labels in groups that are worth fitting side by side.

    A group reads the films that any of its columns knows, and at least half of what it then
    computes is of known labels. No group has more films and columns than there is room for.
    """
    known = ~np.isnan(y)
    groups: list[list[int]] = []
    for c in range(y.shape[1]):
        with_it = [*groups[-1], c] if groups else [c]
        read = int(known[:, with_it].any(axis=1).sum()) * len(with_it)
        if groups and 2 * known[:, with_it].sum() >= read and read * (1 + FOLDS) <= LOGITS:
            groups[-1] = with_it
        else:
            groups.append([c])
    return groups


def _fit(
    design: Design,
    y: np.ndarray,
    counted: np.ndarray,
    trained: Tensor,
    between: Callable[[], None],
) -> Tensor:
    """Penalised logistic regressions of G categories, at every strength, for F sets of films.

    Parameters
    ----------
    design
        The n films that any of the categories knows.
    y
        (n, G) labels.
    counted
        (n, F) bool: the films of each set.
    trained
        (F * G, D) weights of the trained regressions, from which changes count.
    between
        See `Refitter`.

    Returns
    -------
    Tensor
        (S, F * G, R) changes of the weights along the directions, on the scale of the trained
        logits.
    """
    labels = Labels.of(y, counted, design.mean)
    sets, categories = torch.cartesian_prod(
        *(torch.arange(len(x), device=trained.device) for x in (labels.counted, labels.targets))
    ).unbind(1)
    logits = trained.new_empty(len(trained), len(design))
    for block in design.plain():
        logits[:, block.rows] = trained @ block.x.T
    platt = [
        _slope_and_bias(own, labels.targets[c], labels.known[c] & labels.counted[f])
        for own, f, c in zip(logits, sets, categories, strict=True)
    ]
    slopes, biases = torch.tensor(platt, device=trained.device).to(trained).T
    theta = trained.new_zeros(len(trained), design.directions + 1)
    theta[:, -1] = biases
    regressions = Regressions(design, labels, sets, categories, theta, logits.mul_(slopes[:, None]))
    path: list[Tensor] = []
    for strength in STRENGTHS:
        between()
        if len(path) > 1:  # strengths are evenly spaced, so that the next change is about the last
            regressions.move(path[-1] - path[-2])
        regressions.minimise(strength, _TOLERANCE * len(design))
        path.append(regressions.theta)
    return torch.stack(path)[..., :-1] / slopes[:, None]


def basis_of(z: Tensor, power: float = 0.25) -> Tensor:
    """(D, R) directions in which the penalty is a plain sum of squares; z (N, D) is centred.

    `power` 0 is the plain distance, 1/2 the features' metric.
    """
    if len(z) < z.shape[1]:
        principal = spanned(z.clone(), _FLAT)
    else:
        principal = _principal((z.T @ z).double() / len(z))
    return _directions(*principal, power)[0].to(z.dtype)


def _principal(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) variances along the (D, R) directions in which features vary; see `spanned`."""
    variances, directions = symmetric_eigen(covariance)
    kept = variances > _FLAT * variances.max()
    return variances[kept], directions[:, kept]


def _directions(variances: Tensor, directions: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """See `basis_of`: (D, R) directions of the penalty, and (R,) the variance along each."""
    scale = variances**-power
    scale *= (len(variances) / (scale**2 * variances).sum()).sqrt()
    return directions * scale.to(directions), variances * scale**2


def _slope_and_bias(logits: Tensor, y: Tensor, counted: Tensor) -> tuple[float, float]:
    """Of the labels on the trained logits, over the films that count."""
    films = counted.bool()
    slope, bias = fit_platt(logits[films].cpu().numpy(), y[films].cpu().numpy()) or (1.0, 0.0)
    return max(slope, _MIN_SLOPE), bias
