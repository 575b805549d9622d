"""The smoothed calibration curve, and how far stated probabilities are from it.

The curve is a local regression of the labels on the stated probabilities. ICI, E50 and E90 are the
mean, the median and the ninth decile of the films' distances to it (Austin and Steyerberg,
Statistics in Medicine 38 (2019) 4051); their curve is the `lowess` of Harrell's ``val.prob``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.metrics.bootstrap import percentiles
from train.metrics.smooth import Kernel, lowess

__all__ = ["Bins", "CalibrationCurve", "calibration_curve"]

# A replicate's curve is made of this many bins, and read at this many places, at most.
_BINS = 120
_PLACES = 60

# Draws of labels that follow the stated probabilities exactly.
_TRUE_DRAWS = 200


@dataclass(frozen=True)
class Bins:
    """Films of one category in bins of neighbouring probabilities.

    Attributes
    ----------
    index
        (N,) bin of each film, -1 where the label is not known.
    edges
        (B - 1,) inner edges; a film at an edge is in the upper bin.
    """

    index: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, labels: np.ndarray, edges: np.ndarray) -> Bins:
        """Bins between given edges and, within these, of about equally many films."""
        known = ~np.isnan(labels)
        p = np.asarray(probabilities, np.float64)
        if known.any():
            quantiles = np.quantile(p[known], np.arange(1, _BINS) / _BINS, method="nearest")
            edges = np.union1d(edges, quantiles)
        index = np.searchsorted(edges, p, side="right")
        return cls(np.where(known, index, -1), edges)

    @property
    def n(self) -> int:
        return len(self.edges) + 1

    def totals(self, values: np.ndarray) -> np.ndarray:
        """(B,) sums of films' values in each bin."""
        known = self.index >= 0
        return np.bincount(self.index[known], values[known], minlength=self.n)


@dataclass(frozen=True)
class CalibrationCurve:
    """A category's curve, with intervals by the bootstrap.

    Attributes
    ----------
    stated, observed, low, high
        (P,) the curve in [0, 1] and its pointwise interval.
    ici, e50, e90
        (value, low, high): mean, median and ninth decile of the distance.
    ici_if_true
        The mean ICI of labels that follow the stated probabilities exactly, on as many films: the
        noise of the curve itself, below which nothing is measured.
    """

    stated: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ici: tuple[float, float, float]
    e50: tuple[float, float, float]
    e90: tuple[float, float, float]
    ici_if_true: float


def calibration_curve(
    probabilities: np.ndarray,
    labels: np.ndarray,
    bins: Bins,
    films: np.ndarray,
    positives: np.ndarray,
    level: float = 0.95,
    seed: int = 0,
) -> CalibrationCurve | None:
    """The smoothed calibration curve of one category.

    Parameters
    ----------
    probabilities
        (N,) in [0, 1].
    labels
        (N,) in {1, 0, NaN}; NaN is not counted.
    bins
        Of these films.
    films, positives
        (R, B) replicates of a bootstrap: films and positives in each bin.
    level, seed
        Coverage of the intervals; of the draws of `ici_if_true`.

    Returns
    -------
    CalibrationCurve or None
        None without a known positive or negative, or if all probabilities are equal.
    """
    known = ~np.isnan(labels)
    p, y = np.asarray(probabilities, np.float64)[known], np.asarray(labels, np.float64)[known]
    if not (y == 1).any() or not (y == 0).any() or p.min() == p.max():
        return None
    at = _places(p)
    observed = np.clip(lowess(p, y, at), 0, 1)
    distance = np.abs(np.interp(p, at, observed) - p)
    number = np.bincount(bins.index[known], minlength=bins.n)
    used = np.flatnonzero(number)
    middles = bins.totals(np.where(known, probabilities, 0))[used] / number[used]
    kernel = Kernel(p, middles, at)
    replicated = np.clip(kernel.curve(films[:, used], positives[:, used]), 0, 1)
    low, high = percentiles(replicated, level)
    figures = _distances(replicated, at, middles, films[:, used])
    limits = [percentiles(figure, level) for figure in figures]
    estimates = distance.mean(), np.median(distance), np.quantile(distance, 0.9)
    ici, e50, e90 = (
        (float(estimate), float(ends[0]), float(ends[1]))
        for estimate, ends in zip(estimates, limits, strict=True)
    )
    every = np.tile(number[used], (_TRUE_DRAWS, 1)).astype(np.float64)
    drawn = np.random.default_rng(seed).binomial(number[used], middles, every.shape)
    true = np.clip(kernel.curve(every, drawn.astype(np.float64)), 0, 1)
    noise = float(_distances(true, at, middles, every)[0].mean())
    return CalibrationCurve(at, observed, low, high, ici, e50, e90, noise)


def _places(p: np.ndarray) -> np.ndarray:
    """(P,) where the curve is read: at quantiles of the films, and evenly between the ends."""
    half = _PLACES // 2
    quantiles = np.quantile(p, np.linspace(0, 1, half), method="nearest")
    return np.union1d(quantiles, np.linspace(p.min(), p.max(), half))


def _distances(
    curves: np.ndarray, at: np.ndarray, middles: np.ndarray, films: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(R,) mean, median and ninth decile over the films of |curve - probability|, by bins."""
    right = np.clip(np.searchsorted(at, middles), 1, len(at) - 1)
    share = (middles - at[right - 1]) / (at[right] - at[right - 1])
    # A bin that a replicate drew no film of has no part; its curve may be undefined there.
    curves = np.nan_to_num(curves)
    read = curves[:, right - 1] * (1 - share) + curves[:, right] * share
    distance = np.abs(read - middles)
    total = films.sum(axis=1)
    mean = (distance * films).sum(axis=1) / total
    order = np.argsort(distance, axis=1)
    running = np.cumsum(np.take_along_axis(films, order, axis=1), axis=1) / total[:, None]
    ranked = np.take_along_axis(distance, order, axis=1)
    rows = np.arange(len(films))
    median, decile = (
        ranked[rows, np.minimum((running < q - 1e-9).sum(axis=1), ranked.shape[1] - 1)]
        for q in (0.5, 0.9)
    )
    return mean, median, decile
