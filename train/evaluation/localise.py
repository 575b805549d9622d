"""How well a model's maps find what radiologists framed, beside a floor that sees no film.

The floor is chosen in the way the map's level is: on the boxes of the other patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from train.evaluation.boxes import Boxes
from train.metrics.bootstrap import bootstrap_totals, percentiles
from train.metrics.comparison import compare_replicates, holm
from train.metrics.decisions import finite_or_none
from train.metrics.localisation import (
    cross_fitted,
    fixed_box_figures,
    fixed_box_overlaps,
    fixed_point_hits,
    hits,
    map_overlaps,
    peak,
)

__all__ = ["MAP_SIDE", "OVERLAPS", "compare_maps", "floor_of_boxes", "localisation"]

#: Maps are compared with boxes on a grid of this many places a side.
MAP_SIDE = 128

#: What the shares of films with at least so much overlap are given for.
OVERLAPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)

# Figures of a film that are averaged: of the map and of the floor.
_PAIRS = (("hit", "floor_hit"), ("iou", "floor_iou"), ("iobb", "floor_iobb"))
# The same of its shares, one for each of OVERLAPS.
_SHARES = (("at_iou", "floor_at_iou"), ("at_iobb", "floor_at_iobb"))


def localisation(
    maps: Mapping[tuple[str, str], np.ndarray],
    boxes: Boxes,
    patients: Mapping[str, str],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """A model's maps against the boxes.

    Parameters
    ----------
    maps
        (film, finding) -> (H, W) map, for the films that are scored.
    boxes
        The boxes; those of films that are not scored only help to choose the floor.
    patients
        Film -> patient, as far as known; another film is of the patient that the part of its name
        before the first "_" says, as NIH's are.
    replicates, seed, level
        Of the bootstrap over patients.

    Returns
    -------
    dict
        ``categories``: finding -> ``n`` (films), ``hit``, ``floor_hit``, ``hit_difference``, the
        same of ``iou`` and ``iobb`` (means at the level of the map, or for the box, that has the
        largest mean IoU on the other patients), each with ``_low`` and ``_high``; ``at_iou`` and
        ``at_iobb``, lists of [overlap, share of films, floor's share], at the level with the
        largest such share on the other patients (and with such a box), with ``_interval`` and
        ``_floor_interval``, lists of [overlap, low, high], and ``_difference``, a list of [overlap,
        difference, low, high]. ``micro``: the same over all films and findings together.
    """
    rows, draws = _rows(maps, boxes, patients), {"replicates": replicates, "seed": seed}
    return _result(rows, draws, level)


def compare_maps(
    maps: Mapping[str, Mapping[tuple[str, str], np.ndarray]],
    boxes: Boxes,
    patients: Mapping[str, str],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Several kinds of maps of one model against the same boxes, and against each other.

    Parameters
    ----------
    maps
        Kind -> maps as of `localisation`, of the same films and findings.
    boxes, patients, replicates, seed, level
        As of `localisation`.

    Returns
    -------
    dict
        ``kinds``: kind -> what `localisation` gives; ``differences``, a list of ``first``,
        ``second``, and for each of ``hit`` and ``iou`` the ``difference`` first minus second over
        all findings together with ``low``, ``high``, ``p`` and ``p_holm`` (over the pairs), paired.

    Raises
    ------
    ValueError
        If the kinds are not of the same films and findings.
    """
    if len({frozenset(of) for of in maps.values()}) > 1:
        raise ValueError("the kinds of maps are of different films")
    draws = {"replicates": replicates, "seed": seed}
    every = {kind: _rows(of, boxes, patients) for kind, of in maps.items()}
    together = {kind: _together(rows) for kind, rows in every.items() if rows}
    differences = [
        {"first": a, "second": b, **_difference(together[a], together[b], draws, level)}
        for a, b in combinations(together, 2)
    ]
    for name in _COMPARED:
        p = [row[name]["p"] for row in differences]
        corrected = holm(np.array([np.nan if x is None else x for x in p]))
        for row, value in zip(differences, corrected, strict=True):
            row[name]["p_holm"] = finite_or_none(value)
    return {
        "kinds": {kind: _result(rows, draws, level) for kind, rows in every.items()},
        "differences": differences,
    }


# What kinds of maps are compared by.
_COMPARED = ("hit", "iou")


def _difference(
    first: Mapping[str, Any], second: Mapping[str, Any], draws: dict[str, int], level: float
) -> dict[str, Any]:
    change = np.stack([first[name].astype(float) - second[name] for name in _COMPARED], axis=1)
    totals = bootstrap_totals(
        np.column_stack([change, np.ones(len(change))]), first["patients"], **draws
    )
    found = compare_replicates(change.mean(axis=0), totals[:, :-1] / totals[:, -1:], level)
    alone = len(np.unique(first["patients"])) < 2
    return {
        name: {"difference": finite_or_none(found.difference[i])}
        | {
            key: None if alone else finite_or_none(getattr(found, key)[i])
            for key in ("low", "high", "p")
        }
        for i, name in enumerate(_COMPARED)
    }


def _result(rows: list[dict[str, Any]], draws: dict[str, int], level: float) -> dict[str, Any]:
    return {
        "categories": {row["label"]: _figures(row, draws, level) for row in rows},
        "micro": _figures(_together(rows), draws, level) if rows else None,
    }


def _rows(
    maps: Mapping[tuple[str, str], np.ndarray], boxes: Boxes, patients: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The figures of each finding's films, see `_of_finding`."""
    rows = [_of_finding(maps, boxes, patients, label) for label in _findings(maps, boxes)]
    return [row for row in rows if len(row["patients"])]


def _together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The films of all findings, one after the other."""
    names = [name for name in rows[0] if name != "label"]
    return {name: np.concatenate([row[name] for row in rows]) for name in names}


def floor_of_boxes(boxes: Boxes, patients: Mapping[str, str]) -> dict[str, Any]:
    """What the floor reaches on all boxes of a file: ``n``, ``hit``, ``at_iou`` of one box."""
    found, overlaps = [], []
    for label in sorted({finding for _, finding in boxes.of}):
        films, those = _boxes_of(boxes, label)
        owners = [_patient(film, patients) for film in films]
        found.append(fixed_point_hits(those, owners))
        overlaps.append(fixed_box_overlaps(those, owners)[0])
    hit, iou = np.concatenate(found), np.concatenate(overlaps)
    return {
        "n": len(hit),
        "hit": float(hit.mean()),
        "at_iou": [[t, float((iou >= t).mean())] for t in OVERLAPS],
    }


def _findings(maps: Mapping[tuple[str, str], Any], boxes: Boxes) -> list[str]:
    return sorted({finding for film, finding in maps if (film, finding) in boxes.of})


def _boxes_of(boxes: Boxes, label: str) -> tuple[list[str], list[np.ndarray]]:
    films = [film for film, finding in boxes.of if finding == label]
    return films, [boxes.of[film, label] for film in films]


def _patient(film: str, patients: Mapping[str, str]) -> str:
    # A table may number patients where file names fill up with zeros.
    return patients.get(film, film.partition("_")[0].lstrip("0"))


def _of_finding(
    maps: Mapping[tuple[str, str], np.ndarray],
    boxes: Boxes,
    patients: Mapping[str, str],
    label: str,
) -> dict[str, Any]:
    """Every figure of each scored film of a finding, (n,) or (n, overlaps) each."""
    films, those = _boxes_of(boxes, label)
    owners = np.array([_patient(film, patients) for film in films])
    scored = np.array([(film, label) in maps for film in films])
    floor_hit = fixed_point_hits(those, owners.tolist())
    floor = fixed_box_figures(those, owners.tolist(), OVERLAPS)
    pairs = [(maps[films[i], label], those[i]) for i in np.flatnonzero(scored)]
    iou, iobb = (np.array(x) for x in zip(*(map_overlaps(*pair) for pair in pairs), strict=True))
    own = owners[scored]
    place = np.arange(len(own)), cross_fitted(iou, own)
    return {
        "label": label,
        "patients": own,
        "hit": np.array([hits(peak(heat), film) for heat, film in pairs]),
        "floor_hit": floor_hit[scored],
        "iou": iou[place],
        "floor_iou": floor["iou"][scored],
        "iobb": iobb[place],
        "floor_iobb": floor["iobb"][scored],
        "at_iou": _reaches(iou, own),
        "floor_at_iou": floor["at_iou"][scored],
        "at_iobb": _reaches(iobb, own),
        "floor_at_iobb": floor["at_iobb"][scored],
    }


def _reaches(overlap: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """(n, overlaps): whether a film reaches each overlap, at the level best for other patients."""
    columns = []
    for t in OVERLAPS:
        reached = (overlap >= t).astype(float)
        columns.append(reached[np.arange(len(reached)), cross_fitted(reached, patients.tolist())])
    return np.stack(columns, axis=1) > 0


def _figures(row: Mapping[str, Any], draws: dict[str, int], level: float) -> dict[str, Any]:
    """Means over some films with intervals, and the paired differences to the floor."""
    names = [name for pair in _PAIRS for name in pair]
    shares = [name for pair in _SHARES for name in pair]
    values = np.column_stack([*(row[name] for name in (*names, *shares)), np.ones(len(row["hit"]))])
    totals = bootstrap_totals(values.astype(float), row["patients"], **draws)
    means, estimates = totals[:, :-1] / totals[:, -1:], values[:, :-1].mean(axis=0).tolist()
    figures: dict[str, Any] = {"n": len(values), "patients": len(np.unique(row["patients"]))}
    alone = figures["patients"] < 2  # drawn again and again, it says nothing of how others vary

    def ends(replicates: np.ndarray) -> list[float | None]:
        if alone:
            return [None, None]
        return [finite_or_none(float(end)) for end in percentiles(replicates, level)]

    one = {name: (estimates[i], means[:, i]) for i, name in enumerate(names)}
    for name, floor in _PAIRS:
        (a, of_map), (b, of_floor) = one[name], one[floor]
        one[f"{name}_difference"] = (a - b, of_map - of_floor)
    for name, (estimate, replicates) in one.items():
        figures[name] = finite_or_none(estimate)
        figures[f"{name}_low"], figures[f"{name}_high"] = ends(replicates)
    for i, (name, _) in enumerate(_SHARES):
        first = len(names) + 2 * i * len(OVERLAPS)
        places = [(t, first + k, first + len(OVERLAPS) + k) for k, t in enumerate(OVERLAPS)]
        figures[name] = [[t, estimates[a], estimates[b]] for t, a, b in places]
        figures[f"{name}_interval"] = [[t, *ends(means[:, a])] for t, a, _ in places]
        figures[f"{name}_floor_interval"] = [[t, *ends(means[:, b])] for t, _, b in places]
        figures[f"{name}_difference"] = [
            [t, estimates[a] - estimates[b], *ends(means[:, a] - means[:, b])] for t, a, b in places
        ]
    return figures
