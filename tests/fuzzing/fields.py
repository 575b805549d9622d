"""Damage to the fields of BMP files, the chunks of WebP files and the markers of JPEG 2000."""

from __future__ import annotations

import struct
from random import Random

from tests.fuzzing.png import exif
from tests.fuzzing.values import number, shuffle, some_bytes

_RIFF_KINDS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ")

#: Place and bits of: offset of the pixels, size of the header, width, height, planes, depth,
#: compression, size of the pixels, colours of the palette, important ones, masks.
_BMP_FIELDS = (
    *((10, 32), (14, 32), (18, 32), (22, 32), (26, 16), (28, 16), (30, 32), (34, 32)),
    *((46, 32), (50, 32), (54, 32), (58, 32), (62, 32)),
)


def mutate_bmp(data: bytes, random: Random) -> bytes | None:
    """One to four fields of the header; None for what is no BMP."""
    if not data.startswith(b"BM") or len(data) < 66:
        return None
    body = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        place, bits = random.choice(_BMP_FIELDS)
        form = "<I" if bits == 32 else "<H"
        usual = {14: (12, 40, 52, 56, 64, 108, 124), 28: (1, 2, 4, 8, 16, 24, 32), 30: range(15)}
        value = number(random, bits, struct.unpack_from(form, body, place)[0])
        if place in usual and random.random() < 0.8:
            value = random.choice(tuple(usual[place]))
        struct.pack_into(form, body, place, value)
    if random.random() < 0.3:
        body[54:] = some_bytes(random, bytes(body[54:]))
    return bytes(body)


def mutate_webp(data: bytes, random: Random) -> bytes | None:
    """One to four changes of chunks, with right lengths; None for what is no WebP."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    chunks, at = [], 12
    while at + 8 <= len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    for _ in range(random.choice((1, 1, 2, 4))):
        choice = random.randrange(4)
        if choice == 0 and chunks:
            at = random.randrange(len(chunks))
            kind, body = chunks[at]
            head, tail = body[:16], body[16:]
            part = random.random() < 0.5
            body = some_bytes(random, head) + tail if part else some_bytes(random, body)
            chunks[at] = kind, body
        elif choice == 1:
            shuffle(chunks, random)
        elif choice == 2:
            sizes = b"".join(number(random, 24, 55).to_bytes(3, "little") for _ in range(2))
            body = bytes((random.randrange(256),)) + bytes(3) + sizes
            chunks.insert(0, (b"VP8X", body))
        else:
            kind = random.choice(_RIFF_KINDS)
            body = exif(random) if kind == b"EXIF" else some_bytes(random)
            chunks.insert(random.randrange(len(chunks) + 1), (kind, body))
    whole = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for kind, body in chunks
    )
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def mutate_jpeg_2000(data: bytes, random: Random) -> bytes | None:
    """One to four changes of markers, with right lengths (ITU-T T.800 annex A); None for others."""
    if not data.startswith(b"\xff\x4f\xff\x51"):
        return None
    segments, at = [], 2
    while at + 4 <= len(data) and data[at : at + 2] != b"\xff\x90":
        length = struct.unpack_from(">H", data, at + 2)[0]
        segments.append((data[at : at + 2], data[at + 4 : at + 2 + length]))
        at += 2 + length
    tail = bytearray(data[at:])
    for _ in range(random.choice((1, 1, 2, 4))):
        choice = random.randrange(6)
        if choice == 0 and segments:
            shuffle(segments, random)
        elif choice in (1, 2) and segments:
            at = random.randrange(len(segments))
            kind, body = segments[at]
            if kind == b"\xff\x51" and len(body) >= 36 and random.random() < 0.7:
                fields = list(struct.unpack_from(">H8I", body))
                which = random.randrange(1, 9)
                fields[which] = number(random, 32, fields[which])
                body = struct.pack(">H8I", *fields) + body[34:]
            else:
                body = some_bytes(random, body)
            segments[at] = kind, body
        elif choice == 3 and len(tail) > 12:
            struct.pack_into(">I", tail, 6, number(random, 32, len(tail)))
        elif choice == 4:
            tail = bytearray(some_bytes(random, bytes(tail)))
        else:
            kind = bytes((0xFF, random.choice((0x52, 0x53, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61))))
            segments.insert(random.randrange(len(segments) + 1), (kind, some_bytes(random)))
    head = b"".join(
        kind + struct.pack(">H", (len(body) + 2) % 2**16) + body for kind, body in segments
    )
    return b"\xff\x4f" + head + bytes(tail)
