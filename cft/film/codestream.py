"""Compressed frames of DICOM -> arrays, by imagecodecs, after a look at what they announce.

A codestream says by itself how large its picture is and how it is cut up, whatever the DICOM
header around it says, and a decoder allocates accordingly: a few hundred bytes can ask for
gigabytes. So its own header is read here first, and only one grey channel of the expected size,
cut up as films are and complete to its end, reaches a native decoder. (GDCM, the usual decoder of
lossless JPEG, is not used: some damaged streams make it abort the process.)
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable

import imagecodecs
import numpy as np

from cft.errors import RadiographError

# A grey frame has one scan; an embedded thumbnail may add another.
_MAX_JPEG_SCANS = 4

# What OpenJPEG allocates and visits before it looks at the data. Large films need some 100,000.
_MAX_PARTS = 500_000
_MAX_TILE_PARTS = 65_535

# JPEG 2000 is slow: some 0.3 s a megapixel on one thread.
_THREADS = min(4, os.cpu_count() or 1)
_SOI, _EOI, _SOS = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
_BASELINE, _EXTENDED, _LOSSLESS, _JPEG_LS = 0xC0, 0xC1, 0xC3, 0xF7
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)  # tables, in the midst of the frame headers C0 to CF
_SOC_SIZ = b"\xff\x4f\xff\x51"
_COD, _COC, _POC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF5F, 0xFF90, 0xFF93


def decode_rle(data: bytes, rows: int, columns: int) -> np.ndarray:
    """RLE (PS3.5 annex G) -> (rows, columns) uint8 or uint16."""
    if len(data) < 64:
        raise RadiographError("the DICOM file is truncated")
    segments = struct.unpack_from("<I", data)[0]  # one for each byte of a pixel
    if segments not in (1, 2):
        raise RadiographError("the DICOM file is corrupt: its RLE header is wrong")
    kind = np.dtype(f"<u{segments}")
    size = rows * columns * segments

    def decode(data: bytes) -> np.ndarray:
        decoded = imagecodecs.dicomrle_decode(data, kind, out=size)
        if len(decoded) != size:
            raise ValueError("short")
        return np.frombuffer(decoded, kind).reshape(rows, columns)

    return _decoded_by(decode, data, rows, columns)


def decode_jpeg(data: bytes, rows: int, columns: int) -> np.ndarray:
    """JPEG baseline, extended (8, 12 bits) or lossless (2 to 16) -> (rows, columns) unsigned."""
    _check_jpeg(data, rows, columns, frames=(_BASELINE, _EXTENDED, _LOSSLESS))
    return _decoded_by(imagecodecs.jpeg8_decode, data, rows, columns)


def decode_jpeg_ls(data: bytes, rows: int, columns: int) -> np.ndarray:
    """JPEG-LS, lossless or near-lossless -> (rows, columns) uint8 or uint16."""
    _check_jpeg(data, rows, columns, frames=(_JPEG_LS,))
    return _decoded_by(imagecodecs.jpegls_decode, data, rows, columns)


def decode_jpeg_2000(data: bytes, rows: int, columns: int) -> np.ndarray:
    """JPEG 2000, reversible or not -> (rows, columns), bit patterns as uint8 or uint16."""
    # Some writers wrap the codestream in the boxes of a JP2 file, against PS3.5 A.4.4.
    start = data.find(_SOC_SIZ, 0, 4096)
    if start < 0:
        raise RadiographError("the DICOM file is corrupt: its compressed picture has no header")
    data = data[start:]
    _check_jpeg_2000(data, rows, columns)
    decoder = functools.partial(imagecodecs.jpeg2k_decode, numthreads=_THREADS)
    return _decoded_by(decoder, data, rows, columns)


def _decoded_by(
    decoder: Callable[[bytes], np.ndarray], data: bytes, rows: int, columns: int
) -> np.ndarray:
    try:
        pixels = decoder(data)
    except MemoryError:
        raise
    except Exception as error:  # each codec has an exception of its own
        raise RadiographError(
            "the DICOM file is corrupt: its compressed picture cannot be decoded"
        ) from error
    if pixels.shape != (rows, columns) or pixels.dtype.itemsize > 2:
        raise RadiographError("the DICOM file is corrupt: its compressed picture has another shape")
    return pixels.view(f"u{pixels.dtype.itemsize}")


def _check_announced(width: int, height: int, channels: int, rows: int, columns: int) -> None:
    if (width, height) != (columns, rows):
        raise RadiographError(
            f"the DICOM file contradicts itself: its header says {columns} x {rows} pixels, its "
            f"compressed picture {width} x {height}"
        )
    if channels != 1:
        raise RadiographError("the DICOM file is a colour picture, not a film")


def _check_jpeg(data: bytes, rows: int, columns: int, frames: tuple[int, ...]) -> None:
    """Walk the markers (ITU-T T.81 annex B, T.87 annex C) up to the first scan."""
    if data[:2] != _SOI:
        raise RadiographError("the DICOM file is corrupt: its compressed picture has no header")
    if data.rfind(_EOI) < data.rfind(_SOS):
        raise RadiographError("the DICOM file is truncated: its compressed picture has no end")
    if data.count(_SOS) > _MAX_JPEG_SCANS:
        raise RadiographError("the DICOM file's compressed picture has too many scans for a film")
    at, announced = 2, False
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _SOS[1] and announced:
            return
        is_frame = (0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES) or marker == _JPEG_LS
        if is_frame:
            if marker not in frames or announced:
                raise RadiographError("the DICOM file's picture is not compressed as it says")
            height, width, channels = struct.unpack_from(">HHB", data, at + 5)
            _check_announced(width, height, channels, rows, columns)
            announced = True
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise RadiographError("the DICOM file is corrupt: its compressed picture has no header")


def _check_jpeg_2000(data: bytes, rows: int, columns: int) -> None:
    """Walk the main header and the tile parts (ITU-T T.800 annex A)."""
    x1, y1, x0, y0, tile_width, tile_height, _, _, channels, depth, dx, dy = struct.unpack_from(
        ">8IH3B", data, 8
    )
    _check_announced(x1 - x0, y1 - y0, channels, rows, columns)
    if (depth & 0x7F) > 15 or (dx, dy) != (1, 1) or 0 in (tile_width, tile_height):
        raise RadiographError("the DICOM file's picture is not compressed as a film is")
    tile = (min(tile_width, columns), min(tile_height, rows))
    at = 4 + struct.unpack_from(">H", data, 4)[0]
    parts = 0
    while (marker := struct.unpack_from(">H", data, at)[0]) != _SOT:
        length = struct.unpack_from(">H", data, at + 2)[0]
        if marker == _COD:
            parts += _count_parts(data[at + 4 : at + 2 + length], tile, rows, columns)
        elif marker == _COC:
            raise RadiographError("the DICOM file's picture is not compressed as a film is")
        at += 2 + length
    if parts > _MAX_PARTS:
        raise RadiographError("the DICOM file's picture is cut into more parts than any film")
    _check_tile_parts(data, at)


def _count_parts(coding: bytes, tile: tuple[int, int], rows: int, columns: int) -> int:
    """About how many packets and code blocks a COD segment (T.800 A.6.1) makes of the picture."""
    style, _, layers, _, levels, block_x, block_y = struct.unpack_from(">BBHBBBB", coding)
    tiles = -(-columns // tile[0]) * -(-rows // tile[1])
    precincts = blocks = 0
    for resolution in range(levels + 1):
        exponents = coding[10 + resolution] if style & 1 else 0xFF
        shrink = 1 << (levels - resolution)
        width, height = (-(-side // shrink) for side in tile)
        precinct = (1 << (exponents & 15), 1 << (exponents >> 4))
        precincts += -(-width // precinct[0]) * -(-height // precinct[1])
        block = (min(4 << block_x, precinct[0]), min(4 << block_y, precinct[1]))
        blocks += -(-width // block[0]) * -(-height // block[1])
    return tiles * (layers * precincts + blocks)


def _check_tile_parts(data: bytes, at: int) -> None:
    """Step from tile part to tile part: each must be there whole, and coded as the first says."""
    for _ in range(_MAX_TILE_PARTS):
        if data[at : at + 2] != _SOT.to_bytes(2, "big"):
            return
        length = struct.unpack_from(">I", data, at + 6)[0] or len(data) - at  # 0: to the end
        end = at + length
        if end > len(data):
            raise RadiographError("the DICOM file is truncated: its compressed picture has no end")
        at += 12
        while (marker := struct.unpack_from(">H", data, at)[0]) != _SOD:
            if marker in (_COD, _COC, _POC):
                raise RadiographError("the DICOM file's picture is not compressed as a film is")
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
        at = max(at, end)
    raise RadiographError("the DICOM file's picture is cut into more parts than any film")
