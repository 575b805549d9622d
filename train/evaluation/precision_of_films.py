"""How much the films can tell: positives for a narrower interval, and differences they can show."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from train.metrics.sample_size import detectable_difference, positives_needed
from train.tables import Table, figure_cell

__all__ = ["WIDTHS", "add_detectable", "films_needed", "sample_parts"]

#: Widths of an AUROC's interval for which the positives are counted.
WIDTHS = (0.1, 0.05)


def films_needed(row: Mapping[str, Any], level: float) -> dict[str, Any] | None:
    """What one category's interval would need; None where it has none.

    Returns
    -------
    dict
        ``width`` of the interval now, and ``positives_for``, a list of [width, positives] for each
        of `WIDTHS`, at the same prevalence and the same number of films a patient.
    """
    if row["ci_low"] is None or not 0 < row["auroc"] < 1:
        return None
    width = row["ci_high"] - row["ci_low"]
    now = (row["positives"], width)
    needed = [
        [asked, positives_needed(row["auroc"], row["prevalence"], asked, level, now)]
        for asked in WIDTHS
    ]
    return {"width": width, "positives_for": needed}


def add_detectable(comparison: dict[str, Any], level: float) -> None:
    """Add ``detectable`` to each category and mean of a comparison.

    It is the true difference that such films show in four of five studies, from the paired
    interval; a difference below it is missed more often, so "no difference was found" says nothing.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    tests = [(row, row["delong"]) for row in comparison["categories"].values()]
    tests += [(mean, mean) for mean in (comparison["mean"], *comparison["subsets"].values())]
    for row, test in tests:
        row["detectable"] = None
        if test["low"] is not None:
            row["detectable"] = detectable_difference((test["high"] - test["low"]) / (2 * z))


def sample_parts(result: Mapping[str, Any], explain: bool) -> list[str | Table]:
    """A table of the positives that narrower intervals need."""
    found = {x: row.get("films_needed") for x, row in result["categories"].items()}
    rows = [["Category", "Positives", "Width now", *(f"For {width:g}" for width in WIDTHS)]]
    for label, of in found.items():
        if of:
            needed = (f"{n:,}" for _, n in of["positives_for"])
            positives = f"{result['categories'][label]['positives']:,}"
            rows.append([label, positives, figure_cell(of["width"]), *needed])
    if len(rows) == 1:
        return []
    parts: list[str | Table] = ["Positives for a narrower interval of the AUROC:", Table(rows)]
    if explain:
        parts.append(
            "By Hanley and McNeil's formula, scaled to the interval measured here; at the same "
            "prevalence and the same number of films a patient."
        )
    return parts
