"""Whether a map of evidence lies where a radiologist drew a box, beside a floor that never looks.

Boxes are (x, y, width, height) in the units of the film's own grid: a pixel at column j and row i
has its centre at (j + 0.5, i + 0.5). The protocol is that of the NIH boxes (Wang et al., CVPR 2017;
Li et al., CVPR 2018): a film counts once for each finding that has boxes on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "best_boxes",
    "best_points",
    "inside",
    "intersection_over_box",
    "intersection_over_union",
    "peak",
]


def peak(heat: np.ndarray) -> tuple[float, float]:
    """The centre (x, y) of the pixel of an (H, W) map where it is largest.

    Where several are equally large it is the one next to their mean: a flat map points to the
    middle, not to a corner.
    """
    rows, columns = np.nonzero(heat == heat.max())
    distance = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
    first = int(distance.argmin())
    return columns[first] + 0.5, rows[first] + 0.5


def inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether points (..., 2) lie in boxes (..., 4), their edges included; broadcasts."""
    points, boxes = np.asarray(points, float), np.asarray(boxes, float)
    low, high = boxes[..., :2], boxes[..., :2] + boxes[..., 2:]
    return ((points >= low) & (points <= high)).all(-1)


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shared area over the area of both, of boxes (..., 4); in [0, 1], 0 where both are empty."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    shared = _shared(a, b)
    union = _area(a) + _area(b) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def intersection_over_box(detected: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Share of the *detected* box that lies in the radiologist's (IoBB of Wang et al.)."""
    detected, box = np.asarray(detected, float), np.asarray(box, float)
    shared, area = _shared(detected, box), np.broadcast_to(_area(detected), _shared(detected, box).shape)
    return np.divide(shared, area, out=np.zeros_like(shared), where=area > 0)


def _area(box: np.ndarray) -> np.ndarray:
    return box[..., 2] * box[..., 3]


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    return np.clip(high - low, 0, None).prod(-1)
