"""Files that can be computed again, in the user's cache folder.

What is fetched is used without a further check, and its digest is no secret: so a file counts only
if nobody but this user, or root, could have written it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from pathlib import Path

from cft.files import atomic_write, remove_leftovers

__all__ = ["cache_folder", "fetch", "keep"]

#: Most files that are kept; the one that was not used for longest goes first.
MOST_FILES = 8

#: Largest of them, in bytes: a graph of ONNX has less than 2 GiB.
MAX_BYTES = 2**31

_DIGEST = hashlib.sha256().digest_size

_keeping = threading.Lock()


def cache_folder() -> Path | None:
    """Where they lie, or None if nothing is kept.

    ``CFT_CACHE`` in the environment names the folder, or switches it off if it is empty. Without it
    the folder is ``cft`` in ``XDG_CACHE_HOME``, or else in ``~/.cache``.
    """
    named = os.environ.get("CFT_CACHE")
    if named is not None:
        return Path(named) if named else None
    try:
        top = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return None
    return top / "cft" if top.is_absolute() else None


def fetch(name: str) -> bytes | None:
    """What was kept under a name; None if there is nothing, or not what was kept under it."""
    folder = cache_folder()
    data = None if folder is None else _read(folder / name)
    if folder is None or data is None:
        return None
    content = data[_DIGEST:]
    if _digest(name, content) != data[:_DIGEST]:
        return None
    with contextlib.suppress(OSError):  # of root's: it can be read all the same
        os.utime(folder / name)
    return content


def _read(path: Path) -> bytes | None:
    """The content of a file that only this user or root could write; None of anything else."""
    try:
        with open(path, "rb", opener=_without_following) as file:
            facts = os.fstat(file.fileno())
            return file.read(facts.st_size) if _is_trusted(facts) else None
    except (OSError, MemoryError):
        return None


def _without_following(path: str, flags: int) -> int:
    """Open a file, but no link, and without waiting for somebody to write into a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _is_trusted(facts: os.stat_result) -> bool:
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_BYTES:
        return False
    if os.name == "nt":  # where these facts are made up
        return True
    return facts.st_uid in (0, os.getuid()) and not facts.st_mode & stat.S_IWOTH


def keep(name: str, content: bytes) -> None:
    """Keep something under a name, where that is possible; a reader sees all of it or nothing."""
    folder = cache_folder()
    if folder is None:
        return
    # No place, or no right to write: it is computed again.
    with _keeping, contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_leftovers(folder)
        atomic_write(folder / name, _digest(name, content) + content)
        _forget_oldest(folder, Path(name).suffix)


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


def _forget_oldest(folder: Path, suffix: str) -> None:
    ages = {}
    for path in folder.glob(f"*{suffix}"):
        with contextlib.suppress(OSError):  # another process was here
            ages[path] = path.lstat().st_mtime
    for path in sorted(ages, key=lambda path: ages[path])[:-MOST_FILES]:
        with contextlib.suppress(OSError):
            path.unlink()
