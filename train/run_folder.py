"""The folder of a run: what began it, where its films are, which of them take part."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cft.files import atomic_write, from_json, regular, remove_leftovers
from cft.model.folder import CARD, CONFIG, WEIGHTS
from cft.model.preprocess import Preprocess
from train.command import FROM_ZERO, POSITIVE, option
from train.datasets.labels import LabelTable
from train.datasets.pixels import Pixels, pack, resized
from train.errors import TrainingError
from train.locks import Busy, locked
from train.processes import Processes

logger = logging.getLogger(__name__)

_RUN, LOG = "run.json", "log.jsonl"

# Keys of a run's file under which the places of its data and of the table of `--history` are; the
# model folder does not hold them.
DATA, HISTORY = "data", "history_table"


def rows_of_splits(table: LabelTable, pixels: Pixels, judge_width: int) -> dict[str, np.ndarray]:
    """Split -> the rows that take part: readable, and wide enough to judge a model by."""
    usable = np.ones(len(table), bool)
    usable[list(pixels.unreadable)] = False
    wide = np.ones(len(table), bool)
    if judge_width:
        if "width" not in table.attributes:
            raise TrainingError(f"--judge-width: {table.dataset} does not say how wide films are")
        wide = table.attributes["width"] >= judge_width
    return {
        split: np.flatnonzero((table.split == split) & usable & (wide | (split == "train")))
        for split in ("train", "valid", "test")
    }


def films_of(table: LabelTable, preprocess: Preprocess, work: Work, here: Processes) -> Pixels:
    """The table's films at the network's size; the main process packs them, the others wait."""
    if table.pixels is not None:
        return resized(table.pixels, preprocess)
    if not here.is_main:
        here.barrier()
    try:
        images, workers = table.images, work.workers
        pixels = pack(images, preprocess, work.cache_folder, workers, progress=here.is_main)
    except ValueError as error:
        raise TrainingError(str(error)) from None
    if here.is_main:
        here.barrier()
        for row, reason in list(pixels.unreadable.items())[:5]:
            logger.warning("skipped: %s: %s", table.images[row], reason)
        if pixels.unreadable:
            logger.warning("%d films cannot be read and are skipped", len(pixels.unreadable))
    return pixels


@contextmanager
def held_folder(
    work: Work, arguments: dict[str, Any], data: Path | None, history: Path | None = None
) -> Iterator[None]:
    """Make the run's folder, and hold it against other processes until the run has ended.

    A run is gone on with only by the arguments that began it. Where the data and the table of
    ``--history`` are, is noted for stage 2, but may change.

    Raises
    ------
    TrainingError
        If another process works in the folder, or it holds something else than this run.
    """
    work.out.mkdir(parents=True, exist_ok=True)
    _refuse_others_files(work)
    try:
        with locked(work.out):
            for folder in filter(Path.is_dir, work.out.iterdir()):
                remove_leftovers(folder)
            _begin(work, arguments, {DATA: data, HISTORY: history})
            yield
    except Busy:
        raise TrainingError(
            f"another process is training in {work.out}; wait for its end, or choose another --out"
        ) from None


def _refuse_others_files(work: Work) -> None:
    if not (work.out / _RUN).exists():
        theirs = [name for name in (CONFIG, WEIGHTS, CARD) if (work.out / name).exists()]
        if theirs:
            raise TrainingError(
                f"{work.out} holds {' and '.join(theirs)} that no run made; choose another --out"
            )


def _begin(work: Work, arguments: dict[str, Any], places: Mapping[str, Path | None]) -> None:
    """Check that the folder is this run's, and write down what began it."""
    begun_before = work.last.exists()
    if begun_before and not work.resume:
        raise TrainingError(
            f"{work.out} already holds a run; add --resume to go on with it, or choose another "
            "--out"
        )
    if begun_before:
        begun = _begun(work.out / _RUN)
        changed = [
            key
            for key in begun
            if key not in places and begun[key] != arguments.get(key, begun[key])
        ]
        if changed:
            key = changed[0]
            raise TrainingError(
                f"the run in {work.out} began with {key} = {begun[key]!r}, not "
                f"{arguments[key]!r}; resume it with the arguments that began it"
            )
    noted = {key: str(path.resolve()) for key, path in places.items() if path}
    atomic_write(work.out / _RUN, json.dumps({**arguments, **noted}, indent=2) + "\n")


def _begun(path: Path) -> dict[str, Any]:
    """What began the run that is there."""
    try:
        begun = from_json(regular(path).read_text(encoding="utf-8"))
        if not isinstance(begun, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TrainingError(
            f"{path}, which says how the run began, cannot be read ({reason}); restore it, or "
            "choose another --out"
        ) from None
    return begun


def place_of_data(folder: Path, key: str = DATA) -> Path | None:
    """Where the data of the run in a folder is, if it was on this machine and still is.

    With `HISTORY` as the key: where the table of its ``--history`` is.
    """
    try:
        place = Path(from_json(regular(folder / _RUN).read_text())[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return place if place.exists() else None


@dataclass(frozen=True)
class Work:
    """How a run is carried out; none of it changes the result beyond rounding."""

    out: Path = option(
        Path("runs/negative"), "folder of the run and of the model that it makes", machine=True
    )
    resume: bool = option(False, "go on from the run's last checkpoint", machine=True)
    device: str | None = option(
        None, 'such as "cpu" or "cuda" (default: a GPU if there is one)', machine=True
    )
    pixels: str = option(
        "auto",
        "where the films are kept: in the GPU's memory, in files, or where they fit",
        machine=True,
        choices=("auto", "device", "host"),
    )
    cache: Path | None = option(
        None, "folder of packed films and features (default: the one of --out)", machine=True
    )
    workers: int | None = option(
        None, "processes that pack films (default: one a core)", machine=True, type=POSITIVE
    )
    threads: int | None = option(
        None, "CPU threads of each process (default: PyTorch's choice)", machine=True, type=POSITIVE
    )
    compile: bool = option(False, "torch.compile the network", machine=True)
    checkpoint_minutes: float = option(
        15.0, "also save the state this often within an epoch", machine=True, type=FROM_ZERO
    )
    track: str = option(
        "none",
        "also log to this, if installed",
        machine=True,
        choices=("none", "tensorboard", "trackio"),
    )

    @property
    def cache_folder(self) -> Path:
        """Holds packed films in its folder ``pixels`` and features in its folder ``features``."""
        return self.cache or self.out.parent

    @property
    def features(self) -> Path:
        """The folder of features."""
        return self.cache_folder / "features"

    @property
    def last(self) -> Path:
        """The state of the run."""
        return self.out / "checkpoint" / "last.safetensors"

    @property
    def best(self) -> Path:
        """The average of the best epoch."""
        return self.out / "checkpoint" / "best.safetensors"
