"""Processes of the tests that begin with everything imported.

PyTorch, timm and scikit-learn take some seconds of a processor to import, in each process that
trains. Python's fork server imports them once for all processes of a test run (or of a worker of
pytest-xdist) and computes nothing; each process here is a fork of it. A fork of the tests
themselves could hang in OpenMP's locks.

What is about the start of a command, or about an interpreter that has imported nothing, has to
start a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
# What a run of either stage imports, at once or late.
_SERVER.set_forkserver_preload(
    ["pytest", "train.negative", "train.cft", "sklearn.linear_model", "torch._dynamo"]
)


class Fork:
    """A process that calls a function.

    Parameters
    ----------
    target
        A function of a module, such as a command's ``main``.
    arguments
        What it is called with. It returns an exit status, or None if all went well.
    environment
        Is added to the variables of this process.

    Attributes
    ----------
    output
        Its standard output and error, a file to read from while it runs.
    said
        What of it was left when it was waited for.
    """

    def __init__(self, target: Callable[..., int | None], *arguments: Any, **environment: str):
        reader, writer = _SERVER.Pipe(duplex=False)
        variables = {**os.environ, **environment}
        self._process = _SERVER.Process(target=_run, args=(writer, variables, target, arguments))
        self._process.start()
        writer.close()
        self.output = os.fdopen(os.dup(reader.fileno()), errors="replace")
        reader.close()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    def wait(self) -> int:
        """Read the rest of its output, and wait for its end: the exit status, or -signal."""
        self.said = self.output.read()
        self.output.close()
        self._process.join()
        return self._process.exitcode


def as_by_torchrun(count: int, target: Callable[..., int | None], *arguments: Any) -> list[Fork]:
    """So many processes that know of each other as torchrun's do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Fork(target, *arguments, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(count)
    ]


def _run(
    output: Connection,
    variables: Mapping[str, str],
    target: Callable[..., int | None],
    arguments: tuple,
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    sys.exit(target(*arguments))
