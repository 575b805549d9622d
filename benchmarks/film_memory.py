"""The most memory and the processor time that the reader takes for a film.

    python -m benchmarks.film_memory [NAME...]

Each film has as many pixels as are read of its kind, and as a rule the same value everywhere; each
is read in a process of its own. The memory is above that for a small film, as Linux says it
(``VmHWM`` of ``/proc/self/status``), in MB, with the bytes of the file among it; the time is of all
threads.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from cft.errors import RadiographError
from cft.film.radiograph import MAX_PIXELS
from cft.film.read import read_radiograph
from tests import films


def side(size: int = 1) -> int:
    """Pixels of the largest square that is read, for a picture of so many bytes a pixel."""
    return math.isqrt(min(MAX_PIXELS, 2 * MAX_PIXELS // size))


def png(mode: int, depth: int, interlaced: bool = False) -> bytes:
    """A PNG file of ones, of a colour type (2 RGB, 4 grey and alpha, 6 RGBA) and a bit depth."""
    size = {0: 1, 2: 3, 4: 2, 6: 4}[mode] * depth // 8
    pixels = side(size)
    row = b"\0" + b"\1" * (pixels * size)
    packer = zlib.compressobj(6)
    rows = 2 * pixels if interlaced else pixels  # of the seven passes, more than enough
    data = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", pixels, pixels, depth, mode, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def saved(mode: str, kind: str, exif: bool = False, **options) -> bytes:
    """A file that Pillow writes."""
    pixels = side(4 if mode in ("I", "F") else len(mode))
    image = Image.new(mode, (pixels, pixels))
    if mode in ("RGBA", "LA"):
        image.putpixel((0, 0), (9,) * (len(mode) - 1) + (200,))
    if exif:
        tags = Image.Exif()
        tags[274] = 6
        options["exif"] = tags
    encoded = io.BytesIO()
    image.save(encoded, kind, **options)
    return encoded.getvalue()


def jpeg_ls() -> bytes:
    return _dicom(np.zeros((side(), side()), np.uint16), "80", imagecodecs.jpegls_encode)


def jpeg_2000() -> bytes:
    """Of noise: of zeros, the decoder would find nothing to do."""
    drawn = np.random.default_rng(0)
    coarse = drawn.integers(0, 60_000, (side() // 8, side() // 8), dtype=np.uint16)
    pixels = np.kron(coarse, np.ones((8, 8), np.uint16))
    pixels += drawn.integers(0, 8, pixels.shape, dtype=np.uint16)
    return _dicom(pixels, "91", lambda p: imagecodecs.jpeg2k_encode(p, level=60, reversible=False))


def _dicom(pixels: np.ndarray, syntax: str, encode: Callable[[np.ndarray], bytes]) -> bytes:
    dataset = films.dataset(pixels, 16)
    return films.compressed(dataset, f"1.2.840.10008.1.2.4.{syntax}", bytes(encode(pixels)))


FILMS: dict[str, Callable[[], bytes]] = {
    "PNG, RGBA, 16 bits": lambda: png(6, 16),
    "PNG, RGBA, 16 bits, interlaced": lambda: png(6, 16, interlaced=True),
    "PNG, RGB, 16 bits": lambda: png(2, 16),
    "PNG, grey and alpha, 16 bits": lambda: png(4, 16),
    "PNG, grey, 16 bits": lambda: png(0, 16),
    "PNG, RGBA": lambda: png(6, 8),
    "PNG, grey": lambda: png(0, 8),
    "JPEG, grey": lambda: saved("L", "JPEG"),
    "JPEG, progressive": lambda: saved("RGB", "JPEG", progressive=True, subsampling=0),
    "JPEG, CMYK, progressive, turned": lambda: saved("CMYK", "JPEG", exif=True, progressive=True),
    "WebP, lossless, transparent": lambda: saved("RGBA", "WEBP", lossless=True, method=0),
    "WebP, lossy": lambda: saved("RGB", "WEBP", method=0),
    "TIFF, RGBA, one strip": lambda: saved(
        "RGBA", "TIFF", compression="tiff_deflate", tiffinfo={278: side(4)}
    ),
    "TIFF, floating point, one strip": lambda: saved(
        "F", "TIFF", compression="tiff_deflate", tiffinfo={278: side(4)}
    ),
    "TIFF, 32 bits, LZW": lambda: saved("I", "TIFF", compression="tiff_lzw"),
    "DICOM, JPEG-LS": jpeg_ls,
    "DICOM, JPEG 2000": jpeg_2000,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="(default: all)")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for name in options.names or FILMS:
        with context.Pool(1) as pool:
            data = pool.apply(made, (name,))
        with context.Pool(1) as pool:
            above, seconds, said = pool.apply(measure, (data,))
        size = f"{len(data) / 1e6:8.1f} MB"
        print(f"{name:36}{size}{above:8.0f} MB{seconds:7.2f} s  {said}", flush=True)


def made(name: str) -> bytes:
    return FILMS[name]()


def measure(data: bytes) -> tuple[float, float, str]:
    """MB above what a small film took, seconds, and the film's size or the reason against it."""
    for film in films.every_film().values():  # imports every decoder
        read_radiograph(film.data)
    before = resident("VmRSS") - len(data) / 1e6
    start = time.process_time()
    try:
        said = str(read_radiograph(data).pixels.shape)
    except RadiographError as error:
        said = str(error)
    return resident("VmHWM") - before, time.process_time() - start, said


def resident(entry: str) -> float:
    """Memory of this process in MB: now (VmRSS) or the most so far (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{entry}:\s+(\d+) kB", status).group(1)) / 1000


if __name__ == "__main__":
    main()
