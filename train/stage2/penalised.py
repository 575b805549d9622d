"""Penalised logistic regressions of one category: several sets of films, a path of strengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from cft.model.calibration import fit_platt
from train.frozen.lbfgs import minimise
from train.precision import full_precision

__all__ = ["fit_path"]

# The slope of the trained logit in the new one is not below this: a category whose trained ranking
# is all but wrong on its known labels would otherwise become a fresh fit to these few.
_MIN_SLOPE = 0.1

# A fit ends when a further step would gain less than this in log-likelihood: far below one film.
_TOLERANCE = 1e-3

# Films that a product with the features takes at once.
_BLOCK = 4096


def fit_path(
    x: Tensor,
    y: Tensor,
    counted: Tensor,
    trained: Tensor,
    spread: Tensor,
    strengths: Sequence[float],
) -> Tensor:
    """Penalised logistic regressions of one category, at every strength, for several sets of films.

    Parameters
    ----------
    x, y
        (n, R) places of the known films along the directions of the basis, and their (n,) labels.
    counted
        (n, F) 1 for the films of each set.
    trained
        (n, 1 or F) logits of the trained regressions, from which changes count.
    spread
        (R,) mean square of x over the training films.
    strengths
        (S,) of the penalty.

    Returns
    -------
    Tensor
        (F, S, R) changes of the weights along the directions, on the scale of the trained logits.
    """
    refits = _Refits(x, y, counted, trained, spread, strengths)
    theta = torch.zeros(x.shape[1] + 1, len(refits.slopes)).to(x)
    theta[-1] = refits.biases
    with full_precision():
        minimise(refits, theta, torch.arange(theta.shape[1], device=x.device), _TOLERANCE)
    return (theta[:-1] / refits.slopes).T.reshape(-1, len(strengths), x.shape[1])


class _Refits:
    """One category's regressions: an `Objective`, whose columns are sets x strengths.

    The logit of a film is ``slope * trained logit + x . theta + bias``, the bias being the last of
    theta. The parameters are those of `fit_path`.

    Attributes
    ----------
    slopes, biases
        (K,) of each column: slope and first bias, from Platt's scaling of its set.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        counted: Tensor,
        trained: Tensor,
        spread: Tensor,
        strengths: Sequence[float],
    ):
        self._x, self._y, self._counted, self._spread = x, y, counted, spread
        self._trained = trained.expand(-1, counted.shape[1])  # (n, F)
        pairs = zip(self._trained.T, counted.T, strict=True)
        platt = torch.tensor([_slope_and_bias(logits, y, films) for logits, films in pairs]).to(x)
        self.slopes, self.biases = platt.repeat_interleave(len(strengths), dim=0).T
        self._steps = len(strengths)
        self._strengths = torch.tensor(strengths).to(x).repeat(counted.shape[1])

    def loss(self, theta: Tensor, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `train.frozen.lbfgs.Objective`."""
        sets, slopes, strengths = live // self._steps, self.slopes[live], self._strengths[live]
        loss = torch.zeros(len(live), dtype=torch.float64, device=theta.device)
        bend, gradient = torch.zeros_like(loss), torch.zeros_like(theta)
        for start in range(0, len(self._x), _BLOCK):  # so that what is between stays in the cache
            rows = slice(start, start + _BLOCK)
            x, y = self._x[rows], self._y[rows, None]
            logits = torch.addmm(theta[-1], x, theta[:-1])
            logits += slopes * self._trained[rows][:, sets]
            mask = self._counted[rows][:, sets]
            p = torch.sigmoid(logits)
            loss += ((softplus(logits) - y * logits) * mask).double().sum(0)
            bend += (p * (1 - p) * mask).double().sum(0)
            residual = (p - y) * mask
            gradient[:-1] += x.T @ residual
            gradient[-1] += residual.sum(0)
        loss += 0.5 * strengths * theta[:-1].double().square().sum(0)
        gradient[:-1] += strengths * theta[:-1]
        return loss, gradient, bend.clamp(min=1e-6)

    def preconditioned(self, q: Tensor, bend: Tensor, live: Tensor) -> Tensor:
        """The directions are uncorrelated over all films, so that their curvature is diagonal."""
        bend = bend.float()
        curvature = bend * self._spread[:, None] + self._strengths[live]
        return torch.cat([q[:-1] / curvature, (q[-1] / bend)[None]])


def _slope_and_bias(logits: Tensor, y: Tensor, counted: Tensor) -> tuple[float, float]:
    """Of the labels on the trained logits, over the films that count."""
    films = counted.bool()
    slope, bias = fit_platt(logits[films].cpu().numpy(), y[films].cpu().numpy()) or (1.0, 0.0)
    return max(slope, _MIN_SLOPE), bias
