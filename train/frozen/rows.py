"""Features that stay where they are, on disk as a rule, and are read some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

__all__ = ["BLOCK", "Matrix", "Reader", "Rows", "Stacked", "in_double", "places"]

#: Rows that are read at once.
BLOCK = 4096


def places(count: int) -> Iterator[slice]:
    """`count` rows in blocks."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


class _Readable:
    """What `Rows` and `Stacked` have in common with an array of two dimensions."""

    @property
    def shape(self) -> tuple[int, int]:
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Write rows, given by their numbers from 0, into (m, D) memory of the same type."""
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it in memory, for what cannot do with less."""
        return np.asarray(self[:], dtype)


@dataclass(frozen=True)
class Rows(_Readable):
    """Some rows of an array, read when they are asked for.

    Attributes
    ----------
    array
        (T, D), memory-mapped or not.
    rows
        (n,) rows of it.
    """

    array: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.array.shape[1]

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return np.asarray(self.array[self.rows[rows]])

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        _read(self.array, self.rows[rows], out)


@dataclass(frozen=True)
class Stacked(_Readable):
    """Matrices of one width, one below the other.

    Attributes
    ----------
    parts
        (n_i, D) each.
    """

    parts: Sequence[Matrix]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(map(len, self.parts)), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        return self.parts[0].dtype

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        result = np.empty((len(rows), self.shape[1]), self.dtype)
        self.read(rows, result)
        return result

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        start = 0
        for part in self.parts:
            inside = np.flatnonzero((rows >= start) & (rows < start + len(part)))
            if len(inside) and inside[-1] - inside[0] + 1 == len(inside):  # as a rule: a run
                place = slice(inside[0], inside[-1] + 1)
                _read(part, rows[place] - start, out[place])
            elif len(inside):
                out[inside] = part[rows[inside] - start]
            start += len(part)


#: (n, D) features: an array, or what is read like one by ``z[rows]``.
Matrix: TypeAlias = np.ndarray | Rows | Stacked


def _read(matrix: Matrix, rows: np.ndarray, out: np.ndarray) -> None:
    """See `_Readable.read`."""
    if isinstance(matrix, _Readable):
        matrix.read(rows, out)
    elif isinstance(matrix, np.ndarray) and matrix.flags.c_contiguous and matrix.dtype == out.dtype:
        # Any other mode than "raise" writes into `out` at once; the numbers are those of rows.
        np.take(matrix, rows, axis=0, out=out, mode="clip")
    else:  # `take` would copy all of the matrix first
        out[:] = matrix[rows]


class Reader:
    """Reads rows of matrices into memory of its own, which the next rows take again.

    A block of features that is allocated anew for each read is given back to an allocator that
    often keeps it and takes other memory for the next.
    """

    def __init__(self) -> None:
        self._memory = np.empty((0, 0))

    def __call__(self, matrix: Matrix, rows: np.ndarray | slice) -> np.ndarray:
        """(m, D) rows of a matrix, to be used, or changed, until the next are read."""
        if isinstance(rows, slice):
            rows = np.arange(len(matrix))[rows]
        own, width = self._memory, matrix.shape[1]
        if own.dtype != matrix.dtype or own.shape[1] != width or len(own) < len(rows):
            self._memory = np.empty((max(BLOCK, len(rows)), width), matrix.dtype)
        found = self._memory[: len(rows)]
        _read(matrix, rows, found)
        return found


def in_double(block: Tensor, memory: Tensor) -> Tensor:
    """A block of features in float64, in memory for at least as many."""
    return memory[: len(block)].copy_(block)
