"""DICOM bytes -> `Radiograph`: the frame and its greys; `cft.film.elements` finds what they need.

The order is the standard's (PS3.3 C.11 and PS3.4 N.2): stored values -> modality LUT or rescale ->
VOI LUT, or else the first window, or else the full range of the values present -> inversion,
exactly once, for MONOCHROME1 or a Presentation LUT Shape of INVERSE -> [0, 1]. Pixels that
PixelPaddingValue marks as no part of the film are black and have no say in the full range.

All of it is computed in float64 for each of the at most 65,536 possible stored values, and the
film is one look-up in that table.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cft.errors import RadiographError
from cft.film import codestream
from cft.film.budget import DECODING
from cft.film.elements import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    Element,
    Elements,
    Tag,
    join_fragments,
    read_header,
)
from cft.film.gate import OTHER_MODALITIES, Gate, of_dicom
from cft.film.grey import smallest_depth
from cft.film.radiograph import Radiograph, View, check_size

_BLOCK_PIXELS = 2**18

_DECODERS: dict[str, Callable[[bytes, int, int], np.ndarray]] = {
    IMPLICIT + ".5": codestream.decode_rle,
    IMPLICIT + ".4.50": codestream.decode_jpeg,
    IMPLICIT + ".4.51": codestream.decode_jpeg,
    IMPLICIT + ".4.57": codestream.decode_jpeg,
    IMPLICIT + ".4.70": codestream.decode_jpeg,
    IMPLICIT + ".4.80": codestream.decode_jpeg_ls,
    IMPLICIT + ".4.81": codestream.decode_jpeg_ls,
    IMPLICIT + ".4.90": codestream.decode_jpeg_2000,
    IMPLICIT + ".4.91": codestream.decode_jpeg_2000,
}

# SOP classes (PS3.4 B.5) that hold no film, by the start of their UID.
_NOT_A_FILM = {
    "1.2.840.10008.1.3.10": "a DICOMDIR, an index of other files",
    "1.2.840.10008.5.1.4.1.1.88.": "a structured report",
    "1.2.840.10008.5.1.4.1.1.104.1": "an encapsulated PDF document",
    "1.2.840.10008.5.1.4.1.1.104.": "an encapsulated document",
    "1.2.840.10008.5.1.4.1.1.9.": "a recording of a waveform",
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.481.": "an object of radiotherapy",
}

_VIEW_POSITIONS: dict[str, View] = {
    "PA": "PA",
    "AP": "AP",
    "LL": "lateral",
    "RL": "lateral",
    "LATERAL": "lateral",
    "LAT": "lateral",
}

# PS3.16 CID 4010 in SNOMED CT and in its older SNOMED RT codes.
_VIEW_CODES: dict[str, View] = {
    "272479007": "PA",
    "R-40888": "PA",
    "399348003": "AP",
    "R-10206": "AP",
    "399067008": "lateral",
    "R-102CD": "lateral",
    "399173006": "lateral",
    "R-10236": "lateral",
    "399198007": "lateral",
    "R-10232": "lateral",
}


def read_dicom(data: bytes) -> Radiograph:
    """Read one monochrome film.

    Parameters
    ----------
    data
        The whole file, with or without the preamble of 128 bytes.

    Returns
    -------
    Radiograph

    Raises
    ------
    RadiographError
        If the file holds no film, more than one, or one that cannot be decoded. Nothing of the
        file's content is in the message.
    """
    try:
        header = read_header(data)
        _refuse_other_objects(header)
        frame = _Frame.of(header)
        with DECODING.of(frame.rows * frame.columns):
            stored = _decode(header, frame)  # (H, W) uint8 or uint16: bit patterns
            table, notes = _grey_table(header, frame, stored)
            pixels = _look_up(table, stored)
        if modality := OTHER_MODALITIES.get(header.text(Tag.Modality)):
            notes.append(f"{modality}, not a radiograph")
        return Radiograph(
            pixels, _view(header), tuple(notes), _gate(header), spacing=_spacing(header)
        )
    except RadiographError:
        raise
    except Exception as error:  # the cause may quote the file, so it is not chained
        what = "needs more memory than there is" if isinstance(error, MemoryError) else "is corrupt"
        raise RadiographError(f"the DICOM file {what}") from None


# --------------------------------------------------------------------- the frame


def _refuse_other_objects(header: Elements) -> None:
    sop_class = header.text(Tag.SOPClassUID) or header.text(Tag.MediaStorageSOPClassUID)
    for prefix, name in _NOT_A_FILM.items():
        if sop_class.startswith(prefix):
            raise RadiographError(f"the DICOM file is {name}, not a film")
    if Tag.FloatPixelData in header or Tag.DoubleFloatPixelData in header:
        raise RadiographError("the DICOM file holds a map of measured values, not a film")
    if Tag.PixelData not in header:
        raise RadiographError("the DICOM file holds no picture")
    if frames := header.text(Tag.NumberOfFrames):
        if not frames.isascii() or not frames.isdigit():
            raise RadiographError("the DICOM file is corrupt")
        if int(frames) > 1:
            raise RadiographError("the DICOM file has several frames; a film is a single picture")


@dataclass(frozen=True)
class _Frame:
    """How the film's pixels are stored."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    monochrome1: bool

    @classmethod
    def of(cls, header: Elements) -> _Frame:
        rows, columns = header.number(Tag.Rows), header.number(Tag.Columns)
        check_size(rows, columns)
        photometric = header.text(Tag.PhotometricInterpretation)
        if header.number(Tag.SamplesPerPixel, 1) != 1 or photometric.startswith(
            ("RGB", "YBR", "PALETTE")
        ):
            raise RadiographError("the DICOM file is a colour picture, not a film")
        if photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise RadiographError("the DICOM file does not say whether its zero is black or white")
        allocated = header.number(Tag.BitsAllocated)
        if allocated not in (8, 16):
            raise RadiographError(f"the DICOM file has {allocated} bits a pixel instead of 8 or 16")
        stored = header.number(Tag.BitsStored, allocated)
        if not 1 <= stored <= allocated or header.number(Tag.HighBit, stored - 1) != stored - 1:
            raise RadiographError("the DICOM file contradicts itself about its bits a pixel")
        signed = header.number(Tag.PixelRepresentation, 0) == 1
        return cls(rows, columns, allocated, stored, signed, photometric == "MONOCHROME1")

    def values(self) -> np.ndarray:
        """Value of every bit pattern that a pixel can have: (2 ** bits_allocated,) float64."""
        patterns = np.arange(2**self.bits_allocated, dtype=np.int64)
        return self._value(patterns).astype(np.float64)

    def value(self, pattern: int) -> int:
        """Value of one bit pattern."""
        return int(self._value(np.int64(pattern)))

    def _value(self, patterns: np.ndarray) -> np.ndarray:
        values = patterns & (2**self.bits_stored - 1)  # old files keep overlays in the other bits
        if self.signed:
            values = values - ((values >> (self.bits_stored - 1)) << self.bits_stored)
        return values


def _decode(header: Elements, frame: _Frame) -> np.ndarray:
    """Pixel data -> (H, W) uint8 or uint16 bit patterns."""
    element = header.found[Tag.PixelData]
    syntax = header.text(Tag.TransferSyntaxUID)
    if syntax in ("", IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN):
        return _decode_native(element, header.order, frame)
    if syntax not in _DECODERS:
        known = syntax.startswith(IMPLICIT + ".") and syntax.replace(".", "").isdigit()
        name = f" ({syntax})" if known and len(syntax) < 30 else ""
        raise RadiographError(f"the DICOM file is compressed in a way that is not supported{name}")
    if not element.undefined_length:
        raise RadiographError("the DICOM file is corrupt: its compressed picture is not in parts")
    stored = _DECODERS[syntax](join_fragments(element.value), frame.rows, frame.columns)
    return stored if stored.dtype.itemsize * 8 <= frame.bits_allocated else _narrow(stored)


def _narrow(stored: np.ndarray) -> np.ndarray:
    if stored.max() > 255:
        raise RadiographError("the DICOM file contradicts itself about its bits a pixel")
    return stored.astype(np.uint8)


def _decode_native(element: Element, order: str, frame: _Frame) -> np.ndarray:
    size = frame.bits_allocated // 8
    needed = frame.rows * frame.columns * size
    if element.undefined_length:
        raise RadiographError(
            "the DICOM file contradicts itself: its picture is in fragments, but its transfer "
            "syntax is not a compressed one"
        )
    if len(element.value) < needed:
        raise RadiographError("the DICOM file is truncated: it holds fewer pixels than it says")
    if size == 1 and order == ">" and element.vr == b"OW":  # bytes come swapped, in pairs
        pairs = np.frombuffer(element.value[: needed + needed % 2], ">u2")
        return pairs.astype("<u2").view(np.uint8)[:needed].reshape(frame.rows, frame.columns)
    kind = np.dtype(np.uint8) if size == 1 else np.dtype(order + "u2")
    return np.frombuffer(element.value[:needed], kind).reshape(frame.rows, frame.columns)


# --------------------------------------------------------------- stored value -> grey


def _grey_table(
    header: Elements, frame: _Frame, stored: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Grey of every bit pattern: (2 ** bits_allocated,) float32 in [0, 1]; and notes."""
    notes: list[str] = []
    values = frame.values()
    padding = _padding(header, frame, values)
    output = _modality(header, frame, values)
    grey = _voi(header, frame, output, notes)
    if grey is None:
        grey = _full_range(output, stored, padding)
    shape = header.text(Tag.PresentationLUTShape)
    if frame.monochrome1 or shape == "INVERSE":
        grey = 1 - grey
        cause = "MONOCHROME1" if frame.monochrome1 else "by its Presentation LUT Shape"
        notes.append(f"inverted {cause}")
    if padding is not None:
        grey = np.where(padding, 0.0, grey)
    return grey.astype(np.float32), notes


def _padding(header: Elements, frame: _Frame, values: np.ndarray) -> np.ndarray | None:
    """Which values are no part of the film (PS3.3 C.7.5.1.1.2), or None."""
    if Tag.PixelPaddingValue not in header:
        return None
    first = frame.value(header.number(Tag.PixelPaddingValue))
    last = (
        frame.value(header.number(Tag.PixelPaddingRangeLimit))
        if Tag.PixelPaddingRangeLimit in header
        else first
    )
    return (values >= min(first, last)) & (values <= max(first, last))


def _modality(header: Elements, frame: _Frame, values: np.ndarray) -> np.ndarray:
    """Modality LUT or rescale (PS3.3 C.11.1)."""
    if item := header.first_item(Tag.ModalityLUTSequence):
        lut = _Lut.of(item, frame.signed)
        return lut.apply(values)
    slope, intercept = header.decimal(Tag.RescaleSlope), header.decimal(Tag.RescaleIntercept)
    if slope is None or intercept is None:
        return values
    if not 1e-20 < abs(slope) < 1e20 or abs(intercept) > 1e20:
        raise RadiographError("the DICOM file is corrupt: its rescale makes no picture")
    return values * slope + intercept


def _voi(
    header: Elements, frame: _Frame, output: np.ndarray, notes: list[str]
) -> np.ndarray | None:
    """VOI LUT or first window (PS3.3 C.11.2) -> [0, 1]; None where the file has neither."""
    if item := header.first_item(Tag.VOILUTSequence):
        lut = _Lut.of(item, frame.signed)
        return lut.apply(output) / (2 ** smallest_depth(int(lut.data.max())) - 1)
    center, width = header.decimal(Tag.WindowCenter), header.decimal(Tag.WindowWidth)
    if center is None or width is None:
        return None
    function = header.text(Tag.VOILUTFunction).upper() or "LINEAR"
    least = {"LINEAR": 1, "LINEAR_EXACT": 0, "SIGMOID": 0}.get(function, math.inf)
    if width < least or width == 0:
        notes.append("unusable window: full range shown")
        return None
    with np.errstate(over="ignore"):  # a very narrow window: infinity is clipped
        if function == "SIGMOID":
            return 0.5 + 0.5 * np.tanh(2 * (output - center) / width)  # = 1 / (1 + exp(-4 x))
        if function == "LINEAR":
            center, width = center - 0.5, width - 1
        if width == 0:
            return (output > center).astype(np.float64)
        return np.clip((output - center) / width + 0.5, 0, 1)


def _full_range(output: np.ndarray, stored: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
    """The smallest value present is black, the largest white; all equal: black."""
    present = np.zeros(len(output), bool)
    for block in _blocks(stored):
        present[block] = True
    if padding is not None:
        present &= ~padding
    if not present.any():
        return np.zeros_like(output)
    low, high = output[present].min(), output[present].max()
    return np.clip((output - low) / (high - low or 1), 0, 1)


def _look_up(table: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """`table[stored]`, in blocks."""
    grey = np.empty(stored.shape, table.dtype)
    for into, block in zip(_blocks(grey), _blocks(stored), strict=True):
        np.take(table, block, out=into, mode="clip")  # any other mode would buffer `out`
    return grey


def _blocks(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of rows: indices become 8 bytes each, too much memory for a large film at once."""
    step = max(1, _BLOCK_PIXELS // pixels.shape[1])
    return (pixels[top : top + step] for top in range(0, pixels.shape[0], step))


@dataclass(frozen=True)
class _Lut:
    """A look-up table of the modality or VOI LUT sequence (PS3.3 C.11.1.1)."""

    first: int  # the input that the first entry belongs to
    data: np.ndarray

    @classmethod
    def of(cls, item: Elements, signed: bool) -> _Lut:
        descriptor, data = item.found.get(Tag.LUTDescriptor), item.found.get(Tag.LUTData)
        if descriptor is None or data is None or len(descriptor.value) < 6:
            raise RadiographError("the DICOM file has an incomplete look-up table")
        count, first, _ = struct.unpack_from(item.order + "HHH", descriptor.value)
        if descriptor.vr == b"SS" or (descriptor.vr != b"US" and signed):
            first -= (first >> 15) << 16
        count = count or 2**16
        if len(data.value) >= 2 * count:
            entries = np.frombuffer(data.value[: 2 * count], item.order + "u2")
        elif len(data.value) >= count:
            entries = np.frombuffer(data.value[:count], np.uint8)
        else:
            raise RadiographError("the DICOM file has an incomplete look-up table")
        return cls(first, entries.astype(np.float64))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Inputs before the first entry get the first, those after the last the last."""
        index = np.clip(np.trunc(values - self.first), 0, len(self.data) - 1)
        return self.data[index.astype(np.int64)]


def _view(header: Elements) -> View | None:
    """The view, where the file states it by a defined term or a code."""
    if view := _VIEW_POSITIONS.get(header.text(Tag.ViewPosition).upper()):
        return view
    item = header.first_item(Tag.ViewCodeSequence)
    return _VIEW_CODES.get(item.text(Tag.CodeValue)) if item else None


# Between a tenth of a micrometre and a decimetre; what lies outside is a mistake.
_LEAST_SPACING, _MOST_SPACING = 1e-4, 100.0


def _spacing(header: Elements) -> tuple[float, float] | None:
    """Millimetres between rows and between columns (PS3.3 10.7.1.3), calibrated where it can be."""
    for tag in (Tag.PixelSpacing, Tag.ImagerPixelSpacing):
        try:
            down, across = (float(value) for value in header.texts(tag))
        except ValueError:  # there are none, or they are no two numbers
            continue
        if all(_LEAST_SPACING <= value <= _MOST_SPACING for value in (down, across)):
            return down, across
    return None


def _gate(header: Elements) -> Gate:
    """What the file says of what it shows."""
    return of_dicom(
        modality=header.text(Tag.Modality),
        body_part=header.text(Tag.BodyPartExamined),
        view_position=header.text(Tag.ViewPosition),
        age=header.text(Tag.PatientAge),
        image_type=header.texts(Tag.ImageType),
    )
