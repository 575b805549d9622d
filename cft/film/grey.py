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

from collections.abc import Callable, Iterator

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from cft.errors import RadiographError
from cft.film.gate import COLOUR, MOSTLY_COLOUR

_Notes = tuple[str, ...]
Grey = tuple[np.ndarray, _Notes]  # (H, W) float32 in [0, 1], and what was done
_PLAUSIBLE_DEPTHS = (8, 10, 12, 14, 16)

# Pillow's modes of 8 bits a channel that can be turned into grey.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's

# TIFF tags
_PHOTOMETRIC = 262
_STRETCH_NOTE = "scaled from its smallest value to its largest"
_NO_DATA = 1e30


def smallest_depth(largest: int) -> int:
    """Smallest usual bit depth of a detector that holds a value (0 to 65535)."""
    return next(depth for depth in _PLAUSIBLE_DEPTHS if largest < 2**depth)


# Pictures are turned into grey in parts of so many rows and columns, multiples of 8, so that what
# the steps between need stays in the processor's cache whatever the size of the film.
_ROWS, _COLUMNS = 256, 1024

# EXIF orientation -> the same turn of an array (Exif 2.32, 4.6.4).
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a[::-1].T,
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: a[:, ::-1].T,
}


def grey_from_pil(image: Image.Image, decoded: np.ndarray | None = None) -> Grey:
    """A picture that Pillow reads.

    Parameters
    ----------
    decoded
        (H, W, 3) RGB or (H, W, 4) RGBA uint8, where another decoder than Pillow's has made them.
    """
    white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0
    turned = _orientation(image) in _TURNS
    if decoded is None:
        image.load()  # Pillow turns a TIFF by itself
    turn = _TURNS.get(_orientation(image))
    if image.mode.startswith("I") or image.mode == "F":
        grey, notes = _from_numbers(image, white_is_zero)
    elif image.mode in _MODES:
        grey, notes = _from_8_bits(image if decoded is None else decoded)
    else:
        raise RadiographError(f"the picture's colour space ({image.mode}) is not one of films")
    if turn is not None:
        grey = np.ascontiguousarray(turn(grey))
    return grey, (("turned as its EXIF orientation says",) if turned else ()) + notes


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def tiles(
    picture: Image.Image | np.ndarray,
) -> Iterator[tuple[tuple[slice, slice], Image.Image]]:
    """The parts of a picture, to be read: where each stands in an (H, W) array, and it itself."""
    height, width = _shape(picture)
    if isinstance(picture, Image.Image) and width <= _COLUMNS and height <= 2 * _ROWS:
        yield (slice(0, height), slice(0, width)), picture
        return
    for top in range(0, height, _ROWS):
        for left in range(0, width, _COLUMNS):
            bottom, right = min(top + _ROWS, height), min(left + _COLUMNS, width)
            place = (slice(top, bottom), slice(left, right))
            if isinstance(picture, np.ndarray):
                yield place, Image.fromarray(np.ascontiguousarray(picture[place]))
            else:
                yield place, picture.crop((left, top, right, bottom))


def _shape(picture: Image.Image | np.ndarray) -> tuple[int, int]:
    if isinstance(picture, np.ndarray):
        return picture.shape[0], picture.shape[1]
    return picture.height, picture.width


def _from_8_bits(picture: Image.Image | np.ndarray) -> Grey:
    grey = np.empty(_shape(picture), np.float32)
    colourful = reduced = 0
    least, most = np.float32(1), np.float32(0)  # of the opacity
    for place, tile in tiles(picture):
        alpha = None
        if tile.mode in ("LA", "PA", "RGBA") or tile.has_transparency_data:
            tile = tile.convert("RGBA")
            alpha = _unit(np.asarray(tile.getchannel("A")))
            least, most = min(least, alpha.min()), max(most, alpha.max())
        if tile.mode not in ("1", "L"):
            tile = tile.convert("RGB")
            spread = _spread(np.asarray(tile.reduce(8)))
            colourful += int((spread > _TINT * 255).sum())
            reduced += spread.size
        _unit(np.asarray(tile if tile.mode == "L" else tile.convert("L")), grey[place])
        if alpha is not None:
            grey[place] *= alpha
    notes = _colour_notes(colourful / reduced) if reduced else ()
    return grey, notes + _transparency(least, most)


def _unit(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """uint8 -> float32 in [0, 1]; into `out`, as new memory takes longer than the division."""
    return np.divide(values, np.float32(255), out=out, dtype=np.float32)


def _from_numbers(image: Image.Image, white_is_zero: bool) -> Grey:
    """Integers of 16 or 32 bits, or floating point."""
    low, high, whole = _range(image)
    notes: _Notes = () if whole else ("values that are not finite are shown black",)
    is_float = image.mode == "F"
    if not is_float and low >= 0 and high < 2**16:
        depth = smallest_depth(int(high))
        notes += (f"{depth}-bit values in a 16-bit file",) if depth < 16 else ()
        black, scale = np.float32(0), np.float32(2**depth - 1)
    elif is_float and low >= 0 and high <= 1:
        black, scale = np.float32(0), np.float32(1)
    else:  # the smallest value black, the largest white; all equal: black
        black = np.float32(low)
        scale = np.float32(high) - black or np.float32(1)
        notes += (_STRETCH_NOTE,)
    grey = np.empty((image.height, image.width), np.float32)
    for place, tile in tiles(image):
        part = np.asarray(tile).astype(np.float32)
        invalid = ~(np.abs(part) < _NO_DATA) if is_float else None  # True for NaN
        if invalid is not None:
            part[invalid] = low
        part -= black
        part /= scale
        np.minimum(part, 1, out=part)
        if white_is_zero:  # Pillow inverts those of 8 bits, but not the deeper ones
            np.subtract(1, part, out=part)
            if invalid is not None:
                part[invalid] = 0
        grey[place] = part
    return grey, notes + (("inverted WhiteIsZero",) if white_is_zero else ())


def _range(image: Image.Image) -> tuple[float, float, bool]:
    """Smallest and largest finite value, and whether all are finite."""
    lows, highs, whole = [], [], True
    for _, tile in tiles(image):
        stored = np.asarray(tile)
        if stored.dtype.kind == "f":
            valid = np.abs(stored) < _NO_DATA  # False for NaN
            whole = whole and bool(valid.all())
            stored = stored[valid]
        if stored.size:
            lows.append(stored.min().item())
            highs.append(stored.max().item())
    if not lows:
        raise RadiographError("the picture holds no finite value")
    return min(lows), max(highs), whole


def grey_from_uint16(values: np.ndarray) -> Grey:
    """(H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGBA, uint16."""
    colours, alpha = split_alpha(values)
    depth = smallest_depth(int(colours.max()))
    notes = (f"{depth}-bit values in a 16-bit file",) if depth < 16 else ()
    return from_colours(colours, alpha, 2**depth - 1, 65535, notes)


def split_alpha(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W[, C]) -> (H, W) grey or (H, W, 3) RGB; (H, W) alpha or None."""
    if values.ndim == 2:
        return values, None
    alpha = values[..., -1] if values.shape[2] in (2, 4) else None
    return (values[..., :3] if values.shape[2] > 2 else values[..., 0]), alpha


def from_colours(
    colours: np.ndarray,
    alpha: np.ndarray | None,
    full_scale: float,
    opaque: float,
    notes: _Notes,
) -> Grey:
    """Grey of colours, on black where they are transparent.

    Parameters
    ----------
    colours
        (H, W) grey or (H, W, 3) RGB, from 0 to ``full_scale``.
    alpha
        (H, W) opacity from 0 to ``opaque``; or None.
    """
    if colours.ndim == 3:
        spread = _spread(colours[::8, ::8])
        notes += _colour_notes((spread > _TINT * full_scale).mean())
    height, width = colours.shape[:2]
    grey = np.empty((height, width), np.float32)
    step = max(1, _ROWS * _COLUMNS // width)
    for top in range(0, height, step):
        rows = slice(top, top + step)
        part = colours[rows] @ _LUMINANCE if colours.ndim == 3 else colours[rows]
        np.divide(part, np.float32(full_scale), out=grey[rows], dtype=np.float32)
        np.minimum(grey[rows], 1, out=grey[rows])  # 1 + 1e-7, by rounding
        if alpha is not None:
            grey[rows] *= np.divide(alpha[rows], np.float32(opaque), dtype=np.float32)
    if alpha is None:
        return grey, notes
    return grey, notes + _transparency(alpha.min() / opaque, alpha.max() / opaque)


# More than a tint, or than the colour noise of JPEG: channels that differ by more than a tenth of
# the full scale, in more than a hundredth of the picture.
_TINT, _COLOURFUL = 0.1, 0.01
_MOSTLY_COLOURFUL = 0.25


def _colour_notes(share: float) -> _Notes:
    """The notes on a picture of whose pixels a share is in colour."""
    if share <= _COLOURFUL:
        return ()
    return (COLOUR, MOSTLY_COLOUR) if share > _MOSTLY_COLOURFUL else (COLOUR,)


def _spread(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> largest less smallest channel, (H, W) float32."""
    return rgb.max(axis=2).astype(np.float32) - rgb.min(axis=2)


def _transparency(least: float, most: float) -> _Notes:
    """The note on a picture whose opacity lies between two values in [0, 1]."""
    if least == 1:
        return ()
    if most == 0:
        raise RadiographError("every pixel of the picture is transparent")
    return ("transparent parts are shown black",)
