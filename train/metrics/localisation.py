"""Whether a map of evidence lies in a radiologist's box, beside a floor that sees no film.

A chest looks much the same in every film, so a point that never moves hits many boxes: a map that
hits fewer shows nothing. The pointing game counts a film once for each finding that has boxes on
it; a hit is a peak inside one of them (Zhang et al., IJCV 2018). The map above a level is compared
with the boxes by IoU, the common area over the area of both, and by IoBB, the common area over that
of the map (Wang et al., CVPR 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "LEVELS",
    "cross_fitted",
    "fixed_box_figures",
    "fixed_box_overlaps",
    "fixed_point_hits",
    "hits",
    "inside",
    "map_overlaps",
    "peak",
]

#: Levels at which a map is cut, as shares of its range.
LEVELS = np.arange(1, 20) / 20

# What the fixed box must reach, so that as many films as possible count.
_COUNTS_FROM = 0.1


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


def hits(point: tuple[float, float], region: np.ndarray) -> bool:
    """Whether a point (x, y) lies in one of a film's (n, 4) boxes, or in its (h, w) bool mask."""
    return bool(_inside(np.array(point), region))


def _inside(points: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Whether points (..., 2) lie in a film's boxes or mask."""
    if region.dtype != bool:
        return np.asarray(inside(points[..., None, :], region).any(-1))
    places = np.minimum((points * region.shape[::-1]).astype(int), np.array(region.shape[::-1]) - 1)
    return region[places[..., 1], places[..., 0]]


def fixed_point_hits(
    boxes: Sequence[np.ndarray], patients: Sequence[str], grid: int = 64
) -> np.ndarray:
    """What one point hits that is the same for all films of a finding.

    It is the point that hits most films of the *other* patients; where several do, the one next to
    their mean.

    Parameters
    ----------
    boxes
        For each of N films, (n, 4) boxes as shares of its width and height, or an (h, w) bool mask.
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
    hit = np.stack([_inside(points, film) for film in boxes])
    names = np.asarray(patients)
    total = hit.sum(0)
    found = np.zeros(len(boxes), bool)
    for name in np.unique(names):
        own = names == name
        x, y = peak(total - hit[own].sum(0))
        found[own] = hit[own, int(y * grid), int(x * grid)]
    return found


def map_overlaps(heat: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How a map, cut at each of `LEVELS`, overlaps a film's boxes.

    Parameters
    ----------
    heat
        (H, W) map. A level is a share of the way from its smallest to its largest value; the
        pixels at or above it are what the map points to. A flat map points to the whole film.
    boxes
        (n, 4) boxes (x, y, width, height) as shares of the film's sides; together they are the
        truth, a pixel counting by its centre. Or an (h, w) bool mask.

    Returns
    -------
    (iou, iobb)
        (levels,) each, in [0, 1].
    """
    truth = _truth(boxes, heat.shape)
    low, high = float(heat.min()), float(heat.max())
    share = (heat - low) / (high - low) if high > low else np.ones(heat.shape)
    # Each pixel belongs to the highest level that it reaches; 0 is below all.
    level = np.searchsorted(LEVELS, share.ravel(), side="right")
    area, common = (
        np.bincount(of, minlength=len(LEVELS) + 1)[::-1].cumsum()[::-1][1:]
        for of in (level, level[truth.ravel()])
    )
    return common / (area + truth.sum() - common), common / area


def _truth(region: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: the pixels whose centres lie in a film's boxes or mask."""
    height, width = shape
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    if region.dtype == bool:
        return _inside(np.stack(np.meshgrid(x, y), axis=-1), region)
    truth = np.zeros(shape, bool)
    for left, top, across, down in region:
        rows, columns = (y >= top) & (y <= top + down), (x >= left) & (x <= left + across)
        truth |= rows[:, None] & columns
    return truth


def cross_fitted(values: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """For each film the level whose mean value is largest over the films of *other* patients.

    Parameters
    ----------
    values
        (N, levels) of one finding.
    patients
        (N,) whose film it is.

    Returns
    -------
    numpy.ndarray
        (N,) index of a level; the middle one where there is no other patient.
    """
    chosen = np.full(len(values), values.shape[1] // 2)
    names, total = np.asarray(patients), values.sum(axis=0)
    for name in np.unique(names):
        own = names == name
        if not own.all():
            chosen[own] = (total - values[own].sum(axis=0)).argmax()
    return chosen


def fixed_box_overlaps(
    boxes: Sequence[np.ndarray], patients: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """What one box overlaps that is the same for all films of a finding.

    It is the box of another patient that has an IoU of at least 0.1 on most films of the other
    patients; of several, the one with the largest mean IoU. On a film with several boxes the one
    that it overlaps best counts. Of masks, the boxes are those around them.

    Parameters
    ----------
    boxes
        For each of N films, (n, 4) boxes as shares of its width and height, or an (h, w) bool mask,
        of one size.
    patients
        (N,) whose film it is.

    Returns
    -------
    (iou, iobb)
        (N,) each; 0 where there is no other patient.
    """
    iou, iobb = np.zeros(len(boxes)), np.zeros(len(boxes))
    if not len(boxes):
        return iou, iobb
    owner, by_film, over_box = _all_overlaps(boxes)
    best, some = _best_of_others((by_film >= _COUNTS_FROM) + _TIE * by_film, owner, patients)
    iou[some], iobb[some] = by_film[best, some], over_box[best, some]
    return iou, iobb


def fixed_box_figures(
    boxes: Sequence[np.ndarray], patients: Sequence[str], overlaps: Sequence[float]
) -> dict[str, np.ndarray]:
    """What fixed boxes overlap that are chosen for each figure, as the level of a map is.

    Parameters
    ----------
    boxes, patients
        As of `fixed_box_overlaps`.
    overlaps
        T overlaps to reach.

    Returns
    -------
    dict
        ``iou`` and ``iobb`` (N,), of the box that has the largest mean IoU on the films of the
        other patients; ``at_iou`` and ``at_iobb`` (N, T) bool, whether each overlap is reached by
        the box that reaches it on most films of the other patients, of several the one with the
        largest mean. 0 and False where there is no other patient.
    """
    n, shape = len(boxes), (len(boxes), len(overlaps))
    found = {"iou": np.zeros(n), "iobb": np.zeros(n)}
    found |= {"at_iou": np.zeros(shape, bool), "at_iobb": np.zeros(shape, bool)}
    if not n:
        return found
    owner, by_film, over_box = _all_overlaps(boxes)
    best, some = _best_of_others(by_film, owner, patients)
    found["iou"][some], found["iobb"][some] = by_film[best, some], over_box[best, some]
    for name, values in (("at_iou", by_film), ("at_iobb", over_box)):
        for place, overlap in enumerate(overlaps):
            reached = values >= overlap
            best, some = _best_of_others(reached + _TIE * values, owner, patients)
            found[name][some, place] = reached[best, some]
    return found


# So much a mean weighs beside a count of films: it decides between equal counts alone.
_TIE = 1e-4


def _best_of_others(
    worth: np.ndarray, owner: np.ndarray, patients: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(box, film) pairs: for each film that has other patients' boxes the best of these.

    `worth` is (boxes, N), what a box is worth on a film; a box is judged by its sum over the films
    of the other patients.
    """
    names, total = np.asarray(patients), worth.sum(axis=1)
    best = np.zeros(len(names), int)
    some = np.ones(len(names), bool)
    for name in np.unique(names):
        own = names == name
        if own.all():
            some[:] = False
            break
        best[own] = np.where(own[owner], -1, total - worth[:, own].sum(axis=1)).argmax()
    films = np.flatnonzero(some)
    return best[films], films


def _all_overlaps(boxes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Film of each box, and its (boxes, N) IoU and IoBB with what is framed on each film."""
    return (_of_masks if boxes[0].dtype == bool else _of_boxes)(boxes)


def _of_boxes(boxes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Film of each box, and the box's (boxes, N) IoU and IoBB with the best box of each film."""
    owner = np.repeat(np.arange(len(boxes)), [len(film) for film in boxes])
    every = np.concatenate(boxes)
    common, joint, area = _areas(every, every)
    starts = np.searchsorted(owner, np.arange(len(boxes)))
    by_film = np.maximum.reduceat(common / joint, starts, axis=1)
    return owner, by_film, np.maximum.reduceat(common / area[:, None], starts, axis=1)


def _of_masks(masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of the boxes around masks (h, w), with the masks; areas are counted in places."""
    ends = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        ends.append((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    top, bottom, left, right = np.array(ends).T
    # Sums over all places above and to the left: the places in a box are four of them.
    sums = np.pad(np.cumsum(np.cumsum(np.stack(masks), axis=1), axis=2), ((0, 0), (1, 0), (1, 0)))
    common = (
        sums[:, bottom, right] - sums[:, top, right] - sums[:, bottom, left] + sums[:, top, left]
    ).T  # (boxes, N)
    area = (bottom - top) * (right - left)
    joint = area[:, None] + sums[:, -1, -1] - common
    return np.arange(len(masks)), common / joint, common / area[:, None]


def _areas(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Areas of boxes (A, 4) and (B, 4): common (A, B), joint (A, B), and of the first (A,)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    ends = [of[:, :2] + of[:, 2:] for of in (first, second)]
    high = np.minimum(ends[0][:, None], ends[1][None])
    common = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [of[:, 2:].prod(axis=-1) for of in (first, second)]
    return common, areas[0][:, None] + areas[1] - common, areas[0]
