"""What the command line costs from the start of its process to its end.

    python -m benchmarks.start [--repeats 5] [--engine onnx]

Whole processes, one after the other, with one thread: seconds of the clock, and of processors,
which other programs on the machine change little. Rows: Python alone; importing what a prediction
needs; ``cft --help``; ``cft film.png`` with the bundled model, run once before, so that the files
are in the system's memory and the exported network is kept. Then what more films cost beyond the
first, at three sizes, with the exponent of its growth.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.app_memory import draw_films
from benchmarks.exponent import line
from train.tables import aligned_table

_FILMS = (4, 8, 16)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engine", default="auto", help="as of cft --engine")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        films = draw_films(Path(name), max(_FILMS))
        how = ["--engine", options.engine, "--device", "cpu", "--jobs", "1"]
        commands = {
            "python -c pass": ["-c", "pass"],
            "import torch": ["-c", "import torch"],
            "import onnxruntime": ["-c", "import onnxruntime"],
            "cft --help": ["-m", "cft", "--help"],
            "cft film.png": ["-m", "cft", str(films[0]), *how],
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(options.repeats + 1):  # they take turns; the first round warms up
            for name, words in commands.items():
                taken[name].append(seconds_of(words))
        rows = [["command", "s", "s of processors"]]
        for name, found in taken.items():
            wall, processors = (
                statistics.median(column) for column in zip(*found[1:], strict=True)
            )
            rows.append([name, f"{wall:.2f}", f"{processors:.2f}"])
        print(aligned_table(rows), flush=True)
        one = min(processors for _, processors in taken["cft film.png"][1:])
        costs = {}
        for count in _FILMS:
            words = ["-m", "cft", *map(str, films[:count]), *how]
            whole = min(seconds_of(words)[1] for _ in range(options.repeats))
            costs[count - 1] = max(whole - one, 1e-3)
        print(line("films beyond the first, processor time", costs))
    return 0


def seconds_of(words: Sequence[str]) -> tuple[float, float]:
    """(wall, processors') seconds of one Python process, which must end well."""
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run([sys.executable, *words], env=surroundings, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode not in (0, 1):  # 1: the gate has withheld a drawn film's numbers
        raise SystemExit(f"benchmarks.start: {words} ended with {ended.returncode}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
