"""Data sets: one reader each, one table for all. ``python -m train.datasets`` shows what they read.

>>> table = read_dataset("nih", Path("nih"))      # doctest: +SKIP
>>> table.counts()["Effusion"]["positive"]        # doctest: +SKIP
269
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cft.labels import CHEXPERT_5, CHEXPERT_14
from train.datasets import chexpert, coco, csv_table, cxr_lists, nih, phantoms
from train.datasets.labels import LabelTable, hide_labels
from train.datasets.reading import Options, note_names, read_csv
from train.errors import DatasetError, UsageError

__all__ = [
    "READERS",
    "DatasetError",
    "add_dataset_arguments",
    "dataset_from_arguments",
    "missing_images",
    "read_dataset",
]


@dataclass(frozen=True)
class Reader:
    """How a data set is read, and how its folder or table is recognised."""

    read: Callable[[Path, Options], LabelTable]
    recognises: Callable[[Path], bool] = lambda data: False


READERS = {
    "chexpert": Reader(chexpert.read, chexpert.recognises),
    "nih": Reader(nih.read, nih.recognises),
    "nih-experts": Reader(nih.read_experts),
    "ranzcr": Reader(cxr_lists.read_ranzcr, cxr_lists.recognises_ranzcr),
    "cxr11": Reader(cxr_lists.read_cxr11, cxr_lists.recognises_cxr11),
    "cxr14": Reader(cxr_lists.read_cxr14, cxr_lists.recognises_cxr14),
    "coco": Reader(coco.read, coco.recognises),
    "csv": Reader(csv_table.read, csv_table.recognises),
    "phantoms": Reader(lambda data, options: phantoms.read(options)),
}

_LABEL_SETS = {"chexpert-14": CHEXPERT_14, "chexpert-5": CHEXPERT_5}

# Options of a single reader; given with another one they are a mistake.
_OF_ONE_READER = {
    "mapping": ("--map", "csv"),
    "phantoms": ("--phantoms", "phantoms"),
    "phantom_size": ("--phantom-size", "phantoms"),
    "missing": ("--missing", "phantoms"),
}


def read_dataset(
    name: str | None,
    data: Path | None,
    *,
    seed: int = 0,
    known: float = 1.0,
    check_images: bool = False,
    **options,
) -> LabelTable:
    """Read a data set.

    Parameters
    ----------
    name
        A key of `READERS`; None: the one that recognises ``data``.
    data
        A folder, or a file with labels (.csv, .csv.gz, .json); None: phantoms.
    seed
        For splits and hidden labels.
    known
        Share of the training labels that are kept, see `hide_labels`.
    check_images
        Skip the films whose file is missing.
    **options
        As in `train.datasets.reading.Options`.

    Raises
    ------
    DatasetError
        If the data is not there or not recognised, breaks a rule that `train.datasets.reading`
        states, or all its images are missing (``check_images``).
    """
    settings = Options(seed=seed, **options)
    if data is None:
        if name not in (None, "phantoms"):
            raise UsageError(f"{name} needs --data: the folder or the table of labels")
        name = "phantoms"
    elif not Path(data).exists():
        raise DatasetError(f"there is no {data}")
    name = name or _recognise(Path(data))
    if name not in READERS:
        raise DatasetError(f"no data set is called {name!r}; choose from {', '.join(READERS)}")
    if name == "phantoms" and data is not None:
        raise UsageError(f"phantoms are drawn, not read; omit {data} or name another data set")
    for option, (flag, reader) in _OF_ONE_READER.items():
        if getattr(settings, option) and name != reader:
            raise UsageError(f"{flag} is for the data set {reader}, and this is {name}")
    table = READERS[name].read(None if data is None else Path(data), settings)
    if check_images:
        table = _without_missing_images(table)
    return hide_labels(table, known, seed)


def _recognise(data: Path) -> str:
    """The reader for a folder or file; one's own CSV only if it is nothing else."""
    found = [
        name for name, reader in READERS.items() if name != "csv" and reader.recognises(data)
    ] or [name for name in ("csv",) if READERS[name].recognises(data)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DatasetError(f"{data} holds {' and '.join(found)}; say which with --dataset")
    if data.is_file() and data.name.lower().endswith((".csv", ".csv.gz")):
        read_csv(data)  # says what is wrong with it, if anything
    raise DatasetError(
        f"{data} is none of the data sets {', '.join(READERS)}: name its folder or its table of "
        "labels, or say what it is with --dataset"
    )


def missing_images(table: LabelTable) -> np.ndarray:
    """(N,) bool: the film's file is not there. Never true of films that are drawn."""
    if table.pixels is not None:
        return np.zeros(len(table), bool)
    return np.array([not os.path.exists(text) for text in table.images.texts], bool)


def _without_missing_images(table: LabelTable) -> LabelTable:
    missing = missing_images(table)
    if not missing.any():
        return table
    if missing.all():
        raise DatasetError(
            f"none of the {len(table):,} images of {table.dataset} is there; the first would be "
            f"{table.images[0]}"
        )
    notes = note_names("Skipped {} missing {}", table.names[missing].tolist(), "image", "images")
    return replace(table.subset(~missing), notes=(*table.notes, *notes))


# --- The command line -------------------------------------------------------------------------


def add_dataset_arguments(parser: argparse.ArgumentParser, positional: bool = False) -> None:
    """Add the options that name and shape a data set; ``positional``: DATA without a flag."""
    group = parser.add_argument_group("data")
    data = {"type": Path, "metavar": "DATA"}
    text = "folder, or table of labels (.csv, .csv.gz, .json)"
    if positional:
        group.add_argument("data", nargs="?", help=text, **data)
    else:
        group.add_argument("--data", help=text, **data)
    group.add_argument(
        "--dataset",
        choices=list(READERS),
        metavar="NAME",
        help=f"what the data is (default: recognised): {', '.join(READERS)}",
    )
    group.add_argument(
        "--known",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="keep each training label with this probability (default: 1)",
    )
    group.add_argument(
        "--labels",
        metavar="NAMES",
        help=f"categories, separated by commas, or one of {', '.join(_LABEL_SETS)} (default: all)",
    )
    group.add_argument(
        "--view",
        choices=("frontal", "lateral", "both"),
        default="both",
        help="films to use (default: both)",
    )
    group.add_argument(
        "--min-width",
        type=int,
        metavar="PIXELS",
        help="leave out films less wide (default: 224 for nih with a width column)",
    )
    for side, default in (
        ("valid", "default: 0.1"),
        ("test", "default: 0.2 if it names no split, else 0"),
    ):
        group.add_argument(
            f"--{side}",
            type=float,
            metavar="SHARE",
            help=f"share of patients to draw for {side} if the source has none ({default})",
        )
    group.add_argument(
        "--shared-patients",
        choices=("skip", "keep"),
        default="skip",
        help="films of patients whom the source has on a more important side as well (default: "
        "skip)",
    )
    group.add_argument(
        "--map",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=COLUMN",
        help="other spellings in your own CSV; NAME is a category or a role "
        f"({', '.join(csv_table.ROLES)})",
    )
    group.add_argument("--phantoms", type=int, metavar="N", help="films to draw (default: 1500)")
    group.add_argument(
        "--phantom-size", type=int, metavar="PIXELS", help="their side (default: 64)"
    )
    group.add_argument(
        "--missing",
        choices=("reports", "none"),
        help="which training labels of phantoms are hidden (default: reports, as in CheXpert)",
    )


def dataset_from_arguments(
    options: argparse.Namespace, seed: int, check_images: bool = True
) -> LabelTable:
    """The table that the options of `add_dataset_arguments` ask for; see `read_dataset`."""
    return read_dataset(
        options.dataset,
        options.data,
        seed=seed,
        known=options.known,
        check_images=check_images,
        valid=options.valid,
        test=options.test,
        shared_patients=options.shared_patients,
        view=options.view,
        min_width=options.min_width,
        labels=_named_labels(options.labels),
        mapping=_mapping(options.map),
        phantoms=options.phantoms,
        phantom_size=options.phantom_size,
        missing=options.missing,
    )


def _named_labels(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return _LABEL_SETS.get(text.strip().lower(), names)


def _mapping(pairs: Sequence[str]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        name, sign, column = pair.partition("=")
        if not (name and sign and column):
            raise UsageError(f"--map {pair}: write NAME=COLUMN, such as image=filename")
        if mapping.get(name, column) != column:
            raise UsageError(f"--map names two columns for {name}: {mapping[name]} and {column}")
        mapping[name] = column
    return mapping
