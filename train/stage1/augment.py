"""Augmentation of a whole batch at once, on the device that holds it.

Random numbers are drawn for a whole *global* batch first (`Augmentation.draw`) and applied to any
part of it afterwards (`augment`): however a batch is divided between processes or accumulation
steps, a film of it is changed in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """How strongly films are changed; zero switches a change off.

    Parameters
    ----------
    rotate
        Largest rotation in degrees, to either side.
    translate
        Largest shift, as a share of the side.
    zoom
        Largest factor of enlargement or reduction less one: 0.1 is a size of 1/1.1 to 1.1.
    stretch
        The same for the ratio of height to width.
    flip
        Probability of a left-right flip. A flipped chest has its heart on the right.
    contrast
        Largest change of the contrast around mid-grey, as a share.
    brightness
        Largest shift of the grey values, in units of the [0, 1] range.
    gamma
        Largest factor of the gamma exponent less one.
    blur
        Probability that a film is reduced to a smaller size and enlarged again, so that sharpness,
        which depends on where a film came from, is no cue.
    erase
        Probability that a rectangle of 2 % to 20 % of the area is made mid-grey.
    noise
        Largest standard deviation of added white noise, in units of the [0, 1] range. Rounding to 8
        bits is noise of 0.0011; resizing by another program, or JPEG, is a multiple of it.
    """

    rotate: float = 10.0
    translate: float = 0.06
    zoom: float = 0.15
    stretch: float = 0.08
    flip: float = 0.0
    contrast: float = 0.25
    brightness: float = 0.1
    gamma: float = 0.25
    blur: float = 0.0
    erase: float = 0.0
    noise: float = 0.0

    @classmethod
    def named(cls, text: str) -> Augmentation | None:
        """Strengths from "flip=0.5,rotate=5" (others at their defaults); None for "none".

        Raises
        ------
        ValueError
            If there is no such change, or its strength is no number of at least 0.
        """
        if text == "none":
            return None
        strengths = {}
        for item in filter(None, text.split(",")):
            name, _, value = item.partition("=")
            if name not in {f.name for f in fields(cls)}:
                known = ", ".join(f.name for f in fields(cls))
                raise ValueError(f"there is no augmentation {name!r}; there are {known}")
            try:
                strengths[name] = float(value)
            except ValueError:
                strengths[name] = math.nan
            if not 0 <= strengths[name] < math.inf:
                raise ValueError(
                    f"strength of the augmentation {name!r}: {value!r} is no number of at least 0"
                )
        return cls(**strengths)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Draw the changes of `n` films.

        Every number is drawn whether it is needed or not: a strength changed leaves the other
        changes as they were.

        Returns
        -------
        dict
            Name -> (n, ...) tensor on the CPU, for `augment`. Blur, rectangles and noise are there
            only if they can happen, so that they cost nothing otherwise.
        """
        u = torch.rand(n, 16, generator=generator)  # one row a film: slices travel together
        signed = u * 2 - 1
        area, ratio = 0.02 + 0.18 * u[:, 10], (signed[:, 11] * math.log(2)).exp()
        changes = {
            "theta": self._theta(signed, flipped=u[:, 5] < self.flip),
            "contrast": 1 + self.contrast * signed[:, 6],
            "brightness": self.brightness * signed[:, 7],
            "gamma": (math.log1p(self.gamma) * signed[:, 8]).exp(),
        }
        if self.blur:
            changes["blur"] = u[:, 9] < self.blur
        if self.erase:
            changes["erase"] = u[:, 12] < self.erase
            # Centre (x, y) and half size of the rectangle, in the units of a sampling grid.
            halves = (area * ratio).sqrt(), (area / ratio).sqrt()
            changes["box"] = torch.stack([signed[:, 13], signed[:, 14], *halves], 1)
        if self.noise:
            changes["noise"] = self.noise * u[:, 15]
            changes["grain"] = torch.randint(2**31, (n,), generator=generator)  # a seed a film
        return changes

    def _theta(self, signed: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor:
        """Affine matrices output -> input, (n, 2, 3), in the units of `F.affine_grid`."""
        angle = math.radians(self.rotate) * signed[:, 0]
        size = (math.log1p(self.zoom) * signed[:, 1]).exp()
        aspect = (math.log1p(self.stretch) * signed[:, 2] / 2).exp()
        mirror = 1 - 2 * flipped.float()
        cos, sin = angle.cos() / size, angle.sin() / size
        shift = 2 * self.translate * signed[:, 3:5]  # the grid is two units wide
        rows = [cos * aspect * mirror, -sin / aspect, shift[:, 0]]
        rows += [sin * aspect * mirror, cos / aspect, shift[:, 1]]
        return torch.stack(rows, 1).view(-1, 2, 3)


def augment(films: torch.Tensor, changes: dict[str, torch.Tensor]) -> torch.Tensor:
    """Change a batch of films.

    Parameters
    ----------
    films
        (N, 1, H, W) float32 in [0, 1].
    changes
        N rows of what `Augmentation.draw` returned, on the same device.

    Returns
    -------
    torch.Tensor
        (N, 1, H, W) float32 in [0, 1]. What lies outside the film is black, as air is.
    """
    if "blur" in changes:
        films = torch.where(_column(changes["blur"]), _low_resolution(films), films)
    grid = _affine_grid(changes["theta"], *films.shape[-2:])
    films = F.grid_sample(films, grid, mode="bilinear", align_corners=False)
    films = (films - 0.5) * _column(changes["contrast"]) + 0.5 + _column(changes["brightness"])
    # A power, in a third of the time of `**`.
    films = (films.clamp(1e-4, 1).log() * _column(changes["gamma"])).exp()
    if "noise" in changes:
        films = (films + _column(changes["noise"]) * _grain(films, changes["grain"])).clamp(0, 1)
    return torch.where(_erased(films, changes), 0.5, films) if "erase" in changes else films


def _affine_grid(theta: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`F.affine_grid` without corners aligned, (N, H, W, 2), in a tenth of its time.

    It is a sum of what a row adds and what a column adds; PyTorch multiplies matrices.
    """
    x, y = ((2 * torch.arange(n, device=theta.device) + 1) / n - 1 for n in (width, height))
    across = theta[:, :, 0, None] * x
    down = theta[:, :, 1, None] * y + theta[:, :, 2, None]
    return across.transpose(1, 2)[:, None] + down.transpose(1, 2)[:, :, None]


def _column(values: torch.Tensor) -> torch.Tensor:
    """(N,) -> (N, 1, 1, 1)."""
    return values[:, None, None, None]


def _low_resolution(films: torch.Tensor) -> torch.Tensor:
    """The films as if they had been stored at 64 pixels a side."""
    small = F.interpolate(films, size=(64, 64), mode="bilinear", antialias=True)
    return F.interpolate(small, size=films.shape[-2:], mode="bilinear", antialias=True)


def _grain(films: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers of the films' shape, each film's from its own seed."""
    generator, grain = torch.Generator(films.device), torch.empty_like(films)
    for film, seed in zip(grain, seeds.tolist(), strict=True):
        film.normal_(generator=generator.manual_seed(seed))
    return grain


def _erased(films: torch.Tensor, changes: dict[str, torch.Tensor]) -> torch.Tensor:
    """(N, 1, H, W) bool: inside the rectangle that is to be made grey."""
    height, width = films.shape[-2:]
    y = torch.linspace(-1, 1, height, device=films.device)[None, :, None]
    x = torch.linspace(-1, 1, width, device=films.device)[None, None, :]
    box = changes["box"][:, :, None, None]
    inside = ((x - box[:, 0]).abs() < box[:, 2]) & ((y - box[:, 1]).abs() < box[:, 3])
    return (inside & changes["erase"][:, None, None])[:, None]
