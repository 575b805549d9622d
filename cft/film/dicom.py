"""DICOM bytes -> `cft.radiograph.Radiograph`.

Only the thirty data elements that decide how a film looks are read; names, dates, ids and
descriptions are stepped over and never become objects of this process, let alone messages or logs.
That, a bound on the work that a hostile file can cause, and no global switch are why the elements
are walked here instead of by a general library.

The order is the standard's (PS3.3 C.11 and PS3.4 N.2): stored values -> modality LUT or rescale ->
VOI LUT, or else the first window, or else the full range of the values present -> inversion,
exactly once, for MONOCHROME1 or a Presentation LUT Shape of INVERSE -> [0, 1]. Pixels that
PixelPaddingValue marks as no part of the film are black and have no say in the full range.

All of it is computed in float64 for each of the at most 65,536 possible stored values, and the
film is one look-up in that table.
"""

from __future__ import annotations

import enum
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cft.errors import RadiographError
from cft.film import codestream
from cft.film.radiograph import MAX_BYTES, MAX_PIXELS, Radiograph, View, check_size, smallest_depth

# ------------------------------------------------------------------ what is looked for


class Tag(enum.IntEnum):
    """The data elements that decide how a film looks, by their DICOM keywords."""

    TransferSyntaxUID = 0x00020010
    MediaStorageSOPClassUID = 0x00020002
    SOPClassUID = 0x00080016
    Modality = 0x00080060
    CodeValue = 0x00080100
    ViewPosition = 0x00185101
    SamplesPerPixel = 0x00280002
    PhotometricInterpretation = 0x00280004
    NumberOfFrames = 0x00280008
    Rows = 0x00280010
    Columns = 0x00280011
    BitsAllocated = 0x00280100
    BitsStored = 0x00280101
    HighBit = 0x00280102
    PixelRepresentation = 0x00280103
    PixelPaddingValue = 0x00280120
    PixelPaddingRangeLimit = 0x00280121
    WindowCenter = 0x00281050
    WindowWidth = 0x00281051
    RescaleIntercept = 0x00281052
    RescaleSlope = 0x00281053
    VOILUTFunction = 0x00281056
    ModalityLUTSequence = 0x00283000
    VOILUTSequence = 0x00283010
    LUTDescriptor = 0x00283002
    LUTData = 0x00283006
    ViewCodeSequence = 0x00540220
    PresentationLUTShape = 0x20500020
    FloatPixelData = 0x7FE00008
    DoubleFloatPixelData = 0x7FE00009
    PixelData = 0x7FE00010


_WANTED = frozenset(Tag)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF

# Value representations whose length takes four bytes (PS3.5 7.1.2).
_LONG_VR = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_BLOCK_PIXELS = 2**18
_MAX_ELEMENTS = 100_000
_MAX_NESTING = 32
_MAX_INFLATED = 2 * MAX_PIXELS + MAX_BYTES
_UID = "1.2.840.10008.1.2"
_IMPLICIT, _EXPLICIT, _DEFLATED, _BIG_ENDIAN = _UID, _UID + ".1", _UID + ".1.99", _UID + ".2"

_DECODERS: dict[str, Callable[[bytes, int, int], np.ndarray]] = {
    _UID + ".5": codestream.decode_rle,
    _UID + ".4.50": codestream.decode_jpeg,
    _UID + ".4.51": codestream.decode_jpeg,
    _UID + ".4.57": codestream.decode_jpeg,
    _UID + ".4.70": codestream.decode_jpeg,
    _UID + ".4.80": codestream.decode_jpeg_ls,
    _UID + ".4.81": codestream.decode_jpeg_ls,
    _UID + ".4.90": codestream.decode_jpeg_2000,
    _UID + ".4.91": codestream.decode_jpeg_2000,
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

_OTHER_MODALITIES = {
    "CT": "computed tomography",
    "MR": "magnetic resonance",
    "US": "ultrasound",
    "NM": "nuclear medicine",
    "PT": "positron emission tomography",
    "MG": "mammography",
    "XA": "angiography",
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
        header = _read_header(data)
        _refuse_other_objects(header)
        frame = _Frame.of(header)
        stored = _decode(header, frame)  # (H, W) uint8 or uint16: bit patterns
        table, notes = _grey_table(header, frame, stored)
        if modality := _OTHER_MODALITIES.get(header.text(Tag.Modality)):
            notes.append(f"{modality}, not a radiograph")
        return Radiograph(_look_up(table, stored), _view(header), tuple(notes))
    except RadiographError:
        raise
    except Exception as error:  # the cause may quote the file, so it is not chained
        what = "needs more memory than there is" if isinstance(error, MemoryError) else "is corrupt"
        raise RadiographError(f"the DICOM file {what}") from None


# ------------------------------------------------------------------- data elements


@dataclass(frozen=True)
class _Element:
    vr: bytes | None
    value: memoryview
    undefined_length: bool = False


class _Elements:
    """The wanted data elements of one data set, undecoded."""

    def __init__(self, order: str, explicit: bool, found: dict[int, _Element]):
        self.order = order  # of the bytes, as `struct` writes it
        self.explicit = explicit
        self.found = found

    def __contains__(self, tag: Tag) -> bool:
        return tag in self.found

    def text(self, tag: Tag) -> str:
        """First value of a text, without padding; empty where there is none."""
        if tag not in self.found:
            return ""
        text = bytes(self.found[tag].value[:1024]).decode("ascii", "replace")
        return text.split("\\")[0].strip(" \0")

    def number(self, tag: Tag, default: int | None = None) -> int:
        """First value of an unsigned short."""
        if tag not in self.found or len(self.found[tag].value) < 2:
            if default is None:
                raise RadiographError(f"the DICOM file lacks {tag.name}")
            return default
        return struct.unpack_from(self.order + "H", self.found[tag].value)[0]

    def decimal(self, tag: Tag) -> float | None:
        """First value of a decimal string; None where there is none or it is no finite number."""
        try:
            value = float(self.text(tag))
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def first_item(self, tag: Tag) -> _Elements | None:
        """First item of a sequence."""
        if tag not in self.found:
            return None
        element = self.found[tag]
        walk = _Walk(element.value, self.order)
        # A sequence of unknown VR is in implicit VR, whatever is around it (PS3.5 6.2.2).
        return walk.first_item(self.explicit and element.vr != b"UN")


class _Walk:
    """Steps through the data elements in some bytes, with a bound on the number of steps."""

    def __init__(self, data: memoryview, order: str):
        self.data = data
        self.order = order
        self.steps = 0

    def header(self, at: int, explicit: bool) -> tuple[int, bytes | None, int, int]:
        """Tag, VR, length and place of the value of the element at a place."""
        self.steps += 1
        if self.steps > _MAX_ELEMENTS:
            raise RadiographError(f"the DICOM file has more than {_MAX_ELEMENTS} elements")
        group, number = struct.unpack_from(self.order + "HH", self.data, at)
        tag = group << 16 | number
        vr = bytes(self.data[at + 4 : at + 6])
        # Some writers fall back to implicit VR within an explicit data set.
        if explicit and group != 0xFFFE and vr.isalpha() and vr.isupper():
            if vr in _LONG_VR:
                return tag, vr, self._length(at + 8), at + 12
            return tag, vr, struct.unpack_from(self.order + "H", self.data, at + 6)[0], at + 8
        return tag, None, self._length(at + 4), at + 8

    def elements(self, at: int, explicit: bool) -> Iterator[tuple[int, _Element, int]]:
        """Tag, element and end of each; ends with the data, an item delimiter, or pixel data."""
        while at + 8 <= len(self.data):
            tag, vr, length, start = self.header(at, explicit)
            if tag == _ITEM_END:
                return
            undefined = length == _UNDEFINED
            if undefined:
                end = self.end_of_items(start, explicit and vr != b"UN", 0)
            else:
                end = start + length
            if end > len(self.data):
                raise RadiographError("the DICOM file is truncated")
            yield tag, _Element(vr, self.data[start:end], undefined), end
            if tag == Tag.PixelData:
                return
            at = end

    def end_of_items(self, at: int, explicit: bool, depth: int) -> int:
        """Place behind a sequence, or encapsulated pixel data, of undefined length."""
        if depth > _MAX_NESTING:
            raise RadiographError(f"the DICOM file is nested deeper than {_MAX_NESTING} levels")
        while True:
            if at + 8 > len(self.data):
                raise RadiographError("the DICOM file is truncated")
            tag, _, length, at = self.header(at, explicit)
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise RadiographError("the DICOM file is corrupt")
            at = self._end_of_item(at, explicit, depth) if length == _UNDEFINED else at + length

    def first_item(self, explicit: bool) -> _Elements | None:
        """The data set in the first item of the sequence that the bytes are."""
        if len(self.data) < 8:
            return None
        tag, _, length, start = self.header(0, explicit)
        if tag != _ITEM:
            return None
        data = self.data[start:] if length == _UNDEFINED else self.data[start : start + length]
        walk = _Walk(data, self.order)
        found = {tag: element for tag, element, _ in walk.elements(0, explicit) if tag in _WANTED}
        return _Elements(self.order, explicit, found)

    def _end_of_item(self, at: int, explicit: bool, depth: int) -> int:
        while True:
            if at + 8 > len(self.data):
                raise RadiographError("the DICOM file is truncated")
            tag, vr, length, at = self.header(at, explicit)
            if tag == _ITEM_END:
                return at
            if length == _UNDEFINED:
                at = self.end_of_items(at, explicit and vr != b"UN", depth + 1)
            else:
                at += length

    def _length(self, at: int) -> int:
        return struct.unpack_from(self.order + "I", self.data, at)[0]


def _read_header(data: bytes) -> _Elements:
    """The wanted elements of a file, those about the file (group 2) among them."""
    view = memoryview(data)
    at = 132 if data[128:132] == b"DICM" else 0
    found: dict[int, _Element] = {}
    walk = _Walk(view, "<")
    while view[at : at + 2] == b"\x02\x00":  # not by the group's stated length, often wrong
        tag, element, at = next(walk.elements(at, explicit=True))
        if tag in _WANTED:
            found[tag] = element
    syntax = _Elements("<", True, found).text(Tag.TransferSyntaxUID)
    if syntax == _DEFLATED:
        view, at = memoryview(_inflate(view[at:])), 0
    order = ">" if syntax == _BIG_ENDIAN or (not syntax and view[at : at + 1] == b"\0") else "<"
    # What the file says of its VRs is less reliable than the first element itself.
    first_vr = bytes(view[at + 4 : at + 6])
    explicit = first_vr.isalpha() and first_vr.isupper()
    for tag, element, _ in _Walk(view, order).elements(at, explicit):
        if tag in _WANTED:
            found[tag] = element
    return _Elements(order, explicit, found)


def _inflate(data: memoryview) -> bytes:
    """Undo PS3.5 A.5, without the possibility of a bomb."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, _MAX_INFLATED)
    except zlib.error:
        raise RadiographError("the DICOM file is corrupt") from None
    if inflater.unconsumed_tail:
        raise RadiographError("the DICOM file inflates to more than any film needs")
    if not inflater.eof:
        raise RadiographError("the DICOM file is truncated")
    return inflated


# --------------------------------------------------------------------- the frame


def _refuse_other_objects(header: _Elements) -> None:
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
    def of(cls, header: _Elements) -> _Frame:
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


def _decode(header: _Elements, frame: _Frame) -> np.ndarray:
    """Pixel data -> (H, W) uint8 or uint16 bit patterns."""
    element = header.found[Tag.PixelData]
    syntax = header.text(Tag.TransferSyntaxUID)
    if syntax in ("", _IMPLICIT, _EXPLICIT, _DEFLATED, _BIG_ENDIAN):
        return _decode_native(element, header.order, frame)
    if syntax not in _DECODERS:
        known = syntax.startswith(_UID + ".") and syntax.replace(".", "").isdigit()
        name = f" ({syntax})" if known and len(syntax) < 30 else ""
        raise RadiographError(f"the DICOM file is compressed in a way that is not supported{name}")
    if not element.undefined_length:
        raise RadiographError("the DICOM file is corrupt: its compressed picture is not in parts")
    stored = _DECODERS[syntax](_join_fragments(element.value), frame.rows, frame.columns)
    return stored if stored.dtype.itemsize * 8 <= frame.bits_allocated else _narrow(stored)


def _narrow(stored: np.ndarray) -> np.ndarray:
    if stored.max() > 255:
        raise RadiographError("the DICOM file contradicts itself about its bits a pixel")
    return stored.astype(np.uint8)


def _decode_native(element: _Element, order: str, frame: _Frame) -> np.ndarray:
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


def _join_fragments(value: memoryview) -> bytes:
    """The compressed frame: all fragments after the basic offset table (PS3.5 A.4)."""
    walk, at, fragments = _Walk(value, "<"), 0, []
    while at + 8 <= len(value):
        tag, _, length, start = walk.header(at, explicit=False)
        if tag != _ITEM:
            break
        fragments.append(value[start : start + length])
        at = start + length
    return b"".join(fragments[1:])


# --------------------------------------------------------------- stored value -> grey


def _grey_table(
    header: _Elements, frame: _Frame, stored: np.ndarray
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


def _padding(header: _Elements, frame: _Frame, values: np.ndarray) -> np.ndarray | None:
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


def _modality(header: _Elements, frame: _Frame, values: np.ndarray) -> np.ndarray:
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
    header: _Elements, frame: _Frame, output: np.ndarray, notes: list[str]
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
    def of(cls, item: _Elements, signed: bool) -> _Lut:
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


def _view(header: _Elements) -> View | None:
    """The view, where the file states it by a defined term or a code."""
    if view := _VIEW_POSITIONS.get(header.text(Tag.ViewPosition).upper()):
        return view
    item = header.first_item(Tag.ViewCodeSequence)
    return _VIEW_CODES.get(item.text(Tag.CodeValue)) if item else None
