"""The films that visitors upload: named, read once, deleted. Nothing here knows Gradio."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MAX_FILMS = 20

# An upload that no request has read by then was abandoned: a broken transfer, a closed page.
_SECONDS = 300
_SWEEP_SECONDS = 60

Film = tuple[str, Any]  # name, and anything that `cft.Classifier.predict` takes


class Refused(ValueError):
    """A request is not answered at all; the message is the sentence for the visitor."""


def uploaded_films(files: list[dict[str, Any]] | None) -> list[Film]:
    """Gradio's description of some uploads -> names and paths.

    Raises
    ------
    Refused
        If there are none or too many.
    """
    if not files:
        raise Refused("There is no film: choose one file or several.")
    if len(files) > MAX_FILMS:
        raise Refused(
            f"{len(files)} files are too many at a time: send at most {MAX_FILMS}. None was read."
        )
    return [(_printable(file.get("orig_name") or file["path"]), file["path"]) for file in files]


def _printable(name: str) -> str:
    """The last part of a file name, without the characters that change how others are shown."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


class Uploads(set):
    """The paths of the uploads that wait to be read, counted.

    Takes the place of the set in which Gradio records uploads. Gradio names an upload by its
    content, so visitors who drop the same film share one file; it is deleted when the last of
    them has been served.
    """

    def __init__(self):
        super().__init__()
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()

    def update(self, paths: Iterable[str]) -> None:  # type: ignore[override]  # all Gradio calls
        """Called by Gradio when uploads have arrived."""
        with self._lock:
            self._waiting.update(paths)

    @contextlib.contextmanager
    def reading(self, files: list[dict[str, Any]] | None) -> Iterator[list[Film]]:
        """The films of one request; their files are gone afterwards, whatever happened."""
        try:
            yield uploaded_films(files)
        finally:
            for file in files or ():
                self._release(file["path"])

    def _release(self, path: str) -> None:
        with self._lock:
            self._waiting[path] -= 1
            if self._waiting[path] > 0:
                return
            del self._waiting[path]
            with contextlib.suppress(OSError):  # the sweeper was here
                os.unlink(path)
                os.rmdir(os.path.dirname(path))


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder of this process alone for what Gradio writes; swept, and in the end removed."""
    variable = "GRADIO_TEMP_DIR"
    parent = os.environ.get(variable)
    stopped = threading.Event()
    with tempfile.TemporaryDirectory(prefix="cft-", dir=parent) as folder:
        os.environ[variable] = folder
        threading.Thread(target=_sweep_until, args=(stopped, Path(folder)), daemon=True).start()
        try:
            yield Path(folder)
        finally:
            stopped.set()
            os.environ.pop(variable)
            if parent is not None:
                os.environ[variable] = parent


def _sweep_until(stopped: threading.Event, folder: Path) -> None:
    while not stopped.wait(_SWEEP_SECONDS):
        sweep(folder, _SECONDS)


def sweep(folder: Path, age: float) -> None:
    """Delete everything in a folder of uploads that is older than ``age`` seconds.

    Gradio's ``delete_cache`` would miss transfers that broke off: it knows complete uploads only.
    What vanishes meanwhile is passed by; `os.walk`, unlike ``Path.rglob``, goes on without it.
    """
    for place, folders, files in os.walk(folder, topdown=False):  # a folder after its files
        for name in (*files, *folders):
            path = Path(place, name)
            with contextlib.suppress(OSError):  # gone meanwhile, or a folder that is not empty
                if time.time() - path.lstat().st_ctime > age:
                    is_folder = path.is_dir() and not path.is_symlink()
                    path.rmdir() if is_folder else path.unlink()
