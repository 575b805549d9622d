"""Features that stay where they are, on disk as a rule, and are read some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = ["BLOCK", "Matrix", "Rows", "Stacked", "places"]

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
        start = 0
        for part in self.parts:
            inside = (rows >= start) & (rows < start + len(part))
            if inside.all() and len(rows):  # as a rule: then nothing is copied twice
                return part[rows - start]
            if inside.any():
                result[inside] = part[rows[inside] - start]
            start += len(part)
        return result


#: (n, D) features: an array, or what is read like one by ``z[rows]``.
Matrix: TypeAlias = np.ndarray | Rows | Stacked
