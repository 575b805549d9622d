"""Films of every format, drawn by code: what the tests of the reader read.

Each maker returns the bytes of a file. PNG and TIFF are written here, byte by byte, so that depths
and colour types that Pillow cannot write are there, too; DICOM is written by pydicom; codestreams
come from imagecodecs, RLE from pydicom.
"""

from __future__ import annotations

import copy
import functools
import io
import struct
import zlib
from dataclasses import dataclass

import imagecodecs
import numpy as np
import pydicom
from PIL import ExifTags, Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    JPEG2000,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

#: Stands in every film that can hold a text; nothing of it may come out of the reader.
SECRET = "DOE^JANE"


def phantom(depth: int = 12, height: int = 72, width: int = 56) -> np.ndarray:
    """(height, width) uint16 with smooth parts, noise, and both ends of the depth's range."""
    y, x = np.mgrid[0 : 1 : 1j * height, 0 : 1 : 1j * width]
    lungs = np.exp(-(((np.abs(x - 0.5) - 0.22) / 0.13) ** 2) - ((y - 0.5) / 0.3) ** 2)
    noise = np.random.default_rng(7).normal(0, 0.01, lungs.shape)
    grey = np.clip(0.85 - 0.75 * lungs + noise, 0, 1)
    grey[0, 0], grey[0, 1] = 0, 1
    return np.round(grey * (2**depth - 1)).astype(np.uint16)


# ------------------------------------------------------------------------------- PNG


def png(
    pixels: np.ndarray,
    depth: int = 8,
    palette: np.ndarray | None = None,
    chunks: tuple[tuple[bytes, bytes], ...] = (),
    interlaced: bool = False,
) -> bytes:
    """PNG of (H, W[, C]) of any depth; with a (n, 3) palette, the pixels are its indices."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    colour_type = 3 if palette is not None else {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    height, width = pixels.shape[:2]
    passes = [pixels[y::down, x::right] for x, y, right, down in _ADAM7] if interlaced else [pixels]
    raw = b"".join(_png_rows(part, depth) for part in passes)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    body = [(b"IHDR", header), *chunks, (b"tEXt", b"Comment\0" + SECRET.encode())]
    if palette is not None:
        body.append((b"PLTE", palette.astype(np.uint8).tobytes()))
    body += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(png_chunk, *zip(*body, strict=True)))


# First column and row, and steps between columns and rows, of each pass.
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def _png_rows(pixels: np.ndarray, depth: int) -> bytes:
    """The rows of a picture or pass, each with filter 0."""
    height = len(pixels)
    if depth == 16:
        rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        bits = np.unpackbits(pixels.astype(np.uint8).reshape(height, -1, 1), axis=2)[..., -depth:]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    return np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# ------------------------------------------------------------------------------ TIFF


def tiff(
    pixels: np.ndarray,
    order: str = "<",
    photometric: int = 1,
    further_pages: int = 0,
    tile: int | None = None,
) -> bytes:
    """Uncompressed TIFF of (H, W[, 3]); 0 is WhiteIsZero, 1 BlackIsZero, 2 RGB.

    With `tile`, it claims to consist of square tiles of that size.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind = pixels.dtype.newbyteorder(order)
    data = pixels.astype(kind).tobytes()
    sample_format = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    mark, first = (b"II", 8) if order == "<" else (b"MM", 8)
    tiling = [] if tile is None else [(322, 4, 1, tile), (323, 4, 1, tile)]
    directory_size = 2 + (10 + len(tiling)) * 12 + 4
    extra_at = first + (1 + further_pages) * directory_size
    bits = struct.pack(order + "3H", *[kind.itemsize * 8] * 3)
    data_at = extra_at + len(bits) + 10
    bits_value = kind.itemsize * 8 if channels == 1 else extra_at
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits_value),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (270, 2, 10, extra_at + len(bits)),
        (273, 4, 1, data_at),
        (277, 3, 1, channels),
        (279, 4, 1, len(data)),
        *tiling,
        (339, 3, 1, sample_format),
    ]
    directories = b""
    for page in range(1 + further_pages):
        directories += struct.pack(order + "H", len(tags))
        for tag, kind_of_value, count, value in tags:
            short = kind_of_value == 3 and count == 1
            packed = (
                struct.pack(order + "HH", value, 0) if short else struct.pack(order + "I", value)
            )
            directories += struct.pack(order + "HHI", tag, kind_of_value, count) + packed
        following = first + (page + 1) * directory_size if page < further_pages else 0
        directories += struct.pack(order + "I", following)
    header = mark + struct.pack(order + "HI", 42, first)
    return header + directories + bits + f"{SECRET}\0\0".encode() + data


# --------------------------------------------------------------- formats by Pillow


def by_pillow(pixels: np.ndarray, format: str, mode: str | None = None, **options) -> bytes:
    """A file that Pillow writes of (H, W[, C]) uint8."""
    image = Image.fromarray(pixels)
    if mode is not None:
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block that says how the picture is to be turned."""
    block = Image.Exif()
    block[ExifTags.Base.Orientation] = orientation
    block[ExifTags.Base.ImageDescription] = SECRET
    return block.tobytes()


def animation(format: str, frames: int = 2) -> bytes:
    """An animated GIF, PNG or WebP."""
    pictures = [Image.fromarray(np.full((64, 64), 60 * i, np.uint8)) for i in range(frames)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, format, save_all=True, append_images=pictures[1:], duration=100)
    return buffer.getvalue()


# ----------------------------------------------------------------------------- DICOM


def dataset(pixels: np.ndarray, stored: int = 12, **elements) -> Dataset:
    """A monochrome film of (H, W) uint8, uint16 or int16, with elements set by keyword."""
    film = Dataset()
    film.SOPClassUID = ComputedRadiographyImageStorage
    film.SOPInstanceUID = "1.2.3.4"
    film.Modality = "CR"
    film.PatientName = SECRET
    film.PatientID = SECRET
    film.SeriesDescription = SECRET
    film.SamplesPerPixel = 1
    film.PhotometricInterpretation = "MONOCHROME2"
    film.Rows, film.Columns = pixels.shape
    film.BitsAllocated = pixels.dtype.itemsize * 8
    film.BitsStored = stored
    film.HighBit = stored - 1
    film.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in elements.items():
        if value is None:
            delattr(film, keyword)
        else:
            setattr(film, keyword, value)
    if film.PixelRepresentation:  # the bits beyond those stored are not part of the value
        pixels = pixels.view(f"u{pixels.dtype.itemsize}") & np.array(2**stored - 1, np.uint16)
        pixels = pixels.astype(f"u{film.BitsAllocated // 8}")
    film.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    film["PixelData"].VR = "OW"
    return film


def lut(first: int, bits: int, entries: np.ndarray) -> Dataset:
    """An item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return item


def dicom(
    film: Dataset, syntax: str = ExplicitVRLittleEndian, preamble: bool = True, meta: bool = True
) -> bytes:
    """The bytes of a film in an uncompressed transfer syntax."""
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    if not little and film.get("PixelData") and film.BitsAllocated == 16:
        film = copy.deepcopy(film)
        film.PixelData = np.frombuffer(film.PixelData, "<u2").astype(">u2").tobytes()
        film["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    if not meta:
        stream = pydicom.filebase.DicomFileLike(buffer)
        stream.is_implicit_VR, stream.is_little_endian = implicit, little
        write_dataset(stream, film)
        return buffer.getvalue()
    film = copy.deepcopy(film)
    film.file_meta = _file_meta(film, syntax)
    pydicom.dcmwrite(
        buffer,
        film,
        enforce_file_format=True,
    )
    return buffer.getvalue() if preamble else buffer.getvalue()[132:]


def compressed(film: Dataset, syntax: str, codestream: bytes, fragments: int = 1) -> bytes:
    """The bytes of a film whose pixel data is a codestream."""
    film = copy.deepcopy(film)
    film.PixelData = encapsulate([codestream], fragments_per_frame=fragments)
    film["PixelData"].VR = "OB"
    film["PixelData"].is_undefined_length = True
    film.file_meta = _file_meta(film, syntax)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, film, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def rle(film: Dataset) -> bytes:
    """The bytes of a film compressed by pydicom's run-length encoder."""
    film = copy.deepcopy(film)
    film.file_meta = _file_meta(film, ExplicitVRLittleEndian)
    film.set_original_encoding(False, True)
    film.compress(RLELossless, encoding_plugin="pydicom")
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, film, enforce_file_format=True)
    return buffer.getvalue()


def _file_meta(film: Dataset, syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = film.SOPClassUID
    meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    return meta


# ------------------------------------------------------------------------ everything


@dataclass(frozen=True)
class Film:
    """A file and what must be read from it."""

    data: bytes
    grey: np.ndarray  # (H, W) in [0, 1]
    tolerance: float = 1e-6


@functools.cache
def every_film() -> dict[str, Film]:
    """One film of each format, depth, colour type and transfer syntax that can be read."""
    return {**_pictures(), **_dicoms()}


def _pictures() -> dict[str, Film]:
    p8, p12, p16 = (phantom(depth) for depth in (8, 12, 16))
    grey8, u8 = p8 / 255, p8.astype(np.uint8)
    opaque8 = np.full_like(u8, 255)
    rgb8 = np.stack([u8] * 3, axis=-1)
    ramp = np.linspace(0, 255, 256).round()[:, None].repeat(3, axis=1)
    unit = (p12 / 4095).astype(np.float32)
    films = {
        f"PNG grey {depth}": Film(png(phantom(depth), depth), phantom(depth) / (2**depth - 1))
        for depth in (1, 2, 4, 8, 16)
    }
    films |= {
        "PNG grey 12 in 16": Film(png(p12, 16), p12 / 4095),
        "PNG grey+alpha 8": Film(png(np.dstack([u8, opaque8])), grey8),
        "PNG grey+alpha 16": Film(png(np.dstack([p16, np.full_like(p16, 65535)]), 16), p16 / 65535),
        "PNG palette": Film(png(u8, palette=ramp), grey8),
        "PNG RGB 8": Film(png(rgb8), grey8),
        "PNG RGBA 8": Film(png(np.dstack([rgb8, opaque8])), grey8),
        "PNG RGB 16": Film(png(np.dstack([p16] * 3), 16), p16 / 65535),
        "PNG RGBA 16, 12 bits": Film(
            png(np.dstack([p12] * 3 + [np.full_like(p12, 65535)]), 16), p12 / 4095
        ),
        "JPEG grey": Film(by_pillow(u8, "JPEG", quality=98), grey8, 0.03),
        "JPEG progressive": Film(by_pillow(u8, "JPEG", quality=98, progressive=True), grey8, 0.03),
        "JPEG RGB": Film(by_pillow(rgb8, "JPEG", quality=98), grey8, 0.03),
        "JPEG CMYK": Film(by_pillow(rgb8, "JPEG", "CMYK", quality=98), grey8, 0.03),
        "JPEG turned": Film(by_pillow(np.rot90(u8), "JPEG", quality=98, exif=exif(6)), grey8, 0.03),
        "TIFF 8": Film(tiff(u8), grey8),
        "TIFF 16": Film(tiff(p16), p16 / 65535),
        "TIFF 12 in 16": Film(tiff(p12), p12 / 4095),
        "TIFF 16 big endian": Film(tiff(p16, ">"), p16 / 65535),
        "TIFF 8 WhiteIsZero": Film(tiff(255 - u8, photometric=0), grey8),
        "TIFF 16 WhiteIsZero": Film(tiff(65535 - p16, photometric=0), p16 / 65535),
        "TIFF float": Film(tiff(unit), unit),
        "TIFF float big endian": Film(tiff(unit, ">"), unit),
        "TIFF signed 16": Film(tiff((p16.astype(np.int32) - 32768).astype(np.int16)), p16 / 65535),
        "TIFF RGB": Film(tiff(rgb8, photometric=2), grey8),
        "TIFF LZW": Film(by_pillow(u8, "TIFF", compression="tiff_lzw"), grey8),
        "TIFF deflate": Film(by_pillow(u8, "TIFF", compression="tiff_adobe_deflate"), grey8),
        "BMP grey": Film(by_pillow(u8, "BMP"), grey8),
        "BMP RGB": Film(by_pillow(rgb8, "BMP"), grey8),
        "WebP lossless": Film(by_pillow(rgb8, "WEBP", lossless=True), grey8),
        "WebP lossy": Film(by_pillow(rgb8, "WEBP", quality=98), grey8, 0.04),
    }
    return films


def _dicoms() -> dict[str, Film]:
    p8, p12, p16 = (phantom(depth) for depth in (8, 12, 16))
    u8, grey8, grey12, grey16 = p8.astype(np.uint8), p8 / 255, p12 / 4095, p16 / 65535
    signed = (p12.astype(np.int32) - 2048).astype(np.int16)
    deep, flat, full = dataset(p12), dataset(u8, 8), dataset(p16, 16)

    def jpeg(pixels: np.ndarray, **options) -> bytes:
        return imagecodecs.jpeg8_encode(pixels, **options)

    return {
        "DICOM implicit": Film(dicom(deep, ImplicitVRLittleEndian), grey12),
        "DICOM explicit": Film(dicom(deep), grey12),
        "DICOM big endian": Film(dicom(deep, ExplicitVRBigEndian), grey12),
        "DICOM deflated": Film(dicom(deep, DeflatedExplicitVRLittleEndian), grey12),
        "DICOM without preamble": Film(dicom(deep, preamble=False), grey12),
        "DICOM bare explicit": Film(dicom(deep, meta=False), grey12),
        "DICOM bare implicit": Film(dicom(deep, ImplicitVRLittleEndian, meta=False), grey12),
        "DICOM bare big endian": Film(dicom(deep, ExplicitVRBigEndian, meta=False), grey12),
        "DICOM 8": Film(dicom(flat), grey8),
        "DICOM 16": Film(dicom(full), grey16),
        "DICOM signed": Film(dicom(dataset(signed)), grey12),
        "DICOM window": Film(dicom(dataset(p12, WindowCenter="2048", WindowWidth="4096")), grey12),
        "DICOM VOI LUT": Film(
            dicom(dataset(p12, VOILUTSequence=[lut(0, 12, np.arange(4096))])), grey12
        ),
        "DICOM modality LUT": Film(
            dicom(dataset(p12, ModalityLUTSequence=[lut(0, 16, np.arange(4096) * 16)])), grey12
        ),
        "DICOM MONOCHROME1": Film(
            dicom(dataset(4095 - p12, PhotometricInterpretation="MONOCHROME1")), grey12
        ),
        "DICOM RLE": Film(rle(deep), grey12),
        "DICOM RLE 8": Film(rle(flat), grey8),
        "DICOM JPEG baseline": Film(
            compressed(flat, JPEGBaseline8Bit, jpeg(u8, level=98)), grey8, 0.03
        ),
        "DICOM JPEG extended 12": Film(
            compressed(deep, JPEGExtended12Bit, jpeg(p12, level=98, bitspersample=12)), grey12, 0.03
        ),
        "DICOM JPEG lossless": Film(
            compressed(deep, JPEGLossless, jpeg(p12, lossless=True, bitspersample=12, predictor=6)),
            grey12,
        ),
        "DICOM JPEG lossless SV1": Film(
            compressed(full, JPEGLosslessSV1, jpeg(p16, lossless=True, bitspersample=16)), grey16
        ),
        "DICOM JPEG lossless SV1 signed": Film(
            compressed(
                dataset(signed),
                JPEGLosslessSV1,
                jpeg(signed.view(np.uint16) & 0xFFF, lossless=True, bitspersample=12),
            ),
            grey12,
        ),
        "DICOM JPEG lossless 8": Film(
            compressed(flat, JPEGLosslessSV1, jpeg(u8, lossless=True), fragments=3), grey8
        ),
        "DICOM JPEG-LS": Film(
            compressed(deep, JPEGLSLossless, imagecodecs.jpegls_encode(p12)), grey12
        ),
        "DICOM JPEG-LS near": Film(
            compressed(flat, JPEGLSNearLossless, imagecodecs.jpegls_encode(u8, level=2)),
            grey8,
            0.02,
        ),
        "DICOM JPEG 2000": Film(
            compressed(deep, JPEG2000Lossless, j2k(p12, reversible=True, bitspersample=12)), grey12
        ),
        "DICOM JPEG 2000 lossy": Film(
            compressed(deep, JPEG2000, j2k(p12, level=70, bitspersample=12)), grey12, 0.02
        ),
        "DICOM JPEG 2000 signed": Film(
            compressed(dataset(signed, 16), JPEG2000Lossless, j2k(signed, reversible=True)), grey12
        ),
    }


def j2k(pixels: np.ndarray, **options) -> bytes:
    """A bare JPEG 2000 codestream."""
    return imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", **options)
