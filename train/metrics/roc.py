"""ROC curves, all by the same vertices: one for each distinct score."""

from __future__ import annotations

import numpy as np

from train.metrics.bootstrap import draw_groups, percentiles

__all__ = ["bootstrap_roc_band", "roc_vertices"]


def roc_vertices(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """ROC vertices (false-positive rates, sensitivities) by falling score, from (0, 0) to (1, 1).

    Parameters
    ----------
    scores, labels
        (N,) scores, and labels in {1, 0, NaN} that hold both classes; NaN is not counted.
    weights
        (N,) how much each film counts; None: once.
    """
    known = ~np.isnan(labels)
    counts = np.ones(len(scores)) if weights is None else weights
    return _vertices(*_ranked(scores[known], labels[known]), counts[known])


def bootstrap_roc_band(
    scores: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    false_positive_rates: np.ndarray,
    replicates: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise interval of one category's ROC curve.

    Parameters
    ----------
    scores, labels, groups
        (N,) each, as in `train.metrics.bootstrap.bootstrap_auroc`; labels must hold both classes.
    false_positive_rates
        (F,) in [0, 1], where the curve is read (linear between its points).

    Returns
    -------
    (low, high)
        (F,) sensitivities each.
    """
    known = ~np.isnan(labels)
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    index, ranked = index[known], _ranked(np.asarray(scores, np.float64)[known], labels[known])
    curves = []
    for counts in draw_groups(len(names), replicates, seed, block=64):
        for drawn in counts.T:
            weights = drawn[index]
            if weights @ ranked[2] and weights @ ~ranked[2]:
                curves.append(np.interp(false_positive_rates, *_vertices(*ranked, weights)))
    return percentiles(np.array(curves), level)


def _ranked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order by falling score, whether a film is the last of its tie, and whether it is positive."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    return order, np.append(ranked[1:] != ranked[:-1], True), labels == 1


def _vertices(
    order: np.ndarray, last_of_tie: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    positive, weights = positive[order], weights[order]
    true = np.append(0, np.cumsum(weights * positive)[last_of_tie])
    false = np.append(0, np.cumsum(weights * ~positive)[last_of_tie])
    return false / false[-1], true / true[-1]
