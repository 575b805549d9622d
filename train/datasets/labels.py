"""The table of labels that every data set becomes, and what to make of labels nobody gave.

A film's label for a category is present (1), absent (0) or not given (NaN). A source may also say
"uncertain"; such a cell is NaN with a mark, until a `LabelPolicy` decides what it counts as in
training. Metrics never see a policy: they use ``y``, where NaN means unknown and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cft.model.config import fault_in_labels
from train.errors import DatasetError, UsageError

SPLITS = ("train", "valid", "test")
UNKNOWN = ("negative", "ignore", "positive")
UNCERTAIN = ("ignore", "negative", "positive", "smooth-positive", "smooth-negative")

#: Ranges of the uniform draw that replaces an uncertain label (label smoothing regularisation:
#: Pham et al., Neurocomputing 2021, section 3.3, for U-Ones and U-Zeros).
SMOOTH = {"smooth-positive": (0.55, 0.85), "smooth-negative": (0.0, 0.3)}
_VALUES = {"ignore": np.nan, "negative": 0.0, "positive": 1.0}


class Paths(Sequence):
    """A sequence of paths that are made when they are asked for.

    A table of 200,000 films is read in seconds; so many `pathlib.Path` would double that.
    """

    def __init__(self, texts: Iterable[str | Path]):
        self.texts = [str(text) for text in texts]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Paths(self.texts[index])
        return Path(self.texts[index])

    def take(self, rows: np.ndarray) -> Paths:
        """The paths at ``rows``, an (M,) integer array."""
        return Paths([self.texts[row] for row in rows.tolist()])


@dataclass(frozen=True, eq=False)
class LabelTable:
    """N films with their labels in C categories.

    Parameters
    ----------
    images
        N paths of the films' files (any sequence; kept as `Paths`). Where ``pixels`` is given they
        are names only.
    y
        (N, C) float32: 1 present, 0 absent, NaN unknown.
    uncertain
        (N, C) bool: the source says "uncertain"; there ``y`` is NaN.
    label_names
        C names of categories.
    patients, studies
        (N,) str: who is on the film, and in which examination it was taken. Splits and bootstraps
        go by patient.
    split
        (N,) str, each "train", "valid" or "test".
    attributes
        What else is known of each film: name -> (N,) array; "age" in years (float32, NaN unknown),
        "sex" ("F", "M", ""), "view" ("PA", "AP", "lateral", ""), "width" in pixels, "order" among
        the patient's films (float64, NaN unknown).
    dataset
        Name of the reader.
    notes
        Sentences on what the reader counted, skipped or drew.
    names
        (N,) str: each film's name within its data set, wherever the data lies; no two are equal.
        Seeded draws go by it. By default the images' file names.
    pixels
        (N, H, W) uint8, the films themselves, for films that are drawn rather than stored;
        None if the films are files.
    source
        Facts for provenance and JSON: "files" read, "rows", films "listed" per split by the source,
        and "drawn", the notes on splits that were drawn.

    Raises
    ------
    DatasetError
        If the parts do not fit together.
    """

    images: Paths
    y: np.ndarray
    uncertain: np.ndarray
    label_names: tuple[str, ...]
    patients: np.ndarray
    studies: np.ndarray
    split: np.ndarray
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    dataset: str = ""
    notes: tuple[str, ...] = ()
    names: np.ndarray = None  # type: ignore[assignment]  # `__post_init__` puts an array there
    pixels: np.ndarray | None = None
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.images, Paths):
            object.__setattr__(self, "images", Paths(self.images))
        if self.names is None:
            object.__setattr__(self, "names", np.array([path.name for path in self.images], str))
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        films = len(self.images)
        shape = (films, len(self.label_names))
        for name, part in (("y", self.y), ("uncertain", self.uncertain)):
            if part.shape != shape:
                raise DatasetError(f"{name} has shape {part.shape}; it must be {shape}")
        columns = {key: getattr(self, key) for key in ("patients", "studies", "split", "names")}
        for name, part in (columns | self.attributes).items():
            if part.shape != (films,):
                raise DatasetError(f"{name} has shape {part.shape}; it must be {(films,)}")
        if self.pixels is not None and (self.pixels.ndim != 3 or len(self.pixels) != films):
            raise DatasetError(f"pixels have shape {self.pixels.shape}; it must be ({films}, H, W)")

    def _check_values(self) -> None:
        known = ~np.isnan(self.y)
        if not ((self.y == 0) | (self.y == 1) | ~known).all():
            raise DatasetError("y holds a value other than 1, 0 and NaN")
        if (known & self.uncertain).any():
            raise DatasetError("a label is marked uncertain and given at once")
        if len(set(self.label_names)) != len(self.label_names):
            raise DatasetError(f"a category is there twice: {', '.join(self.label_names)}")
        if fault := fault_in_labels(self.label_names):  # it would be seen when all is trained
            raise DatasetError(f"{self.dataset or 'the table'} {fault}")
        strange = sorted(set(self.split.tolist()) - set(SPLITS))
        if strange:
            raise DatasetError(f"unknown split {strange[0]!r}; choose from {', '.join(SPLITS)}")
        if len(set(self.names.tolist())) != len(self.images):
            raise DatasetError("two films have the same name; give each film a name of its own")

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, which: np.ndarray) -> LabelTable:
        """The films at ``which``: an (N,) bool mask or an integer array of positions."""
        rows = np.flatnonzero(which) if which.dtype == bool else which
        return replace(
            self,
            images=self.images.take(rows),
            y=self.y[rows],
            uncertain=self.uncertain[rows],
            patients=self.patients[rows],
            studies=self.studies[rows],
            split=self.split[rows],
            attributes={name: column[rows] for name, column in self.attributes.items()},
            names=self.names[rows],
            pixels=None if self.pixels is None else self.pixels[rows],
        )

    def with_split(self, split: np.ndarray) -> LabelTable:
        """The same films with another assignment: ``split`` (N,) of "train", "valid", "test"."""
        return replace(self, split=np.asarray(split))

    def with_labels(self, label_names: Iterable[str]) -> LabelTable:
        """The same films with some of the categories, in the order of ``label_names``."""
        label_names = tuple(label_names)
        unknown = [name for name in label_names if name not in self.label_names]
        if unknown or not label_names:
            raise DatasetError(
                f"no category {unknown[0] if unknown else ''!r} in {self.dataset or 'this table'}; "
                f"it has {', '.join(self.label_names)}"
            )
        columns = [self.label_names.index(name) for name in label_names]
        return replace(
            self,
            label_names=label_names,
            y=self.y[:, columns],
            uncertain=self.uncertain[:, columns],
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """Films per category: ``{"Edema": {"positive", "negative", "uncertain", "blank"}}``."""
        positive, negative = (self.y == 1).sum(0), (self.y == 0).sum(0)
        uncertain = self.uncertain.sum(0)
        blank = len(self) - positive - negative - uncertain
        columns = (positive, negative, uncertain, blank)
        kinds = ("positive", "negative", "uncertain", "blank")
        return {
            name: dict(zip(kinds, (int(column[i]) for column in columns), strict=True))
            for i, name in enumerate(self.label_names)
        }


def stable_uniform(
    seed: int, purpose: str, names: Iterable[str], columns: Iterable[str]
) -> np.ndarray:
    """Uniform draws in [0, 1), one for each (name, column), that depend on nothing else.

    Every draw is a hash of seed, purpose, name and column. Hence it stays the same when other
    rows or columns are added, dropped or reordered, on every machine.

    Parameters
    ----------
    seed
        Any integer.
    purpose
        Keeps draws for different uses independent of each other.
    names, columns
        N and C strings.

    Returns
    -------
    np.ndarray
        (N, C) float64.
    """
    rows = _hashes(seed, purpose + "/row", names)
    cells = rows[:, None] ^ _hashes(seed, purpose + "/column", columns)[None, :]
    # The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) decorrelates the sums.
    cells = (cells ^ (cells >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    cells = (cells ^ (cells >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    cells ^= cells >> np.uint64(31)
    return (cells >> np.uint64(11)) * 2.0**-53


def _hashes(seed: int, purpose: str, texts: Iterable[str]) -> np.ndarray:
    start = hashlib.blake2b(f"{seed}/{purpose}/".encode(), digest_size=8)
    digests = []
    for text in texts:
        state = start.copy()
        state.update(text.encode())
        digests.append(state.digest())
    return np.frombuffer(b"".join(digests), dtype="<u8")


#: What a run with `shuffle_rows` says of itself.
SHUFFLED = "A control: the training films have each other's labels, so nothing was there to learn."


def shuffle_rows(y: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """A copy of (N, C) targets in which some rows have changed places among themselves.

    Each category keeps its share, and labels that go together still do: what a model then scores
    above chance on other films is not from the films.
    """
    shuffled = y.copy()
    shuffled[rows] = y[np.random.default_rng(seed).permutation(rows)]
    return shuffled


def hide_labels(table: LabelTable, known: float, seed: int) -> LabelTable:
    """Keep each training label with probability ``known``; the others become blank.

    Labels of "valid" and "test" films stay. Marks of uncertainty go as labels do. The labels kept
    at 0.2 are among those kept at 0.5: with one seed, less known is always a subset.

    Parameters
    ----------
    table
        Any table.
    known
        In (0, 1].
    seed
        See `stable_uniform`; draws go by film and category.
    """
    if not 0 < known <= 1:
        raise UsageError(f"the share of known labels is {known}; it must be in (0, 1]")
    if known == 1:
        return table
    draws = stable_uniform(seed, "known", table.names.tolist(), table.label_names)
    hidden = (draws >= known) & (table.split == "train")[:, None]
    given = table.uncertain | ~np.isnan(table.y)
    note = (
        f"Hid {(hidden & given).sum():,} of {given[table.split == 'train'].sum():,} training "
        f"labels (each kept with probability {known:g}, seed {seed})."
    )
    return replace(
        table,
        y=np.where(hidden, np.float32(np.nan), table.y),
        uncertain=table.uncertain & ~hidden,
        notes=(*table.notes, note),
    )


def targets(
    table: LabelTable,
    unknown: str = "negative",
    uncertain: str = "ignore",
    overrides: Mapping[str, Mapping[str, str]] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """What the loss is to aim at, for every film and category.

    Parameters
    ----------
    table
        N films, C categories.
    unknown
        What a blank counts as: "negative" (Negative mode), "ignore" (Ignore mode) or "positive".
    uncertain
        What an uncertain mark counts as: "ignore", "negative" (U-Zeros), "positive" (U-Ones),
        "smooth-positive" (a draw from U(0.55, 0.85)) or "smooth-negative" (U(0, 0.3)).
    overrides
        Exceptions per category: ``{"uncertain": {"Atelectasis": "positive"}, "unknown": {...}}``.
    seed
        For the smooth draws, each of which depends on seed, film and category alone.

    Returns
    -------
    np.ndarray
        (N, C) float32 in [0, 1]; NaN contributes nothing.

    Raises
    ------
    DatasetError
        If an override names a category that the table has not.
    """
    policy = LabelPolicy(unknown, uncertain, dict(overrides or {}))
    blank = np.isnan(table.y) & ~table.uncertain
    result = table.y.copy()
    for column, choice in enumerate(policy.choices("unknown", table.label_names)):
        result[blank[:, column], column] = _VALUES[choice]
    for column, choice in enumerate(policy.choices("uncertain", table.label_names)):
        rows = np.flatnonzero(table.uncertain[:, column])
        if choice in SMOOTH:
            low, high = SMOOTH[choice]
            category = table.label_names[column : column + 1]
            draws = stable_uniform(seed, "smooth", table.names[rows].tolist(), category)
            result[rows, column] = low + (high - low) * draws[:, 0]
        else:
            result[rows, column] = _VALUES[choice]
    return result


@dataclass(frozen=True)
class LabelPolicy:
    """What blank and uncertain labels count as in training. See `targets` for the values."""

    unknown: str = "negative"
    uncertain: str = "ignore"
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self):
        for kind, allowed in (("unknown", UNKNOWN), ("uncertain", UNCERTAIN)):
            given = [getattr(self, kind), *self.overrides.get(kind, {}).values()]
            for value in given:
                if value not in allowed:
                    raise UsageError(
                        f"{kind} labels cannot be {value!r}; choose from {', '.join(allowed)}"
                    )
        if set(self.overrides) - {"unknown", "uncertain"}:
            raise DatasetError("overrides are given for 'unknown' and 'uncertain' only")

    def choices(self, kind: str, label_names: Iterable[str]) -> list[str]:
        """The policy's value for each category; ``kind`` is "unknown" or "uncertain"."""
        label_names = tuple(label_names)
        exceptions = self.overrides.get(kind, {})
        for name in exceptions:
            if name not in label_names:
                raise DatasetError(
                    f"--{kind} names the category {name!r}; there are {', '.join(label_names)}"
                )
        return [exceptions.get(name, getattr(self, kind)) for name in label_names]

    def apply(self, table: LabelTable, seed: int = 0) -> np.ndarray:
        """(N, C) float32 targets of the table's films; see `targets`."""
        return targets(table, self.unknown, self.uncertain, self.overrides, seed)

    def to_dict(self) -> dict[str, Any]:
        """For the model folder's provenance; ``LabelPolicy(**d)`` restores it."""
        overrides = {kind: dict(values) for kind, values in self.overrides.items() if values}
        return {"unknown": self.unknown, "uncertain": self.uncertain, "overrides": overrides}
