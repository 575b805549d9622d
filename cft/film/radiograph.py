"""`Radiograph`: a film, and its limits; `cft.film.grey` says how its numbers become grey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from cft.errors import RadiographError
from cft.film.gate import PASS, Gate, of_notes
from cft.film.grey import Grey, from_colours, grey_from_pil, grey_from_uint16, split_alpha

View = Literal["PA", "AP", "lateral"]
MAX_BYTES = 50 * 2**20
MAX_PIXELS = 64_000_000
MIN_SIDE = 32


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A film, ready to be looked at.

    Attributes
    ----------
    pixels
        (H, W) float32 in [0, 1]: black air, white bone.
    view
        "PA", "AP" or "lateral" where the file says so, else None.
    notes
        What the reader did that a reader of the film should know, such as
        "inverted MONOCHROME1". Never anything of the patient's.
    gate
        What the file says for and against its being a frontal film; the picture itself has not
        been looked at.
    synthetic
        Whether it is the example film of this package, which no patient is on.
    spacing
        Millimetres from a pixel to the next, down and across, where the file says so; else None.
        What lies before the detector is magnified, unless the film was calibrated.
    """

    pixels: np.ndarray
    view: View | None = None
    notes: tuple[str, ...] = ()
    gate: Gate = PASS
    synthetic: bool = False
    spacing: tuple[float, float] | None = None

    @classmethod
    def _of(cls, grey: Grey) -> Radiograph:
        pixels, notes = grey
        return cls(pixels, None, notes, of_notes(notes))

    @classmethod
    def from_array(cls, array: np.ndarray) -> Radiograph:
        """Make a radiograph of an array.

        Parameters
        ----------
        array
            (H, W), or (H, W, 3) RGB, or (H, W, 4) RGBA; uint8, uint16 or floating point in [0, 1].

        Raises
        ------
        RadiographError
            If shape, type or values are others, or the picture is too small or too large.
        """
        array = np.asarray(array)
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
            raise RadiographError(
                f"an array of shape {array.shape} is no film: it must be (H, W), (H, W, 3) or "
                "(H, W, 4)"
            )
        check_size(*array.shape[:2])
        if array.dtype == np.uint8:
            return cls.from_pil(Image.fromarray(np.ascontiguousarray(array)))
        if array.dtype == np.uint16:
            return cls._of(grey_from_uint16(array))
        if not np.issubdtype(array.dtype, np.floating):
            raise RadiographError(
                f"an array of {array.dtype} is no film: it must be uint8, uint16 or floating point"
            )
        if not (array.min() >= 0 and array.max() <= 1):  # written so that NaN is refused, too
            raise RadiographError("a film given as floating point must lie within [0, 1]")
        colours, alpha = split_alpha(array.astype(np.float32))
        return cls._of(from_colours(colours, alpha, 1, 1, ()))

    @classmethod
    def from_pil(cls, image: Image.Image) -> Radiograph:
        """Make a radiograph of a Pillow image, by the same rules as of a file.

        The frame that the image is at is the film. An EXIF orientation is applied. Pillow itself
        keeps only 8 bits of 16-bit colour: give such files to `read_radiograph`.

        Raises
        ------
        RadiographError
            If the image cannot be decoded, or is too small or too large.
        """
        try:
            check_size(image.height, image.width)
            return cls._of(grey_from_pil(image))
        except RadiographError:
            raise
        except Exception as error:  # Pillow's decoders raise whatever their parsing runs into
            raise RadiographError(damaged("picture", error)) from error


def check_size(height: int, width: int) -> None:
    """Refuse a picture that is too small to show anything or too large to decode.

    Raises
    ------
    RadiographError
        Outside the limits.
    """
    if height < MIN_SIDE or width < MIN_SIDE:
        raise RadiographError(
            f"the picture is {width} x {height} pixels; a film needs at least "
            f"{MIN_SIDE} x {MIN_SIDE}"
        )
    if height * width > MAX_PIXELS:
        raise RadiographError(too_large(f"picture of {width} x {height} pixels"))


def too_large(what: str) -> str:
    return f"the {what} is larger than {MAX_PIXELS // 1_000_000} megapixels"


def damaged(what: str, error: Exception) -> str:
    """The sentence for a file that its decoder gave up on."""
    if isinstance(error, MemoryError):
        return f"the {what} needs more memory than there is"
    truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return f"the {what} is {'truncated' if truncated else 'corrupt'}"
