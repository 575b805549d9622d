"""Films -> what the page and its API answer: findings, HTML and documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cft
from cft import results
from cft.film.read import as_radiograph
from cft.film.turn import turned
from cft.model.category import point_names
from cft.model.selftest import EXAMPLE
from cft.page import render, together
from cft.page.picture import Picture
from cft.page.uploads import Film, Refused
from cft.study import seen_as_named

if TYPE_CHECKING:
    from cft.results import Model

__all__ = [
    "check_gate",
    "check_point",
    "examine",
    "example_film",
    "predict",
    "show",
    "show_together",
]


def predict(
    classifier: Model, films: Iterable[Film], point: str | None = None, gate: str = "refuse"
) -> dict[str, Any]:
    """The findings of some films as the JSON document of `cft.results.document`.

    `point` names the operating points; None: the model's own choice. `gate`: see there.
    """
    found = ((name, result) for name, result, _ in examine(classifier, films))
    at = ((name, r if isinstance(r, cft.RadiographError) else r.at(point)) for name, r in found)
    return results.document(classifier, at, gate)


def show(classifier: Model, films: Iterable[Film]) -> str:
    """The findings of some films as the HTML of the page's results."""
    films, offers = list(films), dict[int, render.Shown]()
    return render.films_html(classifier, list(examine(classifier, films, offers)), offers)


def show_together(classifier: Model, current: Sequence[Film], prior: Sequence[Film] = ()) -> str:
    """Films that are one study, beside those of a prior one if there are any, as HTML.

    Raises
    ------
    Refused
        If there is no current film.
    """
    if not current:
        raise Refused("There is no current film: choose one file or several. None was read.")
    full = len(current) == 1 and len(prior) <= 1
    shown = list(examine(classifier, [*current, *prior], full=full, named=True))
    return together.together_html(classifier, shown[: len(current)], shown[len(current) :])


def check_point(classifier: Model, point: Any) -> None:
    """Refuse, before a film is read, operating points that the model has not."""
    names = point_names(classifier.categories)
    if not isinstance(point, str) or (point and point not in names):
        has = f"it has {', '.join(names)}" if names else "it has one of each finding"
        raise Refused(f"The model has no operating points of that name; {has}.")


def check_gate(gate: Any) -> None:
    """Refuse, before a film is read, what cannot be done with a film that the gate refuses."""
    if gate not in results.GATES:
        raise Refused(f"gate is {', '.join(results.GATES[:-1])} or {results.GATES[-1]}.")


def examine(
    classifier: Model,
    films: Iterable[Film],
    offers: dict[int, render.Shown] | None = None,
    full: bool = False,
    named: bool = False,
) -> Iterator[render.Shown]:
    """Film by film: name, findings or error, and the film for the screen.

    A film that is the only one is shown at its full depth, and with `full` every one. With `named`
    names say which films are lateral where the files do not, see `cft.study.seen_as_named`. Only
    one film is in memory at its full size, however many there are. Into `offers` goes, by its
    number, how a film would be answered that certainly lies wrongly, if it were turned.
    """
    films = list(films)
    alone = full or len(films) == 1
    for number, (name, film) in enumerate(films):
        try:
            radiograph = as_radiograph(seen_as_named(name, film) if named else film)
        except cft.RadiographError as error:
            yield name, error, None
            continue
        findings = next(iter(classifier.stream([radiograph])))
        picture = Picture.of(radiograph, alone)
        if offers is not None and (offer := _offer(classifier, name, radiograph, findings)):
            offers[number] = offer
        del radiograph  # before the next one is read
        yield name, findings, picture


def _offer(
    classifier: Model, name: str, film: cft.Radiograph, findings: results.Result
) -> render.Shown | None:
    """The film turned as its gate proposes, unless the gate would refuse that as well."""
    if isinstance(findings, cft.RadiographError) or findings.gate.turn is None:
        return None
    other = turned(film, findings.gate.turn)
    answer = next(iter(classifier.stream([other])))
    if isinstance(answer, cft.RadiographError) or answer.gate.verdict == "refuse":
        return None
    return name, answer, Picture.of(other, alone=False)


def example_film() -> Film:
    """The film for visitors who have none, drawn by code."""
    return "Synthetic example film", cft.read_radiograph(EXAMPLE)
