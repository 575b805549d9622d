"""``cft score SOURCE... --out DIR``: findings of an archive of films, as Parquet files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cft import NOT_A_MEDICAL_DEVICE, __version__
from cft.commands.model import (
    UsageError,
    add_answer_options,
    add_engine_options,
    check_counts,
    load,
)

if TYPE_CHECKING:
    from cft.archive.plan import Done, Plan
    from cft.model.classifier import Classifier
    from cft.model.ensemble import Ensemble

# Of 16, 32 or 64 films in a batch, none is of two parts.
_PART_SIZE = 1024


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one run."""
    parser = argparse.ArgumentParser(
        prog="cft score",
        description="Findings of an archive of films: a folder of Parquet files, one row a film. "
        "The same command goes on where a killed run was. Needs the extra `score`.",
        epilog=NOT_A_MEDICAL_DEVICE,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        type=Path,
        help="a film, a folder of films, or a list of paths (.csv or .parquet)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="where to write")
    parser.add_argument(
        "--on",
        choices=("ray",),
        help="work on the Ray cluster that RAY_ADDRESS names, which sees films, model and DIR "
        "under the same paths; without RAY_ADDRESS one is started here (needs the extra `ray`; "
        "default: this machine, without Ray)",
    )
    parser.add_argument(
        "--column",
        metavar="NAME",
        help="the column of paths in the lists (default: the only one, or file, path, ...)",
    )
    parser.add_argument(
        "--part-size",
        type=int,
        default=_PART_SIZE,
        metavar="N",
        help="films in a Parquet file; a killed run loses the work on unfinished ones "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="batches, or models on the cluster, that work at once (default: one for each "
        "processor, on a cluster with GPUs one for each)",
    )
    add_answer_options(parser)
    add_engine_options(parser)
    options = parser.parse_args(arguments)
    check_counts(parser, options)
    if options.part_size < 1:
        parser.error("--part-size must be at least 1")
    return options


def main(arguments: Sequence[str]) -> int:
    """Score an archive; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        return _score(options)
    except UsageError as error:
        print(f"cft score: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = error.filename or options.out
        print(f"cft score: cannot write {where} ({error.strerror or error})", file=sys.stderr)
        return 1


def _score(options: argparse.Namespace) -> int:
    _needs("pyarrow", "score")
    if options.on == "ray":
        _needs("ray", "ray")
    from cft.archive.errors import ArchiveError
    from cft.archive.plan import begin
    from cft.archive.rows import schema
    from cft.archive.sources import films_of
    from cft.model.parallel import share_processors

    jobs = share_processors(options.jobs, sys.maxsize)
    model = load(options)
    facts = {
        "cft": __version__,
        "weights_sha256": model.weights_sha256,
        "labels": list(model.label_names),
        "point": options.operating_point,
        "gate": options.gate,
    }
    try:
        schema(model.label_names)  # before the sources are listed, which may take long
        films = films_of(options.sources, options.column)
        plan = begin(options.out, films, facts, options.part_size)
    except ArchiveError as error:
        raise UsageError(str(error)) from error
    done = [found for part in plan.parts if (found := plan.done(part)) is not None]
    left = sorted(set(plan.parts) - {one.part for one in done})
    try:
        if options.on == "ray" and left:
            from cft.archive.on_ray import connect

            connect()
        done += _progress(plan, done, _work(plan, left, model, options, jobs) if left else iter(()))
    except ArchiveError as error:
        print(f"cft score: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with the parts left", file=sys.stderr)
        return 130
    return _report(plan, done)


def _work(
    plan: Plan,
    parts: list[int],
    model: Classifier | Ensemble,
    options: argparse.Namespace,
    jobs: int,
) -> Iterator[Done]:
    """Write the parts, here or on the cluster."""
    from cft.archive.rows import Answers

    answers = Answers(options.operating_point, options.gate, options.batch_size)
    if options.on is None:
        from cft.archive import here

        return here.score(plan, parts, model, answers, jobs)
    from cft.archive import on_ray
    from cft.model.hub import ENVIRONMENT_VARIABLE

    place = options.model or os.environ.get(ENVIRONMENT_VARIABLE)
    if place is not None and Path(place).exists():
        place = str(Path(place).absolute())  # actors have another working directory
    described = on_ray.Model(place, options.device, options.engine, model.weights_sha256)
    return on_ray.score(plan, parts, described, answers, options.jobs)


def _progress(plan: Plan, before: list[Done], work: Iterator[Done]) -> Iterator[Done]:
    """The same, with a bar of films on a terminal."""
    from tqdm import tqdm

    with tqdm(
        total=plan.films,
        initial=sum(one.films for one in before),
        unit="film",
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as bar:
        for one in work:
            bar.update(one.films)
            yield one


def _report(plan: Plan, done: list[Done]) -> int:
    """Say how it went; the exit status."""
    films, failed = (sum(getattr(one, name) for one in done) for name in ("films", "failed"))
    said = f"{films} films in {len(done)} parts, {failed} without numbers: {plan.folder}"
    print(said, file=sys.stderr)
    missing = sorted(set(plan.parts) - {one.part for one in done})
    if missing:
        some = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        print(f"cft score: not written: the parts {some}", file=sys.stderr)
    return 1 if failed or missing else 0


def _needs(package: str, extra: str) -> None:
    """Refuse to go on without a package of an extra."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise UsageError(f'{package} is not installed: pip install "cft[{extra}]"')
