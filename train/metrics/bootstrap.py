"""Bootstrap intervals of ranking metrics and of sums over films.

Pure functions over numpy arrays. The unit of resampling is the *group* (a patient or a study):
films of one patient are not independent, and an interval that treats them so is too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from train.metrics.ranking import auroc, average_precision

__all__ = [
    "Bootstrap",
    "bootstrap_auroc",
    "bootstrap_average_precision",
    "bootstrap_bins",
    "bootstrap_totals",
    "draw_groups",
    "percentiles",
]

# Weights handled at once, (films x replicates): small enough to stay in a processor's cache; with
# many films 64 replicates, or as many as have room.
_BLOCK, _MOST = 2**18, 2**23

# With fewer films, starting threads costs more than it saves.
_WORTH_THREADS = 2**12


@dataclass(frozen=True)
class Bootstrap:
    """Percentile bootstrap of a metric per category and of its mean.

    Attributes
    ----------
    estimate, low, high
        (C,) metric on all the data and its interval; NaN where undefined. There is no interval
        where only one group has a positive, or a negative: drawing it again and again shows
        nothing of how such cases vary.
    mean, mean_low, mean_high
        Mean over the categories whose metric is defined, and its interval, taken over the
        replicates in which all of these are defined.
    replicates
        (R, C) metric in each replicate; NaN where a replicate drew no positive or no negative.
    mean_replicates
        (R,) mean in each replicate; NaN where a category of the mean is undefined.
    level
        Coverage of the intervals.
    """

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean: float
    mean_low: float
    mean_high: float
    replicates: np.ndarray
    mean_replicates: np.ndarray
    level: float

    def of_mean(self, columns: np.ndarray) -> tuple[float, float, float]:
        """Mean over some categories (column indices) with its interval: (mean, low, high)."""
        columns = np.asarray(columns)[~np.isnan(self.estimate[columns])]
        if not len(columns):
            return np.nan, np.nan, np.nan
        low, high = percentiles(self.replicates[:, columns].mean(axis=1), self.level)
        return float(self.estimate[columns].mean()), float(low), float(high)


def bootstrap_auroc(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Bootstrap:
    """AUROC per category with percentile bootstrap intervals, groups drawn with replacement.

    Each category is sorted once. A replicate only changes how often each film counts, so it costs
    one weighted running sum: O(films) per replicate and category instead of a new sort.

    Parameters
    ----------
    scores
        (N, C) scores; any real numbers.
    labels
        (N, C) labels in {1, 0, NaN}; NaN is not counted.
    groups
        (N,) patient or study of each film.
    replicates
        Number of bootstrap replicates.
    seed
        Seeds the draw. The same seed and groups give the same draws whatever the scores, so two
        models scored on the same films are compared replicate by replicate (paired).
    level
        Coverage of the intervals, in (0, 1).

    Returns
    -------
    Bootstrap

    Raises
    ------
    ValueError
        If shapes do not fit, a score is NaN, or a label is none of {1, 0, NaN}.
    """
    return _bootstrap(scores, labels, groups, replicates, seed, level, auroc, _weighted_auroc)


def bootstrap_average_precision(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Bootstrap:
    """Average precision per category with intervals; see `bootstrap_auroc`."""
    return _bootstrap(
        scores, labels, groups, replicates, seed, level, average_precision, _weighted_ap
    )


@dataclass(frozen=True)
class _Presorted:
    """One category's known films, each class in order of score."""

    positive_groups: np.ndarray  # (P,) group index of each positive, by ascending score
    negative_groups: np.ndarray  # (M,)
    below: np.ndarray  # (P,) number of negatives below each positive
    not_above: np.ndarray  # (P,) number of negatives not above it
    tie_start: np.ndarray  # (P,) number of positives below it

    def varies(self) -> bool:
        """Whether more than one group has a positive, and more than one a negative."""
        return all((g[1:] != g[:-1]).any() for g in (self.positive_groups, self.negative_groups))


def _bootstrap(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    replicates: int,
    seed: int,
    level: float,
    metric: Callable,
    weighted: Callable[[_Presorted, np.ndarray], np.ndarray],
) -> Bootstrap:
    scores, labels, group_index, n_groups = _check(scores, labels, groups)
    estimate = metric(scores.T, labels.T).numpy()
    columns = np.flatnonzero(~np.isnan(estimate)).tolist()
    presorted = {c: _presort(scores[:, c], labels[:, c], group_index) for c in columns}
    values = np.full((replicates, len(estimate)), np.nan)
    done = 0
    for counts in _draws(n_groups, replicates, seed, block=_at_once(len(scores))):
        block = slice(done, done + len(counts))

        def work(column: int, block: slice = block, counts: np.ndarray = counts) -> None:
            values[block, column] = weighted(presorted[column], counts)

        _for_each(work, columns, len(scores))
        done = block.stop
    varied = [c for c, category in presorted.items() if category.varies()]
    return _summary(estimate, values, level, varied)


def _for_each(work: Callable[[int], None], columns: Sequence[int], films: int) -> None:
    """Do the work of each category, on torch's threads: numpy lets go of Python's lock in it."""
    workers = min(torch.get_num_threads(), len(columns))
    if workers < 2 or films < _WORTH_THREADS:
        for column in columns:
            work(column)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, columns))


def draw_groups(n_groups: int, replicates: int, seed: int, block: int) -> Iterator[np.ndarray]:
    """Yield (G, R') arrays: how often each group is drawn in each of the next R' replicates.

    Every replicate draws `n_groups` groups with replacement. The draws depend on `n_groups`,
    `replicates` and `seed` alone, not on `block`.
    """
    for counts in _draws(n_groups, replicates, seed, block):
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def _draws(n_groups: int, replicates: int, seed: int, block: int) -> Iterator[np.ndarray]:
    """Yield the draws of `draw_groups` as (R', G) int32: a replicate is one run of memory."""
    if replicates < 1:
        raise ValueError(f"an interval needs at least one replicate, not {replicates}")
    generator = np.random.default_rng(seed)
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        drawn = generator.integers(0, n_groups, (size, n_groups), dtype=np.int64)
        drawn += np.arange(size)[:, None] * n_groups
        counts = np.bincount(drawn.ravel(), minlength=size * n_groups)
        yield counts.reshape(size, n_groups).astype(np.int32)


def _at_once(films: int) -> int:
    """How many replicates are handled together."""
    return min(max(64, _BLOCK // films), max(1, _MOST // films))


def _check(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if labels.dtype != np.float32:  # which is left as it is: with many films a copy is large
        labels = labels.astype(np.float64)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(
            f"scores {scores.shape} and labels {labels.shape} must both have shape (N, C)"
        )
    if len(np.asarray(groups)) != len(scores):
        raise ValueError(f"{len(groups)} groups were given for {len(scores)} rows of scores")
    if not len(scores):
        raise ValueError("there are no rows to score")
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    return scores, labels, index, len(names)


def _presort(scores: np.ndarray, labels: np.ndarray, group_index: np.ndarray) -> _Presorted:
    by_score = np.argsort(scores, kind="stable")
    positive, negative = by_score[labels[by_score] == 1], by_score[labels[by_score] == 0]
    return _Presorted(
        positive_groups=group_index[positive],
        negative_groups=group_index[negative],
        below=np.searchsorted(scores[negative], scores[positive], side="left"),
        not_above=np.searchsorted(scores[negative], scores[positive], side="right"),
        tie_start=np.searchsorted(scores[positive], scores[positive], side="left"),
    )


def _running_counts(groups: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(R, n + 1) number of drawn films among the first 0, 1, ..., n of those sorted."""
    running = np.zeros((len(counts), len(groups) + 1), np.int32)
    np.cumsum(counts.take(groups, axis=1), axis=1, out=running[:, 1:])
    return running


def _weighted_auroc(category: _Presorted, counts: np.ndarray) -> np.ndarray:
    """(R,) AUROC of one category in each replicate; counts (R, G)."""
    running = _running_counts(category.negative_groups, counts)
    weights = counts.take(category.positive_groups, axis=1).astype(np.float64)  # (R, P)
    pairs = weights.sum(axis=1) * running[:, -1]
    beaten = running.take(category.below, axis=1) + running.take(category.not_above, axis=1)
    twice_u = np.einsum("rp,rp->r", weights, beaten.astype(np.float64))
    return np.divide(twice_u, 2 * pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _weighted_ap(category: _Presorted, counts: np.ndarray) -> np.ndarray:
    """(R,) average precision of one category in each replicate; counts (R, G)."""
    negatives = _running_counts(category.negative_groups, counts)
    positives = _running_counts(category.positive_groups, counts)
    weights = counts.take(category.positive_groups, axis=1)
    true = positives[:, -1:] - positives.take(category.tie_start, axis=1)
    called = true + negatives[:, -1:] - negatives.take(category.below, axis=1)
    precision = np.divide(true, called, out=np.zeros(true.shape), where=called > 0)
    total, n = np.einsum("rp,rp->r", weights, precision), positives[:, -1]
    return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)


def _summary(
    estimate: np.ndarray, values: np.ndarray, level: float, varied: list[int]
) -> Bootstrap:
    low, high = (np.full(len(estimate), np.nan) for _ in range(2))
    low[varied], high[varied] = percentiles(values[:, varied], level)
    defined = ~np.isnan(estimate)
    if defined.any():
        mean, means = float(estimate[defined].mean()), values[:, defined].mean(axis=1)
    else:
        mean, means = np.nan, np.full(len(values), np.nan)
    mean_low, mean_high = percentiles(means, level)
    return Bootstrap(
        estimate, low, high, mean, float(mean_low), float(mean_high), values, means, level
    )


def percentiles(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) of (R, ...) replicates, over those that are not NaN."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, not at {level}")
    tail = 100 * (1 - level) / 2
    columns = values.reshape(len(values), -1)
    result = np.full((2, columns.shape[1]), np.nan)
    undefined = np.isnan(columns)
    whole = ~undefined.any(axis=0)
    if whole.any():
        result[:, whole] = np.percentile(columns[:, whole], [tail, 100 - tail], axis=0)
    for c in np.flatnonzero(~whole & ~undefined.all(axis=0)):
        result[:, c] = np.percentile(columns[~undefined[:, c], c], [tail, 100 - tail])
    low, high = result.reshape(2, *values.shape[1:])
    return low, high


def bootstrap_totals(
    values: np.ndarray, groups: np.ndarray, replicates: int = 1000, seed: int = 0
) -> np.ndarray:
    """Totals of films' values in each replicate, for rates and means built from counts.

    Parameters
    ----------
    values
        (N, K) values per film, such as "positive and called positive" as 0 or 1.
    groups, replicates, seed
        As in `bootstrap_auroc`, whose draws these are.

    Returns
    -------
    numpy.ndarray
        (R, K) sums over the drawn films.
    """
    values = np.asarray(values, dtype=np.float64)
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    by_group = np.empty((len(names), values.shape[1]))
    for k, column in enumerate(values.T):
        by_group[:, k] = np.bincount(index, column, minlength=len(names))
    blocks = _draws(len(names), replicates, seed, block=_at_once(len(names)))
    return np.concatenate([counts.astype(np.float64) @ by_group for counts in blocks])


def bootstrap_bins(
    bins: np.ndarray, n_bins: int, groups: np.ndarray, replicates: int = 1000, seed: int = 0
) -> np.ndarray:
    """How many films fall into each bin in each replicate, for curves that are made of counts.

    Parameters
    ----------
    bins
        (N, C) bin of each film in each category, in [0, n_bins); below 0: not counted.
    n_bins
        Number of bins.
    groups, replicates, seed
        As in `bootstrap_auroc`, whose draws these are.

    Returns
    -------
    numpy.ndarray
        (C, R, n_bins) float32 counts: 4 bytes each, whatever the number of films.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    by_bin = []
    for column in np.asarray(bins).T:
        order = np.argsort(column, kind="stable")
        by_bin.append((index[order], np.searchsorted(column[order], np.arange(n_bins + 1))))
    result = np.zeros((len(by_bin), replicates, n_bins), np.float32)
    done = 0
    for counts in _draws(len(names), replicates, seed, block=_at_once(len(index))):
        block = slice(done, done + len(counts))

        def work(c: int, block: slice = block, counts: np.ndarray = counts) -> None:
            owners, ends = by_bin[c]
            result[c, block] = np.diff(_running_counts(owners, counts).take(ends, axis=1), axis=1)

        _for_each(work, range(len(by_bin)), len(index))
        done = block.stop
    return result
