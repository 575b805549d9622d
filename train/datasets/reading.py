"""What all readers share: ages, views and the like, and the rules every table must obey.

The rules, which `build_table` applies to whatever a reader found:

- A film listed twice with the same labels is counted once; with different labels it is refused.
- Splits are by patient. Where the source puts one patient on two sides, the films on the lesser
  side are skipped (test outranks valid, valid outranks train), or kept if that is asked for, so
  that a published split can be reproduced.
- Splits that the source does not name are drawn by patient, seeded.
- A value that cannot be is refused, with the row and the column where it stands.

Everything skipped or drawn is counted, and the first few are named, in the table's notes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from train.datasets.csv_core import Columns, Problems
from train.datasets.labels import SPLITS, LabelTable, Paths, stable_uniform
from train.datasets.options import Request
from train.errors import DatasetError

#: How tables write sex and projection, in lower case.
SEX = {"m": "M", "f": "F", "male": "M", "female": "F"}
VIEW = {"pa": "PA", "ap": "AP", **dict.fromkeys(("lateral", "lat", "ll", "rl", "l"), "lateral")}

_RANK = {"train": 0, "valid": 1, "test": 2}


# --- Values -----------------------------------------------------------------------------------


def read_ages(column: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Ages in years, (N,) float32; what is no age between 0 and 120 becomes NaN.

    Returns
    -------
    ages, notes
        A note counts the impossible ages (the first NIH table has patients of 400 years).
    """
    years = {value: _age(value) for value in set(column)}
    ages = np.fromiter(map(years.__getitem__, column), np.float32, len(column))
    impossible = {value for value, age in years.items() if value.strip() and np.isnan(age)}
    odd = [value for value in column if value in impossible] if impossible else []
    return ages, note_names("Treated {} impossible {} as unknown", odd, "age", "ages")


def _age(value: str) -> float:
    digits = value.strip().removesuffix("Y")
    return float(digits) if digits.isdecimal() and int(digits) <= 120 else np.nan


def read_choice(column: Sequence[str], choices: Mapping[str, str]) -> np.ndarray:
    """(N,) str: each value as ``choices`` translates it in lower case; "" for anything else."""
    number = {value: number for number, value in enumerate(dict.fromkeys(column))}
    meaning = np.array([choices.get(value.strip().lower(), "") for value in number])
    return meaning[np.fromiter(map(number.__getitem__, column), np.int64, len(column))]


def note_unknown_values(
    table: Columns, name: str, known: Collection[str], taken_for: str
) -> list[str]:
    """A note on the values of a column that are none of ``known`` (in lower case) nor blank."""
    values = {value.strip() for value in table[name] if value.strip()}
    strange = sorted(value for value in values if value.lower() not in known)
    sentence = f"Treated {{}} unknown {{}} of the column {name} as {taken_for}"
    return note_names(sentence, strange, "value", "values")


def read_widths(table: Columns, problems: Problems | None = None) -> np.ndarray:
    """(N,) int64: the column ``width``, in pixels.

    Other values are refused, or noted in ``problems`` and read as 0.
    """
    found = problems or Problems(table.path)
    found.check_values(table, "width", _is_width, "a number of pixels")
    if problems is None:
        found.check()
    return np.array([int(x) if _is_width(x) else 0 for x in table["width"]], np.int64)


def _is_width(value: str) -> bool:
    return value.strip().isdecimal()


def read_order(table: Columns, name: str, problems: Problems | None = None) -> np.ndarray:
    """(N,) float64: where each film stands among those of its patient; NaN where that is blank.

    What is no number is refused, or noted in ``problems`` and read as NaN.
    """
    found = problems or Problems(table.path)
    found.check_values(table, name, lambda value: _place(value) is not None, "a number or nothing")
    if problems is None:
        found.check()
    return np.array([_place(value) for value in table[name]], np.float64)  # None becomes NaN


def _place(value: str) -> float | None:
    """A finite number; NaN where nothing stands; None for anything else."""
    try:
        place = float(value) if value.strip() else np.nan
    except ValueError:
        return None
    return place if not value.strip() or np.isfinite(place) else None


def note_unknown_columns(table: Columns, known: Collection[str]) -> list[str]:
    """A note on the columns that a published layout does not have; they are not read."""
    strange = [name for name in table.cells if name not in known]
    return note_names(f"{table.path.name} has {{}} unknown {{}}", strange, "column", "columns")


def note_names(sentence: str, names: Collection[str], one: str, many: str) -> list[str]:
    """A note with the number of ``names`` and the first five of them; none if there are none.

    ``sentence`` has two places: for the number, and for the word ``one`` or ``many``.
    """
    if not names:
        return []
    shown = ", ".join(list(names)[:5])
    rest = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    number = f"{len(names):,}"
    return [f"{sentence.format(number, one if len(names) == 1 else many)}: {shown}{rest}."]


# --- The rules --------------------------------------------------------------------------------


def build_table(
    dataset: str,
    options: Request,
    *,
    names: Sequence[str],
    images: Paths,
    y: np.ndarray,
    uncertain: np.ndarray,
    label_names: Sequence[str],
    patients: Sequence[str],
    studies: Sequence[str],
    split: Sequence[str] | np.ndarray,
    attributes: Mapping[str, np.ndarray],
    min_width: int = 0,
    notes: Iterable[str] = (),
    files: Sequence[Path] = (),
    problems: Problems | None = None,
) -> LabelTable:
    """A `LabelTable` that obeys the rules of this module.

    Parameters are as in `LabelTable`, except for ``split``, where "" means that the source names
    none; ``min_width``, the reader's default for that option; ``files``, those read; and
    ``problems``, what the reader has found already.

    Raises
    ------
    DatasetError
        If there are problems, or no films that are wanted.
    """
    sides = np.array(split, "U5")
    problems = problems or Problems(files[0] if files else dataset)
    rows, repeated = _first_of_each(names, y, uncertain, sides, problems)
    problems.check()
    people = np.array(patients, str)
    listed = {side: int((sides[rows] == side).sum()) for side in SPLITS}
    rows, unwanted = _wanted(dataset, attributes, rows, options, min_width)
    kept, shared = _settle_shared_patients(people[rows], sides[rows], options.shared_patients)
    rows = rows[kept]
    assigned, drawn = _draw_splits(people[rows], sides[rows], options)
    table = LabelTable(
        images=images.take(rows),
        y=y[rows],
        uncertain=uncertain[rows],
        label_names=tuple(label_names),
        patients=people[rows],
        studies=np.array(studies, str)[rows],
        split=assigned,
        attributes={name: column[rows] for name, column in attributes.items()},
        dataset=dataset,
        notes=(*notes, *repeated, *unwanted, *shared, *drawn),
        names=np.array(names, str)[rows],
        source={
            "files": [str(path) for path in files],
            "rows": len(names),
            "listed": {side: films for side, films in listed.items() if films},
            "drawn": drawn,
        },
    )
    return table.with_labels(options.label_names) if options.label_names else table


def _wanted(
    dataset: str,
    attributes: Mapping[str, np.ndarray],
    rows: np.ndarray,
    options: Request,
    min_width: int,
) -> tuple[np.ndarray, list[str]]:
    """The rows of films of the view and the width asked for, and notes on those left out."""
    notes = []
    for flag, asked, attribute in (
        ("--view", options.view != "both", "view"),
        ("--min-width", options.min_width is not None, "width"),
    ):
        if asked and attribute not in attributes:
            raise DatasetError(f"{dataset} does not tell the {attribute} of films; omit {flag}")
    smallest = min_width if options.min_width is None else options.min_width
    for wanted, reason in (
        (options.view == "both" or _of_view(attributes, options.view), f"not {options.view}"),
        (smallest <= 0 or attributes["width"] >= smallest, f"less than {smallest} pixels wide"),
    ):
        kept = rows if wanted is True else rows[wanted[rows]]
        if len(kept) < len(rows):
            notes.append(f"Left out {len(rows) - len(kept):,} films that are {reason}.")
        rows = kept
    if not len(rows):
        raise DatasetError(f"no films are left of {dataset}: {' '.join(notes)}")
    return rows, notes


def _of_view(attributes: Mapping[str, np.ndarray], view: str) -> np.ndarray:
    return (attributes["view"] == "lateral") == (view == "lateral")


def number_by_name(names: Iterable[str]) -> np.ndarray:
    """(N,) int: equal names have equal numbers, counted from 0 in order of appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _first_of_each(
    names: Sequence[str],
    y: np.ndarray,
    uncertain: np.ndarray,
    split: np.ndarray,
    problems: Problems,
) -> tuple[np.ndarray, list[str]]:
    """Positions of the films, each once; films listed with different labels or splits are problems.

    Returns
    -------
    rows, notes
        (M,) positions.
    """
    if len(set(names)) == len(names):
        return np.arange(len(names)), []
    numbers = number_by_name(names)
    first = np.unique(numbers, return_index=True)[1]
    original = first[numbers]  # of each row, the first row with its name
    same_y = (y == y[original]) | (np.isnan(y) & np.isnan(y[original]))
    same = (same_y & (uncertain == uncertain[original])).all(1) & (split == split[original])
    for row in np.flatnonzero(~same).tolist():
        problems.add(
            f"{names[row]} is listed twice with different labels or splits (films "
            f"{original[row] + 1:,} and {row + 1:,} of the list); remove the wrong one"
        )
    repeated = np.flatnonzero(original != np.arange(len(names))).tolist()
    repeats = [names[row] for row in repeated]
    return first, note_names("Counted {} repeated {} once", repeats, "film", "films")


def _settle_shared_patients(
    patients: np.ndarray, split: np.ndarray, rule: str
) -> tuple[np.ndarray, list[str]]:
    """Which films stay, (N,) bool, if the source's own split shares patients; and the notes."""
    people = number_by_name(patients.tolist())
    rank = np.zeros(len(split), np.int8)  # train, and "", which will be train at most
    for side, value in _RANK.items():
        rank[split == side] = value
    highest = np.zeros(people.max(initial=-1) + 1, np.int8)
    np.maximum.at(highest, people, rank)
    lesser = rank < highest[people]
    if not lesser.any():
        return ~lesser, []
    shared = list(dict.fromkeys(patients[lesser].tolist()))
    notes = note_names("The source's split shares {} {}", shared, "patient", "patients")
    sides = [f"{(lesser & (rank == number)).sum():,} {side}" for number, side in enumerate(_RANK)]
    films = f"{' and '.join(sides[:2])} films of patients who are in test or valid as well"
    if rule == "keep":
        return np.ones_like(lesser), [*notes, f"Kept {films}, as asked: scores will flatter."]
    return ~lesser, [*notes, f"Skipped {films}."]


def _draw_splits(
    patients: np.ndarray, split: np.ndarray, options: Request
) -> tuple[np.ndarray, list[str]]:
    """Complete a split by patient: "" becomes a side; "valid" and "test" are drawn if missing.

    Patients are ranked by a hash of seed and patient, so that one patient more or less in the
    table moves hardly anyone else. They are drawn from those in "train" and "".

    Returns
    -------
    split, notes
        (N,) of "train", "valid" and "test".
    """
    present = set(split.tolist())
    for side in ("valid", "test"):
        if side in present and getattr(options, side) is not None:
            raise DatasetError(f"the source has a {side} split of its own; leave out --{side}")
    defaults = {"valid": 0.1, "test": 0.0 if present - {""} else 0.2}
    pool = np.flatnonzero((split == "") | (split == "train"))
    people = patients[pool].tolist()
    numbers, names = number_by_name(people), list(dict.fromkeys(people))
    ranked = np.argsort(stable_uniform(options.seed, "split", names, [""])[:, 0])
    sides, notes = np.full(len(names), "train"), []
    for side in ("test", "valid"):
        asked = getattr(options, side)
        share = 0.0 if side in present else defaults[side] if asked is None else asked
        number = max(1, round(share * len(names))) if share and len(names) > 2 else 0
        sides[ranked[:number]] = side
        ranked = ranked[number:]
        if number:
            people = "patient" if number == 1 else "patients"
            notes.append(f"Drew {number:,} {people} for {side} (seed {options.seed}).")
    if notes and not len(ranked):
        raise DatasetError("no training films are left: make --valid or --test smaller")
    drawn = split.copy()
    drawn[pool] = sides[numbers]
    return drawn, notes
