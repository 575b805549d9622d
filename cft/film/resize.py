"""The only resize in the project."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def resize(pixels: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    """Resize with an antialiasing filter; the only resize in the project.

    Parameters
    ----------
    pixels
        (H, W) or (N, C, H, W) float32 in [0, 1].
    height, width
        Size of the result in pixels.
    interpolation
        "bilinear" or "bicubic".

    Returns
    -------
    torch.Tensor
        The same number of dimensions as ``pixels``, clipped to [0, 1] (bicubic overshoots).
    """
    if tuple(pixels.shape[-2:]) == (height, width):
        return pixels
    batch = pixels if pixels.ndim == 4 else pixels[None, None]
    resized = F.interpolate(
        batch, size=(height, width), mode=interpolation, align_corners=False, antialias=True
    ).clamp_(0, 1)
    return resized if pixels.ndim == 4 else resized[0, 0]
