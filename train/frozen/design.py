"""Films as regressions see them: features along directions, and the products with them.

A regression's parameters belong to directions, which are the columns of a basis, and a film's value
along them is ``(features - mean) @ basis``. With the right basis the directions are uncorrelated
over the films, so that a regression's curvature is all but diagonal. A product with many films
costs little more than the same product with their features as they are: then the basis is applied
to the parameters instead, and the films are read as they lie on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.frozen.rows import Matrix, Reader, places

__all__ = ["Block", "Design"]

# Up to how many bytes of features stay in memory; more are read again for each product.
_KEPT_BYTES = 2**30

# Up to so many films are turned into the directions once. With more of them that would cost more
# than to turn the parameters each time, which takes as long however many films there are.
_TURNED = 2**14


class Block(NamedTuple):
    """Some films.

    Attributes
    ----------
    rows
        Their places among all films and copies.
    films
        Their places among the films.
    x
        (m, W) their features.
    """

    rows: slice
    films: slice
    x: Tensor


@dataclass(frozen=True)
class Design:
    """The features of n films, and of as many of each kind of copies, along R directions.

    Attributes
    ----------
    views
        (T, D) features of the films as they are first, then of their copies.
    rows
        (n,) rows of these.
    mean
        (D,) of the features.
    basis
        (D, R): a direction is a column.
    variances
        (R,) mean square of the films along each direction; roughly will do.
    """

    views: Sequence[Matrix]
    rows: np.ndarray
    mean: Tensor
    basis: Tensor
    variances: Tensor

    def __len__(self) -> int:
        """Films and copies."""
        return len(self.rows) * len(self.views)

    @property
    def directions(self) -> int:
        """R."""
        return self.basis.shape[1]

    def inner(self, theta: Tensor) -> Tensor:
        """(k, R) parameters as (k, W) of the features in `blocks`."""
        return theta if self._turned else theta @ self.basis.T

    def outer(self, gradient: Tensor) -> Tensor:
        """(k, W) sums of the features in `blocks` as (k, R) sums along the directions."""
        return gradient if self._turned else gradient @ self.basis

    def blocks(self) -> Iterator[Block]:
        """All films and copies, block by block, from memory where they fit.

        A block is to be used before the next is asked for, whose features may take its memory.
        """
        if self._kept is None:
            yield from self.plain()
            return
        for _, rows, films in self._places():
            yield Block(rows, films, self._kept[rows])

    def plain(self) -> Iterator[Block]:
        """The same, read: the features as they are, less their mean."""
        for view, rows, films in self._places():
            yield Block(rows, films, self.read(view, self.rows[films]))

    def read(self, view: Matrix, rows: np.ndarray) -> Tensor:
        """(m, D) features of some rows, less their mean, on the device, until others are read."""
        return torch.from_numpy(self._reader(view, rows)).to(self.mean).sub_(self.mean)

    def _places(self) -> Iterator[tuple[Matrix, slice, slice]]:
        """Each block's view, its places among films and copies, and its places among the films."""
        for number, view in enumerate(self.views):
            start = number * len(self.rows)
            for films in places(len(self.rows)):
                yield view, slice(start + films.start, start + films.stop), films

    @cached_property
    def _reader(self) -> Reader:
        return Reader()

    @cached_property
    def _kept(self) -> Tensor | None:
        """(films and copies, W) their features, if they fit."""
        width = self.directions if self._turned else len(self.basis)
        if not self._fits(width):
            return None
        kept = self.basis.new_empty(len(self), width)
        for block in self.plain():
            if self._turned:
                torch.mm(block.x, self.basis, out=kept[block.rows])
            else:
                kept[block.rows] = block.x
        return kept

    @property
    def _turned(self) -> bool:
        return len(self) <= _TURNED and self._fits(self.directions)

    def _fits(self, width: int) -> bool:
        return len(self) * width * self.basis.element_size() <= _KEPT_BYTES
