"""Paired comparisons of models: DeLong, bootstrap, Holm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from train.metrics.bootstrap import Bootstrap, percentiles
from train.metrics.delong import delong

__all__ = [
    "Comparison",
    "compare_bootstrap",
    "compare_delong",
    "compare_means",
    "compare_replicates",
    "holm",
]


# --- Comparisons --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Paired difference of two models' AUROC per category, first minus second.

    Attributes
    ----------
    difference, low, high
        (C,) difference and its interval.
    p
        (C,) two-sided p-value of "no difference"; NaN where undefined.
    p_holm
        (C,) the same, corrected by Holm over the categories.
    """

    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    p_holm: np.ndarray


def compare_delong(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    level: float = 0.95,
) -> Comparison:
    """Paired DeLong test of two models per category.

    Parameters
    ----------
    first, second
        (N, C) scores of the two models on the same films.
    labels
        (N, C) in {1, 0, NaN}.
    groups
        (N,) patients or studies, see `delong`.
    level
        Coverage of the interval of the difference.
    """
    quantile = NormalDist().inv_cdf(0.5 + level / 2)
    rows = []
    for c in range(labels.shape[1]):
        fit = delong(np.stack([first[:, c], second[:, c]]), labels[:, c], groups)
        difference = fit.estimate[0] - fit.estimate[1]
        variance = fit.covariance[0, 0] + fit.covariance[1, 1] - 2 * fit.covariance[0, 1]
        error = math.sqrt(max(variance, 0.0)) if not np.isnan(variance) else np.nan
        half = quantile * error
        rows.append(
            (difference, difference - half, difference + half, _normal_p(difference, error))
        )
    difference, low, high, p = np.array(rows).T
    return Comparison(difference, low, high, p, holm(p))


def _normal_p(difference: float, error: float) -> float:
    """Two-sided p-value of a difference with a standard error."""
    if np.isnan(difference) or np.isnan(error):
        return np.nan
    if error < 1e-12:  # the same ranking, up to rounding
        return 1.0 if abs(difference) < 1e-12 else 0.0
    return math.erfc(abs(difference) / error / math.sqrt(2))


def compare_bootstrap(first: Bootstrap, second: Bootstrap) -> tuple[Comparison, Comparison]:
    """Paired bootstrap comparison of two models, per category and of the mean.

    Both must come from the same labels, groups and seed, so that replicate r drew the same films
    for both. The p-value is twice the smaller share of replicates on either side of zero, each
    count raised by one, so it is never zero.

    Returns
    -------
    (Comparison, Comparison)
        Over the C categories; and of the mean (arrays of length 1).
    """
    per_category = compare_replicates(
        first.estimate - second.estimate, first.replicates - second.replicates, first.level
    )
    return per_category, compare_means(first, second, np.arange(len(first.estimate)))


def compare_means(first: Bootstrap, second: Bootstrap, columns: np.ndarray) -> Comparison:
    """Paired bootstrap comparison of two models' means over some categories (column indices).

    As `compare_bootstrap`; arrays of length 1. Undefined categories are no part of the means.
    """
    columns = np.asarray(columns)[~np.isnan(first.estimate[columns])]
    difference, replicates = np.array([np.nan]), np.full((len(first.replicates), 1), np.nan)
    if len(columns):
        difference[0] = first.estimate[columns].mean() - second.estimate[columns].mean()
        change = first.replicates[:, columns] - second.replicates[:, columns]
        replicates = change.mean(axis=1, keepdims=True)
    return compare_replicates(difference, replicates, first.level)


def compare_replicates(difference: np.ndarray, replicates: np.ndarray, level: float) -> Comparison:
    """Interval and p-value of (C,) differences from their (R, C) replicates."""
    low, high = percentiles(replicates, level)
    defined = np.count_nonzero(~np.isnan(replicates), axis=0)
    not_positive = np.count_nonzero(replicates <= 0, axis=0)
    not_negative = np.count_nonzero(replicates >= 0, axis=0)
    p = np.minimum(2 * (np.minimum(not_positive, not_negative) + 1) / (defined + 1), 1.0)
    p = np.where(np.isnan(difference), np.nan, p)
    return Comparison(difference, low, high, p, holm(p))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of (C,) p-values; NaN is no test and stays NaN.

    The k-th smallest of n is multiplied by n - k + 1, and never falls below a smaller one
    (Holm, Scandinavian Journal of Statistics 6 (1979) 65-70).
    """
    p = np.asarray(p, dtype=np.float64)
    corrected = np.full(p.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected
