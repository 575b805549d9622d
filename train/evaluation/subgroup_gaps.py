"""Whether a model serves some patients less well than the others: gaps with intervals.

A gap is a figure of the films of a subgroup minus that of all other films, both in the same
replicates of the bootstrap, because a patient may have films in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.evaluation.scores import FEW, groups_with_each
from train.metrics.bootstrap import Bootstrap, bootstrap_auroc, bootstrap_totals, percentiles
from train.metrics.comparison import Comparison, compare_means, compare_replicates, holm
from train.metrics.decisions import finite_or_none

__all__ = ["GAPS", "add_in_the_large", "subgroup_gaps"]

#: What is compared: name in the results -> what it is.
GAPS = {
    "auroc": "AUROC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "in_the_large": "Observed minus stated share",
}


def subgroup_gaps(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    label_names: Sequence[str],
    subgroups: Mapping[str, Mapping[str, np.ndarray]],
    thresholds: Sequence[float | None],
    stated: Sequence[bool],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, Any]]:
    """Gaps of each subgroup.

    Parameters
    ----------
    scores, labels, groups, label_names, replicates, seed, level
        As in `train.evaluation.scores.evaluate_scores`.
    subgroups
        Attribute -> value -> rows. Films of which the attribute is not known have no part in it.
    thresholds
        (C,) operating points, for sensitivity and specificity.
    stated
        (C,) whether the scores are probabilities, for the gap in the large.

    Returns
    -------
    dict
        Attribute -> value -> ``against``, ``films``, ``groups``; ``mean``, the gap of the mean
        AUROC over the categories that are defined on both sides; and ``categories``: label -> for
        each of `GAPS` ``difference``, ``low``, ``high``, ``p`` and ``p_holm`` (corrected over all
        categories and values of the attribute), None where either side has no case or fewer than
        ten patients of a class. Of an attribute with two values the first stands for both.
    """
    draws = {"replicates": replicates, "seed": seed}
    result: dict[str, dict[str, Any]] = {}
    for attribute, values in subgroups.items():
        known = np.zeros(len(scores), bool)
        for rows in values.values():
            known[rows] = True
        asked = list(values)[: 1 if len(values) == 2 else None]
        found: dict[str, Any] = {}
        for value in asked:
            inside = np.zeros(len(scores), bool)
            inside[values[value]] = True
            sides = [np.where(side[:, None], labels, np.nan) for side in (inside, known & ~inside)]
            areas = [bootstrap_auroc(scores, side, groups, **draws, level=level) for side in sides]
            # What has too few patients on either side has no gap: its interval would be a guess.
            enough = np.all([_enough(side, groups) for side in sides], axis=0)
            rates = [_rates(scores, side, groups, thresholds, stated, draws) for side in sides]
            gaps = {"auroc": _of_areas(*areas)} | {
                name: compare_replicates(
                    rates[0][name][0] - rates[1][name][0],
                    rates[0][name][1] - rates[1][name][1],
                    level,
                )
                for name in rates[0]
            }
            found[value] = {
                "against": next(x for x in values if x != value) if len(values) == 2 else "others",
                "films": int(inside.sum()),
                "groups": len(np.unique(groups[inside])),
                "mean": _mean(*areas),
                "categories": {
                    label: {name: _row(gap, c, bool(enough[c])) for name, gap in gaps.items()}
                    for c, label in enumerate(label_names)
                },
            }
        _correct(found)
        result[attribute] = found
    return result


def add_in_the_large(
    rows: Mapping[str, dict[str, Any]],
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> None:
    """Add to the figures of some films the observed minus the stated share of each category.

    Parameters
    ----------
    rows
        (C) label -> figures, as `train.evaluation.scores.evaluate_scores` gives them of these
        films; gets ``in_the_large`` with ``_low`` and ``_high``: above 0 the probabilities are too
        low. None where the scores are no probabilities; of a single patient there is no interval.
    scores, labels, groups, replicates, seed, level
        Of these films, as in `subgroup_gaps`.
    """
    stated = [row["brier"] is not None for row in rows.values()]
    draws = {"replicates": replicates, "seed": seed}
    undecided = [None] * len(stated)
    found = _rates(scores, labels, groups, undecided, stated, draws)["in_the_large"]
    limits = percentiles(found[1], level)
    known = ~np.isnan(labels)
    for c, row in enumerate(rows.values()):
        row["in_the_large"] = finite_or_none(found[0][c])
        alone = len(np.unique(groups[known[:, c]])) < 2
        for end, value in zip(("low", "high"), limits, strict=True):
            row[f"in_the_large_{end}"] = None if alone else finite_or_none(value[c])


def _enough(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(C,) whether there are ten patients with a positive, and ten with a negative."""
    return groups_with_each(labels, groups).min(axis=0) >= FEW


def _of_areas(first: Bootstrap, second: Bootstrap) -> Comparison:
    return compare_replicates(
        first.estimate - second.estimate, first.replicates - second.replicates, first.level
    )


def _mean(first: Bootstrap, second: Bootstrap) -> dict[str, float | None]:
    both = np.flatnonzero(~np.isnan(first.estimate) & ~np.isnan(second.estimate))
    gap = compare_means(first, second, both)
    return {name: finite_or_none(getattr(gap, name)[0]) for name in _FIELDS}


_FIELDS = ("difference", "low", "high", "p")


def _rates(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    thresholds: Sequence[float | None],
    stated: Sequence[bool],
    draws: dict[str, int],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name of a rate -> its estimate (C,) and its replicates (R, C); NaN where undefined."""
    limits = np.array([np.nan if t is None else t for t in thresholds])
    positive, negative = labels == 1, labels == 0
    known = ~np.isnan(labels)
    called = scores >= limits
    p = np.where(known & np.array(stated), scores, 0)
    surplus = np.where(known, np.nan_to_num(labels) - p, 0)
    columns = [called & positive, positive, ~called & negative, negative, surplus, known]
    values = np.concatenate(columns, axis=1)
    parts = []
    for totals in (values.sum(axis=0)[None], bootstrap_totals(values, groups, **draws)):
        sums = np.split(np.asarray(totals, np.float64), 6, axis=1)
        names = ("sensitivity", "specificity", "in_the_large")
        pairs = zip(names, sums[::2], sums[1::2], strict=True)
        parts.append({name: _ratio(top, bottom) for name, top, bottom in pairs})
    undecided, unstated = np.isnan(limits), ~np.array(stated)
    for part in parts:
        for name, without in zip(part, (undecided, undecided, unstated), strict=True):
            part[name][:, without] = np.nan
    return {name: (parts[0][name][0], parts[1][name]) for name in parts[0]}


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _row(gap: Comparison, c: int, enough: bool) -> dict[str, float | None]:
    return {
        name: finite_or_none(getattr(gap, name)[c]) if enough or name == "difference" else None
        for name in _FIELDS
    }


def _correct(found: Mapping[str, Any]) -> None:
    """Add ``p_holm`` over all categories and values, for each kind of gap by itself."""
    for name in GAPS:
        rows = [row[name] for value in found.values() for row in value["categories"].values()]
        p = np.array([np.nan if row["p"] is None else row["p"] for row in rows])
        for row, corrected in zip(rows, holm(p), strict=True):
            row["p_holm"] = finite_or_none(corrected)
