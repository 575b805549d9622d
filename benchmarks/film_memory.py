"""The most memory that the reader takes for a film, above what it takes for a small one.

    python -m benchmarks.film_memory [NAME...]

Each film has 64 megapixels, the most that is read, and as a rule the same value everywhere; each is
read in a process of its own. The figure is that of Linux (``VmHWM`` of ``/proc/self/status``), in
MB, with the bytes of the file among it.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from cft.errors import RadiographError
from cft.film.read import read_radiograph
from tests import films

SIDE = 8000


def png(mode: int, depth: int, interlaced: bool = False) -> bytes:
    """A PNG file of ones, of a colour type (2 RGB, 4 grey and alpha, 6 RGBA) and a bit depth."""
    row = b"\0" + b"\1" * (SIDE * {0: 1, 2: 3, 4: 2, 6: 4}[mode] * depth // 8)
    packer = zlib.compressobj(6)
    rows = 2 * SIDE if interlaced else SIDE  # of the seven passes, more than enough
    data = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, mode, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def saved(mode: str, kind: str, exif: bool = False, **options) -> bytes:
    """A file that Pillow writes."""
    image = Image.new(mode, (SIDE, SIDE))
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
    return _dicom(np.zeros((SIDE, SIDE), np.uint16), "80", imagecodecs.jpegls_encode)


def jpeg_2000() -> bytes:
    """Of noise: of zeros, the decoder would find nothing to do."""
    drawn = np.random.default_rng(0)
    coarse = drawn.integers(0, 60_000, (SIDE // 8, SIDE // 8), dtype=np.uint16)
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
        "RGBA", "TIFF", compression="tiff_deflate", tiffinfo={278: SIDE}
    ),
    "TIFF, floating point, one strip": lambda: saved(
        "F", "TIFF", compression="tiff_deflate", tiffinfo={278: SIDE}
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
            above, said = pool.apply(measure, (data,))
        print(f"{name:36}{len(data) / 1e6:8.1f} MB{above:8.0f} MB  {said}", flush=True)


def made(name: str) -> bytes:
    return FILMS[name]()


def measure(data: bytes) -> tuple[float, str]:
    """MB above what a small film took, and the size of the film or the reason against it."""
    for film in films.every_film().values():  # imports every decoder
        read_radiograph(film.data)
    before = resident("VmRSS") - len(data) / 1e6
    try:
        said = str(read_radiograph(data).pixels.shape)
    except RadiographError as error:
        said = str(error)
    return resident("VmHWM") - before, said


def resident(entry: str) -> float:
    """Memory of this process in MB: now (VmRSS) or the most so far (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{entry}:\s+(\d+) kB", status).group(1)) / 1000


if __name__ == "__main__":
    main()
