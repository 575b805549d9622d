"""Processes that read what is damaged, so that a crash or an endless loop is seen and counted."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.film_memory import resident
from cft.errors import RadiographError
from cft.film.budget import DECODING
from cft.film.radiograph import MAX_PIXELS
from cft.film.read import read_radiograph
from tests.films import every_film

#: A file is given up after so much CPU time, or after so long a wait (a deadlock, or a machine that
#: has other work).
_GIVE_UP_CPU_SECONDS, _GIVE_UP_SECONDS = 30, 600.0

#: MB above what the process has after the films of `every_film`. A process may reserve three times
#: as much, so that a file without measure is refused memory and the machine lives on.
LIMIT_MEGABYTES = 1000.0

#: MB that a process may keep of all files that it has read; allocators keep some, a leak all.
LIMIT_LEFT = 200.0

#: The limit of CPU time.
LIMIT_SECONDS = 2.0

READY = "ready"


@dataclass(frozen=True)
class Verdict:
    """What became of one file.

    Attributes
    ----------
    outcome
        "read" or "refused" where all is well; "broke a rule", "escaped", "crashed" or "hung".
    detail
        The message of a refusal or exception, or the exit code.
    seconds
        CPU time, of all threads.
    megabytes
        The most memory, above that of the idle process.
    megapixels
        Of the picture that was decoded; 0 where none was.
    left
        MB by which the idle process has grown.
    """

    outcome: str
    detail: str
    seconds: float = 0.0
    megabytes: float = 0.0
    megapixels: float = 0.0
    left: float = 0.0

    @property
    def fault(self) -> str | None:
        """What is wrong, in words; None where nothing is."""
        if self.outcome not in ("read", "refused"):
            return f"{self.outcome}: {self.detail}"
        if self.seconds > LIMIT_SECONDS:
            picture = f" for {self.megapixels:.1f} megapixels" if self.megapixels else ""
            return f"took {self.seconds:.1f} s{picture}"
        if self.megabytes > LIMIT_MEGABYTES or "more memory than there is" in self.detail:
            return f"took {self.megabytes:.0f} MB"
        if self.left > LIMIT_LEFT:
            return f"the process has grown by {self.left:.0f} MB"
        return None


def judge(data: bytes, secret: str) -> tuple[str, str]:
    """Outcome and detail for one film; runs in a worker."""
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


class Meter:
    """Judges files and measures what each takes, in the process that makes it; needs Linux.

    What is measured is compared with the process as it is when this is made: by then, whatever is
    loaded once must have been.
    """

    def __init__(self) -> None:
        self._idle = resident("VmRSS")

    def judge(self, data: bytes) -> tuple[str, str]:
        """Outcome and detail for one file."""
        raise NotImplementedError

    def megapixels(self) -> float:
        """Of the picture that the latest file held."""
        return 0.0

    def limit_memory(self) -> None:
        """Refuse this process more than three times the limit, and core dumps."""
        size = resident("VmSize") + 3 * LIMIT_MEGABYTES
        resource.setrlimit(resource.RLIMIT_AS, (int(size * 1e6),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def verdict(self, data: bytes) -> Verdict:
        """Read one file."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now that of this file
        used = int(time.process_time())
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (used + _GIVE_UP_CPU_SECONDS, hard))
        began = time.process_time()
        outcome, detail = self.judge(data)
        seconds = time.process_time() - began
        above = max(resident("VmHWM") - self._idle, 0.0)
        left = resident("VmRSS") - self._idle
        if left > LIMIT_LEFT:  # and is said once
            self._idle += left
        return Verdict(outcome, detail, seconds, above, self.megapixels(), left)


class FilmMeter(Meter):
    """Reads films; making it reads every kind, so that all decoders are loaded."""

    def __init__(self, secret: str):
        self.secret = secret
        self._decoded: list[int] = []
        of = DECODING.of
        DECODING.of = lambda pixels: self._decoded.append(pixels) or of(pixels)  # type: ignore
        for film in every_film().values():
            read_radiograph(film.data)
        super().__init__()

    def judge(self, data: bytes) -> tuple[str, str]:
        self._decoded.clear()
        return judge(data, self.secret)

    def megapixels(self) -> float:
        return max(self._decoded, default=0) / 1e6


def read_films(pipe: Connection, secret: str) -> None:
    """Answer a `Verdict` to each film, until the pipe closes."""
    answer(pipe, lambda: FilmMeter(secret))


def answer(pipe: Connection, make: Callable[[], Meter]) -> None:
    """Answer a `Verdict` to each message, until the pipe closes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the native decoders' own remarks
    meter = make()
    meter.limit_memory()
    pipe.send(READY)
    while True:
        try:
            data = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send(meter.verdict(data))


class Worker:
    """A process that reads files, and is replaced when one of them kills it.

    Parameters
    ----------
    argument
        The second one of ``work``.
    work
        What the process runs: it sends `READY`, and then a `Verdict` for each message.
    """

    def __init__(self, argument: str, work: Callable[[Connection, str], None] = read_films):
        self.argument, self.work = argument, work
        self._start()

    def read(self, data: bytes) -> Verdict:
        """Have one file read."""
        try:
            self.pipe.send_bytes(data)
            if self.pipe.poll(_GIVE_UP_SECONDS):
                verdict = self.pipe.recv()
                if verdict.left > LIMIT_LEFT:
                    self.stop()
                    self._start()
                return verdict
            verdict = Verdict("hung", f"no answer in {_GIVE_UP_SECONDS:.0f} s")
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            verdict = (
                Verdict("hung", f"more than {_GIVE_UP_CPU_SECONDS} s of CPU")
                if code == -signal.SIGXCPU
                else Verdict("crashed", f"exit code {code}")
            )
        self.stop()
        self._start()
        return verdict

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.kill()
        self.process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=self.work, args=(theirs, self.argument), daemon=True)
        self.process.start()
        theirs.close()
        if self.pipe.recv() != READY:
            raise RuntimeError("the worker does not begin")
