"""Files: what is written whole or not at all, what killed processes left, and what is no file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

#: Bytes of a disk that `reserve` leaves for everything else, such as the next checkpoint.
LEFT_FREE = 256 * 2**20

# A file that is being written: hidden, with the number of the process that writes it.
_PART = re.compile(r"\..+\.(\d+)-[^.]+\.part")


def atomic_write(path: str | os.PathLike, data: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write that takes its name at the end, and only if nothing was raised.

    The data goes to a temporary file in the same folder, is flushed to disk and renamed. What a
    process leaves that is killed meanwhile, `remove_leftovers` removes.
    """
    with atomic_path(path) as temporary, open(temporary, "w+b") as file:
        yield file


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """`atomic_file` for what writes a file by its name: the name of the temporary one."""
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(".part", f".{path.name}.{os.getpid()}-", path.parent)
    except OSError as error:  # of the temporary file, whose name nobody asked for
        raise OSError(error.errno, error.strerror, str(path)) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide the file from others
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def regular(path: str | os.PathLike) -> Path:
    """A path, if a regular file is there: whoever opens a pipe waits for somebody to write into it.

    Raises
    ------
    OSError
        If there is no such file, or it is something else.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
    return Path(path)


def from_json(text: str | bytes) -> Any:
    """What JSON says.

    Raises
    ------
    ValueError
        If it is none. What is nested deeper than Python reads is none either, whereas `json.loads`
        raises a RecursionError, which no reader of damaged files expects.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Delete what killed processes left of files that they were writing into a folder.

    To be called while no other process of the same kind writes there, such as under a lock: the
    processes of another machine or container cannot be seen from here. What a process that still
    runs is writing stays.
    """
    with contextlib.suppress(OSError):  # there is no such folder, so nothing is left in it
        for name in os.listdir(folder):
            part = _PART.fullmatch(name)
            if part and not _is_another_that_runs(int(part[1])):
                with contextlib.suppress(OSError):  # of another user; it is in nobody's way
                    os.unlink(Path(folder, name))


def _is_another_that_runs(number: int) -> bool:
    if number == os.getpid():  # one of another container, whose numbers began anew
        return False
    if os.name == "nt":  # where signal 0 is no question
        return True
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def reserve(path: str | os.PathLike, size: int) -> None:
    """Make a file of zeros with its place on the disk reserved.

    A disk without room is an error here, before any work, and not a killed process (SIGBUS) when
    the file is filled by memory mapping.

    Parameters
    ----------
    path
        The file; what is there is replaced.
    size
        Bytes.

    Raises
    ------
    OSError
        If the disk has less room than that and `LEFT_FREE` together; nothing is left behind.
    """
    path = Path(path)
    path.unlink(missing_ok=True)
    free = shutil.disk_usage(path.parent).free
    if size + LEFT_FREE > free:
        sentence = (
            f"{size / 2**30:,.2f} GiB are needed and {LEFT_FREE / 2**30:,.2f} GiB are left for "
            f"others, but {max(free, 0) / 2**30:,.2f} GiB are free"
        )
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {sentence}", str(path))
    try:
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
    except BaseException:
        path.unlink(missing_ok=True)  # a part of it would fill the disk for nothing
        raise


def reserve_all(folder: str | os.PathLike, sizes: Mapping[str, int]) -> None:
    """Reserve several files of a folder, or none: those that there was room for go with the others.

    Parameters
    ----------
    folder
        Where they are.
    sizes
        Name -> bytes.

    Raises
    ------
    OSError
        See `reserve`.
    """
    try:
        for name, size in sizes.items():
            reserve(Path(folder, name), size)
    except BaseException:
        for name in sizes:
            Path(folder, name).unlink(missing_ok=True)
        raise
