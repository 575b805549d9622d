"""Data sets: one reader each, one table for all. ``python -m train.datasets`` shows what they read.

>>> table = read_dataset("nih", Path("nih"))      # doctest: +SKIP
>>> table.counts()["Effusion"]["positive"]        # doctest: +SKIP
269
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from train.datasets import chexpert, coco, csv_table, cxr_lists, nih, phantoms
from train.datasets.csv_core import read_csv
from train.datasets.labels import LabelTable, hide_labels
from train.datasets.options import DataOptions, HistoryOptions, PolicyOptions, Request
from train.datasets.reading import note_names
from train.datasets.splits import with_splits
from train.errors import DatasetError, UsageError

__all__ = [
    "READERS",
    "DataOptions",
    "DatasetError",
    "HistoryOptions",
    "PolicyOptions",
    "missing_images",
    "read_dataset",
    "table_of",
]


@dataclass(frozen=True)
class Reader:
    """How a data set is read, and how its folder or table is recognised."""

    read: Callable[..., LabelTable]  # of a path (none for films that are drawn) and a request
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


def read_dataset(
    name: str | None,
    data: Path | None,
    *,
    seed: int = 0,
    check_images: bool = False,
    **options,
) -> LabelTable:
    """Read a data set; `table_of` with the options as keywords.

    Parameters
    ----------
    name, data
        As ``dataset`` and ``data`` of `DataOptions`.
    seed, check_images
        See `table_of`.
    **options
        Other fields of `DataOptions`.
    """
    asked = DataOptions(dataset=name, data=None if data is None else Path(data), **options)
    return table_of(asked, seed, check_images=check_images)


def table_of(
    options: DataOptions,
    seed: int = 0,
    *,
    check_images: bool = True,
    splits: Mapping[str, str] | None = None,
) -> LabelTable:
    """The films that some options ask for.

    Parameters
    ----------
    options
        Without ``dataset`` the reader is the one that recognises ``data``; without ``data`` the
        films are phantoms.
    seed
        For splits and hidden labels, where the options name no ``data_seed``.
    check_images
        Skip the films whose file is missing.
    splits
        Film -> its side in a run, which stands for what the source says or would be drawn.

    Raises
    ------
    DatasetError
        If the data is not there or not recognised, breaks a rule that `train.datasets.reading`
        states, or all its images are missing (``check_images``).
    """
    name = _reader_for(options.dataset, options.data)
    options.check_reader(name)
    if options.data_seed is not None:
        seed = options.data_seed
    table = READERS[name].read(options.data, Request(**vars(options), seed=seed))
    if splits is not None:
        table = with_splits(table, splits)
    if check_images:
        table = _without_missing_images(table)
    return hide_labels(table, options.known, seed)


def _reader_for(name: str | None, data: Path | None) -> str:
    """The reader that was asked for, or the one that recognises the data; raises as `table_of`."""
    if data is None:
        if name not in (None, "phantoms"):
            raise UsageError(f"{name} needs --data: the folder or the table of labels")
        return "phantoms"
    if not data.exists():
        raise DatasetError(f"there is no {data}")
    if not data.is_dir() and not data.is_file():  # a pipe may never end, as /dev/zero
        raise DatasetError(f"{data} is neither a folder nor a regular file")
    if name is None:
        return _recognise(data)
    if name not in READERS:
        raise DatasetError(f"no data set is called {name!r}; choose from {', '.join(READERS)}")
    if name == "phantoms":
        raise UsageError(f"phantoms are drawn, not read; omit {data} or name another data set")
    return name


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
