"""The films that visitors upload: counted, named by request, read once, deleted.

Nothing here knows Gradio. Each upload has a folder of its own with a random name, so that it
belongs to the one request that names it, and nobody else can name it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_FILMS = 20

# What may wait to be read: in all, and of one visitor.
MAX_WAITING, MAX_WAITING_OF_ONE = 400 * 2**20, 200 * 2**20
MAX_FILES, MAX_FILES_OF_ONE = 1000, 100

# What a file takes at least: its block, and that of its folder.
_BLOCKS = 8192

# An upload that no request has named by then was abandoned: a broken transfer, a closed page.
_SECONDS = 300
_SWEEP_SECONDS = 1
_LATE_SECONDS = 30  # then the sweeper is not well

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


@dataclass
class _Waiting:
    """A file that waits to be read."""

    visitor: str
    size: int
    since: float
    request: str | None = None  # in the queue, that will read it


class Transfer:
    """An upload while it arrives; see `Uploads.arriving`."""

    def __init__(self, uploads: Uploads, visitor: str, place: Path):
        self.place, self.is_complete = place, False
        self._uploads, self._visitor, self._counted = uploads, visitor, 0

    def count(self, size: int) -> None:
        """So many bytes more have come.

        Raises
        ------
        Refused
            If too many wait, of this visitor or in all.
        """
        self._uploads._reserve(self._visitor, size)
        self._counted += size

    def complete(self, files: Iterable[Path]) -> None:
        """The upload is there; its files wait from now on, and nothing else of it stays.

        Raises
        ------
        Refused
            If too many wait.
        """
        files = list(files)
        self._delete_all_but(files)
        self._give_back()
        self._uploads._add(self._visitor, files)
        self.is_complete = True

    def _delete_all_but(self, files: list[Path]) -> None:
        """Such as the beginning of a file whose end is missing, which nothing would count."""
        for place, _, names in os.walk(self.place):
            for path in (Path(place, name) for name in names):
                if path not in files:
                    path.unlink(missing_ok=True)

    def _give_back(self) -> None:
        self._uploads._reserve(self._visitor, -self._counted)
        self._counted = 0


class Uploads:
    """What visitors have uploaded and no request has read yet.

    Parameters
    ----------
    folder
        Where it lies.
    is_alive
        Whether a request, by its id, still waits or runs. What a request of the queue named is
        kept while it does and no longer, however it ends.
    """

    def __init__(self, folder: Path, is_alive: Callable[[str], bool] = lambda request: True):
        self.folder, self.is_alive = folder, is_alive
        self._files: dict[str, _Waiting] = {}
        self._bytes: Counter[str] = Counter()  # of each visitor, transfers among them
        self._lock = threading.Lock()
        self._swept, self._trouble = time.monotonic(), ""

    # ------------------------------------------------------------------------- arriving

    @contextlib.contextmanager
    def arriving(self, visitor: str) -> Iterator[Transfer]:
        """An upload of a visitor; unless it is completed, nothing of it stays."""
        transfer = Transfer(self, visitor, Path(tempfile.mkdtemp(dir=self.folder)))
        try:
            transfer.count(_BLOCKS)
            yield transfer
        finally:
            transfer._give_back()
            if not transfer.is_complete:
                shutil.rmtree(transfer.place, ignore_errors=True)

    def _reserve(self, visitor: str, size: int) -> None:
        with self._lock:
            if size > 0:
                self._refuse_more(visitor, size)
            self._count(visitor, size)

    def _refuse_more(self, visitor: str, size: int) -> None:
        if self._bytes[visitor] + size > MAX_WAITING_OF_ONE:
            raise Refused(
                f"Films of more than {MAX_WAITING_OF_ONE // 2**20} MB are too many at a time: "
                "send fewer, and the others after the answer. None was read."
            )
        if self._bytes.total() + size > MAX_WAITING:
            raise Refused(
                "So many films of other visitors wait that there is no room for more: try again "
                "in a few minutes. None was read."
            )

    def _count(self, visitor: str, size: int) -> None:
        self._bytes[visitor] += size
        if self._bytes[visitor] <= 0:
            del self._bytes[visitor]

    def _add(self, visitor: str, files: list[Path]) -> None:
        sizes = [path.stat().st_size + _BLOCKS for path in files]
        with self._lock:
            self._refuse_more(visitor, sum(sizes))
            of_one = sum(file.visitor == visitor for file in self._files.values())
            if of_one + len(files) > MAX_FILES_OF_ONE or len(self._files) + len(files) > MAX_FILES:
                raise Refused("Too many files wait: try again in a few minutes. None was read.")
            self._count(visitor, sum(sizes))
            now = time.monotonic()
            for path, size in zip(files, sizes, strict=True):
                self._files[str(path)] = _Waiting(visitor, size, now)

    # -------------------------------------------------------------------------- reading

    def claim(self, paths: Iterable[str], request: str) -> None:
        """A request of the queue has named these uploads."""
        with self._lock:
            for path in paths:
                if path in self._files:
                    self._files[path].request = request

    @contextlib.contextmanager
    def reading(self, files: list[dict[str, Any]] | None) -> Iterator[list[Film]]:
        """The films of one request; their files are gone afterwards, whatever happened.

        Raises
        ------
        Refused
            If one was not uploaded, or they are none or too many.
        """
        try:
            films = uploaded_films(files)
            with self._lock:
                if not all(path in self._files for _, path in films):
                    raise Refused("The request names no uploaded files, or they were read before.")
            yield films
        finally:
            self.delete([file["path"] for file in files or ()])

    def delete(self, paths: Iterable[str]) -> None:
        """Delete these uploads; anything else stays."""
        for path in paths:
            with self._lock:
                file = self._files.pop(path, None)
                if file is not None:
                    self._count(file.visitor, -file.size)
            if file is not None:
                with contextlib.suppress(OSError):  # the sweeper was here
                    self._remove(Path(path))

    def _remove(self, path: Path) -> None:
        """The file, and the folders of its upload once they are empty."""
        path.unlink()
        for folder in path.parents:
            if folder == self.folder:
                return
            folder.rmdir()

    # ------------------------------------------------------------------------- sweeping

    def sweep(self) -> None:
        """Delete what no request will read any more, and what is left of broken transfers."""
        now = time.monotonic()
        with self._lock:
            files = list(self._files.items())
        self.delete(
            path
            for path, file in files
            if (now - file.since > _SECONDS if file.request is None else not self._lives(file))
        )
        with self._lock:
            known = set(self._files)
        sweep(self.folder, _SECONDS, known)

    def _lives(self, file: _Waiting) -> bool:
        return file.request is not None and self.is_alive(file.request)

    @contextlib.contextmanager
    def swept(self) -> Iterator[None]:
        """Sweep every second, in a thread of its own, for the length of the block."""
        stopped = threading.Event()
        thread = threading.Thread(target=self._sweep_until, args=(stopped,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()

    def _sweep_until(self, stopped: threading.Event) -> None:
        while not stopped.wait(_SWEEP_SECONDS):
            try:
                self.sweep()
                self._swept, self._trouble = time.monotonic(), ""
            except Exception as error:  # whatever it is, the next sweep may succeed
                self._trouble = type(error).__name__

    def health(self) -> dict[str, Any]:
        """``ok``, and what waits: ``files``, ``bytes``; of the sweeper its age and last error."""
        with self._lock:
            files, size = len(self._files), self._bytes.total()
        age = time.monotonic() - self._swept
        return {
            "ok": age < _LATE_SECONDS and not self._trouble,
            "files": files,
            "bytes": size,
            "seconds_since_sweep": round(age, 1),
            "sweeper_error": self._trouble,
        }


def sweep(folder: Path, age: float, keep: set[str] | frozenset[str] = frozenset()) -> None:
    """Delete everything in a folder that is older than ``age`` seconds and not to be kept.

    Gradio's ``delete_cache`` would miss transfers that broke off: it knows complete uploads only.
    What vanishes meanwhile is passed by; `os.walk`, unlike ``Path.rglob``, goes on without it.
    """
    for place, folders, files in os.walk(folder, topdown=False):  # a folder after its files
        for name in (*files, *folders):
            path = Path(place, name)
            if str(path) in keep:
                continue
            with contextlib.suppress(OSError):  # gone meanwhile, or a folder that is not empty
                if time.time() - path.lstat().st_ctime > age:
                    is_folder = path.is_dir() and not path.is_symlink()
                    path.rmdir() if is_folder else path.unlink()
