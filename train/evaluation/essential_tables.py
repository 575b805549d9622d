"""Tables of calibration and of net benefit, from the dict of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.tables import Table, figure_cell, interval_cell

__all__ = ["essential_parts", "reader_benefit_parts"]

# Thresholds that a table of net benefit shows, in hundredths; the plot shows all.
_SHOWN = (5, 10, 20, 30, 50)


def essential_parts(categories: Mapping[str, Any], explain: bool = True) -> list[str | Table]:
    """Tables for the categories whose scores are probabilities; `explain`: say what they show."""
    rows = {label: row for label, row in categories.items() if row.get("net_benefit")}
    if not rows:
        return []
    parts: list[str | Table] = [
        "Calibration:",
        Table([_CALIBRATION, *(_calibration(label, row) for label, row in rows.items())]),
        "Net benefit:",
        Table([_benefit_header(), *(_benefit(label, row) for label, row in rows.items())]),
    ]
    if explain:
        parts += [_ABOUT_CALIBRATION, _ABOUT_BENEFIT]
    return parts


_ABOUT_CALIBRATION = (
    "Intercept: of the labels on the logits with slope 1; above 0 the probabilities are too "
    "low on average. Slope: 1 is right; below 1 they are too far from the mean. ICI, E50, E90: "
    "mean, median and ninth decile of the films' distance to the smoothed calibration curve; "
    "its interval lies high, because a replicate is noisier than the films are. By chance: the "
    "mean ICI of probabilities that are true, on as many films. Brier skill: the share of the "
    "prevalence's Brier score that the model takes away."
)
_ABOUT_BENEFIT = (
    "Net benefit at the threshold t: found cases less false alarms x t / (1 - t), per film; "
    "treating none has 0. In brackets: that of treating all. Useful: thresholds from 0.01 to "
    "0.99 at which the interval of the gain over the better of treating all and none lies "
    "above 0."
)
_CALIBRATION = ["Category", "Intercept", "Slope", "ICI", "By chance", "E50", "E90", "Brier skill"]


def _calibration(label: str, row: Mapping[str, Any]) -> list[str]:
    return [
        label,
        *(interval_cell(row, x, x) for x in ("calibration_intercept", "calibration_slope", "ici")),
        *(figure_cell(row[x]) for x in ("ici_if_true", "e50", "e90")),
        interval_cell(row, "brier_skill", "brier_skill"),
    ]


def _benefit_header() -> list[str]:
    return ["Category", *(f"t = {shown / 100:g}" for shown in _SHOWN), "Useful"]


def reader_benefit_parts(readers: Mapping[str, Mapping[str, Any]]) -> list[str | Table]:
    """A table of the net benefit of readers' decisions; `readers`: ``reader_net_benefit``."""
    rows = [
        [label, reader, *(f"{points[place - 1][1]:+.4f}" for place in _SHOWN)]
        for reader, by_label in readers.items()
        for label, points in by_label.items()
    ]
    if not rows:
        return []
    header = ["Category", "Reader", *_benefit_header()[1:-1]]
    return ["Net benefit, as of the models above:", Table([header, *sorted(rows)])]


def _benefit(label: str, row: Mapping[str, Any]) -> list[str]:
    shown = [row["net_benefit"][place - 1] for place in _SHOWN]
    cells = [f"{model:+.4f} ({everyone:+.4f})" for _, model, everyone in shown]
    ranges = (f"{a:.2f} to {b:.2f}" if b > a else f"{a:.2f}" for a, b in row["useful"])
    return [label, *cells, ", ".join(ranges) or "nowhere"]
