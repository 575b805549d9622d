"""Films that belong together -> HTML: studies, and a prior film beside the current one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cft import results
from cft.model.change import Change, change_sentence
from cft.model.study import Study
from cft.page.render import Shown, entries, picture_facts, points_of
from cft.page.table import finding_rows, place
from cft.page.template import fill
from cft.page.text import data_address, plain_label, short_percent

if TYPE_CHECKING:
    from cft.results import Model

__all__ = ["together_html"]

#: A change of so many logits fills the bar: more than between most films of the same state.
FULL_CHANGE = 5.0


def together_html(classifier: Model, current: Sequence[Shown], prior: Sequence[Shown] = ()) -> str:
    """Films that are one study, with those of a prior one beside them if there are any.

    Parameters
    ----------
    classifier
        The model that was used.
    current, prior
        The films of both studies; at least one of the current one.
    """
    points = points_of(classifier)
    now, before = (Study.of([(name, result) for name, result, _ in f]) for f in (current, prior))
    named = [("Current study" if prior else "The study", current), ("Prior study", prior)]
    several = [(name, films) for name, films in named if len(films) > 1 or not _counts(films)]
    shown = entries(classifier, [_smaller(film) for film in (*current, *prior)])
    below = shown[len(current) :], shown[: len(current)]
    pair = _pair(classifier, (before, now), (prior, current), below) if prior else None
    if pair is None and (scored := [i for i in range(len(current)) if i not in now.left_out]):
        shown[scored[0]]["open"] = True  # a study is looked at, not only read
    documents = [
        results.comparison(classifier, before.at(point), now.at(point))
        if prior
        else results.studies(classifier, [("the study", now.at(point))])
        for point in points
    ]
    return fill(
        "together",
        points=points,
        summaries=[_summary(before if prior else None, now.at(point)) for point in points],
        downloads=[_address(document) for document in documents],
        download="comparison" if prior else "study findings",
        pair=pair,
        reported=not prior,
        studies=[_study(classifier, name, films, not prior) for name, films in several if films],
        films=shown,
        has_heatmaps=classifier.has_heatmaps,
        heatmap_kind=classifier.heatmap_kind,
        has_tests=bool(classifier.facts.test_sets),
    )


def _smaller(film: Shown) -> Shown:
    """A film for the list below, which has the films once more."""
    name, result, picture = film
    return name, result, picture and picture.smaller()


def _counts(films: Sequence[Shown]) -> bool:
    return Study.of([(name, result) for name, result, _ in films]).findings is not None


def _summary(prior: Study | None, current: Study) -> str:
    """What stands first: the current study, and what has changed."""
    if prior is None:
        return current.sentence
    changes = current.changes(prior)
    said = not changes or _measured(list(changes.values()))
    return current.sentence + (f". {change_sentence(changes)}" if said else "")


def _address(document: dict[str, Any]) -> str:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return data_address(text.encode(), "application/json")


# ---------------------------------------------------------------------------------- study


def _study(
    classifier: Model, name: str, films: Sequence[Shown], is_open: bool = False
) -> dict[str, Any]:
    """What ``study.html`` shows."""
    study = Study.of([(film, result) for film, result, _ in films])
    views = [study.at(point) for point in points_of(classifier)]
    found = [view.findings for view in views if view.findings]
    return {
        "name": name,
        "open": is_open,
        "sentences": [view.sentence for view in views],
        "films": [
            {"name": film, "reason": study.left_out.get(number, "")}
            for number, (film, _) in enumerate(study.films)
        ],
        "findings": list(finding_rows(classifier, found, None)) if found else [],
        "most_on": {
            label: study.films[number][0]
            for label, number in (found[0].film_of if found else {}).items()
        },
    }


# ----------------------------------------------------------------------------------- pair


def _pair(
    classifier: Model,
    studies: tuple[Study, Study],
    films: tuple[Sequence[Shown], Sequence[Shown]],
    below: tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]],
) -> dict[str, Any] | None:
    """What ``pair.html`` shows of a prior and a current study.

    `below`: what the page shows of each film. None where one has no film that counts.
    """
    prior, current = studies
    changes = sorted(current.changes(prior).values(), key=lambda change: -abs(change.difference))
    if not changes:
        return None
    sides = []
    for which, study, shown, entry in zip(("prior", "current"), studies, films, below, strict=True):
        first = next(number for number in range(len(shown)) if number not in study.left_out)
        sides.append(_side(which, shown[first], entry[first]))
    places = len(points_of(classifier))
    return {
        "sides": sides,
        "ratio": sides[1]["width"] / sides[1]["height"],
        "sentence": change_sentence({change.label: change for change in changes}),
        "changes": [
            {**_change(change), "places": " ".join([str(number)] * places)}
            for number, change in enumerate(changes)
        ],
        "measured": _measured(changes),
    }


def _side(which: str, film: Shown, entry: dict[str, Any]) -> dict[str, Any]:
    """One of the two films that are shown, the first that counts; `entry`: what is below of it."""
    picture = film[2]
    assert picture is not None
    return {
        "which": which,
        "name": entry["name"],
        "facts": entry["facts"],
        **picture_facts(picture),
        "maps": {row["label"]: row["heatmaps"] for row in entry["findings"]},
        "above": {
            row["label"]: " ".join(str(i) for i, at in enumerate(row["views"]) if at["positive"])
            for row in entry["findings"]
        },
    }


def _change(change: Change) -> dict[str, Any]:
    """A row of the table of changes."""
    end = place(change.difference, FULL_CHANGE)
    limit = change.repeatability.limit if change.repeatability else None
    low, high = (place(x, FULL_CHANGE) for x in (-(limit or 0), limit or 0))
    return {
        "label": change.label,
        "name": plain_label(change.label),
        "difference": f"{change.difference:+.2f}".replace("-", "\N{MINUS SIGN}"),
        "prior": change.prior,
        "current": change.current,
        "verdict": change.verdict,
        "unproven": results.NO_EVIDENCE if change.evidence else "",
        "bar": {"left": min(50.0, end), "width": abs(end - 50)},
        "zone": None if limit is None or change.evidence else {"left": low, "width": high - low},
    }


def _measured(changes: Sequence[Change]) -> dict[str, Any] | None:
    """What the limits rest on; None where the model folder has none."""
    known = [change.repeatability for change in changes if change.repeatability]
    if not known:
        return None
    first = known[0]
    by_chance = sum(1 - each.level for each in known)
    return {
        "level": short_percent(first.level),
        "pairs": "such pairs" if first.pairs is None else f"{first.pairs:,} such pairs",
        "patients": first.patients and f"{first.patients:,}",
        "by_chance": f"about {by_chance:.1f}",
    }
