"""Damage to the segments of a JPEG or JPEG-LS stream (ITU-T T.81 annex B, T.87 annex C)."""

from __future__ import annotations

import struct
from random import Random

from tests.fuzzing.png import exif
from tests.fuzzing.values import number, shuffle, some_bytes

_SOS, _EOI = 0xDA, 0xD9
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xF7)
_BARE = (0x01, *range(0xD0, 0xDA))  # markers without a segment

#: Marker, content of its segment, and what follows up to the next marker: of a scan, its data.
Segment = tuple[int, bytes, bytes]


def mutate(data: bytes, random: Random) -> bytes | None:
    """One to four changes of segments; None for what is no JPEG."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    segments = split(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        change = random.choice((_frame, _frame, _scan, _content, _content, _new, _marker, shuffle))
        change(segments, random)
    return joined(segments)


def joined(segments: list[Segment]) -> bytes:
    """A stream of segments, with their lengths."""
    return b"\xff\xd8" + b"".join(
        bytes((0xFF, marker))
        + (b"" if marker in _BARE else struct.pack(">H", (len(body) + 2) % 2**16))
        + body
        + scan
        for marker, body, scan in segments
    )


def split(data: bytes) -> list[Segment]:
    """The segments after SOI."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        length = 0 if marker in _BARE else struct.unpack_from(">H", data, at + 2)[0]
        end = following = at + 2 + length
        if marker == _SOS:
            while following + 1 < len(data) and not (
                data[following] == 0xFF and data[following + 1] not in (0, *range(0xD0, 0xD8))
            ):
                following += 1
        segments.append((marker, data[at + 4 : end], data[end:following]))
        at = following
    return [*segments, (_EOI, b"", b"")]


def _frame(segments: list[Segment], random: Random) -> None:
    """Another size, precision, sampling or number of components, or another process."""
    places = [at for at, part in enumerate(segments) if part[0] in _FRAMES and len(part[1]) >= 6]
    if not places:
        return
    at = random.choice(places)
    marker, body, scan = segments[at]
    fields = bytearray(body)
    choice = random.randrange(6)
    if choice == 0:
        marker = random.choice(_FRAMES)
    elif choice == 1:
        fields[0] = random.choice((1, 2, 7, 8, 9, 12, 15, 16, 17, 255))
    elif choice in (2, 3):
        place = 1 if choice == 2 else 3
        now = struct.unpack_from(">H", fields, place)[0]
        struct.pack_into(">H", fields, place, number(random, 16, now))
    elif choice == 4:
        count = random.choice((0, 1, 2, 3, 4, 5, 255))
        parts = b"".join(bytes((n, random.choice((0x11, 0x22, 0x41)), 0)) for n in range(count))
        fields[5:] = bytes((count,)) + parts
    else:
        place = random.randrange(6, len(fields)) if len(fields) > 6 else 0
        fields[place] = random.choice((0, 0x11, 0x12, 0x21, 0x22, 0x41, 0x14, 0x44, 0xFF))
    segments[at] = marker, bytes(fields), scan


def _scan(segments: list[Segment], random: Random) -> None:
    """Other data of a scan, with markers in it, or many scans."""
    places = [at for at, part in enumerate(segments) if part[0] == _SOS]
    if not places:
        return
    at = random.choice(places)
    marker, body, scan = segments[at]
    choice = random.randrange(6)
    if choice == 0:
        segments[at:at] = [segments[at]] * random.choice((1, 3, 30, 100))
        return
    if choice == 1:
        where = random.randrange(len(scan) + 1)
        inserted = random.choice((b"\xff\xd0", b"\xff\xd7", b"\xff\x00", b"\xff\xff", b"\xff\xdc"))
        scan = scan[:where] + inserted * random.choice((1, 10, 1000)) + scan[where:]
    elif choice == 2:
        scan = scan[: random.randrange(len(scan) + 1)]
    elif choice == 3:
        scan = scan + random.randbytes(1000)
    else:
        scan = some_bytes(random, scan)
    segments[at] = marker, body, scan


def _content(segments: list[Segment], random: Random) -> None:
    at = random.randrange(len(segments)) if segments else 0
    if segments and segments[at][0] not in _BARE:
        marker, body, scan = segments[at]
        segments[at] = marker, some_bytes(random, body), scan


def _marker(segments: list[Segment], random: Random) -> None:
    at = random.randrange(len(segments)) if segments else 0
    if segments:
        segments[at] = random.randrange(256), *segments[at][1:]


def _new(segments: list[Segment], random: Random) -> None:
    """A segment that may not belong there."""
    bodies = (
        (0xDD, struct.pack(">H", number(random, 16))),  # restart interval
        (0xDC, struct.pack(">H", number(random, 16, 72))),  # number of lines
        (0xDB, bytes((random.choice((0, 1, 0x10, 0x1F)),)) + random.randbytes(64)),
        (0xC4, bytes((random.choice((0, 0x10, 0x11, 0xFF)),)) + random.randbytes(16 + 12)),
        (0xCC, random.randbytes(2)),  # arithmetic coding
        (0xE0, b"JFIF\0\1\2" + random.randbytes(7)),
        (0xE1, b"Exif\0\0" + exif(random)),
        (0xE2, b"ICC_PROFILE\0" + random.randbytes(2 + 128)),
        (0xE2, b"MPF\0" + exif(random)),
        (0xED, b"Photoshop 3.0\0008BIM\x04\x04\0\0" + struct.pack(">I", number(random, 32))),
        (0xEE, b"Adobe\0d\0\0\0\0" + bytes((random.choice((0, 1, 2, 3, 255)),))),
        (0xF8, bytes((random.choice((1, 2, 3, 4, 5)),)) + some_bytes(random)),  # LSE of JPEG-LS
        (0xFE, some_bytes(random)),
        (random.randrange(0xC0, 0xFF), some_bytes(random)),
    )
    marker, body = random.choice(bodies)
    segments.insert(random.randrange(len(segments) + 1), (marker, body, b""))
