"""The only resize in the project, of films alone as arrays and of batches as tensors.

Both filters are the same, antialiased as Pillow made it usual. An array needs no PyTorch, whose
import takes longer than most films.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cft.film.resample import matrix_of, resampled

if TYPE_CHECKING:
    import torch

__all__ = ["Greys", "resize"]

#: What films are held in: an array, or a tensor on any device. What goes in comes out.
Greys = TypeVar("Greys", np.ndarray, "torch.Tensor")


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


def _resized_tensor(
    pixels: torch.Tensor, height: int, width: int, interpolation: str
) -> torch.Tensor:
    import torch
    import torch.nn.functional as F

    if interpolation == "area":
        rows, columns = (
            torch.from_numpy(matrix_of(before, after, interpolation)).to(pixels)
            for before, after in zip(pixels.shape[-2:], (height, width), strict=True)
        )
        return (rows @ pixels @ columns.T).clamp_(0, 1)
    batch = pixels if pixels.ndim == 4 else pixels[None, None]
    resized = F.interpolate(
        batch, size=(height, width), mode=interpolation, align_corners=False, antialias=True
    ).clamp_(0, 1)
    return resized if pixels.ndim == 4 else resized[0, 0]
