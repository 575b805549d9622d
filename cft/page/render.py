"""Findings -> the HTML of the page: the data that the templates beside this file lay out.

Every picture and download is a ``data:`` address inside the HTML, so that nothing of a film lies
in a file on the server. Choosing a finding, hiding the heat map and enlarging the film need no
script: they are radio buttons, a checkbox and a popover, and the rules of `style`. So is the choice
among operating points; `script` adds that rows change places with it, and predictive values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cft
from cft import heatmap, results
from cft.film.radiograph import MAX_BYTES
from cft.film.turn import OFFERS
from cft.model.category import point_names
from cft.model.findings import LATERAL, LATERAL_FILM
from cft.model.selftest import SelfTest
from cft.page.picture import Picture
from cft.page.report import report
from cft.page.table import finding_rows
from cft.page.template import HERE, fill
from cft.page.text import data_address, plain_label
from cft.study import LATERAL_WORDS, PATTERNS

if TYPE_CHECKING:
    import numpy as np

    from cft.results import Model

#: Films that the page keeps at a time; see batch.js.
MOST_FILMS = 200

# Each list is one file for the browser, in this order; the viewer is a class over several.
_VIEWER = ("contour", "pictures", "view", "drawing", "gestures", "tools", "viewer", "pair")
_BATCH = ("ask", "batch", "studies", "matrix", "report", "reports", "together")
_STYLES = ("page", "viewer", "film", "findings", "about", "study", "drop", "matrix")


# --------------------------------------------------------------------------------- frame


def banner() -> str:
    """The sentence that cannot be missed."""
    return fill("banner")


def fallback_notice(reason: str) -> str:
    """Says that the page does not use the model that it was set to use; nothing without reason."""
    return fill("fallback", reason=reason[:1].upper() + reason[1:]) if reason else ""


def title() -> str:
    """The heading of the page."""
    return fill("title")


def drop_zone() -> str:
    """Where films are dropped or chosen."""
    return fill("drop", most=MOST_FILMS, megabytes=MAX_BYTES // 2**20)


def desk(classifier: Model) -> str:
    """Where the answers stand: the matrix of many films, and the film that is open."""
    columns = [
        {
            "label": label,
            "name": plain_label(label),
            "unproven": classifier.categories[label].evidence is not None,
        }
        for label in classifier.label_names
    ]
    names = {"patterns": PATTERNS, "lateral": LATERAL_WORDS}
    knows_laterals = bool(classifier.facts.views.get("lateral"))
    return fill(
        "desk",
        columns=columns,
        points=points_of(classifier),
        names=json.dumps(names),
        lateral="" if knows_laterals else f"It is {LATERAL_FILM}.",
    )


def style(classifier: Model) -> str:
    """The style sheet of the page with one model.

    Its last rules show the heat map and the text of the row that is chosen in a table, and of what
    depends on the operating points what belongs to the chosen ones.
    """
    chosen_rows = (
        f".contain .film:not(:has(.choose-{row}:checked))"
        f" .by-finding > :nth-child({row}) {{ display: none; }}\n"
        for row in range(1, len(classifier.label_names) + 1)
    )
    # Where there is no choice, the first is what there is.
    chosen_points = (
        f".contain #answer:has(.points input:checked:not(.point-{place})) .at-{place}"
        " { display: none !important; }\n"
        for place in range(len(points_of(classifier)))
    )
    return _joined(_STYLES, ".css") + "".join(chosen_rows) + "".join(chosen_points)


def script() -> str:
    """The script of what is shown; without it the page still shows everything."""
    return _joined(("page", *_VIEWER), ".js")


def batch_script() -> str:
    """The script that sends films and lays out what they come to, a module of its own."""
    return _joined(_BATCH, ".js")


def _joined(names: Sequence[str], suffix: str) -> str:
    return "".join((HERE / f"{name}{suffix}").read_text(encoding="utf-8") for name in names)


def self_test_notice(result: SelfTest) -> str:
    """Says that the model does not give its own figures here; nothing if it may."""
    return "" if result.passed is not False else fill("selftest", reason=result.sentence)


# ------------------------------------------------------------------------------- results


#: A film for the page: its name, its findings or error, and its picture.
Shown = tuple[str, results.Result, "Picture | None"]


def films_html(
    classifier: Model,
    films: Sequence[Shown],
    offers: Mapping[int, Shown] | None = None,
) -> str:
    """All films of one request.

    Parameters
    ----------
    classifier
        The model that was used.
    films
        The films.
    offers
        Number of a film that lies wrongly -> the same film turned, for a click to show.
    """
    points = points_of(classifier)
    named = [[(name, _at(result, point)) for name, result, _ in films] for point in points]
    entries = [_film(classifier, number, *film) for number, film in enumerate(films)]
    for number, offer in (offers or {}).items():
        entries[number]["offer"] = _offer(classifier, number, films[number], offer)
    first = next((entry for entry in entries if entry["error"] is None), None)
    if first:
        first["open"] = True
    return fill(
        "results",
        points=points,
        summaries=[_summary(at) for at in named],
        downloads=[_downloads(classifier, at) for at in named],
        reports=_reports(classifier, entries, films, points),
        download=_file_name([name for name, _, _ in films]),
        films=entries,
        has_heatmaps=classifier.has_heatmaps,
        heatmap_kind=classifier.heatmap_kind,
        has_tests=bool(classifier.facts.test_sets),
    )


def entries(classifier: Model, films: Sequence[Shown]) -> list[dict[str, Any]]:
    """What the template of a film shows, for each of some films."""
    return [_film(classifier, number, *film) for number, film in enumerate(films)]


def points_of(classifier: Model) -> list[str | None]:
    """The operating points to choose among, the model's own choice first."""
    return [*point_names(classifier.categories)] or [None]


def _at(result: results.Result, point: str | None) -> results.Result:
    return result if isinstance(result, cft.RadiographError) else result.at(point)


def _summary(named: list[tuple[str, results.Result]]) -> str:
    failed = sum(isinstance(result, cft.RadiographError) for _, result in named)
    first = named[0][1]
    if len(named) == 1:
        if isinstance(first, cft.RadiographError):
            return "The film could not be read."
        return first.sentence
    return f"{len(named)} films" + (f", {failed} of which could not be read" if failed else "")


def _file_name(films: Sequence[str]) -> str:
    """The name of a download, without its suffix, after the films that it is about."""
    stem = Path(films[0]).stem if films else ""
    more = f" and {len(films) - 1} more" if len(films) > 1 else ""
    return f"{stem or 'film'}{more}"


def _downloads(classifier: Model, named: list[tuple[str, results.Result]]) -> dict[str, str]:
    """Suffix of a file -> its address.

    The table begins with a byte order mark, without which Excel takes UTF-8 for another encoding.
    """
    document = json.dumps(results.document(classifier, named), indent=2, ensure_ascii=False)
    rows = results.csv_rows(classifier.label_names, named, weights=classifier.weights_sha256)
    return {
        "json": data_address(document.encode(), "application/json"),
        "csv": data_address("".join(rows).encode("utf-8-sig"), "text/csv"),
    }


def _reports(
    classifier: Model,
    entries: list[dict[str, Any]],
    films: Sequence[Shown],
    points: list[str | None],
) -> list[str]:
    """The address of the report of the only film at each choice of operating points."""
    if len(films) != 1 or isinstance(films[0][1], cft.RadiographError):
        return []
    found = films[0][1]
    data = (report(classifier, entries[0], found.at(p), i) for i, p in enumerate(points))
    return [data_address(fill("report", **each).encode(), "text/html") for each in data]


def _film(
    classifier: Model,
    number: int,
    name: str,
    result: results.Result,
    picture: Picture | None,
) -> dict[str, Any]:
    """What ``film.html`` shows of a film; of one that failed, what ``results.html`` does."""
    if isinstance(result, cft.RadiographError) or picture is None:
        return {"name": name, "error": str(result)}
    height, width = picture.upper.shape
    size = f"{result.shape[1]} × {result.shape[0]} pixels"
    if picture.reduction > 1:
        size += f", shown at {width} × {height}"
    view = [f"{result.view} view"] if result.view else []
    views = [result.at(point) for point in points_of(classifier)]
    return {
        "name": name,
        "error": None,
        "number": number,
        "open": False,
        "sentences": [at.sentence for at in views],
        "facts": [*view, size, *(note for note in result.notes if note and note != LATERAL)],
        "warning": _warning(result),
        "refusal": " ".join(result.gate.reasons) if result.gate.verdict == "refuse" else "",
        "offer": None,
        **picture_facts(picture),
        "findings": list(finding_rows(classifier, views, picture.body)),
    }


def picture_facts(picture: Picture) -> dict[str, Any]:
    """What a template needs to show a film, and the viewer to read it."""
    height, width = picture.upper.shape
    return {
        "picture": _address(picture.upper),
        "lower": "" if picture.lower is None else _address(picture.lower),
        "spacing": "" if picture.spacing is None else "{:.6g} {:.6g}".format(*picture.spacing),
        "reduction": f"{picture.reduction:.6g}",
        "width": width,
        "height": height,
    }


def _address(picture: np.ndarray) -> str:
    return data_address(heatmap.encode_png(picture), "image/png")


def _warning(findings: cft.Findings) -> str:
    """What stands above the numbers of a film, in sentences."""
    if findings.gate.verdict == "refuse":
        return f"Not to be answered. {' '.join(findings.gate.reasons)} The numbers mean nothing."
    if findings.gate.verdict == "warn":
        return " ".join(findings.gate.reasons)
    return f"{LATERAL.capitalize()}." if LATERAL in findings.notes else ""


def _offer(classifier: Model, number: int, film: Shown, offer: Shown) -> dict[str, Any]:
    """A film that has been turned, and the words of the click that shows it."""
    findings = film[1]
    assert isinstance(findings, cft.Findings)
    assert findings.gate.turn is not None
    text = OFFERS[findings.gate.turn][0]
    entry = _film(classifier, _MOST_FILMS + number, *offer)
    return {**entry, "text": f"{text[:1].upper()}{text[1:]} and read it again"}


# Numbers of films that were turned begin there, so that no two have the same.
_MOST_FILMS = 1000
