"""Bytes -> `Radiograph`: every picture format, and every limit on what a user may hand in.

The first bytes decide the format, never the name. PNG, JPEG, TIFF, BMP and WebP are read here,
DICOM in `cft.dicom`. Whatever is wrong with a file, `RadiographError` says so in one sentence that
holds nothing of the file's content.

How stored numbers become grey in [0, 1]:

- 8 bits and fewer: the format's own full scale (255 is white).
- 16 bits: the full scale of the smallest usual depth of a detector (8, 10, 12, 14 or 16 bits) that
  holds the largest value, so that a 12-bit film in a 16-bit file is not black; `notes` says so.
- Floating point within [0, 1]: as it is. Other floating point, and integers that are negative or
  need more than 16 bits: the smallest value is black, the largest white; `notes` says so. Values
  that are not finite (or beyond 1e30, a usual mark for "no data") become black.
- Colour: its luminance (ITU-R BT.601). Transparency: shown on black.

DICOM has rules of its own for this; see `cft.dicom`.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

View = Literal["PA", "AP", "lateral"]
_Notes = tuple[str, ...]
_Grey = tuple[np.ndarray, _Notes]  # (H, W) float32 in [0, 1], and what was done

MAX_BYTES = 50 * 2**20
MAX_PIXELS = 64_000_000
MIN_SIDE = 32

_FORMATS = "PNG, JPEG, TIFF, BMP, WebP or DICOM"

# (offset, first bytes, Pillow's name of the format)
_SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WEBP"),
)

# (offset, first bytes, what to call it in the refusal)
_REFUSED_SIGNATURES = (
    (0, b"GIF8", "a GIF file"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (4, b"ftyp", "a HEIF, AVIF or video file"),
)

_PLAUSIBLE_DEPTHS = (8, 10, 12, 14, 16)

# Pillow's modes of 8 bits a channel that can be turned into grey.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's

# TIFF tags
_PHOTOMETRIC = 262
_BITS_PER_SAMPLE, _TILE_WIDTH, _TILE_LENGTH = 258, 322, 323

_COLOUR_NOTE = "colour turned into grey"
_STRETCH_NOTE = "scaled from its smallest value to its largest"

# A progressive JPEG may repeat scans of a few bytes, each of which costs the decoder a pass over
# the whole picture. Real ones have about ten.
_MAX_JPEG_SCANS = 32

_NO_DATA = 1e30

# Without O_NONBLOCK, opening a FIFO that nobody writes to would wait for ever. (Windows has no
# O_NONBLOCK and needs O_BINARY.)
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class RadiographError(ValueError):
    """A file cannot be read as a radiograph; the message is one sentence for the user."""


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
    """

    pixels: np.ndarray
    view: View | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def _of(cls, grey: _Grey) -> Radiograph:
        pixels, notes = grey
        return cls(pixels, None, notes)

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
            return cls._of(_from_uint16(array))
        if not np.issubdtype(array.dtype, np.floating):
            raise RadiographError(
                f"an array of {array.dtype} is no film: it must be uint8, uint16 or floating point"
            )
        if not (array.min() >= 0 and array.max() <= 1):  # written so that NaN is refused, too
            raise RadiographError("a film given as floating point must lie within [0, 1]")
        colours, alpha = _split_alpha(array.astype(np.float32))
        return cls._of(_from_colours(colours, alpha, 1, ()))

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
            return cls._of(_from_pil(image))
        except RadiographError:
            raise
        except Exception as error:  # Pillow's decoders raise whatever their parsing runs into
            raise RadiographError(_damaged("picture", error)) from error


def read_radiograph(source: str | os.PathLike | bytes | BinaryIO) -> Radiograph:
    """Read one film.

    Parameters
    ----------
    source
        A path; the bytes of a file; or a file object opened in binary mode, read from where it
        stands. PNG, JPEG, TIFF (one page), BMP, WebP, or DICOM (one monochrome frame); at most
        50 MB and 64 megapixels, at least 32 x 32 pixels.

    Returns
    -------
    Radiograph

    Raises
    ------
    RadiographError
        If the source cannot be read as a film; one sentence says why.
    """
    data = _read_bytes(source)
    if not data:
        raise RadiographError("the file is empty")
    name = _sniff(data)
    if name == "DICOM":
        from cft.dicom import read_dicom  # which imports this module

        return read_dicom(data)
    return _read_picture(data, name)


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
        raise RadiographError(_too_large(f"picture of {width} x {height} pixels"))


def smallest_depth(largest: int) -> int:
    """Smallest usual bit depth of a detector that holds a value (0 to 65535)."""
    return next(depth for depth in _PLAUSIBLE_DEPTHS if largest < 2**depth)


# ------------------------------------------------------------------------------ bytes


def _read_bytes(source: str | os.PathLike | bytes | BinaryIO) -> bytes:
    """The whole of a source, and never much more than the limit of it."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        data = _read_path(source)
    elif hasattr(source, "read"):
        data = _read_file(source)
    else:
        raise RadiographError(
            f"a film is read from a path, bytes or a binary file, not from {type(source).__name__}"
        )
    if len(data) > MAX_BYTES:
        raise RadiographError(f"the file is larger than {MAX_BYTES // 2**20} MB")
    return data


def _read_path(path: str | os.PathLike) -> bytes:
    name = os.path.basename(os.fsdecode(path).rstrip("/")) or "/"
    try:
        handle = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        raise RadiographError(f"there is no file {name!r}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = getattr(error, "strerror", None) or "not a valid path"
        raise RadiographError(f"{name!r} cannot be opened ({reason})") from None
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise RadiographError(f"{name!r} is a folder, not a film")
        if not stat.S_ISREG(mode):
            raise RadiographError(f"{name!r} is not a regular file")
        with open(handle, "rb", closefd=False) as file:
            return _read_file(file)
    finally:
        os.close(handle)


def _read_file(file: BinaryIO) -> bytes:
    chunks, total = [], 0
    while total <= MAX_BYTES:
        try:
            chunk = file.read(MAX_BYTES + 1 - total)
        except (OSError, ValueError) as error:  # ValueError: closed, or not open for reading
            raise RadiographError("the file cannot be read") from error
        if not chunk:
            break
        if not isinstance(chunk, bytes):
            raise RadiographError("the file must be opened in binary mode")
        chunks.append(chunk)
        total += len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _sniff(data: bytes) -> str:
    """The format that the first bytes announce, as Pillow calls it, or "DICOM"."""
    if _looks_like_dicom(data):
        return "DICOM"
    for offset, signature, name in _REFUSED_SIGNATURES:
        if data.startswith(signature, offset):
            raise RadiographError(f"the file is {name}; a film must be {_FORMATS}")
    for offset, signature, name in _SIGNATURES:
        if data.startswith(signature, offset):
            return name
    raise RadiographError(f"the file is not a picture that can be read; a film must be {_FORMATS}")


def _looks_like_dicom(data: bytes) -> bool:
    """With the preamble of 128 bytes; or without it, at once with an element of group 2 or 8."""
    if data[128:132] == b"DICM":
        return True
    explicit = data[4:6].isalpha() and data[4:6].isupper()  # a value representation
    if data[:2] == b"\0\x08":
        return explicit  # big endian always is
    # Of implicit VR, the first value is as short as those at the start always are.
    return data[:2] in (b"\x02\0", b"\x08\0") and (explicit or data[5:8] == b"\0\0\0")


def _too_large(what: str) -> str:
    return f"the {what} is larger than {MAX_PIXELS // 1_000_000} megapixels"


def _damaged(what: str, error: Exception) -> str:
    """The sentence for a file that its decoder gave up on."""
    if isinstance(error, MemoryError):
        return f"the {what} needs more memory than there is"
    truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return f"the {what} is {'truncated' if truncated else 'corrupt'}"


# --------------------------------------------------------------------- picture formats


def _read_picture(data: bytes, name: str) -> Radiograph:
    what = f"{name.replace('WEBP', 'WebP')} file"
    try:
        with Image.open(io.BytesIO(data), formats=(name,)) as image:
            check_size(image.height, image.width)
            _refuse_several(image)
            if name == "JPEG" and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
                raise RadiographError("the JPEG file has too many scans for a picture")
            if name == "PNG" and _is_deep_colour(data):
                return Radiograph._of(_read_deep_colour(data, image.size))
            return Radiograph._of(_from_pil(image))
    except RadiographError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # far beyond our limit
        raise RadiographError(_too_large("picture")) from None
    except Exception as error:  # Pillow's parsers raise whatever they run into
        raise RadiographError(_damaged(what, error)) from error


def _refuse_several(image: Image.Image) -> None:
    """A film is a single picture."""
    if image.format == "TIFF":
        _refuse_pages(image)
    elif image.format != "MPO" and getattr(image, "is_animated", False):
        # An MPO is a photograph whose further pictures are previews or gain maps.
        raise RadiographError(f"the {image.format} file is animated; a film is a single picture")


def _refuse_pages(image: Image.Image) -> None:
    # A tile's buffer is allocated whole, however small the picture.
    if image.tag_v2.get(_TILE_WIDTH, 1) * image.tag_v2.get(_TILE_LENGTH, 1) > MAX_PIXELS:
        raise RadiographError("the TIFF file has tiles larger than any film")
    if max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8 and image.mode.startswith("RGB"):
        raise RadiographError("the TIFF file is in 16-bit colour; save the film as 16-bit grey")
    try:
        image.seek(1)  # not n_frames: it walks the whole chain of pages, however long
    except EOFError:
        image.seek(0)
        return
    raise RadiographError("the TIFF file has several pages; save the film as a file of its own")


def _is_deep_colour(data: bytes) -> bool:
    """16-bit PNG with more than one channel: Pillow would keep the upper 8 bits."""
    return data[12:16] == b"IHDR" and data[24] == 16 and data[25] in (2, 4, 6)


def _read_deep_colour(data: bytes, size: tuple[int, int]) -> _Grey:
    if struct.unpack(">II", data[16:24]) != size:  # a second header, for another decoder
        raise RadiographError("the PNG file is corrupt")
    import imagecodecs

    return _from_uint16(imagecodecs.png_decode(data))


# ------------------------------------------------------------------- pixels -> grey


def _from_pil(image: Image.Image) -> _Grey:
    """A picture that Pillow reads."""
    notes: _Notes = ()
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
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


def _from_numbers(values: np.ndarray) -> _Grey:
    """(H, W) integers of 16 or 32 bits, or floating point."""
    if values.dtype.kind == "f":
        return _from_float(values)
    if values.min() >= 0 and values.max() < 2**16:
        return _from_uint16(values.astype(np.uint16, copy=False))
    return _stretch(values.astype(np.float32)), (_STRETCH_NOTE,)


def _from_float(values: np.ndarray) -> _Grey:
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


def _from_uint16(values: np.ndarray) -> _Grey:
    """(H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGBA, uint16."""
    colours, alpha = _split_alpha(values)
    depth = smallest_depth(int(colours.max()))
    notes = (f"{depth}-bit values in a 16-bit file",) if depth < 16 else ()
    alpha = None if alpha is None else np.divide(alpha, np.float32(65535), dtype=np.float32)
    return _from_colours(colours, alpha, 2**depth - 1, notes)


def _split_alpha(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W[, C]) -> (H, W) grey or (H, W, 3) RGB; (H, W) alpha or None."""
    if values.ndim == 2:
        return values, None
    alpha = values[..., -1] if values.shape[2] in (2, 4) else None
    return (values[..., :3] if values.shape[2] > 2 else values[..., 0]), alpha


def _from_colours(
    colours: np.ndarray, alpha: np.ndarray | None, full_scale: float, notes: _Notes
) -> _Grey:
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


def _on_black(grey: np.ndarray, alpha: np.ndarray | None, notes: _Notes) -> _Grey:
    """Show the transparent parts of (H, W) float32 on black."""
    if alpha is None or alpha.min() == 1:
        return grey, notes
    if alpha.max() == 0:
        raise RadiographError("every pixel of the picture is transparent")
    return grey * alpha, (*notes, "transparent parts are shown black")
