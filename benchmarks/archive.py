"""``cft score``: films a second here and on Ray, one worker and two, and what scheduling costs.

    pip install ".[score,ray,fast]"
    python -m benchmarks.archive [--data FOLDER] [--films 64] [--rounds 3]

The bundled model reads films of FOLDER, or drawn ones of 1024 x 1024. Processor time, which other
programs on the machine change little, is measured with one thread at three numbers of films, with
the exponent of its growth. One worker and two take turns; their ratio is the median of the rounds.
On Ray the clock runs from the first part that each worker has written to the last part, so that
the start of the cluster and the loading of models do not count. The cost of scheduling is the
processor time of the process that hands out parts, of parts with one film each that is not there.

At the end: what a hundred machines of two processors would take for a million films, on paper: from
the processor time a film, half a minute to start a worker, and the parts that one process hands
out one after the other.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch

import cft
from benchmarks.app_memory import draw_films
from benchmarks.exponent import line
from cft.archive import here, on_ray
from cft.archive.plan import Done, Plan, begin
from cft.archive.rows import Answers
from cft.archive.sources import Film, films_of
from cft.film.find import find_films

_ANSWERS = Answers(batch_size=8)
_PART = 8
_EMPTY_PARTS = 100

# Of the estimate.
_FILMS, _MACHINES, _PROCESSORS, _PART_OF_A_MILLION, _START = 1_000_000, 100, 2, 1024, 30


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder of films (default: drawn ones)")
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-ray", action="store_true")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = cft.load(None, "cpu")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        films = list(films_of(_chosen(options, work)))
        costs = {size: _processor_seconds(work, films[:size], model) for size in _sizes(len(films))}
        print(line("processor time, one thread", costs), flush=True)
        a_film = costs[max(costs)] / max(costs)
        _compare("here", lambda jobs: _here(work, films, model, jobs), options.rounds)
        if options.without_ray:
            return 0
        on_ray.connect()
        chosen = on_ray.Model(None, "cpu", "auto", model.weights_sha256)
        _compare("on Ray", lambda jobs: _on_ray(work, films, chosen, jobs), options.rounds)
        a_part = _scheduling(work, chosen)
        print(f"scheduling on Ray: {1000 * a_part:.1f} ms of processor time a part", flush=True)
        print(_on_paper(a_film, a_part))
    return 0


def _chosen(options: argparse.Namespace, work: Path) -> list[Path]:
    if options.data is None:
        return draw_films(work, options.films)
    found = list(find_films([options.data]))
    return found[:: max(1, len(found) // options.films)][: options.films]


def _sizes(most: int) -> tuple[int, int, int]:
    return max(1, most // 4), max(2, most // 2), most


def _plan(work: Path, films: Iterable[Film], part_size: int = _PART) -> Plan:
    return begin(Path(tempfile.mkdtemp(dir=work)), films, {}, part_size)


def _processor_seconds(work: Path, films: list[Film], model: cft.Classifier) -> float:
    plan = _plan(work, films)
    began = time.process_time()
    _all(here.score(plan, plan.parts, model, _ANSWERS, jobs=1))
    return time.process_time() - began


def _all(parts: Iterator[Done]) -> int:
    return sum(part.films for part in parts)


def _here(work: Path, films: list[Film], model: cft.Classifier, jobs: int) -> float:
    """Films a second."""
    plan = _plan(work, films)
    began = time.perf_counter()
    return _all(here.score(plan, plan.parts, model, _ANSWERS, jobs)) / (time.perf_counter() - began)


def _on_ray(work: Path, films: list[Film], model: on_ray.Model, jobs: int) -> float:
    """Films a second, once every worker has written a part."""
    plan = _plan(work, films)
    parts = on_ray.score(plan, plan.parts, model, _ANSWERS, jobs)
    _all(islice(parts, jobs))
    began = time.perf_counter()
    return _all(parts) / (time.perf_counter() - began)


def _scheduling(work: Path, model: on_ray.Model) -> float:
    """Processor seconds a part, of the process that hands them out; the parts have no work."""
    nothing = (Film(f"{i}", b"/no film %d" % i) for i in range(_EMPTY_PARTS))
    plan = _plan(work, nothing, part_size=1)
    parts = on_ray.score(plan, plan.parts, model, _ANSWERS, 1)
    next(parts)
    began = time.process_time()
    count = _all(parts)
    return (time.process_time() - began) / count


def _compare(where: str, rate: Callable[[int], float], rounds: int) -> None:
    """One worker and two, taking turns."""
    rates = [(rate(1), rate(2)) for _ in range(rounds)]
    one, two = (statistics.median(column) for column in zip(*rates, strict=True))
    ratios = sorted(b / a for a, b in rates)
    print(
        f"{where}: {one:.2f} films a second with one worker, {two:.2f} with two; "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


def _on_paper(a_film: float, a_part: float) -> str:
    workers, parts = _MACHINES * _PROCESSORS, -(-_FILMS // _PART_OF_A_MILLION)
    turns = -(-parts // workers)  # the last turn has not work for all
    working = turns * _PART_OF_A_MILLION * a_film
    return (
        f"on paper: {_FILMS:,} films on {_MACHINES} machines of {_PROCESSORS} processors: "
        f"{parts} parts, {turns} turns of {_PART_OF_A_MILLION * a_film:.0f} s, "
        f"{parts * a_part:.0f} s of scheduling beside them, {_START} s to start: "
        f"{(max(working, parts * a_part) + _START) / 60:.0f} minutes"
    )


if __name__ == "__main__":
    sys.exit(main())
