"""CheXpert (Irvin et al., AAAI 2019): ``train.csv`` and ``valid.csv``, small or full size.

A row's path says where the film belongs: ``.../train/patient00001/study1/view1_frontal.jpg`` is a
training film of that patient and study. What precedes ``train/`` (``CheXpert-v1.0-small`` or
another name) need not be the name of the folder where the data lies.

Labels were mined from reports: 1 present, 0 said to be absent, -1 uncertain, blank not mentioned.
``valid.csv``, which radiologists labelled, is the validation split; ``test.csv`` or
``test_labels.csv``, where present, the test split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cft.labels import CHEXPERT_14
from train.datasets import csv_core, reading
from train.datasets.csv_core import Columns
from train.datasets.labels import SPLITS, LabelTable, Paths
from train.datasets.options import Request
from train.datasets.reading import SEX
from train.errors import DatasetError

_TABLES = ("train.csv", "valid.csv", "test.csv", "test_labels.csv")
# Of frontal films; a few have other codes there.
_FRONTAL = {"pa": "PA", "ap": "AP"}
_COLUMNS = {"Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_14}
_PATH = ".../train/patient00001/study1/view1_frontal.jpg"


def recognises(data: Path) -> bool:
    """Whether this is a folder or a table of CheXpert."""
    return any({"Path", *CHEXPERT_14} <= set(csv_core.read_header(path)) for path in _tables(data))


def read(data: Path, options: Request) -> LabelTable:
    """CheXpert with the labels mined from reports."""
    paths = _tables(data)
    if not paths:
        raise DatasetError(f"no train.csv of CheXpert in {data}")
    parts = [_Part(csv_core.read_csv(path)) for path in paths]
    names = [name for part in parts for name in part.names]
    split = np.concatenate([part.split for part in parts])
    ages, odd_ages = reading.read_ages([age for part in parts for age in part.column("Age")])
    return reading.build_table(
        "chexpert",
        options,
        names=names,
        images=Paths(path for part in parts for path in part.images()),
        y=np.concatenate([part.y for part in parts]),
        uncertain=np.concatenate([part.uncertain for part in parts]),
        label_names=CHEXPERT_14,
        patients=[patient for part in parts for patient in part.patients],
        studies=[study for part in parts for study in part.studies],
        split=split,
        attributes={
            "age": ages,
            "sex": reading.read_choice([sex for part in parts for sex in part.column("Sex")], SEX),
            "view": np.concatenate([part.views() for part in parts]),
        },
        notes=[*odd_ages, *(note for part in parts for note in part.notes)],
        files=paths,
    )


def _tables(data: Path) -> list[Path]:
    """The tables at hand: a file itself; those in a folder, or in its only CheXpert folder."""
    if not data.is_dir():
        return [data]
    inner = sorted(data.glob("CheXpert*/train.csv"))
    folder = inner[0].parent if len(inner) == 1 and not (data / "train.csv").exists() else data
    return [folder / name for name in _TABLES if (folder / name).exists()]


class _Part:
    """One of the tables, taken apart."""

    def __init__(self, table: Columns):
        self.table = table
        self.notes = reading.note_unknown_columns(table, _COLUMNS)
        self.y, self.uncertain = csv_core.read_labels(table, CHEXPERT_14)
        self.names, self.patients, self.studies, sides = [], [], [], []
        for path in table["Path"]:
            _, side, patient, study, film = ("////" + path).rsplit("/", 4)
            if side not in SPLITS or not patient.startswith("patient"):
                raise table.refuse("Path", path, f"a path such as {_PATH}")
            sides.append(side)
            self.patients.append(patient)
            self.studies.append(f"{patient}/{study}")
            self.names.append(f"{side}/{patient}/{study}/{film}")
        self.split = np.array(sides, "U5")

    def column(self, name: str) -> list[str]:
        """A column that the test set's table may lack."""
        return self.table.cells.get(name) or [""] * len(self.table)

    def views(self) -> np.ndarray:
        lateral = np.array([name.endswith("_lateral.jpg") for name in self.names])
        return np.where(lateral, "lateral", reading.read_choice(self.column("AP/PA"), _FRONTAL))

    def images(self) -> list[str]:
        """Where the films lie: beside the table, or below the folder that its paths start with."""
        folder = self.table.path.parent
        prefix = self.table["Path"][0].split("/")[:-4]
        below = folder.joinpath(*prefix)
        if below.is_dir() and not (folder / self.names[0].split("/")[0]).is_dir():
            folder = below
        return [f"{folder}/{name}" for name in self.names]
