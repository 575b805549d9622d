"""Hand thousands of damaged films to the reader and count what becomes of them.

    python -m tests.fuzz_radiograph --count 5000 --seed 0

Reading happens in worker processes, so that a crash of a native decoder or an endless loop is seen
and counted. Every file must be read or refused with a `RadiographError` of one short sentence that
holds nothing of the file's content, within two seconds; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.films import SECRET, every_film
from tests.fuzzing.blind import MUTATIONS, repair_png
from tests.fuzzing.worker import Worker

LIMIT_SECONDS = 2.0
OUTCOMES = ("read", "refused", "broke a rule", "escaped", "crashed", "hung")


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
