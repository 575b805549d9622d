"""Pictures that are no upright frontal film, made of films: the gate learns them.

They are the films themselves, turned, cut up, pasted together, warped and photographed. What is
made of nothing is in `cft.model.drawings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["TURNS", "disturbed", "photographed", "spoilt"]

#: How a film can lie: name -> the picture that is seen then. All work on (..., H, W).
TURNS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "upright": lambda x: x,
    "left": lambda x: torch.rot90(x, 1, (-2, -1)),
    "upside down": lambda x: torch.rot90(x, 2, (-2, -1)),
    "right": lambda x: torch.rot90(x, -1, (-2, -1)),
    "mirrored": lambda x: x.flip(-1),
    "inverted": lambda x: 1 - x,
}


def disturbed(
    films: torch.Tensor, random: np.random.Generator, strength: float = 1
) -> torch.Tensor:
    """Films as other machines, windows and hospitals might have made them.

    Rotated by a few degrees, shifted, enlarged or reduced, stretched, of another contrast,
    brightness and gamma, some of them less sharp, so that none of this is a reason to refuse.

    Parameters
    ----------
    films
        (N, 1, H, W) float32 in [0, 1].
    random
        Draws the changes.
    strength
        Factor on all changes.

    Returns
    -------
    torch.Tensor
        (N, 1, H, W) float32 in [0, 1].
    """
    n = len(films)
    u = torch.from_numpy(random.uniform(-1, 1, (n, 9)).astype(np.float32)) * strength
    films = _less_sharp(films, random)
    angle, size = u[:, 0] * math.radians(10), torch.exp(u[:, 1] * 0.18)
    wide, high = size * torch.exp(u[:, 2] * 0.12), size * torch.exp(-u[:, 2] * 0.12)
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * wide, -sin * high, u[:, 3] * 0.12, sin * wide, cos * high, u[:, 4] * 0.12]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(films.shape), False)
    films = F.grid_sample(films, grid, align_corners=False)
    column = (slice(None), None, None, None)
    films = (films - 0.5) * torch.exp(0.4 * u[:, 5])[column] + 0.5 + 0.15 * u[:, 6][column]
    return films.clamp(1e-4, 1) ** torch.exp(0.4 * u[:, 7])[column]


def _less_sharp(films: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Half of the films as if they had been stored at 56 to 160 pixels a side."""
    parts = []
    for film in films:
        if random.random() < 0.5:
            side = int(random.integers(56, 161))
            small = F.interpolate(film[None], (side, side), mode="bilinear", antialias=True)
            film = F.interpolate(small, film.shape[-2:], mode="bilinear", antialias=True)[0]
        parts.append(film)
    return torch.stack(parts)


# ------------------------------------------------------------------------- of films


def spoilt(films: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Each film made into something that has a film's texture but is not a whole chest.

    Parameters
    ----------
    films
        (N, 1, H, W) float32 in [0, 1].
    random
        Chooses what becomes of each.

    Returns
    -------
    torch.Tensor
        (N, 1, H, W) float32 in [0, 1].
    """
    ways = (
        *(_shuffled, _cut_out, _collage, _in_an_ellipse, _swirled, _scrambled, _folded, _far_away),
        _photographed,
    )
    out = []
    for film in films:
        other = films[int(random.integers(len(films)))]
        made = ways[int(random.integers(len(ways)))](film[0], other[0], random)
        out.append(made[None].clamp(0, 1))
    return torch.stack(out)


def _shuffled(film: torch.Tensor, other: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """The parts of the film in another order."""
    parts = int(random.integers(2, 6))
    size = film.shape[0] // parts
    blocks = film[: parts * size, : parts * size].reshape(parts, size, parts, size)
    blocks = blocks.transpose(1, 2).reshape(-1, size, size)
    order = torch.from_numpy(random.permutation(len(blocks)))
    blocks = torch.stack([torch.rot90(x, int(random.integers(4))) for x in blocks[order]])
    joined = blocks.reshape(parts, parts, size, size).transpose(1, 2)
    return _resized(joined.reshape(parts * size, parts * size), *film.shape)


def _cut_out(film: torch.Tensor, other: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """A small part of the film, enlarged, some of them turned."""
    height, width = film.shape
    share = random.uniform(0.12, 0.5, 2)
    h, w = int(share[0] * height), int(share[1] * width)
    top, left = int(random.integers(height - h)), int(random.integers(width - w))
    part = _resized(film[top : top + h, left : left + w], height, width)
    return torch.rot90(part, int(random.integers(4)))


def _collage(film: torch.Tensor, other: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Two or four films in one picture."""
    height, width = film.shape
    if random.random() < 0.4:
        halves = [_resized(x, height, width // 2) for x in (film, other)]
        return _resized(torch.cat(halves, 1), height, width)
    if random.random() < 0.4:
        halves = [_resized(x, height // 2, width) for x in (film, other)]
        return _resized(torch.cat(halves, 0), height, width)
    four = [_resized(x, height // 2, width // 2) for x in (film, other, film.flip(-1), other)]
    return _resized(torch.cat([torch.cat(four[:2], 1), torch.cat(four[2:], 1)], 0), height, width)


def _in_an_ellipse(
    film: torch.Tensor, other: torch.Tensor, random: np.random.Generator
) -> torch.Tensor:
    """A part of the film inside an ellipse on black, as sections of a body are."""
    part = _cut_out(film, other, random) if random.random() < 0.6 else other
    y, x = _grid(*film.shape)
    a, b = random.uniform(0.5, 0.95, 2)
    r = ((x / a) ** 2 + (y / b) ** 2).sqrt()
    rim = float(random.uniform(0, 0.8)) * torch.exp(-(((r - 0.92) / 0.05) ** 2))
    return torch.where(r < 1, part * float(random.uniform(0.4, 1.1)) + rim, 0.0)


def _swirled(film: torch.Tensor, other: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """The film turned the more, the nearer to a point."""
    y, x = _grid(*film.shape)
    cy, cx = random.uniform(-0.3, 0.3, 2)
    turn = float(random.choice([-1, 1]) * random.uniform(2, 6))
    r = ((x - cx) ** 2 + (y - cy) ** 2).sqrt()
    angle = turn * torch.exp(-2 * r) + float(random.uniform(0, 2 * math.pi))
    cos, sin = angle.cos(), angle.sin()
    grid = torch.stack([cx + cos * (x - cx) - sin * (y - cy), cy + sin * (x - cx) + cos * (y - cy)])
    return _sampled(film, grid)


def _folded(film: torch.Tensor, other: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """The film wound around a point, as a ring."""
    y, x = _grid(*film.shape)
    r = (x**2 + y**2).sqrt() * float(random.uniform(1, 1.6))
    angle = torch.atan2(y, x) / math.pi
    grid = torch.stack([angle * float(random.choice([1, 2, 3])) % 2 - 1, 2 * r - 1])
    return _sampled(film, grid)


def _scrambled(
    film: torch.Tensor, other: torch.Tensor, random: np.random.Generator
) -> torch.Tensor:
    """Noise with the film's own spectrum."""
    noise = torch.from_numpy(random.standard_normal(film.shape).astype(np.float32))
    phase = torch.angle(torch.fft.fft2(noise))
    made = torch.fft.ifft2(torch.polar(torch.fft.fft2(film).abs(), phase)).real
    return (made - made.min()) / (made.max() - made.min() + 1e-6)


def _far_away(film: torch.Tensor, other: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """The film small, somewhere on a plain ground."""
    height, width = film.shape
    h, w = (int(s * side) for s, side in zip(random.uniform(0.2, 0.5, 2), film.shape, strict=True))
    ground = torch.full((height, width), float(random.uniform(0, 1)))
    top, left = int(random.integers(height - h)), int(random.integers(width - w))
    ground[top : top + h, left : left + w] = _resized(film, h, w)
    return ground


def photographed(film: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """The film on a screen or a light box, photographed from aside with what is around it.

    Parameters
    ----------
    film
        (H, W) float32 in [0, 1].
    random
        Chooses from where, in what room, with which stripes and reflection.

    Returns
    -------
    torch.Tensor
        (H, W) float32, about in [0, 1].
    """
    y, x = _grid(*film.shape)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    seen = corners * random.uniform(0.55, 0.9, 2) + random.uniform(-0.14, 0.14, (4, 2))
    h = _homography(seen, corners)
    depth = h[6] * x + h[7] * y + 1
    u, v = (h[0] * x + h[1] * y + h[2]) / depth, (h[3] * x + h[4] * y + h[5]) / depth
    screen = _sampled(film, torch.stack([u, v]))
    angle, waves = random.uniform(0, math.pi), float(random.uniform(8, 60))
    stripes = torch.sin(math.pi * waves * (math.cos(angle) * x + math.sin(angle) * y))
    cx, cy = random.uniform(-0.8, 0.8, 2)
    glare = torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / float(random.uniform(0.02, 0.3)))
    screen = screen * (1 + float(random.uniform(0, 0.12)) * stripes)
    lit = screen * float(random.uniform(0.6, 1)) + glare * float(random.uniform(0, 0.4))
    room = float(random.uniform(0, 0.8)) + float(random.uniform(-0.3, 0.3)) * (x + y) / 2
    beyond = torch.maximum(u.abs(), v.abs())
    frame = torch.where(beyond < 1 + float(random.uniform(0, 0.15)), random.uniform(0, 0.3), room)
    return torch.where((beyond < 1) & (depth > 0), lit, frame)


def _photographed(
    film: torch.Tensor, other: torch.Tensor, random: np.random.Generator
) -> torch.Tensor:
    return photographed(film, random)


def _homography(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The projection that takes four points (4, 2) to four others: 8 numbers, the 9th is 1."""
    rows, values = [], []
    for (x, y), (u, v) in zip(before, after, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        values += [u, v]
    return np.linalg.solve(np.array(rows), np.array(values))


# ---------------------------------------------------------------------------- parts


def _resized(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    size = (height, width)
    return F.interpolate(picture[None, None], size, mode="bilinear", antialias=True)[0, 0]


def _grid(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """y and x of each pixel, from -1 to 1."""
    y, x = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return y[:, None].expand(height, width), x[None].expand(height, width)


def _sampled(film: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The film at (2, H, W) places (x, y) from -1 to 1."""
    places = grid.permute(1, 2, 0)[None]
    return F.grid_sample(film[None, None], places, align_corners=False)[0, 0]
