"""How stored numbers become grey in [0, 1].

The rules:

- 8 bits and fewer: the format's own full scale (255 is white).
- 16 bits: the full scale of the smallest usual depth of a detector (8, 10, 12, 14 or 16 bits) that
  holds the largest value, so that a 12-bit film in a 16-bit file is not black; `notes` says so.
- Floating point within [0, 1]: as it is. Other floating point, and integers that are negative or
  need more than 16 bits: the smallest value is black, the largest white; `notes` says so. Values
  that are not finite (or beyond 1e30, a usual mark for "no data") become black.
- Colour: its luminance (ITU-R BT.601). Transparency: shown on black.

DICOM has rules of its own for this; see `cft.film.dicom`.
"""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from cft.errors import RadiographError

_Notes = tuple[str, ...]
Grey = tuple[np.ndarray, _Notes]  # (H, W) float32 in [0, 1], and what was done
_PLAUSIBLE_DEPTHS = (8, 10, 12, 14, 16)

# Pillow's modes of 8 bits a channel that can be turned into grey.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's

# TIFF tags
_PHOTOMETRIC = 262
_COLOUR_NOTE = "colour turned into grey"
_STRETCH_NOTE = "scaled from its smallest value to its largest"
_NO_DATA = 1e30


def smallest_depth(largest: int) -> int:
    """Smallest usual bit depth of a detector that holds a value (0 to 65535)."""
    return next(depth for depth in _PLAUSIBLE_DEPTHS if largest < 2**depth)


def grey_from_pil(image: Image.Image) -> Grey:
    """A picture that Pillow reads."""
    notes: _Notes = ()
    white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0
    if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        image = ImageOps.exif_transpose(image)
        notes += ("turned as its EXIF orientation says",)
    if image.mode.startswith("I") or image.mode == "F":
        stored = np.asarray(image)
        pixels, depth_notes = _from_numbers(stored)
        if white_is_zero:  # Pillow inverts those of 8 bits, but not the deeper ones
            pixels = np.where(np.abs(stored) < _NO_DATA, 1 - pixels, np.float32(0))
            depth_notes += ("inverted WhiteIsZero",)
        return pixels, notes + depth_notes
    if image.mode not in _MODES:
        raise RadiographError(f"the picture's colour space ({image.mode}) is not one of films")
    alpha = None
    if image.mode in ("LA", "PA", "RGBA") or image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = _unit(np.asarray(image.getchannel("A")))
    if image.mode not in ("1", "L"):
        image = image.convert("RGB")
        if _is_colourful(np.asarray(image.reduce(8)), full_scale=255):
            notes += (_COLOUR_NOTE,)
    return _on_black(_unit(np.asarray(image.convert("L"))), alpha, notes)


def _unit(values: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [0, 1]."""
    return np.divide(values, np.float32(255), dtype=np.float32)


def _from_numbers(values: np.ndarray) -> Grey:
    """(H, W) integers of 16 or 32 bits, or floating point."""
    if values.dtype.kind == "f":
        return _from_float(values)
    if values.min() >= 0 and values.max() < 2**16:
        return grey_from_uint16(values.astype(np.uint16, copy=False))
    return _stretch(values.astype(np.float32)), (_STRETCH_NOTE,)


def _from_float(values: np.ndarray) -> Grey:
    """(H, W) floating point of any range."""
    values = values.astype(np.float32)
    notes: _Notes = ()
    valid = np.abs(values) < _NO_DATA  # False for NaN
    if not valid.all():
        if not valid.any():
            raise RadiographError("the picture holds no finite value")
        values[~valid] = values[valid].min()
        notes += ("values that are not finite are shown black",)
    if values.min() >= 0 and values.max() <= 1:
        return values, notes
    return _stretch(values), (*notes, _STRETCH_NOTE)


def grey_from_uint16(values: np.ndarray) -> Grey:
    """(H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGBA, uint16."""
    colours, alpha = split_alpha(values)
    depth = smallest_depth(int(colours.max()))
    notes = (f"{depth}-bit values in a 16-bit file",) if depth < 16 else ()
    alpha = None if alpha is None else np.divide(alpha, np.float32(65535), dtype=np.float32)
    return from_colours(colours, alpha, 2**depth - 1, notes)


def split_alpha(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W[, C]) -> (H, W) grey or (H, W, 3) RGB; (H, W) alpha or None."""
    if values.ndim == 2:
        return values, None
    alpha = values[..., -1] if values.shape[2] in (2, 4) else None
    return (values[..., :3] if values.shape[2] > 2 else values[..., 0]), alpha


def from_colours(
    colours: np.ndarray, alpha: np.ndarray | None, full_scale: float, notes: _Notes
) -> Grey:
    """(H, W) grey or (H, W, 3) RGB of a given full scale; (H, W) alpha in [0, 1] or None."""
    if colours.ndim == 3:
        if _is_colourful(colours[::8, ::8], full_scale):
            notes += (_COLOUR_NOTE,)
        colours = colours @ _LUMINANCE
    grey = np.divide(colours, np.float32(full_scale), dtype=np.float32)
    return _on_black(np.minimum(grey, 1, out=grey), alpha, notes)  # 1 + 1e-7, by rounding


def _stretch(values: np.ndarray) -> np.ndarray:
    """Finite float32 -> [0, 1]: the smallest black, the largest white; all equal: black."""
    low = values.min()
    return (values - low) / (values.max() - low or np.float32(1))


def _is_colourful(rgb: np.ndarray, full_scale: float) -> bool:
    """More than a tint, or than the colour noise of JPEG, in (H, W, 3)."""
    spread = rgb.max(axis=2).astype(np.float32) - rgb.min(axis=2)
    return float((spread > 0.1 * full_scale).mean()) > 0.01


def _on_black(grey: np.ndarray, alpha: np.ndarray | None, notes: _Notes) -> Grey:
    """Show the transparent parts of (H, W) float32 on black."""
    if alpha is None or alpha.min() == 1:
        return grey, notes
    if alpha.max() == 0:
        raise RadiographError("every pixel of the picture is transparent")
    return grey * alpha, (*notes, "transparent parts are shown black")
