"""Plain grey PNG files by kornia-rs, where it is installed: in less than half of Pillow's time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["plain_grey"]

# What may turn the picture or make parts of it transparent, if it comes after the pixels.
_MATTERS = (b"eXIf", b"adobe.xmp", b"tRNS")


def plain_grey(data: bytes, image: Image.Image) -> np.ndarray | None:
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
    if image.info.get("interlace") or any(chunk in data for chunk in _MATTERS):
        return None
    try:
        pixels = decode(data, (image.height, image.width), "mono")
    except Exception:  # it raises no other
        return None
    return pixels[..., 0]


@cache
def _decoder() -> Any:
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        return None
    return decode_image_png_u8
