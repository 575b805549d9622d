"""Whether stated probabilities are true."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from cft.model.odds import fit_line
from train.metrics.decisions import finite_or_none

__all__ = [
    "Recalibration",
    "calibration_error",
    "calibration_figures",
    "calibration_slope",
    "log_loss",
    "recalibration",
]

# A probability of exactly 0 or 1 has no logit.
_SMALLEST = 2.0**-24


def calibration_figures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """``brier``, ``ece`` and ``slope`` of one category; None where undefined.

    (N,) probabilities in [0, 1] and labels in {1, 0, NaN}.
    """
    known = ~np.isnan(labels)
    squared = (probabilities[known] - labels[known]) ** 2
    return {
        "brier": finite_or_none(squared.mean()) if len(squared) else None,
        "ece": finite_or_none(calibration_error(probabilities, labels)),
        "slope": finite_or_none(calibration_slope(probabilities, labels)),
    }


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood of one category; NaN without a known label.

    (N,) probabilities in [0, 1] and labels in {1, 0, NaN}; NaN is not counted.
    """
    known = ~np.isnan(labels)
    if not known.any():
        return np.nan
    p = np.clip(np.asarray(probabilities, np.float64)[known], _SMALLEST, 1 - _SMALLEST)
    return float(-np.where(labels[known] == 1, np.log(p), np.log1p(-p)).mean())


def calibration_slope(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Slope of the logistic regression of the labels on the logits (Cox, Biometrika 1958).

    1 is right; below 1 the probabilities are too far from the mean, above too near to it.

    Parameters
    ----------
    probabilities
        (N,) in [0, 1].
    labels
        (N,) in {1, 0, NaN}; NaN is not counted.

    Returns
    -------
    float
        NaN without a known positive or negative, if all probabilities are equal, or if they
        separate the labels, where no slope is too steep.
    """
    x, y, _ = _logits(probabilities, labels, np.arange(len(labels)))
    return _cox(x, y)[1]


def _logits(
    probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and groups of the films whose label is known."""
    known = ~np.isnan(labels)
    p, y = np.asarray(probabilities, np.float64)[known], np.asarray(labels, np.float64)[known]
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    return np.log(p) - np.log1p(-p), y, np.asarray(groups)[known]


def _cox(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(intercept, slope) of the logistic regression of labels on logits; NaN where undefined."""
    if not (y == 1).any() or not (y == 0).any():
        return np.nan, np.nan
    low, high = x[y == 0], x[y == 1]
    if x.std() < 1e-12 or low.max() <= high.min() or high.max() <= low.min():
        return np.nan, np.nan
    mean, spread = x.mean(), x.std()
    slope, intercept = fit_line((x - mean) / spread, y)
    slope /= float(spread)
    return intercept - slope * float(mean), slope


@dataclass(frozen=True)
class Recalibration:
    """What a logistic recalibration would change; 0 and 1 mean that nothing needs it.

    Attributes
    ----------
    intercept, intercept_low, intercept_high
        Of the regression of the labels with the logits as offset (slope 1): calibration in the
        large. Above 0 the probabilities are too low on average, below 0 too high.
    slope, slope_low, slope_high
        Of the regression of the labels on the logits; see `calibration_slope`.
    """

    intercept: float
    intercept_low: float
    intercept_high: float
    slope: float
    slope_low: float
    slope_high: float


def recalibration(
    probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray, level: float = 0.95
) -> Recalibration:
    """Calibration intercept and slope of one category with intervals by group.

    The intervals are Wald's with the cluster-robust variance (Liang and Zeger, Biometrika 73
    (1986) 13), so that films of one patient may depend on each other.

    Parameters
    ----------
    probabilities
        (N,) in [0, 1].
    labels
        (N,) in {1, 0, NaN}; NaN is not counted.
    groups
        (N,) patient or study of each film.
    level
        Coverage of the intervals, in (0, 1).

    Returns
    -------
    Recalibration
        NaN where undefined: without a known positive or negative; the slope also as
        `calibration_slope` says; limits with fewer than three groups.
    """
    x, y, groups = _logits(probabilities, labels, groups)
    intercept, error = _in_the_large(x, y, groups)
    constant, slope = _cox(x, y)
    slope_error = np.nan
    if not math.isnan(slope):
        columns = np.stack([np.ones_like(x), x], axis=1)
        mean = 1 / (1 + np.exp(-(constant + slope * x)))
        slope_error = math.sqrt(_robust(columns, mean, y, groups)[1, 1])
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return Recalibration(
        *(intercept, intercept - z * error, intercept + z * error),
        *(slope, slope - z * slope_error, slope + z * slope_error),
    )


def _in_the_large(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """(intercept, standard error) of the logistic regression with the logits as offset."""
    if not (y == 1).any() or not (y == 0).any():
        return np.nan, np.nan
    intercept = 0.0
    for _ in range(100):  # Newton; steps are bounded, as it may begin where the curve is flat
        mean = 1 / (1 + np.exp(-(intercept + x)))
        step = float(np.sum(y - mean) / max(np.sum(mean * (1 - mean)), 1e-12))
        intercept += max(-2.0, min(2.0, step))
        if abs(step) < 1e-12:
            break
    mean = 1 / (1 + np.exp(-(intercept + x)))
    return intercept, math.sqrt(_robust(np.ones((len(x), 1)), mean, y, groups)[0, 0])


def _robust(columns: np.ndarray, mean: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(K, K) sandwich covariance of a logistic regression's (N, K) columns, scores summed by group.

    NaN with fewer than three groups, where residuals say nothing of their variance.
    """
    names, index = np.unique(groups, return_inverse=True)
    if len(names) < 3:
        return np.full((columns.shape[1],) * 2, np.nan)
    bread = np.linalg.inv((columns * (mean * (1 - mean))[:, None]).T @ columns)
    scores = np.zeros((len(names), columns.shape[1]))
    np.add.at(scores, index, columns * (y - mean)[:, None])
    return bread @ (scores.T @ scores) @ bread * len(names) / (len(names) - 1)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of one category; NaN without a known label.

    The mean over films of the distance between the mean stated probability and the share of
    positives in the film's bin of equal width (Naeini et al., AAAI 2015).

    Parameters
    ----------
    probabilities
        (N,) in [0, 1].
    labels
        (N,) in {1, 0, NaN}; NaN is not counted.
    """
    known = ~np.isnan(labels)
    p, y = np.asarray(probabilities)[known], labels[known]
    if not len(p):
        return np.nan
    index = np.minimum((p * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(index, p) - np.bincount(index, y)).sum() / len(p))
