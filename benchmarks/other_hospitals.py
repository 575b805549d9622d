"""Films of other hospitals than NIH's: which may teach and check a gate, and which test it.

The folder ``frontal_other`` holds films of two public collections: `COVID-CXNet`_ (CC BY 4.0,
compiled from journals and teaching files) and the `COVID-19 image repository`_ of the Hannover
Medical School (CC BY 3.0).

``other_hospitals.csv`` puts each film in a group: the films of one patient, by the collections' own
lists of patients. The films 1 to 259 of COVID-CXNet are in no such list; there, films follow each
other as they were found, so that ten numbers are a group. Groups with films that look nearly the
same (a correlation above 0.93 at 32 by 32 pixels) are one. Films of children under 18 take no part.

The rule looks at no result: every sixth film of ``sources.csv``, beginning with the first, had been
looked at when the gate was made. Groups with such a film are for development: two thirds of them
teach, one third checks, by a hash. All other groups test.

.. _COVID-CXNet: https://github.com/armiro/COVID-CXNet
.. _COVID-19 image repository: https://github.com/ml-workgroup/covid-19-image-repository
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CREDIT", "OtherFilm", "by", "other_films"]

#: Whose films these are.
CREDIT = (
    "COVID-CXNet (Haghanifar et al., https://github.com/armiro/COVID-CXNet, CC BY 4.0, compiled "
    "from journals and teaching files) and the COVID-19 image repository of the Hannover Medical "
    "School (Winther et al., https://github.com/ml-workgroup/covid-19-image-repository, CC BY 3.0)"
)

_GROUPS = Path(__file__).with_suffix(".csv")
_SEEN = 6  # every so many-th film had been looked at


@dataclass(frozen=True)
class OtherFilm:
    """A film of another hospital.

    Attributes
    ----------
    path
        The film.
    group
        The same for films of one patient.
    side
        "train", "valid" (both for development) or "test".
    view
        "AP", "PA" or empty, if it is not known.
    repository
        The collection on GitHub that it comes from.
    """

    path: Path
    group: str
    side: str
    view: str
    repository: str


def other_films(folder: Path) -> list[OtherFilm]:
    """The films of the folder ``frontal_other``, in its order; none if it is not there.

    Raises
    ------
    ValueError
        If a film of the folder is in no group.
    """
    listed = folder / "sources.csv"
    if not listed.exists():
        return []
    with open(_GROUPS, newline="") as file:
        groups = {row["image"]: row["group"] for row in csv.DictReader(file)}
    with open(listed, newline="") as file:
        rows = list(csv.DictReader(file))
    if strange := [row["image"] for row in rows if row["image"] not in groups]:
        raise ValueError(f"{listed}: no group is known of {', '.join(strange[:3])}")
    seen = {groups[row["image"]] for row in rows[::_SEEN]}
    return [
        OtherFilm(
            path=folder / "images" / row["image"],
            group=group,
            side=_development_side(group) if group in seen else "test",
            view=row["view"],
            repository=row["repo"],
        )
        for row in rows
        if (group := groups[row["image"]]) != "child"
    ]


def _development_side(group: str) -> str:
    return "train" if hashlib.sha256(group.encode()).digest()[0] % 3 else "valid"


def by(
    films: list[OtherFilm], kind: Callable[[OtherFilm], str]
) -> Iterator[tuple[str, list[Path]]]:
    """The films of each kind, in order of its name."""
    for name in sorted({kind(film) for film in films}):
        yield name, [film.path for film in films if kind(film) == name]
