"""Rule-in and rule-out thresholds with a stated error rate, from films that were held out.

Split-conformal prediction for one class at a time (Vovk et al., Algorithmic Learning in a Random
World, 2005): of n calibration films of a class and a new one, each is equally likely to have the
k-th smallest score. The rate holds for new films of the same kind and says nothing of others.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["bands", "p_values"]


def bands(scores: np.ndarray, labels: np.ndarray, error: float = 0.05) -> tuple[float, float]:
    """Thresholds of one category: a film is ruled out below the first, ruled in above the second.

    Parameters
    ----------
    scores
        (N,) of calibration films that trained nothing.
    labels
        (N,) in {1, 0, NaN}; NaN is not counted.
    error
        The largest chance that a new positive film is ruled out, and that a new negative one is
        ruled in, in (0, 1).

    Returns
    -------
    (rule_out, rule_in)
        -inf or inf where there are too few films of a class for that rate: no film is ruled out, or
        in. The first may be above the second: then a film between them is both, which a caller has
        to treat as unsure.
    """
    if not 0 < error < 1:
        raise ValueError(f"an error rate lies between 0 and 1, not at {error}")
    positives = np.sort(np.asarray(scores, np.float64)[labels == 1])
    negatives = np.sort(np.asarray(scores, np.float64)[labels == 0])
    low = math.floor(error * (len(positives) + 1) + 1e-9)
    high = math.floor(error * (len(negatives) + 1) + 1e-9)
    rule_out = positives[low - 1] if low >= 1 else -np.inf
    rule_in = negatives[len(negatives) - high] if high >= 1 else np.inf
    return float(rule_out), float(rule_in)


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """(M,) conformal p-values: the share of films, the new one too, that score no more than it.

    Parameters
    ----------
    scores
        (M,) of new films.
    calibration
        (N,) scores of held-out films of the class that is tested. For positives, a small value says
        that a film is unlike them; for negatives, pass scores of both with the sign turned.
    """
    below = np.searchsorted(np.sort(calibration), scores, side="right")
    return (below + 1) / (len(calibration) + 1)
