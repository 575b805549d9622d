"""Means of several models' answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cft.model.odds import logit, sigmoid

__all__ = ["AVERAGES", "combine"]

#: What the models' answers are averaged as.
AVERAGES = ("probabilities", "logits")


def combine(
    answers: np.ndarray | Sequence[np.ndarray],
    weights: np.ndarray | Sequence[float],
    average: str,
) -> np.ndarray:
    """Weighted mean of several models' answers.

    Parameters
    ----------
    answers
        (M, ...) of M models: probabilities, in [0, 1] for "logits".
    weights
        (M,), not negative, not all 0.
    average
        "probabilities": of the answers as they are. "logits": of their logits, given back as a
        probability.

    Returns
    -------
    numpy.ndarray
        (...)
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    if average == "probabilities":
        return np.tensordot(shares, answers, axes=1)
    mean = np.tensordot(shares, logit(answers), axes=1)
    return sigmoid(mean)
