"""Files that can be computed again, in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from cft.files import atomic_write

__all__ = ["cache_folder", "fetch", "keep"]

#: Most files that are kept; the one that was not used for longest goes first.
MOST_FILES = 8

_DIGEST = hashlib.sha256().digest_size


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
    if folder is None:
        return None
    try:
        data = (folder / name).read_bytes()
    except OSError:
        return None
    content = data[_DIGEST:]
    if _digest(name, content) != data[:_DIGEST]:
        return None
    with contextlib.suppress(OSError):  # of another user: it can be read all the same
        os.utime(folder / name)
    return content


def keep(name: str, content: bytes) -> None:
    """Keep something under a name, where that is possible; a reader sees all of it or nothing."""
    folder = cache_folder()
    if folder is None:
        return
    with contextlib.suppress(OSError):  # no place, or no right to write: it is computed again
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write(folder / name, _digest(name, content) + content)
        _forget_oldest(folder, Path(name).suffix)


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


def _forget_oldest(folder: Path, suffix: str) -> None:
    kept = sorted(folder.glob(f"*{suffix}"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-MOST_FILES]:
        path.unlink(missing_ok=True)
