"""Radiologists' outlines of findings, as CheXlocalize has them: masks in COCO's run-length code.

The file is CheXlocalize's ``gt_segmentations_val.json`` or ``gt_segmentations_test.json`` (Saporta
et al., Nature Machine Intelligence 2022): film -> finding -> ``size`` [height, width] and
``counts``, the lengths of runs of 0 and 1 down the columns. A finding that is not there has an
empty mask.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from train.datasets.csv_core import Problems
from train.errors import TableError

__all__ = ["MASK_SIDE", "is_masks", "read_masks", "run_lengths"]

#: Masks are kept on a grid of this many places a side, as maps are.
MASK_SIDE = 128

# CheXlocalize's names, where CheXpert has others.
_NAMES = {"Airspace Opacity": "Lung Opacity"}

# Most pixels of a mask; the largest film that is read has as many.
_MOST_PIXELS = 2**26


def is_masks(path: Path) -> bool:
    """Whether a file of outlines is one of masks and not a table of boxes, by its name."""
    return path.name.removesuffix(".gz").endswith(".json")


def read_masks(path: Path) -> dict[tuple[str, str], np.ndarray]:
    """Read a file of masks.

    Returns
    -------
    dict
        (film, finding) -> (MASK_SIDE, MASK_SIDE) bool, for the masks that are not empty. A place is
        in the mask if the pixel at its centre is; of a mask that is too small for that, if any of
        its pixels is.

    Raises
    ------
    TableError
        If the file cannot be read or a mask is not of this form; the message names it.
    """
    problems, films = Problems(path), _read(path)
    found: dict[tuple[str, str], np.ndarray] = {}
    if not isinstance(films, dict) or not all(isinstance(x, dict) for x in films.values()):
        problems.add("must be JSON of the form film -> finding -> mask")
        films = {}
    for film, findings in films.items():
        for finding, mask in findings.items():
            try:
                whole = _decoded(mask)
            except ValueError as error:
                problems.add(f"{film}, {finding}: {error}")
                continue
            if whole.any():
                found[film, _NAMES.get(finding, finding)] = _on_grid(whole)
    if not found and not problems.count:
        problems.add("there is no mask in it")
    problems.check()
    return found


def _read(path: Path) -> Any:
    """What a JSON file holds, gzipped or not; None if it is none."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return json.loads(file.read())
    except gzip.BadGzipFile:
        return None
    except OSError as error:
        raise TableError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError, RecursionError, zlib.error):
        return None


def _decoded(mask: Any) -> np.ndarray:
    """(H, W) bool."""
    size, counts = (mask.get("size"), mask.get("counts")) if isinstance(mask, dict) else (None,) * 2
    if not isinstance(size, list) or len(size) != 2 or not all(type(x) is int for x in size):
        raise ValueError("the size must be [height, width]")
    if min(size) < 1 or size[0] * size[1] > _MOST_PIXELS:
        raise ValueError(f"a mask of {size[0]} x {size[1]} pixels is none of a film")
    if isinstance(counts, str):
        counts = run_lengths(counts)
    if not isinstance(counts, list) or not all(type(x) is int and x >= 0 for x in counts):
        raise ValueError("the counts must be lengths of runs")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"the runs have {sum(counts)} pixels, and {size[0]} x {size[1]} were said")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size[1], size[0]).T


def run_lengths(text: str) -> list[int]:
    """The run lengths in a string of COCO's compressed code.

    Each character holds five bits, the lowest first, and a sixth that says that more follow; what
    is coded is the difference to the length two runs before, from the fourth run on.

    Raises
    ------
    ValueError
        If the string is not of that code.
    """
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("the counts are not in COCO's code")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # a negative difference
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the counts end within a number")
    return lengths


def _on_grid(mask: np.ndarray) -> np.ndarray:
    rows, columns = (
        ((np.arange(MASK_SIDE) + 0.5) / MASK_SIDE * side).astype(int) for side in mask.shape
    )
    grid = mask[np.ix_(rows, columns)]
    if not grid.any():
        places = (np.argwhere(mask) * MASK_SIDE // mask.shape).T
        grid[tuple(places)] = True
    return grid
