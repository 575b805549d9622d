"""Radiologists' boxes: NIH's list of them, or a table of that form."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.datasets.csv_core import Problems, read_text

__all__ = ["Boxes", "read_boxes"]

# NIH's list of boxes shortens one name.
_NAMES = {"Infiltrate": "Infiltration"}
_COLUMNS = ("film", "finding", "x", "y", "width", "height")


@dataclass(frozen=True)
class Boxes:
    """Boxes of findings on films.

    Attributes
    ----------
    name
        Of the file.
    of
        (film, finding) -> (n, 4) boxes (x, y, width, height) as shares of the film's sides. A film
        is named by its file without folder and suffix.
    """

    name: str
    of: dict[tuple[str, str], np.ndarray]

    @property
    def films(self) -> set[str]:
        return {film for film, _ in self.of}


def read_boxes(path: Path, side: float = 1024) -> Boxes:
    """Read a CSV table of boxes, gzipped or not, as NIH's ``BBox_List_2017.csv``.

    Parameters
    ----------
    path
        Its first six columns are film, finding, x, y, width and height, whatever their names; the
        first row is a header.
    side
        Width and height of the film in the unit of the boxes; those of NIH are of 1024 pixels.

    Raises
    ------
    TableError
        If the file cannot be read, a row has too few cells, or a box is not on the film.
    """
    problems = Problems(path)
    found: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    # A box may end a pixel beyond the film, as rounded ones do.
    largest = 1 + 1 / side
    for number, row in enumerate(csv.reader(read_text(path).splitlines()), 1):
        if number == 1 or not any(row):
            continue
        box = _box(row[2:6], side)
        if len(row) < len(_COLUMNS) or box is None:
            problems.add(f"row {number} must be {', '.join(_COLUMNS)}")
        elif (box[:2] < 0).any() or (box[2:] <= 0).any() or (box[:2] + box[2:] > largest).any():
            problems.add(f"row {number}: the box is not on a film of {side:g} x {side:g}")
        else:
            film = re.split(r"[/\\]", row[0].strip())[-1].rpartition(".")[0] or row[0].strip()
            finding = row[1].strip()
            found[film, _NAMES.get(finding, finding)].append(box)
    if not found and not problems.count:
        problems.add("there is no box in it")
    problems.check()
    return Boxes(path.name, {key: np.stack(boxes) for key, boxes in found.items()})


def _box(cells: list[str], side: float) -> np.ndarray | None:
    try:
        box = np.array(cells, float) / side
    except ValueError:
        return None
    return box if len(box) == 4 and np.isfinite(box).all() else None
