"""The only resize in the project."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cft.film.resample import resampled


def resize(pixels: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    """Resize with an antialiasing filter; the only resize in the project.

    Parameters
    ----------
    pixels
        (H, W) or (N, C, H, W) float32 in [0, 1].
    height, width
        Size of the result in pixels.
    interpolation
        "bilinear", "bicubic" or "area" (the mean of what a pixel of the result covers).

    Returns
    -------
    torch.Tensor
        The same number of dimensions as ``pixels``, clipped to [0, 1] (bicubic overshoots).
    """
    if tuple(pixels.shape[-2:]) == (height, width):
        return pixels
    if pixels.ndim == 2 and pixels.device.type == "cpu":
        return torch.from_numpy(resampled(pixels.numpy(), height, width, interpolation)).clamp_(
            0, 1
        )
    if interpolation == "area":
        rows, columns = (
            _coverage(before, after)
            for before, after in zip(pixels.shape[-2:], (height, width), strict=True)
        )
        return (rows.to(pixels) @ pixels @ columns.T.to(pixels)).clamp_(0, 1)
    batch = pixels if pixels.ndim == 4 else pixels[None, None]
    resized = F.interpolate(
        batch, size=(height, width), mode=interpolation, align_corners=False, antialias=True
    ).clamp_(0, 1)
    return resized if pixels.ndim == 4 else resized[0, 0]


def _coverage(before: int, after: int) -> torch.Tensor:
    """(after, before): which share of each new pixel an old one covers, along one side."""
    edges = torch.arange(after + 1, dtype=torch.float64) * (before / after)
    old = torch.arange(before, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], old + 1) - torch.maximum(edges[:-1, None], old)
    return overlap.clamp_(min=0) * (after / before)
