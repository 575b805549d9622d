"""Learning rate as a pure function of the step, so that nothing has to be saved to resume."""

from __future__ import annotations

import math
from collections.abc import Sequence

SCHEDULES = ("one-cycle", "cosine", "plateau", "constant")

# "plateau": the rate falls to a tenth once this many evaluations in a row brought no new best.
PLATEAU_PATIENCE = 2
_PLATEAU_FACTOR = 0.1


def learning_rate(
    schedule: str,
    peak: float,
    step: int,
    steps: int,
    warmup: float,
    scores: Sequence[float] = (),
    final: float = 0.0,
) -> float:
    """The learning rate of one optimiser step.

    Parameters
    ----------
    schedule
        "one-cycle" (Smith & Topin 2019: up from peak / 25 and down to peak / 250,000 along
        cosines), "cosine" (up along a line, down to `final`), "plateau" (up along a line, then a
        tenth whenever validation stops improving) or "constant" (up along a line).
    peak
        The highest rate.
    step, steps
        The step, from 0, and how many there will be.
    warmup
        Share of the steps, in [0, 1), in which the rate rises.
    scores
        Validation scores so far, higher is better; "plateau" needs them.
    final
        Where "cosine" ends, as a share of the peak, in [0, 1).
    """
    rising = warmup * steps - 1 if schedule == "one-cycle" else warmup * steps
    if step < rising:
        if schedule == "one-cycle":
            return _cosine(peak / 25, peak, step / rising)
        return peak * (step + 1) / (rising + 1)
    falling = (step - rising) / max(1, steps - 1 - rising)
    if schedule == "one-cycle":
        return _cosine(peak, peak / 25e4, falling)
    if schedule == "cosine":
        return _cosine(peak, final * peak, falling)
    if schedule == "plateau":
        return peak * _PLATEAU_FACTOR ** plateaus(scores)
    return peak


def plateaus(scores: Sequence[float]) -> int:
    """How often `PLATEAU_PATIENCE` evaluations in a row brought no new best."""
    best, waited, count = -math.inf, 0, 0
    for score in scores:
        if score > best:
            best, waited = score, 0
        else:
            waited += 1
        if waited == PLATEAU_PATIENCE:
            waited, count = 0, count + 1
    return count


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
