"""How a ranking metric grows with each film's score: where the genetic search looks for its way."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["pulls_of"]


def pulls_of(
    scores: Tensor,
    y: Tensor,
    width: Tensor,
    metric: str = "auroc",
    counted: Tensor | None = None,
) -> Tensor:
    """How the metric grows with each film's score, where comparisons are ramps.

    The gradient of the share of pairs that are in order, each pair counting not as 0 or 1 but by a
    ramp from 0 to 1 between score differences of ``-width`` and ``width``; in O(n log n). For
    average precision the pairs of a positive weigh what one negative less above it would give it.

    Parameters
    ----------
    scores
        (n,), or (K, n) of K regressions.
    y
        (n,) of both classes, {1, 0}.
    width
        Half of the ramp, () or (K, 1).
    metric
        "auroc" or "ap".
    counted
        Of the shape of the scores: the films that take part, True; None: all of them.

    Returns
    -------
    Tensor
        Of the shape of the scores: in each row scaled to a sum of absolute values of one, and zero
        if no pair is close.
    """
    positives, negatives = ((y == value).nonzero().squeeze(1) for value in (1, 0))
    taking_part = scores
    if counted is not None:  # the others are sorted to the end, where no search finds them
        taking_part = scores.where(counted, torch.inf)
    up, down = (_sorted(taking_part[..., places]) for places in (positives, negatives))
    ups, downs = scores[..., positives], scores[..., negatives]
    pulls = torch.zeros_like(scores)
    if metric == "auroc":
        pulls[..., positives] = _within(down, ups, width).to(scores)
        pulls[..., negatives] = -_within(up, downs, width).to(scores)
    else:
        total = torch.nn.functional.pad(_weights(up, down).cumsum(-1), (1, 0))
        first, last = torch.searchsorted(up, ups), torch.searchsorted(up, ups, right=True)
        # The mean of those of equal score; of films that do not count, whatever it may be.
        own = (total.gather(-1, last) - total.gather(-1, first)) / (last - first).clamp(min=1)
        pulls[..., positives] = own * _within(down, ups, width)
        above = total.gather(-1, torch.searchsorted(up, downs + width, right=True))
        pulls[..., negatives] = total.gather(-1, torch.searchsorted(up, downs - width)) - above
    if counted is not None:
        pulls *= counted
    return pulls / pulls.abs().sum(-1, keepdim=True).clamp(min=1e-12)


def _weights(up: Tensor, down: Tensor) -> Tensor:
    """What a positive of average precision gains by one negative less above it.

    Of precision t / (t + f) it gains t / (t + f)^2. Both are sorted; infinities do not count.
    """
    finite = up.isfinite()
    true = finite.sum(-1, keepdim=True) - torch.arange(up.shape[-1], device=up.device)
    below = torch.searchsorted(down, up)
    false = down.isfinite().sum(-1, keepdim=True) - below
    return torch.where(finite, true / (true + false).square(), 0.0).to(up)


def _within(values: Tensor, points: Tensor, width: Tensor) -> Tensor:
    """How many of the sorted `values` lie within `width` of each point."""
    not_above = torch.searchsorted(values, points + width, right=True)
    return not_above - torch.searchsorted(values, points - width)


def _sorted(values: Tensor) -> Tensor:
    """Each row in ascending order; numpy's sort is many times faster than torch's on a CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values
