"""The threads of one process: how many, and how they wait for each other."""

from __future__ import annotations

import os

__all__ = ["limit_threads", "wait_briefly"]

# A free Space has two cores; more threads than cores make every film slower.
_THREADS = 2


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


def limit_threads() -> None:
    """Let PyTorch use no more threads than a small machine has cores."""
    import torch

    torch.set_num_threads(min(_THREADS, os.cpu_count() or 1))
