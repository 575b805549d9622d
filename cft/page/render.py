"""Findings -> the HTML of the page: the data that the templates beside this file lay out.

Every picture and download is a ``data:`` address inside the HTML, so that nothing of a film lies
in a file on the server. Choosing a finding, hiding the heat map and enlarging the film need no
script: they are radio buttons, a checkbox and a popover, and the rules of `style`.

Whatever a visitor or a model folder could have written is text: the templates escape it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import cft
from cft import heatmap, results
from cft.film.radiograph import MAX_BYTES
from cft.film.turn import OFFERS
from cft.labels import DATASETS, DESCRIPTIONS
from cft.model.config import Figures, TestSet, point_names
from cft.model.findings import LATERAL

if TYPE_CHECKING:
    from cft.results import Model

_HERE = Path(__file__).resolve().parent

# Longest side of a heat map in pixels. It is smooth, being made of a few local scores across, so
# that the browser may enlarge it.
_MAP_SIDE = 160


@cache
def _templates() -> Environment:
    """The templates; what they print is escaped, and a name without a value is an error."""
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["percent"] = _percent
    environment.globals["about_evidence"] = results.ABOUT_EVIDENCE
    environment.globals["disclaimer"] = cft.NOT_A_MEDICAL_DEVICE.split(". ", 1)
    return environment


def _html(name: str, **data: Any) -> str:
    return _templates().get_template(f"{name}.html").render(data)


# --------------------------------------------------------------------------------- frame


def banner() -> str:
    """The sentence that cannot be missed."""
    return _html("banner")


def fallback_notice(reason: str) -> str:
    """Says that the page does not use the model that it was set to use; nothing without reason."""
    return _html("fallback", reason=reason[:1].upper() + reason[1:]) if reason else ""


def title() -> str:
    """The heading of the page."""
    return _html("title")


def drop_help(max_films: int) -> str:
    """The small print under the drop zone."""
    return _html("help", max_films=max_films, megabytes=MAX_BYTES // 2**20)


def no_results() -> str:
    """What the results show before there are any."""
    return _html("empty")


def style(classifier: Model) -> str:
    """The style sheet of the page with one model.

    Its last rules show the heat map and the text of the row that is chosen in a table.
    """
    choices = (
        f".contain .film:has(tbody tr:nth-child({row}) input:checked)"
        f" .by-finding > :nth-child({row}) {{ display: block; }}\n"
        for row in range(1, len(classifier.label_names) + 1)
    )
    return (_HERE / "page.css").read_text(encoding="utf-8") + "".join(choices)


# ------------------------------------------------------------------------------- results


#: A film for the page: its name, its findings or error, and its rendering, (h, w) uint8.
Shown = tuple[str, results.Result, "np.ndarray | None"]


def films_html(
    classifier: Model, films: Sequence[Shown], offers: Mapping[int, Shown] | None = None
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
    named = [(name, result) for name, result, _ in films]
    entries = [_film(classifier, number, *film) for number, film in enumerate(films)]
    for number, offer in (offers or {}).items():
        entries[number]["offer"] = _offer(classifier, number, films[number], offer)
    first = next((entry for entry in entries if entry["error"] is None), None)
    if first:
        first["open"] = True
    return _html(
        "results",
        summary=_summary(named),
        downloads=_downloads(classifier, named),
        films=entries,
        has_heatmaps=classifier.has_heatmaps,
    )


def refusal_html(sentence: str) -> str:
    """Why a request was not answered at all."""
    return _html("refusal", sentence=sentence)


def _summary(named: list[tuple[str, results.Result]]) -> str:
    failed = sum(isinstance(result, cft.RadiographError) for _, result in named)
    first = named[0][1]
    if len(named) == 1:
        if isinstance(first, cft.RadiographError):
            return "The film could not be read."
        return "Not answered." if first.gate.verdict == "refuse" else _count(first)
    return f"{len(named)} films" + (f", {failed} of which could not be read" if failed else "")


def _count(findings: cft.Findings) -> str:
    known = sum(point is not None for point in findings.operating_points.values())
    return f"{len(findings.positives) or 'None'} of {known} findings above the operating point"


def _downloads(classifier: Model, named: list[tuple[str, results.Result]]) -> dict[str, str]:
    """Suffix of a file -> its address."""
    document = json.dumps(results.document(classifier, named), indent=2, ensure_ascii=False)
    table = "".join(results.csv_rows(classifier.label_names, named))
    return {
        "json": _data_address(document.encode(), "application/json"),
        "csv": _data_address(table.encode(), "text/csv"),
    }


def _film(
    classifier: Model,
    number: int,
    name: str,
    result: results.Result,
    picture: np.ndarray | None,
) -> dict[str, Any]:
    """What ``film.html`` shows of a film; of one that failed, what ``results.html`` does."""
    if isinstance(result, cft.RadiographError) or picture is None:
        return {"name": name, "error": str(result)}
    height, width = picture.shape
    size = f"{result.shape[1]} × {result.shape[0]} pixels"
    view = [f"{result.view} view"] if result.view else []
    point = [f"{result.point} operating points"] if result.point else []
    return {
        "name": name,
        "error": None,
        "number": number,
        "open": False,
        "gist": _gist(result),
        "facts": [
            *view,
            size,
            *point,
            *(note for note in result.notes if note and note != LATERAL),
        ],
        "warning": _warning(result),
        "refusal": " ".join(result.gate.reasons) if result.gate.verdict == "refuse" else "",
        "offer": None,
        "picture": _data_address(heatmap.encode_png(picture), "image/png"),
        "width": width,
        "height": height,
        "findings": list(_findings(classifier, result)),
    }


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


def _gist(findings: cft.Findings) -> str:
    if findings.gate.verdict == "refuse":
        return f"Not answered: {findings.gate.reasons[0]}"
    if LATERAL in findings.notes:
        return "a lateral film: the numbers mean nothing"
    positives = ", ".join(_plain(label) for label in findings.positives)
    return _count(findings) + (f": {positives}" if positives else "")


def _findings(classifier: Model, findings: cft.Findings) -> Iterator[dict[str, Any]]:
    """The rows of a film's table, each with its heat map and what is said about it."""
    rows = findings.to_dict()["findings"]
    descriptions = classifier.facts.label_descriptions
    chosen = next((i for i, row in enumerate(rows) if row["positive"]), 0)
    for i, row in enumerate(rows):
        label = row["label"]
        yield {
            "name": _plain(label),
            "description": descriptions.get(label) or DESCRIPTIONS.get(label, ""),
            "probability": row["probability"],
            "point": row["operating_point"],
            "positive": row["positive"],
            "chosen": i == chosen,
            "rule": classifier.categories[label].at(findings.point),
            "others": {
                name: point
                for name, point in row["operating_points"].items()
                if point is not None and name != findings.point
            },
            "unproven": results.NO_EVIDENCE if row["evidence"] else "",
            "heatmap": _heatmap(findings, row) if classifier.has_heatmaps else None,
        }


def _heatmap(findings: cft.Findings, row: dict[str, Any]) -> str:
    heat = findings.heatmap(row["label"], heatmap.shape_within(findings.shape, _MAP_SIDE))
    layer = heatmap.layer(heat, row["operating_point"])
    return _data_address(heatmap.encode_png(layer), "image/png")


# --------------------------------------------------------------------------------- about


def about_html(classifier: Model) -> str:
    """What the model is, how good it was found to be, and how to read what it says."""
    channels, height, width = classifier.preprocess.input_size
    facts = {
        "Network": f"{classifier.facts.architecture}, input {width} × {height} pixels, "
        + ("one channel" if channels == 1 else f"{channels} channels"),
        "Weights": f"SHA-256 {classifier.weights_sha256}",
        "Trained on": results.trained_on(classifier) or "not stated",
    }
    if classifier.commit:
        facts["Hub"] = f"{classifier.reference}, commit {classifier.commit}"
    unproven = {label for label, row in classifier.categories.items() if row.evidence}
    test_sets = [_test_set(tested, unproven) for tested in classifier.facts.test_sets]
    return _html(
        "about",
        facts=facts,
        test_sets=test_sets,
        points=point_names(classifier.categories),
        unproven=[_plain(label) for label in classifier.label_names if label in unproven],
    )


def _test_set(tested: TestSet, unproven: set[str]) -> dict[str, Any]:
    """One table of ``about.html``."""
    rows = [(_plain(label), row, label in unproven) for label, row in tested.categories.items()]
    if tested.mean:
        rows.append(("Mean", tested.mean, False))
    rows_of = {"film": "films", "study": "studies"}.get(tested.row, "rows")
    return {
        "name": DATASETS.get(tested.name, tested.name)
        + ("" if tested.rows is None else f": {tested.rows} {rows_of}"),
        "level": "" if tested.level is None else f"{100 * tested.level:g} % ",
        "rows": [
            {
                "name": name,
                "positives": "" if row.positives is None else str(row.positives),
                "unproven": mark,
                **_auroc(row),
            }
            for name, row, mark in rows
        ],
    }


def _auroc(row: Figures) -> dict[str, str]:
    if row.auroc is None:
        return {"auroc": "not defined", "interval": ""}
    known = row.low is not None and row.high is not None
    interval = f"{row.low:.2f} to {row.high:.2f}" if known else ""
    return {"auroc": f"{row.auroc:.3f}", "interval": interval}


# --------------------------------------------------------------------------------- parts


def _plain(label: str) -> str:
    return label.replace("_", " ")


def _percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f}\N{NARROW NO-BREAK SPACE}%"


def _data_address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
