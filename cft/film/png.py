"""Plain grey PNG files by kornia-rs, where it is installed: in less than half of Pillow's time."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL.ImageFile import ImageFile

__all__ = ["plain_grey"]

# The chunks of a file of which the pixels are all that matters: others may turn the picture or make
# parts of it transparent, and come after the pixels, too.
_PLAIN = {b"IHDR", b"IDAT", b"IEND", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"tEXt", b"tIME"}


def plain_grey(data: bytes, image: ImageFile) -> np.ndarray | None:
    """The pixels of a PNG file of 8 bits of grey, (H, W) uint8, as Pillow reads them.

    Parameters
    ----------
    data, image
        The file, and Pillow's picture of it, whose pixels have not been read.

    Returns
    -------
    numpy.ndarray or None
        None where Pillow has to read them: without kornia-rs, where the file holds anything but
        plain pixels, and where it is damaged, so that what is said of it stays the same.
    """
    decode = _decoder()
    if decode is None or image.mode != "L" or not image.tile or image.tile[0].args != "L":
        return None
    if image.info.get("interlace") or not set(_chunks(data)) <= _PLAIN:
        return None
    try:
        pixels = decode(data, (image.height, image.width), "mono")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of Rust's is no Exception
        return None
    return pixels[..., 0]


def _chunks(data: bytes) -> Iterator[bytes]:
    """The kinds of a file's chunks."""
    place = 8  # after the signature
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind
        place += 12 + length


@cache
def _decoder() -> Any:
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        return None
    return decode_image_png_u8
