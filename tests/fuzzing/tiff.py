"""Damage to the directories of a TIFF file (TIFF 6.0, with the supplements of Adobe)."""

from __future__ import annotations

import struct
from random import Random

from tests.fuzzing.values import number, some_bytes

#: Tags that say how the picture is stored, with values that they usually have.
_TAGS: dict[int, tuple[int, ...]] = {
    256: (1, 31, 32, 56, 8000, 65535),
    257: (1, 31, 32, 72, 8000, 65535),
    258: (1, 2, 4, 8, 12, 16, 24, 32, 64),
    259: (1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34676, 34925, 50000, 50001, 65000),
    262: (0, 1, 2, 3, 4, 5, 6, 8, 32803, 34892),
    266: (1, 2),
    273: (0, 8, 100, 2**31, 2**32 - 1),
    274: (0, 1, 2, 3, 5, 6, 8, 9),
    277: (0, 1, 2, 3, 4, 5, 255),
    278: (0, 1, 7, 72, 8000, 2**32 - 1),
    279: (0, 1, 100, 2**31, 2**32 - 1),
    284: (1, 2, 3),
    317: (1, 2, 3, 34892),
    320: (8, 100),
    322: (0, 1, 15, 16, 64, 8192, 65536, 2**24),
    323: (0, 1, 15, 16, 64, 8192, 65536, 2**24),
    324: (0, 8, 100),
    325: (0, 1, 100, 2**31),
    330: (0, 8, 100),
    338: (0, 1, 2),
    339: (1, 2, 3, 4, 5, 6),
    347: (8, 100),
    530: (1, 2, 4),
    34665: (0, 8, 100),
    34675: (8, 100),
    34853: (0, 8),
}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


def mutate(data: bytes, random: Random) -> bytes | None:
    """One to four changes of the first directory, which is written anew behind the file.

    None for a file that is no TIFF.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return None
    at = struct.unpack_from(order + "I", data, 4)[0]
    if at + 2 > len(data):
        return None
    count = struct.unpack_from(order + "H", data, at)[0]
    if at + 2 + 12 * count + 4 > len(data):
        return None
    entries = [
        list(struct.unpack_from(order + "HHI4s", data, at + 2 + 12 * n)) for n in range(count)
    ]
    following = struct.unpack_from(order + "I", data, at + 2 + 12 * count)[0]
    body = bytearray(data)
    place = len(body) + len(body) % 2
    for _ in range(random.choice((1, 1, 2, 4))):
        choice = random.randrange(9)
        if choice == 0:
            following = random.choice((0, 8, at, place, place + 1, len(body), 2**32 - 1))
        elif choice == 1 and len(entries) > 1:
            del entries[random.randrange(len(entries))]
        elif choice == 2 and entries:
            entries.insert(random.randrange(len(entries)), list(random.choice(entries)))
        elif choice == 3:
            body[8:] = some_bytes(random, bytes(body[8:]))[: 2 * len(body)]
            place = len(body) + len(body) % 2
        elif choice == 4 and entries:
            entry = random.choice(entries)
            which = random.randrange(3)
            entry[which] = number(random, (16, 16, 32)[which], entry[which])
        else:
            _set(entries, order, random)
    if random.random() < 0.8:
        entries.sort(key=lambda entry: entry[0])
    body += bytes(len(body) % 2) + struct.pack(order + "H", len(entries))
    body += b"".join(struct.pack(order + "HHI4s", *entry) for entry in entries)
    body += struct.pack(order + "I", following)
    body[4:8] = struct.pack(order + "I", place)
    return bytes(body)


def _set(entries: list[list], order: str, random: Random) -> None:
    """Another value for a tag, whether it is there or not."""
    tag = random.choice(tuple(_TAGS))
    value = random.choice(_TAGS[tag]) if random.random() < 0.8 else number(random, 32)
    kind = random.choice((3, 4, 4)) if random.random() < 0.9 else random.choice(tuple(_SIZES))
    count = 1 if random.random() < 0.8 else number(random, 32, 1)
    if kind == 3 and count == 1:
        packed = struct.pack(order + "HH", value % 2**16, 0)
    else:
        packed = struct.pack(order + "I", value)
    entries[:] = [entry for entry in entries if entry[0] != tag or random.random() < 0.1]
    entries.append([tag, kind, count, packed])
