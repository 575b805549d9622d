"""Tables of the truth and of predictions, joined by row key and column name, never by position."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from train.datasets.csv_core import Columns, Problems, read_csv, read_labels
from train.datasets.roles import candidates, role_of
from train.errors import TableError
from train.evaluation.keys import join, key_column, key_for
from train.evaluation.predictions import MODEL_COLUMN, Predictions, Truth

__all__ = ["failures", "read_decisions", "read_predictions", "read_truth"]

#: Column that says why a film has no scores, as `cft.results` writes it.
ERROR_COLUMN = "error"

# Columns of a table of predictions that are no category, besides those with a role.
_DESCRIPTIVE = {
    *(MODEL_COLUMN, ERROR_COLUMN, "notes", "no_evidence", "gate"),
    *("operating_point", "above", "unsure", "sentence", "thresholds", "weights_sha256"),
}
_PATIENT_IN_KEY = re.compile(r"patient\d+")


def _table(source: Columns | str | Path) -> Columns:
    return source if isinstance(source, Columns) else read_csv(Path(source))


def _is_descriptive(column: str) -> bool:
    return column.lower() in _DESCRIPTIVE or role_of(column) is not None


def _check_filled(table: Columns, *columns: str) -> None:
    """A blank cell in a column that says what a row is would stand for all such rows together."""
    problems = Problems(table.path)
    for column in columns:
        problems.check_values(table, column, lambda x: bool(x.strip()), "a value in every row")
    problems.check()


# --- The truth ------------------------------------------------------------------------------------


def read_truth(
    source: Columns | str | Path,
    label_names: Iterable[str],
    key: str | None = None,
    unit: str = "patient",
) -> Truth:
    """Read a CSV table of labels.

    Parameters
    ----------
    source
        Table with a column of keys, columns of labels (see `train.datasets.csv_core`; -1,
        uncertain, counts as unknown here), and perhaps patient, sex, age and view.
    label_names
        Categories wanted; those without a column are left out.
    key
        Name of the column of keys; by default see `train.evaluation.keys`.
    unit
        "patient" or "study". The patient is a column ``patient`` (or another of its names), or
        else the part ``patient123`` of the key; if there is neither, each row is its own group.

    Raises
    ------
    TableError
        If the table cannot be read, a row is there twice, or a label is none of the above.
    """
    table = _table(source)
    key = key_for(table, [table], key)
    wanted = set(label_names)
    names = tuple(c for c in table.cells if c in wanted and not _is_descriptive(c))
    if not names:
        raise TableError(
            f"{table.path} has no column named like a column of the predictions "
            f"({_first(sorted(wanted - {key}))}); its columns are {', '.join(table.cells)}"
        )
    _check_filled(table, key)
    problems = Problems(table.path)
    keys = _unique_keys(table, key, problems)
    labels, uncertain = read_labels(table, names, problems)
    problems.check()
    notes = []
    if uncertain.any():
        notes.append(f"{uncertain.sum()} labels marked uncertain (-1) are counted as unknown")
    left = [c for c in table.cells if c not in (*names, key) and not _is_descriptive(c)]
    if left:
        notes.append(f"not predicted, so not scored: {', '.join(left)}")
    row = "study" if role_of(key) == "study" else "film"
    groups, unit = _groups(table, keys, unit, row)
    columns = candidates(table.cells)
    return Truth(
        table.path.stem,
        keys,
        names,
        labels.astype(np.float64),
        groups,
        unit,
        {x: _stripped(table, columns[x][0]) for x in ("sex", "age", "view") if x in columns},
        row,
        tuple(notes),
        key,
        len(keys) if row == "film" else None,
    )


def _stripped(table: Columns, column: str) -> np.ndarray:
    return np.array([value.strip() for value in table[column]])


def _unique_keys(table: Columns, key: str, problems: Problems) -> tuple[str, ...]:
    seen: set[str] = set()
    for number, cell in zip(table.row_numbers, table[key], strict=True):
        if cell.strip() in seen:
            problems.add(f"row {number}: {key} {cell.strip()!r} is there a second time")
        seen.add(cell.strip())
    return tuple(cell.strip() for cell in table[key])


def _groups(table: Columns, keys: tuple[str, ...], unit: str, row: str) -> tuple[np.ndarray, str]:
    if unit == "study":
        return np.array(keys), row
    for column in candidates(table.cells).get("patient", ()):
        _check_filled(table, column)
        return _stripped(table, column), "patient"
    found = [_PATIENT_IN_KEY.search(key) for key in keys]
    if all(found):
        return np.array([match.group() for match in found if match]), "patient"
    return np.array(keys), row


# --- Predictions ----------------------------------------------------------------------------------


def read_predictions(
    source: Columns | str | Path, truth: Truth, key: str | None = None
) -> list[Predictions]:
    """Read a CSV table of predictions and bring it into the order of the truth.

    Parameters
    ----------
    source
        Table with a column of keys and one column for each category; a column ``model`` splits it
        into several models, otherwise the model's name is the file's stem. Rows with something in
        a column ``error`` are left out; see `failures`.
    truth
        What is to be scored.
    key
        Name of the column of keys; by default the truth's, or one with films.

    Raises
    ------
    TableError
        If a study of the truth is missing or is scored twice, a score is missing or is no number,
        or no column is one of the truth's categories.
    """
    table = _table(source)
    column = key_column(table, key or truth.key)
    label_names = tuple(c for c in truth.label_names if c in table.cells)
    if not label_names:
        raise TableError(_no_category(table, truth))
    notes = [
        f"column {name!r} of {table.path.name} is no category of {truth.name!r} and is not used"
        for name in table.cells
        if name not in (*label_names, column) and not _is_descriptive(name)
    ]
    missing = [c for c in truth.label_names if c not in label_names]
    if missing:
        notes.append(f"{table.path.name} does not predict {', '.join(missing)}")
    _check_filled(table, column, *({MODEL_COLUMN} & table.cells.keys()))
    rows = [row for row in range(len(table)) if not _error(table, row)]
    if MODEL_COLUMN not in table.cells:
        return [_aligned(table, table.path.stem, rows, truth, label_names, column, notes)]
    models: dict[str, list[int]] = {}
    for row in rows:
        models.setdefault(table[MODEL_COLUMN][row].strip(), []).append(row)
    result = []
    for name, those in models.items():
        filled = tuple(c for c in label_names if any(table[c][row].strip() for row in those))
        if not filled:
            raise TableError(f"{table.path} holds no score of the model {name!r}")
        result.append(_aligned(table, name, those, truth, filled, column, notes))
    return result


def failures(source: Columns | str | Path, truth: Truth, key: str | None = None) -> dict[str, str]:
    """Key of the truth -> why a table of predictions has no scores of it, as its ``error`` says."""
    table = _table(source)
    column = key_column(table, key or truth.key)
    failed = {table[column][i].strip(): i for i in range(len(table)) if _error(table, i)}
    found, _ = join(table, column, failed.values(), truth.keys, truth.key)
    return {name: _error(table, row) for name, row in found.items()}


def _error(table: Columns, row: int) -> str:
    return table[ERROR_COLUMN][row].strip() if ERROR_COLUMN in table.cells else ""


def read_decisions(
    source: Columns | str | Path, truth: Truth, key: str | None = None
) -> Predictions:
    """Read a CSV table of a reader's decisions (1, 0, blank for none), in the truth's order.

    Raises
    ------
    TableError
        See `read_predictions`.
    """
    table = _table(source)
    column = key_column(table, key or truth.key)
    label_names = tuple(c for c in table.cells if c in truth.label_names)
    if not label_names:
        raise TableError(_no_category(table, truth))
    _check_filled(table, column)
    rows, _ = _rows_in_order(table, column, range(len(table)), truth)
    decisions = read_labels(table, label_names)[0][rows].astype(np.float64)
    if np.isnan(decisions).all():
        raise TableError(f"{table.path} holds no decision on any study of {truth.name!r}")
    return Predictions(table.path.stem, label_names, decisions)


def _no_category(table: Columns, truth: Truth) -> str:
    return (
        f"{table.path} has no column named like a category of {truth.name!r} "
        f"({_first(truth.label_names)}); its columns are {', '.join(table.cells)}"
    )


def _first(names: Sequence[str], most: int = 3) -> str:
    """The first few of some names."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def _rows_in_order(
    table: Columns, column: str, rows: Iterable[int], truth: Truth
) -> tuple[list[int], list[str]]:
    """For each row of the truth, the position of its row in a table; and notes."""
    found, note = join(table, column, rows, truth.keys, truth.key)
    missing = [name for name in truth.keys if name not in found]
    if missing:
        raise TableError(
            f"{table.path} lacks {len(missing)} of the {len(truth.keys)} rows of {truth.name!r}, "
            f"first {truth.key} {missing[0]!r} (joined by its column {column!r})"
        )
    return [found[name] for name in truth.keys], [note] if note else []


def _aligned(
    table: Columns,
    name: str,
    rows: list[int],
    truth: Truth,
    label_names: tuple[str, ...],
    column: str,
    notes: list[str],
) -> Predictions:
    order, joined = _rows_in_order(table, column, rows, truth)
    notes = [*notes, *joined]
    if len(rows) > len(order):
        extra = len(rows) - len(order)
        notes.append(f"{extra} rows of {table.path.name} have no truth and are not used")
    problems = Problems(table.path)
    scores = np.empty((len(order), len(label_names)))
    for c, label in enumerate(label_names):
        cells = table[label]
        scores[:, c] = [_score(cells[row]) for row in order]
        wrong = sorted(order[i] for i in np.flatnonzero(np.isnan(scores[:, c])))
        problems.add_cells(table, label, wrong, "a score: any finite number")
    problems.check()
    return Predictions(name, label_names, scores, notes=tuple(notes))


def _score(cell: str) -> float:
    """A number, or NaN for what is no finite one."""
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
