"""PNG, JPEG, TIFF, BMP and WebP -> grey in [0, 1], within the limits of `cft.film.radiograph`."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from cft.errors import RadiographError
from cft.film.budget import DECODING
from cft.film.grey import Grey, grey_from_pil, grey_from_uint16
from cft.film.radiograph import MAX_PIXELS, Radiograph, check_size, damaged, too_large

_BITS_PER_SAMPLE, _TILE_WIDTH, _TILE_LENGTH = 258, 322, 323

# A progressive JPEG may repeat scans of a few bytes, each of which costs the decoder a pass over
# the whole picture. Real ones have about ten.
_MAX_JPEG_SCANS = 32


# --------------------------------------------------------------------- picture formats


def read_picture(data: bytes, name: str) -> Radiograph:
    what = f"{name.replace('WEBP', 'WebP')} file"
    try:
        with Image.open(io.BytesIO(data), formats=(name,)) as image:
            check_size(image.height, image.width)
            _refuse_several(image)
            if name == "JPEG" and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
                raise RadiographError("the JPEG file has too many scans for a picture")
            with DECODING.of(image.height * image.width):
                return Radiograph._of(_decode(data, image))
    except RadiographError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # far beyond our limit
        raise RadiographError(too_large("picture")) from None
    except Exception as error:  # Pillow's parsers raise whatever they run into
        raise RadiographError(damaged(what, error)) from error


def _decode(data: bytes, image: Image.Image) -> Grey:
    if image.format == "PNG" and _is_deep_colour(data):
        return _read_deep_colour(data, image.size)
    if image.format == "WEBP":
        return grey_from_pil(image, _decode_webp(data, image.size))
    return grey_from_pil(image)


def _refuse_several(image: Image.Image) -> None:
    """A film is a single picture."""
    if isinstance(image, TiffImageFile):
        _refuse_pages(image)
    elif image.format != "MPO" and getattr(image, "is_animated", False):
        # An MPO is a photograph whose further pictures are previews or gain maps.
        raise RadiographError(f"the {image.format} file is animated; a film is a single picture")


def _refuse_pages(image: TiffImageFile) -> None:
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


def _decode_webp(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """The same pixels as by Pillow, whose decoder of animations needs twice the memory."""
    import imagecodecs

    decoded = imagecodecs.webp_decode(data)
    if decoded.shape[1::-1] != size:
        raise RadiographError("the WebP file is corrupt")
    return decoded


def _is_deep_colour(data: bytes) -> bool:
    """16-bit PNG with more than one channel: Pillow would keep the upper 8 bits."""
    return data[12:16] == b"IHDR" and data[24] == 16 and data[25] in (2, 4, 6)


def _read_deep_colour(data: bytes, size: tuple[int, int]) -> Grey:
    if struct.unpack(">II", data[16:24]) != size:  # a second header, for another decoder
        raise RadiographError("the PNG file is corrupt")
    import imagecodecs

    return grey_from_uint16(imagecodecs.png_decode(data))
