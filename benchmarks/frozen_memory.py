"""The regressions of ``train.negative --freeze`` on more features than fit in memory.

    python -m benchmarks.frozen_memory                     # a million films, 768 features, 3 GB
    python -m benchmarks.frozen_memory --films 250000      # a quarter, to compare with

Features of noise with a planted signal are written to a file, as `train.frozen.features` keeps
them, and the regressions of some categories are fitted to all of them at one strength. Printed are
the seconds, the most memory that the process had beyond its libraries (without the pages of the
file, which the system takes back when it needs them), and how well the planted signal was found.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.film_memory import resident
from train.frozen.logistic import Films, fit
from train.metrics.ranking import auroc

_BLOCK = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--films", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--categories", type=int, default=5)
    parser.add_argument("--strength", type=float, default=100.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder of the file (default: a temporary one)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        z, targets = written(Path(folder) / "features.f32", options)
        before, began, cpu = resident("RssAnon"), time.perf_counter(), time.process_time()
        with Watch() as watch:
            fitted = fit(Films([z], np.arange(len(z))), targets, options.strength)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        scores = fitted.scores(Films([z], np.arange(len(z))), np.zeros(len(z), np.int64))
    areas = auroc(np.ascontiguousarray(scores.T), np.ascontiguousarray(targets.T)).numpy()
    size = z.size * 4 / 1e6
    print(
        f"{len(z):,} films x {z.shape[1]} features, {targets.shape[1]} categories: {size:,.0f} MB"
    )
    print(f"{fitted.steps} steps, {seconds:.1f} s ({cpu:.1f} s of processors)")
    print(f"most memory beyond that before the fit: {watch.most - before:,.0f} MB")
    print(f"AUROC {areas.min():.3f} to {areas.max():.3f}")


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
    """The most memory of its own that the process has within a block, in MB."""

    def __enter__(self) -> Watch:
        self.most, self._stop = resident("RssAnon"), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, resident("RssAnon"))


if __name__ == "__main__":
    main()
