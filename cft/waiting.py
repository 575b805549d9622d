"""How the threads of one process wait for each other."""

from __future__ import annotations

import os

__all__ = ["wait_asleep"]


def wait_asleep() -> None:
    """Let OpenMP's threads sleep while they wait, unless ``OMP_WAIT_POLICY`` says otherwise.

    To be called before torch is imported, which reads it once. By default they wait in a loop,
    which is a little faster where each has a processor of its own. Beside other busy programs the
    loop takes the processor from the very thread that is waited for (`benchmarks.waiting`).
    Programs that use `cft` as a library decide for themselves.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
