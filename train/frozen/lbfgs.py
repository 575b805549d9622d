"""L-BFGS on many logistic regressions side by side; a column is one regression.

A step is a few products with the features however many regressions there are. Each starts from a
curvature that is roughly its own, goes its own length, and leaves when it has come to its end
(Nocedal and Wright, Numerical Optimization, 2nd edition, algorithm 7.4).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Objective", "minimise"]

_MAX_STEPS, _MAX_HALVINGS, _MEMORY = 200, 12, 8

# Of a loss in float32; a step that loses no more than this gains.
_ROUNDING = 1e-6


class Objective(Protocol):
    """What is minimised; `live` (k,) are the columns that are asked for."""

    def loss(self, theta: Tensor, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (k,) float64 at theta (P, k), its gradient (P, k), and the sum of p (1 - p) over the
        films (k,).
        """
        ...

    def preconditioned(self, q: Tensor, bend: Tensor, live: Tensor) -> Tensor:
        """Roughly the inverse Hessian times q (P, k); `bend` is the last of `loss` at the start."""
        ...


def minimise(objective: Objective, theta: Tensor, live: Tensor, tolerance: float) -> int:
    """Move columns of theta to their minima.

    Parameters
    ----------
    objective
        What is minimised.
    theta
        (P, K), changed in place.
    live
        The columns to move.
    tolerance
        A column ends with the first step that gains less than this by the slope there.

    Returns
    -------
    int
        How many steps the slowest took.
    """
    if not len(live):
        return 0
    loss, gradient, bend = objective.loss(theta[:, live], live)
    # Changes of theta and of the gradient in the last steps, all for the live columns.
    past: list[tuple[Tensor, Tensor]] = []
    for step in range(_MAX_STEPS):
        direction = -_two_loop(objective, gradient, past, bend, live)
        slope = (gradient * direction).sum(0)
        going = -slope / 2 > tolerance
        if not going.all():
            theta[:, live[~going]] += direction[:, ~going]  # the last step, too small to be judged
            live, loss, slope, bend = (x[going] for x in (live, loss, slope, bend))
            gradient, direction = gradient[:, going], direction[:, going]
            past = [(s[:, going], y[:, going]) for s, y in past]
        if not len(live):
            return step
        moved, found, new_loss = _search(objective, theta[:, live], direction, loss, slope, live)
        stuck = new_loss.isinf()  # no gain is left that is more than rounding
        change = torch.where(stuck, 0.0, moved - theta[:, live])
        theta[:, live] += change
        past = [*past, (change, torch.where(stuck, 0.0, found - gradient))][-_MEMORY:]
        loss, gradient = new_loss, found
        if stuck.any():
            live, bend, loss, gradient = live[~stuck], bend[~stuck], loss[~stuck], found[:, ~stuck]
            past = [(s[:, ~stuck], y[:, ~stuck]) for s, y in past]
    return _MAX_STEPS


def _search(
    objective: Objective,
    theta: Tensor,
    direction: Tensor,
    loss: Tensor,
    slope: Tensor,
    live: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(theta, gradient, loss) after a step of each column that gains; the loss is infinite where
    there is none.
    """
    new_theta, new_gradient = theta.clone(), torch.zeros_like(theta)
    new_loss = torch.full_like(loss, torch.inf)
    size, pending = torch.ones_like(loss), torch.arange(len(live), device=loss.device)
    for _ in range(_MAX_HALVINGS):
        tried = theta[:, pending] + size[pending].float() * direction[:, pending]
        value, gradient, _ = objective.loss(tried, live[pending])
        allowed = loss[pending] * (1 + _ROUNDING) + 1e-4 * size[pending] * slope[pending]
        gained = value <= allowed
        done = pending[gained]
        new_theta[:, done], new_gradient[:, done] = tried[:, gained], gradient[:, gained]
        new_loss[done] = value[gained]
        pending = pending[~gained]
        if not len(pending):
            break
        size[pending] /= 2
    return new_theta, new_gradient, new_loss


def _two_loop(
    objective: Objective,
    gradient: Tensor,
    past: list[tuple[Tensor, Tensor]],
    bend: Tensor,
    live: Tensor,
) -> Tensor:
    """The inverse Hessian, as the last steps show it, times the gradient."""
    q, factors = gradient.clone(), []
    for s, y in reversed(past):
        curved = (s * y).sum(0)
        inverse = torch.where(curved > 0, 1 / curved, 0.0)
        alpha = inverse * (s * q).sum(0)
        q -= alpha * y
        factors.append((inverse, alpha))
    q = objective.preconditioned(q, bend, live)
    for (s, y), (inverse, alpha) in zip(past, reversed(factors), strict=True):
        q += (alpha - inverse * (y * q).sum(0)) * s
    return q
