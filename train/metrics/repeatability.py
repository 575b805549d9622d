"""By how much two measurements of something that has not changed differ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from train.metrics.bootstrap import draw_groups, percentiles

__all__ = ["Repeatability", "repeatability"]


@dataclass(frozen=True)
class Repeatability:
    """The repeatability coefficient of each category.

    Attributes
    ----------
    limit, low, high
        (C,) of absolute differences, with the 95 % bootstrap interval; NaN where the pairs are too
        few. The interval's upper end is too low where the limit is the largest difference, beyond
        which no replicate goes.
    pairs, groups
        How many pairs there are, and of how many groups.
    level
        The share of pairs that differ by no more than the limit.
    """

    limit: np.ndarray
    low: np.ndarray
    high: np.ndarray
    pairs: int
    groups: int
    level: float


def repeatability(
    differences: np.ndarray,
    groups: np.ndarray,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> Repeatability:
    """The difference that a share of all pairs does not exceed, whatever its sign.

    Parameters
    ----------
    differences
        (P, C) of P pairs, in C categories; finite.
    groups
        (P,) the patient of each pair, for the interval.
    level
        The share, in (0, 1).
    replicates, seed
        Of the bootstrap over groups.

    Returns
    -------
    Repeatability

    Raises
    ------
    ValueError
        If a shape, the level or a difference is not as said.

    Notes
    -----
    ISO 5725-1 (3.16) calls this the repeatability limit; the normal distribution that its usual
    formula, 2.77 standard deviations of one measurement, needs is not assumed. The limit is the
    k-th smallest absolute difference, k = ceil(level * (P + 1)), so that the difference of a new
    pair that is exchangeable with these exceeds it with a chance of at most 1 - level (split
    conformal prediction; Vovk et al., 2005). With fewer than level / (1 - level) pairs there is no
    such limit. Pairs of one patient are exchangeable with those of another only in part.
    """
    differences, groups = np.asarray(differences, np.float64), np.asarray(groups)
    if differences.ndim != 2 or groups.shape != differences.shape[:1]:
        raise ValueError(
            f"differences {differences.shape} and groups {groups.shape} must be (P, C) and (P,)"
        )
    if not 0 < level < 1:
        raise ValueError(f"a share lies between 0 and 1, not at {level:g}")
    if not np.isfinite(differences).all():
        raise ValueError("a difference is not finite")
    sizes, pairs = np.abs(differences), len(differences)
    names, member = np.unique(groups, return_inverse=True)
    nothing = np.full(differences.shape[1], np.nan)
    if _rank(pairs, level) > pairs:
        return Repeatability(nothing, nothing, nothing, pairs, len(names), level)
    order = np.argsort(sizes, axis=0)
    ordered = np.take_along_axis(sizes, order, axis=0)
    drawn = np.full((replicates, differences.shape[1]), np.nan)
    (counts,) = draw_groups(len(names), replicates, seed, replicates)
    for replicate, weights in enumerate(counts[member].T):  # how often each pair is drawn
        total = int(weights.sum())
        rank = min(_rank(total, level), total)
        places = (np.cumsum(weights[order], axis=0) < rank).sum(axis=0)
        drawn[replicate] = ordered[places, np.arange(len(places))] if total else np.nan
    low, high = percentiles(drawn, 0.95)
    return Repeatability(ordered[_rank(pairs, level) - 1], low, high, pairs, len(names), level)


def _rank(pairs: int, level: float) -> int:
    return math.ceil(level * (pairs + 1) - 1e-9)
