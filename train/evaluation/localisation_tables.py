"""Tables of where maps point to, from the dict of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.tables import Table, difference_cell, figure_cell, interval_cell, p_cell, range_cell

__all__ = ["localisation_parts"]


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
                cells.append(difference_cell({"difference": difference, "low": low, "high": high}))
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
            cells += [difference_cell(row[name]), p_cell(row[name]["p_holm"])]
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
        difference_cell({"difference": row[f"{name}_difference"], **ends}),
    ]


_COLUMNS = ("", ", floor", ", difference")
