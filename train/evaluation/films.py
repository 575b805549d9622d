"""Which films of a data set are scored.

Those of the split that was asked for. Without that the test films; but a table that names no split
is scored as a whole, unless the run of one of the models drew splits of it: then the test films of
that run are scored, never those that trained it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from train.command import options_of
from train.datasets import DataOptions, table_of
from train.datasets.labels import SPLITS, LabelTable
from train.datasets.options import of_splits
from train.datasets.splits import with_splits, without_drawn
from train.errors import EvaluationError, UsageError
from train.evaluation.seen import Origin, Splits


@dataclass(frozen=True)
class Chosen:
    """What is scored.

    Attributes
    ----------
    table
        The data set with its splits.
    films
        The films to score.
    split
        "train", "valid", "test" or "all".
    data, seed
        How the data set was read.
    splits
        What the models' own runs did with it.
    """

    table: LabelTable
    films: LabelTable
    split: str
    data: DataOptions
    seed: int
    splits: Splits


def choose(
    args: argparse.Namespace, data: DataOptions, origins: Mapping[str, Sequence[Origin]]
) -> Chosen:
    """Read the data set, and take the films to score.

    Parameters
    ----------
    args
        The command line; ``args.given`` are the names of the options that the user typed.
    data
        Its options of the data.
    origins
        Name of a model -> where it comes from.

    Raises
    ------
    EvaluationError
        If there are no such films.
    """
    everyone = [origin for those in origins.values() for origin in those]
    if data.data is None and data.dataset is None:
        _check_phantoms(origins)
    seed = args.seed
    if data.data is None and not ({"seed"} | of_splits(vars(args)).keys()) & args.given:
        data, seed = _as_drawn_by_a_run(data, seed, everyone)
    table = table_of(data, seed)
    splits = Splits(data, table.dataset)
    named = bool(table.source["listed"]) or {"valid", "test"} & args.given
    if not named and data.data is not None:
        table, split = _unnamed(args, data, table, [splits.of(origin) for origin in everyone])
    else:
        split = args.split or "test"
    films = table if split == "all" else table.subset(table.split == split)
    if not len(films):
        there = [side for side in SPLITS if (table.split == side).any()]
        raise EvaluationError(
            f"the data set {table.dataset!r} has no films in split {split!r}; choose another with "
            f"--split: {', '.join(there)} or all"
        )
    return Chosen(table, films, split, data, seed, splits)


def _check_phantoms(origins: Mapping[str, Sequence[Origin]]) -> None:
    """Phantoms are the films of a model that was trained on them; others must be asked for."""
    for name, those in origins.items():
        if "phantoms" not in [origin.dataset for origin in those]:
            raise UsageError(
                f"{name} was not trained on phantoms: name the films to score with --data, or "
                "phantoms with --dataset phantoms"
            )


def _as_drawn_by_a_run(
    data: DataOptions, seed: int, origins: Sequence[Origin]
) -> tuple[DataOptions, int]:
    """Options and seed of the phantoms that the first model was trained on that was at all."""
    for origin in origins:
        if origin.dataset == "phantoms" and origin.arguments is not None:
            own = options_of(DataOptions, of_splits(origin.arguments), {"dataset": data.dataset})
            own = replace(own, known=data.known, labels=data.labels)
            return own, seed if origin.seed is None else origin.seed
    return data, seed


def _unnamed(
    args: argparse.Namespace,
    data: DataOptions,
    table: LabelTable,
    runs: Sequence[Mapping[str, str] | None],
) -> tuple[LabelTable, str]:
    """A table that names no split, with those of a run that had its films; and what is scored."""
    films = table.names.tolist()
    for run in runs:
        if args.split != "all" and run and any(film in run for film in films):
            return with_splits(table, run), args.split or "test"
    if args.split not in (None, "all"):
        raise EvaluationError(
            f"{data.data} names no split, so it has no {args.split} films; leave out --split to "
            "score all its films, or draw test films with --test 0.2"
        )
    whole = without_drawn(table, "All films are scored, as the data names no split.")
    return whole.with_split(np.full(len(table), "test")), "all"
