"""A folder that one process at a time works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cft.files import remove_leftovers

_LOCK = ".lock"


class Busy(Exception):
    """Another process works in the folder."""


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder; what killed processes left half-written in it is removed first.

    The operating system keeps the lock (``flock`` on the file ``.lock``, which stays) and lets go
    of it when the process ends, however it ends.

    Parameters
    ----------
    folder
        An existing folder.
    wait
        Whether to wait for a process that holds it.

    Raises
    ------
    Busy
        If another process holds it, and ``wait`` is false.
    """
    lock = FileLock(folder / _LOCK, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise Busy from None
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()
