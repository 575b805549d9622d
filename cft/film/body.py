"""Where on a film the body is, so that nothing is drawn on the air around it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from cft.film.resize import resize

__all__ = ["body"]

# Of the grey that divides dark from bright best; skin and arms are darker than that.
_SHARE = 0.4


def body(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """What of a film is not air around the patient, roughly.

    Bright is what lies above a share of Otsu's threshold (IEEE Trans. SMC 1979). Lungs are dark as
    well, so the body is all that lies between bright parts, from left to right and from top to
    bottom. Specks are left out.

    Parameters
    ----------
    pixels
        (H, W) float32 in [0, 1]: black air, white bone.
    shape
        (h, w) of the answer.

    Returns
    -------
    numpy.ndarray
        (h, w) bool; all True where nothing tells body from air.
    """
    small = resize(pixels, *shape, "bilinear")
    bright = Image.fromarray((small > _SHARE * _otsu(small)).astype(np.uint8))
    # An opening: what is narrower than three pixels goes.
    parts = np.asarray(bright.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.MaxFilter(3))) > 0
    if not parts.any():
        return np.ones(shape, bool)
    return _between(parts) & _between(parts.T).T


def _between(parts: np.ndarray) -> np.ndarray:
    """In each row all from the first to the last that is True."""
    before = np.maximum.accumulate(parts, axis=1)
    after = np.maximum.accumulate(parts[:, ::-1], axis=1)[:, ::-1]
    return before & after


def _otsu(grey: np.ndarray) -> float:
    """The grey that makes the variance between the darker and the brighter part largest."""
    counts, edges = np.histogram(grey, bins=256, range=(0.0, 1.0))
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    mass = np.cumsum(counts * middles)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = mass[:-1] / below - (mass[-1] - mass[:-1]) / above
        spread = np.nan_to_num(below * above * gap**2)
    return float(middles[spread.argmax()])
