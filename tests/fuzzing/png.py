"""Damage to the chunks of a PNG file, with right checksums (PNG specification, third edition)."""

from __future__ import annotations

import functools
import struct
import zlib
from random import Random

from tests.films import png_chunk
from tests.fuzzing.values import number, shuffle, some_bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = (
    b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB cICP tEXt zTXt iTXt bKGD hIST pHYs sPLT "
    b"eXIf tIME acTL fcTL fdAT CgBI mDCv iDOT"
).split()
_MOST_INFLATED = 2**24  # what is larger is cut


def mutate(data: bytes, random: Random) -> bytes | None:
    """One to four changes of chunks; None for a file that is no PNG."""
    chunks = split(data)
    if not chunks:
        return None
    for _ in range(random.choice((1, 1, 2, 4))):
        random.choice((_header, _header, _pixels, _pixels, _content, _new, shuffle))(chunks, random)
    return SIGNATURE + b"".join(png_chunk(kind, body) for kind, body in chunks)


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each chunk."""
    chunks, at = [], len(SIGNATURE)
    while data.startswith(SIGNATURE) and at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _header(chunks: list[tuple[bytes, bytes]], random: Random) -> None:
    """Another size, depth, colour type or interlacing."""
    for at, (kind, body) in enumerate(chunks):
        if kind == b"IHDR" and len(body) == 13:
            fields = list(struct.unpack(">IIBBBBB", body))
            which = random.randrange(7)
            if which < 2:
                fields[which] = number(random, 32, fields[which])
            elif random.random() < 0.8:
                usual = ((1, 2, 4, 8, 16), (0, 2, 3, 4, 6), (0, 1), (0, 1), (0, 1))
                fields[which] = random.choice(usual[which - 2])
            else:
                fields[which] = random.randrange(256)
            chunks[at] = kind, struct.pack(">IIBBBBB", *fields)
            return


def _pixels(chunks: list[tuple[bytes, bytes]], random: Random) -> None:
    """Other rows in the compressed data, more or fewer of them, or cut up otherwise."""
    places = [at for at, (kind, _) in enumerate(chunks) if kind == b"IDAT"]
    if not places:
        return
    packed = b"".join(chunks[at][1] for at in places)
    try:
        raw = bytearray(zlib.decompressobj().decompress(packed, _MOST_INFLATED))
    except zlib.error:
        return
    choice = random.randrange(6)
    if choice == 0 and raw:
        for _ in range(random.choice((1, 8, 64))):
            raw[random.randrange(len(raw))] = random.choice((0, 1, 2, 3, 4, 5, 127, 255))
    elif choice == 1:
        del raw[random.randrange(len(raw) + 1) :]
    elif choice == 2:
        raw += bytes(random.choice((1, 1000, 10**6)))
    packed = zlib.compress(bytes(raw), random.choice((0, 1, 6)))
    if choice == 3:
        packed = zlib.compress(bytes(raw), wbits=random.choice((9, 12, 15, -15, 31)))
    elif choice == 4:
        packed = packed[: random.randrange(len(packed) + 1)]
    size = random.choice((len(packed) or 1, 1000, 100, 7)) if choice == 5 else len(packed) or 1
    parts = [(b"IDAT", packed[at : at + size]) for at in range(0, len(packed), size)]
    for at in reversed(places):
        del chunks[at]
    chunks[places[0] : places[0]] = parts


def _content(chunks: list[tuple[bytes, bytes]], random: Random) -> None:
    at = random.randrange(len(chunks)) if chunks else 0
    if chunks:
        chunks[at] = chunks[at][0], some_bytes(random, chunks[at][1])


def _new(chunks: list[tuple[bytes, bytes]], random: Random) -> None:
    """A chunk that may not belong there."""
    kind = random.choice(_KINDS) if random.random() < 0.95 else random.randbytes(4)
    body = some_bytes(random)
    if kind in (b"zTXt", b"iCCP") and random.random() < 0.7:
        body = b"name\0\0" + _zeros(random.choice((10, 10**5, 10**8)))
    elif kind == b"iTXt" and random.random() < 0.7:
        body = b"name\0\1\0\0\0" + _zeros(random.choice((10, 10**5, 10**8)))
    elif kind == b"acTL" and random.random() < 0.7:
        body = struct.pack(">II", number(random, 32), number(random, 32))
    elif kind == b"fcTL" and random.random() < 0.7:
        sizes = [number(random, 32, 56) for _ in range(4)]
        body = struct.pack(">5I2H2B", 0, *sizes, 1, 1, random.randrange(4), random.randrange(3))
    elif kind == b"eXIf" and random.random() < 0.7:
        body = exif(random)
    chunks.insert(random.randrange(len(chunks) + 1), (kind, body))


@functools.cache
def _zeros(size: int) -> bytes:
    """So many zeros, compressed."""
    return zlib.compress(bytes(size))


def exif(random: Random) -> bytes:
    """An EXIF directory with an orientation among entries that may be anything."""
    order = random.choice("<>")
    entries = [(274, 3, 1, random.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255)))]
    for _ in range(random.randrange(4)):
        entries.append((number(random, 16, 34665), number(random, 4), number(random, 32, 1), 8))
    body = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        short = kind == 3 and order == ">"  # left-justified
        body += struct.pack(order + "HHII", tag, kind, count, value << 16 if short else value)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "I", random.choice((8, 8, 8, 0, 4, 2**31))) + body
