"""Training targets in which the labels of a patient's other films have a say.

Labels that a program mined from reports are noisy, and a patient often has films before and after
whose labels were mined on their own. For a film at t_a in the order of its patient's films, over
the other films g whose label of a category is known:

    k_g = exp(-|t_g - t_a| / reach)      s = sum k_g      h = sum k_g y_g / s
    target = (1 - w) * own + w * h       w = share * min(1, s)

``own`` is what the label policy makes of the film's own label: in Negative mode an unknown one is 0
before the other films speak, and one that the policy leaves out stays out. As ``share`` is below a
half, no 0 or 1 comes to lie on the other side of it (a smooth draw for an uncertain label can).
Other films speak for training films alone; labels that choose, calibrate and test stay a film's
own, and stage 2 fits these as well.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train.datasets import table_of
from train.datasets.csv_core import read_header
from train.datasets.labels import LabelTable
from train.datasets.options import DataOptions, HistoryOptions
from train.errors import DatasetError

# Films of one patient whose distances to the patient's others are in memory at once.
_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class History:
    """The films of patients in their order, with labels.

    Attributes
    ----------
    films
        M films. Their attribute ``order`` is a number, NaN where it is unknown; a film is known by
        its name without the suffix, so that a PNG there is the JPEG here.
    share
        Of the other films in a target, at most; in [0, 0.5).
    reach
        Above 0: the distance in the order at which a film counts 1/e of what one at 0 does.
    sha256
        Of the file of the table.
    """

    films: LabelTable
    share: float
    reach: float
    sha256: str

    @classmethod
    def of(
        cls, options: HistoryOptions, data: DataOptions, label_names: Sequence[str]
    ) -> History | None:
        """The table that is asked for, in any form with an order that `train.datasets` reads.

        Parameters
        ----------
        options
            Where the table is, share and reach.
        data
            The options of the films at hand; ``map`` is used where its columns are in this table.
        label_names
            Their categories; others of the table are not read.

        Returns
        -------
        History or None
            None if no table is named.

        Raises
        ------
        DatasetError
            If it cannot be read, or does not say whose a film is or where it stands in the order.
        """
        path = options.history
        if path is None:
            return None
        films = table_of(_asked(path, data, label_names), check_images=False)
        if (films.patients == films.names).all():
            raise DatasetError(
                f"{path} does not say whose each film is, so no film has others of its patient; "
                "--history needs a column 'patient'"
            )
        if "order" not in films.attributes:
            raise DatasetError(
                f"{path} does not say in which order a patient's films were taken; --history needs "
                "NIH's Data_Entry_2017*.csv, or a CSV table with a column 'order'"
            )
        if not set(label_names) & set(films.label_names):
            raise DatasetError(f"{path} has none of the categories {', '.join(label_names)}")
        digest = hashlib.sha256(Path(films.source["files"][0]).read_bytes()).hexdigest()
        return cls(films, options.history_share, options.history_reach, digest)

    @property
    def facts(self) -> dict[str, Any]:
        """What names the table in a model's provenance."""
        return {"sha256": self.sha256, "films": len(self.films)}

    def apply(self, targets: np.ndarray, table: LabelTable) -> np.ndarray:
        """A copy of a label policy's targets in which the patients' other films have their say.

        A film of this table that is at hand as well counts with the labels that it has there, so
        that hidden ones stay hidden. Training films of a patient who has films on another side
        keep their own labels.

        Parameters
        ----------
        targets
            (N, C) float32 in [0, 1]; NaN contributes nothing and stays.
        table
            The N films at hand.

        Returns
        -------
        np.ndarray
            (N, C) float32; the rows of films that are not "train" are as they were.

        Raises
        ------
        DatasetError
            If no training film, or no patient of one, is in this table, or a film is there under
            another patient.
        """
        films, order = self.films, self.films.attributes["order"]
        stems, there = _stems(table), _stems(films)
        row_of = {stem: row for row, stem in reversed(list(enumerate(there)))}
        training = table.split == "train"
        self._check_patients(table, stems, row_of, training)
        y, result = self._labels(table, stems, there), targets.copy()
        at = np.array([order[row_of[stem]] if stem in row_of else np.nan for stem in stems])
        mine = _rows_of_patients(table.patients, training & ~np.isnan(at))
        theirs = _rows_of_patients(films.patients, ~np.isnan(order))
        number = {stem: i for i, stem in enumerate(row_of)}
        which = np.array([number.get(stem, -1) for stem in stems])
        which_there = np.array([number[stem] for stem in there])
        for patient in mine.keys() & theirs.keys() - set(table.patients[~training].tolist()):
            others = theirs[patient]
            for start in range(0, len(mine[patient]), _AT_ONCE):
                rows = mine[patient][start : start + _AT_ONCE]
                near = np.exp(-abs(at[rows, None] - order[others]) / self.reach)
                near[which[rows, None] == which_there[others]] = 0  # the film itself
                result[rows] = _mixed(targets[rows], near, y[others], self.share)
        return result

    def _check_patients(
        self, table: LabelTable, stems: list[str], row_of: dict[str, int], training: np.ndarray
    ) -> None:
        """See `apply`."""
        name = f"the table of --history ({len(self.films):,} films)"
        if not set(table.patients[training].tolist()) & set(self.films.patients.tolist()):
            raise DatasetError(f"{name} has no patient in common with the training films")
        found = [row for row in np.flatnonzero(training).tolist() if stems[row] in row_of]
        if not found:
            first = table.names[training][0]
            raise DatasetError(f"{name} lists none of the training films, such as {first}")
        for row in found:
            if table.patients[row] != self.films.patients[row_of[stems[row]]]:
                raise DatasetError(f"{name} gives {stems[row]} another patient than the data do")

    def _labels(self, table: LabelTable, stems: list[str], there: list[str]) -> np.ndarray:
        """(M, C) float64 labels of this table's films in the categories of the films at hand."""
        films = self.films
        y = np.full((len(films), len(table.label_names)), np.nan)
        for column, name in enumerate(table.label_names):
            if name in films.label_names:
                y[:, column] = films.y[:, films.label_names.index(name)]
        at_hand = {stem: row for row, stem in enumerate(stems)}
        both = [row for row, stem in enumerate(there) if stem in at_hand]
        y[both] = table.y[[at_hand[there[row]] for row in both]]
        return y

    def note(self, before: np.ndarray, after: np.ndarray) -> str:
        """A sentence on what `apply` made of some targets."""
        changed = (before != after) & ~np.isnan(before)
        return (
            f"{changed.sum():,} labels of {changed.any(1).sum():,} training films became means "
            f"with those of the same patients' other films (in a table of {len(self.films):,}; "
            f"share at most {self.share:g}, reach {self.reach:g})."
        )


def _asked(path: Path, data: DataOptions, label_names: Sequence[str]) -> DataOptions:
    """All films of a table, with these categories as far as they are columns of it."""
    header = read_header(path) if path.is_file() else []
    pairs = {name: column for name, column in data.mapping.items() if column in header}
    shared = [name for name in label_names if name in header or name in pairs]
    return DataOptions(
        data=path,
        labels=",".join(shared) or None,
        map=tuple(f"{name}={column}" for name, column in pairs.items()),
        shared_patients="keep",
    )


def _mixed(own: np.ndarray, near: np.ndarray, y: np.ndarray, share: float) -> np.ndarray:
    """Targets of n films, (n, C), from their own, (n, m) k_g, and (m, C) labels of m films."""
    total = near @ ~np.isnan(y)
    mean = near @ np.nan_to_num(y) / np.maximum(total, np.finfo(float).tiny)
    weight = share * np.minimum(1, total)
    return (1 - weight) * own + weight * mean


def _stems(table: LabelTable) -> list[str]:
    """The names of films without their suffix; the last number of a UID is none."""
    parts = map(os.path.splitext, table.names.tolist())
    return [stem if suffix[1:2].isalpha() else stem + suffix for stem, suffix in parts]


def _rows_of_patients(patients: np.ndarray, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """Patient -> the rows of theirs that are wanted, an (N,) bool mask."""
    rows: dict[str, list[int]] = {}
    for row in np.flatnonzero(wanted).tolist():
        rows.setdefault(str(patients[row]), []).append(row)
    return {patient: np.array(some) for patient, some in rows.items()}
