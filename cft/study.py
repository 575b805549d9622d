"""Which films of a request belong together: the films of one study of one patient.

What says so, in this order: the caller; DICOM's Study Instance UID, of which only a hash is made,
with a key that lives for one call (`cft.film.study`); the names that CheXpert, MIMIC-CXR and
NIH ChestX-ray14 give their files, or names that end with the view; the folder of a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from cft.errors import RadiographError

# What reads films is imported where it is used: the command line asks for `RULES` alone.
if TYPE_CHECKING:
    from cft.film.radiograph import View

__all__ = [
    "LATERAL_WORDS",
    "PATTERNS",
    "RULES",
    "Group",
    "Named",
    "group",
    "named",
    "seen_as_named",
]

#: How `group` can be told to group: "auto" goes by DICOM study, and then by name.
RULES = ("auto", "one", "dicom", "name", "folder")


@dataclass(frozen=True)
class Named:
    """What a file name says.

    Attributes
    ----------
    patient, study
        As the name writes them; a patient's studies are in order of time where their names sort.
        Where a name says no study, it is empty, and films of one patient are one study.
    view
        "lateral" where the name says so, else None.
    """

    patient: str
    study: str
    view: View | None = None


#: Names of files, case ignored: patient, study, and the view if the name says one. The page's
#: scripts use them, too, so that they say the same in Python and in JavaScript. A part of a path
#: ends at either slash.
PATTERNS = (
    # CheXpert: patient00001/study1/view2_lateral.jpg
    r"(?:^|[/\\])(patient\d+)[/\\](study\d+)[/\\]view\d+_(frontal|lateral)\.\w+$",
    # MIMIC-CXR: p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.dcm
    r"(?:^|[/\\])(p\d{8})[/\\](s\d{8})[/\\][0-9a-f-]+\.\w+$",
    # NIH ChestX-ray14: 00000001_002.png, the third examination of the first patient
    r"(?:^|[/\\])(\d{8})_(\d{3})\.\w+$",
    # A name and a view: 4711_pa.png and 4711-lateral.png, in one folder; CheXpert's without its
    # folders says no patient
    r"^(?!(?:.*[/\\])?view\d)(.*[^/\\ _.-])()"
    r"[ _.-]+(frontal|front|pa|ap|lateral|lat|ll|rl)\d*\.\w+$",
)

#: The views of `PATTERNS` that are lateral.
LATERAL_WORDS = ("lateral", "lat", "ll", "rl")


def named(name: str) -> Named | None:
    """What the name of a file says of patient and study; None if it is no such name.

    Examples
    --------
    >>> named("patient00001/study2/view2_lateral.jpg")
    Named(patient='patient00001', study='study2', view='lateral')
    >>> named("00000001_002.png")
    Named(patient='00000001', study='002', view=None)
    >>> named("films/4711_PA.png")
    Named(patient='films/4711', study='', view=None)
    >>> named("film.png") is None
    True
    """
    for pattern in PATTERNS:
        if found := re.search(pattern, name, re.IGNORECASE):
            patient, study, *view = found.groups()
            lateral = any(word.lower() in LATERAL_WORDS for word in view)
            return Named(patient, study, "lateral" if lateral else None)
    return None


@dataclass(frozen=True)
class Group:
    """Films that belong together.

    Attributes
    ----------
    name
        What to call the study: from the names or from the caller, else "Study 1" and so on.
    films
        Their places among the films that were grouped, ascending.
    patient
        Whose it is, as far as names say so; studies of one patient can be compared.
    """

    name: str
    films: tuple[int, ...]
    patient: str | None = None


def group(films: Sequence[tuple[str, Any]], by: str | Sequence[str] = "auto") -> list[Group]:
    """Group films into studies.

    Parameters
    ----------
    films
        (name, film) each; the name may have folders. Only of a path or bytes it can be told whether
        it is DICOM.
    by
        One of `RULES`, or as many texts as films: equal ones are a study. A film that the rule says
        nothing of is a study of its own.

    Returns
    -------
    list of Group
        In the order of their first films.

    Raises
    ------
    ValueError
        If there is no such rule, or are not as many texts as films.
    """
    keys = _keys(films, by)
    members: dict[tuple[str, ...], list[int]] = {}
    for place, key in enumerate(keys):
        members.setdefault(key, []).append(place)
    return [
        Group(_title(key, number), tuple(places), key[1] if key[0] == "name" else None)
        for number, (key, places) in enumerate(members.items(), start=1)
    ]


def _keys(films: Sequence[tuple[str, Any]], by: str | Sequence[str]) -> list[tuple[str, ...]]:
    """What is equal for films of one study: the kind of key, and the key."""
    if not isinstance(by, str):
        if len(by) != len(films):
            raise ValueError(f"{len(by)} names of studies for {len(films)} films: name each film's")
        return [("given", str(key)) for key in by]
    if by not in RULES:
        raise ValueError(f"films are grouped by {', '.join(RULES)}, not by {by!r}")
    if by == "one":
        return [("one",)] * len(films)
    from cft.film.study import new_key

    hash_key = new_key()
    keys: list[tuple[str, ...]] = []
    for place, (name, film) in enumerate(films):
        keys.append(_key(name, film, by, hash_key) or ("film", str(place)))
    return keys


def _key(name: str, film: Any, by: str, hash_key: bytes) -> tuple[str, ...] | None:
    from cft.film.study import study_hash

    if by == "folder":
        return "given", str(PurePath(name).parent)
    if by in ("auto", "dicom") and (digest := study_hash(film, hash_key)):
        return "dicom", digest
    if by in ("auto", "name") and (found := named(name)):
        return "name", found.patient, found.study
    return None


def _title(key: tuple[str, ...], number: int) -> str:
    """Nothing of a hash or of a place in a list; those are numbered."""
    return " ".join(filter(None, key[1:])) if key[0] in ("given", "name") else f"Study {number}"


def seen_as_named(name: str, film: Any) -> Any:
    """A film, made a lateral one if its name says so and the file itself says nothing.

    Any other film is given back as it is, and so is one that cannot be read, for the reader to say
    why.
    """
    from cft.film.read import as_radiograph

    found = named(name)
    if found is None or found.view is None:
        return film
    try:
        radiograph = as_radiograph(film)
    except RadiographError:
        return film
    return radiograph if radiograph.view else replace(radiograph, view=found.view)
