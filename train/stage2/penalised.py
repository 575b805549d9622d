"""Penalised logistic regressions of one category: several sets of films, a path of strengths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import softplus

from cft.model.calibration import fit_platt
from train.frozen.lbfgs import minimise
from train.threads import Map, parts_of

__all__ = ["fit_path"]

# The slope of the trained logit in the new one is not below this: a category whose trained ranking
# is all but wrong on its known labels would otherwise become a fresh fit to these few.
_MIN_SLOPE = 0.1

# A fit ends with a step that gains less than this in log-likelihood. Its logits are then those of
# the minimum to a millionth, but for the weakest penalties; rounding ends at a hundredth of this.
_TOLERANCE = 1e-9


def fit_path(
    x: Tensor,
    y: Tensor,
    counted: Tensor,
    trained: Tensor,
    spread: Tensor,
    strengths: Sequence[float],
    share: Map,
) -> Tensor:
    """Penalised logistic regressions of one category, at every strength, for several sets of films.

    Parameters
    ----------
    x, y
        (n, R) places of the known films along the directions of the basis, and their (n,) labels.
    counted
        (F, n) 1 for the films of each set.
    trained
        (1 or F, n) logits of the trained regressions, from which changes count.
    spread
        (R,) mean square of x over the training films.
    strengths
        (S,) of the penalty.
    share
        Works out parts of the films; see `train.threads.side_by_side`.

    Returns
    -------
    Tensor
        (F, S, R) changes of the weights along the directions, on the scale of the trained logits.
    """
    refits = _Refits(x, y, counted, trained, spread, strengths, share)
    theta = torch.zeros(x.shape[1] + 1, len(refits.slopes)).to(x)
    theta[-1] = refits.biases
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
        share: Map,
    ):
        self._x, self._y, self._spread, self._counted, self._share = x, y, spread, counted, share
        self._trained = trained.expand(len(counted), -1)  # (F, n)
        pairs = zip(self._trained, counted, strict=True)
        platt = torch.tensor([_slope_and_bias(logits, y, films) for logits, films in pairs]).to(x)
        self.slopes, self.biases = platt.repeat_interleave(len(strengths), dim=0).T
        self._steps = len(strengths)
        self._strengths = torch.tensor(strengths).to(x).repeat(len(counted))
        self._parts = parts_of(len(x), x.device)

    def loss(self, theta: Tensor, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `train.frozen.lbfgs.Objective`."""
        strengths, weights = self._strengths[live], theta[:-1].T.contiguous()  # (K, R)
        work = partial(self._sums, weights, theta[-1][:, None], live)
        loss = 0.5 * strengths * weights.double().square().sum(1)
        bend, gradient = torch.zeros_like(loss), torch.zeros_like(theta.T, dtype=torch.float64)
        gradient[:, :-1] = strengths[:, None] * weights
        for its_loss, its_bend, its_gradient in self._share(work, self._parts):
            loss += its_loss
            bend += its_bend
            gradient += its_gradient
        return loss, gradient.T.to(theta), bend.clamp(min=1e-6)

    def _sums(
        self, weights: Tensor, biases: Tensor, live: Tensor, part: Sequence[slice]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (K,), sum of p (1 - p) (K,) and gradient (K, R + 1) of some films, without penalty.

        Products are in float32, sums over blocks of films in float64.
        """
        sets, slopes = live // self._steps, self.slopes[live][:, None]
        loss = torch.zeros(len(live), dtype=torch.float64, device=weights.device)
        bend, of_bias = torch.zeros_like(loss), torch.zeros_like(loss)
        gradient = torch.zeros_like(weights, dtype=torch.float64)
        for films in part:
            x, y = self._x[films], self._y[films]
            logits = torch.addmm(biases, weights, x.T)
            logits += slopes * self._trained[:, films][sets]
            mask = self._counted[:, films][sets]
            p = torch.sigmoid(logits)
            residual = (p - y).mul_(mask)
            loss += (softplus(logits) - y * logits).mul_(mask).sum(1, dtype=torch.float64)
            bend += (p * (1 - p)).mul_(mask).sum(1, dtype=torch.float64)
            gradient += residual @ x
            of_bias += residual.sum(1, dtype=torch.float64)
        return loss, bend, torch.cat([gradient, of_bias[:, None]], dim=1)

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
