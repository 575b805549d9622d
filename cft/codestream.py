"""Compressed frames of DICOM -> arrays, by imagecodecs, after a look at what they announce.

A codestream has a size of its own, which need not be the one in the DICOM header; a decoder would
believe it and allocate. So the codestream's header is read here first, and only a single grey
channel of the expected size, complete to its end marker, reaches the native decoder.
"""

from __future__ import annotations

import struct

import numpy as np

from cft.radiograph import RadiographError

_MAX_TILE_PARTS = 65_535
_MAX_SCANS = 8


def decode_rle(data: bytes, rows: int, columns: int, bits_allocated: int) -> np.ndarray:
    """RLE (PS3.5 annex G) -> (rows, columns) uint8 or uint16."""
    import imagecodecs

    size = bits_allocated // 8
    if len(data) < 64:
        raise RadiographError("the DICOM file is truncated")
    count, *offsets = struct.unpack_from("<16I", data)
    ends = [*offsets[1:count], len(data)]
    if count != size or any(
        not 64 <= a < b <= len(data) for a, b in zip(offsets, ends, strict=False)
    ):
        raise RadiographError("the DICOM file is corrupt: its RLE header is wrong")
    planes = np.empty((rows * columns, size), np.uint8)
    for plane, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        decoded = imagecodecs.packbits_decode(data[start:end])
        if len(decoded) < rows * columns:
            raise RadiographError("the DICOM file is truncated")
        planes[:, plane] = np.frombuffer(decoded, np.uint8)[: rows * columns]
    # The most significant byte comes first.
    return planes.view(f">u{size}").reshape(rows, columns)


def decode_jpeg(data: bytes, rows: int, columns: int, bits_allocated: int) -> np.ndarray:
    """JPEG baseline, extended (8, 12 bits) or lossless (2 to 16) -> uint8 or uint16."""
    import imagecodecs

    _check_jpeg(data, rows, columns, frames=(0xC0, 0xC1, 0xC3))
    return _checked(imagecodecs.jpeg8_decode, data, rows, columns)


def decode_jpeg_ls(data: bytes, rows: int, columns: int, bits_allocated: int) -> np.ndarray:
    """JPEG-LS, lossless or near -> uint8 or uint16."""
    import imagecodecs

    _check_jpeg(data, rows, columns, frames=(0xF7,))
    return _checked(imagecodecs.jpegls_decode, data, rows, columns)


def decode_jpeg_2000(data: bytes, rows: int, columns: int, bits_allocated: int) -> np.ndarray:
    """JPEG 2000, reversible or not -> uint8 or uint16 bit patterns."""
    import imagecodecs

    data = _unwrapped(data)
    _check_jpeg_2000(data, rows, columns)
    return _checked(imagecodecs.jpeg2k_decode, data, rows, columns)


def _checked(decoder, data: bytes, rows: int, columns: int) -> np.ndarray:
    try:
        pixels = decoder(data)
    except MemoryError:
        raise
    except Exception as error:  # each codec has an exception of its own
        raise RadiographError("the DICOM file is corrupt: its picture cannot be decoded") from error
    if pixels.shape != (rows, columns) or pixels.dtype.itemsize > 2:
        raise RadiographError("the DICOM file is corrupt: its picture has another size")
    return pixels.view(f"u{pixels.dtype.itemsize}")


def _check_size(width: int, height: int, channels: int, rows: int, columns: int) -> None:
    if (width, height) != (columns, rows):
        raise RadiographError(
            f"the DICOM file contradicts itself: its header says {columns} x {rows} pixels, its "
            f"compressed picture {width} x {height}"
        )
    if channels != 1:
        raise RadiographError("the DICOM file is a colour picture, not a film")


def _check_jpeg(data: bytes, rows: int, columns: int, frames: tuple[int, ...]) -> None:
    """Walk the markers (ITU-T T.81 annex B) up to the first scan."""
    corrupt = RadiographError("the DICOM file is corrupt: its compressed picture has no header")
    if data[:2] != b"\xff\xd8":
        raise corrupt
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise RadiographError("the DICOM file is truncated: its compressed picture has no end")
    if data.count(b"\xff\xda") > _MAX_SCANS:
        raise RadiographError(
            f"the DICOM file's compressed picture has more than {_MAX_SCANS} scans"
        )
    at, seen = 2, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == 0xDA:
            if seen:
                return
            raise corrupt
        if marker in frames and not seen and at + 10 <= len(data):
            height, width, channels = struct.unpack_from(">HHB", data, at + 5)
            _check_size(width, height, channels, rows, columns)
            seen = True
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) or marker == 0xF7:
            raise RadiographError("the DICOM file's picture is compressed in an unexpected way")
        at += 2 + length
    raise corrupt


def _unwrapped(data: bytes) -> bytes:
    """The codestream alone; some writers wrap it in the boxes of a JP2 file."""
    start = data[:4096].find(b"\xff\x4f\xff\x51")
    return data[start:] if start > 0 else data


def _check_jpeg_2000(data: bytes, rows: int, columns: int) -> None:
    """Read SIZ and step through the tile parts (ITU-T T.800 annex A)."""
    if data[:4] != b"\xff\x4f\xff\x51" or len(data) < 42:
        raise RadiographError("the DICOM file is corrupt: its compressed picture has no header")
    x1, y1, x0, y0, tile_width, tile_height, tile_x, tile_y, channels = struct.unpack_from(
        ">8IH", data, 8
    )
    _check_size(x1 - x0, y1 - y0, channels, rows, columns)
