"""Exact AUROC and average precision, batched; NaN means "unknown" and contributes nothing.

Both metrics count pairs, so no curve is built. With the positives' and the negatives' scores
sorted, the AUROC is the Mann-Whitney statistic: for each positive, the negatives below it, plus
half of those equal to it. The counts are integers and there is one division at the end, so the
result does not depend on device, batch or chunk.

On the CPU each class is sorted by itself (numpy's sort is vectorised, many times faster than a
sort that also returns an order) and the smaller class is searched in the larger one. On other
devices the whole batch is sorted at once and the counts are running sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

__all__ = ["METRICS", "auroc", "average_precision"]

# Scores that are handled at once: bounds the memory beyond the inputs to about 2 GB on an
# accelerator. On the CPU it is one row for each thread.
_CHUNK = 2**25

# Below this many scores, starting threads costs more than it saves.
_WORTH_THREADS = 2**17


def auroc(scores: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> Tensor:
    """Area under the ROC curve over the last dimension; ties count one half.

    Parameters
    ----------
    scores
        (..., N), any real dtype; only their order matters. Infinities are ordered like numbers.
    labels
        {1, 0, NaN}, of a shape that broadcasts to that of `scores`. NaN: not counted.

    Returns
    -------
    Tensor
        float64, of shape ``scores.shape[:-1]``, on the scores' device; NaN where no positive or
        no negative is known.

    Raises
    ------
    ValueError
        If a score is NaN, a label is none of {1, 0, NaN}, or the shapes do not fit.

    Examples
    --------
    >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
    tensor(0.8750, dtype=torch.float64)
    """
    return _evaluate(scores, labels, _auroc_of_classes, _auroc_by_running_sums)


def average_precision(scores: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> Tensor:
    """Average precision over the last dimension, as scikit-learn defines it.

    The mean over the positives of the precision at the positive's own score used as threshold
    (tied scores enter together, no interpolation). Arguments, errors and result are those of
    `auroc`, except that known positives alone give 1 and only a row without them gives NaN.

    Examples
    --------
    >>> average_precision(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
    tensor(0.8333, dtype=torch.float64)
    """
    return _evaluate(scores, labels, _ap_of_classes, _ap_by_running_sums)


#: By the names that command lines give them.
METRICS = {"auroc": auroc, "ap": average_precision}


def _evaluate(
    scores: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    of_classes: Callable[[np.ndarray, np.ndarray], float],
    by_running_sums: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Bring the inputs into shape (B, N) and hand them to the CPU's or the device's kernel."""
    scores = _as_scores(_as_tensor(scores))
    labels = _as_tensor(labels).to(scores.device)
    if labels.dtype in (torch.float16, torch.bfloat16):  # numpy has no name for the latter
        labels = labels.float()
    _check_shapes(scores, labels)
    batch, n = scores.shape[:-1], scores.shape[-1]
    label_rows = labels.expand(*labels.shape[:-1], n).reshape(math.prod(labels.shape[:-1]), n)
    # Which row of labels belongs to which row of scores: a row of labels that many rows of scores
    # share (a population of candidates for one category) is neither copied nor split again.
    owner = torch.arange(len(label_rows), device=scores.device)
    owner = owner.reshape(labels.shape[:-1]).expand(batch).reshape(-1)
    flat = scores.reshape(math.prod(batch), n)
    if scores.device.type == "cpu":
        return _on_cpu(flat, label_rows, owner, of_classes).reshape(batch)
    return _on_device(flat, label_rows, owner, by_running_sums).reshape(batch)


def _as_tensor(values: Tensor | np.ndarray) -> Tensor:
    """A tensor without a copy, where torch can share the array's memory."""
    if isinstance(values, np.ndarray):  # torch shares no memory that is reversed or read-only
        values = np.require(np.ascontiguousarray(values), requirements="W")
    return torch.as_tensor(values).detach()


def _as_scores(scores: Tensor) -> Tensor:
    """Scores in a dtype that every kernel sorts; it keeps the order of integers below 2^53."""
    if scores.dtype in (torch.float32, torch.float64):
        return scores
    if scores.dtype in (torch.float16, torch.bfloat16):
        return scores.float()
    if scores.is_complex():
        raise ValueError("scores must be real numbers")
    return scores.double()


def _check_shapes(scores: Tensor, labels: Tensor) -> None:
    problem = f"labels of shape {tuple(labels.shape)} do not fit scores {tuple(scores.shape)}"
    if not scores.ndim or not labels.ndim:
        raise ValueError(f"{problem}: both need a last dimension")
    try:
        # torch.broadcast_shapes would import SymPy, which takes a second.
        fits = np.broadcast_shapes(scores.shape, labels.shape) == scores.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{problem}: they must broadcast to the scores' shape")


# --- CPU: sort each class by itself, search the smaller in the larger --------------------------


def _on_cpu(
    scores: Tensor,
    label_rows: Tensor,
    owner: Tensor,
    of_classes: Callable[[np.ndarray, np.ndarray], float],
) -> Tensor:
    rows, n = scores.shape
    all_scores, all_labels = scores.numpy(), label_rows.numpy()
    result = np.full(rows, np.nan)

    def work(task: tuple[int, np.ndarray]) -> None:
        label_row, members = task
        positives, negatives = _split(all_labels[label_row])
        for row in members:
            row_scores = all_scores[row]
            if np.isnan(row_scores).any():
                raise ValueError("scores hold NaN, which has no rank")
            result[row] = of_classes(row_scores[positives], row_scores[negatives])

    workers = torch.get_num_threads() if rows * n >= _WORTH_THREADS else 1
    tasks = _tasks(owner.numpy(), len(label_rows), largest=-(-rows // workers))
    if workers == 1:
        for task in tasks:
            work(task)
    else:
        with ThreadPoolExecutor(workers) as pool:  # numpy's sort and search release the GIL
            list(pool.map(work, tasks))
    return torch.from_numpy(result)


def _tasks(owner: np.ndarray, label_rows: int, largest: int) -> list[tuple[int, np.ndarray]]:
    """(label row, rows of scores that it labels), at most `largest` rows in a task."""
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(label_rows + 1))
    return [
        (label_row, order[start : min(start + largest, stop)])
        for label_row, (first, stop) in enumerate(pairwise(starts))
        for start in range(first, stop, max(largest, 1))
    ]


def _split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the known positives and of the known negatives."""
    is_positive, is_negative = labels == 1, labels == 0
    positives, negatives = np.flatnonzero(is_positive), np.flatnonzero(is_negative)
    if len(positives) + len(negatives) < len(labels):
        unknown = labels != labels  # NaN
        if len(positives) + len(negatives) + np.count_nonzero(unknown) < len(labels):
            bad = labels[~(is_positive | is_negative | unknown)][0]
            raise ValueError(f"a label is {bad}; labels are 1, 0 or NaN (unknown)")
    return positives, negatives


def _auroc_of_classes(positives: np.ndarray, negatives: np.ndarray) -> float:
    """AUROC from the scores of the two classes, in any order."""
    if not len(positives) or not len(negatives):
        return np.nan
    positives.sort()
    negatives.sort()
    pairs = len(positives) * len(negatives)
    if len(positives) <= len(negatives):
        twice_u = _below_plus_not_above(negatives, positives)
    else:
        twice_u = 2 * pairs - _below_plus_not_above(positives, negatives)
    return twice_u / (2 * pairs)


def _below_plus_not_above(values: np.ndarray, thresholds: np.ndarray) -> int:
    """Sum over `thresholds` of the sorted `values` below it plus those not above it."""
    below = np.searchsorted(values, thresholds, side="left")
    # The two differ only where a value equals the threshold: rarely, unless scores are coarse.
    tied = values[np.minimum(below, len(values) - 1)] == thresholds
    not_above = np.searchsorted(values, thresholds[tied], side="right")
    return 2 * int(below.sum()) + int(not_above.sum()) - int(below[tied].sum())


def _ap_of_classes(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Average precision from the scores of the two classes, in any order."""
    if not len(positives):
        return np.nan
    positives.sort()
    negatives.sort()
    begins = np.flatnonzero(np.append(True, positives[1:] != positives[:-1]))  # of each tie
    sizes = np.diff(begins, append=len(positives))
    true = len(positives) - np.repeat(begins, sizes)  # positives at or above each one's score
    false = len(negatives) - np.searchsorted(negatives, positives, side="left")
    return float(np.mean(true / (true + false)))


# --- Other devices: sort the batch once, count with running sums -------------------------------


def _on_device(
    scores: Tensor,
    label_rows: Tensor,
    owner: Tensor,
    by_running_sums: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    if torch.isnan(scores).any():
        raise ValueError("scores hold NaN, which has no rank")
    known = (label_rows == 1) | (label_rows == 0)
    wrong = ~known & (label_rows == label_rows)
    if wrong.any():
        bad = label_rows[wrong][0].item()
        raise ValueError(f"a label is {bad}; labels are 1, 0 or NaN (unknown)")
    rows, n = scores.shape
    result = torch.full((rows,), torch.nan, dtype=torch.float64, device=scores.device)
    if not n:
        return result
    step = max(1, _CHUNK // n)
    for start in range(0, rows, step):
        chunk = slice(start, start + step)
        result[chunk] = by_running_sums(scores[chunk], label_rows[owner[chunk]])
    return result


def _auroc_by_running_sums(scores: Tensor, labels: Tensor) -> Tensor:
    """AUROC of each row of (B, N) scores and labels."""
    scores, order = scores.sort(dim=-1)
    labels = labels.gather(-1, order)
    positive, negative = (labels == 1).long(), (labels == 0).long()
    not_above = negative.cumsum(-1)
    ends = _ends_of_ties(scores)
    # The count at the end of a tie holds for all of it. Counts grow, so the nearest end to the
    # right has the smallest count among the ends still to come.
    largest = torch.iinfo(torch.long).max
    not_above_tie = not_above.masked_fill(~ends, largest).flip(-1).cummin(-1).values.flip(-1)
    below_tie = _at_start_of_tie(not_above - negative, ends)
    twice_u = (positive * (below_tie + not_above_tie)).sum(-1)
    pairs = positive.sum(-1) * negative.sum(-1)
    return twice_u.double() / (2 * pairs).double()  # 0 / 0 is NaN: undefined


def _ap_by_running_sums(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of each row of (B, N) scores and labels."""
    scores, order = scores.sort(dim=-1)
    labels = labels.gather(-1, order)
    positive, known = (labels == 1).long(), ((labels == 1) | (labels == 0)).long()
    ends = _ends_of_ties(scores)
    positives = positive.sum(-1, keepdim=True)
    true = positives - _at_start_of_tie(positive.cumsum(-1) - positive, ends)
    called = known.sum(-1, keepdim=True) - _at_start_of_tie(known.cumsum(-1) - known, ends)
    precision = true.double() / called.clamp(min=1).double()
    return (positive * precision).sum(-1) / positives.squeeze(-1).double()


def _ends_of_ties(scores: Tensor) -> Tensor:
    """True at the last of each run of equal scores, for sorted rows (B, N)."""
    ends = torch.ones_like(scores, dtype=torch.bool)
    ends[:, :-1] = scores[:, 1:] != scores[:, :-1]
    return ends


def _at_start_of_tie(counts: Tensor, ends: Tensor) -> Tensor:
    """For growing counts (B, N): the count at the first member of each member's tie."""
    starts = torch.ones_like(ends)
    starts[:, 1:] = ends[:, :-1]
    return counts.masked_fill(~starts, 0).cummax(-1).values
