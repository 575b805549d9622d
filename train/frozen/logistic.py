"""Logistic regressions on frozen features: all categories at once, to convergence.

For each category, over the films whose target t is known,

    minimise  sum BCE(t, w.x + b)  +  strength/2 * |w|^2          over w and b

with standardised features x, so that features of any scale are penalised alike; the result is
folded back, and is a regression on the features as they are. Targets may be soft. A film's copies
share the weight of one film.

The solver is L-BFGS on many regressions side by side (`train.frozen.lbfgs`), along the directions
in which the standardised features are uncorrelated. With fewer films and copies than features these
are the directions that the films span, where the minimum lies (`train.frozen.span`). The features
are read block by block where they do not fit into memory, and no more regressions are fitted at
once than their logits have room for: memory does not grow with the films.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.frozen.design import Design
from train.frozen.kept import kept_tensors
from train.frozen.lbfgs import Labels, Regressions, together
from train.frozen.rows import BLOCK, Matrix, Reader, in_double, places
from train.frozen.span import spanned
from train.precision import full_precision, symmetric_eigen

__all__ = ["Films", "Fitted", "fit"]

# Blocks, spread over all, from which the common curvature is taken.
_CURVATURE_BLOCKS = 8

# A spread below this share of the mean is rounding: the feature is a constant.
_FLAT = 1e-6

# So is a direction of fewer films than features with less than this share of the largest variance.
_LEAST = 1e-12

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
    kept
        The file of their scale and directions, see `train.frozen.kept`; None: these are not kept.
    """

    views: Sequence[Matrix]
    rows: np.ndarray
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (it cannot change)
    kept: Path | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self.views[0].shape[1]

    @property
    def scale(self) -> tuple[Tensor, Tensor]:
        """(D,) float64 mean and spread of each feature, over films and copies.

        The spread of a constant feature is infinite: standardised, it is nothing.
        """
        return self._directions["mean"], self._directions["spread"]

    @property
    def basis(self) -> Tensor:
        """(D, R) float64 directions of standardised features, of which each is a sum.

        R is D, or with fewer films and copies than features at most their number.
        """
        return self._basis(torch.float64)

    @cached_property
    def design(self) -> Design:
        """The films along the directions of their common curvature."""
        variances = self._directions["variances"]
        mean, basis = self.scale[0].to(variances), self._basis(variances.dtype)
        return Design(self.views, self.rows, mean, basis, variances)

    def _basis(self, numbers: torch.dtype) -> Tensor:
        """See `basis`; computed in float64, in parts, as it may be as large as the features."""
        vectors, spread = self._directions["vectors"], self.scale[1]
        basis = torch.empty_like(vectors, dtype=numbers)
        for place in places(self.width):
            basis[place] = vectors[place].double() / spread[place, None]
        return basis

    @cached_property
    def _directions(self) -> Mapping[str, Tensor]:
        """The scale, and with (R,) variances the (D, R) directions of standardised features."""
        return kept_tensors(self.kept, self._computed, self.device, self._usable)

    def _computed(self) -> dict[str, Tensor]:
        """See `_directions`."""
        mean, spread = self._scale()
        few = self._count < self.width
        variances, vectors = (self._span if few else self._curvature)(mean, spread)
        return {"mean": mean, "spread": spread, "variances": variances, "vectors": vectors}

    def _usable(self, found: Mapping[str, Tensor]) -> bool:
        """Whether what was kept has the shapes of what would be computed.

        Before `train.frozen.span` there were D directions of however few films.
        """
        few = self._count < self.width
        directions = len(found["variances"])
        return found["vectors"].shape == (self.width, directions) and (
            directions <= self._count if few else directions == self.width
        )

    @property
    def _count(self) -> int:
        """Films and copies."""
        return len(self) * len(self.views)

    def _scale(self) -> tuple[Tensor, Tensor]:
        """See `scale`."""
        blocks = [(view, place) for view in self.views for place in places(len(self))]
        mean = torch.zeros(self.width, dtype=torch.float64, device=self.device)
        squares = torch.zeros_like(mean)
        memory = mean.new_empty(min(BLOCK, len(self)), self.width)
        for each in blocks:
            mean += in_double(self._read(*each), memory).sum(0)
        mean /= self._count
        for each in blocks:
            squares += in_double(self._read(*each), memory).sub_(mean).square_().sum(0)
        spread = (squares / self._count).sqrt()
        flat = spread <= _FLAT * mean.abs()
        return mean, torch.where(flat, torch.inf, spread)

    def _curvature(self, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """(D,) eigenvalues and (D, D) eigenvectors of the mean x x', of some of the films."""
        parts = list(places(len(self)))
        total, count = torch.zeros(()), 0
        for part in parts[:: max(1, len(parts) // _CURVATURE_BLOCKS)]:
            x = self._read(self.views[0], part)
            x = x.sub_(mean.to(x)).div_(spread.to(x))
            total = x.T @ x + total.to(x)
            count += len(x)
        values, vectors = symmetric_eigen(total / count)
        return values.clamp(min=0), vectors

    def _span(self, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) variances along the (D, R) directions that all films and copies span."""
        x = self._read(self.views[0], slice(0)).new_empty(self._count, self.width)
        for number, view in enumerate(self.views):
            own = x[number * len(self) : (number + 1) * len(self)]
            for place in places(len(self)):
                torch.sub(self._read(view, place), mean.to(x), out=own[place])
        x.div_(spread.to(x))
        variances, vectors = spanned(x, _LEAST)
        return variances.to(x), vectors

    def _read(self, view: Matrix, place: slice) -> Tensor:
        """(m, D) features, until others are read."""
        return torch.from_numpy(self._reader(view, self.rows[place])).to(self.device)

    @cached_property
    def _reader(self) -> Reader:
        return Reader()


@dataclass(frozen=True)
class Fitted:
    """Regressions of C categories on F sets of films.

    Attributes
    ----------
    theta
        (F, C, R + 1): along the directions of the films' basis, and last the biases.
    steps
        How many steps the slowest took.
    """

    theta: Tensor
    steps: int

    def folded(self, films: Films) -> tuple[np.ndarray, np.ndarray]:
        """(F, C, D) weights and (F, C) biases, float32, for the features as they are."""
        weights = self.theta[..., :-1].double() @ films.basis.T
        biases = self.theta[..., -1].double() - weights @ films.scale[0]
        return weights.float().cpu().numpy(), biases.float().cpu().numpy()

    def scores(self, films: Films, fold: np.ndarray) -> np.ndarray:
        """(n, C) float32 logits of the films as they are, film i by the regressions of its fold."""
        weights, biases = self.folded(films)
        read = Reader()
        result = np.empty((len(films), self.theta.shape[1]), np.float32)
        for place in places(len(films)):
            own = fold[place]
            each = np.tensordot(read(films.views[0], films.rows[place]), weights, (1, 2)) + biases
            result[place] = each[np.arange(len(own)), own]
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
    if counted is None:
        counted = np.ones((len(films), 1), bool)
    with full_precision(), torch.inference_mode():
        design = films.design
        labels = Labels.of(targets, counted, design.mean)
        total, positives = labels.counts()
        share = (positives + 1) / (total + 2)
        theta = design.mean.new_zeros(*total.shape, design.directions + 1)
        theta[..., -1] = (share / (1 - share)).log()
        fitted = (positives > 0) & (positives < total)
        if start is not None:
            theta = torch.where(fitted[..., None], start.theta, theta)
        steps = 0
        for sets, categories in together(torch.nonzero(fitted), len(design)):
            regressions = Regressions(design, labels, sets, categories, theta[sets, categories])
            steps = max(steps, regressions.minimise(strength, _TOLERANCE))
            theta[sets, categories] = regressions.theta
        return Fitted(theta, steps)
