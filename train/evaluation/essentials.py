"""What a report of probabilities owes its reader besides the AUROC.

Calibration (intercept, slope, a smoothed curve, the distance from it), clinical usefulness
(decision curves) and the distributions of the probabilities by outcome are the set that Van Calster
et al. recommend (arXiv 2412.10288), each with an interval by patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from train.metrics.bootstrap import bootstrap_bins, bootstrap_totals, percentiles
from train.metrics.calibration import recalibration
from train.metrics.calibration_curve import Bins, calibration_curve
from train.metrics.decisions import finite_or_none
from train.metrics.net_benefit import THRESHOLDS, net_benefit, net_benefit_of_all

__all__ = ["essentials"]

# Bars of a distribution, and what is said of it in numbers.
_BARS = 40
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def essentials(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    label_names: Sequence[str],
    *,
    probabilities: bool = True,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, Any]]:
    """Calibration, net benefit and distributions of each category.

    Parameters
    ----------
    scores, labels, groups, label_names, probabilities, replicates, seed, level
        As in `train.evaluation.scores.evaluate_scores`.

    Returns
    -------
    dict
        Label -> ``calibration_intercept``, ``calibration_slope``, ``ici``, ``e50``, ``e90`` and
        ``brier_skill`` (1 minus the Brier score over that of the prevalence), each with ``_low``
        and ``_high``; ``ici_if_true`` (see `train.metrics.calibration_curve.CalibrationCurve`);
        ``calibration_curve``, a list of [stated, observed, low, high]; ``net_benefit``, a list of
        [threshold, model, treat all]; ``net_benefit_interval``, of [threshold, low, high];
        ``net_benefit_gain``, of [threshold, gain, low, high] over the better of treating all and
        none; ``useful``, the ranges [first, last] of thresholds at which that gain's interval lies
        above 0; and ``distribution``. All None where the scores are no probabilities, or where
        undefined.
    """
    p, y = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    usable = [
        bool(probabilities and (column >= 0).all() and (column <= 1).all() and known.any())
        for column, known in zip(p.T, ~np.isnan(y.T), strict=True)
    ]
    bins = [Bins.of(p[:, c], y[:, c], THRESHOLDS) if ok else None for c, ok in enumerate(usable)]
    draws = {"replicates": replicates, "seed": seed}
    skill = _skill(p, y, groups, usable, draws, level)
    # Negatives and positives have bins of their own, so that one draw counts both.
    most = max((of.n for of in bins if of is not None), default=0)
    index = np.full(y.shape, -1)
    for c, of in enumerate(bins):
        if of is not None:
            index[:, c] = np.where(of.index < 0, -1, of.index + most * (y[:, c] == 1))
    counts = bootstrap_bins(index, 2 * most, groups, **draws) if most else None
    result: dict[str, dict[str, Any]] = {}
    for c, (label, of) in enumerate(zip(label_names, bins, strict=True)):
        if of is None or counts is None:
            result[label] = dict.fromkeys(_NAMES)
            continue
        positives = counts[c, :, most : most + of.n].astype(np.float64)
        films = counts[c, :, : of.n] + positives
        result[label] = {
            **_recalibration(p[:, c], y[:, c], groups, level),
            **skill[c],
            **_curve(p[:, c], y[:, c], of, films, positives, level, seed),
            **_decisions(p[:, c], y[:, c], of, films, positives, level),
            "distribution": _distribution(p[:, c], y[:, c]),
        }
    return result


_LIMITED = ("calibration_intercept", "calibration_slope", "ici", "e50", "e90", "brier_skill")
_NAMES = (
    *(f"{name}{end}" for name in _LIMITED for end in ("", "_low", "_high")),
    "ici_if_true",
    "calibration_curve",
    "net_benefit",
    "net_benefit_interval",
    "net_benefit_gain",
    "useful",
    "distribution",
)


def _limited(name: str, value: float, low: float, high: float) -> dict[str, float | None]:
    ends = {"": value, "_low": low, "_high": high}
    return {f"{name}{end}": finite_or_none(x) for end, x in ends.items()}


def _recalibration(
    p: np.ndarray, y: np.ndarray, groups: np.ndarray, level: float
) -> dict[str, float | None]:
    return {
        f"calibration_{name}": finite_or_none(value)
        for name, value in asdict(recalibration(p, y, groups, level)).items()
    }


def _skill(
    p: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    usable: Sequence[bool],
    draws: dict[str, int],
    level: float,
) -> list[dict[str, float | None]]:
    """Per category, the Brier skill with its interval; its reference is the films' prevalence."""
    known = ~np.isnan(y) & np.array(usable)
    values = [np.where(known, (p - np.where(known, y, 0)) ** 2, 0), known & (y == 1), known]
    columns = np.concatenate(values, axis=1)
    estimate = _skills(columns.sum(axis=0)[None])[0]
    low, high = percentiles(_skills(bootstrap_totals(columns, groups, **draws)), level)
    return [_limited("brier_skill", *row) for row in zip(estimate, low, high, strict=True)]


def _skills(totals: np.ndarray) -> np.ndarray:
    """(R, 3 C) sums of squared errors, positives and films -> (R, C) skills."""
    squared, positives, films = np.split(np.asarray(totals, np.float64), 3, axis=1)
    spread = positives * (films - positives)  # films^2 times the prevalence's Brier score
    undefined = np.full(squared.shape, np.nan)
    return 1 - np.divide(squared * films, spread, out=undefined, where=spread > 0)


def _curve(
    p: np.ndarray,
    y: np.ndarray,
    bins: Bins,
    films: np.ndarray,
    positives: np.ndarray,
    level: float,
    seed: int,
) -> dict[str, Any]:
    curve = calibration_curve(p, y, bins, films, positives, level, seed)
    if curve is None:
        names = [f"{name}{end}" for name in ("ici", "e50", "e90") for end in ("", "_low", "_high")]
        return dict.fromkeys([*names, "ici_if_true", "calibration_curve"])
    return {
        **_limited("ici", *curve.ici),
        **_limited("e50", *curve.e50),
        **_limited("e90", *curve.e90),
        "ici_if_true": curve.ici_if_true,
        "calibration_curve": _rows(curve.stated, curve.observed, curve.low, curve.high),
    }


def _decisions(
    p: np.ndarray,
    y: np.ndarray,
    bins: Bins,
    films: np.ndarray,
    positives: np.ndarray,
    level: float,
) -> dict[str, Any]:
    model = net_benefit(p, y)
    everyone = net_benefit_of_all(float(np.nanmean(y)))
    gain = model - np.maximum(everyone, 0)
    first = np.searchsorted(bins.edges, THRESHOLDS) + 1  # the lowest bin that is treated
    treated, found = (
        np.cumsum(counts[:, ::-1], axis=1)[:, ::-1][:, first] for counts in (films, positives)
    )
    total, price = films.sum(axis=1, keepdims=True), THRESHOLDS / (1 - THRESHOLDS)
    prevalence = positives.sum(axis=1, keepdims=True) / total
    drawn = (found - (treated - found) * price) / total
    gains = drawn - np.maximum(net_benefit_of_all(prevalence), 0)
    low, high = percentiles(drawn, level)
    gain_low, gain_high = percentiles(gains, level)
    return {
        "net_benefit": _rows(THRESHOLDS, model, everyone),
        "net_benefit_interval": _rows(THRESHOLDS, low, high),
        "net_benefit_gain": _rows(THRESHOLDS, gain, gain_low, gain_high),
        "useful": _ranges(gain_low > 0),
    }


def _rows(*columns: np.ndarray) -> list[list[float | None]]:
    return [[finite_or_none(x) for x in row] for row in zip(*columns, strict=True)]


def _ranges(holds: np.ndarray) -> list[list[float]]:
    """Runs of thresholds at which something holds, as [first, last]."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], holds.astype(int), [0]])))
    return [
        [float(THRESHOLDS[start]), float(THRESHOLDS[stop - 1])]
        for start, stop in zip(changes[::2], changes[1::2], strict=True)
    ]


def _distribution(p: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Histograms and quantiles of the probabilities by outcome.

    ``edges`` of the bars; ``positives`` and ``negatives``, each with ``counts`` in the bars and
    ``quantiles``, a list of [share, probability].
    """
    known = p[~np.isnan(y)]
    edges = np.linspace(0, max(float(known.max()), 1e-6), _BARS + 1)
    result: dict[str, Any] = {"edges": edges.tolist()}
    for name, value in (("positives", 1), ("negatives", 0)):
        of = p[y == value]
        quantiles = np.quantile(of, _QUANTILES).tolist() if len(of) else []
        result[name] = {
            "counts": np.histogram(of, edges)[0].tolist(),
            "quantiles": [list(pair) for pair in zip(_QUANTILES, quantiles, strict=False)],
        }
    return result
