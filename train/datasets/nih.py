"""NIH ChestX-ray14 (Wang et al., CVPR 2017): the official table, or a compact one with experts.

Two layouts are read:

- Official: ``Data_Entry_2017*.csv`` with ``train_val_list.txt`` and ``test_list.txt`` beside it
  where present; images in ``images/``, or in ``images_001/images/`` to ``images_012/images/``.
  The follow-up number is the order of a patient's films.
- Compact: ``labels.csv`` with one column per category and the ``width`` of each image, images in
  ``images/``, and ``expert_labels.csv``: radiologists' majority votes (Nabulsi et al., arXiv
  2010.11375) on some films. All films of the patients on those are "test".

The labels were mined from reports, and the miner states every category of every film: what it
did not find is 0 here, not unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cft.labels import NIH_14
from train.datasets import csv_core, reading
from train.datasets.csv_core import Columns
from train.datasets.labels import LabelTable, Paths
from train.datasets.options import Request
from train.datasets.reading import SEX, VIEW
from train.errors import DatasetError

_COMPACT_COLUMNS = {"image", "patient_id", "age", "sex", "view", "width", "order", *NIH_14}
_OFFICIAL_COLUMNS = {
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
    *("OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"),
}


def recognises(data: Path) -> bool:
    """Whether this is a folder or table of ChestX-ray14."""
    header = set(csv_core.read_header(_table_path(data)))
    official = {"Image Index", "Finding Labels"} <= header
    return official or {"image", "patient_id", *NIH_14} <= header


def read(data: Path, options: Request) -> LabelTable:
    """ChestX-ray14 with the labels mined from reports."""
    path = _table_path(data)
    if not path.exists():
        raise DatasetError(f"no Data_Entry_2017*.csv and no labels.csv of ChestX-ray14 in {data}")
    table = csv_core.read_csv(path)
    return (_read_official if "Finding Labels" in table.cells else _read_compact)(table, options)


def read_experts(data: Path, options: Request) -> LabelTable:
    """The films of the compact layout that experts labelled, with the experts' labels.

    All are "test". Patients, ages and views come from ``labels.csv``.
    """
    folder = data if data.is_dir() else data.parent
    films = csv_core.read_csv(folder / "labels.csv")
    experts = csv_core.read_csv(folder / "expert_labels.csv")
    y, uncertain = csv_core.read_labels(experts, NIH_14)
    rows = _rows_of(experts, films)
    return _build_compact(
        "nih-experts", options, films, rows, y, uncertain, ["test"] * len(rows), experts.path
    )


def _table_path(data: Path) -> Path:
    """The table itself, or where it is in a folder, if there is one."""
    if not data.is_dir():
        return data
    return next(iter(sorted(data.glob("*Data_Entry_2017*.csv*"))), data / "labels.csv")


# --- The compact layout -----------------------------------------------------------------------


def _read_compact(table: Columns, options: Request) -> LabelTable:
    y, uncertain = csv_core.read_labels(table, NIH_14)
    rows = np.arange(len(table))
    return _build_compact("nih", options, table, rows, y, uncertain, _sides_by_experts(table))


def _sides_by_experts(table: Columns) -> np.ndarray:
    """(N,) "test" for all films of the patients on films that experts labelled, else ""."""
    path = table.path.parent / "expert_labels.csv"
    if not path.exists():
        return np.full(len(table), "", "U5")
    experts = csv_core.read_csv(path)
    people = np.array(table["patient_id"])
    return np.where(np.isin(people, people[_rows_of(experts, table)]), "test", "")


def _rows_of(experts: Columns, films: Columns) -> np.ndarray:
    row_of = {image: row for row, image in enumerate(films["image"])}
    for image in experts["image"]:
        if image not in row_of:
            raise experts.refuse("image", image, f"an image of {films.path.name}")
    return np.array([row_of[image] for image in experts["image"]])


def _build_compact(
    dataset: str,
    options: Request,
    films: Columns,
    rows: np.ndarray,
    y: np.ndarray,
    uncertain: np.ndarray,
    split: Sequence[str] | np.ndarray,
    *more_files: Path,
) -> LabelTable:
    """The table of the films at ``rows`` of ``labels.csv``."""

    def column(name: str) -> list[str]:
        cells = films[name]
        return [cells[row] for row in rows.tolist()]

    ages, odd_ages = reading.read_ages(column("age"))
    names = column("image")
    order = {"order": reading.read_order(films, "order")[rows]} if "order" in films.cells else {}
    return reading.build_table(
        dataset,
        options,
        names=names,
        images=Paths(f"{films.path.parent}/images/{name}" for name in names),
        y=y,
        uncertain=uncertain,
        label_names=NIH_14,
        patients=column("patient_id"),
        studies=[Path(name).stem for name in names],
        split=split,
        attributes={
            "age": ages,
            "sex": reading.read_choice(column("sex"), SEX),
            "view": reading.read_choice(column("view"), VIEW),
            "width": reading.read_widths(films)[rows],
            **order,
        },
        min_width=224,
        notes=[*odd_ages, *reading.note_unknown_columns(films, _COMPACT_COLUMNS)],
        files=[films.path, *more_files],
    )


# --- The official layout ----------------------------------------------------------------------


def _read_official(table: Columns, options: Request) -> LabelTable:
    names = table["Image Index"]
    y = _mined_labels(table)
    split, notes = _official_split(table)
    ages, odd_ages = reading.read_ages(table["Patient Age"])
    number = "Follow-up #"
    order = {"order": reading.read_order(table, number)} if number in table.cells else {}
    return reading.build_table(
        "nih",
        options,
        names=names,
        images=_find_images(table.path.parent, names),
        y=y,
        uncertain=np.zeros(y.shape, bool),
        label_names=NIH_14,
        patients=table["Patient ID"],
        studies=[name.partition(".")[0] for name in names],
        split=split,
        attributes={
            "age": ages,
            "sex": reading.read_choice(table["Patient Gender"], SEX),
            "view": reading.read_choice(table["View Position"], VIEW),
            **order,
        },
        notes=[
            *notes,
            *odd_ages,
            *reading.note_unknown_columns(table, _OFFICIAL_COLUMNS),
        ],
        files=[table.path],
    )


def _mined_labels(table: Columns) -> np.ndarray:
    """(N, 14) float32 of 1 and 0 from cells such as ``Cardiomegaly|Effusion``."""
    column = table["Finding Labels"]
    combinations = {value: number for number, value in enumerate(dict.fromkeys(column))}
    labels = np.zeros((len(combinations), len(NIH_14)), np.float32)
    for value, number in combinations.items():
        findings = set(value.split("|"))
        if findings - {*NIH_14, "No Finding"} or ("No Finding" in findings and len(findings) > 1):
            expected = f"No Finding, or names joined by | out of {', '.join(NIH_14)}"
            raise table.refuse("Finding Labels", value, expected)
        labels[number] = [finding in findings for finding in NIH_14]
    return labels[[combinations[value] for value in column]]


def _official_split(table: Columns) -> tuple[np.ndarray, list[str]]:
    """(N,) "train", "test" or "": as the two lists say, where they are; and notes."""
    split = np.full(len(table), "", "U5")
    row_of = {name: row for row, name in enumerate(table["Image Index"])}
    notes = []
    for side, name in (("train", "train_val_list.txt"), ("test", "test_list.txt")):
        path = table.path.parent / name
        listed = csv_core.read_text(path).split() if path.exists() else []
        split[[row_of[image] for image in listed if image in row_of]] = side
        strange = [image for image in listed if image not in row_of]
        notes += reading.note_names(
            f"{name} names {{}} {{}} that the table lacks", strange, "image", "images"
        )
    return split, notes


def _find_images(folder: Path, names: Sequence[str]) -> Paths:
    """Where each image lies: ``images/``, or the twelve folders of the official archives."""
    archives = sorted(folder.glob("images_*/images"))
    home = {path.name: path for archive in archives for path in archive.iterdir()}
    return Paths(home.get(name, f"{folder}/images/{name}") for name in names)
