"""Scores and labels -> one dict of figures with intervals.

A number is computed once, here; the report, the plots, the model card and the page only show what
the dict holds. The dict is plain JSON: an undefined value is None, and a note says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cft.labels import CHEXPERT_5
from train.metrics.bootstrap import (
    Bootstrap,
    bootstrap_auroc,
    bootstrap_average_precision,
    bootstrap_totals,
    percentiles,
)
from train.metrics.calibration import calibration_figures
from train.metrics.comparison import Comparison, compare_bootstrap, compare_delong, compare_means
from train.metrics.decisions import finite_or_none, rates
from train.metrics.delong import delong
from train.tables import counted

__all__ = ["FEW", "RATES", "compare_scores", "evaluate_scores", "named_subsets", "unproven"]

#: With fewer patients (or studies, of a class or in all) than this, an interval is named doubtful.
FEW = 10

#: What is measured at an operating point.
RATES = ("sensitivity", "specificity", "ppv", "f1", "mcc")


def evaluate_scores(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    label_names: Sequence[str],
    *,
    subsets: Mapping[str, Sequence[str]] | None = None,
    operating_points: Mapping[str, float | None] | None = None,
    named_points: Mapping[str, Mapping[str, float | None]] | None = None,
    probabilities: bool = True,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Every metric of one model on one set of films, with intervals.

    Parameters
    ----------
    scores
        (N, C) scores, any real numbers; Brier score and calibration error are given for the
        categories whose scores all lie in [0, 1]. Pass probabilities in float64, so that different
        ones are not rounded to a tie.
    labels
        (N, C) in {1, 0, NaN}; NaN is not counted.
    groups
        (N,) patient or study of each film: the unit that the bootstrap draws.
    label_names
        The C categories.
    subsets
        Name -> categories to average over; see `named_subsets` for the default.
    operating_points
        Category -> threshold in units of `scores` (at or above is positive), or None.
    named_points
        Name -> further operating points of that form.
    probabilities
        False: the scores are something else (ranks, logits) even where they lie in [0, 1].
    replicates, seed, level
        Of the bootstrap.

    Returns
    -------
    dict
        ``categories``: label -> ``auroc`` with ``ci_low`` and ``ci_high`` (bootstrap),
        ``delong_low``, ``delong_high``, ``ap`` with ``ap_low``, ``ap_high``, ``positives``,
        ``negatives``, ``unknown``, ``prevalence``, ``brier``, ``ece``, ``slope``, ``threshold`` and
        at it ``sensitivity``, ``specificity``, ``ppv``, ``f1``, ``mcc``, each of these with
        ``_low`` and ``_high``; ``note`` where something is undefined. ``subsets``: name -> the
        means (``auroc`` and ``ap`` with intervals) and what they are over: ``categories``, of these
        ``defined`` (for AUROC and AP) and ``decided`` (those with a threshold).
        ``points``, if there are named ones: name -> ``categories`` with the threshold and
        its rates, ``decided``, the rates' means, and ``normal``: the ``films`` known to have none
        of the decided findings, how many ``findings`` each is given on average, and ``quiet``, the
        share of them that is given none. Then ``films``, ``groups``, ``replicates``, ``seed``,
        ``level`` and ``notes``.

    Raises
    ------
    ValueError
        If shapes do not fit, a score is NaN, a label is none of {1, 0, NaN}, or a subset names a
        category that is not there.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    label_names, groups = list(label_names), np.asarray(groups)
    if scores.shape != (len(scores), len(label_names)):
        raise ValueError(f"scores have shape {scores.shape} for {len(label_names)} labels")
    draws = {"replicates": replicates, "seed": seed}
    area = bootstrap_auroc(scores, labels, groups, **draws, level=level)
    precision = bootstrap_average_precision(scores, labels, groups, **draws, level=level)
    thresholds = [(operating_points or {}).get(label) for label in label_names]
    decisions = _decisions(scores, labels, groups, thresholds, level, draws)
    brier = _brier(scores if probabilities else None, labels, groups, level, draws)
    categories = {}
    for c, label in enumerate(label_names):
        y = labels[:, c]
        fit = delong(scores[:, c], y, groups)
        low, high = fit.interval(level)
        positives, negatives = int(np.sum(y == 1)), int(np.sum(y == 0))
        categories[label] = {
            "auroc": finite_or_none(area.estimate[c]),
            "ci_low": finite_or_none(area.low[c]),
            "ci_high": finite_or_none(area.high[c]),
            "delong_low": finite_or_none(low[0]),
            "delong_high": finite_or_none(high[0]),
            "positives": positives,
            "negatives": negatives,
            "unknown": len(y) - positives - negatives,
            "prevalence": finite_or_none(np.nanmean(y)) if positives + negatives else None,
            "ap": finite_or_none(precision.estimate[c]),
            "ap_low": finite_or_none(precision.low[c]),
            "ap_high": finite_or_none(precision.high[c]),
            **brier[c],
            **decisions[c],
            "note": _note(scores[:, c], y, groups),
        }
    notes = [f"{label}: {row['note']}" for label, row in categories.items() if row["note"]]
    subsets = named_subsets(label_names) if subsets is None else {"all": label_names, **subsets}
    named = {
        name: _at_point(scores, labels, groups, label_names, points, level, draws)
        for name, points in (named_points or {}).items()
    }
    return {
        "categories": categories,
        **({"points": named} if named else {}),
        "subsets": {
            name: _subset(name, members, label_names, categories, area, precision, notes)
            for name, members in subsets.items()
        },
        "films": len(scores),
        "groups": len(np.unique(groups)),
        "level": level,
        **draws,
        "notes": notes,
    }


def compare_scores(
    first: tuple[str, np.ndarray, Bootstrap],
    second: tuple[str, np.ndarray, Bootstrap],
    labels: np.ndarray,
    groups: np.ndarray,
    label_names: Sequence[str],
) -> dict[str, Any]:
    """Paired comparison of two models' AUROC, first minus second.

    Parameters
    ----------
    first, second
        (name, (N, C) scores, their `train.metrics.bootstrap.bootstrap_auroc` with one seed).
    labels, groups, label_names
        As in `evaluate_scores`.

    Returns
    -------
    dict
        ``first``, ``second``; ``categories``: label -> ``difference`` and, for ``delong`` and for
        ``bootstrap``, ``low``, ``high``, ``p`` and ``p_holm`` (corrected over the categories);
        ``mean``: ``difference``, ``low``, ``high``, ``p`` by the bootstrap; ``subsets``: the same
        by name for each of `named_subsets`, with its ``categories``.
    """
    by_delong = compare_delong(first[1], second[1], labels, groups, first[2].level)
    by_bootstrap, of_mean = compare_bootstrap(first[2], second[2])
    return {
        "first": first[0],
        "second": second[0],
        "categories": {
            label: {
                "difference": finite_or_none(by_delong.difference[c]),
                "delong": _test(by_delong, c),
                "bootstrap": _test(by_bootstrap, c),
            }
            for c, label in enumerate(label_names)
        },
        "mean": _difference(of_mean),
        "subsets": {
            name: {
                "categories": members,
                **_difference(compare_means(first[2], second[2], _columns(members, label_names))),
            }
            for name, members in named_subsets(label_names).items()
        },
    }


def _difference(comparison: Comparison) -> dict[str, float | None]:
    """The single difference of a comparison of means."""
    return {
        "difference": finite_or_none(comparison.difference[0]),
        "low": finite_or_none(comparison.low[0]),
        "high": finite_or_none(comparison.high[0]),
        "p": finite_or_none(comparison.p[0]),
    }


def _columns(members: Sequence[str], label_names: Sequence[str]) -> np.ndarray:
    """(K,) places of some categories among all."""
    return np.array([list(label_names).index(label) for label in members], dtype=int)


def _test(comparison: Comparison, c: int) -> dict[str, float | None]:
    return {
        "low": finite_or_none(comparison.low[c]),
        "high": finite_or_none(comparison.high[c]),
        "p": finite_or_none(comparison.p[c]),
        "p_holm": finite_or_none(comparison.p_holm[c]),
    }


def named_subsets(label_names: Sequence[str]) -> dict[str, list[str]]:
    """The subsets that every report has: ``all``, and ``chexpert_5`` where the five are there."""
    subsets = {"all": list(label_names)}
    if set(CHEXPERT_5) <= set(label_names):
        subsets["chexpert_5"] = list(CHEXPERT_5)
    return subsets


def groups_with_each(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(2, C) number of groups that have a negative, and a positive, of (N, C) labels."""
    index = np.unique(groups, return_inverse=True)[1]
    return np.array(
        [
            [np.count_nonzero(np.bincount(index[column == value])) for column in labels.T]
            for value in (0, 1)
        ]
    )


def _note(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> str | None:
    """Why a category's figures are undefined or say little, as a phrase; None if they do not."""
    known = scores[~np.isnan(labels)]
    if not len(known):
        return "no known label, so nothing is defined"
    if not np.any(labels == 1):
        return "no known positive, so AUROC and AP are undefined"
    if not np.any(labels == 0):
        return "no known negative, so the AUROC is undefined"
    if np.all(known == known[0]):
        return "all scores are equal, so nothing is ranked"
    counts = (int(n) for n in groups_with_each(labels[:, None], groups)[:, 0])
    fewest, name = min(zip(counts, ("negatives", "positives"), strict=True))
    if fewest < FEW:
        return f"too few independent {name} ({fewest}) for an interval that can be trusted"
    return None


def _decisions(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    thresholds: Sequence[float | None],
    level: float,
    draws: dict[str, int],
) -> list[dict[str, float | None]]:
    """Per category, the rates at its threshold with intervals; all None without a threshold."""
    limits = np.array([np.inf if t is None else t for t in thresholds])
    called = scores >= limits
    outcomes = np.concatenate(
        [
            called & (labels == 1),
            called & (labels == 0),
            ~called & (labels == 0),
            ~called & (labels == 1),
        ],
        axis=1,
    )
    estimate = rates(*np.split(outcomes.sum(axis=0), 4))
    replicated = rates(*np.split(bootstrap_totals(outcomes, groups, **draws), 4, axis=1))
    rows: list[dict[str, float | None]] = [{"threshold": t} for t in thresholds]
    for name, values in estimate.items():
        low, high = percentiles(replicated[name], level)
        for c, row in enumerate(rows):
            given = row["threshold"] is not None
            row[name] = finite_or_none(values[c]) if given else None
            row[f"{name}_low"] = finite_or_none(low[c]) if given else None
            row[f"{name}_high"] = finite_or_none(high[c]) if given else None
    return rows


def _at_point(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    label_names: Sequence[str],
    points: Mapping[str, float | None],
    level: float,
    draws: dict[str, int],
) -> dict[str, Any]:
    """What is decided at one operating point of each category: the rates, and on normal films."""
    thresholds = [points.get(label) for label in label_names]
    rows = _decisions(scores, labels, groups, thresholds, level, draws)
    decided = [c for c, threshold in enumerate(thresholds) if threshold is not None]
    limits = np.array([thresholds[c] for c in decided], np.float64)
    normal = (labels[:, decided] == 0).all(axis=1) & bool(decided)
    found = (scores[np.ix_(normal, decided)] >= limits).sum(axis=1)
    return {
        "categories": dict(zip(label_names, rows, strict=True)),
        "decided": [label_names[c] for c in decided],
        **{metric: _mean([rows[c][metric] for c in decided]) for metric in RATES},
        "normal": {
            "films": int(normal.sum()),
            "findings": float(found.mean()) if len(found) else None,
            "quiet": float((found == 0).mean()) if len(found) else None,
        },
    }


def unproven(label_names: Iterable[str], tests: Iterable[Mapping[str, Any]]) -> list[str]:
    """The categories that were tested and that no test shows to be ranked better than chance.

    Parameters
    ----------
    label_names
        The categories.
    tests
        What `evaluate_scores` gives for each test set.

    Returns
    -------
    list
        Those in a test set of which none has an interval of the AUROC that lies above 0.5.
    """
    tests = list(tests)
    found = []
    for label in label_names:
        lows = [t["categories"][label]["ci_low"] for t in tests if label in t["categories"]]
        if lows and not any(low is not None and low > 0.5 for low in lows):
            found.append(label)
    return found


def _brier(
    scores: np.ndarray | None,
    labels: np.ndarray,
    groups: np.ndarray,
    level: float,
    draws: dict[str, int],
) -> list[dict[str, float | None]]:
    """Per category, Brier score with interval, calibration error and slope, or None."""
    known = ~np.isnan(labels)
    if scores is None:
        scores = np.full(labels.shape, np.inf)
    probable = (scores >= 0) & (scores <= 1)
    counted = known & probable
    squared = (np.where(counted, scores, 0) - np.where(counted, labels, 0)) ** 2
    totals = bootstrap_totals(np.concatenate([squared, known], axis=1), groups, **draws)
    sums, counts = np.split(totals, 2, axis=1)
    replicated = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    low, high = percentiles(replicated, level)
    rows = []
    for c in range(labels.shape[1]):
        row = dict.fromkeys(("brier", "brier_low", "brier_high", "ece", "slope"))
        if known[:, c].any() and probable[:, c].all():
            row.update(calibration_figures(scores[:, c], labels[:, c]))
            row["brier_low"], row["brier_high"] = finite_or_none(low[c]), finite_or_none(high[c])
        rows.append(row)
    return rows


def _subset(name, members, label_names, categories, area, precision, notes) -> dict[str, Any]:
    missing = [label for label in members if label not in categories]
    if missing:
        raise ValueError(f"subset {name!r} names {missing[0]!r}, which is no category here")
    columns = _columns(members, label_names)
    defined = [label for label in members if categories[label]["auroc"] is not None]
    left_out = [label for label in members if categories[label]["auroc"] is None]
    if left_out and defined:
        number = counted(len(defined), "category")
        notes.append(
            f"the mean AUROC over {name!r} is that of {number}, without {', '.join(left_out)}"
        )
    elif left_out:
        notes.append(f"there is no mean AUROC over {name!r}: it is undefined in every category")
    result: dict[str, Any] = {"categories": list(members), "defined": defined}
    for metric, low, high, values in (
        ("auroc", "ci_low", "ci_high", area),
        ("ap", "ap_low", "ap_high", precision),
    ):
        figures = values.of_mean(columns)
        result.update(zip((metric, low, high), map(finite_or_none, figures), strict=True))
    for metric in ("brier", "ece"):
        result[metric] = _mean([categories[label][metric] for label in members])
    decided = [label for label in members if categories[label]["threshold"] is not None]
    result["decided"] = decided
    for metric in RATES:
        result[metric] = _mean([categories[label][metric] for label in decided])
    return result


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values; None if there are none or one is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
