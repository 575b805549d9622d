"""The regressions of ``train.negative --freeze`` and of stage 2 on more features than memory holds.

    python -m benchmarks.frozen_memory                     # a million films, 768 features, 3 GB
    python -m benchmarks.frozen_memory --films 250000      # a quarter, to compare with

Features of noise with a planted signal are written to a file, as `train.frozen.features` keeps
them. Stage 1 fits the regressions of some categories to four fifths of the films, in Negative mode
and at one strength; stage 2 refits them at all of its strengths to the known labels of all films,
chooses by cross-fitting over all of them, and keeps what is finished in a file, as ``train.cft``
does. Printed are the seconds, the most memory that the process had beyond its libraries (without
the pages of the files, which the system takes back when it needs them), and how well the planted
signal was found; and last the most that the whole process had, libraries and labels among it,
without and with the pages of files.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.film_memory import resident
from train.frozen import logistic
from train.frozen.rows import Rows
from train.metrics.ranking import auroc
from train.stage1.frozen import Recipe
from train.stage2.finished import Finished
from train.stage2.methods import method_of
from train.stage2.task import Films, Head, Task, Tuned

# Films of a patient; films that are drawn at once.
_FILMS, _BLOCK = 4, 50_000


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--films", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--categories", type=int, default=5)
    parser.add_argument("--strength", type=float, default=100.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder of the file (default: a temporary one)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        z, labels = written(Path(folder) / "features.f32", options)
        print(f"{len(z):,} films x {z.shape[1]} features, {labels.shape[1]} categories, ", end="")
        print(f"{z.size * 4 / 1e6:,.0f} MB")
        before = resident("RssAnon")
        train, valid = np.split(np.arange(len(z)), [len(z) * 4 // 5])
        recipe = Recipe(logistic.Films([z], train), np.nan_to_num(labels[train]), options.strength)
        with Watch(before) as watch:
            fitted = recipe(np.ones((len(train), 1), bool))
        names = tuple(f"category {c}" for c in range(labels.shape[1]))
        head = Head(*(x[0] for x in fitted), names)
        print(f"stage 1: {watch}, AUROC {found(head, z, labels)}", flush=True)
        films = [Films(Rows(z, rows), labels[rows], rows // _FILMS) for rows in (train, valid)]
        task = Task(*films, head, finished=Finished(Path(folder) / "kept"), recipe=recipe)
        with Watch(before) as watch:
            tuned = method_of(task.settings).tune(task)
        print(f"stage 2: {watch}, AUROC {found(tuned.head, z, labels)}, {chosen(tuned)}")
        print(f"the process: {watch.most:,.0f} MB, with pages of files {resident('VmHWM'):,.0f} MB")


def found(head: Head, z: np.ndarray, labels: np.ndarray) -> str:
    """The lowest and the highest AUROC of a category."""
    scores = head.logits(Rows(z, np.arange(len(z))))
    areas = auroc(np.ascontiguousarray(scores.T), np.ascontiguousarray(labels.T)).numpy()
    return f"{areas.min():.3f} to {areas.max():.3f}"


def chosen(tuned: Tuned) -> str:
    """What stage 2 chose, and among how many films."""
    notes = tuned.notes
    return f"penalty {notes['chosen']} of {notes['judging_films']:,} films"


def written(path: Path, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """The (N, D) features, memory-mapped, and (N, C) targets with a fifth of them unknown."""
    draw = np.random.default_rng(0)
    shape = options.films, options.features
    z = np.memmap(path, np.float32, "w+", shape=shape)
    signal = draw.standard_normal((shape[1], options.categories)) / np.sqrt(shape[1])
    targets = np.empty((shape[0], options.categories), np.float32)
    for start in range(0, shape[0], _BLOCK):
        place = slice(start, min(start + _BLOCK, shape[0]))
        block = draw.standard_normal((place.stop - start, shape[1]), dtype=np.float32)
        z[place] = block
        chance = 1 / (1 + np.exp(2 - 2 * block @ signal))
        targets[place] = draw.random(chance.shape) < chance
        targets[place][draw.random(chance.shape) < 0.2] = np.nan
    z.flush()
    return np.memmap(path, np.float32, "r", shape=shape), targets


class Watch:
    """The time of a block, and the most memory that the process has in it, in MB.

    It is counted from what the process had before all blocks, since an allocator that keeps what
    one block has freed has it at hand for the next.
    """

    def __init__(self, before: float):
        self._before = before

    def __enter__(self) -> Watch:
        self._most = resident("RssAnon")
        self._began = time.perf_counter(), time.process_time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        ended = time.perf_counter(), time.process_time()
        self._seconds, self._cpu = (b - a for a, b in zip(self._began, ended, strict=True))

    @property
    def most(self) -> float:
        """The most memory of the process in the block, in MB."""
        return self._most

    def __str__(self) -> str:
        return (
            f"{self._seconds:.1f} s ({self._cpu:.1f} s of processors), "
            f"{self._most - self._before:,.0f} MB"
        )

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self._most = max(self._most, resident("RssAnon"))


if __name__ == "__main__":
    main()
