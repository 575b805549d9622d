"""Probabilities and log-odds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# A probability of exactly 0 or 1 has no logit; float32's resolution near 1 bounds what one means.
_SMALLEST = 2.0**-24

# Newton's method ends with the step that gains less than this in log-likelihood.
_GAIN, _MAX_STEPS = 1e-10, 200

# No logit changes by more than this in a step.
_FARTHEST = 4.0


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


def fit_line(x: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Logistic regression on one number, without a penalty, by Newton's method.

    Parameters
    ----------
    x
        (N,) about zero and of unit spread; or all zero, and then the slope is.
    targets
        (N,) in [0, 1], of which `x` does not separate those below any value from those above:
        otherwise there is no steepest slope.

    Returns
    -------
    slope, intercept

    Examples
    --------
    >>> slope, intercept = fit_line(np.array([-1.0, 0.0, 1.0]), np.array([0.2, 0.5, 0.8]))
    >>> round(slope, 6), abs(intercept) < 1e-9  # log(0.8 / 0.2)
    (1.386294, True)
    """
    columns = np.stack([x, np.ones_like(x)], axis=1)
    line = np.array([0.0, float(logit(np.mean(targets)))])

    def loss(line: np.ndarray) -> float:
        logits = columns @ line
        return float((np.logaddexp(0, logits) - targets * logits).sum())

    before = loss(line)
    for _ in range(_MAX_STEPS):
        p = sigmoid(columns @ line)
        gradient = columns.T @ (p - targets)
        curvature = (columns * (p * (1 - p))[:, None]).T @ columns
        step = np.linalg.lstsq(curvature, gradient)[0]  # of least length where x is constant
        # Far from where it stands, a film's curve is flat, and steps there find no way back.
        size = min(1.0, _FARTHEST / max(1.0, float(np.abs(columns @ step).max())))
        after = loss(line - size * step)
        while after > before and size > _SMALLEST:  # beyond the minimum, and higher than it was
            size /= 2
            after = loss(line - size * step)
        if after > before:  # no gain is left that is more than rounding
            break
        line, before = line - size * step, after
        if gradient @ step < _GAIN:  # the next one would gain about the square of that
            break
    return float(line[0]), float(line[1])
