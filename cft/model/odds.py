"""Probabilities and log-odds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# A probability of exactly 0 or 1 has no logit; float32's resolution near 1 bounds what one means.
_SMALLEST = 2.0**-24


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logits, any shape -> probabilities of the same floating-point type; no logit overflows.

    Examples
    --------
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.exp(-np.logaddexp(0, -np.asarray(logits)))


def logit(probabilities: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Probabilities, any shape -> logits; finite also for 0 and 1.

    Examples
    --------
    >>> float(logit(np.array(0.5)))
    0.0
    """
    inside = np.clip(np.asarray(probabilities, np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.log(inside / (1 - inside))
