"""The report as one HTML file that needs nothing else: sortable tables, figures as SVG."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cft import NOT_A_MEDICAL_DEVICE
from train.evaluation.captions import Plot
from train.evaluation.report import Part, report_parts
from train.tables import Table

__all__ = ["report_page"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

# A table of details with more rows is folded away until it is asked for or printed.
_FEW_ROWS = 12

# Marks within a line of the report, and their elements.
_MARKS = {"**": "strong", "*": "em", "`": "code"}
_MARKED = re.compile(r"(\*\*|\*|`)(?=\S)(.+?)(?<=\S)\1")


def report_page(
    results: Mapping[str, Any], images: Sequence[str] = (), folder: Path = Path()
) -> str:
    """The report as HTML, with nothing in it that is fetched from anywhere.

    Parameters
    ----------
    results
        What `train.evaluate` writes to ``report.json``.
    images
        Plots to show, relative to `folder`: PNG files, beside which `train.evaluation.figure` has
        written the SVG files that are put into the page.
    """
    title, *parts = report_parts(results, images)
    return (
        _templates()
        .get_template("report.html")
        .render(
            title=f"{str(title).lstrip('# ')}: {results['truth']['name']}",
            disclaimer=NOT_A_MEDICAL_DEVICE,
            parts=list(_laid_out(parts, folder)),
            style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup((_TEMPLATES / "report.js").read_text(encoding="utf-8")),
        )
    )


@cache
def _templates() -> Environment:
    """The template; what it prints is escaped, and a name without a value is an error."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def _laid_out(parts: Sequence[Part], folder: Path) -> Iterator[dict[str, Any]]:
    """Parts of the report -> what the template shows of each."""
    for i, part in enumerate(parts):
        if isinstance(part, Table):
            header, *rows = part.rows
            yield {
                "kind": "table",
                "header": header,
                "rows": [[_marked(cell) for cell in row] for row in rows],
                "numeric": [c > 0 and part.is_number(c) for c in range(len(header))],
                "folded": part.detail and len(rows) > _FEW_ROWS,
            }
        elif isinstance(part, Plot):
            svg = (folder / part.image).with_name(f"{part.name}.svg")
            yield {
                "kind": "figure",
                "name": part.name,
                "caption": part.caption,
                "svg": Markup(_inline_svg(svg, f"f{i}-")),
            }
        elif part.startswith("#"):
            marks, _, text = part.partition(" ")
            yield {"kind": "heading", "level": len(marks), "text": text, "anchor": f"part{i}"}
        elif part.startswith("- "):
            items = part.removeprefix("- ").split("\n- ")
            yield {"kind": "list", "entries": [_marked(item) for item in items]}
        else:
            yield {"kind": "paragraph", "text": _marked(part)}


def _marked(text: str) -> Markup:
    """A line with its bold, italic and code words as HTML; all else is text."""
    result, done = Markup(), 0
    for match in _MARKED.finditer(text):
        name = _MARKS[match[1]]
        result += escape(text[done : match.start()])
        result += Markup("<{0}>{1}</{0}>").format(Markup(name), match[2])
        done = match.end()
    return result + escape(text[done:])


def _inline_svg(path: Path, prefix: str) -> str:
    """An SVG file as an element of a page, its ids made unlike those of other figures."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.parse(path).getroot()
    for parent in root.iter():
        for child in [x for x in parent if x.tag == f"{{{_SVG}}}metadata"]:
            parent.remove(child)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, prefix + value)
            elif name in (f"{{{_XLINK}}}href", "href") and value.startswith("#"):
                element.set(name, f"#{prefix}{value[1:]}")
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{prefix}"))
    return ElementTree.tostring(root, encoding="unicode")
