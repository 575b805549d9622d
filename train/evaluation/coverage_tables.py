"""Tables of what the bands cover, from the dict of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.tables import Table, figure_cell, interval_cell

__all__ = ["coverage_parts"]

_SHOWN = {
    "covered_positives": "With it, not ruled out",
    "covered_negatives": "Without it, not ruled in",
    "unsure": "Unsure",
}


def coverage_parts(result: Mapping[str, Any], explain: bool = True) -> list[str | Table]:
    """How often a model's bands are right, by category and by subgroup; `explain`: what that is."""
    coverage = result.get("coverage")
    if not coverage:
        return []
    parts: list[str | Table] = [_lead(coverage["promised"]), _by_category(coverage)]
    for attribute, values in coverage["subgroups"].items():
        parts += [f"The same by {attribute}:", _by_value(values)]
    if explain:
        parts.append(
            "The promise holds for films that are exchangeable with the validation films that set "
            "the bands, on average over all of them; nothing promises it for a subgroup or another "
            "hospital. An interval that lies below it shows that it is broken. Unsure: the share "
            "of all films that are neither ruled in nor ruled out. Fewer than ten patients have no "
            "interval."
        )
    return parts


def _lead(promised: Mapping[str, float | None]) -> str:
    positives, negatives = promised["positives"], promised["negatives"]
    if positives is None or negatives is None:
        return "Ruled in, ruled out, unsure:"
    return (
        f"Ruled in, ruled out, unsure. Of films with a finding {100 * positives:g} % are promised "
        f"not to be ruled out, of films without it {100 * negatives:g} % not to be ruled in:"
    )


def _by_category(coverage: Mapping[str, Any]) -> Table:
    rows = [["Category", "Positive", "Negative", *_SHOWN.values(), "Ruled in", "Ruled out"]]
    for label, row in coverage["categories"].items():
        cells = (interval_cell(row, name, name) for name in _SHOWN)
        shares = (figure_cell(row[name]) for name in ("ruled_in", "ruled_out"))
        rows.append([label, f"{row['positives']:,}", f"{row['negatives']:,}", *cells, *shares])
    mean = coverage["mean"]
    cells = (interval_cell(mean, name, name) for name in _SHOWN)
    shares = (figure_cell(mean[name]) for name in ("ruled_in", "ruled_out"))
    rows.append([f"Mean ({len(coverage['categories'])})", "", "", *cells, *shares])
    return Table(rows)


def _by_value(values: Mapping[str, Any]) -> Table:
    """The mean of each value of an attribute, then its categories."""
    rows = [["Value", "Films", "Category", "Positive", "Negative", *_SHOWN.values()]]
    for value, of in values.items():
        films = f"{of['films']:,}"
        cells = (interval_cell(of["mean"], name, name) for name in _SHOWN)
        rows.append([value, films, "Mean", "", "", *cells])
        for label, row in of["categories"].items():
            cells = (interval_cell(row, name, name) for name in _SHOWN)
            counts = (f"{row[name]:,}" for name in ("positives", "negatives"))
            rows.append([value, films, label, *counts, *cells])
    return Table(rows, detail=True)
