"""Whether the bands of a model folder keep on test films what they promise, also by subgroup.

A band rules a finding in or out at stated error rates (`cft.model.conformal`). That holds for films
that are exchangeable with those that set its limits, on average over all of them: nothing promises
it for women, for the old or for another hospital, so it is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.evaluation.scores import FEW
from train.metrics.bootstrap import bootstrap_totals, percentiles
from train.metrics.decisions import finite_or_none, wilson_interval

__all__ = ["RATES", "band_coverage"]

#: What is counted: name in the results -> what it is.
RATES = {
    "covered_positives": "films with the finding that are not ruled out",
    "covered_negatives": "films without it that are not ruled in",
    "ruled_in": "films that are ruled in",
    "ruled_out": "films that are ruled out",
    "unsure": "films that are neither",
}


def band_coverage(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    label_names: Sequence[str],
    bands: Mapping[str, Mapping[str, Any]],
    subgroups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """How often each category's band is right, and how often it leaves a finding open.

    Parameters
    ----------
    scores, labels, groups, label_names, replicates, seed, level
        As in `train.evaluation.scores.evaluate_scores`.
    bands
        Category -> what `cft.model.conformal.conformal_band` gives.
    subgroups
        Attribute -> value -> rows.

    Returns
    -------
    dict
        ``promised``: ``positives`` and ``negatives``, the coverage that the bands state, None where
        they differ; ``categories``: label -> ``promised_positives``, ``promised_negatives``,
        ``positives``, ``negatives``, ``films`` and the rates of `RATES`, each with ``_low`` and
        ``_high``; ``mean``: the rates' means over the categories, with intervals; ``subgroups``:
        attribute -> value -> ``films``, ``groups``, ``categories`` and ``mean``.
        A rate is None where the limit that it needs is not there, or there is no such film. There
        is no interval with fewer than ten patients.

    Notes
    -----
    Covered is what the promise is about: a film with the finding counts if its probability is not
    below ``rule_out``, one without if it is below ``rule_in``. Where the two limits cross, a film
    beyond both is covered by neither and is called unsure; so the shares that are ruled in and out
    by mistake are at most what is not covered. Unknown labels count among the films of the last
    three rates only.
    """
    labelled = [c for c, label in enumerate(label_names) if bands.get(label)]
    names = [label_names[c] for c in labelled]
    of = [bands[label] for label in names]
    # Column by column: the top and the bottom of each rate.
    tops, bottoms = _counted(scores[:, labelled], labels[:, labelled], of)
    draws = {"replicates": replicates, "seed": seed}

    def figures(rows: np.ndarray) -> dict[str, Any]:
        return _figures(tops[:, rows], bottoms[:, rows], groups[rows], names, of, draws, level)

    everything = np.arange(len(labels))
    promised = {key: {row[f"{key}_error"] for row in of} for key in ("rule_out", "rule_in")}
    return {
        "promised": {
            "positives": _only(promised["rule_out"]),
            "negatives": _only(promised["rule_in"]),
        },
        **figures(everything),
        "subgroups": {
            attribute: {value: figures(rows) for value, rows in values.items()}
            for attribute, values in subgroups.items()
        },
    }


def _only(errors: set[float]) -> float | None:
    return 1 - errors.pop() if len(errors) == 1 else None


def _counted(
    p: np.ndarray, y: np.ndarray, bands: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """(rates, N, C) whether a film counts for each rate, and whether it could; NaN: no limit."""
    out = np.array([np.nan if band["rule_out"] is None else band["rule_out"] for band in bands])
    into = np.array([np.nan if band["rule_in"] is None else band["rule_in"] for band in bands])
    below, above = p < out, p >= into  # False where there is no limit
    ruled_in, ruled_out = above & ~below, below & ~above
    positive, negative, every = y == 1, y == 0, np.ones(p.shape, bool)
    tops = [positive & ~below, negative & ~above, ruled_in, ruled_out, ~(ruled_in | ruled_out)]
    bottoms = np.stack([positive, negative, every, every, every]).astype(float)
    no_out, no_in = np.isnan(out), np.isnan(into)
    for rate, missing in enumerate((no_out, no_in, no_in, no_out, no_out | no_in)):
        bottoms[rate][:, missing] = np.nan
    return np.stack(tops).astype(float), bottoms


def _figures(
    tops: np.ndarray,
    bottoms: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    bands: Sequence[Mapping[str, Any]],
    draws: dict[str, int],
    level: float,
) -> dict[str, Any]:
    """Rates of some films, of each category and on average."""
    shape = tops.shape[0], tops.shape[2]
    estimate = _ratio(tops.sum(axis=1), bottoms.sum(axis=1))
    values = np.concatenate([*tops, *np.nan_to_num(bottoms)], axis=1)
    totals = bootstrap_totals(values, groups, **draws)
    drawn = _ratio(*(half.reshape(-1, *shape) for half in np.split(totals, 2, axis=1)))
    drawn[:, np.isnan(estimate)] = np.nan
    low, high = percentiles(drawn.reshape(len(drawn), -1), level)
    low, high = low.reshape(shape), high.reshape(shape)
    patients = np.array(
        [[len(np.unique(groups[column > 0])) for column in rate.T] for rate in bottoms]
    ).reshape(shape)
    for place in zip(*np.nonzero((estimate == 0) | (estimate == 1)), strict=True):
        # Drawn again and again, films that are all alike show no spread.
        low[place], high[place] = wilson_interval(float(estimate[place]), patients[place], level)
    low[patients < FEW], high[patients < FEW] = np.nan, np.nan
    categories = {
        label: {
            "promised_positives": 1 - bands[c]["rule_out_error"],
            "promised_negatives": 1 - bands[c]["rule_in_error"],
            "positives": int(np.nansum(bottoms[0][:, c])),
            "negatives": int(np.nansum(bottoms[1][:, c])),
            "films": tops.shape[1],
            **_limited(estimate[:, c], low[:, c], high[:, c]),
        }
        for c, label in enumerate(names)
    }
    return {
        "films": tops.shape[1],
        "groups": len(np.unique(groups)),
        "categories": categories,
        "mean": _mean(estimate, drawn, level, len(np.unique(groups)) >= FEW),
    }


def _mean(estimate: np.ndarray, drawn: np.ndarray, level: float, enough: bool) -> dict[str, Any]:
    """Means over the categories in which a rate is defined, in the films and in each replicate."""
    means, ends = np.full(len(estimate), np.nan), np.full((2, len(estimate)), np.nan)
    for rate, of_category in enumerate(estimate):
        defined = ~np.isnan(of_category)
        if defined.any():
            means[rate] = of_category[defined].mean()
            if enough:
                ends[:, rate] = percentiles(drawn[:, rate][:, defined].mean(axis=1), level)
    return _limited(means, *ends)


def _limited(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, float | None]:
    rows = zip(RATES, value, low, high, strict=True)
    return {
        f"{name}{end}": finite_or_none(x)
        for name, *of in rows
        for end, x in zip(("", "_low", "_high"), of, strict=True)
    }


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
