"""Follow-up films: by how much a model's evidence differs between films of the same state."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np

from train.datasets.labels import LabelTable
from train.metrics.repeatability import repeatability

__all__ = ["follow_up_pairs", "repeatability_of"]

# Fewer patients than that say too little of how patients differ.
_FEWEST_PATIENTS = 10


def follow_up_pairs(table: LabelTable, equal: bool = True) -> np.ndarray:
    """(P, 2) rows of a film and the next one of the same patient.

    Of a study the first film that is not lateral; studies in the order of their names, the numbers
    in them as numbers, which is the order in time in NIH ChestX-ray14 and CheXpert.

    Parameters
    ----------
    table
        The films.
    equal
        Whether only pairs with equal labels in all categories count; unknown equals unknown.
    """
    view = table.attributes.get("view")
    rows: dict[tuple[str, str], int] = {}
    for row in sorted(range(len(table)), key=lambda row: _natural(str(table.names[row]))):
        if view is None or view[row] != "lateral":
            rows.setdefault((str(table.patients[row]), str(table.studies[row])), row)
    keys = sorted(rows, key=lambda key: (key[0], _natural(key[1])))
    pairs = np.array(
        [(rows[one], rows[other]) for one, other in pairwise(keys) if one[0] == other[0]],
        np.int64,
    ).reshape(-1, 2)
    if not equal:
        return pairs
    before, after = table.y[pairs[:, 0]], table.y[pairs[:, 1]]
    return pairs[((before == after) | (np.isnan(before) & np.isnan(after))).all(axis=1)]


def _natural(text: str) -> list[tuple[int, str]]:
    """A key by which "study10" comes after "study2"."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", text)
    ]


def repeatability_of(logits: np.ndarray, table: LabelTable) -> dict[str, dict[str, Any] | None]:
    """Label -> the entry ``repeatability`` of a model folder; None where the films are too few.

    Parameters
    ----------
    logits
        (N, C) of the calibrated probabilities, of films that did not train the model.
    table
        The N films.
    """
    pairs = follow_up_pairs(table)
    patients = table.patients[pairs[:, 0]]
    found = repeatability(logits[pairs[:, 1]] - logits[pairs[:, 0]], patients)
    enough = found.groups >= _FEWEST_PATIENTS and np.isfinite(found.limit).all()
    return {
        label: {
            "limit": float(found.limit[c]),
            "low": float(found.low[c]),
            "high": float(found.high[c]),
            "level": found.level,
            "pairs": found.pairs,
            "patients": found.groups,
            "data": "validation films of one patient, each and the next, with equal labels",
        }
        if enough
        else None
        for c, label in enumerate(table.label_names)
    }
