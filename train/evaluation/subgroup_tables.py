"""Tables of subgroups and the gaps between them, from the dict of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.evaluation.subgroup_gaps import GAPS
from train.tables import Table, difference_cell, interval_cell, p_cell, without_empty_columns

__all__ = ["gap_parts", "rate_parts"]


def rate_parts(subgroups: Mapping[str, Any], explain: bool = True) -> list[str | Table]:
    """Rates at the operating points and calibration in the large of each subgroup."""
    parts: list[str | Table] = []
    for attribute, values in subgroups.items():
        rows = [["Value", "Films", "Category", "Positive", *(GAPS[x] for x in _RATES)]]
        for value, of in values.items():
            for label, row in of["categories"].items():
                cells = [
                    interval_cell(row, "sensitivity", "sensitivity"),
                    interval_cell(row, "specificity", "specificity"),
                    _surplus_cell(row),
                ]
                if any(cells):
                    count = f"{row['positives']:,}"
                    rows.append([value, f"{of['films']:,}", label, count, *cells])
        if len(rows) > 1:
            parts += [f"Decisions and calibration in the large by {attribute}:"]
            parts.append(Table(without_empty_columns(rows), detail=True))
    if parts and explain:
        parts.append(
            "Observed minus stated share: calibration in the large; above 0 the probabilities are "
            "too low on average."
        )
    return parts


_RATES = ("sensitivity", "specificity", "in_the_large")


def _surplus_cell(row: Mapping[str, Any]) -> str:
    """Observed minus stated share, with its interval."""
    name = "in_the_large"
    return difference_cell(
        {end: row[f"{name}_{end}"] for end in ("low", "high")} | {"difference": row[name]}
    )


def gap_parts(result: Mapping[str, Any], explain: bool = True) -> list[str | Table]:
    """What a subgroup has more or less than the other films; `explain`: say what a gap is."""
    parts: list[str | Table] = []
    for attribute, values in result.get("gaps", {}).items():
        rows = [["Value", "Films", "Category", *GAPS.values(), "Smallest p (Holm)"]]
        for value, row in values.items():
            name = f"{value} minus {row['against']}"
            mean = difference_cell(row["mean"])
            rows.append([name, f"{row['films']:,}", "Mean AUROC", mean, "", "", "", ""])
            for label, gaps in row["categories"].items():
                p = [x["p_holm"] for x in gaps.values() if x["p_holm"] is not None]
                if p:
                    cells = map(difference_cell, gaps.values())
                    rows.append([name, f"{row['films']:,}", label, *cells, p_cell(min(p))])
        parts += [f"Gaps by {attribute}:", Table(rows, detail=True)]
    if parts and explain:
        parts.append(
            "A gap is the figure of the subgroup minus that of the other films. Categories with "
            "fewer than ten patients of a class on either side are left out. p is corrected by "
            "Holm over all categories and values of the attribute, for each figure by itself."
        )
    return parts
