"""Values that readers stumble over, and lists that are shuffled."""

from __future__ import annotations

from random import Random
from typing import TypeVar

T = TypeVar("T")

_SIZES = (0, 1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 55, 56, 57, 71, 72, 73, 255, 256, 257, 1000, 4096)
_LARGE = (8000, 16384, 32767, 32768, 65535, 65536, 10**6, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def number(random: Random, bits: int, now: int = 0) -> int:
    """A number of so many bits: an extreme, a usual size, near the present one, or any."""
    choice = random.randrange(5)
    if choice == 0:
        value = random.choice(_SIZES)
    elif choice == 1:
        value = random.choice(_LARGE)
    elif choice == 2:
        value = now + random.choice((-2, -1, 1, 2, now, -(now // 2)))
    elif choice == 3:
        value = now ^ (1 << random.randrange(bits))
    else:
        value = random.getrandbits(bits)
    return value % (1 << bits)


def some_bytes(random: Random, now: bytes = b"") -> bytes:
    """Bytes of a length that is extreme or usual; often those that are there, damaged."""
    if now and random.random() < 0.7:
        data = bytearray(now)
        choice = random.randrange(4)
        if choice == 0:
            for _ in range(random.choice((1, 1, 2, 8))):
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        elif choice == 1:
            del data[random.randrange(len(data)) :]
        elif choice == 2:
            data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
        else:
            at = random.randrange(len(data))
            data[at:at] = random.choice((b"\0", b"\xff", bytes(data[at:][:16]))) * 4
        return bytes(data)
    size = random.choice((0, 1, 2, 3, 4, 6, 8, 12, 13, 26, 64, 255, 256, 768, 1000))
    return random.choice((random.randbytes(size), bytes(size), b"\xff" * size))


def shuffle(parts: list[T], random: Random) -> None:
    """Drop, double, swap or move parts of a file."""
    if not parts:
        return
    at, other = random.randrange(len(parts)), random.randrange(len(parts))
    choice = random.randrange(5)
    if choice == 0:
        del parts[at]
    elif choice == 1:
        parts.insert(other, parts[at])
    elif choice == 2:
        parts[at], parts[other] = parts[other], parts[at]
    elif choice == 3:
        parts.insert(other, parts.pop(at))
    else:
        parts[at:at] = [parts[at]] * random.choice((1, 3, 40))
