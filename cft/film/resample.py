"""Antialiased resampling of one film, as products of small matrices.

A filter reaches a few pixels, so that of the matrix that makes rows of rows only a band is not
zero. The band is cut into blocks of which each is a product of its own: a BLAS does the rest, many
times faster than a loop over the pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

__all__ = ["matrix_of", "resampled"]

# Lines of the result that one product makes: few, so that little of its matrix is zero, and enough
# for a BLAS to be fast.
_LINES = 16

# Multiplications of one product. Up to so many OpenBLAS works them out in the thread that asks; its
# others would wait in a loop for the next one, and take the processor from the network.
_SMALL = 2**18

# How far each filter reaches on either side, in pixels of the result or of the film, whichever are
# larger.
_REACH = {"bilinear": 1.0, "bicubic": 2.0}

_Block = tuple[slice, slice, np.ndarray]


def resampled(values: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Resample an array with an antialiasing filter, as Pillow and PyTorch (``antialias``) do.

    Parameters
    ----------
    values
        (H, W) numbers.
    height, width
        Size of the result in pixels.
    interpolation
        "bilinear", "bicubic" or "area" (the mean of what a pixel of the result covers).

    Returns
    -------
    numpy.ndarray
        (height, width) float32. Nothing is clipped: bicubic overshoots.
    """
    lines = np.empty((height, values.shape[1]), np.float32)
    for made, read, matrix in _blocks(values.shape[0], height, interpolation):
        for part in _parts(values.shape[1], matrix.size):
            some = values[read, part].astype(np.float32, copy=False)
            np.matmul(matrix, some, out=lines[made, part])
    turned = np.empty((width, height), np.float32)
    for made, read, matrix in _blocks(values.shape[1], width, interpolation):
        for part in _parts(height, matrix.size):
            np.matmul(matrix, lines[part, read].T, out=turned[made, part])
    return np.ascontiguousarray(turned.T)


def _parts(length: int, size: int) -> Iterator[slice]:
    """Parts of so many columns that a matrix of that size times each is a small product."""
    step = max(1, _SMALL // size)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


@lru_cache(64)
def _blocks(before: int, after: int, interpolation: str) -> tuple[_Block, ...]:
    """(lines of the result, lines they are made of, matrix) for one side of a film."""
    first, end, weights = _taps(before, after, interpolation)
    blocks = []
    for start in range(0, after, _LINES):
        lines = np.arange(start, min(start + _LINES, after))
        low, high = first[lines].min(), end[lines].max()
        matrix = _spread(first[lines] - low, end[lines] - low, weights[lines], high - low)
        matrix.setflags(write=False)
        blocks.append((slice(start, start + len(lines)), slice(low, high), matrix))
    return tuple(blocks)


def matrix_of(before: int, after: int, interpolation: str) -> np.ndarray:
    """(after, before) float32: of what share of each line of a film a line of the result is made.

    Parameters
    ----------
    before, after
        Lines of the film and of the result.
    interpolation
        See `resampled`.
    """
    return _spread(*_taps(before, after, interpolation), before)


def _spread(first: np.ndarray, end: np.ndarray, weights: np.ndarray, length: int) -> np.ndarray:
    """The weights of `_taps` in their places, zeros elsewhere: (lines, length) float32."""
    matrix = np.zeros((len(first), length), np.float32)
    for row, start, stop, values in zip(matrix, first, end, weights, strict=True):
        row[start:stop] = values[: stop - start]
    return matrix


def _taps(before: int, after: int, interpolation: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each line of the result the first line that it is made of, the one after the last, and
    their weights (after, T), which add up to one; those beyond are not used.
    """
    scale = before / after
    line = np.arange(after)[:, None]
    if interpolation == "area":
        top, bottom = line * scale, (line + 1) * scale
        first = np.floor(top + 1e-9).astype(int)
        end = np.minimum(np.ceil(bottom - 1e-9).astype(int), before)
        place = first + np.arange((end - first).max())
        weights = np.minimum(bottom, place + 1) - np.maximum(top, place)
    else:  # Pillow's Resample.c, precompute_coeffs
        stretch = max(scale, 1.0)
        centre, reach = (line + 0.5) * scale, _REACH[interpolation] * stretch
        first = np.maximum((centre - reach + 0.5).astype(int), 0)
        end = np.minimum((centre + reach + 0.5).astype(int), before)
        place = first + np.arange((end - first).max())
        weights = _FILTERS[interpolation](np.abs(place - centre + 0.5) / stretch)
    weights = np.where(place < end, weights, 0)
    return first[:, 0], end[:, 0], weights / weights.sum(1, keepdims=True)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - x, 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' convolution kernel with a = -1/2 (IEEE Trans. ASSP 29, 1981)."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}
