"""Further columns by which films are grouped: the machine, the source, the ward."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from train.datasets.csv_core import Columns, read_csv
from train.datasets.labels import LabelTable
from train.errors import TableError, UsageError
from train.evaluation.keys import join, key_column
from train.evaluation.predictions import Truth

__all__ = ["MOST_VALUES", "of_films", "of_truth", "table_of_groups"]

#: A column with more different values than that is none of groups.
MOST_VALUES = 20


def table_of_groups(args: argparse.Namespace, usual: Path | None) -> Columns | None:
    """The table that holds the columns of ``--group-column``; None if there are none.

    Parameters
    ----------
    args
        The command line.
    usual
        The table to look into without ``--group-table``; of a folder its ``labels.csv``.

    Raises
    ------
    UsageError
        If there is no such table.
    TableError
        If it cannot be read or has no such column, or one with more than 20 values.
    """
    if not args.group_column:
        return None
    path = args.group_table or usual
    if path is not None and path.is_dir():
        path = path / "labels.csv"
    if path is None or not path.is_file():
        raise UsageError("--group-column needs --group-table: the table that has the column")
    table = read_csv(path)
    for name in args.group_column:
        if name not in table.cells:
            raise TableError(
                f"{path} has no column {name!r} to group by; its columns are "
                f"{', '.join(table.cells)}"
            )
        values = {value.strip() for value in table[name]} - {""}
        if len(values) > MOST_VALUES:
            raise TableError(
                f"{path}: {name!r} has {len(values):,} different values, and a column to group by "
                f"has at most {MOST_VALUES}"
            )
    return table


def of_truth(truth: Truth, table: Columns | None, names: Sequence[str]) -> Truth:
    """The truth with further attributes, its rows found in the table by their keys."""
    if table is None:
        return truth
    values = _values(table, truth.keys, truth.key, names)
    return replace(truth, attributes={**truth.attributes, **values})


def of_films(
    films: LabelTable, table: Columns | None, names: Sequence[str], key: str | None = None
) -> LabelTable:
    """The films with further attributes, found in the table's column `key` by their names."""
    if table is None:
        return films
    values = _values(table, films.names.tolist(), key or "image", names)
    return replace(films, attributes={**films.attributes, **values})


def _values(
    table: Columns, keys: Sequence[str], key: str, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Name -> (N,) text; "" for a key that the table does not have."""
    column = key_column(table, key)
    rows, _ = join(table, column, range(len(table[column])), keys, key)
    if not rows:
        raise TableError(f"{table.path} has none of the films that are scored, so no groups")
    return {
        name: np.array([table[name][rows[x]].strip() if x in rows else "" for x in keys])
        for name in names
    }
