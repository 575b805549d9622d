"""Training throughput: our loop, the bare step, and two usual pipelines. One command, one table.

    python -m benchmarks.training [--arch densenet121] [--image-size 224] [--batch-size 32] ...

Rows, all with the same network, precision and optimiser:

(a) bare step      forward, loss, backward and optimiser on one constant batch
(b) our loop       `train.stage1.loop.steps`: packed films, augmentation, average
(c) torchvision    JPEG files, v2 transforms and a DataLoader with all workers
(d) timm loader    the same files through `timm.data.create_loader`, with all workers

The rows take turns, round after round, so that other work on the machine falls on all of them, and
within a round (a) and (b) take turns step by step on a CPU, where no step goes on beside the next.
(c) and (d) prepare batches ahead, so their rounds are whole. The rate of a row is the median of its
rounds, its share of (a) the median of the rounds' shares. Films are noise: what they show does not
change the cost.
An epoch of CheXpert's 223,414 training images is extrapolated from the rate.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import timm.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from train.datasets.labels import LabelTable
from train.datasets.pixels import Pixels
from train.precision import use_bfloat16
from train.processes import Processes
from train.run_folder import Work
from train.stage1.loop import steps
from train.stage1.run import Run, State
from train.stage1.settings import Settings

BARE = "(a) bare step"

CHEXPERT_FILMS = 223_414
LABELS = 14

# Side of the stored JPEG files, as in CheXpert-small.
_STORED = 320

_AUGMENT = {"degrees": 10, "translate": (0.06, 0.06), "scale": (0.87, 1.15)}
_JITTER = {"brightness": 0.1, "contrast": 0.25}


def main() -> None:
    """Measure and print the table."""
    options = _parser().parse_args()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = our_run(options, device, folder / "run")
        groups = [
            {BARE: bare(run), "(b) our loop": ours(run)},
            {"(c) torchvision + DataLoader": fed(run, options, torchvision_loader, folder)},
            {"(d) timm loader": fed(run, options, timm_loader, folder)},
        ]
        rates = measure(groups, options, device)
    print(table(rates, options, device))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="densenet121")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--files", type=int, default=512, help="noise JPEG files for (c) and (d)")
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=torch.get_num_threads())
    parser.add_argument("--threads", type=int, help="CPU threads of the network")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    return parser


def our_run(options: argparse.Namespace, device: torch.device, folder: Path) -> Run:
    """A run on noise films, each epoch of which is a round of the measurement."""
    size, n = options.image_size, (options.steps + 1) * options.batch_size
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (min(n, 512), size, size), dtype=np.uint8)
    pixels = Pixels(np.resize(noise, (n, size, size)), {})
    names = np.array([f"{i}" for i in range(n)])
    films = LabelTable(
        images=tuple(map(Path, names.tolist())),
        y=(generator.random((n, LABELS)) < 0.1).astype(np.float32),
        uncertain=np.zeros((n, LABELS), bool),
        label_names=tuple(f"label {c}" for c in range(LABELS)),
        patients=names,
        studies=names,
        split=np.where(np.arange(n) < n - options.batch_size, "train", "valid"),
    )
    settings = Settings(
        arch=options.arch,
        image_size=size,
        batch_size=options.batch_size,
        epochs=options.rounds + 1,
        precision=options.precision,
    )
    work = Work(out=folder, compile=options.compile)
    return Run.of(settings, work, films, films.y, pixels, Processes(0, 1, device))


def ours(run: Run) -> Iterator[None]:
    """One optimiser step of the loop, at each `next`."""
    state = State.start(run)
    compute = torch.compile(state.network) if run.work.compile else state.network
    compute.train()
    for epoch in range(run.settings.epochs):
        yield from steps(run, state, compute, epoch)


def bare(run: Run) -> Iterator[None]:
    """One optimiser step on one constant batch, at each `next`."""
    device, settings, state = run.here.device, run.settings, State.start(run)
    compute = torch.compile(state.network) if run.work.compile else state.network
    compute.train()
    shape = (settings.batch_size, 1, settings.image_size, settings.image_size)
    batch = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    labels = run.targets[: settings.batch_size]
    while True:
        step(compute, state.optimizer, batch, labels, settings.precision)
        yield


def step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: torch.Tensor,
    labels: torch.Tensor,
    precision: str,
) -> None:
    """Forward, loss, backward, optimiser."""
    low = use_bfloat16(precision, batch.device)
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=low):
        logits = network(batch)
    F.binary_cross_entropy_with_logits(logits.float(), labels).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def fed(
    run: Run,
    options: argparse.Namespace,
    loader_of: Callable[[argparse.Namespace, torch.device, list[Path]], Iterable],
    folder: Path,
) -> Iterator[None]:
    """The bare step on batches that a loader makes from JPEG files."""
    state, device = State.start(run), run.here.device
    compute = torch.compile(state.network) if run.work.compile else state.network
    compute.train()
    loader = loader_of(options, device, noise_files(folder, options.files))
    while True:
        for batch, labels in loader:
            batch = batch.to(device, non_blocking=True, memory_format=torch.channels_last)
            labels = labels.to(device, non_blocking=True).float()
            step(compute, state.optimizer, batch, labels, options.precision)
            yield


def noise_files(folder: Path, count: int) -> list[Path]:
    """Grey JPEG files of smooth noise, which compress about as films do."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        if not path.exists():
            coarse = generator.integers(0, 256, (40, 40), dtype=np.uint8)
            Image.fromarray(coarse).resize((_STORED, _STORED), Image.BICUBIC).save(path, quality=90)
    return paths


class Files(Dataset):
    """JPEG files with labels, as a torchvision pipeline reads them."""

    def __init__(self, files: list[Path], transform: Callable):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("L")), torch.zeros(LABELS)


def torchvision_loader(options, device, files) -> Iterable:
    """Decode, resize and augment each film on the CPU."""
    side = (options.image_size, options.image_size)
    steps = [v2.Resize(side), v2.RandomAffine(**_AUGMENT), v2.ColorJitter(**_JITTER)]
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])]
    return DataLoader(
        Files(files, v2.Compose(steps)),
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )


def timm_loader(options, device, files) -> Iterable:
    """timm's loader with its default training augmentation."""
    return timm.data.create_loader(
        Files(files, lambda image: image),
        input_size=(1, options.image_size, options.image_size),
        batch_size=options.batch_size,
        is_training=True,
        mean=(0.5,),
        std=(0.25,),
        num_workers=options.workers,
        use_prefetcher=False,
        persistent_workers=True,
        device=device,
    )


def measure(
    groups: Sequence[dict[str, Iterator[None]]], options: argparse.Namespace, device: torch.device
) -> dict[str, list[float]]:
    """Row -> films a second of each round; of a group, rows take turns within the round."""
    rates: dict[str, list[float]] = {name: [] for group in groups for name in group}
    # The first round warms up: allocation, kernels, workers.
    for number in range(options.rounds + 1):
        for group in groups:
            for name, seconds in taking_turns(group, options.steps, device).items():
                if number:
                    rates[name].append(options.steps * options.batch_size / seconds)
    return rates


def taking_turns(
    rows: dict[str, Iterator[None]], steps_of_each: int, device: torch.device
) -> dict[str, float]:
    """Row -> seconds of its steps."""
    at_once = 1 if device.type == "cpu" else steps_of_each
    seconds = dict.fromkeys(rows, 0.0)
    for _ in range(steps_of_each // at_once):
        for name, row in rows.items():
            synchronise(device)
            start = time.perf_counter()
            for _ in range(at_once):
                next(row)
            synchronise(device)
            seconds[name] += time.perf_counter() - start
    return seconds


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(rates: dict[str, list[float]], options: argparse.Namespace, device: torch.device) -> str:
    """The measurement as a Markdown table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    bf16 = use_bfloat16(options.precision, device)
    lines = [
        f"{options.arch}, {options.image_size} px, batch {options.batch_size}, "
        f"{'bfloat16' if bf16 else 'float32'}, {name}, {torch.get_num_threads()} threads, "
        f"{options.workers} workers; median of {options.rounds} rounds of {options.steps} steps",
        "",
        "| | films/s | of (a) | epoch of CheXpert |",
        "|---|---:|---:|---:|",
    ]
    for row, of_rounds in rates.items():
        rate = statistics.median(of_rounds)
        share = statistics.median(x / y for x, y in zip(of_rounds, rates[BARE], strict=True))
        minutes = CHEXPERT_FILMS / rate / 60
        lines.append(f"| {row} | {rate:.1f} | {share:.2f} | {minutes:.1f} min |")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines += ["", f"Peak memory: {memory:.1f} GiB on the host"]
    if device.type == "cuda":
        lines[-1] += f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB on the device"
    return "\n".join(lines)


if __name__ == "__main__":
    main()
