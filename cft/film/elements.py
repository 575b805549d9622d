"""The data elements of a DICOM file that decide how a film looks and what it shows, undecoded.

Only those of `Tag` are read; names, dates, ids and descriptions are stepped over and never become
objects of this process, let alone messages or logs. The patient's age is compared with that of an
adult and not kept. The UID of the study is read for `cft.film.study` alone, which hashes it.

Why not by pydicom: its `dcmread`, with `force` and `specific_tags`, leads to the same pixels (or to
none where garbage follows them), but pydicom 3.0.2 could not be held from outside to the limits of
this reader. Measured with Python 3.11 on one core, against this file:

- Work. Of files of 50 MB, nothing but empty elements took it 7.5 s of CPU (here 0.3 s), a sequence
  of empty items 91 s and 4.3 GB (0.1 s), an item of different elements 33 s and 2.1 GB (0.1 s).
  2 MB that inflate to 2 GB were not read after 100 s (0.6 s). A file object that counts its reads,
  and inflating beforehand, hold it to 1.7 s and 140 MB; but to inflate, what stands before the data
  set must be walked here, and so must sequences of defined length.
- Patients' data. It decodes the transfer syntax and every Specific Character Set at once, and puts
  a value that it does not know into a warning and a log. So 331 of 20,000 damaged films spilled
  bytes of theirs, 13 of them the patient's name; here none did. With the transfer syntax kept from
  it, 18 did, and a name does whose tag is damaged into that of the character set. Only switches
  for the whole process silence it, and others in the process may need what these silence.
"""

from __future__ import annotations

import enum
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from cft.errors import RadiographError
from cft.film.radiograph import MAX_BYTES, MAX_PIXELS

# Transfer syntaxes (PS3.5 annex A); the UID of implicit VR is the root of all the others.
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT, DEFLATED, BIG_ENDIAN = IMPLICIT + ".1", IMPLICIT + ".1.99", IMPLICIT + ".2"


class Tag(enum.IntEnum):
    """The data elements that decide how a film looks and what it shows, by their DICOM keywords."""

    TransferSyntaxUID = 0x00020010
    MediaStorageSOPClassUID = 0x00020002
    ImageType = 0x00080008
    SOPClassUID = 0x00080016
    Modality = 0x00080060
    CodeValue = 0x00080100
    PatientAge = 0x00101010
    BodyPartExamined = 0x00180015
    ImagerPixelSpacing = 0x00181164
    ViewPosition = 0x00185101
    StudyInstanceUID = 0x0020000D
    SamplesPerPixel = 0x00280002
    PhotometricInterpretation = 0x00280004
    NumberOfFrames = 0x00280008
    Rows = 0x00280010
    Columns = 0x00280011
    PixelSpacing = 0x00280030
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


_WANTED = frozenset(Tag) - {Tag.StudyInstanceUID}
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF

# Value representations whose length takes four bytes (PS3.5 7.1.2).
_LONG_VR = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_MAX_ELEMENTS = 100_000
_MAX_NESTING = 32
_MAX_INFLATED = 2 * MAX_PIXELS + MAX_BYTES


def read_header(data: bytes, wanted: frozenset[Tag] = _WANTED) -> Elements:
    """The wanted elements of a file, those about the file (group 2) among them."""
    wanted |= {Tag.TransferSyntaxUID}
    view = memoryview(data)
    at = 132 if data[128:132] == b"DICM" else 0
    found: dict[int, Element] = {}
    walk = _Walk(view, "<")
    while view[at : at + 2] == b"\x02\x00":  # not by the group's stated length, often wrong
        tag, element, at = next(walk.elements(at, explicit=True))
        if tag in wanted:
            found[tag] = element
    syntax = Elements("<", True, found).text(Tag.TransferSyntaxUID)
    if syntax == DEFLATED:
        view, at = memoryview(_inflate(view[at:])), 0
    order = ">" if syntax == BIG_ENDIAN or (not syntax and view[at : at + 1] == b"\0") else "<"
    # What the file says of its VRs is less reliable than the first element itself.
    first_vr = bytes(view[at + 4 : at + 6])
    explicit = first_vr.isalpha() and first_vr.isupper()
    for tag, element, _ in _Walk(view, order).elements(at, explicit):
        if tag in wanted:
            found[tag] = element
    return Elements(order, explicit, found)


@dataclass(frozen=True)
class Element:
    """One data element, undecoded; its VR is None in implicit VR."""

    vr: bytes | None
    value: memoryview
    undefined_length: bool = False


class Elements:
    """The wanted data elements of one data set, undecoded."""

    def __init__(self, order: str, explicit: bool, found: dict[int, Element]):
        self.order = order  # of the bytes, as `struct` writes it
        self.explicit = explicit
        self.found = found

    def __contains__(self, tag: Tag) -> bool:
        return tag in self.found

    def text(self, tag: Tag) -> str:
        """First value of a text, without padding; empty where there is none."""
        return self.texts(tag)[0]

    def texts(self, tag: Tag) -> list[str]:
        """All values of a text, without padding; one empty value where there is none."""
        if tag not in self.found:
            return [""]
        text = bytes(self.found[tag].value[:1024]).decode("ascii", "replace")
        return [value.strip(" \0") for value in text.split("\\")]

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

    def first_item(self, tag: Tag) -> Elements | None:
        """First item of a sequence."""
        if tag not in self.found:
            return None
        element = self.found[tag]
        walk = _Walk(element.value, self.order)
        # A sequence of unknown VR is in implicit VR, whatever is around it (PS3.5 6.2.2).
        return walk.first_item(self.explicit and element.vr != b"UN")


def join_fragments(value: memoryview) -> bytes:
    """The compressed frame: all fragments after the basic offset table (PS3.5 A.4)."""
    walk, at, fragments = _Walk(value, "<"), 0, []
    while at + 8 <= len(value):
        tag, _, length, start = walk.header(at, explicit=False)
        if tag != _ITEM:
            break
        fragments.append(value[start : start + length])
        at = start + length
    return b"".join(fragments[1:])


# ------------------------------------------------------------------------- the walk


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

    def elements(self, at: int, explicit: bool) -> Iterator[tuple[int, Element, int]]:
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
            yield tag, Element(vr, self.data[start:end], undefined), end
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

    def first_item(self, explicit: bool) -> Elements | None:
        """The data set in the first item of the sequence that the bytes are."""
        if len(self.data) < 8:
            return None
        tag, _, length, start = self.header(0, explicit)
        if tag != _ITEM:
            return None
        data = self.data[start:] if length == _UNDEFINED else self.data[start : start + length]
        walk = _Walk(data, self.order)
        found = {tag: element for tag, element, _ in walk.elements(0, explicit) if tag in _WANTED}
        return Elements(self.order, explicit, found)

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
