"""Decision curves: what a model is worth to someone who acts at a stated probability.

Who treats from probability t on holds a false alarm to be worth t / (1 - t) of a case that is
found (Vickers and Elkin, Medical Decision Making 26 (2006) 565). The net benefit is the share of
films that are rightly treated, less the share of those wrongly treated at that price.
"""

from __future__ import annotations

import numpy as np

__all__ = ["THRESHOLDS", "net_benefit", "net_benefit_of_all", "net_benefit_of_rates"]

#: The thresholds of a report's decision curves.
THRESHOLDS = np.arange(1, 100) / 100


def net_benefit(
    probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> np.ndarray:
    """Net benefit of treating the films whose probability is at or above a threshold.

    Parameters
    ----------
    probabilities
        (N,) in [0, 1].
    labels
        (N,) in {1, 0, NaN}; NaN is not counted.
    thresholds
        (T,) in [0, 1).

    Returns
    -------
    numpy.ndarray
        (T,) per film; treating none has 0. NaN without a known label.
    """
    known = ~np.isnan(labels)
    p, y = np.asarray(probabilities, np.float64)[known], np.asarray(labels)[known] == 1
    if not len(p):
        return np.full(len(thresholds), np.nan)
    true, false = (
        len(part) - np.searchsorted(np.sort(part), thresholds, side="left")
        for part in (p[y], p[~y])
    )
    return (true - false * _price(thresholds)) / len(p)


def net_benefit_of_all(prevalence: float, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """(T,) net benefit of treating every film, where a share of them is positive."""
    return prevalence - (1 - prevalence) * _price(thresholds)


def net_benefit_of_rates(
    sensitivity: float,
    false_positive_rate: float,
    prevalence: float,
    thresholds: np.ndarray = THRESHOLDS,
) -> np.ndarray:
    """(T,) net benefit of fixed decisions, such as a radiologist's, at each price of an alarm."""
    found, alarms = sensitivity * prevalence, false_positive_rate * (1 - prevalence)
    return found - alarms * _price(thresholds)


def _price(thresholds: np.ndarray) -> np.ndarray:
    thresholds = np.asarray(thresholds, np.float64)
    return thresholds / (1 - thresholds)
