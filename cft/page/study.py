"""Several films of one patient, for the page and its API: studies, and a prior beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cft import results
from cft.model.study import Study
from cft.page.uploads import Film, Refused
from cft.study import group

if TYPE_CHECKING:
    from cft.results import Model

__all__ = ["compare", "predict_study"]

# An upload has a name without folders.
_RULES = ("one", "auto", "dicom", "name")
_LONGEST_NAME = 200  # of a study, as a caller writes it


def predict_study(
    classifier: Model,
    films: Sequence[Film],
    by: Any = "one",
    point: str | None = None,
    gate: str = "refuse",
) -> dict[str, Any]:
    """The films' studies as the JSON document of `cft.results.studies`.

    Parameters
    ----------
    classifier
        The model.
    films
        (name, film) each.
    by
        See `cft.study.group`; the answer to a caller, so that anything can be there.
    point, gate
        As of `cft.page.answers.predict`.

    Raises
    ------
    Refused
        If the films cannot be grouped so.
    """
    return results.studies(
        classifier, _named_studies(classifier, films, _rule(by), point, gate), gate
    )


def _named_studies(
    classifier: Model, films: Sequence[Film], by: str | list[str], point: str | None, gate: str
) -> list[tuple[str, Study]]:
    try:
        groups = group(films, by)
    except ValueError as error:
        raise Refused(f"{str(error)[:1].upper()}{str(error)[1:]}. None was read.") from None
    return [
        (each.name, _study(classifier, [films[place] for place in each.films], point, gate))
        for each in groups
    ]


def _rule(by: Any) -> str | list[str]:
    """What a caller says of the grouping, as `cft.study.group` takes it."""
    if isinstance(by, list) and all(map(_is_name, by)):
        return by
    if by in _RULES:
        return by
    raise Refused(
        f"Films are grouped by {', '.join(_RULES)}, or by a list that names each film's study. "
        "None was read."
    )


def _is_name(name: Any) -> bool:
    """Whether it is a text that is not long and that can be answered: a half of a character not."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in name)


def compare(
    classifier: Model,
    prior: Sequence[Film],
    current: Sequence[Film],
    point: str | None = None,
    gate: str = "refuse",
) -> dict[str, Any]:
    """A prior and a current study as the JSON document of `cft.results.comparison`.

    Raises
    ------
    Refused
        If one of them has no films.
    """
    if not prior or not current:
        raise Refused("A comparison needs a prior film and a current one. None was read.")
    before, after = (_study(classifier, films, point, gate) for films in (prior, current))
    return results.comparison(classifier, before, after, gate)


def _study(classifier: Model, films: Sequence[Film], point: str | None, gate: str) -> Study:
    names, sources = zip(*films, strict=True)
    return classifier.predict_study(sources, names, gate).at(point)
