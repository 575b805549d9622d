"""How many films an interval of a stated width needs, and how small a difference films can show."""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["auroc_error", "detectable_difference", "positives_needed"]


def auroc_error(auroc: float, positives: float, negatives: float) -> float:
    """Standard error of an AUROC by Hanley and McNeil (Radiology 143 (1982) 29)."""
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc)
    variance += (positives - 1) * (q1 - auroc**2) + (negatives - 1) * (q2 - auroc**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))


def positives_needed(
    auroc: float, prevalence: float, width: float, level: float = 0.95, now: tuple | None = None
) -> int:
    """Positives for an interval of the AUROC that is no wider than `width`.

    Parameters
    ----------
    auroc
        What is expected, in (0, 1).
    prevalence
        Share of positives among the films, in (0, 1).
    width
        From the lower to the upper limit.
    level
        Coverage.
    now
        (positives, width) of films that were measured: their width, which knows how films of a
        patient depend on each other, scales the formula's. None: films are independent.

    Returns
    -------
    int
        At least 2.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    odds = (1 - prevalence) / prevalence

    def of(positives: float) -> float:
        return 2 * z * auroc_error(auroc, positives, max(positives * odds, 1.0))

    inflation = 1.0 if now is None else max(now[1] / of(now[0]), 1.0)
    low, high = 1, 2
    while of(high) * inflation > width:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if of(middle) * inflation <= width else (middle, high)
    return high


def detectable_difference(error: float, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest true difference that a test finds with some power.

    Parameters
    ----------
    error
        Standard error of the (paired) difference.
    power, level
        Chance to find it; 1 minus the two-sided error rate.
    """
    normal = NormalDist()
    return (normal.inv_cdf(0.5 + level / 2) + normal.inv_cdf(power)) * error
