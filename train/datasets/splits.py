"""The splits of a run, written beside its model: ``splits.csv`` with a row for each film.

Whoever needs another run's splits reads them there. Drawing them again needs the same code, the
same options and the same films, and is done only for a model without the file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cft.files import atomic_write, regular
from train.datasets.csv_core import read_csv
from train.datasets.labels import SPLITS, LabelTable
from train.datasets.reading import note_names
from train.errors import DatasetError

#: The file in a model folder. It may hold ids of patients: it is never published.
SPLITS_FILE = "splits.csv"


def write_splits(folder: Path, table: LabelTable) -> None:
    """Write the side of each film of a table into a folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["film", "patient", "split"])
    columns = (table.names.tolist(), table.patients.tolist(), table.split.tolist())
    writer.writerows(zip(*columns, strict=True))
    atomic_write(folder / SPLITS_FILE, text.getvalue())


def read_splits(folder: Path) -> dict[str, str] | None:
    """Film -> its side in the run that made a model folder; None if the folder does not say.

    Raises
    ------
    DatasetError
        If the file is damaged.
    OSError
        If it is no file.
    """
    path = folder / SPLITS_FILE
    if not path.exists():
        return None
    table = read_csv(regular(path))
    for value in set(table["split"]):
        if value not in SPLITS:
            raise table.refuse("split", value, ", ".join(SPLITS))
    return dict(zip(table["film"], table["split"], strict=True))


def with_splits(table: LabelTable, splits: Mapping[str, str]) -> LabelTable:
    """The films of a table on the sides that another run had them on.

    Films that the run did not have are left out. If it had none of them, the data is another, and
    the table stays as it is.
    """
    sides = [splits.get(name, "") for name in table.names.tolist()]
    known = np.array([bool(side) for side in sides], bool)
    if not known.any():
        note = "The model's own run had none of these films, so they are split anew."
        return replace(table, notes=(*table.notes, note))
    strangers = table.names[~known].tolist()
    whole = without_drawn(
        table,
        "The splits are those of the model's own run.",
        *note_names("Left out {} {} that the run did not have", strangers, "film", "films"),
    )
    if known.all():
        return whole.with_split(np.array(sides))
    return whole.subset(known).with_split(np.array(sides)[known])


def without_drawn(table: LabelTable, *notes: str) -> LabelTable:
    """The table with other notes in place of those on splits that were drawn."""
    drawn = table.source.get("drawn", ())
    return replace(table, notes=(*(x for x in table.notes if x not in drawn), *notes))


def check_splits(table: LabelTable) -> None:
    """Raise if there is nothing to train on, or nothing to choose by.

    Asked before films are packed, which can take an hour.
    """
    sides = set(table.split.tolist())
    if "train" not in sides:
        raise DatasetError(
            f"{table.dataset} has no training films: all {len(table):,} are in "
            f"{' and '.join(side for side in SPLITS if side in sides)}"
        )
    if "valid" not in sides:
        raise DatasetError(
            f"{table.dataset} has no validation films, so nothing can be chosen or calibrated; "
            "draw some with --valid 0.1"
        )


def patient_folds(patients: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) fold of each film, from 0; all films of a patient are in one.

    Parameters
    ----------
    patients
        (N,) whose film each is.
    folds
        How many.
    seed
        Of the draw.
    """
    people, index = np.unique(patients, return_inverse=True)
    return np.random.default_rng(seed).permutation(len(people))[index] % folds
