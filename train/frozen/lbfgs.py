"""L-BFGS on many logistic regressions of the same films side by side.

For each regression, over the films that count and whose target t is known,

    minimise  sum BCE(t, logit)  +  strength/2 * |w|^2      over w and b, logit = given + w.x + b

The logits of all films are kept. A step moves them along one product with the features; how far is
found on the logits alone, close to the minimum along the line, and a second product gives the new
gradient. So a step costs two products however many regressions there are and however often its
length was changed. The curvature starts from that of the films, to which a regression's own is
roughly proportional; each leaves when it has come to its end. From a strong penalty to a weak one
a regression goes on from where it is (Nocedal and Wright, Numerical Optimization, 2nd edition,
algorithms 3.5 and 7.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.frozen.design import Design

__all__ = ["LOGITS", "Labels", "Regressions", "together"]

_MAX_STEPS, _MAX_TRIES, _MEMORY = 200, 12, 5

# A step ends where the slope along it is between these shares of its first one: by convexity the
# loss is lower there.
_STEEP, _FLAT = 0.9, 0.1

# A step's length changes by no more than this factor at a time.
_STRETCH = 8.0

#: Up to how many logits are kept at once, and as many changes of them.
LOGITS = 2**25

# Logits that are worked on at once: what is between stays in a processor's cache.
_ELEMENTS = 2**17


@dataclass(frozen=True)
class Labels:
    """What the films are, and which of them count in which set.

    Attributes
    ----------
    targets
        (C, n) in [0, 1]; anything where unknown.
    known
        (C, n) bool.
    counted
        (F, n) bool: the films of each set.
    """

    targets: Tensor
    known: Tensor
    counted: Tensor

    @classmethod
    def of(cls, targets: np.ndarray, counted: np.ndarray, like: Tensor) -> Labels:
        """From (n, C) targets in [0, 1] or NaN and (n, F) bool, as numbers like those of a tensor.

        A copy, by rows: a category's, or a set's, films lie side by side.
        """
        wanted = torch.from_numpy(np.ascontiguousarray(targets.T)).to(like)
        inside = torch.from_numpy(np.ascontiguousarray(counted.T)).to(like.device)
        return cls(wanted.nan_to_num(0.0), ~wanted.isnan(), inside)

    def counts(self) -> tuple[Tensor, Tensor]:
        """(F, C) float64: in each set the known films of each category, and their targets' sum."""
        total, positives = [], []
        for inside in self.counted:
            own = self.known & inside
            total.append(own.sum(1, dtype=torch.float64))
            positives.append((self.targets * own).sum(1, dtype=torch.float64))
        return torch.stack(total), torch.stack(positives)


class Regressions:
    """K regressions, as far as they have come.

    Parameters
    ----------
    design
        The films and their copies; these share the weight of one film.
    labels
        See `Labels`.
    sets, categories
        (K,) which set and which category each regression is fitted to.
    theta
        (K, R + 1) where to begin: weights along the design's directions, and last the biases.
    given
        (K, films and copies) a part of the logits that stays; None: there is none. The regressions
        keep their logits in it.

    Attributes
    ----------
    theta
        Where the regressions are.
    """

    def __init__(
        self,
        design: Design,
        labels: Labels,
        sets: Tensor,
        categories: Tensor,
        theta: Tensor,
        given: Tensor | None = None,
    ):
        self._design, self._labels = design, labels
        self._sets, self._categories = sets, categories
        self.theta = torch.zeros_like(theta)
        shape = len(theta), len(design)
        self._logits = theta.new_zeros(shape) if given is None else given
        self.move(theta)

    def move(self, change: Tensor) -> None:
        """Add (K, R + 1) to theta."""
        self.theta = self.theta + change
        self._logits += self._along(change)

    def minimise(self, strength: float, tolerance: float) -> int:
        """Go to the minimum.

        Parameters
        ----------
        strength
            Of the penalty.
        tolerance
            A regression ends when a further step would gain less than this.

        Returns
        -------
        int
            How many steps the slowest took.
        """
        live = torch.arange(len(self.theta), device=self.theta.device)
        theta, logits = self.theta, self._logits
        gradient, bend = self._gradient(theta, logits, strength, live)
        past: list[tuple[Tensor, Tensor]] = []  # changes of theta and of the gradient
        for step in range(_MAX_STEPS):
            direction = -self._two_loop(gradient, past, bend, strength)
            slope = (gradient * direction).sum(1)
            going = -slope / 2 > tolerance
            if not going.all():
                ended = ~going
                self.theta[live[ended]], self._logits[live[ended]] = theta[ended], logits[ended]
                live, theta, logits, bend = (x[going] for x in (live, theta, logits, bend))
                gradient, direction, slope = gradient[going], direction[going], slope[going]
                past = [(s[going], y[going]) for s, y in past]
            if not len(live):
                return step
            ahead = self._along(direction)
            length = self._length(theta, direction, slope, logits, ahead, strength, live)
            logits.addcmul_(ahead, length[:, None])
            change = direction * length[:, None]
            theta, before = theta + change, gradient
            gradient, _ = self._gradient(theta, logits, strength, live)
            past = [*past, (change, gradient - before)][-_MEMORY:]
        self.theta[live], self._logits[live] = theta, logits
        return _MAX_STEPS

    def _along(self, change: Tensor) -> Tensor:
        """(k, films and copies): what (k, R + 1) adds to the logits."""
        result = change.new_empty(len(change), len(self._design))
        inner = self._design.inner(change[:, :-1])
        for block in self._design.blocks():
            torch.addmm(change[:, -1:], inner, block.x.T, out=result[:, block.rows])
        return result

    def _gradient(
        self, theta: Tensor, logits: Tensor, strength: float, live: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(k, R + 1) gradient of the loss and (k,) sum of p (1 - p) over the films."""
        bend, constant = (theta.new_zeros(len(live), dtype=torch.float64) for _ in range(2))
        inner: Tensor | None = None
        for block in self._design.blocks():
            residual = theta.new_empty(len(live), len(block.x))
            for rows, films in _parts(block.rows, block.films, len(live)):
                p, miss = self._misses(logits[:, rows], films, live)
                residual[:, films.start - block.films.start : films.stop - block.films.start] = miss
                bend += p.sum(1, dtype=torch.float64)
            constant += residual.sum(1, dtype=torch.float64)
            inner = residual @ block.x if inner is None else inner.addmm_(residual, block.x)
        views = len(self._design.views)
        assert inner is not None  # there are films
        weights = self._design.outer(inner) / views + strength * theta[:, :-1]
        gradient = torch.cat([weights, (constant / views).to(theta)[:, None]], dim=1)
        return gradient, (bend / views).clamp(min=1e-6).to(theta)

    def _misses(self, logits: Tensor, films: slice, live: Tensor) -> tuple[Tensor, Tensor]:
        """p (1 - p) and p - t of some films, both 0 where a film does not count."""
        labels, sets, categories = self._labels, self._sets[live], self._categories[live]
        p = torch.sigmoid(logits)
        counts = labels.known[:, films][categories] & labels.counted[:, films][sets]
        counts = counts.to(p.dtype)
        return p * (1 - p) * counts, (p - labels.targets[:, films][categories]) * counts

    def _length(
        self,
        theta: Tensor,
        direction: Tensor,
        slope: Tensor,
        logits: Tensor,
        ahead: Tensor,
        strength: float,
        live: Tensor,
    ) -> Tensor:
        """(k,) how far to go along the directions: Newton's method on the line.

        The loss along the line is convex, so that a slope of the other sign bounds the way.
        """
        weights, change = theta[:, :-1], direction[:, :-1]
        linear = strength * (weights * change).sum(1, dtype=torch.float64)
        square = strength * change.square().sum(1, dtype=torch.float64)
        first, films = slope.double(), slice(0, len(self._design.rows))
        views = len(self._design.views)
        length = torch.ones_like(first)
        low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
        for _ in range(_MAX_TRIES):
            rise, curve = torch.zeros_like(first), torch.zeros_like(first)
            reach = length.to(theta)[:, None]
            for number in range(views):
                view = slice(number * films.stop, (number + 1) * films.stop)
                for rows, part in _parts(view, films, len(live)):
                    way = ahead[:, rows]
                    p, miss = self._misses(torch.addcmul(logits[:, rows], way, reach), part, live)
                    rise += (miss * way).sum(1, dtype=torch.float64)
                    curve += p.mul_(way).mul_(way).sum(1, dtype=torch.float64)
            rise = rise / views + linear + length * square
            fits = (rise >= _STEEP * first) & (rise <= -_FLAT * first)
            if fits.all():
                break
            low, high = torch.where(rise < 0, length, low), torch.where(rise > 0, length, high)
            new = length - rise / (curve / views + square)
            new = new.clamp(min=length / _STRETCH, max=length * _STRETCH)
            between = torch.where(high.isinf(), length * 2, (low + high) / 2)
            new = torch.where((new > low) & (new < high), new, between)
            length = torch.where(fits, length, new)
        return length.to(theta)

    def _two_loop(
        self, gradient: Tensor, past: list[tuple[Tensor, Tensor]], bend: Tensor, strength: float
    ) -> Tensor:
        """The inverse Hessian, as the last steps show it, times the gradient."""
        q, factors = gradient.clone(), []
        for s, y in reversed(past):
            curved = (s * y).sum(1, keepdim=True)
            inverse = torch.where(curved > 0, 1 / curved, 0.0)
            alpha = inverse * (s * q).sum(1, keepdim=True)
            q.addcmul_(alpha, y, value=-1)
            factors.append((inverse, alpha))
        # The directions are uncorrelated over the films, so that the curvature is diagonal.
        q[:, :-1] /= torch.outer(bend, self._design.variances).add_(strength)
        q[:, -1] /= bend
        for (s, y), (inverse, alpha) in zip(past, reversed(factors), strict=True):
            q.addcmul_(alpha - inverse * (y * q).sum(1, keepdim=True), s)
        return q


def _parts(rows: slice, films: slice, columns: int) -> Iterator[tuple[slice, slice]]:
    """The rows of some films in parts for so many regressions, and these parts' films."""
    size = max(64, _ELEMENTS // max(columns, 1))
    for start in range(films.start, films.stop, size):
        stop, shift = min(start + size, films.stop), rows.start - films.start
        yield slice(start + shift, stop + shift), slice(start, stop)


def together(regressions: Tensor, films: int) -> Iterator[tuple[Tensor, ...]]:
    """Rows of numbers that name regressions, in portions whose logits of so many films have room.

    Yields the columns of a portion.
    """
    for portion in regressions.split(max(1, LOGITS // films)):
        yield portion.unbind(1)
