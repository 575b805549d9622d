"""The threads of one process: how many, and how they wait for each other."""

from __future__ import annotations

import os
import sys

__all__ = [
    "limit_threads",
    "one_thread_in_numpy",
    "processors",
    "set_threads",
    "threads",
    "wait_briefly",
]

# A free Space has two cores; more threads than cores make every film slower.
_THREADS = 2

# OpenMP's number of threads, in the environment.
_NUMBER = "OMP_NUM_THREADS"


def wait_briefly() -> None:
    """Let OpenMP's threads sleep soon while they wait, unless the environment says otherwise.

    To be called before torch is imported, which reads it once. By default GNU's OpenMP waits in a
    loop for milliseconds. Beside other busy programs the loop takes the processor from the very
    thread that is waited for; without any loop, where each thread has a processor of its own,
    waking up takes as long as the work (`benchmarks.waiting` measures all three). Programs that use
    `cft` as a library decide for themselves.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def one_thread_in_numpy() -> None:
    """Let numpy's products be worked out by the thread that asks, unless the environment says else.

    To be called before numpy is imported, which reads it once. OpenBLAS's other threads would wait
    in a loop for the next product, and take the processor from the network.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def limit_threads() -> None:
    """Let engines use no more threads than a small machine has cores."""
    set_threads(min(_THREADS, os.cpu_count() or 1))


def set_threads(number: int) -> None:
    """Let PyTorch, now or once it is imported, and engines that are made from now on use so many.

    For programs: it may change the environment, where PyTorch looks when it is imported.
    """
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(number)
    else:
        os.environ[_NUMBER] = str(number)


def threads() -> int:
    """How many threads an engine uses: as many as PyTorch, never more than there are processors."""
    if "torch" in sys.modules:
        import torch

        number = torch.get_num_threads()
    else:
        stated = os.environ.get(_NUMBER, "")
        number = int(stated) if stated.isdecimal() else processors()
    return max(1, min(number, processors()))


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
