"""Radiograph -> what the page shows of it: greys for the screen, their finer part, distances.

A film of 8 bits is one grey picture. A deeper one is two: the upper byte of its 16 bits, which any
browser shows, and the lower one, which the viewer adds. Both are lossless.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cft import heatmap
from cft.film.body import body
from cft.film.radiograph import Radiograph
from cft.film.resize import resize

__all__ = ["ALONE", "ONE_OF_SEVERAL", "Picture"]

#: Longest side in pixels of a film that is the only one of an answer, which few films surpass and
#: every browser can draw; and of one of several: 20 films at the resolution of the first would be
#: an answer of some 500 MB.
ALONE, ONE_OF_SEVERAL = 4096, 1024

# Longest side in pixels of the body's mask, and so of the heat maps. They are smooth, being made of
# a few local scores across, so that the browser may enlarge them.
_MASK_SIDE = 96


@dataclass(frozen=True, eq=False)
class Picture:
    """A film for the screen.

    Attributes
    ----------
    upper
        (h, w) uint8: the greys.
    lower
        (h, w) uint8: of 16-bit greys the lower byte; None where it would say nothing.
    spacing
        Millimetres from a pixel of the picture to the next, down and across; None if unknown.
    reduction
        Pixels of the film for each of the picture, at least 1.
    body
        (h', w') bool, a coarse mask: where the patient is.
    """

    upper: np.ndarray
    lower: np.ndarray | None
    spacing: tuple[float, float] | None
    reduction: float
    body: np.ndarray

    @classmethod
    def of(cls, film: Radiograph, alone: bool) -> Picture:
        """The picture of a film; in full depth, and larger, if the answer has no other."""
        shape = heatmap.shape_within(film.pixels.shape, ALONE if alone else ONE_OF_SEVERAL)
        grey = resize(film.pixels, *shape, "bilinear")
        reduction = film.pixels.shape[0] / shape[0]
        mask = body(grey, heatmap.shape_within(shape, _MASK_SIDE))
        spacing = film.spacing and (film.spacing[0] * reduction, film.spacing[1] * reduction)
        if not alone or _has_8_bits(grey):
            upper = np.round(255 * grey).astype(np.uint8)
            return cls(upper, None, spacing, reduction, mask)
        deep = np.round(65535 * grey).astype(np.uint16)
        upper, lower = (deep >> 8).astype(np.uint8), (deep & 255).astype(np.uint8)
        return cls(upper, lower, spacing, reduction, mask)

    def smaller(self) -> Picture:
        """The same as one of several films of an answer: smaller, and of 8 bits."""
        shape = heatmap.shape_within(self.upper.shape, ONE_OF_SEVERAL)
        if shape == self.upper.shape:
            return replace(self, lower=None)
        grey = resize(self.upper / np.float32(255), *shape, "bilinear")
        upper = np.round(255 * grey).astype(np.uint8)
        by = self.upper.shape[0] / shape[0]
        spacing = self.spacing and (self.spacing[0] * by, self.spacing[1] * by)
        return Picture(upper, None, spacing, self.reduction * by, self.body)


def _has_8_bits(grey: np.ndarray) -> bool:
    """Whether 256 greys say all that is there."""
    levels = 255 * grey
    return bool((np.abs(levels - np.round(levels)) < 1e-3).all())
