"""Hand thousands of damaged films to the reader and count what becomes of them.

    python tests/fuzz_radiograph.py --count 5000 --seed 0

Reading happens in worker processes, so that a crash of a native decoder or an endless loop is seen
and counted. Every file must be read or refused with a `RadiographError` of one short sentence that
holds nothing of the file's content, within two seconds; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

LIMIT_SECONDS = 2.0
KILL_AFTER_SECONDS = 20.0

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, too

OUTCOMES = ("read", "refused", "broke a rule", "escaped", "crashed", "hung")

# -------------------------------------------------------------------------- mutations


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


def mutants(films: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Name of the film and its damaged bytes, `count` times."""
    random, names = Random(seed), sorted(films)
    for index in range(count):
        name = names[index % len(names)]
        data = bytearray(films[name])
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            if data:
                random.choice(MUTATIONS)(data, films[random.choice(names)], random)
        is_png = data.startswith(b"\x89PNG")
        yield name, repair_png(data) if is_png and random.random() < 0.7 else bytes(data)


# ---------------------------------------------------------------------------- workers


def judge(data: bytes, secret: str) -> tuple[str, str]:
    """Outcome and detail for one file; runs in a worker."""
    import numpy as np

    from cft.errors import RadiographError
    from cft.film.radiograph import MAX_PIXELS
    from cft.film.read import read_radiograph

    try:
        film = read_radiograph(data)
    except RadiographError as error:
        text = str(error)
        plain = text.isascii() and text.isprintable() and len(text) <= 200
        return ("refused" if plain and secret not in text else "broke a rule"), text
    except Exception as error:
        return "escaped", repr(error)
    pixels = film.pixels
    good = (
        pixels.dtype == np.float32
        and pixels.ndim == 2
        and min(pixels.shape) >= 32
        and pixels.size <= MAX_PIXELS
        and pixels.min() >= 0
        and pixels.max() <= 1
        and film.view in ("PA", "AP", "lateral", None)
        and secret not in repr(film.notes)
    )
    return ("read" if good else "broke a rule"), ""


def work(pipe, secret: str) -> None:
    """Answer (outcome, detail, seconds, peak memory in MB) to each file, until the pipe closes."""
    from cft.film.read import read_radiograph
    from tests.films import every_film

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the native decoders' own remarks
    for film in every_film().values():  # imports every decoder before the clock runs
        read_radiograph(film.data)
    while True:
        try:
            data = pipe.recv_bytes()
        except EOFError:
            return
        began = time.perf_counter()
        outcome, detail = judge(data, secret)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pipe.send((outcome, detail, time.perf_counter() - began, peak))


class Worker:
    """A process that reads files, and is replaced when one of them kills it."""

    def __init__(self, secret: str):
        self.secret = secret
        self._start()

    def read(self, data: bytes) -> tuple[str, str, float, float]:
        """Outcome, detail, seconds, peak memory in MB."""
        began = time.perf_counter()
        try:
            self.pipe.send_bytes(data)
            if self.pipe.poll(KILL_AFTER_SECONDS):
                return self.pipe.recv()
            outcome, detail = "hung", f"more than {KILL_AFTER_SECONDS:.0f} s"
        except (EOFError, ConnectionError):
            self.process.join()
            outcome, detail = "crashed", f"exit code {self.process.exitcode}"
        self.stop()
        self._start()
        return outcome, detail, time.perf_counter() - began, 0.0

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.kill()
        self.process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.secret), daemon=True)
        self.process.start()
        theirs.close()


@dataclass
class Tally:
    """What became of the damaged files of one format."""

    outcomes: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    peak: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, outcome: str, detail: str, seconds: float, peak: float) -> None:
        """Count one file."""
        self.outcomes[outcome] += 1
        self.slowest, self.peak = max(self.slowest, seconds), max(self.peak, peak)
        if outcome not in ("read", "refused") or seconds > LIMIT_SECONDS:
            self.failures.append(f"{outcome} in {seconds:.1f} s: {detail}")


def fuzz(count: int, seed: int, keep: Path | None = None) -> dict[str, Tally]:
    """Format -> what became of its damaged films; failing files are written to `keep`."""
    from tests.films import SECRET, every_film

    films = {name: film.data for name, film in every_film().items()}
    tallies = {name.split()[0]: Tally() for name in films}
    worker = Worker(SECRET)
    try:
        for index, (name, data) in enumerate(mutants(films, count, seed)):
            tally = tallies[name.split()[0]]
            before = len(tally.failures)
            tally.add(*worker.read(data))
            if keep is not None and len(tally.failures) > before:
                keep.mkdir(exist_ok=True)
                (keep / f"{seed}-{index}").write_bytes(data)
    finally:
        worker.stop()
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """One line for each format."""
    lines = ["format   " + "".join(f"{name:>13}" for name in OUTCOMES) + "   slowest  peak memory"]
    for name, tally in tallies.items():
        counts = "".join(f"{tally.outcomes[outcome]:13d}" for outcome in OUTCOMES)
        lines.append(f"{name:9}{counts}{tally.slowest:8.2f} s{tally.peak:10.0f} MB")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="number of damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that fail")
    arguments = parser.parse_args()
    tallies = fuzz(arguments.count, arguments.seed, arguments.keep)
    print(table(tallies))
    failures = [f"{name} {line}" for name, tally in tallies.items() for line in tally.failures]
    print("\n".join(failures[:50]) if failures else "no failure")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
