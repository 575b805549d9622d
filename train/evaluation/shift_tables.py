"""Tables of a model on a second data set, from the dict of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.evaluation.shift import MEASURES
from train.tables import Table, counted, figure_cell, p_cell, range_cell

__all__ = ["shift_parts"]


def shift_parts(shifts: Mapping[str, Any]) -> list[str | Table]:
    """Every model on each further data set beside itself on the first."""
    parts: list[str | Table] = []
    for name, shift in shifts.items():
        truth = shift["truth"]
        size = counted(truth["rows"], truth["row"])
        if truth["unit"] != truth["row"]:
            size += f" of {counted(truth['groups'], truth['unit'])}"
        parts += [f"## Shift: {name}", f"{size}, beside {shift['first']}."]
        for model, found in shift["models"].items():
            parts += [f"### {model} on {name}", *_of_model(found)]
        notes = [*truth["notes"], *shift["notes"]]
        if notes:
            parts.append("\n".join(f"- {note}" for note in notes))
    if parts:
        parts.append(_ABOUT)
    return parts


_ABOUT = (
    "Differences are second data set minus first. Those of the AUROC have an unpaired bootstrap "
    "over patients, those of intercept and slope robust errors by patient; p is corrected by Holm "
    "over the categories, for each measure by itself. Where only the calibration differs, the "
    "order of the films is as good as before. Recalibrated: the Brier score there, if the logits "
    "were moved by one number, which is learnt on the other half of the patients; it changes no "
    "ranking."
)


def _of_model(found: Mapping[str, Any]) -> list[str | Table]:
    rows = [
        ["Category", "Positive", "Prevalence", *(x for x, _ in MEASURES.values()), "Differs in"]
    ]
    moved = [["Category", "Moved by", "Brier score", "Recalibrated", "Difference"]]
    for label, row in found["categories"].items():
        first, second = row["positives"]
        shares = " to ".join("undefined" if x is None else f"{x:.3f}" for x in row["prevalence"])
        cells = (_cell(row[name]) for name in MEASURES)
        differs = ", ".join(row["differs"]) or "nothing shown"
        rows.append([label, f"{first:,} and {second:,}", shares, *cells, differs])
        what_if = row["recalibrated"]
        if what_if and what_if["difference"] is not None:
            limits = range_cell(what_if["low"], what_if["high"], signed=True)
            change = f"{what_if['difference']:+.4f}" + (f" ({limits})" if limits else "")
            scores = map(figure_cell, (what_if["before"], what_if["after"]))
            moved.append([label, f"{what_if['intercept']:+.4f}", *scores, change])
    rows.append(["Mean", "", "", _cell(found["mean"]), "", "", ""])
    parts: list[str | Table] = [Table(rows)]
    if len(moved) > 1:
        parts += ["Recalibrated in the large, as a what-if:", Table(moved)]
    return parts


def _cell(row: Mapping[str, Any] | None) -> str:
    """``0.8000 to 0.7000, -0.1000 (-0.1500 to -0.0500), p = 0.0100``."""
    if row is None or row["difference"] is None:
        return ""
    text = f"{row['first']:.4f} to {row['second']:.4f}, {row['difference']:+.4f}"
    limits = range_cell(row["low"], row["high"], signed=True)
    p = row.get("p_holm", row["p"])
    return text + (f" ({limits})" if limits else "") + ("" if p is None else f", p = {p_cell(p)}")
