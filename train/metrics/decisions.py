"""Rates of decisions, such as sensitivity and specificity, and Wilson's interval of a rate."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

__all__ = ["finite_or_none", "rates", "wilson_interval"]


def finite_or_none(value: float) -> float | None:
    """A Python float for JSON; None if undefined."""
    return float(value) if math.isfinite(value) else None


def rates(
    true_positive: np.ndarray,
    false_positive: np.ndarray,
    true_negative: np.ndarray,
    false_negative: np.ndarray,
) -> dict[str, np.ndarray]:
    """Counts of decisions, any shape -> the rates made of them; NaN where one divides by zero.

    Returns
    -------
    dict
        ``sensitivity``, ``specificity``, ``ppv``, ``f1`` in [0, 1] and ``mcc`` (Matthews
        correlation coefficient) in [-1, 1]. With no positive and none called, F1 is undefined
        (not 0); with one class only, or one decision only, so is the MCC.
    """
    tp, fp, tn, fn = (
        np.asarray(x, dtype=np.float64)
        for x in (true_positive, false_positive, true_negative, false_negative)
    )
    product = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return {
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "ppv": _ratio(tp, tp + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "mcc": _ratio(tp * tn - fp * fn, product),
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def wilson_interval(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of n independent cases; NaN without any.

    References
    ----------
    Wilson, Journal of the American Statistical Association 22 (1927) 209-212.
    """
    if not n > 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)
