"""How well a model's maps find what radiologists framed, beside a floor that sees no film.

The floor is chosen in the way the map's level is: on the boxes of the other patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.evaluation.boxes import Boxes
from train.metrics.bootstrap import bootstrap_totals, percentiles
from train.metrics.decisions import finite_or_none
from train.metrics.localisation import (
    cross_fitted,
    fixed_box_overlaps,
    fixed_point_hits,
    inside,
    map_overlaps,
    peak,
)

__all__ = ["MAP_SIDE", "floor_of_boxes", "localisation"]

#: Maps are compared with boxes on a grid of this many places a side.
MAP_SIDE = 128

#: What the shares of films with at least so much overlap are given for.
OVERLAPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)

# Figures of a film that are averaged: of the map and of the floor.
_PAIRS = (("hit", "floor_hit"), ("iou", "floor_iou"), ("iobb", "floor_iobb"))


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
        largest such share on the other patients. ``micro``: the same over all films and findings
        together.
    """
    rows = [_of_finding(maps, boxes, patients, label) for label in _findings(maps, boxes)]
    rows = [row for row in rows if len(row["patients"])]
    draws = {"replicates": replicates, "seed": seed}
    result: dict[str, Any] = {
        "categories": {row["label"]: _figures(row, draws, level) for row in rows},
        "micro": None,
    }
    if rows:
        names = [name for name in rows[0] if name != "label"]
        every = {name: np.concatenate([row[name] for row in rows]) for name in names}
        result["micro"] = _figures(every, draws, level)
    return result


def floor_of_boxes(boxes: Boxes, patients: Mapping[str, str]) -> dict[str, Any]:
    """What the floor reaches on all boxes of a file: ``n``, ``hit`` and ``at_iou``."""
    hits, overlaps = [], []
    for label in sorted({finding for _, finding in boxes.of}):
        films, those = _boxes_of(boxes, label)
        owners = [_patient(film, patients) for film in films]
        hits.append(fixed_point_hits(those, owners))
        overlaps.append(fixed_box_overlaps(those, owners)[0])
    hit, iou = np.concatenate(hits), np.concatenate(overlaps)
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
    floor_iou, floor_iobb = fixed_box_overlaps(those, owners.tolist())
    pairs = [(maps[films[i], label], those[i]) for i in np.flatnonzero(scored)]
    iou, iobb = (np.array(x) for x in zip(*(map_overlaps(*pair) for pair in pairs), strict=True))
    own = owners[scored]
    place = np.arange(len(own)), cross_fitted(iou, own)
    return {
        "label": label,
        "patients": own,
        "hit": np.array([inside(np.array(peak(heat)), film).any() for heat, film in pairs]),
        "floor_hit": floor_hit[scored],
        "iou": iou[place],
        "floor_iou": floor_iou[scored],
        "iobb": iobb[place],
        "floor_iobb": floor_iobb[scored],
        "at_iou": _reaches(iou, own),
        "floor_at_iou": floor_iou[scored][:, None] >= np.array(OVERLAPS),
        "at_iobb": _reaches(iobb, own),
        "floor_at_iobb": floor_iobb[scored][:, None] >= np.array(OVERLAPS),
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
    values = np.stack([np.asarray(row[name], float) for name in names], axis=1)
    totals = bootstrap_totals(
        np.column_stack([values, np.ones(len(values))]), row["patients"], **draws
    )
    means = dict(zip(names, (totals[:, :-1] / totals[:, -1:]).T, strict=True))
    estimates = dict(zip(names, values.mean(axis=0), strict=True))
    for name, floor in _PAIRS:
        means[f"{name}_difference"] = means[name] - means[floor]
        estimates[f"{name}_difference"] = estimates[name] - estimates[floor]
    figures: dict[str, Any] = {"n": len(values), "patients": len(np.unique(row["patients"]))}
    alone = figures["patients"] < 2  # drawn again and again, it says nothing of how others vary
    for name, estimate in estimates.items():
        low, high = (np.nan, np.nan) if alone else percentiles(means[name], level)
        ends: Sequence[tuple[str, Any]] = (("", estimate), ("_low", low), ("_high", high))
        figures |= {f"{name}{end}": finite_or_none(value) for end, value in ends}
    for name in ("at_iou", "at_iobb"):
        shares = row[name].mean(axis=0), row[f"floor_{name}"].mean(axis=0)
        figures[name] = [[t, float(a), float(b)] for t, a, b in zip(OVERLAPS, *shares, strict=True)]
    return figures
