"""What is chosen on validation films, judged on those among them that had no part in the choice.

A threshold or a scaling looks better on the films that chose it than on new ones. So the patients
are dealt into folds; what is fitted without a fold decides about the films of that fold, and the
figures are those of all films together (Stone, J. R. Stat. Soc. B 1974). The thing that is used in
the end is fitted to all films.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cft.model.calibration import apply_platt, fit_platt, operating_point
from train.metrics.calibration import log_loss
from train.metrics.decisions import finite_or_none, rates

__all__ = [
    "DATA",
    "FOLDS",
    "POINTS",
    "cross_fitted_point",
    "cross_fitted_points",
    "deal",
    "platt_if_it_helps",
]

FOLDS = 5

#: On which films the figures of an operating point were measured, for the model folder.
DATA = f"validation films, cross-fitted by patient in {FOLDS} folds"

#: Name of an operating point in the model folder -> the rule that chooses it. The first is the
#: default.
POINTS = {"specific": "specificity", "balanced": "youden", "sensitive": "sensitivity"}


def deal(labels: np.ndarray, groups: np.ndarray, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Deal the patients of one category into folds, those with positives evenly.

    Parameters
    ----------
    labels
        (N,) in {1, 0}.
    groups
        (N,) patient of each film.
    folds, seed
        How many, and of the order in which the patients are dealt.

    Returns
    -------
    numpy.ndarray
        (N,) fold of each film. All films of a patient are in one, and two patients with a positive
        (or two with a negative) are never both in the only fold that has one.
    """
    patients, index = np.unique(groups, return_inverse=True)
    positives = np.bincount(index, weights=labels, minlength=len(patients))
    films = np.bincount(index, minlength=len(patients))
    # Positives alone, both, negatives alone: each kind of case is a run of neighbours.
    kind = np.where(positives == films, 0, np.where(positives > 0, 1, 2))
    order = np.lexsort((np.random.default_rng(seed).permutation(len(patients)), kind))
    fold = np.empty(len(patients), int)
    fold[order] = np.arange(len(patients)) % folds
    return fold[index]


def cross_fitted_point(
    probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray, rule: str, name: str
) -> dict[str, Any] | None:
    """An operating point of one category, with figures that hold for other films.

    Parameters
    ----------
    probabilities
        (N,) in [0, 1].
    labels
        (N,) of 1, 0 and NaN; NaN (unknown) is left out.
    groups
        (N,) patient of each film.
    rule
        One of `cft.model.calibration.RULES`.
    name
        What the point is called.

    Returns
    -------
    dict or None
        ``name``; ``threshold``, chosen on all films; ``sensitivity`` and ``specificity``, pooled
        over the folds, at thresholds that were chosen without them; ``rule``; ``data``. None with
        too few cases (see `cft.model.calibration.operating_point`), where all positives, or all
        negatives, are of one patient, or where the rule asks for a threshold above 1.
    """
    chosen = operating_point(probabilities, labels, rule)
    if chosen is None or float(chosen["threshold"]) > 1:
        return None
    known = ~np.isnan(labels)
    p, y, people = probabilities[known], labels[known], groups[known]
    if min(len(np.unique(people[y == value])) for value in (0, 1)) < 2:
        return None
    called, fold = np.zeros(len(y), bool), deal(y, people)
    for k in np.unique(fold):
        rest = fold != k
        point = operating_point(p[rest], y[rest], rule, min_cases=1)
        assert point is not None  # `deal` leaves a positive and a negative outside every fold
        called[~rest] = p[~rest] >= point["threshold"]
    outcomes = (called & (y == 1), called & (y == 0), ~called & (y == 0), ~called & (y == 1))
    pooled = rates(*(films.sum() for films in outcomes))
    return {
        "name": name,
        **chosen,
        "sensitivity": float(pooled["sensitivity"]),
        "specificity": float(pooled["specificity"]),
        "data": DATA,
    }


def cross_fitted_points(
    probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> dict[str, dict[str, Any] | None]:
    """All of `POINTS` of one category, by name; see `cross_fitted_point`."""
    return {
        name: cross_fitted_point(probabilities, labels, groups, rule, name)
        for name, rule in POINTS.items()
    }


def platt_if_it_helps(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[tuple[float, float] | None, dict[str, Any] | None]:
    """The Platt scaling of one category, or none where the scores are as good as they are.

    Parameters
    ----------
    scores
        (N,) logits.
    labels, groups
        As in `cross_fitted_point`.

    Returns
    -------
    platt
        (scale, bias), fitted to all films; None with too few cases, and where the cross-fitted log
        loss is not lower with it than without.
    evidence
        ``log_loss_as_trained`` and ``log_loss_scaled``, both cross-fitted, and ``scaled``, which of
        the two is used; None with too few cases.
    """
    platt = fit_platt(scores, labels)
    if platt is None:
        return None, None
    known = ~np.isnan(labels)
    x, y, people = scores[known].astype(np.float64), labels[known], groups[known]
    as_trained = apply_platt(x, 1.0, 0.0)
    scaled, fold = as_trained.copy(), deal(y, people)
    for k in np.unique(fold):
        rest = fold != k
        fitted = fit_platt(x[rest], y[rest])  # None with too few cases: these stay as trained
        if fitted is not None:
            scaled[~rest] = apply_platt(x[~rest], *fitted)
    before, after = log_loss(as_trained, y), log_loss(scaled, y)
    evidence = {
        "log_loss_as_trained": finite_or_none(before),
        "log_loss_scaled": finite_or_none(after),
        "scaled": bool(after < before),
    }
    return (platt if after < before else None), evidence
