"""Plots of dots with intervals, one row for each category or subgroup."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from train.evaluation.figure import (
    GREY,
    MARKERS,
    add_heading,
    add_legend,
    colour_of,
    films_shown,
    level_of,
    panel_labels,
    pick,
)
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.scores import FEW
from train.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# --- Dots with intervals ------------------------------------------------------------------------


def auroc_by_category(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    """AUROC of each category and the mean; two models as a dumbbell with their difference."""
    from matplotlib.figure import Figure

    labels = panel_labels(results, truth, models)
    if not labels:
        return None
    rows, pair = [*labels, "mean"], len(models) == 2
    spread = 0.3 if pair else 0.62 / max(len(models), 1)
    height = max(2.4, (0.2 + 0.11 * len(models)) * len(rows) + 1.3)
    figure = Figure(figsize=(6.8, height), layout="constrained")
    axis = figure.subplots()
    ends: dict[int, list[float]] = {}
    for i, model in enumerate(models):
        result = results["models"][model.name]
        points = []
        for r, label in enumerate(rows):
            found = result["subsets"]["all"] if label == "mean" else result["categories"].get(label)
            if found is None or found["auroc"] is None:
                continue
            y = r + (i - (len(models) - 1) / 2) * spread
            points.append((found["auroc"], y, found["ci_low"], found["ci_high"]))
            ends.setdefault(r, []).append(found["auroc"])
        _dots(axis, points, i, model.name, [round(y) for _, y, *_ in points] if pair else None)
    _category_axis(axis, rows, truth)
    _area_axis(axis)
    if pair:
        for r, values in ends.items():
            axis.plot(values, [r] * len(values), color="#AAAAAA", linewidth=3, zorder=2)
        _differences(axis, results, rows)
    axis.set_xlabel(f"AUROC with {level_of(results)} interval")
    add_heading(figure, "AUROC by category", films_shown(truth))
    if len(models) > 1:
        add_legend(figure, [axis])
    return figure


def _differences(axis: Axes, results: Mapping[str, Any], rows: Sequence[str]) -> None:
    """Right of the dumbbells, how much the second model has more than the first."""
    comparison = results["comparisons"][0] if results["comparisons"] else None
    if comparison is None:
        return
    x = axis.get_yaxis_transform()  # x in shares of the axis, y in rows
    heading = f"{comparison['second']}\nminus {comparison['first']}"
    axis.text(1.02, -0.62, heading, transform=x, fontsize=7, color=GREY, va="bottom")
    for r, label in enumerate(rows):
        row = comparison["mean"] if label == "mean" else comparison["categories"].get(label)
        if row is None or row["difference"] is None:
            continue
        limits = row if label == "mean" else row["delong"]
        text = f"{-row['difference']:+.3f}"
        if limits["low"] is not None:
            text += f" ({-limits['high']:+.3f} to {-limits['low']:+.3f})"
        axis.text(1.02, r, text, transform=x, fontsize=7, va="center")


def _dots(
    axis: Axes, points: list[tuple], i: int, name: str | None, lines: list[float] | None = None
) -> None:
    """Points with horizontal intervals; each (value, y, low or None, high or None).

    The points lie on `lines`, where given, and only their intervals beside these.
    """
    colour, marker = colour_of(i), pick(MARKERS, i)
    for _, y, low, high in points:
        if low is not None:
            axis.plot([low, high], [y, y], color=colour, linewidth=1.1, alpha=0.65, zorder=2)
    axis.plot(
        [p[0] for p in points],
        lines or [p[1] for p in points],
        linestyle="none",
        marker=marker,
        markersize=4.5,
        color=colour,
        label=name,
        zorder=3,
        clip_on=False,  # a mark at the end of the axis stays whole
    )


def _category_axis(axis: Axes, rows: Sequence[str], truth: Truth) -> None:
    """Name the rows, the last of which is the mean."""
    names = []
    for label in rows:
        if label == "mean":
            names.append("Mean of all")
            continue
        y = truth.labels[:, truth.label_names.index(label)]
        names.append(f"{label.replace('_', ' ')}  (n = {int(np.sum(y == 1))} of {_known(y)})")
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    for row in range(len(rows) - 1):
        axis.axhline(row + 0.5, color="#EEEEEE", linewidth=0.7, zorder=0)
    axis.axhline(len(rows) - 1.5, color="#888888", linewidth=0.8)


def _area_axis(axis: Axes) -> None:
    """An axis of AUROCs: within [0, 1], with a line at chance where that is in sight."""
    low, high = axis.get_xlim()
    axis.set_xlim(max(low, 0), min(high, 1.0))
    if axis.get_xlim()[0] < 0.5:
        axis.axvline(0.5, color="#999999", linewidth=0.8, linestyle=":")


def _known(y: np.ndarray) -> int:
    return int(np.sum(~np.isnan(y)))


def calibration_dumbbells(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    """Calibration error of each category before and after calibration, for models that were run."""
    from matplotlib.figure import Figure

    run = [(i, m.name) for i, m in enumerate(models) if "uncalibrated" in results["models"][m.name]]
    labels = panel_labels(results, truth, models)
    if not run or not labels:
        return None
    columns = min(len(run), 3)
    lines = math.ceil(len(run) / columns)
    rows = [*labels, "mean"]
    height = (0.24 * len(rows) + 0.6) * lines + 1.0
    figure = Figure(figsize=(2.0 + 2.4 * max(columns, 2), height), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis in axes[len(run) :]:
        axis.set_visible(False)
    for axis, (i, name) in zip(axes, run, strict=False):
        before, after = (_with_mean(x) for x in _calibration_errors(results["models"][name]))
        places = [r for r, label in enumerate(rows) if label in before]
        pairs = np.array([(before[rows[r]], after[rows[r]]) for r in places]).reshape(-1, 2)
        axis.hlines(places, *pairs.T, color="#AAAAAA", linewidth=2.5, zorder=2)
        look = {"linestyle": "none", "markersize": 4.5, "zorder": 3}
        axis.plot(pairs[:, 0], places, marker="o", mfc="white", mec="black", label="before", **look)
        axis.plot(
            pairs[:, 1],
            places,
            marker=pick(MARKERS, i),
            color=colour_of(i),
            label=f"after, {name}",
            **look,
        )
        axis.set_title(name)
        axis.locator_params(axis="x", nbins=10 // columns)
        axis.set_xlabel("Expected calibration error")
        _category_axis(axis, rows, truth)
    axes[0].set_xlim(left=0)  # of all, and not before all are drawn
    add_heading(figure, "Calibration error before and after calibration", films_shown(truth))
    add_legend(figure, list(axes[: len(run)]))
    return figure


def _calibration_errors(result: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Category -> calibration error before calibration, and after it, where both are defined."""
    pairs = {
        label: (row["ece"], result["categories"][label]["ece"])
        for label, row in result["uncalibrated"].items()
    }
    pairs = {label: pair for label, pair in pairs.items() if None not in pair}
    return {k: x for k, (x, _) in pairs.items()}, {k: x for k, (_, x) in pairs.items()}


def _with_mean(values: dict[str, float]) -> dict[str, float]:
    return {**values, "mean": sum(values.values()) / len(values)} if values else {}


def subgroup_dots(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    """Mean AUROC in each subgroup, with its number of studies."""
    from matplotlib.figure import Figure

    first = results["models"][models[0].name].get("subgroups")
    if not first:
        return None
    rows = [(attribute, value) for attribute, values in first.items() for value in values]
    figure = Figure(figsize=(6.8, 0.34 * len(rows) + 1.6), layout="constrained")
    axis = figure.subplots()
    step = 0.6 / len(models)
    for i, model in enumerate(models):
        subgroups = results["models"][model.name]["subgroups"]
        points = []
        for r, (attribute, value) in enumerate(rows):
            group = subgroups[attribute][value]
            mean = group["subsets"]["all"]
            if mean["auroc"] is not None:
                y = r + (i - (len(models) - 1) / 2) * step
                limits = (None, None)
                if group["groups"] >= FEW:
                    limits = (mean["ci_low"], mean["ci_high"])
                points.append((mean["auroc"], y, *limits))
        _dots(axis, points, i, model.name)
    names = [_subgroup_name(attribute, value, first[attribute][value]) for attribute, value in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(
        f"Mean AUROC over the categories defined in the subgroup, with {level_of(results)} interval"
    )
    add_heading(figure, "Subgroups", films_shown(truth))
    if len(models) > 1:
        add_legend(figure, [axis])
    return figure


def _subgroup_name(attribute: str, value: str, result: Mapping[str, Any]) -> str:
    count = len(result["subsets"]["all"]["defined"])
    name = attribute if value.startswith(attribute) else f"{attribute} {value}"
    return f"{name}  (n = {result['films']:,}, {counted(count, 'category')})"
