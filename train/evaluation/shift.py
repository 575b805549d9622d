"""Two data sets with shared labels: does a model rank worse there, or are only its numbers off?

A rarer finding or another camera moves probabilities without moving the order of the films: the
AUROC stays, the calibration does not, and one number for each category may mend it. Where the
ranking itself is worse, nothing of that kind helps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import NormalDist
from typing import Any

import numpy as np

from cft.model.odds import logit, sigmoid
from train.errors import EvaluationError
from train.evaluation.predictions import Predictions, Truth
from train.metrics.bootstrap import Bootstrap, bootstrap_auroc, bootstrap_totals, percentiles
from train.metrics.calibration import recalibration
from train.metrics.comparison import Comparison, compare_replicates, holm
from train.metrics.decisions import finite_or_none

__all__ = ["MEASURES", "named_as_here", "shift_of"]

#: What may differ: name in the results -> (what it is, "ranking" or "calibration").
MEASURES = {
    "auroc": ("AUROC", "ranking"),
    "calibration_intercept": ("Calibration intercept", "calibration"),
    "calibration_slope": ("Calibration slope", "calibration"),
}

# Smaller than this, a corrected p is called a difference.
_ALPHA = 0.05


def named_as_here(
    label_names: Sequence[str], names: Mapping[str, str], dataset: str
) -> tuple[str, ...]:
    """The categories of a second data set under the names that they have in the first.

    Parameters
    ----------
    label_names
        The categories there.
    names
        Category here -> its name there.
    dataset
        What a message calls the second data set.

    Raises
    ------
    EvaluationError
        If it has no such category, or another one of the new name.
    """
    here = {there: name for name, there in names.items()}
    for name, there in names.items():
        if there not in label_names:
            raise EvaluationError(
                f"--shift-map: {dataset} has no category {there!r}; it has {', '.join(label_names)}"
            )
        if name in label_names and name not in here:
            raise EvaluationError(
                f"--shift-map calls {there!r} {name!r}, and {dataset} has another {name!r}"
            )
    return tuple(here.get(label, label) for label in label_names)


def shift_of(
    first: tuple[Truth, Predictions],
    second: tuple[Truth, Predictions],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """A model on a second data set beside itself on the first.

    Parameters
    ----------
    first, second
        (labels, scores of the same model) of two sets of films that share no patient.
    replicates, seed, level
        Of the bootstrap.

    Returns
    -------
    dict
        ``categories``: label -> ``positives`` and ``prevalence``, [first, second]; for each of
        `MEASURES` ``first``, ``second``, ``difference`` (second minus first), ``low``, ``high``,
        ``p``, ``p_holm`` (over the categories); ``differs``, which of "ranking" and "calibration"
        differ at a corrected p below 0.05; and ``recalibrated``: what the second set's Brier score
        would be with the probabilities moved by one number (`_moved`): ``before``, ``after``,
        ``difference``, ``low``, ``high``, and ``intercept``, that number. ``mean``: of the AUROC
        over the categories that are defined on both sides.
        The AUROC's differences are by an unpaired bootstrap over patients, those of calibration by
        the robust errors of both sides. None where undefined or the scores are no probabilities.

    Raises
    ------
    ValueError
        If no category is known on both sides.
    """
    names = [
        label
        for label in first[1].label_names
        if label in second[1].label_names
        and label in first[0].label_names
        and label in second[0].label_names
    ]
    if not names:
        raise ValueError("the two data sets share no category that the model predicts")
    sides = [
        (model.columns(names), truth.columns(names), truth.groups)
        for truth, model in (first, second)
    ]
    # Different draws on both sides: with as many patients the same seed would draw the same ones.
    areas = [
        bootstrap_auroc(*side, replicates=replicates, seed=seed + i, level=level)
        for i, side in enumerate(sides)
    ]
    stated = [
        first[1].probabilities and second[1].probabilities and _probable(sides, c)
        for c in range(len(names))
    ]
    area = compare_replicates(
        areas[1].estimate - areas[0].estimate, areas[1].replicates - areas[0].replicates, level
    )
    rows: dict[str, dict[str, Any]] = {}
    for c, label in enumerate(names):
        columns = [(p[:, c], y[:, c], groups) for p, y, groups in sides]
        rows[label] = {
            "positives": [int(np.sum(y == 1)) for _, y, _ in columns],
            "prevalence": [_share(y) for _, y, _ in columns],
            "auroc": _of_areas(areas, area, c),
            **(_calibration(columns, level) if stated[c] else dict.fromkeys(_CALIBRATION)),
            "recalibrated": _what_if(*columns[1], replicates, seed, level) if stated[c] else None,
        }
    _correct(rows)
    for row in rows.values():
        row["differs"] = list(
            dict.fromkeys(
                kind
                for name, (_, kind) in MEASURES.items()
                if row[name] and row[name]["p_holm"] is not None and row[name]["p_holm"] < _ALPHA
            )
        )
    return {"categories": rows, "mean": _mean(areas, level)}


_CALIBRATION = ("calibration_intercept", "calibration_slope")


def _probable(sides: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], c: int) -> bool:
    return all(((p[:, c] >= 0) & (p[:, c] <= 1)).all() for p, _, _ in sides)


def _share(y: np.ndarray) -> float | None:
    known = y[~np.isnan(y)]
    return float(known.mean()) if len(known) else None


def _of_areas(areas: Sequence[Bootstrap], difference: Comparison, c: int) -> dict[str, Any]:
    alone = any(math.isnan(of.low[c]) for of in areas)  # a single patient on a side
    return {
        "first": finite_or_none(areas[0].estimate[c]),
        "second": finite_or_none(areas[1].estimate[c]),
        "difference": finite_or_none(difference.difference[c]),
        **{
            name: None if alone else finite_or_none(getattr(difference, name)[c])
            for name in ("low", "high", "p")
        },
    }


def _mean(areas: Sequence[Bootstrap], level: float) -> dict[str, Any]:
    both = ~np.isnan(areas[0].estimate) & ~np.isnan(areas[1].estimate)
    if not both.any():
        return dict.fromkeys(("first", "second", "difference", "low", "high", "p"))
    means = [float(of.estimate[both].mean()) for of in areas]
    drawn = [of.replicates[:, both].mean(axis=1, keepdims=True) for of in areas]
    found = compare_replicates(np.array([means[1] - means[0]]), drawn[1] - drawn[0], level)
    return {
        "first": means[0],
        "second": means[1],
        **{
            name: finite_or_none(getattr(found, name)[0])
            for name in ("difference", "low", "high", "p")
        },
    }


def _calibration(
    columns: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], level: float
) -> dict[str, dict[str, float | None]]:
    """Intercept and slope on both sides, and their differences by Wald's intervals."""
    fits = [asdict(recalibration(*column, level)) for column in columns]
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rows = {}
    for name in ("intercept", "slope"):
        errors = [(fit[f"{name}_high"] - fit[f"{name}_low"]) / (2 * z) for fit in fits]
        difference, error = fits[1][name] - fits[0][name], math.hypot(*errors)
        known = math.isfinite(difference) and math.isfinite(error) and error > 0
        p = math.erfc(abs(difference) / error / math.sqrt(2)) if known else None
        rows[f"calibration_{name}"] = {
            "first": finite_or_none(fits[0][name]),
            "second": finite_or_none(fits[1][name]),
            "difference": finite_or_none(difference),
            "low": finite_or_none(difference - z * error),
            "high": finite_or_none(difference + z * error),
            "p": p,
        }
    return rows


def _what_if(
    p: np.ndarray, y: np.ndarray, groups: np.ndarray, replicates: int, seed: int, level: float
) -> dict[str, float | None]:
    """The Brier score before and after a recalibration in the large."""
    known = ~np.isnan(y)
    p, y, groups = p[known], y[known], groups[known]
    moved = _moved(p, y, groups, seed)
    if not len(y) or np.isnan(moved).any():
        return dict.fromkeys(("before", "after", "difference", "low", "high", "intercept"))
    squared = [(x - y) ** 2 for x in (p, moved)]
    change = squared[1] - squared[0]
    columns = np.stack([change, np.ones(len(y))], axis=1)
    totals = bootstrap_totals(columns, groups, replicates=replicates, seed=seed)
    low, high = percentiles(totals[:, :1] / totals[:, 1:], level)
    return {
        "before": float(squared[0].mean()),
        "after": float(squared[1].mean()),
        "difference": float(change.mean()),
        "low": finite_or_none(low[0]),
        "high": finite_or_none(high[0]),
        "intercept": finite_or_none(recalibration(p, y, groups).intercept),
    }


def _moved(p: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities whose logits are moved by the calibration intercept of the other half.

    The patients are halved, and each half is moved by what the other says: no film has a part in
    what is done to it. NaN if a half has no positive or no negative.
    """
    names, index = np.unique(groups, return_inverse=True)
    half = np.random.default_rng(seed).permutation(len(names))[index] % 2
    moved = np.full(len(p), np.nan)
    for side in (0, 1):
        own, other = half == side, half != side
        if not (y[other] == 1).any() or not (y[other] == 0).any():
            continue
        intercept = recalibration(p[other], y[other], groups[other]).intercept
        moved[own] = sigmoid(logit(np.clip(p[own], 1e-9, 1 - 1e-9)) + intercept)
    return moved


def _correct(rows: dict[str, dict[str, Any]]) -> None:
    """Add ``p_holm`` over the categories, for each measure by itself."""
    for name in MEASURES:
        given = [row[name] for row in rows.values() if row[name] is not None]
        p = np.array([np.nan if row["p"] is None else row["p"] for row in given])
        for row, corrected in zip(given, holm(p), strict=True):
            row["p_holm"] = finite_or_none(corrected)
