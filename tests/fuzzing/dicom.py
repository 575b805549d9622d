"""Damage to the data elements of a DICOM file, written in any uncompressed syntax (PS3.5)."""

from __future__ import annotations

import struct
import zlib
from array import array
from dataclasses import dataclass, replace
from random import Random

from cft.film.elements import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, Tag
from tests.fuzzing import fields, jpeg
from tests.fuzzing.values import number, shuffle, some_bytes

_LONG_VR = b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()
_VRS = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR "
    b"US UT UV"
).split()
_PIXELS, _TRANSFER_SYNTAX = 0x7FE00010, 0x00020010
_UNDEFINED = 0xFFFFFFFF
_SYNTAXES = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
_COMPRESSED = ("5", "4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "4.100", "1.98")
_TEXTS = (
    b"",
    b"0",
    b"1",
    b"-1",
    b"2",
    b"1e400",
    b"-1e308",
    b"1e308\\1e308",
    b"nan",
    b"inf",
    b"1e-320",
    b"0.0000001",
    b"2048",
    b"4096\\1",
    b"MONOCHROME1",
    b"MONOCHROME2",
    b"RGB",
    b"PALETTE COLOR",
    b"SIGMOID",
    b"LINEAR_EXACT",
    b"INVERSE",
    b"PA",
    b"LL",
    b"\xff\xfe\xfd ",
    b"9" * 60,
    b"\\" * 60,
    b"1_000",
)
_NUMBERS = (0, 1, 2, 7, 8, 9, 11, 12, 15, 16, 17, 31, 32, 255, 256, 4095, 8000, 32767, 32768, 65535)


@dataclass(frozen=True)
class Element:
    """One data element; the value of sequences and fragments holds their items."""

    tag: int
    vr: bytes
    value: bytes
    undefined: bool = False


def mutate(data: bytes, random: Random) -> bytes | None:
    """One to four changes of elements; None for what is not in explicit VR little endian.

    Compressed pixel data stays in explicit VR; other files are written in any syntax.
    """
    if data[128:132] != b"DICM":
        return None
    elements = split(data)
    meta = [element for element in elements if element.tag >> 16 == 2]
    syntax = next((e.value.strip(b"\0 ") for e in meta if e.tag == _TRANSFER_SYNTAX), b"").decode()
    body = elements[len(meta) :]
    if not body or body[-1].tag != _PIXELS or syntax in (IMPLICIT, DEFLATED, BIG_ENDIAN):
        return None
    for _ in range(random.choice((1, 1, 2, 4))):
        changes = (_value, _value, _value, _new, _new, _lut, _pixels, _pixels, _vr, shuffle)
        random.choice(changes)(body, random)
    if syntax == EXPLICIT and random.random() < 0.6:
        syntax = random.choice(_SYNTAXES)
    elif random.random() < 0.05:
        syntax = f"{IMPLICIT}.{random.choice(_COMPRESSED)}"
    return _file(meta, body, syntax, random)


def split(data: bytes) -> list[Element]:
    """The elements of a file in explicit VR little endian."""
    elements, at = [], 132
    while at + 8 <= len(data):
        group, number_, vr = struct.unpack_from("<HH2s", data, at)
        long = vr in _LONG_VR
        length = struct.unpack_from("<I" if long else "<H", data, at + (8 if long else 6))[0]
        at += 12 if long else 8
        undefined = length == _UNDEFINED
        end = _end_of_items(data, at) if undefined else at + length
        elements.append(Element(group << 16 | number_, vr, data[at:end], undefined))
        at = end
    return elements


def _end_of_items(data: bytes, at: int) -> int:
    """Behind the delimiter of a sequence of items of defined length, as the seeds have."""
    while data[at : at + 4] == b"\xfe\xff\x00\xe0":
        at += 8 + struct.unpack_from("<I", data, at + 4)[0]
    return at + 8


def _file(meta: list[Element], body: list[Element], syntax: str, random: Random) -> bytes:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    head = b"".join(
        _element(replace(e, value=uid) if e.tag == _TRANSFER_SYNTAX else e, "<", True) for e in meta
    )
    order = ">" if syntax == BIG_ENDIAN else "<"
    data = b"".join(_element(element, order, syntax != IMPLICIT) for element in body)
    if syntax == DEFLATED:
        packer = zlib.compressobj(random.choice((0, 1, 9)), wbits=-zlib.MAX_WBITS)
        data = packer.compress(data) + packer.flush()
    return (bytes(128) + b"DICM" if random.random() < 0.95 else b"") + head + data


def _element(element: Element, order: str, explicit: bool) -> bytes:
    tag = struct.pack(order + "HH", element.tag >> 16, element.tag & 0xFFFF)
    value = element.value
    if order == ">" and element.vr in (b"US", b"SS", b"OW") and len(value) % 2 == 0:
        swapped = array("H", value)
        swapped.byteswap()
        value = swapped.tobytes()
    length = _UNDEFINED if element.undefined else len(value)
    if not explicit:
        return tag + struct.pack(order + "I", length) + value
    if element.vr in _LONG_VR:
        return tag + element.vr + b"\0\0" + struct.pack(order + "I", length) + value
    return tag + element.vr + struct.pack(order + "H", length % 2**16) + value


# --------------------------------------------------------------------------- changes


def _value(elements: list[Element], random: Random) -> None:
    """Another value of an element that the reader looks at."""
    places = [at for at, element in enumerate(elements) if element.tag in set(Tag)]
    if places:
        at = random.choice(places)
        elements[at] = replace(elements[at], value=_some_value(elements[at], random))


def _some_value(element: Element, random: Random) -> bytes:
    if element.vr in (b"US", b"SS") and random.random() < 0.8:
        now = int.from_bytes(element.value[:2], "little")
        value = random.choice(_NUMBERS) if random.random() < 0.7 else number(random, 16, now)
        return struct.pack("<H", value)
    if element.vr in (b"DS", b"IS", b"CS", b"UI", b"SH") and random.random() < 0.8:
        text = random.choice(_TEXTS)
        return text + b" " * (len(text) % 2)
    return some_bytes(random, element.value)


def _new(elements: list[Element], random: Random) -> None:
    """An element that may not belong there, with any VR or the usual one."""
    usual = {Tag.WindowCenter: b"DS", Tag.WindowWidth: b"DS", Tag.RescaleSlope: b"DS"}
    usual |= {Tag.RescaleIntercept: b"DS", Tag.NumberOfFrames: b"IS", Tag.VOILUTFunction: b"CS"}
    usual |= {Tag.PixelPaddingValue: b"US", Tag.PixelPaddingRangeLimit: b"US"}
    usual |= {Tag.PresentationLUTShape: b"CS", Tag.ViewPosition: b"CS", Tag.Modality: b"CS"}
    if random.random() < 0.6:
        for tag in random.sample(tuple(usual), random.choice((1, 2, 3))):
            element = Element(tag, usual[tag], b"")
            elements.insert(0, replace(element, value=_some_value(element, random)))
        elements.sort(key=lambda element: element.tag)
        return
    tag = random.choice(tuple(Tag)) if random.random() < 0.7 else random.getrandbits(32)
    vr = random.choice(_VRS) if random.random() < 0.9 else random.randbytes(2)
    value = _items(random, random.choice((1, 2, 40))) if vr == b"SQ" else some_bytes(random)
    element = Element(int(tag), vr, value, random.random() < 0.3)
    elements.insert(random.randrange(len(elements) + 1), element)


def _items(random: Random, depth: int) -> bytes:
    """Nested sequences, of defined and undefined length, with or without their delimiters."""
    value = b""
    for _ in range(depth):
        inner = struct.pack("<HH2s2sI", 0x0008, 0x1140, b"SQ", b"\0\0", len(value)) + value
        if random.random() < 0.5:
            value = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
        else:
            end = b"\xfe\xff\x0d\xe0" + bytes(4) if random.random() < 0.9 else b""
            value = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner + end
    return value + (b"\xfe\xff\xdd\xe0" + bytes(4) if random.random() < 0.5 else b"")


def _lut(elements: list[Element], random: Random) -> None:
    """A look-up table whose descriptor and data may contradict each other."""
    count = random.choice((0, 1, 2, 255, 256, 4096, 65535))
    descriptor = struct.pack("<HHH", count, random.choice(_NUMBERS), random.choice(_NUMBERS))
    size = random.choice((0, 1, count, 2 * count, 2 * (count or 2**16)))
    data = random.choice((bytes(size), b"\xff" * size, random.randbytes(size)))
    parts = [
        Element(Tag.LUTDescriptor, random.choice((b"US", b"SS", b"UN")), descriptor),
        Element(Tag.LUTData, random.choice((b"OW", b"US", b"UN")), data),
    ]
    if random.random() < 0.1:
        del parts[random.randrange(2)]
    item = b"".join(_element(part, "<", True) for part in parts)
    value = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item
    tag = random.choice((Tag.VOILUTSequence, Tag.ModalityLUTSequence))
    elements.insert(len(elements) - 1, Element(tag, b"SQ", value))


def _pixels(elements: list[Element], random: Random) -> None:
    """Other pixel data: the codestream damaged by its own rules, or cut up otherwise."""
    at = next((n for n, element in enumerate(elements) if element.tag == _PIXELS), None)
    if at is None:
        return
    element = elements[at]
    if not element.undefined:
        value, undefined = some_bytes(random, element.value), random.random() < 0.1
        elements[at] = replace(element, value=value, undefined=undefined)
        return
    fragments, place = [], 0
    while element.value[place : place + 4] == b"\xfe\xff\x00\xe0" and place + 8 <= len(
        element.value
    ):
        length = struct.unpack_from("<I", element.value, place + 4)[0]
        fragments.append(element.value[place + 8 : place + 8 + length])
        place += 8 + length
    table, stream = fragments[:1] or [b""], b"".join(fragments[1:])
    choice = random.randrange(8)
    if choice < 5:
        stream = (
            jpeg.mutate(stream, random)
            or fields.mutate_jpeg_2000(stream, random)
            or _rle(stream, random)
        )
    elif choice == 5:
        table = [some_bytes(random)]
    size = random.choice((len(stream) or 1, 1000, 64, 2))
    parts = [stream[n : n + size] for n in range(0, len(stream), size)]
    if choice == 6:
        shuffle(parts, random)
    end = b"\xfe\xff\xdd\xe0" + bytes(4) if choice != 7 or random.random() < 0.5 else b""
    value = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(p)) + p for p in table + parts)
    elements[at] = replace(element, value=value + end)


def _rle(stream: bytes, random: Random) -> bytes:
    """Another number of segments, or other offsets (PS3.5 annex G)."""
    if len(stream) < 64 or random.random() < 0.4:
        return some_bytes(random, stream)
    head = list(struct.unpack_from("<16I", stream))
    at = random.choice((0, 1, 2, 3))
    head[at] = number(random, 32, head[at])
    return struct.pack("<16I", *head) + stream[64:]


def _vr(elements: list[Element], random: Random) -> None:
    at = random.randrange(len(elements)) if elements else 0
    if elements:
        elements[at] = replace(elements[at], vr=random.choice(_VRS))
