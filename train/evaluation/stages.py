"""Two stages of one model beside each other, in sentences and a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.tables import figure_cell, markdown_table, p_cell, range_cell, without_empty_columns


def change_cell(result: Mapping[str, Any], label: str) -> str:
    """A category's change of AUROC from stage 1 to stage 2, with its interval."""
    row = result["change"]["categories"][label]
    if row["difference"] is None:
        return ""
    limits = range_cell(row["delong"]["low"], row["delong"]["high"], signed=True)
    return f"{row['difference']:+.4f}" + (f" ({limits})" if limits else "")


def stages_sentence(result: Mapping[str, Any]) -> str:
    """One sentence on the means of both stages."""
    before, after = result["stage_1"]["subsets"]["all"], result["subsets"]["all"]
    mean = result["change"]["mean"]
    text = f"mean AUROC {figure_cell(before['auroc'])} after stage 1, "
    if not mean["difference"]:
        return text + "and the same after stage 2."
    text += f"{figure_cell(after['auroc'])} after stage 2 ({_p_text(mean)})"
    pairs = (before["brier"], after["brier"], before["ece"], after["ece"])
    if None not in pairs:
        brier, brier_after, ece, ece_after = map(figure_cell, pairs)
        text += f"; Brier score {brier} and {brier_after}, calibration error {ece} and {ece_after}"
    return text + "."


def scaling_sentence(result: Mapping[str, Any]) -> str:
    """One sentence on the means over the categories before and after Platt scaling."""
    parts = []
    for key, name in (("brier", "Brier score"), ("ece", "calibration error")):
        rows = [(before, result["categories"][x]) for x, before in result["uncalibrated"].items()]
        pairs = [(a[key], b[key]) for a, b in rows if None not in (a[key], b[key])]
        if pairs:
            before, after = (sum(x) / len(pairs) for x in zip(*pairs, strict=True))
            parts.append(f"mean {name} {figure_cell(before)} and {figure_cell(after)}")
    return f"{', '.join(parts) or 'not measured'}."


def _p_text(mean: Mapping[str, Any]) -> str:
    limits = range_cell(mean["low"], mean["high"], signed=True)
    return f"change {mean['difference']:+.4f}, {limits}, p = {p_cell(mean['p'])}, paired bootstrap"


def stages_table(result: Mapping[str, Any]) -> str:
    """Per category the AUROC and the Brier score of both stages."""
    columns = ["Category", "AUROC, stage 1", "AUROC, stage 2", "Change (DeLong)"]
    rows = [[*columns, "Brier, stage 1", "Brier, stage 2"]]
    for label, row in result["categories"].items():
        before = result["stage_1"]["categories"][label]
        areas = (
            figure_cell(before["auroc"]),
            figure_cell(row["auroc"]),
            change_cell(result, label),
        )
        rows.append([label, *areas, figure_cell(before["brier"]), figure_cell(row["brier"])])
    return markdown_table(without_empty_columns(rows))
