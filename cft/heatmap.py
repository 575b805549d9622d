"""Class activation maps -> pictures over the film."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from cft.files import atomic_write
from cft.film.resample import resampled

# Colours of the overlay from weak to strong evidence; opacity carries the strength as well, so
# that the map reads the same without colour vision.
_RAMP = np.array([[255, 224, 130], [255, 152, 0], [213, 32, 32]], dtype=np.float32)
_MAX_OPACITY = 0.65

#: What is said beside a map of Grad-CAM.
ABOUT_GRAD_CAM = (
    "Grad-CAM: colour marks how the score reacts to each place, as a share of the largest reaction "
    "in this film. It is not what the score adds up to, nor where a lesion is."
)


def spread(
    local: np.ndarray,
    region: tuple[float, float, float, float],
    shape: tuple[int, int],
    calibrate: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Spread a map of local scores over the film.

    Parameters
    ----------
    local
        (h, w) scores at the positions of the last feature map.
    region
        (top, left, bottom, right) of the part of the film that the network saw, in film pixels;
        see `cft.model.preprocess.Preprocess.seen_region`.
    shape
        (H, W) of the film.
    calibrate
        Score -> probability, elementwise.

    Returns
    -------
    numpy.ndarray
        (H, W) float32 in [0, 1]; 0 outside the region.
    """
    top, left, bottom, right = (round(edge) for edge in region)
    smooth = resampled(local, max(1, bottom - top), max(1, right - left), "bilinear")
    heat = np.zeros(shape, dtype=np.float32)
    rows = slice(max(0, top), min(shape[0], bottom))
    columns = slice(max(0, left), min(shape[1], right))
    heat[rows, columns] = calibrate(
        smooth[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    )
    return heat


def beside_normal(
    local: np.ndarray, normal: Sequence[Sequence[float]] | np.ndarray | None
) -> np.ndarray:
    """Local scores as they differ from those of films without findings in the same place.

    A place that gives a high score in every film, such as an edge, is no evidence in this one. The
    mean over the positions, which is the film's score, stays what it is.

    Parameters
    ----------
    local
        (h, w) scores at the positions of the last feature map.
    normal
        (h, w), their mean in films without findings. None, or one of another size, which belongs
        to another network, changes nothing.

    Returns
    -------
    numpy.ndarray
        (h, w) float32.
    """
    if normal is None or np.shape(normal) != local.shape:
        return local
    usual = np.asarray(normal, np.float32)
    return local - (usual - usual.mean())


def beside_peak(local: np.ndarray, probability: float) -> np.ndarray:
    """A map that has no unit, in [0, 1]: its largest value becomes the film's own probability.

    Parameters
    ----------
    local
        (h, w), not negative, as of `cft.model.gradients.grad_cam`.
    probability
        The finding's.

    Returns
    -------
    numpy.ndarray
        (h, w) float32; all 0 for a map that is 0 everywhere.
    """
    largest = float(local.max())
    share = local / largest if largest > 0 else np.zeros_like(local)
    return (share * probability).astype(np.float32)


def overlay(pixels: np.ndarray, heat: np.ndarray, operating_point: float | None) -> np.ndarray:
    """Draw a heat map over its film.

    The colour scale is fixed, not stretched per film: half strength where the local evidence
    equals the operating point. A film without evidence stays grey.

    Parameters
    ----------
    pixels
        (H, W) float32 in [0, 1].
    heat
        (H, W) float32 in [0, 1], from `cft.Findings.heatmap`.
    operating_point
        Threshold on the probability; None counts as 0.5.

    Returns
    -------
    numpy.ndarray
        (H, W, 3) uint8.
    """
    colour, opacity = _paint(heat, operating_point)
    blended = (1 - opacity) * (255 * pixels[..., None]) + opacity * colour
    return blended.round().astype(np.uint8)


def layer(heat: np.ndarray, operating_point: float | None) -> np.ndarray:
    """What `overlay` lays over the film, alone, so that a page can show and hide it.

    Parameters
    ----------
    heat, operating_point
        As for `overlay`.

    Returns
    -------
    numpy.ndarray
        (H, W, 4) uint8: red, green, blue, opacity (not premultiplied).
    """
    colour, opacity = _paint(heat, operating_point)
    return np.concatenate([colour, 255 * opacity], axis=-1).round().astype(np.uint8)


def _paint(heat: np.ndarray, operating_point: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Colours (H, W, 3) in [0, 255] and opacity (H, W, 1) in [0, 1] of a heat map."""
    threshold = np.clip(0.5 if operating_point is None else operating_point, 1e-4, 1 - 1e-4)
    odds = heat / np.maximum(1 - heat, 1e-6)
    strength = odds / (odds + threshold / (1 - threshold))  # in [0, 1], 1/2 at the threshold
    colour = np.stack(
        [np.interp(strength, [0, 0.5, 1], _RAMP[:, channel]) for channel in range(3)], axis=-1
    )
    # Below 0.4 (two thirds of the threshold's odds) nothing is drawn: the film stays readable.
    opacity = _MAX_OPACITY * np.clip((strength - 0.4) / 0.6, 0, 1)[..., None]
    return colour, opacity


def shape_within(shape: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """(H, W) made to fit a square, aspect ratio kept, never enlarged."""
    scale = min(1, longest_side / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def encode_png(picture: np.ndarray) -> bytes:
    """The PNG file of a (H, W), (H, W, 3) or (H, W, 4) uint8 picture."""
    encoded = io.BytesIO()
    # The grain of a film has no repetitions to look for: half the time, and no larger a file.
    Image.fromarray(picture).save(encoded, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return encoded.getvalue()


def write_png(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write a (H, W) or (H, W, 3) uint8 picture as PNG, atomically."""
    atomic_write(path, encode_png(picture))
