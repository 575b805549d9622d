"""Films decoded and resized once, into one uint8 array that training reads from then on.

The decoder and the geometry are those of inference (`cft.read_radiograph`,
`cft.model.preprocess.Preprocess.geometry`), so a film reaches the network the same way in both. A
pack is
a folder: ``pixels.u8`` holds the (N, H, W) array, ``done.u8`` one byte a film (0 to do, 1 there,
2 unreadable), ``index.json`` what it was made from and the reasons for the unreadable films,
``pixels.sha256`` the hash of the array once somebody asked for it.
Packing uses all cores and may be stopped at any time; it goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from cft.errors import RadiographError
from cft.files import atomic_write, from_json, regular, reserve_all
from cft.film.read import read_radiograph
from cft.model.preprocess import Preprocess
from train.locks import locked

__all__ = ["Pixels", "pack", "resized"]
logger = logging.getLogger(__name__)
_FORMAT = 1
_INDEX, _HASH = "index.json", "pixels.sha256"
_TO_DO, _DONE, _UNREADABLE = 0, 1, 2

# Films that one task of a worker decodes; what is lost at most when a worker is killed.
_TASK = 64

# Threads that keep a core busy each; with more, the parts that are Python wait for each other.
_THREADS = 2

# Seconds until a worker process has started, of which most is the import of torch.
_STARTING = 4.0

# Share of a GPU's free memory that the films may take; the rest is for the network.
_RESIDENT_SHARE = 0.5


@dataclass(frozen=True)
class Pixels:
    """A pack of films, open for reading.

    Attributes
    ----------
    array
        (N, H, W) uint8, memory-mapped: rows are read from disk when they are used.
    unreadable
        Row -> the reader's sentence, for films that could not be read; their rows are black.
    folder
        Where the pack is; None: the films are in memory.
    """

    array: np.ndarray
    unreadable: dict[int, str]
    folder: Path | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of the films. A pack that is whole stays as it is, so its hash is noted in it."""
        note = self.folder and self.folder / _HASH
        if note and note.exists():
            return regular(note).read_text()
        digest = hashlib.sha256()
        for start in range(0, len(self.array), 1024):  # not all films in memory at once
            digest.update(np.ascontiguousarray(self.array[start : start + 1024]).data)
        if note:
            atomic_write(note, digest.hexdigest())
        return digest.hexdigest()

    def loader(self, device: torch.device, where: str = "auto") -> Loader:
        """Make the films available on a device.

        Parameters
        ----------
        device
            Where batches are wanted.
        where
            "device" (all films in its memory), "host" (each batch read and sent while the device
            works on the one before) or "auto" (the device if they take at most half of its free
            memory). A CPU reads the file in any case: the operating system keeps it in memory.
        """
        if where == "auto" and device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            where = "device" if self.array.nbytes <= _RESIDENT_SHARE * free else "host"
        if where == "device" and device.type == "cuda":
            resident = torch.empty(self.array.shape, dtype=torch.uint8, device=device)
            for start in range(0, len(self.array), 4096):  # no second copy in the host's memory
                part = np.ascontiguousarray(self.array[start : start + 4096])
                resident[start : start + len(part)] = torch.from_numpy(part)
            return Loader(resident, device)
        return Loader(self.array, device)


class Loader:
    """Batches of films on a device, by row number; see `Pixels.loader`."""

    def __init__(self, films: torch.Tensor | np.ndarray, device: torch.device):
        self._films = films
        self._device = device

    def batches(self, rows: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        """Yield (n, 1, H, W) uint8 on the device for each array of n row numbers.

        To a GPU, the next batch is read and sent while the caller works on this one.
        """
        if isinstance(self._films, torch.Tensor):
            for batch in rows:
                index = torch.from_numpy(np.asarray(batch)).to(self._device)
                yield self._films[index][:, None]
        elif self._device.type == "cpu":
            for batch in rows:
                yield self._read(batch)
        else:
            yield from self._ahead(rows)

    def _ahead(self, rows: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting = None
            for batch in rows:
                following = reader.submit(self._read, batch)
                if waiting is not None:
                    yield waiting.result().to(self._device, non_blocking=True)
                waiting = following
            if waiting is not None:
                yield waiting.result().to(self._device, non_blocking=True)

    def _read(self, rows: np.ndarray) -> torch.Tensor:
        films = torch.from_numpy(self._films[np.asarray(rows)])[:, None]
        return films if self._device.type == "cpu" else films.pin_memory()


def pack(
    images: Sequence[Path],
    preprocess: Preprocess,
    cache: str | os.PathLike,
    workers: int | None = None,
    progress: bool = True,
) -> Pixels:
    """Decode and resize films, or open the pack that already holds them.

    Parameters
    ----------
    images
        The films' files, in the order of the rows.
    preprocess
        Gives the size and the geometry.
    cache
        Folder whose folder ``pixels`` holds packs. The pack's own folder in it is named by a hash
        of the geometry and of every file's path, size and time of change, so a pack is never used
        for other films.
    workers
        How many films are decoded at once, by threads or processes; None: one a core.
    progress
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        If there are no films, or none of them can be read.
    OSError
        If the pack cannot be written, or the disk has no room for it; then nothing is left of it.
    """
    if not images:
        raise ValueError("there are no films to pack")
    recipe = _recipe(preprocess)
    folder = _folder(Path(cache), _key(images, recipe))
    shape = (len(images), *preprocess.input_size[1:])
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=True):  # a second run on the same films waits, and finds them packed
        index = _index_of(folder, shape, recipe)
        done = np.memmap(folder / "done.u8", np.uint8, "r+", shape=len(images))
        todo = np.flatnonzero(done == _TO_DO)
        if len(todo):
            logger.info("Packing %d of %d films into %s", len(todo), len(images), folder)
            _pack_rows(images, preprocess, folder, shape, todo, done, index, workers, progress)
    unreadable = {int(row): reason for row, reason in index["unreadable"].items()}
    if len(unreadable) == len(images):
        raise ValueError(f"none of the {len(images)} films can be read; the first: {unreadable[0]}")
    return Pixels(np.memmap(folder / "pixels.u8", np.uint8, "r", shape=shape), unreadable, folder)


def resized(films: np.ndarray, preprocess: Preprocess) -> Pixels:
    """Films that are in memory already, (N, H, W) uint8, at the size of the network's input."""
    if films.shape[1:] == preprocess.input_size[1:]:
        return Pixels(films, {})
    array = np.empty((len(films), *preprocess.input_size[1:]), np.uint8)
    for row, film in enumerate(films):
        array[row] = _as_bytes(preprocess.geometry(film.astype(np.float32) / 255))
    return Pixels(array, {})


def _pack_rows(images, preprocess, folder, shape, todo, done, index, workers, progress) -> None:
    """Fill the rows that are to do; `done` and `index` follow, task by task."""
    tasks = [todo[i : i + _TASK] for i in range(0, len(todo), _TASK)]
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    arguments = (folder, shape, preprocess)
    with tqdm(total=len(todo), unit="film", desc="packing", disable=not progress) as bar:
        for rows, reasons in _results(images, tasks, arguments, workers):
            bad = [row for row, reason in zip(rows, reasons, strict=True) if reason]
            index["unreadable"].update(
                {str(row): reason for row, reason in zip(rows, reasons, strict=True) if reason}
            )
            if bad:  # the reason is on disk before the mark, so no mark lacks its reason
                atomic_write(folder / _INDEX, json.dumps(index, indent=1))
            done[rows] = _DONE
            done[bad] = _UNREADABLE
            done.flush()
            bar.update(len(rows))


def _results(
    images: Sequence[Path],
    tasks: Sequence[np.ndarray],
    arguments: tuple[Path, tuple[int, ...], Preprocess],
    workers: int,
) -> Iterator[tuple[np.ndarray, list[str | None]]]:
    """(rows, reasons) of each task, as they come.

    Decoders and products run beside each other in threads, which are there at once. The parts that
    are Python wait for each other; so many cores go over to processes, unless the films are packed
    before these have started.
    """
    began, threads = time.perf_counter(), min(workers, _THREADS)
    waiting, rest = deque(tasks), deque[np.ndarray]()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        for number, result in enumerate(_each(pool, threads, images, waiting, arguments), start=1):
            yield result
            # What is left, by the pace so far, and what several processes would spare of it.
            left = (time.perf_counter() - began) / number * len(waiting)
            if left * (1 - threads / workers) > _STARTING:
                rest.extend(waiting)
                waiting.clear()  # those that are begun come to their end here
    if rest:  # a fresh interpreter a worker: forking a process that has used torch can hang
        context = get_context("spawn")
        with ProcessPoolExecutor(workers, context, threadpool_limits, (1, "blas")) as pool:
            yield from _each(pool, 2 * workers, images, rest, arguments)


def _each(
    pool: Executor,
    most: int,
    images: Sequence[Path],
    waiting: deque[np.ndarray],
    arguments: tuple[Path, tuple[int, ...], Preprocess],
) -> Iterator[tuple[np.ndarray, list[str | None]]]:
    """(rows, reasons) of the tasks that wait, as they come, of which at most so many are begun."""
    running: dict[Future, np.ndarray] = {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                rows = waiting.popleft()
                task = pool.submit(_decode, *arguments, rows, [images[row] for row in rows])
                running[task] = rows
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(task), task.result()
    except BaseException:  # Ctrl-C: what is under way ends, what waits is dropped
        pool.shutdown(cancel_futures=True)
        raise


def _decode(
    folder: Path, shape: tuple, preprocess: Preprocess, rows: np.ndarray, images: list[Path]
) -> list[str | None]:
    """Write some rows of the array; return for each film None or why it cannot be read."""
    array = np.memmap(folder / "pixels.u8", np.uint8, "r+", shape=shape)
    reasons: list[str | None] = []
    for row, image in zip(rows, images, strict=True):
        try:
            array[row] = _as_bytes(preprocess.geometry(read_radiograph(image).pixels))
            reasons.append(None)
        except RadiographError as error:
            reasons.append(str(error))
    array.flush()
    return reasons


def _as_bytes(film: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0 to 255."""
    return (film * 255).round().astype(np.uint8)


def _recipe(preprocess: Preprocess) -> dict:
    """The part of the preprocessing that decides the packed pixels."""
    config = {**preprocess.to_config(), "input_size": list(preprocess.input_size[1:])}
    if preprocess.crop_mode != "border":
        del config["mean"]  # only the border is filled with it
    del config["std"]
    return {"format": _FORMAT, **config}


def _key(images: Sequence[Path], recipe: dict) -> str:
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for image in images:
        try:
            facts = os.stat(image)
            digest.update(
                f"{os.path.abspath(image)}\0{facts.st_size}\0{facts.st_mtime_ns}".encode()
            )
        except OSError:  # decoding will say what is wrong
            digest.update(f"{os.path.abspath(image)}\0missing".encode())
    return f"{recipe['input_size'][0]}x{recipe['input_size'][1]}-{digest.hexdigest()[:16]}"


def _folder(cache: Path, key: str) -> Path:
    """Where a pack is. Older versions put packs into the cache itself; they are used there."""
    older = cache / key
    return older if older.is_dir() else cache / "pixels" / key


def _index_of(folder: Path, shape: tuple[int, int, int], recipe: dict) -> dict:
    """What the pack's index says; the pack is begun anew if it is not there or does not fit."""
    files = {"pixels.u8": int(np.prod(shape)), "done.u8": shape[0]}
    made_from = {**recipe, "films": shape[0]}
    try:
        index = from_json(regular(folder / _INDEX).read_text())
        whole = all((folder / name).stat().st_size == size for name, size in files.items())
        rows = map(int, index["unreadable"])
        if (
            whole
            and set(rows) <= set(range(shape[0]))
            and {**index, "unreadable": {}} == {**made_from, "unreadable": {}}
        ):
            return index
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass  # nothing there, or damaged
    (folder / _HASH).unlink(missing_ok=True)
    (folder / _INDEX).unlink(missing_ok=True)  # it comes last and says that the others are there
    reserve_all(folder, files)
    index = {**made_from, "unreadable": {}}
    atomic_write(folder / _INDEX, json.dumps(index, indent=1))
    return index
