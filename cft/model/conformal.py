"""Ruled in, ruled out or unsure: a band of probabilities with stated error rates, per category."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["RULE_IN_ERROR", "RULE_OUT_ERROR", "Band", "conformal_band"]

#: The share of films with a finding that may be ruled out, and of those without that may be ruled
#: in, in training's bands.
RULE_OUT_ERROR = RULE_IN_ERROR = 0.1


@dataclass(frozen=True)
class Band:
    """Where a category's probability decides, and where it does not.

    Attributes
    ----------
    rule_out
        Below this probability the finding is ruled out; None: never, there were too few films
        with it.
    rule_in
        From this probability on it is ruled in; None: never, there were too few films without it.
    rule_out_error, rule_in_error
        The largest chance that a film with the finding is ruled out, and that one without is
        ruled in.
    positives, negatives
        The films that this rests on; None if that is not stated.
    """

    rule_out: float | None
    rule_in: float | None
    rule_out_error: float
    rule_in_error: float
    positives: int | None = None
    negatives: int | None = None

    def verdict(self, probability: float) -> str | None:
        """``"in"``, ``"out"`` or ``"unsure"``; None where a limit that is not there would decide.

        Also unsure is what both limits claim, where the two cross: such a film is unlike those
        with the finding and unlike those without.
        """
        out = self.rule_out is not None and probability < self.rule_out
        into = self.rule_in is not None and probability >= self.rule_in
        if out != into:
            return "in" if into else "out"
        return None if self.rule_out is None or self.rule_in is None else "unsure"


def conformal_band(
    probabilities: np.ndarray,
    labels: np.ndarray,
    rule_out_error: float = RULE_OUT_ERROR,
    rule_in_error: float = RULE_IN_ERROR,
) -> dict[str, Any]:
    """The band of one category by class-conditional split conformal prediction.

    Parameters
    ----------
    probabilities
        (N,) in [0, 1], of films that did not train the model; any strictly rising function of the
        score gives the same decisions.
    labels
        (N,) of 1, 0 and NaN; NaN (unknown) is left out.
    rule_out_error, rule_in_error
        See `Band`; in (0, 1).

    Returns
    -------
    dict
        The fields of `Band`. A limit is None with fewer than ``1 / error - 1`` films of its class,
        and where no probability would be beyond it.

    Raises
    ------
    ValueError
        If an error rate is not in (0, 1).

    Notes
    -----
    A film is ruled out if its p-value as one of the n films with the finding, (1 + how many of
    them score as low) / (n + 1), is at most the error rate; so the limit is the k-th smallest of
    their probabilities, k being the whole part of error * (n + 1). Ruling in is the same with the
    classes exchanged. The error rate holds on average over calibration films and new ones that are
    exchangeable with them: other hospitals are not, and several films of a patient only in part.

    References
    ----------
    Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005), section 4.5
    (label-conditional, also called Mondrian, conformal predictors).
    """
    for error in (rule_out_error, rule_in_error):
        if not 0 < error < 1:
            raise ValueError(f"an error rate must be between 0 and 1, not {error:g}")
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    positives = np.sort(probabilities[labels == 1])
    negatives = np.sort(probabilities[labels == 0])[::-1]
    out, into = _rank(rule_out_error, len(positives)), _rank(rule_in_error, len(negatives))
    # The next number, so that what equals the film of that rank is not ruled in.
    above = float(np.nextafter(negatives[into - 1], np.inf)) if into else np.inf
    return {
        "rule_out": float(positives[out - 1]) if out else None,
        "rule_in": above if above <= 1 else None,
        "rule_out_error": rule_out_error,
        "rule_in_error": rule_in_error,
        "positives": len(positives),
        "negatives": len(negatives),
    }


def _rank(error: float, n: int) -> int:
    """How far from the end the limit stands; 0 where n films promise no such error rate."""
    return math.floor(error * (n + 1) + 1e-9)
