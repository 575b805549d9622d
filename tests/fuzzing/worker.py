"""Processes that read damaged films, so that a crash or an endless loop is seen and counted."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time

import numpy as np

from cft.errors import RadiographError
from cft.film.radiograph import MAX_PIXELS
from cft.film.read import read_radiograph
from tests.films import every_film

KILL_AFTER_SECONDS = 20.0


def judge(data: bytes, secret: str) -> tuple[str, str]:
    """Outcome and detail for one file; runs in a worker."""
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
