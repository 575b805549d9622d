"""A CSV of one's own: a column of images, and a column per category with 1, 0, -1 or nothing.

Columns with these names have a role; every other column is a category:

- ``image``: path of the film, absolute or from the folder of the table; required.
- ``patient``, ``study``: ids. Without ``patient`` every film counts as a patient of its own.
- ``split``: train, valid (or val, validation) or test; blank counts as train where the table
  names other splits, and is drawn where it names none.
- ``age`` (years), ``sex``, ``view`` (PA, AP, lateral), ``width`` (pixels).
- ``order``: a number that says where a film stands among those of its patient, such as a follow-up
  number or days; only ``--history`` asks for it.

Names that such columns often have (``Path``, ``PatientID``, ``gender``; see
`train.datasets.roles`) are known as well, and a note says what was taken for what. Other spellings
are mapped: ``--map image=scan`` ``"Pleural Effusion=effusion_label"``.

All that is wrong with a table is said at once.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from train.datasets import csv_core, reading
from train.datasets.csv_core import Columns, Problems
from train.datasets.labels import LabelTable, Paths
from train.datasets.options import Request
from train.datasets.reading import SEX, VIEW
from train.datasets.roles import ROLES, candidates
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
    return path is not None and len(csv_core.read_header(path)) > 1


def read(data: Path, options: Request) -> LabelTable:
    """One's own table."""
    path = _table_path(data)
    if path is None:
        raise DatasetError(f"{data} does not hold exactly one CSV table; name the table itself")
    problems = Problems(path)
    table, notes = _with_roles(csv_core.read_csv(path, problems), options)
    label_names = options.label_names or tuple(n for n in table.cells if n not in ROLES)
    if not label_names:
        raise DatasetError(f"{path} has no column of labels beside {', '.join(table.cells)}")
    y, uncertain = csv_core.read_labels(
        table, label_names, problems, lambda name: _advice(name, options)
    )
    names = _ids(table, "image", problems)
    patients = names
    if "patient" in table.cells:
        patients = _ids(table, "patient", problems)
    else:
        notes.append(
            "No column patient: every film counts as a patient of its own. If patients have "
            "several films, name the column with --map patient=..."
        )
    split = _split(table, problems)
    attributes, odd = _attributes(table, problems)
    blank = [x for x, given in zip(label_names, _given(y, uncertain), strict=True) if not given]
    notes += odd
    notes += reading.note_names("{} {} blank in every row", blank, "category is", "categories are")
    return reading.build_table(
        "csv",
        options,
        names=names,
        images=Paths(path.parent / name for name in names),
        y=y,
        uncertain=uncertain,
        label_names=label_names,
        patients=patients,
        studies=_ids(table, "study", problems) if "study" in table.cells else names,
        split=split,
        attributes=attributes,
        notes=notes,
        files=[path],
        problems=problems,
    )


def _table_path(data: Path) -> Path | None:
    found = [*data.glob("*.csv"), *data.glob("*.csv.gz")] if data.is_dir() else [data]
    return found[0] if len(found) == 1 else None


# --- Columns --------------------------------------------------------------------------------------


def _with_roles(table: Columns, options: Request) -> tuple[Columns, list[str]]:
    """The table with the columns called as their roles and categories, and notes on that."""
    named = {**options.mapping, **_roles_by_name(table, options)}
    cells = {new: table[column] for new, column in named.items()}
    free = [name for name in table.cells if name not in named.values()]
    # Of two columns that could be the image, one was named by --map: the other is no category.
    unused = [
        name
        for role, columns in candidates(_unasked(free, options)).items()
        for name in columns
        if role in options.mapping
    ]
    for name in free:
        if name in cells and name not in unused:
            raise DatasetError(
                f"--map {name}={named[name]}: {table.path} has a column {name!r} already"
            )
        if name not in unused:
            cells[name] = table.cells[name]
    if "image" not in cells:
        raise DatasetError(
            f"{table.path} has no column 'image'; say which it is with --map image=COLUMN "
            f"(columns: {', '.join(cells)})"
        )
    taken = [f"{c} as {role}" for role, c in named.items() if role not in (*options.mapping, c)]
    notes = [f"Took columns by their names: {', '.join(taken)}."] if taken else []
    notes += reading.note_names("Did not use {} {}", unused, "column", "columns")
    return Columns(table.path, cells, table.row_numbers, named), notes


def _roles_by_name(table: Columns, options: Request) -> dict[str, str]:
    """Role -> its column, for the roles that --map leaves open and a column has the name of."""
    mapped = set(options.mapping.values())
    free = _unasked([name for name in table.cells if name not in mapped], options)
    found = {}
    for role, columns in candidates(free).items():
        if role in options.mapping:
            continue
        if len(columns) > 1:
            raise DatasetError(
                f"{table.path} has {len(columns)} columns that could be the {role}: "
                f"{', '.join(columns)}; say which with --map {shlex.quote(f'{role}={columns[0]}')}"
            )
        found[role] = columns[0]
    return found


def _unasked(columns: list[str], options: Request) -> list[str]:
    """The columns that --labels does not name as categories."""
    return [name for name in columns if name not in (options.label_names or ())]


def _advice(name: str, options: Request) -> str:
    """What to do about a column that was taken for a category only because it has no role."""
    if options.label_names or name in options.mapping:
        return ""
    return (
        "; if this is no category, name the categories with --labels, or its role with --map "
        + shlex.quote(f"ROLE={name}")
    )


# --- Values ---------------------------------------------------------------------------------------


def _given(y: np.ndarray, uncertain: np.ndarray) -> np.ndarray:
    """(C,) bool: some film has a label of the category."""
    return (~np.isnan(y) | uncertain).any(0)


def _ids(table: Columns, name: str, problems: Problems) -> list[str]:
    problems.check_values(table, name, lambda value: bool(value.strip()), "a value in every row")
    return [value.strip() for value in table[name]]


def _split(table: Columns, problems: Problems) -> list[str]:
    if "split" not in table.cells:
        return [""] * len(table)
    problems.check_values(
        table, "split", lambda value: value.strip().lower() in _SPLITS, "train, valid or test"
    )
    return [_SPLITS.get(value.strip().lower(), "") for value in table["split"]]


def _attributes(table: Columns, problems: Problems) -> tuple[dict[str, np.ndarray], list[str]]:
    attributes: dict[str, np.ndarray] = {}
    notes: list[str] = []
    if "age" in table.cells:
        attributes["age"], notes = reading.read_ages(table["age"])
    if "sex" in table.cells:
        attributes["sex"] = reading.read_choice(table["sex"], SEX)
        notes += reading.note_unknown_values(table, "sex", SEX, "unknown")
    if "view" in table.cells:
        attributes["view"] = reading.read_choice(table["view"], VIEW)
        notes += reading.note_unknown_values(table, "view", {*VIEW, "frontal"}, "frontal")
    if "width" in table.cells:
        attributes["width"] = reading.read_widths(table, problems)
    if "order" in table.cells:
        attributes["order"] = reading.read_order(table, "order", problems)
    return attributes, notes
