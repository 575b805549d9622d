"""By which column tables are joined, and which row belongs to which.

A row's key is a study (the column ``Study``), or a film where there is no such column: the column
``image``, or another of its usual names (``file``, ``path``, ...). Films are joined by their whole
names, or by the last part of them, if that joins more films and each has one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from train.datasets.csv_core import Columns
from train.datasets.roles import candidates, role_of
from train.errors import TableError

#: The key, if the user names none and all tables have it.
STUDY = "Study"


def key_for(truth: Columns, predictions: Sequence[Columns], key: str | None) -> str:
    """The column of the truth by which tables of predictions are joined to it.

    Raises
    ------
    TableError
        If the truth has none.
    """
    film = _film_column(truth)
    if key is None and film and not all(STUDY in table.cells for table in predictions):
        return film
    if (key or STUDY) in truth.cells:
        return key or STUDY
    if key is None and film:
        return film
    raise _no_key(truth, key or STUDY)


def _no_key(table: Columns, key: str) -> TableError:
    return TableError(
        f"{table.path} has no column {key!r} to join by (its columns: {', '.join(table.cells)}); "
        "name another with --key"
    )


def _film_column(table: Columns) -> str | None:
    return next(iter(candidates(table.cells).get("image", ())), None)


def key_column(table: Columns, key: str) -> str:
    """The column of a table that is joined with the truth's."""
    column = key if key in table.cells else _film_column(table)
    if column is None:
        raise _no_key(table, key)
    return column


def join(
    table: Columns, column: str, rows: Iterable[int], keys: Sequence[str], key: str
) -> tuple[dict[str, int], str]:
    """Find the rows of keys in a table.

    Parameters
    ----------
    table, column, rows
        A table, its column of keys, and the positions of the rows to look at.
    keys, key
        What to find, and the name of the column that it comes from.

    Returns
    -------
    rows, note
        Key -> position of its row, and how that was joined; "" if in no uncommon way.

    Raises
    ------
    TableError
        If a key is there twice.
    """
    row_of: dict[str, int] = {}
    for row in rows:
        name = table[column][row].strip()
        if name in row_of:
            raise TableError(f"{table.path} scores {column} {name!r} twice")
        row_of[name] = row
    found = {name: row_of[name] for name in keys if name in row_of}
    how = "" if column == key else "by their values"
    if len(found) < len(keys) and "image" in (role_of(column), role_of(key)):
        ours, theirs = _by_last_part(keys), _by_last_part(row_of)
        shorter = {ours[x]: row_of[theirs[x]] for x in ours if x in theirs}
        if len(shorter) > len(found):
            found, how = shorter, "by the last part of their paths"
    note = f"joined {column!r} of {table.path.name} with {key!r} of the truth {how}"
    return found, note if how and found else ""


def _by_last_part(keys: Iterable[str]) -> dict[str, str]:
    """File name -> the one key that ends in it; names that several keys end in are left out."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(re.split(r"[/\\]", key)[-1], []).append(key)
    return {name: those[0] for name, those in found.items() if len(those) == 1}
