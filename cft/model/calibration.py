"""Platt scaling and operating points: from scores to probabilities and decisions, per category.

Both are fitted on validation films, never on the films that trained the model or that test it.
Neither changes a ranking, so AUROC and average precision stay as they were.
"""

from __future__ import annotations

import math

import numpy as np

from cft.model.odds import fit_line, sigmoid

#: Fewer known positives, or negatives, than this say nothing about probabilities or thresholds.
MIN_CASES = 5

#: How an operating point can be chosen, see `operating_point`.
RULES = ("youden", "f1", "specificity", "sensitivity")

#: The share of negatives (positives) that the rule "specificity" ("sensitivity") gets right.
GOAL = 0.95

# Slope, per standard deviation of the scores, of a category whose scores rank its cases wrongly.
# Not zero: a constant probability would erase the ranking.
_FLAT = 1e-3


def apply_platt(scores: np.ndarray, scale: float, bias: float) -> np.ndarray:
    """Scores (logits), any shape -> probabilities ``sigmoid(scale * score + bias)``.

    Examples
    --------
    >>> float(apply_platt(np.float64(0.0), scale=2.0, bias=0.0))
    0.5
    """
    return sigmoid(scale * np.asarray(scores) + bias)


def fit_platt(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float] | None:
    """Fit the Platt scaling of one category.

    Parameters
    ----------
    scores
        (N,) logits of the model.
    labels
        (N,) of 1, 0 and NaN; NaN (unknown) is left out.

    Returns
    -------
    (scale, bias) or None
        None with fewer than `MIN_CASES` known positives or negatives. The scale is positive: where
        the best fit would turn the ranking round, which only happens when the scores say nothing
        about the labels, all probabilities are close to the share of positives, in the order of
        the scores.

    References
    ----------
    J. Platt, "Probabilistic outputs for support vector machines" (1999), section 2.2: the targets
    are (n+ + 1) / (n+ + 2) and 1 / (n- + 2) instead of 1 and 0, so that the fit exists even when
    the scores separate the labels.
    """
    scores, labels = _known(scores, labels)
    if not _enough(labels):
        return None
    positives, negatives = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    mean, spread = scores.mean(), scores.std() or 1.0
    standard = (scores - mean) / spread  # well conditioned, whatever the model's units
    slope, intercept = fit_line(standard, targets)
    if slope < _FLAT:
        slope, intercept = _FLAT, float(np.log(targets.mean() / (1 - targets.mean())))
    return slope / float(spread), intercept - slope * float(mean / spread)


def operating_point(
    probabilities: np.ndarray,
    labels: np.ndarray,
    rule: str = "youden",
    min_cases: int = MIN_CASES,
) -> dict[str, float | str] | None:
    """Choose the threshold of one category; a film at or above it counts as positive.

    Parameters
    ----------
    probabilities
        (N,) in [0, 1].
    labels
        (N,) of 1, 0 and NaN; NaN (unknown) is left out.
    rule
        "youden": the largest sensitivity + specificity - 1 (Youden, Cancer 1950). "f1": the
        largest F1 of the positives. Of several such points the one of highest specificity.
        "specificity": the lowest threshold at which a new negative is expected to stay below with
        a chance of at least `GOAL`. "sensitivity": the highest that a new positive is expected to
        reach with that chance. With fewer than 19 cases no threshold promises so much; then the
        rule leaves out none of them.
    min_cases
        Fewest known positives, and negatives, that may choose; at least 1.

    Returns
    -------
    dict or None
        ``threshold`` in units of probability, half-way between the two films that it separates; it
        is above 1 where no film is to be called and one has probability 1;
        ``sensitivity`` and ``specificity`` on these films; ``rule``. None with fewer than
        `min_cases` known positives or negatives.

    Raises
    ------
    ValueError
        If there is no such rule.

    References
    ----------
    The two shares are those of split-conformal prediction (Vovk et al., 2005): of n exchangeable
    cases and a new one, the new one is at or below the k-th smallest with a chance of k / (n + 1).
    """
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r} for operating points; there are {', '.join(RULES)}")
    probabilities, labels = _known(probabilities, labels)
    if not _enough(labels, min_cases):
        return None
    # Ascending thresholds: index i means that the films from the i-th distinct value up are called.
    values, index = np.unique(probabilities, return_inverse=True)
    positives = np.bincount(index, weights=labels, minlength=len(values))
    negatives = np.bincount(index, weights=1 - labels, minlength=len(values))
    true = positives[::-1].cumsum()[::-1]
    false = negatives[::-1].cumsum()[::-1]
    true, false = np.append(true, 0), np.append(false, 0)  # and that no film is called
    sensitivity, specificity = true / positives.sum(), 1 - false / negatives.sum()
    best = _best(true, false, rule)
    top = 1.0 if values[-1] < 1 else np.nextafter(values[-1], np.inf)  # above it no film is called
    edges = np.concatenate([values[:1], values, [top]])
    below, above = edges[best], edges[best + 1]
    middle = (below + above) / 2
    return {
        "threshold": float(middle if middle > below else above),  # of neighbours there is none
        "sensitivity": float(sensitivity[best]),
        "specificity": float(specificity[best]),
        "rule": rule,
    }


def _best(true: np.ndarray, false: np.ndarray, rule: str) -> int:
    """Which of the ascending thresholds a rule chooses, from the positives called at each."""
    if rule == "specificity":
        wrong = _left_out(int(false[0]))
        return int(np.flatnonzero(false <= wrong)[0])
    if rule == "sensitivity":
        wrong = _left_out(int(true[0]))
        return int(np.flatnonzero(true >= true[0] - wrong)[-1])
    true, false = true[:-1], false[:-1]
    share = true / true[0] - false / false[0]
    gain = share if rule == "youden" else 2 * true / (true + false + true[0])
    return int(np.flatnonzero(np.isclose(gain, gain.max(), rtol=0, atol=1e-12))[-1])


def _left_out(n: int) -> int:
    """How many of n cases may be on the wrong side, so that a new one is not with chance `GOAL`."""
    return max(0, n - math.ceil(GOAL * (n + 1) - 1e-9))


def _known(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(values, np.float64), np.asarray(labels, np.float64)
    known = ~np.isnan(labels)
    return values[known], labels[known]


def _enough(labels: np.ndarray, min_cases: int = MIN_CASES) -> bool:
    return min(labels.sum(), (1 - labels).sum()) >= min_cases
