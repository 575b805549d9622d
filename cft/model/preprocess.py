"""Radiograph -> model input, as the model's own ``pretrained_cfg`` says.

The same object serves training, evaluation, command line and page, so that a score depends on the
film and the model alone. The geometry follows timm's evaluation transform
(``timm.data.transforms_factory``: ``crop_pct`` and the three crop modes); the pixels stay in
float32 from the decoder to the network, so that films of more than 8 bits lose nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cft.film.resize import Greys, resize
from cft.model.fields import shown

CROP_MODES = ("squash", "center", "border")
INTERPOLATIONS = ("bilinear", "bicubic", "area")

#: Smallest and largest side of a network's input, in pixels.
MIN_SIDE, MAX_SIDE = 16, 4096

# Of mean and std, far beyond any unit of pixels and far below an overflow.
_LARGEST = 1e6


@dataclass(frozen=True)
class Preprocess:
    """How a film becomes the input of one model.

    Parameters
    ----------
    input_size
        (C, H, W); C is 1 or 3 (the grey film repeated).
    interpolation
        "bilinear" or "bicubic", antialiased, or "area", which stock timm does not have.
    crop_pct
        Share of the resized film that is kept, in (0, 1].
    crop_mode
        "squash" (aspect ratio changed, nothing lost), "center" (the sides of the longer dimension
        cut off) or "border" (the shorter dimension padded with the mean of ``mean``).
    mean, std
        Per channel, in units of [0, 1] pixels.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "squash"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @classmethod
    def from_config(cls, pretrained_cfg: dict[str, Any]) -> Preprocess:
        """Read timm's ``pretrained_cfg``.

        Raises
        ------
        ValueError
            If an entry is missing or impossible; the message names it.
        """

        def numbers(key: str) -> tuple[float, ...]:
            value = pretrained_cfg.get(key)
            if not isinstance(value, (list, tuple)) or not all(
                isinstance(x, (int, float)) and abs(x) <= _LARGEST for x in value
            ):
                raise ValueError(
                    f"pretrained_cfg.{key} must be a list of numbers, not {shown(value)}"
                )
            return tuple(value)

        size = numbers("input_size")
        whole = all(isinstance(x, int) and x <= MAX_SIDE for x in size)
        if not whole or len(size) != 3 or size[0] not in (1, 3) or min(size[1:]) < MIN_SIDE:
            raise ValueError(
                f"pretrained_cfg.input_size {list(size)} is not [1 or 3, height, width] "
                f"with sides of {MIN_SIDE} to {MAX_SIDE} pixels"
            )
        mean, std = numbers("mean"), numbers("std")
        if len(mean) != size[0] or len(std) != size[0] or min(std) <= 0:
            raise ValueError(
                f"pretrained_cfg.mean and .std must hold {int(size[0])} numbers, std above zero"
            )
        interpolation = pretrained_cfg.get("interpolation", "bicubic")
        # timm leaves out what is as usual, or writes null.
        crop_mode, crop_pct = (pretrained_cfg.get(key) for key in ("crop_mode", "crop_pct"))
        crop_mode = "center" if crop_mode in (None, "") else crop_mode
        crop_pct = 1.0 if crop_pct is None else crop_pct
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"pretrained_cfg.interpolation {shown(interpolation)} is not supported"
            )
        if crop_mode not in CROP_MODES:
            raise ValueError(f"pretrained_cfg.crop_mode {shown(crop_mode)} is not supported")
        if not isinstance(crop_pct, (int, float)) or not 0.1 <= crop_pct <= 1:
            raise ValueError(f"pretrained_cfg.crop_pct {shown(crop_pct)} is not in [0.1, 1]")
        if max(size[1:]) / crop_pct > MAX_SIDE:
            raise ValueError(
                f"pretrained_cfg.crop_pct {crop_pct} needs films of over {MAX_SIDE} pixels"
            )
        return cls(
            input_size=(int(size[0]), int(size[1]), int(size[2])),
            interpolation=interpolation,
            crop_pct=float(crop_pct),
            crop_mode=crop_mode,
            mean=mean,
            std=std,
        )

    def to_config(self) -> dict[str, Any]:
        """The entries of timm's ``pretrained_cfg`` that `from_config` reads."""
        return {
            "input_size": list(self.input_size),
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an (height, width) film after resizing, before cropping."""
        target_h = math.floor(self.input_size[1] / self.crop_pct)
        target_w = math.floor(self.input_size[2] / self.crop_pct)
        if self.crop_mode == "squash":
            return target_h, target_w
        ratios = (target_h / height, target_w / width)
        if self.crop_mode == "center":  # as torchvision's Resize: the longer side rounded down
            ratio = max(ratios)
            return max(target_h, int(height * ratio)), max(target_w, int(width * ratio))
        ratio = min(ratios)
        return max(1, round(height * ratio)), max(1, round(width * ratio))

    def seen_region(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of an (height, width) film that reaches the network, in film pixels.

        Returns
        -------
        tuple
            (top, left, bottom, right); beyond the film where the input is padded.
        """
        resized_h, resized_w = self.resized_shape(height, width)
        scale_y, scale_x = height / resized_h, width / resized_w
        top = _offset(resized_h, self.input_size[1])
        left = _offset(resized_w, self.input_size[2])
        return (
            top * scale_y,
            left * scale_x,
            (top + self.input_size[1]) * scale_y,
            (left + self.input_size[2]) * scale_x,
        )

    def geometry(self, pixels: Greys) -> Greys:
        """Resize and crop films to the input's height and width, without normalisation.

        Parameters
        ----------
        pixels
            (H, W) float32 in [0, 1], an array or a tensor; or a tensor (N, C, H, W).

        Returns
        -------
        numpy.ndarray or torch.Tensor
            (height, width) or (N, C, height, width) float32 in [0, 1], of the kind of ``pixels``.
        """
        _, height, width = self.input_size
        resized = resize(pixels, *self.resized_shape(*pixels.shape[-2:]), self.interpolation)
        top = _offset(resized.shape[-2], height)
        left = _offset(resized.shape[-1], width)
        if top < 0 or left < 0:
            above, before = max(0, -top), max(0, -left)
            below = max(0, height - resized.shape[-2] - above)
            after = max(0, width - resized.shape[-1] - before)
            grey = sum(self.mean) / len(self.mean)
            resized = _padded(resized, (above, below), (before, after), grey)
            top, left = max(0, top), max(0, left)
        return resized[..., top : top + height, left : left + width]

    def normalize(self, grey: Greys) -> Greys:
        """(..., 1, H, W) float32 in [0, 1] -> (..., C, H, W), (x - mean) / std per channel."""
        mean, std = (_of_channels(x, grey) for x in (self.mean, self.std))
        with np.errstate(all="ignore"):  # a std near 0: what the network makes of it is checked
            return (grey - mean) / std

    def __call__(self, pixels: Greys) -> Greys:
        """(H, W) float32 in [0, 1] -> (C, H, W) float32, the input of the network."""
        return self.normalize(self.geometry(pixels)[None])

    def grey_film(self) -> np.ndarray:
        """A film of all greys, prepared: (1, C, H, W)."""
        # One grey alone may be the mean, which is 0.
        ramp = np.linspace(0, 1, 64, dtype=np.float32)
        return self(np.broadcast_to(ramp, (64, 64)))[None]


def _padded(films: Greys, rows: tuple[int, int], columns: tuple[int, int], grey: float) -> Greys:
    """Films with so many rows and columns of one grey before and after them."""
    if isinstance(films, np.ndarray):
        return np.pad(films, (rows, columns), constant_values=grey)
    import torch.nn.functional as F

    return F.pad(films, (*columns, *rows), value=grey)


def _of_channels(numbers: tuple[float, ...], like: Greys) -> Greys:
    """A number for each channel, to compute with films of the kind of ``like``: (C, 1, 1)."""
    if isinstance(like, np.ndarray):
        return np.array(numbers, like.dtype)[:, None, None]
    return like.new_tensor(numbers)[:, None, None]


def _offset(resized: int, wanted: int) -> int:
    """Where a centred crop starts; negative where the film is padded. Rounds as timm does."""
    surplus = resized - wanted
    return round(surplus / 2) if surplus >= 0 else -(-surplus // 2)
