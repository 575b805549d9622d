"""Means of several models' answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["AVERAGES", "combine", "logit"]

#: What the models' answers are averaged as.
AVERAGES = ("probabilities", "logits")

# A probability of exactly 0 or 1 has no logit; float32's resolution near 1 bounds what one means.
_SMALLEST = 2.0**-24


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
    return np.exp(-np.logaddexp(0, -mean))


def logit(probabilities: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Logits of probabilities, any shape; finite also for 0 and 1."""
    inside = np.clip(np.asarray(probabilities, np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.log(inside / (1 - inside))
