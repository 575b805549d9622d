"""Damage guided by coverage: atheris keeps the files that reached new lines of the reader.

A process of its own, ``python -m tests.fuzzing.guided``, in which libFuzzer calls the reader, with
the branches of `cft.film` and of Pillow's parsers counted. `run` starts it, and again after a crash
of a native decoder. The decoders themselves are not instrumented. What is takes several times as
long, and libFuzzer's own memory grows, so that a file that took too much is read again by a process
without.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.films import SECRET, every_film
from tests.fuzzing.worker import Worker

_INSTRUMENTED = ["cft.film", "PIL"]
_LARGEST = 100_000  # bytes of a file
_STATUS, _FAULTS = "status.json", "faults"
# What a fault of time or memory begins with, see `tests.fuzzing.worker.Verdict`.
_OF_THE_PROCESS = ("took", "the process has grown")


def run(minutes: float, seed: int, keep: Path | None) -> tuple[Counter, list[str]]:
    """Fuzz for so many minutes.

    Returns
    -------
    counts
        "read", "refused" and "faults"; "files" in all; "branches" reached.
    faults
        What is wrong, a line each; the files are in ``keep``.

    Raises
    ------
    SystemExit
        If atheris is not installed.
    """
    if importlib.util.find_spec("atheris") is None:
        raise SystemExit("--coverage needs atheris: pip install atheris")
    counts: Counter = Counter()
    faults: dict[str, str] = {}
    until = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        place = keep or Path(folder, _FAULTS)
        place.mkdir(parents=True, exist_ok=True)
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for name, film in every_film().items():
            (corpus / name.replace(" ", "-")).write_bytes(film.data)
        starts = 0
        while (left := until - time.monotonic()) > 5:
            status = Path(folder, f"{starts}-{_STATUS}")
            words = [str(int(left)), str(seed + starts), str(corpus), str(place), str(status)]
            command = [sys.executable, "-m", "tests.fuzzing.guided", *words]
            done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
            if status.exists():
                counts += Counter(json.loads(status.read_text())["counts"])
                faults |= json.loads(status.read_text())["faults"]
            elif starts == 0:
                raise SystemExit(done.stderr.decode(errors="replace")[-2000:])
            if done.returncode:
                counts["faults"] += 1
                said = [line for line in done.stderr.decode(errors="replace").splitlines() if line]
                name = f"guided-{seed + starts}-crash"
                faults[name] = f"crashed: exit code {done.returncode}: {said[-1:]}"
                Path(f"{status}.now").replace(place / name)
            lines = done.stderr.decode(errors="replace").splitlines()
            covered = [line.split("cov: ")[1].split()[0] for line in lines if " cov: " in line]
            counts["branches"] = max(counts["branches"], int(covered[-1]) if covered else 0)
            starts += 1
        counts["kept for new branches"] = len(list(corpus.iterdir())) - len(every_film())
        _without_instruments(place, counts, faults)
    return counts, [f"{name}: {fault}" for name, fault in faults.items()]


def _without_instruments(place: Path, counts: Counter, faults: dict[str, str]) -> None:
    """Drop what took too much only because it was watched."""
    took = [name for name, fault in faults.items() if fault.startswith(_OF_THE_PROCESS)]
    if not took:
        return
    worker = Worker(SECRET)
    for name in took:
        verdict = worker.read((place / name).read_bytes())
        if verdict.fault:
            faults[name] = verdict.fault
            continue
        del faults[name]
        counts["faults"] -= 1
        counts[verdict.outcome] += 1
        (place / name).unlink()
    worker.stop()


def _target() -> None:
    """The process: libFuzzer's loop around the reader."""
    import atheris

    seconds, seed, corpus, keep, status = sys.argv[1:]
    with atheris.instrument_imports(include=_INSTRUMENTED):
        for name in ("BmpImagePlugin", "JpegImagePlugin", "MpoImagePlugin", "PngImagePlugin"):
            __import__(f"PIL.{name}")
        for name in ("TiffImagePlugin", "WebPImagePlugin"):
            __import__(f"PIL.{name}")
        import cft.film.dicom
        import cft.film.read  # noqa: F401

    from tests import fuzz_radiograph
    from tests.fuzzing.worker import FilmMeter

    meter = FilmMeter(SECRET)
    counts: Counter = Counter()
    faults: dict[str, str] = {}

    def one(data: bytes) -> None:
        Path(f"{status}.now").write_bytes(data)  # there after a crash
        verdict = meter.verdict(data)
        counts["files"] += 1
        counts["faults" if verdict.fault else verdict.outcome] += 1
        if verdict.fault:
            name = f"guided-{seed}-{len(faults) + 1}"
            faults[name] = verdict.fault
            Path(keep, name).write_bytes(data)
        if verdict.fault or counts["files"] % 100 == 0:
            part = Path(f"{status}.part")
            part.write_text(json.dumps({"counts": counts, "faults": faults}))
            part.replace(status)

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        random = Random(seed)
        damaged = None
        if random.random() < 0.5:
            damaged = fuzz_radiograph.structured(data, random)[1]
        if damaged is None:
            damaged = atheris.Mutate(data, largest)
        return damaged[:largest]

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    options = [f"-max_total_time={seconds}", f"-seed={int(seed) + 1}", f"-max_len={_LARGEST}"]
    # The meter limits the time: CPU time, which a busy machine does not make longer.
    options += ["-rss_limit_mb=4000", "-report_slow_units=100000", f"-artifact_prefix={keep}/"]
    atheris.Setup([sys.argv[0], *options, corpus], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    _target()
