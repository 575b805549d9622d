"""Tables of localisation and of subgroups' gaps, from the dict of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.evaluation.subgroup_gaps import GAPS
from train.tables import (
    Table,
    figure_cell,
    interval_cell,
    p_cell,
    range_cell,
    without_empty_columns,
)

__all__ = ["gap_parts", "localisation_parts", "rate_parts"]


def localisation_parts(
    result: Mapping[str, Any], boxes: Mapping[str, Any] | None
) -> list[str | Table]:
    """Where a model's maps point to, beside the floor that sees no film."""
    micro = result.get("localisation")
    if not micro or boxes is None:
        return []
    floor, kind = boxes["floor"], boxes["kind"]
    rows = {label: row["localisation"] for label, row in result["categories"].items()}
    framed = {**{label: row for label, row in rows.items() if row}, "All together": micro}
    table = [["Finding", "Films", *(f"{x}{y}" for x in ("Hit", "IoU") for y in _COLUMNS)]]
    for label, row in framed.items():
        cells = [f"{row['n']:,}"]
        for name in ("hit", "iou"):
            cells += _beside_floor(row, name)
        table.append([label, *cells])
    known = ", ".join(f"{x:.3f} (IoU {t:g})" for t, x in floor["at_iou"] if t in (0.1, 0.3, 0.5))
    return [
        f"Maps against the {kind} of {boxes['name']}:",
        Table(table),
        "Share of the films with at least so much overlap:",
        _shares_table({"All together": micro}),
        "The same by finding:",
        _shares_table({label: row for label, row in rows.items() if row}),
        f"Hit: the map's largest value lies in one of the {kind} (pointing game). IoU: mean "
        f"overlap of the map, cut at one level for each finding, with the {kind}. The floor sees "
        "no film: a point and a box for each finding. Level, point and box are those that are best "
        "on the *other* patients; for the shares level and box are chosen anew for each overlap. "
        f"On all {floor['n']:,} framed findings of the file the floor hits {floor['hit']:.3f}, and "
        f"with one box for all overlaps it reaches {known}. A map that is not above the floor "
        "shows no localisation.",
        *_kinds_of_maps(result),
    ]


def _shares_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """T(IoU) and T(IoBB): a line for each finding and overlap, beside the floor."""
    columns = (f"{x}{y}" for x in ("IoU", "IoBB") for y in _COLUMNS)
    table = [["Finding", "Overlap of at least", *columns]]
    for label, row in rows.items():
        for place, (overlap, *_) in enumerate(row["at_iou"]):
            cells = [label, f"{overlap:g}"]
            for name in ("at_iou", "at_iobb"):
                _, share, floor = row[name][place]
                for value, of in ((share, "interval"), (floor, "floor_interval")):
                    limits = range_cell(*row[f"{name}_{of}"][place][1:])
                    cells.append(figure_cell(value) + (f" ({limits})" if limits else ""))
                _, difference, low, high = row[f"{name}_difference"][place]
                cells.append(_gap_cell({"difference": difference, "low": low, "high": high}))
            table.append(cells)
    return Table(table, detail=True)


def _kinds_of_maps(result: Mapping[str, Any]) -> list[str | Table]:
    """Several kinds of maps of the model on the same films, beside each other and the floor."""
    compared = result.get("maps")
    if not compared:
        return []
    rows = [["Maps", "Films", *(f"{x}{y}" for x in ("Hit", "IoU") for y in _COLUMNS)]]
    for kind, of in compared["kinds"].items():
        if (row := of["micro"]) is not None:
            beside = (cell for name in ("hit", "iou") for cell in _beside_floor(row, name))
            rows.append([kind, f"{row['n']:,}", *beside])
    pairs = [["Pair", "Hit, difference", "p (Holm)", "IoU, difference", "p (Holm)"]]
    for row in compared["differences"]:
        cells: list[str] = []
        for name in ("hit", "iou"):
            cells += [_gap_cell(row[name]), p_cell(row[name]["p_holm"])]
        pairs.append([f"{row['first']} minus {row['second']}", *cells])
    parts: list[str | Table] = ["Kinds of maps on the same films, all findings together:"]
    parts.append(Table(rows))
    if len(pairs) > 1:
        parts += ["Against each other, paired:", Table(pairs)]
    parts.append(
        "cam: class activation map, as the page draws it. grad-cam: features weighed by the "
        "score's slope. gradient: how strongly the score reacts to each pixel."
    )
    return parts


def _beside_floor(row: Mapping[str, Any], name: str) -> list[str]:
    """A figure of the maps, that of the floor, and their difference."""
    ends = {end: row[f"{name}_difference_{end}"] for end in ("low", "high")}
    return [
        *(interval_cell(row, x, x) for x in (name, f"floor_{name}")),
        _gap_cell({"difference": row[f"{name}_difference"], **ends}),
    ]


_COLUMNS = ("", ", floor", ", difference")


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
    return _gap_cell(
        {end: row[f"{name}_{end}"] for end in ("low", "high")} | {"difference": row[name]}
    )


def gap_parts(result: Mapping[str, Any], explain: bool = True) -> list[str | Table]:
    """What a subgroup has more or less than the other films; `explain`: say what a gap is."""
    parts: list[str | Table] = []
    for attribute, values in result.get("gaps", {}).items():
        rows = [["Value", "Films", "Category", *GAPS.values(), "Smallest p (Holm)"]]
        for value, row in values.items():
            name = f"{value} minus {row['against']}"
            mean = _gap_cell(row["mean"])
            rows.append([name, f"{row['films']:,}", "Mean AUROC", mean, "", "", "", ""])
            for label, gaps in row["categories"].items():
                p = [x["p_holm"] for x in gaps.values() if x["p_holm"] is not None]
                if p:
                    cells = map(_gap_cell, gaps.values())
                    rows.append([name, f"{row['films']:,}", label, *cells, p_cell(min(p))])
        parts += [f"Gaps by {attribute}:", Table(rows, detail=True)]
    if parts and explain:
        parts.append(
            "A gap is the figure of the subgroup minus that of the other films. Categories with "
            "fewer than ten patients of a class on either side are left out. p is corrected by "
            "Holm over all categories and values of the attribute, for each figure by itself."
        )
    return parts


def _gap_cell(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    limits = range_cell(row["low"], row["high"], signed=True)
    return f"{row['difference']:+.4f}" + (f" ({limits})" if limits else "")
