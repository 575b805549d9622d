"""Pictures that a program draws and that show nothing of a body: the gate learns them."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

__all__ = ["drawn"]


def drawn(shape: tuple[int, int], random: np.random.Generator) -> torch.Tensor:
    """A picture that shows nothing of a body: (H, W) float32 in [0, 1]."""
    ways = (_leaves, _noise, _text, _screen, _lines, _plain, _rods, _discs)
    picture = ways[int(random.integers(len(ways)))](shape, random)
    return torch.from_numpy(np.clip(picture, 0, 1).astype(np.float32))


def _leaves(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Shapes of all sizes that cover each other, whose statistics are those of photographs.

    Lee, Mumford and Huang, IJCV 41 (2001) 35-59: the dead leaves model.
    """
    height, width = shape
    image = Image.new("L", (width, height), int(random.integers(256)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(30, 300))):
        r = min(width, 3 / random.power(1) if random.random() < 0.5 else random.uniform(4, 60))
        x, y, grey = random.uniform(0, width), random.uniform(0, height), int(random.integers(256))
        stretch = random.uniform(0.3, 1)
        box = (x - r, y - r * stretch, x + r, y + r * stretch)
        (draw.ellipse if random.random() < 0.6 else draw.rectangle)(box, fill=grey)
    picture = np.asarray(image, np.float32) / 255
    y, x = np.mgrid[0:height, 0:width] / max(shape)
    light = 1 + random.uniform(-0.5, 0.5) * x + random.uniform(-0.5, 0.5) * y
    return picture * light + random.normal(0, random.uniform(0, 0.06), shape)


def _noise(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Noise, from white to clouds."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    amplitude = np.maximum(np.hypot(fy, fx), 1 / max(shape)) ** -random.uniform(0, 2)
    made = np.fft.irfft2(np.fft.rfft2(random.standard_normal(shape)) * amplitude, shape)
    made = (made - made.mean()) / (made.std() + 1e-9)
    return 0.5 + made * random.uniform(0.05, 0.4)


def _text(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """A page of letters."""
    height, width = shape
    dark = random.random() < 0.7
    image = Image.new("L", (width, height), 255 if dark else 0)
    draw = ImageDraw.Draw(image)
    size = float(random.uniform(6, 40))
    font = ImageFont.load_default(size)
    y = random.uniform(0, 20)
    while y < height:
        letters = "".join(chr(int(c)) for c in random.integers(33, 123, 60))
        words = " ".join(letters[i : i + 5] for i in range(0, 60, 5))
        draw.text((random.uniform(0, 30), y), words, fill=0 if dark else 255, font=font)
        y += size * random.uniform(1, 2)
    return np.asarray(image, np.float32) / 255


def _screen(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Frames, bars and letters, as on a screen."""
    height, width = shape
    image = Image.new("L", (width, height), int(random.integers(200, 256)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(3, 25))):
        x, y = random.uniform(0, width), random.uniform(0, height)
        box = (x, y, x + random.uniform(5, width), y + random.uniform(5, height / 2))
        draw.rectangle(box, fill=int(random.integers(256)), outline=int(random.integers(256)))
        draw.text((x + 3, y + 3), "File Edit View 12:30", fill=int(random.integers(256)))
    return np.asarray(image, np.float32) / 255


def _lines(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Lines and arcs on a plain ground, as in drawings and plots."""
    height, width = shape
    ground, ink = (255, 0) if random.random() < 0.6 else (0, 255)
    image = Image.new("L", (width, height), ground)
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(3, 40))):
        x0, x1 = sorted(random.uniform(0, width, 2))
        y0, y1 = sorted(random.uniform(0, height, 2))
        thick = int(random.integers(1, 6))
        if random.random() < 0.5:
            draw.line((x0, random.uniform(0, height), x1, y1), fill=ink, width=thick)
        else:
            start, end = random.uniform(0, 360, 2)
            draw.arc((x0, y0, x1 + 1, y1 + 1), start, end, fill=ink, width=thick)
    return np.asarray(image, np.float32) / 255


def _plain(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """One grey, a slope from one to another, a chequerboard, stripes."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / max(shape)
    angle, waves = random.uniform(0, 2 * math.pi), random.uniform(1, 40)
    along = math.cos(angle) * x + math.sin(angle) * y
    low, high = random.uniform(0, 1, 2)
    kind = int(random.integers(4))
    if kind == 0:
        mix = np.zeros(shape)
    elif kind == 1:
        mix = along
    elif kind == 2:
        mix = (np.floor(x * waves) + np.floor(y * waves)) % 2
    else:
        mix = 0.5 + 0.5 * np.sin(2 * math.pi * waves * along)
    return low + (high - low) * mix


def _rods(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """A few bright rods on dark, brighter at their rims: the bones of some limb."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width] / max(shape) - 0.5
    picture = np.full(shape, random.uniform(0, 0.15))
    fan, spread = random.uniform(0, 2 * math.pi), random.uniform(0.05, 0.5)
    for number in range(int(random.integers(1, 9))):
        angle = fan + (number - 3) * spread * random.uniform(0.6, 1.4)
        cx, cy = random.uniform(-0.35, 0.35, 2)
        along = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        across = -(x - cx) * math.sin(angle) + (y - cy) * math.cos(angle)
        length, thick = random.uniform(0.1, 0.7), random.uniform(0.015, 0.1)
        beyond = np.maximum(np.abs(along) - length, 0)
        r = np.hypot(beyond, across) / thick
        flesh = random.uniform(0.1, 0.4) * (r < random.uniform(1.5, 3.5))
        bone = random.uniform(0.4, 0.9) * (r < 1) * (0.6 + 0.4 * r**2)
        picture = np.maximum(picture, np.maximum(flesh, bone))
    return picture + random.normal(0, 0.02, shape)


def _discs(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Soft ellipses inside a large one, on black or white: a section, or cells in a fluid."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width] / max(shape) - 0.5
    bright = random.random() < 0.4
    picture = np.full(shape, random.uniform(0.6, 0.95) if bright else 0.0)
    if not bright:
        a, b = random.uniform(0.25, 0.5, 2)
        r = np.hypot(x / a, y / b)
        picture += (r < 1) * random.uniform(0.2, 0.6)
        picture += (np.abs(r - 0.93) < random.uniform(0.02, 0.08)) * random.uniform(0, 0.5)
    for _ in range(int(random.integers(2, 30))):
        a, b = random.uniform(0.02, 0.18, 2)
        cx, cy = random.uniform(-0.35, 0.35, 2)
        edge = 0.5 - 0.5 * np.tanh(10 * (np.hypot((x - cx) / a, (y - cy) / b) - 1))
        picture += edge * random.uniform(-0.3, 0.3)
    return picture + random.normal(0, random.uniform(0, 0.05), shape)
