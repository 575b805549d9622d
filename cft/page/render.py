"""Findings -> the HTML of the page. Pure functions; the looks are in ``page.css``.

Every picture and download is a ``data:`` address inside the HTML, so that nothing of a film lies
in a file on the server. Choosing a finding, hiding the heat map and enlarging the film need no
script: they are radio buttons, a checkbox and a popover, and the rules of `choice_css`.

Whatever a visitor or a model folder could have written goes through `html.escape`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np

import cft
from cft import heatmap, results
from cft.film.radiograph import MAX_BYTES
from cft.labels import DATASETS, DESCRIPTIONS
from cft.model.findings import LATERAL

# Longest side of a heat map in pixels. It is smooth, being made of a few local scores across, so
# that the browser may enlarge it.
_MAP_SIDE = 160
_SENTENCES = [escape(part) for part in cft.NOT_A_MEDICAL_DEVICE.split(". ", 1)]
_CAUTION = "Colour marks what the score is made of, not where a lesion is."

TITLE = (
    "<h1>Chest X-ray findings</h1><p class='lead'>Probabilities and heat maps of the findings in "
    "a frontal chest X-ray, from a model trained on partially labelled films.</p>"
)

#: What the results show before there are any.
NO_RESULTS = "<p class='empty'>Findings and heat maps appear here.</p>"


def banner() -> str:
    """The sentence that cannot be missed."""
    return "<p class='banner' role='note'><strong>{}.</strong> {}</p>".format(*_SENTENCES)


def fallback_notice(reason: str) -> str:
    """Says that the page does not use the model that it was set to use; nothing without reason."""
    if not reason:
        return ""
    return (
        "<p class='banner' role='alert'><strong>The bundled model answers instead of the one that "
        f"this page is set to use.</strong> {escape(reason[:1].upper() + reason[1:])}.</p>"
    )


def drop_help(max_films: int) -> str:
    """The small print under the drop zone."""
    megabytes = MAX_BYTES // 2**20
    return (
        f"<p class='help'>PNG, JPEG, TIFF, BMP, WebP or DICOM, up to {max_films} files of "
        f"{megabytes} MB. Files are deleted as soon as they have been read; nothing is kept.</p>"
    )


def choice_css(classifier: cft.Classifier) -> str:
    """Style rules that show the heat map and the text of the row that is chosen in a table."""
    return "".join(
        f".contain .film:has(tbody tr:nth-child({row}) input:checked)"
        f" .by-finding > :nth-child({row}) {{ display: block; }}\n"
        for row in range(1, len(classifier.label_names) + 1)
    )


# ------------------------------------------------------------------------------- results


def films_html(
    classifier: cft.Classifier,
    films: list[tuple[str, results.Result, np.ndarray | None]],
) -> str:
    """All films of one request.

    Parameters
    ----------
    classifier
        The model that was used.
    films
        Per film its name, its findings or error, and its rendering, (h, w) uint8.
    """
    named = [(name, result) for name, result, _ in films]
    head = f"<header class='summary'><p role='status'>{_summary(named)}</p>"
    head += f"{_downloads(classifier, named)}</header>"
    if len(films) == 1 and not _failed(named[0][1]):
        return head + film_html(classifier, 0, *films[0])
    entries, is_open = [], True
    for number, (name, result, picture) in enumerate(films):
        if _failed(result):
            entries.append(_failed_entry(name, result))
            continue
        entries.append(
            f"<details class='entry' name='films'{' open' if is_open else ''}>"
            f"<summary><bdi class='name'>{escape(name)}</bdi>"
            f"<span class='gist'>{_gist(result)}</span></summary>"
            f"{film_html(classifier, number, name, result, picture)}</details>"
        )
        is_open = False
    return head + "".join(entries)


def refusal_html(sentence: str) -> str:
    """Why a request was not answered at all."""
    return f"<div class='entry failed' role='status'><p>{escape(sentence)}</p></div>"


def film_html(
    classifier: cft.Classifier,
    number: int,
    name: str,
    findings: cft.Findings,
    picture: np.ndarray,
) -> str:
    """One film: the picture with its heat maps, and the table of findings."""
    rows = findings.to_dict()["findings"]
    chosen = next((i for i, row in enumerate(rows) if row["positive"]), 0)
    facts = [
        f"{findings.view} view" if findings.view else None,
        f"{findings.shape[1]} × {findings.shape[0]} pixels",
        *(note for note in findings.notes if note != LATERAL),
    ]
    warning = f"<p class='warning'>{LATERAL.capitalize()}.</p>" if _is_lateral(findings) else ""
    return (
        f"<article class='film'><header><h2><bdi>{escape(name)}</bdi></h2>"
        f"<p class='facts'>{' · '.join(escape(fact) for fact in facts if fact)}</p>"
        f"{warning}</header>"
        f"<div class='reading'>{_figure(classifier, number, findings, rows, picture)}"
        f"{_table(number, name, rows, chosen)}</div></article>"
    )


def _summary(named: list[tuple[str, results.Result]]) -> str:
    failed = sum(_failed(result) for _, result in named)
    if len(named) == 1:
        return "The film could not be read." if failed else _count(named[0][1])
    return f"{len(named)} films" + (f", {failed} of which could not be read" if failed else "")


def _count(findings: cft.Findings) -> str:
    known = sum(point is not None for point in findings.operating_points.values())
    return f"{len(findings.positives) or 'None'} of {known} findings above the operating point"


def _gist(findings: cft.Findings) -> str:
    if _is_lateral(findings):
        return "a lateral film: the numbers mean nothing"
    positives = ", ".join(escape(_plain(label)) for label in findings.positives)
    return _count(findings) + (f": {positives}" if positives else "")


def _is_lateral(findings: cft.Findings) -> bool:
    return LATERAL in findings.notes


def _failed(result: results.Result) -> bool:
    return isinstance(result, cft.RadiographError)


def _failed_entry(name: str, error: cft.RadiographError) -> str:
    return (
        f"<div class='entry failed'><bdi class='name'>{escape(name)}</bdi>"
        f"<p>Could not be read: {escape(str(error))}.</p></div>"
    )


def _downloads(classifier: cft.Classifier, named: list[tuple[str, results.Result]]) -> str:
    document = json.dumps(results.document(classifier, named), indent=2, ensure_ascii=False)
    table = "".join(results.csv_rows(classifier.label_names, named))
    return (
        "<p class='downloads'>"
        + "".join(
            f"<a download='findings.{suffix}' href='{_data_address(text.encode(), kind)}'>"
            f"Download {suffix.upper()}</a>"
            for suffix, kind, text in (
                ("json", "application/json", document),
                ("csv", "text/csv", table),
            )
        )
        + ("</p>")
    )


def _figure(
    classifier: cft.Classifier,
    number: int,
    findings: cft.Findings,
    rows: list[dict[str, Any]],
    picture: np.ndarray,
) -> str:
    height, width = picture.shape
    film = _data_address(heatmap.encode_png(picture), "image/png")
    switch = "<p>This model has no heat maps.</p>"
    maps = caution = ""
    if classifier.has_heatmaps:
        maps = f"<div class='maps by-finding'>{''.join(_maps(findings, rows))}</div>"
        switch = (
            "<label><input type='checkbox' class='show-map' checked>Heat map</label>"
            "<span class='legend'>weak<i></i>strong</span>"
        )
        caution = f"<p class='caution'>{_CAUTION}</p>"
    texts = "".join(f"<p>{_about_finding(classifier, row)}</p>" for row in rows)
    # A popover that is also shown while closed (page.css): opened, it lies over the whole window.
    return (
        f"<figure popover id='film-{number}'>"
        f"<div class='frame' style='--ratio:{width / height:.4f}'>"
        f"<img src='{film}' width='{width}' height='{height}' alt='The film'>{maps}</div>"
        f"<div class='controls'>{switch}<button type='button' popovertarget='film-{number}'>"
        "<span class='enlarge'>Enlarge</span><span class='close'>Close</span></button></div>"
        f"<figcaption><div class='by-finding'>{texts}</div>{caution}"
        f"<p class='enlarged'>{_SENTENCES[0]}.</p></figcaption></figure>"
    )


def _maps(findings: cft.Findings, rows: list[dict[str, Any]]) -> Iterator[str]:
    shape = heatmap.shape_within(findings.shape, _MAP_SIDE)
    for row in rows:
        heat = findings.heatmap(row["label"], shape)
        layer = heatmap.layer(heat, row["operating_point"])
        address = _data_address(heatmap.encode_png(layer), "image/png")
        yield f"<img src='{address}' alt='Heat map of {escape(_plain(row['label']), quote=True)}'>"


def _about_finding(classifier: cft.Classifier, row: dict[str, Any]) -> str:
    label = row["label"]
    described = classifier.config.get("label_descriptions", {}).get(label)
    text = f"<strong>{escape(_plain(label))}.</strong> "
    text += escape(described or DESCRIPTIONS.get(label, ""))
    point = classifier.categories[label].operating_point
    if point is None:
        return f"{text} There were too few such films to choose an operating point."
    text += f" Operating point {_percent(point['threshold'])}"
    if {"sensitivity", "specificity"} <= set(point):
        text += (
            f": on the validation films, {_percent(point['sensitivity'], 0)} of those with the "
            f"finding reach it, and {_percent(1 - point['specificity'], 0)} of those without"
        )
    return f"{text}."


def _table(number: int, name: str, rows: list[dict[str, Any]], chosen: int) -> str:
    body = "".join(_row(number, row, i == chosen) for i, row in enumerate(rows))
    return (
        f"<table><caption>Findings of {escape(name)}, most probable first</caption><thead><tr>"
        "<th scope='col'>Finding</th><th scope='col'>Probability</th>"
        f"<th scope='col'>Operating point</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _row(number: int, row: dict[str, Any], chosen: bool) -> str:
    point, probability = row["operating_point"], row["probability"]
    tick = "" if point is None else f"<i style='left:{100 * point:.2f}%'></i>"
    verdict = "not set"
    if point is not None:
        verdict = f"{'▲ above' if row['positive'] else 'below'} {_percent(point)}"
    label = escape(_plain(row["label"]))
    return (
        f"<tr{' class=positive' if row['positive'] else ''}><th scope='row'><label>"
        f"<input type='radio' name='finding-{number}'{' checked' if chosen else ''}>{label}"
        f"</label></th><td><div class='probability'><span>{_percent(probability)}</span>"
        f"<div class='bar'><b style='width:{100 * probability:.2f}%'></b>{tick}</div></div></td>"
        f"<td class='verdict'>{verdict}</td></tr>"
    )


# --------------------------------------------------------------------------------- about


def about_html(classifier: cft.Classifier) -> str:
    """What the model is, how good it was found to be, and how to read what it says."""
    channels, height, width = classifier.preprocess.input_size
    facts = {
        "Network": f"{classifier.config['architecture']}, input {width} × {height} pixels, "
        + ("one channel" if channels == 1 else f"{channels} channels"),
        "Weights": f"SHA-256 {classifier.weights_sha256}",
        "Trained on": results.trained_on(classifier) or "not stated",
    }
    if classifier.commit:
        facts["Hub"] = f"{classifier.reference}, commit {classifier.commit}"
    rows = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    metrics = "".join(
        _metrics_table(name, result)
        for name, result in _evaluations(classifier.config.get("cft", {}).get("metrics"))
    )
    return (
        f"<div class='about'><dl>{rows}</dl>{_READING}"
        f"<h3>How well it ranks films</h3>"
        f"<div class='metrics'>{metrics or '<p>The model folder states no measurements.</p>'}</div>"
        "</div>"
    )


_READING = """
<h3>How to read the page</h3>
<ul>
<li><strong>Probability</strong>: of the label, on films like those of the model's own collection.
Elsewhere findings are rarer or more frequent and films differ: the figure does not carry over.</li>
<li><strong>Operating point</strong>: the probability from which on a finding counts as present,
chosen on validation films. Above is not proven, below is not excluded.</li>
<li><strong>Heat map</strong>: which parts of the film the score used, not where a lesion is. Its
colours have one fixed scale: orange where the evidence in that place equals the operating point,
red far above it, none below.</li>
<li><strong>Limits</strong>: the model knows frontal chest X-rays only. A lateral film, a photograph
of a film or a picture of something else gets numbers too, and they mean nothing.</li>
</ul>
"""


def _evaluations(metrics: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every result of an evaluation inside a model folder's metrics, however they are nested."""
    if not isinstance(metrics, dict):
        return
    if isinstance(metrics.get("categories"), dict):
        yield name, metrics
        return
    for key, value in metrics.items():
        yield from _evaluations(value, f"{name}, {key}" if name else str(key))


def _metrics_table(name: str, result: dict[str, Any]) -> str:
    rows = {_plain(label): row for label, row in result["categories"].items()}
    mean = result.get("subsets", {}).get("all")
    if mean:
        rows["Mean"] = mean
    body = "".join(
        f"<tr><th scope='row'>{escape(label)}</th><td>{_auroc(row)}</td>"
        f"<td>{escape(str(row.get('positives', '')))}</td></tr>"
        for label, row in rows.items()
        if isinstance(row, dict)
    )
    rows_of = {"film": "films", "study": "studies"}.get(result.get("row", "film"), "rows")
    films = f": {result['films']} {rows_of}" if "films" in result else ""
    level = result.get("level")
    percent = f"{100 * level:g} % " if isinstance(level, (int, float)) else ""
    return (
        f"<table><caption>Test set {escape(DATASETS.get(name, name) + films)}</caption><thead><tr>"
        f"<th scope='col'>Finding</th><th scope='col'>AUROC ({percent}interval)</th>"
        f"<th scope='col'>Positives</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _auroc(row: dict[str, Any]) -> str:
    area, low, high = (row.get(key) for key in ("auroc", "ci_low", "ci_high"))
    if not isinstance(area, (int, float)):
        return "not defined"
    if not (isinstance(low, (int, float)) and isinstance(high, (int, float))):
        return f"{area:.3f}"
    return f"{area:.3f} <small>({low:.2f} to {high:.2f})</small>"


# --------------------------------------------------------------------------------- parts


def _plain(label: str) -> str:
    return label.replace("_", " ")


def _percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f}\N{NARROW NO-BREAK SPACE}%"


def _data_address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
