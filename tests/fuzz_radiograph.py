"""Hand many damaged films to the reader and count what becomes of them.

    python -m tests.fuzz_radiograph --count 5000 --seed 0
    python -m tests.fuzz_radiograph --coverage --minutes 30 --keep faults/

Films of every format are damaged: their bytes, or their chunks, segments, directories and data
elements, with lengths and checksums that are right again. With ``--coverage``, atheris chooses
what to damage further: what reached new lines of the reader (Linux; ``pip install atheris``).

Reading happens in worker processes, so that a crash of a native decoder or an endless loop is seen
and counted. Every file must be read or refused with a `RadiographError` of one short sentence that
holds nothing of the file's content, in less than 2 s of CPU time and with less than 1000 MB above
the idle process; otherwise the exit code is 1. It needs Linux.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.films import SECRET, every_film
from tests.fuzzing import blind, dicom, fields, guided, jpeg, large, png, tiff
from tests.fuzzing.worker import Verdict, Worker

OUTCOMES = ("read", "refused", "faults")

#: Name of a kind of damage -> the function that does it, or None for a file of another format.
STRUCTURED: dict[str, Callable[[bytes, Random], bytes | None]] = {
    "PNG chunks": png.mutate,
    "JPEG segments": jpeg.mutate,
    "TIFF directory": tiff.mutate,
    "BMP fields": fields.mutate_bmp,
    "WebP chunks": fields.mutate_webp,
    "DICOM elements": dicom.mutate,
}

# Share of the files that are of large pictures: each takes a second or so.
_LARGE = 0.001


def mutants(films: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Name of the film, kind of damage, and the damaged bytes, `count` times.

    Each file follows from the seed and its number alone.
    """
    names = sorted(films)
    for index in range(count):
        random = Random(f"{seed}-{index}")
        name = names[index % len(names)]
        if random.random() < _LARGE:
            name, data = large.make(random)
            if random.random() < 0.5:
                data = structured(data, random)[1] or data
            yield name, "large pictures", data
            continue
        kind, damaged = structured(films[name], random) if random.random() < 0.75 else ("", None)
        if damaged is None:
            kind, damaged = f"{name.split()[0]} bytes", blind.mutate(films[name], films, random)
        yield name, kind, damaged


def structured(data: bytes, random: Random) -> tuple[str, bytes | None]:
    """Kind of damage by the format's own rules, and the damaged bytes; None without rules."""
    for kind, mutate in STRUCTURED.items():
        try:
            found = mutate(data, random)
        except (struct.error, ValueError, IndexError, zlib.error):  # damaged beyond any structure
            found = None
        if found is not None:
            return kind, found
    return "", None


@dataclass
class Tally:
    """What became of the damaged files of one kind."""

    outcomes: Counter = field(default_factory=Counter)
    seconds: float = 0.0  # CPU time of the slowest
    megabytes: float = 0.0  # the most memory
    faults: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict) -> bool:
        """Count one file; whether it is a fault."""
        fault = verdict.fault
        self.outcomes["faults" if fault else verdict.outcome] += 1
        self.seconds = max(self.seconds, verdict.seconds)
        self.megabytes = max(self.megabytes, verdict.megabytes)
        if fault:
            self.faults.append(fault)
        return fault is not None


def fuzz(
    count: int, seed: int, keep: Path | None = None, until: float = float("inf")
) -> dict[str, Tally]:
    """Format and kind of damage -> what became of such files.

    Parameters
    ----------
    count, seed
        How many files, and where their randomness begins.
    keep
        Folder for the files that fail, named by format, kind of damage, seed and number.
    until
        Time (of `time.monotonic`) at which to stop before that.
    """
    films = {name: film.data for name, film in every_film().items()}
    tallies: dict[str, Tally] = {}
    worker = Worker(SECRET)
    try:
        for index, (name, kind, data) in enumerate(mutants(films, count, seed)):
            if time.monotonic() > until:
                break
            if index and index % 5000 == 0:
                print(f"{index} files", file=sys.stderr, flush=True)
            verdict = worker.read(data)
            if tallies.setdefault(kind, Tally()).add(verdict) and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                stem = f"{kind} {seed}-{index}".replace(" ", "-")
                (keep / stem).write_bytes(data)
                (keep / f"{stem}.txt").write_text(f"{name}\n{verdict.fault}\n")
    finally:
        worker.stop()
    return dict(sorted(tallies.items()))


def table(tallies: dict[str, Tally]) -> str:
    """One line for each kind of damage, and their sum."""
    lines = [
        "damage            " + "".join(f"{name:>9}" for name in OUTCOMES) + "   most CPU  memory"
    ]
    total = Tally(
        sum((tally.outcomes for tally in tallies.values()), start=Counter()),
        max((tally.seconds for tally in tallies.values()), default=0.0),
        max((tally.megabytes for tally in tallies.values()), default=0.0),
    )
    for name, tally in {**tallies, "all": total}.items():
        counts = "".join(f"{tally.outcomes[outcome]:9d}" for outcome in OUTCOMES)
        lines.append(f"{name:18}{counts}{tally.seconds:9.2f} s{tally.megabytes:6.0f} MB")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz_radiograph", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--count", type=int, help="number of damaged files (default: 5000)")
    parser.add_argument("--minutes", type=float, help="stop after so many (guided: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that fail")
    parser.add_argument("--coverage", action="store_true", help="guided by coverage, by atheris")
    options = parser.parse_args()
    if options.coverage:
        counts, faults = guided.run(options.minutes or 5, options.seed, options.keep)
        print("\n".join(f"{name:24}{count:9}" for name, count in counts.items()))
        print("\n".join(faults[:50]) if faults else "no fault")
        return 1 if faults else 0
    until = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    count = options.count or (sys.maxsize if options.minutes else 5000)
    tallies = fuzz(count, options.seed, options.keep, until)
    print(table(tallies))
    faults = [f"{name}: {line}" for name, tally in tallies.items() for line in tally.faults]
    print("\n".join(faults[:50]) if faults else "no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
