"""All that a GPU has to show, in one table: stage 1, packed films, stage 2, inference.

    python -m benchmarks.gpu > gpu.md                # minutes on one GPU
    python -m benchmarks.gpu --device cpu --quick    # the same code on little, to see that it runs

Rows:

- stage 1: films a second of the bare training step (forward, loss, backward, optimiser on one
  constant batch) and of the whole loop, taking turns (`benchmarks.training`);
- packed films: every batch of a pack read once, with the films sent to the device's memory first
  (the sending counts) or each batch read and sent from the host;
- stage 2: seconds of each method over all categories, on as many films as CheXpert has, a quarter
  of their labels known; one generation of the published search for one category;
- inference: one film from file to probabilities, many files in batches, and the network alone.

Films and networks are noise, and features have a planted signal: no data is needed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from benchmarks.inference import random_classifier
from benchmarks.training import LABELS, bare, measure, our_run, ours, synchronise
from train.datasets.phantom_drawing import draw_phantom
from train.datasets.pixels import Pixels
from train.precision import use_bfloat16
from train.stage2.genetic import Evolution, Genetic
from train.stage2.methods import tune
from train.stage2.task import Films, Head, TuneSettings

_KNOWN, _POSITIVE = 0.25, 0.2  # shares of labels, about CheXpert's
_NOISE = 3.0  # of the labels' scores, in standard deviations of the signal

Row = tuple[str, str, str]  # what, of what size, result


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    arch, image_sizes, batch_size
        The network, the sides of its input in pixels, and the films of a batch.
    steps, rounds
        Optimiser steps a round; the median of the rounds counts.
    films
        Of the pack.
    train, valid, features, categories
        Films that stage 2 fits and chooses by, their features and labels.
    generations
        Of the published search.
    side, files
        Side of a stored film, and how many are read.
    """

    arch: str = "densenet121"
    image_sizes: tuple[int, ...] = (224, 320)
    batch_size: int = 64
    steps: int = 30
    rounds: int = 5
    films: int = 16_384
    train: int = 180_000
    valid: int = 9_000
    features: int = 1024
    categories: int = LABELS
    generations: int = 50
    side: int = 1024
    files: int = 512


QUICK = Sizes(
    arch="test_resnet",
    image_sizes=(32,),
    batch_size=4,
    steps=2,
    rounds=1,
    films=16,
    train=400,
    valid=100,
    features=8,
    categories=2,
    generations=2,
    side=64,
    files=8,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table; 1 if there is no such device."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="little of everything: no result")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "benchmarks.gpu: torch sees no GPU on this machine; --device cpu --quick runs the same "
            "code on the CPU",
            file=sys.stderr,
        )
        return 1
    sizes = QUICK if options.quick else Sizes()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in (stage_1, packed, stage_2, inference):
            for row in part(sizes, device, Path(folder)):
                print(": ".join(row), file=sys.stderr, flush=True)
                rows.append(row)
    print(table(rows, device))
    return 0


# --- Parts --------------------------------------------------------------------------------------


def stage_1(sizes: Sizes, device: torch.device, folder: Path) -> Iterator[Row]:
    """The bare step and the loop at each image size."""
    for size in sizes.image_sizes:
        options = argparse.Namespace(
            arch=sizes.arch,
            image_size=size,
            batch_size=sizes.batch_size,
            steps=sizes.steps,
            rounds=sizes.rounds,
            precision="auto",
            compile=False,
        )
        run = our_run(options, device, folder / f"run-{size}")
        rows = {"stage 1, bare step": bare(run), "stage 1, loop": ours(run)}
        what = f"{sizes.arch}, {size} px, batches of {sizes.batch_size}"
        for name, rates in measure([rows], options, device).items():
            yield name, what, f"{statistics.median(rates):,.0f} films/s"


def packed(sizes: Sizes, device: torch.device, folder: Path) -> Iterator[Row]:
    """A pack, read once from the device's memory and once from the host's."""
    size = max(sizes.image_sizes)
    shape = (sizes.films, size, size)
    array = np.memmap(folder / "pixels.u8", np.uint8, "w+", shape=shape)
    noise = np.random.default_rng(0).integers(0, 256, shape[1:], dtype=np.uint8)
    array[:] = noise
    batches = np.array_split(np.arange(sizes.films), max(1, sizes.films // sizes.batch_size))
    for where in ("device", "host"):

        def read(where: str = where) -> None:
            for _ in Pixels(array, {}).loader(device, where).batches(batches):
                pass

        read()  # the file is in the system's memory from here on, and buffers are there
        rate = sizes.films / seconds_of(read, device)
        result = f"{rate:,.0f} films/s, {rate * size**2 / 1e9:.1f} GB/s"
        yield f"packed films from the {where}", f"{sizes.films:,} films, {size} px", result


def stage_2(sizes: Sizes, device: torch.device, folder: Path) -> Iterator[Row]:
    """Each method over all categories, and a generation of the published search."""
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((sizes.categories, sizes.features), dtype=np.float32)
    train, valid = (planted_films(n, weights, generator) for n in (sizes.train, sizes.valid))
    weights += generator.standard_normal(weights.shape, dtype=np.float32)  # trained, but not well
    names = tuple(f"label {c}" for c in range(sizes.categories))
    head = Head(weights, np.zeros(sizes.categories, np.float32), names)
    size = f"{sizes.train:,} films x {sizes.features:,} features"
    for method in ("auto", "ga", "gradient"):
        settings = TuneSettings(method)
        seconds = seconds_of(lambda: tune(train, valid, head, settings, device=device), device)  # noqa: B023
        yield f"stage 2, {method}", f"{size}, {sizes.categories} categories", f"{seconds:,.3f} s"

    search = Evolution(
        torch.from_numpy(train.z).to(device),
        torch.from_numpy(train.y[:, :1]).to(device),
        torch.from_numpy(head.weights[:1]).to(device),
        z_valid=torch.from_numpy(valid.z).to(device),
        y_valid=torch.from_numpy(valid.y[:, :1]).to(device),
        settings=Genetic.paper(),
        seeds=[0],
    )
    search.step()

    def some_generations() -> None:
        for _ in range(sizes.generations):
            search.step()

    seconds = seconds_of(some_generations, device) / sizes.generations
    what = f"{size}, {(~np.isnan(train.y[:, 0])).sum():,} known"
    yield "stage 2, a generation of the published search", what, f"{1000 * seconds:.1f} ms"


def planted_films(n: int, weights: np.ndarray, generator: np.random.Generator) -> Films:
    """Features whose labels follow (C, D) weights with noise; most labels are unknown."""
    z = generator.standard_normal((n, weights.shape[1]), dtype=np.float32)
    scores = z @ weights.T
    scores += _NOISE * scores.std() * generator.standard_normal(scores.shape, dtype=np.float32)
    y = (scores > np.quantile(scores, 1 - _POSITIVE)).astype(np.float32)
    y[generator.random(y.shape) >= _KNOWN] = np.nan
    return Films(z, y)


def inference(sizes: Sizes, device: torch.device, folder: Path) -> Iterator[Row]:
    """One film, many files, the network alone."""
    size = sizes.image_sizes[0]
    classifier = random_classifier(folder / "model", sizes.arch, size, device)
    film = folder / "film.png"
    Image.fromarray(draw_phantom((), sizes.side, np.random.default_rng(0))).save(film)
    network = f"{sizes.arch}, {size} px"
    png = f"{sizes.side} x {sizes.side} PNG"

    classifier.predict(film)
    each = [seconds_of(lambda: classifier.predict(film), device) for _ in range(10 * sizes.rounds)]
    one = f"{1000 * statistics.median(each):.1f} ms"
    yield "inference, one film, file to probabilities", f"{network}, {png}", one

    def files() -> None:
        for _ in classifier.stream([film] * sizes.files, sizes.batch_size):
            pass

    rate = sizes.files / seconds_of(files, device)
    what = f"{network}, {sizes.files} x {png}, batches of {sizes.batch_size}"
    yield "inference, files to probabilities", what, f"{rate:,.0f} films/s"

    batch = torch.rand(sizes.batch_size, 1, size, size, device=device)
    classifier.logits(batch)
    each = [seconds_of(lambda: classifier.logits(batch), device) for _ in range(4 * sizes.rounds)]
    rate = sizes.batch_size / statistics.median(each)
    what = f"{network}, batches of {sizes.batch_size}, float32"
    yield "inference, network alone", what, f"{rate:,.0f} films/s"


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done the work."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


# --- The table ----------------------------------------------------------------------------------


def table(rows: Sequence[Row], device: torch.device) -> str:
    """Markdown, with the machine in the first line and the memory in the last."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    training = "bfloat16" if use_bfloat16("auto", device) else "float32"
    memory = f"Peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    memory += " on the host"
    if device.type == "cuda":
        memory += f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB on the device"
    return "\n".join(
        [
            f"{name}, {torch.get_num_threads()} CPU threads, stage 1 in {training}; torch "
            f"{torch.__version__}, timm {timm.__version__}",
            "",
            "| What | Of what size | Result |",
            "| --- | --- | ---: |",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            memory,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
