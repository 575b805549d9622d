"""Damage to the bytes of a file, without a look at what they mean."""

from __future__ import annotations

import struct
import zlib
from random import Random


def flip_bits(data: bytearray, other: bytes, random: Random) -> None:
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def truncate(data: bytearray, other: bytes, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def splice_header(data: bytearray, other: bytes, random: Random) -> None:
    """The head of another film before the rest of this one."""
    cut = random.randrange(1, min(len(data), len(other), 1024))
    data[:cut] = other[:cut]


def splice_tail(data: bytearray, other: bytes, random: Random) -> None:
    data[random.randrange(len(data)) :] = other[random.randrange(len(other)) :]


def set_bytes(data: bytearray, other: bytes, random: Random) -> None:
    """Extreme values where lengths and sizes stand."""
    extremes = (b"\0", b"\xff", b"\x7f", b"\x80", b"\1", b"\0\0", b"\xff\xff", b"\xff\xff\xff\xff")
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(min(len(data), random.choice((64, 512, len(data)))))
        value = random.choice((*extremes, random.randbytes(1), random.randbytes(4)))
        data[at : at + len(value)] = value


def repeat(data: bytearray, other: bytes, random: Random) -> None:
    at = random.randrange(len(data))
    part = data[at : at + random.randrange(1, 256)]
    data[at:at] = part * random.choice((1, 2, 50))


def remove(data: bytearray, other: bytes, random: Random) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.choice((1, 2, 4, 64))]


def move(data: bytearray, other: bytes, random: Random) -> None:
    source, to = random.randrange(len(data)), random.randrange(len(data))
    part = data[source : source + random.randrange(1, 64)]
    data[to : to + len(part)] = part


MUTATIONS = (flip_bits, truncate, splice_header, splice_tail, set_bytes, repeat, remove, move)


def repair_png(data: bytes) -> bytes:
    """Right checksums, without which a PNG decoder never sees the damage."""
    repaired, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        chunk = data[at + 4 : at + 8 + length]
        repaired += data[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return bytes(repaired + data[at:])


def mutate(data: bytes, films: dict[str, bytes], random: Random) -> bytes:
    """One to three changes of bytes; parts may come from other films."""
    names, changed = sorted(films), bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if changed:
            random.choice(MUTATIONS)(changed, films[random.choice(names)], random)
    if changed.startswith(b"\x89PNG") and random.random() < 0.7:
        return repair_png(bytes(changed))
    return bytes(changed)
