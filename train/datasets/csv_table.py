"""A CSV of one's own: a column of images, and a column per category with 1, 0, -1 or nothing.

Columns with these names have a role; every other column is a category:

- ``image``: path of the film, absolute or from the folder of the table; required.
- ``patient``, ``study``: ids. Without ``patient`` every film counts as a patient of its own.
- ``split``: train, valid (or val, validation) or test; blank counts as train where the table
  names other splits, and is drawn where it names none.
- ``age`` (years), ``sex``, ``view`` (PA, AP, lateral), ``width`` (pixels).

Other spellings are mapped: ``--map image=filename`` ``"Pleural Effusion=effusion_label"``.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from train.datasets import reading
from train.datasets.labels import LabelTable, Paths
from train.datasets.options import Request
from train.datasets.reading import SEX, VIEW, Columns
from train.datasets.roles import ROLES
from train.errors import DatasetError

_SPLITS = {
    "": "",
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}


def recognises(data: Path) -> bool:
    """Whether this is a CSV table, or a folder with exactly one."""
    path = _table_path(data)
    return path is not None and len(reading.read_header(path)) > 1


def read(data: Path, options: Request) -> LabelTable:
    """One's own table."""
    path = _table_path(data)
    if path is None:
        raise DatasetError(f"{data} does not hold exactly one CSV table; name the table itself")
    table = _renamed(reading.read_csv(path), options)
    label_names = options.label_names or tuple(n for n in table.cells if n not in ROLES)
    if not label_names:
        raise DatasetError(f"{path} has no column of labels beside {', '.join(table.cells)}")
    y, uncertain = reading.read_labels(table, label_names, lambda name: _advice(name, options))
    names = _filled(table, "image")
    patients, notes = names, []
    if "patient" in table.cells:
        patients = _filled(table, "patient")
    else:
        notes.append(
            "No column patient: every film counts as a patient of its own. If patients have "
            "several films, name the column with --map patient=..."
        )
    attributes, odd = _attributes(table)
    return reading.build_table(
        "csv",
        options,
        names=names,
        images=Paths(path.parent / name for name in names),
        y=y,
        uncertain=uncertain,
        label_names=label_names,
        patients=patients,
        studies=table.cells.get("study", names),
        split=_split(table),
        attributes=attributes,
        notes=[*notes, *odd],
        files=[path],
    )


def _table_path(data: Path) -> Path | None:
    found = [*data.glob("*.csv"), *data.glob("*.csv.gz")] if data.is_dir() else [data]
    return found[0] if len(found) == 1 else None


def _renamed(table: Columns, options: Request) -> Columns:
    """The table with the columns called as the roles and categories they are mapped to."""
    for column in options.mapping.values():
        table[column]  # an error that names the columns there are
    taken = set(options.mapping.values())
    cells = {new: table.cells[column] for new, column in options.mapping.items()}
    for name, column in table.cells.items():
        if name in cells and name not in taken:
            raise DatasetError(
                f"--map {name}={options.mapping[name]}: {table.path} has a column {name!r} already"
            )
        if name not in taken:
            cells[name] = column
    if "image" not in cells:
        raise DatasetError(
            f"{table.path} has no column 'image'; say which it is with --map image=COLUMN "
            f"(columns: {', '.join(table.cells)})"
        )
    return Columns(table.path, cells, table.row_numbers, options.mapping)


def _advice(name: str, options: Request) -> str:
    """What to do about a column that was taken for a category only because it has no role."""
    if options.label_names or name in options.mapping:
        return ""
    role = name.lower() if name.lower() in ROLES else "ROLE"
    return (
        "; if this is no category, name the categories with --labels, or its role with --map "
        + shlex.quote(f"{role}={name}")
    )


def _filled(table: Columns, name: str) -> list[str]:
    column = table[name]
    if not all(column):
        raise table.refuse(name, "", "a value in every row")
    return column


def _split(table: Columns) -> list[str]:
    if "split" not in table.cells:
        return [""] * len(table)
    for value in set(table["split"]):
        if value.strip().lower() not in _SPLITS:
            raise table.refuse("split", value, "train, valid or test")
    return [_SPLITS[value.strip().lower()] for value in table["split"]]


def _attributes(table: Columns) -> tuple[dict[str, np.ndarray], list[str]]:
    attributes, notes = {}, []
    if "age" in table.cells:
        attributes["age"], notes = reading.read_ages(table["age"])
    if "sex" in table.cells:
        attributes["sex"] = reading.read_choice(table["sex"], SEX)
        notes += reading.note_unknown_values(table, "sex", SEX, "unknown")
    if "view" in table.cells:
        attributes["view"] = reading.read_choice(table["view"], VIEW)
        notes += reading.note_unknown_values(table, "view", {*VIEW, "frontal"}, "frontal")
    if "width" in table.cells:
        attributes["width"] = reading.read_widths(table)
    return attributes, notes
