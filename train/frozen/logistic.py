"""Logistic regressions on frozen features: all categories at once, to convergence.

For each category, over the films whose target t is known,

    minimise  sum BCE(t, w.x + b)  +  strength/2 * |w|^2          over w and b

with standardised features x, so that features of any scale are penalised alike; the result is
folded back, and is a regression on the features as they are. Targets may be soft. A film's copies
share the weight of one film.

The solver is L-BFGS on many regressions side by side (`train.frozen.lbfgs`), so that a step is two
products with the features however many categories and folds there are. It starts from the curvature
of all films, which the regressions have in common up to a factor, and so needs few steps. The
features are read block by block: memory does not grow with the number of films.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from train.frozen.lbfgs import minimise
from train.precision import full_precision, symmetric_eigen

__all__ = ["Films", "Fitted", "fit"]

# Films that are read at once, and up to how many bytes of features stay in memory.
_BLOCK, _KEPT_BYTES = 4096, 2**29

# Blocks, spread over all, from which the common curvature is taken.
_CURVATURE_BLOCKS = 8

# A spread below this share of the mean is rounding: the feature is a constant.
_FLAT = 1e-6

# A fit ends when a further step would gain less than this in log-likelihood: far below one film.
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Films:
    """Features of n films, read block by block and standardised.

    Attributes
    ----------
    views
        Arrays of features, each (T, D) float32 and possibly memory-mapped: of the films as they
        are first, then of their copies.
    rows
        (n,) rows of these arrays.
    device
        Where to compute.
    """

    views: Sequence[np.ndarray]
    rows: np.ndarray
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (it cannot change)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self.views[0].shape[1]

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """(D,) float64 mean and spread of each feature, over films and copies.

        The spread of a constant feature is infinite: standardised, it is nothing.
        """
        places = [slice(i, i + _BLOCK) for i in range(0, len(self), _BLOCK)]
        count = len(self) * len(self.views)
        blocks = [(view, place) for view in self.views for place in places]
        zero = torch.zeros(self.width, dtype=torch.float64, device=self.device)
        mean = sum((self._read(*each).double().sum(0) for each in blocks), zero) / count
        centred = (self._read(*each).double() - mean for each in blocks)
        squares = sum((block.square().sum(0) for block in centred), zero)
        spread = (squares / count).sqrt()
        flat = spread <= _FLAT * mean.abs()
        return mean, torch.where(flat, torch.inf, spread)

    def blocks(self, views: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """(films, (m, D) float32 standardised features) of all films in the first views."""
        for number in range(len(self.views) if views is None else views):
            for start in range(0, len(self), _BLOCK):
                place = slice(start, min(start + _BLOCK, len(self)))
                yield place, self._standardised(number, place)

    @cached_property
    def _kept(self) -> dict[tuple[int, int], Tensor] | None:
        size = 4 * len(self) * self.width * len(self.views)
        return {} if size <= _KEPT_BYTES else None

    def _standardised(self, number: int, place: slice) -> Tensor:
        kept = self._kept
        if kept is not None and (number, place.start) in kept:
            return kept[number, place.start]
        mean, spread = self.scale
        x = ((self._read(self.views[number], place) - mean.float()) / spread.float()).contiguous()
        if kept is not None:
            kept[number, place.start] = x
        return x

    def _read(self, view: np.ndarray, place: slice) -> Tensor:
        return torch.from_numpy(np.asarray(view[self.rows[place]], np.float32)).to(self.device)

    @cached_property
    def curvature(self) -> tuple[Tensor, Tensor]:
        """(D,) eigenvalues and (D, D) eigenvectors of the mean x x', of some of the films."""
        starts = range(0, len(self), _BLOCK)
        total, count = torch.zeros(self.width, self.width, device=self.device), 0
        for start in starts[:: max(1, len(starts) // _CURVATURE_BLOCKS)]:
            x = self._standardised(0, slice(start, min(start + _BLOCK, len(self))))
            total += x.T @ x
            count += len(x)
        values, vectors = symmetric_eigen(total / count)
        return values.clamp(min=0), vectors


@dataclass(frozen=True)
class Fitted:
    """Regressions of C categories on F sets of films.

    Attributes
    ----------
    theta
        (D + 1, F, C) float32: weights of the standardised features, and last the biases.
    steps
        How many steps the slowest took.
    """

    theta: Tensor
    steps: int

    def folded(self, films: Films) -> tuple[np.ndarray, np.ndarray]:
        """(F, C, D) weights and (F, C) biases, float32, for the features as they are."""
        mean, spread = films.scale
        weights = self.theta[:-1].double() / spread[:, None, None]
        biases = self.theta[-1].double() - torch.tensordot(mean, weights, dims=1)
        return weights.permute(1, 2, 0).float().cpu().numpy(), biases.float().cpu().numpy()

    def scores(self, films: Films, fold: np.ndarray) -> np.ndarray:
        """(n, C) float32 logits of the films as they are, film i by the regressions of its fold."""
        result = np.empty((len(films), self.theta.shape[2]), np.float32)
        for place, x in films.blocks(views=1):
            each = torch.tensordot(x, self.theta[:-1], dims=1) + self.theta[-1]
            picked = each[torch.arange(len(x)), torch.from_numpy(fold[place]).to(x.device)]
            result[place] = picked.cpu().numpy()
        return result


def fit(
    films: Films,
    targets: np.ndarray,
    strength: float,
    counted: np.ndarray | None = None,
    start: Fitted | None = None,
) -> Fitted:
    """Fit the logistic regressions of all categories, on several sets of films at once.

    Parameters
    ----------
    films
        Features of n films.
    targets
        (n, C) in [0, 1]; NaN contributes nothing.
    strength
        Of the penalty, above 0, in units of films: that of 1 / C in scikit-learn on standardised
        features.
    counted
        (n, F) bool, the films of each set; None: one set of all.
    start
        Where to begin, such as the fit of a stronger penalty.

    Returns
    -------
    Fitted
        A category without a positive, or without a negative, in a set has weights of zero and the
        bias of its share, with one film added on either side.
    """
    with full_precision(), torch.inference_mode():
        return _Solver(films, targets, strength, counted).solve(start)


class _Solver:
    """K = F x C regressions side by side: an `Objective`, a column is one regression."""

    def __init__(
        self, films: Films, targets: np.ndarray, strength: float, counted: np.ndarray | None
    ):
        if counted is None:
            counted = np.ones((len(films), 1), bool)
        self._films, self._strength = films, strength
        self._sets, self._categories = counted.shape[1], targets.shape[1]
        device = films.device
        wanted = torch.from_numpy(np.ascontiguousarray(targets)).float().to(device)
        self._known = (~wanted.isnan()).float()
        self._targets = wanted.nan_to_num(0.0)
        self._counted = torch.from_numpy(np.ascontiguousarray(counted)).float().to(device)
        # (F, C) films, and of these the sum of targets.
        self._films_of = self._counted.double().T @ self._known.double()
        self._positives = self._counted.double().T @ (self._targets * self._known).double()

    def solve(self, start: Fitted | None) -> Fitted:
        total, positives = self._films_of.flatten(), self._positives.flatten()
        share = (positives + 1) / (total + 2)
        fitted = (positives > 0) & (positives < total)
        theta = torch.zeros(self._films.width + 1, len(total), device=total.device)
        theta[-1] = (share / (1 - share)).log().float()
        if start is not None:
            theta = torch.where(fitted, start.theta.flatten(1), theta)
        live = torch.nonzero(fitted).flatten()
        steps = minimise(self, theta, live, _TOLERANCE)
        return Fitted(theta.reshape(len(theta), self._sets, self._categories), steps)

    def preconditioned(self, q: Tensor, bend: Tensor, live: Tensor) -> Tensor:
        """The inverse of the curvature that all films have in common, times q."""
        values, vectors = self._films.curvature
        curvature = bend.float() * values[:, None] + self._strength
        inner = vectors @ ((vectors.T @ q[:-1]) / curvature)
        return torch.cat([inner, (q[-1] / bend.float())[None]])

    def loss(self, theta: Tensor, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `train.frozen.lbfgs.Objective`."""
        set_, category = live // self._categories, live % self._categories
        loss = torch.zeros(len(live), dtype=torch.float64, device=theta.device)
        bend, gradient = torch.zeros_like(loss), torch.zeros_like(theta)
        for place, x in self._films.blocks():
            logits = torch.addmm(theta[-1], x, theta[:-1])
            mask = self._counted[place][:, set_] * self._known[place][:, category]
            target, p = self._targets[place][:, category], torch.sigmoid(logits)
            loss += ((softplus(logits) - target * logits) * mask).double().sum(0)
            bend += (p * (1 - p) * mask).double().sum(0)
            residual = (p - target) * mask
            gradient[:-1] += x.T @ residual
            gradient[-1] += residual.sum(0)
        views = len(self._films.views)
        penalty = 0.5 * self._strength * theta[:-1].double().square().sum(0)
        gradient /= views
        gradient[:-1] += self._strength * theta[:-1]
        return loss / views + penalty, gradient, (bend / views).clamp(min=1e-6)
