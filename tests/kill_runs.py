"""Kill training runs and resume them: ``python -m tests.kill_runs [N] [--seed S]``

Runs of both stages on phantoms get N times SIGKILL, at a random moment of their CPU time or just
before a random change of the disk, and are resumed until they end (some are killed again on the
way). At the end each must hold the files of a run that nobody disturbed, no more and no fewer, with
the same weights, log, report and tables, byte by byte but for times and dates. A model that is
there already when a run is killed must be the whole one. Exit status 1 if anything differs. It
needs Linux.

The runs are forked from one process that has imported everything, before anything is computed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import sklearn.linear_model  # noqa: F401  # else each run would import it by itself
import torch._dynamo  # noqa: F401

from cft.model.folder import WEIGHTS
from tests.same_bytes import contents
from train import cft, negative

_SHARED = ["--device", "cpu", "--threads", "1"]
_DATA = ["--phantoms", "80", "--phantom-size", "32"]
_NETWORK = ["--arch", "test_resnet", "--image-size", "32", "--batch-size", "16", "--lr", "0.01"]
_STAGE_1 = [*_NETWORK, *_DATA, "--epochs", "2"]

#: Name -> options of a run; stage 2 works on the model of "stage 1".
RUNS = {
    "stage 1": _STAGE_1,
    "stage 1, checkpoints within epochs": [
        *_STAGE_1,
        "--batch-size",
        "2",
        "--checkpoint-minutes",
        "0",
    ],
    "stage 2": [],
    "stage 2, ga": ["--method", "ga"],
    "stage 2, gradient": ["--method", "gradient"],
}

# Files that are the same byte by byte in every run; of others, what `contents` keeps.
_WHOLE = (".safetensors", ".csv", ".f32", ".u8", "run.json", "index.json")

#: Audit events of Python that come before the disk changes.
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "tempfile.mkstemp")


@dataclass(frozen=True)
class Kill:
    """When a run is killed: at so much CPU time, or before a change of the disk; or not at all."""

    seconds: float | None = None
    change: int | None = None


def start(name: str, folder: Path, model: Path, resume: bool, kill: Kill) -> int:
    """A run in a forked process, to its end: its exit code, or -9 if it was killed.

    Parameters
    ----------
    name
        One of `RUNS`.
    folder
        Where the run, its cache and its output go.
    model
        Of stage 1, for stage 2.
    """
    words = [*RUNS[name], *_SHARED, "--out", str(folder / "run"), "--cache", str(folder / "cache")]
    words += ["--model", str(model)] if name.startswith("stage 2") else []
    words += ["--resume"] if resume else []
    main = cft.main if name.startswith("stage 2") else negative.main
    child = os.fork()
    if not child:
        _in_child(lambda: main(words), folder, kill)
    clock = ~child << 3 | 2  # the CPU time of that process, as clock_getcpuclockid has it
    while kill.seconds is not None:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.clock_gettime(clock) >= kill.seconds:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _in_child(main: Callable[[], int], folder: Path, kill: Kill) -> None:
    """Run, with all output to a file; count the changes of the disk into another at the end."""
    changes, place = 0, str(folder)

    def before(event: str, arguments: tuple) -> None:
        nonlocal changes
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if not (writes or event in _CHANGES) or not any(place in str(x) for x in arguments[:2]):
            return
        changes += 1
        if changes == kill.change:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 70
    try:
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.addaudithook(before)
        code = main()
        sys.stdout.flush()
        (folder / "changes.txt").write_text(str(changes))
    finally:
        os._exit(code)


def result(folder: Path) -> dict[str, bytes]:
    """File -> what must be the same; empty for a file that only has to be there."""
    found = {}
    for part in ("run", "cache"):
        kept = contents(folder / part)
        for file in sorted((folder / part).rglob("*")):
            name = str(file.relative_to(folder / part))
            whole = file.name.endswith(_WHOLE) and "checkpoint" not in name
            if file.is_file():
                found[f"{part}/{name}"] = file.read_bytes() if whole else kept.get(name, b"")
    return found


def check(whole: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """What differs, a line each."""
    return [
        *(f"{name} is missing" for name in sorted(whole.keys() - found.keys())),
        *(f"{name} was left behind" for name in sorted(found.keys() - whole.keys())),
        *(f"{name} differs" for name in whole if name in found and whole[name] != found[name]),
    ]


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed: what it left, its CPU time and its changes of the disk."""

    files: dict[str, bytes]
    seconds: float
    changes: int

    @classmethod
    def of(cls, name: str, folder: Path, model: Path) -> Undisturbed:
        """Make the run."""
        folder.mkdir(parents=True)
        before = os.times()
        code = start(name, folder, model, False, Kill())
        if code:
            raise SystemExit(f"{name}: exit code {code}\n{(folder / 'output.txt').read_text()}")
        after = os.times()
        seconds = sum(after[2:4]) - sum(before[2:4])
        return cls(result(folder), seconds, int((folder / "changes.txt").read_text()))


def kill_and_resume(
    name: str, whole: Undisturbed, folder: Path, model: Path, random: Random
) -> tuple[int, list[str]]:
    """One run to its end: how often it was killed, and what is wrong."""
    folder.mkdir(parents=True)
    kills, faults, again = 0, [], True
    while True:
        kill = Kill()
        if again:
            by_time = random.random() < 0.5
            seconds, change = random.uniform(0, whole.seconds), random.randint(1, whole.changes)
            kill = Kill(seconds=seconds) if by_time else Kill(change=change)
        again = random.random() < 0.25
        code = start(name, folder, model, kills > 0, kill)
        weights = folder / "run" / WEIGHTS
        if weights.exists() and weights.read_bytes() != whole.files[f"run/{WEIGHTS}"]:
            faults.append(f"{WEIGHTS} is not the whole one after exit code {code}")
        if code != -signal.SIGKILL:
            break
        kills += 1
    if code:
        faults.append(f"exit code {code}: {(folder / 'output.txt').read_text()[-500:]}")
    return kills, faults + check(whole.files, result(folder))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kill_runs", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("kills", nargs="?", type=int, default=100, help="(default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the runs that differ here")
    options = parser.parse_args(argv)
    killed: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as work:
        model = Path(work, "whole", "stage 1", "run")
        names = dict.fromkeys(["stage 1", *options.runs])  # whose model stage 2 needs
        whole = {name: Undisturbed.of(name, Path(work, "whole", name), model) for name in names}
        number = 0
        while killed.total() < options.kills:
            name = options.runs[number % len(options.runs)]
            folder = Path(work, str(number))
            random = Random(f"{options.seed}-{number}")
            kills, faults = kill_and_resume(name, whole[name], folder, model, random)
            killed[name] += kills
            runs[name] += 1
            for fault in faults:
                print(f"{name}, run {number}, killed {kills} times: {fault}", flush=True)
            if faults and options.keep:
                shutil.copytree(folder, options.keep / f"{options.seed}-{number}")
            wrong += bool(faults)
            shutil.rmtree(folder)
            number += 1
            if number % 10 == 0:
                print(f"{killed.total()} kills", file=sys.stderr, flush=True)
    for name in options.runs:
        print(f"{name:36}{runs[name]:5} runs{killed[name]:5} kills")
    print(f"{wrong} of {runs.total()} runs differ from the undisturbed ones")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
