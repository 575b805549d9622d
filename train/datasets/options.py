"""What a user can say about data and labels: as dataclasses, on command lines, in provenance.

A new option is one field here, and whatever gives it its meaning: all commands have it, the model
folder records it, stage 2 takes it over, and an evaluation draws a run's splits with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cft.labels import CHEXPERT_5, CHEXPERT_14
from train.command import WHOLE, as_json, flag_of, option
from train.datasets.labels import UNCERTAIN, UNKNOWN, LabelPolicy
from train.datasets.roles import ROLES
from train.errors import DatasetError, UsageError

#: Names of the readers, which `train.datasets.READERS` holds.
DATASETS = (
    *("chexpert", "nih", "nih-experts", "ranzcr", "cxr11", "cxr14"),
    *("coco", "csv", "phantoms"),
)
_LABEL_SETS = {"chexpert-14": CHEXPERT_14, "chexpert-5": CHEXPERT_5}

# Options of a single reader; given with another one they are a mistake.
_OF_ONE_READER = {
    "map": "csv",
    "phantoms": "phantoms",
    "phantom_size": "phantoms",
    "missing": "phantoms",
}
# Options that decide neither which films there are nor on which side they are.
_NOT_OF_SPLITS = ("dataset", "data", "known", "labels")


@dataclass(frozen=True)
class DataOptions:
    """Which films, which categories, which splits. None leaves it to the reader."""

    data: Path | None = option(
        None,
        "folder, or table of labels (.csv, .csv.gz, .json)",
        machine=True,
        metavar="DATA",
    )
    dataset: str | None = option(
        None,
        f"what the data is (default: recognised): {', '.join(DATASETS)}",
        choices=DATASETS,
        metavar="NAME",
    )
    known: float = option(1.0, "keep each training label with this probability", metavar="SHARE")
    labels: str | None = option(
        None,
        f"categories, separated by commas, or one of {', '.join(_LABEL_SETS)} (default: all)",
        metavar="NAMES",
    )
    view: str = option("both", "films to use", choices=("frontal", "lateral", "both"))
    min_width: int | None = option(
        None,
        "leave out films less wide (default: 224 for nih with a width column)",
        metavar="PIXELS",
    )
    valid: float | None = option(
        None,
        "share of patients to draw for valid if the source has none (default: 0.1)",
        metavar="SHARE",
    )
    test: float | None = option(
        None,
        "share of patients to draw for test if the source has none (default: 0.2 if it names no "
        "split, else 0)",
        metavar="SHARE",
    )
    data_seed: int | None = option(
        None,
        "of drawn splits and hidden labels, for runs that share them (default: --seed)",
        type=WHOLE,
    )
    shared_patients: str = option(
        "skip",
        "films of patients whom the source has on a more important side as well",
        choices=("skip", "keep"),
    )
    map: tuple[str, ...] = option(
        (),
        f"other spellings in your own CSV; NAME is a category or a role ({', '.join(ROLES)})",
        metavar="NAME=COLUMN",
    )
    phantoms: int | None = option(None, "films to draw (default: 1500)", metavar="N")
    phantom_size: int | None = option(None, "their side (default: 64)", metavar="PIXELS")
    missing: str | None = option(
        None,
        "which training labels of phantoms are hidden (default: reports, as in CheXpert)",
        choices=("reports", "none"),
    )

    def __post_init__(self):
        shares = (self.valid or 0, self.test or 0)
        if not (min(shares) >= 0 and sum(shares) < 1):  # NaN is refused as well
            raise DatasetError(
                f"shares of {shares[0]:g} for validation and {shares[1]:g} for testing leave "
                "nothing to train on; each must be in [0, 1) and their sum below 1"
            )
        if self.shared_patients not in ("skip", "keep"):
            raise DatasetError("films of shared patients can be 'skip' or 'keep'")
        if self.view not in ("frontal", "lateral", "both"):
            raise DatasetError(f"no view {self.view!r}; choose frontal, lateral or both")
        if self.missing not in (None, "reports", "none"):
            raise DatasetError("missing labels of phantoms are as in 'reports', or 'none'")
        self.mapping  # noqa: B018  (refuses what is no pair)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The categories wanted, in this order; None: all that the source has."""
        if self.labels is None:
            return None
        names = tuple(name.strip() for name in self.labels.split(",") if name.strip())
        return _LABEL_SETS.get(self.labels.strip().lower(), names)

    @property
    def mapping(self) -> dict[str, str]:
        """Role or category -> its column in one's own CSV."""
        mapping: dict[str, str] = {}
        for pair in self.map:
            name, sign, column = pair.partition("=")
            if not (name and sign and column):
                raise UsageError(f"--map {pair}: write NAME=COLUMN, such as image=filename")
            if mapping.get(name, column) != column:
                raise UsageError(
                    f"--map names two columns for {name}: {mapping[name]} and {column}"
                )
            mapping[name] = column
        return mapping

    def check_reader(self, name: str) -> None:
        """Raise if an option is given that the reader of this name does not have."""
        for field, reader in _OF_ONE_READER.items():
            if getattr(self, field) and name != reader:
                raise UsageError(
                    f"{flag_of(field)} is for the data set {reader}, and this is {name}"
                )


def of_splits(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of some options of the data by name, those that decide films and splits."""
    names = as_json(DataOptions()).keys() - {*_NOT_OF_SPLITS}
    return {name: value for name, value in options.items() if name in names}


@dataclass(frozen=True)
class Request(DataOptions):
    """What a reader is asked for: the options of the data, and the seed of what it draws."""

    seed: int = 0


@dataclass(frozen=True)
class PolicyOptions:
    """What unknown and uncertain labels count as, each with exceptions for categories."""

    unknown: tuple[str, ...] = option(
        (),
        f"what a label that was not given counts as: {', '.join(UNKNOWN)} (default: negative); "
        'exceptions as "Category=policy"',
        metavar="POLICY",
    )
    uncertain: tuple[str, ...] = option(
        (),
        f'what a label marked "uncertain" counts as: {", ".join(UNCERTAIN)} (default: ignore); '
        'exceptions as "Category=policy"',
        metavar="POLICY",
    )

    @property
    def policy(self) -> LabelPolicy:
        """The policy that the words ask for.

        Raises
        ------
        DatasetError
            For a value that is not a policy, or two general ones for one kind.
        """
        general, overrides = {}, {}
        for kind, default in (("unknown", "negative"), ("uncertain", "ignore")):
            words = getattr(self, kind)
            plain = [word for word in words if "=" not in word]
            if len(plain) > 1:
                raise UsageError(f"--{kind} has two policies for all: {plain[0]} and {plain[1]}")
            general[kind] = plain[0] if plain else default
            pairs = [word.rpartition("=") for word in words if "=" in word]
            overrides[kind] = {name: value for name, _, value in pairs}
        return LabelPolicy(**general, overrides=overrides)


@dataclass(frozen=True)
class HistoryOptions:
    """How far the labels of a patient's other films change a training label."""

    history: Path | None = option(
        None,
        "table of the same patients' films in their order (NIH's Data_Entry_2017*.csv, or a CSV "
        "with a column order): a training label becomes a mean with those of the patient's other "
        "films",
        machine=True,
        metavar="TABLE",
    )
    history_share: float = option(
        0.4,
        "of the other films in such a mean, at most; below 0.5, so that no 0 or 1 tips",
        metavar="SHARE",
    )
    history_reach: float = option(
        5.0, "distance in the order at which a film counts 1/e", metavar="DISTANCE"
    )

    def __post_init__(self):
        if not 0 <= self.history_share < 0.5:  # NaN is refused as well
            raise UsageError(
                f"--history-share is {self.history_share:g}; it must be at least 0 and below 0.5"
            )
        if not 0 < self.history_reach < math.inf:
            raise UsageError(f"--history-reach is {self.history_reach:g}; it must be above 0")
