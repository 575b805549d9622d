"""A model against a radiologist at the radiologist's own specificity."""

from __future__ import annotations

import numpy as np

from train.metrics.bootstrap import draw_groups

__all__ = ["sensitivity_beside_reader"]


def sensitivity_beside_reader(
    scores: np.ndarray,
    decisions: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    replicates: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity of a model and of a reader, the model at no more false alarms than the reader.

    The model's is that of its ROC curve at the last threshold whose false-positive rate is not
    above the reader's, in each replicate anew; nothing is interpolated, so the comparison favours
    the reader.

    Parameters
    ----------
    scores
        (N,) of one category.
    decisions, labels
        (N,) in {1, 0, NaN}; films that either leaves open are not counted.
    groups, replicates, seed
        As in `train.metrics.bootstrap.bootstrap_auroc`, whose draws these are.

    Returns
    -------
    (estimate, replicates)
        (2,) model and reader, and (R, 2); NaN without a positive or a negative.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    known = ~np.isnan(decisions) & ~np.isnan(labels)
    order = np.flatnonzero(known)[np.argsort(-np.asarray(scores)[known], kind="stable")]
    ranked = np.asarray(scores)[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
    positive, called = labels[order] == 1, decisions[order] == 1
    film = _beside(positive, called, last_of_tie, np.ones((len(order), 1)))
    drawn = [
        _beside(positive, called, last_of_tie, counts[index[order]])
        for counts in draw_groups(len(names), replicates, seed, block=256)
    ]
    return film[0], np.concatenate(drawn)


def _beside(
    positive: np.ndarray, called: np.ndarray, last_of_tie: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(R, 2) sensitivities for (n, R) counts of films that are ranked by falling score."""
    found = np.cumsum(weights * positive[:, None], axis=0)
    alarms = np.cumsum(weights * ~positive[:, None], axis=0)
    if not len(found):
        return np.full((weights.shape[1], 2), np.nan)
    total, most = found[-1], (weights * (called & ~positive)[:, None]).sum(axis=0)
    allowed = (alarms <= most) & last_of_tie[:, None]
    best = np.where(allowed, found, 0).max(axis=0)
    reader = (weights * (called & positive)[:, None]).sum(axis=0)
    result = np.stack([best, reader], axis=1)
    undefined = np.full(result.shape, np.nan)
    defined = ((total > 0) & (alarms[-1] > 0))[:, None] & np.ones(2, bool)
    return np.divide(result, total[:, None], out=undefined, where=defined)
