"""PNG, JPEG, TIFF, BMP and WebP -> grey in [0, 1], within the limits of `cft.film.radiograph`."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cft.errors import RadiographError
from cft.film.budget import DECODING
from cft.film.grey import Grey, grey_from_pil, grey_from_uint16, tiles
from cft.film.png import plain_grey
from cft.film.radiograph import MAX_PIXELS, Radiograph, check_size, damaged, too_large

_BITS_PER_SAMPLE, _TILE_WIDTH, _TILE_LENGTH = 258, 322, 323

# Bytes of a decoded picture: the largest film in 16 bits of grey. Colour has fewer pixels, so that
# time and memory have a bound that films need not share with what is none.
_MAX_DECODED = 2 * MAX_PIXELS

# How Pillow unpacks 16-bit colour of PNG -> how to unpack it without a loss, and its channels.
_DEEP_COLOUR = {
    "RGB;16B": (("RGB;16B", "RGB;16L"), 3),
    "RGBA;16B": (("RGBA;16B", "RGBA;16L"), 4),
    "LA;16B": (("RGBA",), 2),
}

# Pillow decodes them in Python, pixel by pixel: a small file could keep it busy for half a minute.
_RUN_LENGTHS = "bmp_rle"

# A progressive JPEG may repeat scans of a few bytes, each of which costs the decoder a pass over
# the whole picture. Real ones have about ten.
_MAX_JPEG_SCANS = 32


# --------------------------------------------------------------------- picture formats


def read_picture(data: bytes, name: str) -> Radiograph:
    what = f"{name.replace('WEBP', 'WebP')} file"
    try:
        with Image.open(io.BytesIO(data), formats=(name,)) as image:
            check_size(image.height, image.width)
            _check_decoded(image)
            _refuse_several(image)
            if any(tile.codec_name == _RUN_LENGTHS for tile in image.tile):
                raise RadiographError("the BMP file is run-length encoded; save the film as PNG")
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


def _decode(data: bytes, image: ImageFile) -> Grey:
    if _is_deep_colour(image):
        return grey_from_uint16(_decode_deep_colour(data, image))
    if image.format == "PNG":
        pixels = plain_grey(data, image)
        if pixels is not None:
            return grey_from_pil(Image.fromarray(pixels))
    if image.format == "WEBP":
        return grey_from_pil(image, _decode_webp(data, image.size))
    return grey_from_pil(image)


def _check_decoded(image: ImageFile) -> None:
    """Refuse a picture in colour, or of 32 bits, that would take too long to decode."""
    size = _bytes_per_pixel(image)
    if image.height * image.width * size > _MAX_DECODED:
        raise RadiographError(
            f"the picture of {image.width} x {image.height} pixels has {8 * size} bits a pixel; "
            f"such pictures are read up to {_MAX_DECODED // size // 1_000_000} megapixels, grey "
            f"ones of 8 or 16 bits up to {MAX_PIXELS // 1_000_000}"
        )


def _bytes_per_pixel(image: ImageFile) -> int:
    """Of what the decoder makes, or of the colours that it is turned into on the way to grey."""
    if _is_deep_colour(image):
        return 2 * _DEEP_COLOUR[str(image.tile[0].args)][1]
    if image.mode.startswith("I;16"):
        return 2
    if image.mode in ("I", "F", "CMYK") or image.has_transparency_data:
        return 4
    return 1 if image.mode in ("1", "L") else 3


def _is_deep_colour(image: ImageFile) -> bool:
    return image.format == "PNG" and bool(image.tile) and image.tile[0].args in _DEEP_COLOUR


def _refuse_several(image: Image.Image) -> None:
    """A film is a single picture."""
    if isinstance(image, TiffImageFile):
        _refuse_pages(image)
    elif image.format != "MPO" and getattr(image, "is_animated", False):
        # An MPO is a photograph whose further pictures are previews or gain maps.
        raise RadiographError(f"the {image.format} file is animated; a film is a single picture")


def _refuse_pages(image: TiffImageFile) -> None:
    # A tile's buffer is allocated whole, however small the picture. A side that is not said counts
    # as the picture's.
    tags = image.tag_v2
    width, height = tags.get(_TILE_WIDTH, image.width), tags.get(_TILE_LENGTH, image.height)
    if (_TILE_WIDTH in tags or _TILE_LENGTH in tags) and width * height > MAX_PIXELS:
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


def _decode_deep_colour(data: bytes, image: ImageFile) -> np.ndarray:
    """(H, W, 2, 3 or 4) uint16 of a PNG file of 16 bits and more than one channel.

    Pillow keeps the upper byte of each value. So it decodes the file once for the upper and once
    for the lower bytes; of grey and alpha, the four bytes come as four channels. (imagecodecs
    decodes it at once, but keeps the picture in memory for ever if the file is damaged.)
    """
    rawmodes, channels = _DEEP_COLOUR[str(image.tile[0].args)]
    transparent = image.info.get("transparency") if channels == 3 else None  # one colour that is
    values = np.zeros((image.height, image.width, channels + (transparent is not None)), np.uint16)
    for rawmode in rawmodes:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as part:
            part.tile = [part.tile[0]._replace(args=rawmode)]
            part.load()
            for place, tile in tiles(part):
                stored = np.asarray(tile)
                if channels == 2:
                    values[place] = stored.view(">u2")
                else:
                    block = values[place][..., :channels]
                    block <<= 8
                    block |= stored
    if transparent is not None:
        for row in values:
            row[:, 3] = np.where((row[:, :3] == transparent).all(axis=1), 0, 65535)
    return values
