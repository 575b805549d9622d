"""Whether stated probabilities are true."""

from __future__ import annotations

import numpy as np

from train.metrics.decisions import finite_or_none

__all__ = ["calibration_error", "calibration_figures", "calibration_slope", "log_loss"]

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
    known = ~np.isnan(labels)
    p, y = np.asarray(probabilities, np.float64)[known], np.asarray(labels, np.float64)[known]
    if not (y == 1).any() or not (y == 0).any():
        return np.nan
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    x = np.log(p) - np.log1p(-p)
    low, high = x[y == 0], x[y == 1]
    if x.std() < 1e-12 or low.max() <= high.min() or high.max() <= low.min():
        return np.nan
    from sklearn.linear_model import LogisticRegression  # slow to import, and not always needed

    standard = (x - x.mean()) / x.std()  # well conditioned
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(standard[:, None], y)
    return float(fit.coef_[0, 0] / x.std())


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
