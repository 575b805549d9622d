"""Small files of large pictures: what they announce fits together, so that decoding begins."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from random import Random

import imagecodecs
import numpy as np
from PIL import Image

from tests import films
from tests.fuzzing import jpeg
from tests.fuzzing.png import SIGNATURE

# The largest of each number of bytes a pixel, and other shapes.
_SIZES = (
    *((8000, 8000), (6531, 6531), (5656, 5656), (4618, 4618), (4000, 4000)),
    *((2000, 3000), (32, 2_000_000), (60_000, 1000), (33, 65_500)),
)


def make(random: Random) -> tuple[str, bytes]:
    """Name and bytes of a file of up to 64 megapixels."""
    kind = random.choice(tuple(_MAKERS))
    width, height = random.choice(_SIZES)
    if random.random() < 0.5:
        width, height = height, width
    return f"{kind} {width} x {height}", _MAKERS[kind](width, height, random)


def _png(width: int, height: int, random: Random) -> bytes:
    depth, colour, channels = random.choice(
        (
            *((1, 0, 1), (8, 0, 1), (16, 0, 1), (8, 2, 3), (16, 2, 3)),
            *((8, 4, 2), (16, 4, 2), (8, 6, 4), (16, 6, 4)),
        )
    )
    interlaced = random.random() < 0.3
    row = b"\1" + b"\1" * ((width * channels * depth + 7) // 8)
    packer = zlib.compressobj(1)
    times = (2 if interlaced else 1) * height
    if random.random() < 0.2:  # truncated
        times = random.randrange(times)
    data = b"".join(packer.compress(row) for _ in range(times)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return SIGNATURE + b"".join(films.png_chunk(kind, body) for kind, body in chunks)


def _jpeg(width: int, height: int, random: Random) -> bytes:
    """A decoder paints what is missing in the scans grey, each scan over the whole picture."""
    small = films.phantom(8).astype(np.uint8)
    mode = random.choice(("L", "RGB", "CMYK"))
    options = {"progressive": random.random() < 0.7, "subsampling": random.choice((0, 2))}
    data = films.by_pillow(small, "JPEG", mode, **options)
    segments = []
    for marker, body, scan in jpeg.split(data):
        if 0xC0 <= marker <= 0xC3:
            body = body[:1] + struct.pack(">HH", height % 2**16, width % 2**16) + body[5:]
        times = random.choice((1, 2, 3, 10)) if marker == 0xDA and options["progressive"] else 1
        segments += [(marker, body, scan)] * times
    return jpeg.joined(segments)


def _tiff(width: int, height: int, random: Random) -> bytes:
    mode = random.choice(("1", "L", "RGB", "RGBA", "CMYK", "I;16", "I", "F"))
    compression = random.choice(("tiff_lzw", "tiff_deflate", "packbits"))
    if mode == "1":
        compression = "group4"
    rows = random.choice((1, 64, height))
    return _saved(mode, width, height, "TIFF", compression=compression, tiffinfo={278: rows})


def _webp(width: int, height: int, random: Random) -> bytes:
    size = min(width, 16383), min(height, 16383)
    lossless = random.random() < 0.5
    return _saved(random.choice(("RGB", "RGBA")), *size, "WEBP", lossless=lossless, method=0)


def _saved(mode: str, width: int, height: int, kind: str, **options) -> bytes:
    image = Image.new(mode, (width, height))
    if mode == "RGBA":
        image.putpixel((0, 0), (9, 9, 9, 200))
    encoded = io.BytesIO()
    image.save(encoded, kind, **options)
    return encoded.getvalue()


def _bmp(width: int, height: int, random: Random) -> bytes:
    """Run-length encoding that ends at once, or jumps over rows."""
    codes = random.choice((b"\0\1", b"\0\2\xff\xff" * 1000 + b"\0\1", b"\xff\1" * 100_000))
    compression, depth = random.choice(((1, 8), (2, 4)))
    palette = bytes(range(256)) * 4
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + head + palette + codes


def _dicom_codestream(width: int, height: int, random: Random) -> bytes:
    """A small codestream that announces the large size, and a header that agrees."""
    u8 = films.phantom(8).astype(np.uint8)
    u12 = films.phantom(12)
    codec = random.choice(("JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000"))
    if codec == "JPEG 2000":
        stream = films.j2k(u12, reversible=True, bitspersample=12)
        stream = stream[:8] + struct.pack(">II", width, height) + stream[16:]
        if random.random() < 0.5:  # one tile, as large as the picture
            stream = stream[:24] + struct.pack(">II", width, height) + stream[32:]
        dataset, syntax = films.dataset(u12), "90"
    else:
        if codec == "JPEG":
            stream, syntax = imagecodecs.jpeg8_encode(u8, level=90), "50"
        elif codec == "JPEG lossless":
            stream, syntax = imagecodecs.jpeg8_encode(u8, lossless=True), "70"
        else:
            stream, syntax = imagecodecs.jpegls_encode(u8), "80"
        segments = []
        for marker, body, scan in jpeg.split(bytes(stream)):
            if marker in (0xC0, 0xC1, 0xC3, 0xF7):
                body = body[:1] + struct.pack(">HH", height % 2**16, width % 2**16) + body[5:]
            segments.append((marker, body, scan))
        stream, dataset = jpeg.joined(segments), films.dataset(u8, 8)
    dataset.Rows, dataset.Columns = height % 2**16, width % 2**16
    return films.compressed(dataset, f"1.2.840.10008.1.2.4.{syntax}", bytes(stream))


def _dicom_whole(width: int, height: int, random: Random) -> bytes:
    """Whole pictures of one grey: deflated, JPEG-LS, lossless JPEG."""
    width, height = min(width, 65535), min(height, 65535)
    bits = random.choice((8, 16))
    pixels = np.zeros((height, width), np.uint8 if bits == 8 else np.uint16)
    dataset = films.dataset(pixels, bits)
    choice = random.randrange(3)
    if choice == 0:
        return films.dicom(dataset, "1.2.840.10008.1.2.1.99")
    encode = imagecodecs.jpegls_encode if choice == 1 else _lossless
    syntax = "80" if choice == 1 else "70"
    return films.compressed(dataset, f"1.2.840.10008.1.2.4.{syntax}", bytes(encode(pixels)))


def _lossless(pixels: np.ndarray) -> bytes:
    bits = pixels.dtype.itemsize * 8
    return imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=bits)


_MAKERS: dict[str, Callable[[int, int, Random], bytes]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "TIFF": _tiff,
    "WebP": _webp,
    "BMP": _bmp,
    "DICOM codestream": _dicom_codestream,
    "DICOM": _dicom_whole,
}
