"""Whether a map of evidence points into a radiologist's box, beside a floor that sees no film.

A chest looks much the same in every film, so a point that never moves hits many boxes: a map that
hits fewer shows nothing. The pointing game counts a film once for each finding that has boxes on
it; a hit is a peak inside one of them (Zhang et al., IJCV 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["fixed_point_hits", "inside", "peak"]


def peak(heat: np.ndarray) -> tuple[float, float]:
    """Where an (H, W) map is largest: (x, y) as shares of its width and height.

    Of several equal pixels it is the one next to their mean, so that a flat map points to the
    middle and not to a corner.
    """
    rows, columns = np.nonzero(heat == heat.max())
    distance = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
    nearest = int(distance.argmin())
    height, width = heat.shape
    return (columns[nearest] + 0.5) / width, (rows[nearest] + 0.5) / height


def inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether points (..., 2) lie in boxes (..., 4) of (x, y, width, height), edges included."""
    points, boxes = np.asarray(points, float), np.asarray(boxes, float)
    low, high = boxes[..., :2], boxes[..., :2] + boxes[..., 2:]
    return ((points >= low) & (points <= high)).all(-1)


def fixed_point_hits(
    boxes: Sequence[np.ndarray], patients: Sequence[str], grid: int = 64
) -> np.ndarray:
    """What one point hits that is the same for all films of a finding.

    It is the point that hits most films of the *other* patients; where several do, the one next to
    their mean.

    Parameters
    ----------
    boxes
        For each of N films, (n, 4) boxes as shares of its width and height.
    patients
        (N,) whose film it is.
    grid
        Points tried along each side.

    Returns
    -------
    numpy.ndarray
        (N,) bool.
    """
    if not len(boxes):
        return np.zeros(0, bool)
    ticks = (np.arange(grid) + 0.5) / grid
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1)  # (row, column) -> (x, y)
    hits = np.stack([inside(points[:, :, None], film).any(-1) for film in boxes])
    names = np.asarray(patients)
    total = hits.sum(0)
    found = np.zeros(len(boxes), bool)
    for name in np.unique(names):
        own = names == name
        x, y = peak(total - hits[own].sum(0))
        found[own] = hits[own, int(y * grid), int(x * grid)]
    return found
