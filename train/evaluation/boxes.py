"""What radiologists framed: NIH's list of boxes, a table of that form, or CheXlocalize's masks."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.datasets.csv_core import Problems, read_text
from train.evaluation.masks import is_masks, read_masks

__all__ = ["Boxes", "film_id", "read_boxes"]

# NIH's list of boxes shortens one name.
_NAMES = {"Infiltrate": "Infiltration"}
_COLUMNS = ("film", "finding", "x", "y", "width", "height")


@dataclass(frozen=True)
class Boxes:
    """Boxes of findings on films, or masks.

    Attributes
    ----------
    name
        Of the file.
    of
        (film, finding) -> (n, 4) boxes (x, y, width, height) as shares of the film's sides; or
        (h, w) bool, a mask on a grid over the film. A film is named as by `film_id`.
    """

    name: str
    of: dict[tuple[str, str], np.ndarray]

    @property
    def kind(self) -> str:
        """ "boxes" or "masks"."""
        return "masks" if any(of.dtype == bool for of in self.of.values()) else "boxes"

    @property
    def films(self) -> set[str]:
        return {film for film, _ in self.of}


def film_id(name: object) -> str:
    """What names a film in a table of boxes: its file without folder and suffix.

    Of CheXpert's files, whose names are the same for all patients, the patient and the study as
    well, as CheXlocalize writes them: ``patient64541_study1_view1_frontal``.
    """
    *folders, file = re.split(r"[/\\]", str(name))
    stem = file.rpartition(".")[0] or file
    if len(folders) > 1 and _CHEXPERT.fullmatch(stem):
        return "_".join([*folders[-2:], stem])
    return stem


_CHEXPERT = re.compile(r"view\d+_(frontal|lateral)")


def read_boxes(path: Path, side: float = 1024) -> Boxes:
    """Read a CSV table of boxes, gzipped or not, as NIH's ``BBox_List_2017.csv``.

    A file whose name ends in ``.json`` is read as `train.evaluation.masks.read_masks` says.

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
    if is_masks(path):
        return Boxes(path.name, read_masks(path))
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
            film = film_id(row[0].strip())
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
