"""DeLong's covariance of AUROCs, also of dependent films."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from train.metrics.ranking import auroc

__all__ = ["DeLong", "delong"]


# --- DeLong -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeLong:
    """AUROCs of several models on the same films, and the covariance of these estimates.

    Attributes
    ----------
    estimate
        (M,) AUROC of each model.
    covariance
        (M, M); NaN where there are fewer than two groups with a positive or with a negative.
    """

    estimate: np.ndarray
    covariance: np.ndarray

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each (M,), of the normal approximation, cut off at 0 and 1."""
        half = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(np.diag(self.covariance))
        return np.clip(self.estimate - half, 0, 1), np.clip(self.estimate + half, 0, 1)


def delong(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> DeLong:
    """AUROCs of models scored on the same films, with DeLong's covariance, in O(M N log N).

    The structural components (how many negatives each positive beats, and the reverse) come from
    sorted scores instead of all pairs, as in Sun and Xu. With `groups`, components of one group
    are summed first, as in Obuchowski, so that films of one patient may be dependent; groups of
    one film each give DeLong's own covariance.

    Parameters
    ----------
    scores
        (M, N): M models, N films.
    labels
        (N,) in {1, 0, NaN}; NaN is not counted.
    groups
        (N,) patient or study; None: every film by itself.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845.
    Sun and Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393.
    Obuchowski, Biometrics 53 (1997) 567-578.
    """
    scores, labels = np.atleast_2d(np.asarray(scores)), np.asarray(labels, dtype=np.float64)
    estimate = auroc(scores, labels).numpy()
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    m, n = len(positive), len(negative)
    if not m or not n:
        return DeLong(estimate, np.full((len(scores), len(scores)), np.nan))
    index = np.arange(len(labels))
    if groups is not None:
        index = np.unique(np.asarray(groups), return_inverse=True)[1]
    wins = np.stack([_share_below(row[negative], row[positive]) for row in scores])  # (M, m)
    losses = 1 - np.stack([_share_below(row[positive], row[negative]) for row in scores])  # (M, n)
    positive_sums = _group_sums(wins - estimate[:, None], index[positive], index.max() + 1)
    negative_sums = _group_sums(losses - estimate[:, None], index[negative], index.max() + 1)
    with_positive, with_negative, with_either = (
        int(np.count_nonzero(np.bincount(index[some])))
        for some in (positive, negative, np.concatenate([positive, negative]))
    )
    covariance = (
        _unbiased(with_positive) / m**2 * positive_sums @ positive_sums.T
        + _unbiased(with_negative) / n**2 * negative_sums @ negative_sums.T
    )
    crossed = _unbiased(with_either) / (m * n) * positive_sums @ negative_sums.T
    return DeLong(estimate, covariance + crossed + crossed.T)


def _share_below(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """For each threshold the share of `values` below it, ties counted one half."""
    values = np.sort(values)
    below = np.searchsorted(values, thresholds, side="left")
    not_above = np.searchsorted(values, thresholds, side="right")
    return (below + not_above) / (2 * len(values))


def _group_sums(components: np.ndarray, index: np.ndarray, n_groups: int) -> np.ndarray:
    """(M, n) components -> (M, G) sums over each group."""
    return np.stack([np.bincount(index, row, minlength=n_groups) for row in components])


def _unbiased(n: int) -> float:
    """n / (n - 1): a sample variance's correction; NaN for a single group."""
    return n / (n - 1) if n > 1 else np.nan
