"""A path, bytes, an array or a picture -> `Radiograph`.

The first bytes decide the format, never the name.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from cft.errors import RadiographError
from cft.film.budget import DECODING
from cft.film.gate import SYNTHETIC, is_example
from cft.film.picture import read_picture
from cft.film.radiograph import MAX_BYTES, Radiograph


def as_radiograph(film: Any) -> Radiograph:
    """Any form of film that `Classifier.predict` takes -> `Radiograph`."""
    if isinstance(film, Radiograph):
        return film
    if isinstance(film, np.ndarray):
        with DECODING.of(math.prod(film.shape[:2])):
            return Radiograph.from_array(film)
    if hasattr(film, "getbands"):  # a PIL image, without importing Pillow to ask
        with DECODING.of(film.height * film.width):
            return Radiograph.from_pil(film)
    return read_radiograph(film)


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

# Without O_NONBLOCK, opening a FIFO that nobody writes to would wait for ever. (Windows has no
# O_NONBLOCK and needs O_BINARY.)
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


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
    data = read_bytes(source)
    if not data:
        raise RadiographError("the file is empty")
    name = _sniff(data)
    if name == "DICOM":
        from cft.film.dicom import read_dicom  # which imports this module

        return read_dicom(data)
    film = read_picture(data, name)
    return replace(film, gate=SYNTHETIC, synthetic=True) if is_example(data) else film


# ------------------------------------------------------------------------------ bytes


def read_bytes(source: str | os.PathLike | bytes | BinaryIO) -> bytes:
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
    if is_dicom(data):
        return "DICOM"
    for offset, signature, name in _REFUSED_SIGNATURES:
        if data.startswith(signature, offset):
            raise RadiographError(f"the file is {name}; a film must be {_FORMATS}")
    for offset, signature, name in _SIGNATURES:
        if data.startswith(signature, offset):
            return name
    raise RadiographError(f"the file is not a picture that can be read; a film must be {_FORMATS}")


def is_dicom(data: bytes) -> bool:
    """Whether bytes begin as DICOM does.

    With the preamble of 128 bytes; or without it, at once with an element of group 2 or 8.
    """
    if data[128:132] == b"DICM":
        return True
    explicit = data[4:6].isalpha() and data[4:6].isupper()  # a value representation
    if data[:2] == b"\0\x08":
        return explicit  # big endian always is
    # Of implicit VR, the first value is as short as those at the start always are.
    return data[:2] in (b"\x02\0", b"\x08\0") and (explicit or data[5:8] == b"\0\0\0")
