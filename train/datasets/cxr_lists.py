"""RANZCR CLiP, and CXR11 and CXR14 as CheXNet splits them.

RANZCR CLiP (Tang et al., Sci. Data 2021; 30,083 films, 11 categories of tubes and catheters) comes
as ``train.csv`` with ``StudyInstanceUID``, ``PatientID`` and a column per category, and the films
in ``train/``.

Wu et al. (PRCV 2023) publish lists of RANZCR CLiP (CXR11) and of the abnormal films of NIH
ChestX-ray14 (CXR14): for train, val and test a text file with one line per film, its path and its
labels, and a file with the names of the categories in the order of the labels.

CXR14 splits films, not patients: most test patients are in its training list as well. The films of
such patients are skipped unless ``--shared-patients keep`` asks for the published split. The lists
of CXR11 name no patients; they are taken from RANZCR's ``train.csv`` if that lies beside them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cft.labels import NIH_14, RANZCR_CLIP_11
from train.datasets import csv_core, reading
from train.datasets.csv_core import Columns
from train.datasets.labels import LabelTable, Paths
from train.datasets.options import Request
from train.errors import DatasetError


@dataclass(frozen=True)
class _Lists:
    """File names and facts of one family of lists; ``{}`` stands for train, val, test."""

    dataset: str
    files: str
    classes: str
    label_names: tuple[str, ...]
    folder: str  # where the films lie that are not where the lists say


_CXR11 = _Lists(
    "cxr11",
    "chest_x-rays11_kaggle_{}.txt",
    "chest_x-rays11_multi_label_classes.txt",
    RANZCR_CLIP_11,
    "train",
)
_CXR14 = _Lists("cxr14", "chest14_{}_labels.txt", "chest14_classes.txt", NIH_14, "images")


def recognises_cxr11(data: Path) -> bool:
    """Whether this folder holds the lists of CXR11."""
    return _find(data, _CXR11.files.format("train")) is not None


def recognises_cxr14(data: Path) -> bool:
    """Whether this folder holds the lists of CXR14."""
    return _find(data, _CXR14.files.format("train")) is not None


def recognises_ranzcr(data: Path) -> bool:
    """Whether this is RANZCR CLiP's folder or its ``train.csv``."""
    path = data / "train.csv" if data.is_dir() else data
    return {"StudyInstanceUID", *RANZCR_CLIP_11} <= set(csv_core.read_header(path))


def read_cxr11(data: Path, options: Request) -> LabelTable:
    """RANZCR CLiP with CheXNet's split."""
    return _read_lists(data, _CXR11, options)


def read_cxr14(data: Path, options: Request) -> LabelTable:
    """The abnormal films of ChestX-ray14 with CheXNet's split."""
    return _read_lists(data, _CXR14, options)


def read_ranzcr(data: Path, options: Request) -> LabelTable:
    """RANZCR CLiP; it has no public split, so one is drawn."""
    path = data / "train.csv" if data.is_dir() else data
    table = csv_core.read_csv(path)
    y, uncertain = csv_core.read_labels(table, RANZCR_CLIP_11)
    studies = table["StudyInstanceUID"]
    return reading.build_table(
        "ranzcr",
        options,
        names=[f"{study}.jpg" for study in studies],
        images=Paths(f"{path.parent}/train/{study}.jpg" for study in studies),
        y=y,
        uncertain=uncertain,
        label_names=RANZCR_CLIP_11,
        patients=table["PatientID"],
        studies=studies,
        split=[""] * len(table),
        attributes={},
        notes=reading.note_unknown_columns(
            table, {"StudyInstanceUID", "PatientID", *RANZCR_CLIP_11}
        ),
        files=[path],
    )


def _read_lists(data: Path, lists: _Lists, options: Request) -> LabelTable:
    folder = data if data.is_dir() else data.parent
    classes = _classes(folder, lists)
    images, labels, split, files = [], [], [], []
    for side, word in (("train", "train"), ("valid", "val"), ("test", "test")):
        path = _required(folder, lists.files.format(word))
        some_images, some_labels = _read_list(path, classes)
        images += some_images
        labels += some_labels
        split += [side] * len(some_images)
        files.append(path)
    names = [image.rpartition("/")[2] for image in images]
    patients, notes = _patients(folder, names, lists)
    columns = [classes.index(name) for name in lists.label_names]
    y = np.array(labels, np.float32)[:, columns]
    return reading.build_table(
        lists.dataset,
        options,
        names=names,
        images=_locate(folder, images, names, lists),
        y=y,
        uncertain=np.zeros(y.shape, bool),
        label_names=lists.label_names,
        patients=patients,
        studies=[name.rpartition(".")[0] for name in names],
        split=split,
        attributes={},
        notes=notes,
        files=files,
    )


def _find(folder: Path, name: str) -> Path | None:
    """A file of a folder, as it is or gzip-compressed."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _required(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise DatasetError(f"no {name} in {folder}")
    return path


def _classes(folder: Path, lists: _Lists) -> list[str]:
    """Names of the labels in the lists' order, spelt as in `cft.labels`."""
    path = _required(folder, lists.classes)
    spelling = {_letters(name): name for name in lists.label_names}
    lines = csv_core.read_text(path).splitlines()
    found = [spelling.get(_letters(line), "") for line in lines]
    if sorted(found) != sorted(lists.label_names):
        raise DatasetError(
            f"{path} must name each of these once, a line each: {', '.join(lists.label_names)}"
        )
    return found


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _read_list(path: Path, classes: list[str]) -> tuple[list[str], list[list[str]]]:
    """Paths of films and their labels from lines such as ``folder/film.png<tab>0,1,0``."""
    images, labels = [], []
    for number, line in enumerate(csv_core.read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        image, _, values = line.rpartition("\t")
        cells = values.strip().split(",")
        if not image or len(cells) != len(classes) or not {"0", "1"}.issuperset(cells):
            raise DatasetError(
                f"{path}, line {number}: expected a path, a tab and {len(classes)} labels 0 or 1 "
                f"separated by commas, not {line[:80]!r}"
            )
        images.append(image.strip())
        labels.append(cells)
    if not images:
        raise DatasetError(f"{path} holds no films")
    return images, labels


def _patients(folder: Path, names: list[str], lists: _Lists) -> tuple[list[str], list[str]]:
    """The patient of each film, and notes."""
    if lists is _CXR14:  # NIH's names: patient, then number of the film
        return [str(int(name.partition("_")[0])) for name in names], []
    path = folder / "train.csv"
    if not recognises_ranzcr(path):
        return names, [
            "The lists name no patients, so every film counts as a patient of its own; put "
            "RANZCR CLiP's train.csv beside them."
        ]
    table: Columns = csv_core.read_csv(path)
    patient_of = dict(zip(table["StudyInstanceUID"], table["PatientID"], strict=True))
    studies = [name.rpartition(".")[0] for name in names]
    unknown = [study for study in studies if study not in patient_of]
    if unknown:
        raise DatasetError(f"{path} lacks the film {unknown[0]} and {len(unknown) - 1:,} others")
    return [patient_of[study] for study in studies], []


def _locate(folder: Path, images: list[str], names: list[str], lists: _Lists) -> Paths:
    """The films where the lists say, or all in the folder in which the data set is delivered."""
    if (folder / lists.folder).is_dir() and not (folder / images[0].partition("/")[0]).is_dir():
        return Paths(f"{folder}/{lists.folder}/{name}" for name in names)
    return Paths(f"{folder}/{image}" for image in images)
