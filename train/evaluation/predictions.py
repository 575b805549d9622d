"""Tables of predictions and of the truth, joined by row key and column name, never by position."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from train.errors import TableError

__all__ = [
    "STUDY_RULES",
    "Predictions",
    "Truth",
    "column_names",
    "predictions_csv",
    "read_decisions",
    "read_predictions",
    "read_truth",
]

#: Column that names the model in a table that holds several, as `predictions_csv` writes it.
MODEL_COLUMN = "model"

# Columns of a table of predictions that are no category.
_DESCRIPTIVE = {MODEL_COLUMN, "file", "image", "path", "study", "patient", "patient_id"}


_DESCRIPTIVE |= {"view", "notes", "error", "age", "sex"}


_PATIENT_COLUMNS = ("patient", "patient_id", "patientid")


_DESCRIPTIVE |= set(_PATIENT_COLUMNS)


_PATIENT_IN_KEY = re.compile(r"patient\d+")

#: How the films of a study become one row; "separate" keeps the films.
STUDY_RULES = ("max", "mean", "separate")


@dataclass(frozen=True)
class Truth:
    """What is known about a set of studies (or of single films).

    Attributes
    ----------
    name
        What the report calls it.
    keys
        (N,) study or film of each row.
    label_names
        The C categories.
    labels
        (N, C) in {1, 0, NaN}.
    groups, unit
        (N,) what the bootstrap draws, and its name: "patient", or that of a row.
    attributes
        Name ("sex", "age", "view") -> (N,) strings; "" where unknown.
    row
        What a row is: "study" or "film".
    notes
        What the reader has to say, as sentences.
    """

    name: str
    keys: tuple[str, ...]
    label_names: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    unit: str
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    row: str = "study"
    notes: tuple[str, ...] = ()

    def columns(self, labels: Sequence[str]) -> np.ndarray:
        """(N, len(labels)) labels of some categories, in the order asked for."""
        return self.labels[:, [self.label_names.index(label) for label in labels]]


@dataclass(frozen=True)
class Predictions:
    """One model's scores for the rows of a `Truth`, in its order.

    Attributes
    ----------
    name
        What the report calls the model.
    label_names
        The K categories that it predicts.
    scores
        (N, K) float64; any real numbers.
    logits
        (N, K) the same before calibration, for a model that was run here; else None.
    probabilities
        False: the scores are no probabilities, even where they lie in [0, 1].
    operating_points
        Category -> threshold in units of `scores`, or None.
    source
        Where the operating points come from; "" without any.
    notes
        What the reader has to say, as sentences.
    """

    name: str
    label_names: tuple[str, ...]
    scores: np.ndarray
    logits: np.ndarray | None = None
    probabilities: bool = True
    operating_points: dict[str, float | None] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()

    def column(self, label: str) -> np.ndarray:
        """(N,) scores of one category."""
        return self.scores[:, self.label_names.index(label)]

    def columns(self, labels: Sequence[str]) -> np.ndarray:
        """(N, len(labels)) scores of some categories, in the order asked for."""
        return self.scores[:, [self.label_names.index(label) for label in labels]]


@dataclass(frozen=True)
class _Table:
    path: Path
    columns: tuple[str, ...]
    rows: list[dict[str, str]]

    def line(self, index: int) -> str:
        return f"{self.path}, line {index + 2}"  # line 1 holds the column names


def read_truth(
    path: str | Path, label_names: Iterable[str], key: str = "Study", unit: str = "patient"
) -> Truth:
    """Read a CSV table of labels.

    Parameters
    ----------
    path
        Table with the column `key`, columns of labels (1, 0, blank for unknown, -1 for uncertain,
        which counts as unknown here), and perhaps ``patient_id``, ``sex``, ``age`` and ``view``.
    label_names
        Categories wanted; those without a column are left out.
    unit
        "patient" or "study". The patient is the column ``patient_id`` or ``patient``, or else the
        part ``patient123`` of the key; if there is neither, each row is its own group.

    Raises
    ------
    TableError
        If the table cannot be read, a row is there twice, or a label is none of the above.
    """
    table = _read(path, key)
    keys = _unique_keys(table, key)
    wanted = set(label_names)
    names = tuple(c for c in table.columns if c in wanted and c.lower() not in _DESCRIPTIVE)
    if not names:
        raise TableError(
            f"{table.path} has no column named like a column of the predictions "
            f"({_first(sorted(wanted - {key}))}); its columns are {', '.join(table.columns)}"
        )
    labels = np.array(
        [[_label(row[name], table, i, name) for name in names] for i, row in enumerate(table.rows)]
    ).reshape(len(keys), len(names))
    notes = []
    uncertain = int(np.sum(labels == -1))
    if uncertain:
        labels[labels == -1] = np.nan
        notes.append(f"{uncertain} labels marked uncertain (-1) are counted as unknown")
    left = [c for c in table.columns if c not in (*names, key) and c.lower() not in _DESCRIPTIVE]
    if left:
        notes.append(f"not predicted, so not scored: {', '.join(left)}")
    row = "study" if key.lower() == "study" else "film"
    groups, unit = _groups(table, keys, unit, row)
    attributes = {
        column.lower(): np.array([row[column].strip() for row in table.rows])
        for column in table.columns
        if column.lower() in ("sex", "age", "view")
    }
    return Truth(table.path.stem, keys, names, labels, groups, unit, attributes, row, tuple(notes))


def read_predictions(path: str | Path, truth: Truth, key: str = "Study") -> list[Predictions]:
    """Read a CSV table of predictions and bring it into the order of the truth.

    Parameters
    ----------
    path
        Table with the column `key` and one column for each category; a column ``model`` splits it
        into several models, otherwise the model's name is the file's stem.

    Raises
    ------
    TableError
        If a study of the truth is missing or is scored twice, a score is missing or is no number,
        or no column is one of the truth's categories.
    """
    table = _read(path, key)
    label_names = tuple(c for c in truth.label_names if c in table.columns)
    if not label_names:
        raise TableError(_no_category(table, truth))
    notes = [
        f"column {column!r} of {table.path.name} is no category of {truth.name!r} and is not used"
        for column in table.columns
        if column not in (*label_names, key) and column.lower() not in _DESCRIPTIVE
    ]
    missing = [c for c in truth.label_names if c not in label_names]
    if missing:
        notes.append(f"{table.path.name} does not predict {', '.join(missing)}")
    if MODEL_COLUMN not in table.columns:
        return [_aligned(table, table.path.stem, table.rows, truth, label_names, key, notes)]
    names = dict.fromkeys(row[MODEL_COLUMN].strip() for row in table.rows)
    _refuse_blank(table, MODEL_COLUMN)
    result = []
    for name in names:
        rows = [row for row in table.rows if row[MODEL_COLUMN].strip() == name]
        filled = tuple(c for c in label_names if any(row[c].strip() for row in rows))
        if not filled:
            raise TableError(f"{table.path} holds no score of the model {name!r}")
        result.append(_aligned(table, name, rows, truth, filled, key, notes))
    return result


def read_decisions(path: str | Path, truth: Truth, key: str = "Study") -> Predictions:
    """Read a CSV table of a reader's decisions (1, 0, blank for none), in the truth's order.

    Raises
    ------
    TableError
        See `read_predictions`.
    """
    table = _read(path, key)
    label_names = tuple(c for c in table.columns if c in truth.label_names)
    if not label_names:
        raise TableError(_no_category(table, truth))
    index = _row_of_key(table, table.rows, truth, key)
    rows = [[_label(table.rows[i][c], table, i, c) for c in label_names] for i in index]
    decisions = np.array(rows).reshape(len(truth.keys), len(label_names))
    decisions[decisions == -1] = np.nan
    if np.isnan(decisions).all():
        raise TableError(f"{table.path} holds no decision on any study of {truth.name!r}")
    return Predictions(table.path.stem, label_names, decisions)


def _no_category(table: _Table, truth: Truth) -> str:
    return (
        f"{table.path} has no column named like a category of {truth.name!r} "
        f"({_first(truth.label_names)}); its columns are {', '.join(table.columns)}"
    )


def _first(names: Sequence[str], most: int = 3) -> str:
    """The first few of some names."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def predictions_csv(truth: Truth, models: Sequence[Predictions], key: str = "Study") -> str:
    """The scores of several models as one CSV table that `read_predictions` reads back."""
    names = [name for name in truth.label_names if any(name in m.label_names for m in models)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([MODEL_COLUMN, key, *names])
    for model in models:
        columns = {name: model.column(name) for name in names if name in model.label_names}
        for i, row_key in enumerate(truth.keys):
            cells = (repr(float(columns[name][i])) if name in columns else "" for name in names)
            writer.writerow([model.name, row_key, *cells])
    return text.getvalue()


def column_names(path: str | Path, key: str = "Study") -> tuple[str, ...]:
    """The columns of a CSV table that has the column `key`.

    Raises
    ------
    TableError
        If it cannot be read or has no such column.
    """
    return _read(path, key).columns


def _read(path: str | Path, key: str) -> _Table:
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a CSV table in UTF-8"
        raise TableError(f"{path} cannot be read: {reason}") from error
    if not lines:
        raise TableError(f"{path} is empty")
    columns = tuple(name.strip() for name in lines[0])
    if not any(columns):
        raise TableError(f"{path} has no column names in its first line")
    twice = [name for i, name in enumerate(columns) if name in columns[:i]]
    if twice:
        raise TableError(f"{path} has two columns named {twice[0]!r}")
    if key not in columns:
        raise TableError(
            f"{path} has no column {key!r} to join by (its columns: {', '.join(columns)}); name "
            "another with --key"
        )
    table = _Table(path, columns, [])
    for cells in lines[1:]:
        if not cells:
            continue
        if len(cells) != len(columns):
            where = table.line(len(table.rows))
            raise TableError(f"{where} has {len(cells)} cells instead of {len(columns)}")
        row = dict(zip(columns, cells, strict=True))
        row[key] = row[key].strip()
        table.rows.append(row)
    _refuse_blank(table, key)
    return table


def _refuse_blank(table: _Table, column: str) -> None:
    """A blank cell in a column that says what a row is would stand for all such rows together."""
    for i, row in enumerate(table.rows):
        if not row[column].strip():
            raise TableError(f"{table.line(i)}: the column {column!r} is blank")


def _unique_keys(table: _Table, key: str) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    for i, row in enumerate(table.rows):
        if row[key] in seen:
            raise TableError(f"{table.line(i)}: {key} {row[key]!r} is there a second time")
        seen[row[key]] = i
    if not seen:
        raise TableError(f"{table.path} has no rows")
    return tuple(seen)


def _label(cell: str, table: _Table, row: int, column: str) -> float:
    cell = cell.strip()
    if not cell or cell.lower() == "nan":
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if value not in (1, 0, -1):
        raise TableError(
            f"{table.line(row)}, column {column!r} holds {cell!r}; a label is 1, 0, -1 or blank"
        )
    return value


def _groups(table: _Table, keys: tuple[str, ...], unit: str, row: str) -> tuple[np.ndarray, str]:
    if unit == "study":
        return np.array(keys), row
    for column in table.columns:
        if column.lower() in _PATIENT_COLUMNS:
            _refuse_blank(table, column)
            return np.array([row[column].strip() for row in table.rows]), "patient"
    found = [_PATIENT_IN_KEY.search(key) for key in keys]
    if all(found):
        return np.array([match.group() for match in found if match]), "patient"
    return np.array(keys), row


def _row_of_key(table: _Table, rows: list[dict[str, str]], truth: Truth, key: str) -> list[int]:
    """For each row of the truth, the position among `rows`."""
    position: dict[str, int] = {}
    for i, row in enumerate(rows):
        if row[key] in position:
            raise TableError(f"{table.path} scores {key} {row[key]!r} twice")
        position[row[key]] = i
    missing = [name for name in truth.keys if name not in position]
    if missing:
        raise TableError(
            f"{table.path} lacks {len(missing)} of the {len(truth.keys)} rows of {truth.name!r}, "
            f"first {key} {missing[0]!r}"
        )
    return [position[name] for name in truth.keys]


def _aligned(
    table: _Table,
    name: str,
    rows: list[dict[str, str]],
    truth: Truth,
    label_names: tuple[str, ...],
    key: str,
    notes: list[str],
) -> Predictions:
    index = _row_of_key(table, rows, truth, key)
    if len(rows) > len(index):
        extra = len(rows) - len(index)
        notes = [*notes, f"{extra} rows of {table.path.name} have no truth and are not used"]
    scores = np.empty((len(index), len(label_names)))
    for k, i in enumerate(index):
        for c, label in enumerate(label_names):
            scores[k, c] = _score(rows[i][label], table, rows[i][key], label)
    return Predictions(name, label_names, scores, notes=tuple(notes))


def _score(cell: str, table: _Table, row_key: str, column: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TableError(
            f"{table.path} has {cell.strip()!r} instead of a score for {row_key!r}, {column!r}"
        )
    return value
