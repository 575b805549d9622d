"""How the cost of each part grows with the films: three sizes, and the exponent fitted to them.

    python -m benchmarks.growth [--only WORDS]

Seconds of processor time with one thread, the least of three, which other programs on the machine
change little. An exponent of 1 is a cost that grows with the films, N log N gives some 1.1 at these
sizes. Scores, labels and features are drawn by a law, so that no data is needed. What files and
networks cost is measured by `benchmarks.stages` and `benchmarks.archive`, which print the exponent
as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.evaluation import parts_of
from benchmarks.exponent import line

#: Gives the work on so many films.
Part = Callable[[int], Callable[[], object]]


def main(argv: list[str] | None = None) -> int:
    """Measure and print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", metavar="WORDS", help="parts with these words")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    for what, sizes, part in parts():
        if options.only not in what:
            continue
        costs = {}
        for size in (max(40, round(options.scale * size)) for size in sizes):
            work = part(size)
            costs[size] = min(_seconds(work) for _ in range(3))
        print(line(what, costs), flush=True)
    return 0


def _seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return max(time.process_time() - began, 1e-6)  # the clock's step


def parts() -> Iterator[tuple[str, tuple[int, int, int], Part]]:
    """(what is measured, at which numbers of films, how)."""
    large = (10_000, 40_000, 160_000)
    yield "AUROC of 16 vectors", large, lambda n: _ranking("auroc", n)
    yield "average precision of 16 vectors", large, lambda n: _ranking("average_precision", n)
    yield "bootstrap, 14 findings, 200 replicates", (500, 2000, 8000), _bootstrap
    yield "DeLong, one finding", (5000, 20_000, 80_000), _delong
    whole = "a whole report, 14 findings, 20 replicates"
    yield whole, (400, 1600, 6400), lambda n: parts_of(n, 20)["everything"]
    tuned = (2000, 8000, 32_000)
    for method in ("auto", "gradient", "ga"):
        yield f"stage 2, {method}, 3 categories", tuned, lambda n, m=method: _stage_2(m, n)
    yield "stage 2, a generation of the published search", tuned, _generation
    if importlib.util.find_spec("pyarrow"):
        yield "the list of an archive", large, _list


def _ranking(metric: str, n: int) -> Callable[[], object]:
    from train.metrics import ranking

    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand((16, n), generator=generator) < 0.12).float()
    scores = torch.randn((16, n), generator=generator) + labels
    return lambda: getattr(ranking, metric)(scores, labels)


def _bootstrap(n: int) -> Callable[[], object]:
    from train.metrics.bootstrap import bootstrap_auroc

    generator = np.random.default_rng(0)
    labels = (generator.random((n, 14)) < 0.2).astype(float)
    scores = generator.standard_normal(labels.shape) + labels
    return lambda: bootstrap_auroc(scores, labels, np.arange(n), 200)


def _delong(n: int) -> Callable[[], object]:
    from train.metrics.delong import delong

    generator = np.random.default_rng(0)
    labels = (generator.random(n) < 0.2).astype(float)
    scores = generator.standard_normal(n) + labels
    return lambda: delong(scores, labels)


def _planted(n: int, features: int = 64, categories: int = 3):
    """Training and validation films, and the head that was trained."""
    from benchmarks.gpu import planted_films

    generator = np.random.default_rng(0)
    weights = generator.standard_normal((categories, features), dtype=np.float32)
    films = [planted_films(count, weights, generator) for count in (n, n // 4)]
    return (*films, weights + generator.standard_normal(weights.shape, dtype=np.float32))


def _stage_2(method: str, n: int) -> Callable[[], object]:
    from train.stage2.methods import tune
    from train.stage2.task import Head, TuneSettings

    train, valid, weights = _planted(n)
    names = tuple(f"label {c}" for c in range(len(weights)))
    head = Head(weights, np.zeros(len(weights), np.float32), names)
    cpu = torch.device("cpu")
    return lambda: tune(train, valid, head, TuneSettings(method), device=cpu)


def _generation(n: int) -> Callable[[], object]:
    from train.stage2.genetic import Evolution, Genetic

    train, valid, weights = _planted(n)
    search = Evolution(
        *(torch.from_numpy(x) for x in (train.z, train.y[:, :1], weights[:1])),
        z_valid=torch.from_numpy(valid.z),
        y_valid=torch.from_numpy(valid.y[:, :1]),
        settings=Genetic.paper(),
        seeds=[0],
    )
    search.step()
    return search.step


def _list(n: int) -> Callable[[], object]:
    from cft.archive.plan import begin
    from cft.archive.sources import Film

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            begin(Path(folder), (Film(f"{i}.png", b"/%d.png" % i) for i in range(n)), {}, 1024)

    return work


if __name__ == "__main__":
    sys.exit(main())
