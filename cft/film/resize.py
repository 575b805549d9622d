"""The only resize in the project, of films alone as arrays and of batches as tensors.

Both filters are the same, antialiased as Pillow made it usual. An array needs no PyTorch, whose
import takes longer than most films.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

__all__ = ["Greys", "resampled", "resize"]

#: What films are held in: an array, or a tensor on any device. What goes in comes out.
Greys = TypeVar("Greys", np.ndarray, "torch.Tensor")

# Filter, and how far it reaches on either side, in pixels of the result or of the film, whichever
# are larger.
_FILTERS = {
    "bilinear": (Image.Resampling.BILINEAR, 1),
    "bicubic": (Image.Resampling.BICUBIC, 2),
}

# Pixels of a film that are copied at once: Pillow has no view of an array of floats.
_PIECE = 2**22


def resize(pixels: Greys, height: int, width: int, interpolation: str) -> Greys:
    """Resize films with an antialiasing filter.

    Parameters
    ----------
    pixels
        (H, W) float32 in [0, 1], an array or a tensor; or a tensor (N, C, H, W).
    height, width
        Size of the result in pixels.
    interpolation
        "bilinear", "bicubic" or "area" (the mean of what a pixel of the result covers).

    Returns
    -------
    numpy.ndarray or torch.Tensor
        The same kind and number of dimensions as ``pixels``, clipped to [0, 1] (bicubic
        overshoots).
    """
    if tuple(pixels.shape[-2:]) == (height, width):
        return pixels
    if isinstance(pixels, np.ndarray):
        made = resampled(pixels, height, width, interpolation)
        return np.clip(made, 0, 1, out=made)
    return _resized_tensor(pixels, height, width, interpolation)


def resampled(values: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """As `resize`, of one (H, W) array of numbers of any size: nothing is clipped."""
    if interpolation == "area":
        rows, columns = (
            _coverage(before, after).astype(np.float32)
            for before, after in zip(values.shape, (height, width), strict=True)
        )
        return rows @ np.asarray(values, np.float32) @ columns.T
    values = np.ascontiguousarray(values, np.float32)
    kind, reach = _FILTERS[interpolation]
    scale = values.shape[0] / height
    margin = math.ceil(reach * max(1.0, scale)) + 1
    result = np.empty((height, width), np.float32)
    pieces = math.ceil(values.size / _PIECE)
    for first, last in zip(*_bounds(height, pieces), strict=True):
        top, bottom = first * scale, last * scale  # of what this piece of the result covers
        start = max(0, math.floor(top) - margin)
        end = min(values.shape[0], math.ceil(bottom) + margin)
        box = (0, top - start, values.shape[1], min(bottom - start, end - start))
        piece = Image.fromarray(values[start:end])
        result[first:last] = np.asarray(piece.resize((width, last - first), kind, box))
    return result


def _bounds(length: int, pieces: int) -> tuple[list[int], list[int]]:
    """First rows and ends of so many pieces of about equal height."""
    edges = np.unique(np.linspace(0, length, min(pieces, length) + 1).round().astype(int)).tolist()
    return edges[:-1], edges[1:]


def _coverage(before: int, after: int) -> np.ndarray:
    """(after, before): which share of each new pixel an old one covers, along one side."""
    edges = np.arange(after + 1) * (before / after)
    old = np.arange(before, dtype=np.float64)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.maximum(overlap, 0) * (after / before)


def _resized_tensor(
    pixels: torch.Tensor, height: int, width: int, interpolation: str
) -> torch.Tensor:
    import torch
    import torch.nn.functional as F

    if interpolation == "area":
        rows, columns = (
            torch.from_numpy(_coverage(before, after)).to(pixels)
            for before, after in zip(pixels.shape[-2:], (height, width), strict=True)
        )
        return (rows @ pixels @ columns.T).clamp_(0, 1)
    batch = pixels if pixels.ndim == 4 else pixels[None, None]
    resized = F.interpolate(
        batch, size=(height, width), mode=interpolation, align_corners=False, antialias=True
    ).clamp_(0, 1)
    return resized if pixels.ndim == 4 else resized[0, 0]
