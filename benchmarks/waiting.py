"""What it costs that threads wait in a loop or asleep, beside busy programs.

    python -m benchmarks.waiting [--threads 2] [--busy 2] [--repeats 3]

Processes of their own with OpenMP's default (a loop), as `cft` and `train` set it (briefly,
``GOMP_SPINCOUNT=5000``) and with ``OMP_WAIT_POLICY=PASSIVE`` (asleep) take turns. Each runs a small
network forward and backward on batches of three sizes, beside so many processes that compute all
the time. Printed are the medians of the seconds of the clock and of processors, their ratio, and
the exponent of the growth with the films.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.exponent import line

_FILMS, _STEPS = (1, 2, 4), 5
_WAYS = {
    "in a loop": {},
    "briefly": {"GOMP_SPINCOUNT": "5000"},
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        print(json.dumps(measured(options.threads)))
        return 0
    from benchmarks.inference import busy  # of `train`, which would set the policy above
    from train.tables import aligned_table

    taken: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in _WAYS}
    with busy(options.busy):
        for _ in range(options.repeats):
            for name, policy in _WAYS.items():
                taken[name].append(in_its_own_process(policy, options.threads))
    rows, growth = [["threads wait", "films", "s", "s of processors"]], []
    for name, found in taken.items():
        medians = [
            [statistics.median(run[place][kind] for run in found) for kind in (0, 1)]
            for place in range(len(_FILMS))
        ]
        for films, (wall, processors) in zip(_FILMS, medians, strict=True):
            rows.append([name, str(films), f"{wall:.2f}", f"{processors:.2f}"])
        costs = {films: cost for films, (_, cost) in zip(_FILMS, medians, strict=True)}
        growth.append(line(f"{name}, processor time", costs))
    print(aligned_table(rows))
    print("\n".join(growth))
    for name in list(_WAYS)[1:]:
        ratios = sorted(
            sum(wall for wall, _ in loop) / sum(wall for wall, _ in other)
            for loop, other in zip(taken["in a loop"], taken[name], strict=True)
        )
        middle = statistics.median(ratios)
        print(f"{name} is {middle:.1f} times as fast ({ratios[0]:.1f} to {ratios[-1]:.1f})")
    return 0


def in_its_own_process(policy: dict[str, str], threads: int) -> list[tuple[float, float]]:
    """`measured` in a process with this policy."""
    surroundings = {k: x for k, x in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.waiting", "--measure", "--threads", str(threads)],
        env={**surroundings, **policy},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)


def measured(threads: int) -> list[tuple[float, float]]:
    """(wall, processors') seconds of some steps at each number of films."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    blocks = [(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(12)]
    network = nn.Sequential(*(layer for block in blocks for layer in block))
    found = []
    for films in _FILMS:
        batch = torch.randn(films, 16, 48, 48)
        network(batch).sum().backward()
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(_STEPS):
            network(batch).sum().backward()
        found.append((time.perf_counter() - began, time.process_time() - cpu))
    return found


if __name__ == "__main__":
    sys.exit(main())
