"""The folder of uploads: one for each process, swept, and removed with it, however it ended."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves stays there
    fcntl = None  # type: ignore[assignment]

_PREFIX = "cft-uploads-"
_NAME = re.compile(re.escape(_PREFIX) + r"[a-z0-9_]{8}")  # as `tempfile.mkdtemp` makes them

#: Gradio's variable for the folder that it writes to.
_VARIABLE = "GRADIO_TEMP_DIR"


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder of this process alone for what Gradio writes; in the end it is removed.

    Those of processes that were killed are removed first: a process holds a lock on its folder, and
    the system lets go of it with the process, whatever ends that.
    """
    parent = os.environ.get(_VARIABLE)
    place = Path(parent or tempfile.gettempdir())
    place.mkdir(parents=True, exist_ok=True)
    remove_abandoned(place)
    with _locked_folder(place) as folder:
        os.environ[_VARIABLE] = str(folder)
        try:
            yield folder
        finally:
            os.environ.pop(_VARIABLE)
            if parent is not None:
                os.environ[_VARIABLE] = parent


@contextlib.contextmanager
def _locked_folder(place: Path) -> Iterator[Path]:
    for _ in range(10):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        lock = _lock(folder)
        if lock is not None:
            break
        # A process that starts took the new folder for an abandoned one; or there are no locks
        # here, and then none that starts removes anything.
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_abandoned(place: Path) -> None:
    """Remove the folders of uploads whose processes have ended."""
    for folder in place.iterdir():
        if _NAME.fullmatch(folder.name) and _is_ours(folder):
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _is_ours(folder: Path) -> bool:
    """A real folder that this user made, as `tempfile.mkdtemp` makes them, for nobody else."""
    with contextlib.suppress(OSError):
        facts = folder.lstat()
        owned = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
        return stat.S_ISDIR(facts.st_mode) and owned and stat.S_IMODE(facts.st_mode) == 0o700
    return False


def _lock(folder: Path) -> int | None:
    """Lock a folder for this process; None if another has it, or if it is gone."""
    if fcntl is None:
        return None
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(folder.stat(), os.fstat(handle)):  # nobody removed it meanwhile
            return handle
    except OSError:
        pass
    if handle is not None:
        os.close(handle)
    return None
