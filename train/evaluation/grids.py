"""Plots with one panel for each category: ROC, precision and recall, reliability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cft.model.odds import sigmoid
from train.evaluation.figure import (
    DASHES,
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
from train.metrics.roc import bootstrap_roc_band, roc_vertices

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = [
    "emphasised_models",
    "line_style",
    "panel_grid",
    "panel_title",
    "precision_recall_steps",
    "reliability_points",
]

# With more models than this, bands and error bars would hide the curves: one model keeps its own.
_MOST_BANDS = 2
_BAND_REPLICATES = 500

# Above this average precision, a panel's lower corner is free of curves instead of its upper one.
_HIGH_AP = 0.6

# A point of the reliability diagram stands for about this many positives (or negatives) at least.
_CASES_A_BIN = 8
_MOST_BINS = 10


def panel_grid(
    n: int, title: Sequence[str], x_label: str, y_label: str
) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = n if n <= 3 else 3 if n <= 6 else 4
    rows = math.ceil(n / columns)
    side = {1: 3.6, 2: 2.6}.get(n, 2.1)
    size = (side * columns + 0.4, (side + 0.2) * rows + 1.1)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.11))
    add_heading(figure, *title)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel()[n:]:
        axis.set_visible(False)
    for axis in axes.ravel()[:n]:
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    for column in range(columns):  # the lowest visible panel of each column is labelled
        axes[(n - 1 - column) // columns, column].set_xlabel(x_label)
    for axis in axes[:, 0]:
        axis.set_ylabel(y_label)
    return figure, list(axes.ravel()[:n])


def panel_title(axis: Axes, label: str, y: np.ndarray) -> None:
    """The category and its known cases above its panel."""
    counts = f"{int(np.sum(y == 1))} positive, {int(np.sum(y == 0))} negative"
    axis.set_title(label.replace("_", " "), pad=13)
    axis.annotate(
        counts,
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=7,
        color=GREY,
    )


def emphasised_models(results: Mapping[str, Any], models: Sequence[Predictions]) -> set[str]:
    """The models drawn with interval and figures: all if they are few, else that of the best mean.

    The mean is that over all categories; a model of fewer categories is no rival.
    """
    if len(models) <= _MOST_BANDS:
        return {model.name for model in models}
    most = max(len(model.label_names) for model in models)
    areas = {
        model.name: results["models"][model.name]["subsets"]["all"]["auroc"] or 0
        for model in models
        if len(model.label_names) == most
    }
    return {max(areas, key=lambda name: areas[name])}


def line_style(i: int, name: str, emphasised: set[str]) -> dict[str, Any]:
    """Colour and line of the i-th model; one that stands out among others is solid."""
    stands_out = name in emphasised
    return {
        "color": colour_of(i),
        "linestyle": "-" if emphasised == {name} else pick(DASHES, i),
        "linewidth": 1.6 if stands_out else 0.9,
        "zorder": 3 if stands_out else 2.5,
    }


def roc_grid(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    labels = panel_labels(results, truth, models)
    if not labels:
        return None
    emphasised = emphasised_models(results, models)
    title = ["ROC curves and AUROC", films_shown(truth)]
    if len(emphasised) < len(models):
        title.append(f"Band and figures: {level_of(results)} interval of {', '.join(emphasised)}")
    figure, axes = panel_grid(len(labels), title, "False-positive rate", "Sensitivity")
    for axis, label in zip(axes, labels, strict=True):
        y = truth.labels[:, truth.label_names.index(label)]
        panel_title(axis, label, y)
        axis.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.7, zorder=1)
        for i, model in enumerate(models):
            if label in model.label_names:
                _roc_curve(axis, results, truth, model, label, i, emphasised)
        _reader_points(axis, results, label)
        _figures_in_panel(axis, results, models, label, ("auroc", "ci"), emphasised, top=False)
    add_legend(figure, axes)
    return figure


def _roc_curve(
    axis: Axes,
    results: Mapping[str, Any],
    truth: Truth,
    model: Predictions,
    label: str,
    i: int,
    emphasised: set[str],
) -> None:
    y = truth.labels[:, truth.label_names.index(label)]
    if results["models"][model.name]["categories"][label]["auroc"] is None:
        return
    look = line_style(i, model.name, emphasised)
    x, sensitivity = roc_vertices(model.column(label), y)
    axis.plot(x, sensitivity, **look, label=model.name)
    if model.name in emphasised:
        grid = np.linspace(0, 1, 101)
        level = results["models"][model.name]["level"]
        low, high = bootstrap_roc_band(
            model.column(label), y, truth.groups, grid, _BAND_REPLICATES, level=level
        )
        axis.fill_between(grid, low, high, color=look["color"], alpha=0.18, linewidth=0, zorder=2)


def _figures_in_panel(
    axis: Axes,
    results: Mapping[str, Any],
    models: Sequence[Predictions],
    label: str,
    metric: tuple[str, str],
    emphasised: set[str],
    top: bool,
) -> None:
    """A metric (name, prefix of its limits) of the emphasised models, in the legend's order."""
    lines = []
    for i, model in enumerate(models):
        row = results["models"][model.name]["categories"].get(label)
        if row is None or row[metric[0]] is None or model.name not in emphasised:
            continue
        text = f"{row[metric[0]]:.3f}"
        low, high = (row[f"{metric[1]}_{end}"] for end in ("low", "high"))
        lines.append((colour_of(i), text if low is None else f"{text} ({low:.3f}–{high:.3f})"))
    for place, (colour, text) in enumerate(lines):
        y = 0.98 - 0.1 * place if top else 0.03 + 0.1 * (len(lines) - 1 - place)
        axis.text(
            *(0.98, y, text),
            transform=axis.transAxes,
            color=colour,
            ha="right",
            va="top" if top else "bottom",
            fontsize=7.5,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},
            zorder=2.2,  # above bands and grid, below curves
        )


def _reader_points(axis: Axes, results: Mapping[str, Any], label: str) -> None:
    for i, (reader, rates) in enumerate(results["radiologists"].items()):
        point = rates.get(label)
        if point and None not in point.values():
            axis.plot(
                point["false_positive_rate"],
                point["sensitivity"],
                linestyle="none",
                marker=MARKERS[i % len(MARKERS)],
                markersize=4.5,
                markerfacecolor="black" if reader == "majority" else "white",
                markeredgecolor="black",
                markeredgewidth=0.9,
                label=f"readers' {reader}" if reader == "majority" else f"reader {reader}",
                zorder=5,
            )


def precision_recall_grid(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    labels = panel_labels(results, truth, models)
    if not labels:
        return None
    emphasised = emphasised_models(results, models)
    title = ["Precision, recall and average precision", films_shown(truth)]
    if len(emphasised) < len(models):
        title.append(f"Figures with {level_of(results)} interval: {', '.join(emphasised)}")
    figure, axes = panel_grid(len(labels), title, "Recall (sensitivity)", "Precision (PPV)")
    for axis, label in zip(axes, labels, strict=True):
        y = truth.labels[:, truth.label_names.index(label)]
        panel_title(axis, label, y)
        share = largest = np.nanmean(y)
        axis.plot(
            [0, 1], [share, share], color="#999999", linewidth=0.8, label="share of positives"
        )
        for i, model in enumerate(models):
            if label in model.label_names:
                recall, precision = precision_recall_steps(model.column(label), y)
                look = line_style(i, model.name, emphasised)
                axis.plot(recall, precision, drawstyle="steps-pre", **look, label=model.name)
                largest = max(largest, precision.max())
        # Room for the figures above the curves of a rare finding.
        _scale(axis, 1.3 * largest, square=False)
        high = any(
            (results["models"][x]["categories"].get(label, {}).get("ap") or 0) > _HIGH_AP
            for x in emphasised
        )
        _figures_in_panel(axis, results, models, label, ("ap", "ap"), emphasised, top=not high)
    add_legend(figure, axes)
    return figure


def precision_recall_steps(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The steps whose area is the average precision: (recall, precision), starting at recall 0.

    One step for each score at which a positive is found; precision holds from the recall before.
    """
    known = ~np.isnan(labels)
    false_positive_rate, recall = roc_vertices(scores, labels)
    true = recall * np.sum(labels[known] == 1)
    called = true + false_positive_rate * np.sum(labels[known] == 0)
    rises = np.append(True, np.diff(recall) > 0)
    precision = np.append(np.nan, true[1:] / called[1:])[rises]
    precision[0] = precision[1]
    return recall[rises], precision


def reliability_grid(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    """Stated against observed probability; before calibration too, for one model that was run."""
    rows = results["models"]
    labels = [
        label
        for label in panel_labels(results, truth, models)
        if any(
            label in m.label_names and rows[m.name]["categories"][label]["brier"] is not None
            for m in models
        )
    ]
    if not labels:
        return None
    figure, axes = panel_grid(
        len(labels),
        ["Reliability (bins of equal size; smoothed curve)", films_shown(truth)],
        "Stated probability",
        "Observed share",
    )
    few = len(models) <= _MOST_BANDS
    for axis, label in zip(axes, labels, strict=True):
        y = truth.labels[:, truth.label_names.index(label)]
        panel_title(axis, label, y)
        axis.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, label="perfect calibration")
        largest = 0.0
        for i, model in enumerate(models):
            if label not in model.label_names:
                continue
            if rows[model.name]["categories"][label]["brier"] is None:
                continue
            column = model.label_names.index(label)
            if model.logits is not None and len(models) == 1:
                before = reliability_points(sigmoid(model.logits[:, column].astype(np.float64)), y)
                _reliability_line(axis, *before, i, f"{model.name}, before calibration", "before")
                largest = max(largest, before[0].max(), before[1].max())
            stated, observed, half = reliability_points(model.scores[:, column], y)
            kind = "with bars" if few else "plain"
            _reliability_line(axis, stated, observed, half, i, model.name, kind)
            if few:
                _smoothed(axis, rows[model.name]["categories"][label], i)
            highest = observed + half[1] if few else observed
            largest = max(largest, stated.max(), highest.max())
        _scale(axis, largest, square=True)
    add_legend(figure, axes)
    return figure


def _smoothed(axis: Axes, row: Mapping[str, Any], i: int) -> None:
    """The smoothed calibration curve with its interval."""
    if row["calibration_curve"] is not None:
        stated, observed, low, high = np.array(row["calibration_curve"], float).T
        axis.plot(stated, observed, color=colour_of(i), linewidth=1.1, alpha=0.6, zorder=2.4)
        axis.fill_between(stated, low, high, color=colour_of(i), alpha=0.15, linewidth=0, zorder=2)


def _reliability_line(
    axis: Axes,
    stated: np.ndarray,
    observed: np.ndarray,
    half: np.ndarray,
    i: int,
    name: str,
    kind: str,
) -> None:
    """One model's points: "with bars", "plain" (without), or hollow and pale ("before")."""
    colour = colour_of(i)
    before = kind == "before"
    axis.errorbar(
        stated,
        observed,
        yerr=half if kind == "with bars" else None,
        color=colour,
        linestyle=(0, (1.2, 1.6)) if before else pick(DASHES, i),
        linewidth=0.9,
        elinewidth=0.7,
        alpha=0.7 if before else 1,
        marker=pick(MARKERS, i),
        markersize=3.5,
        markerfacecolor="white" if before else colour,
        zorder=2.5 if before else 3,
        label=name,
    )


def _scale(axis: Axes, largest: float, square: bool) -> None:
    """An axis from 0 to at least the largest value, or both: a rare finding fills its panel too."""
    limit = next(x for x in (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0) if largest <= x or x == 1.0)
    ticks = [0, limit / 2, limit]
    axis.set_aspect("auto")
    axis.set_box_aspect(1)
    for name in "xy" if square else "y":
        axis.set(**{f"{name}lim": (-0.02 * limit, 1.02 * limit)})
        axis.set(**{f"{name}ticks": ticks, f"{name}ticklabels": [f"{x:g}" for x in ticks]})


def reliability_points(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(stated, observed, half-widths (2, bins)) in bins of equal size with Wilson's 95 % interval.

    Equal widths would put nearly all films of a rare finding into the first bin. A rare finding has
    fewer bins: each stands for about eight cases of the rarer class, were they spread evenly.
    """
    known = ~np.isnan(labels)
    p, y = probabilities[known], labels[known]
    rarer = int(min(y.sum(), (1 - y).sum()))
    number = min(max(2, min(rarer // _CASES_A_BIN, _MOST_BINS)), len(p))
    bins = np.array_split(np.argsort(p, kind="stable"), number)
    stated = np.array([p[part].mean() for part in bins])
    observed = np.array([y[part].mean() for part in bins])
    n, z = np.array([len(part) for part in bins]), 1.96
    centre = (observed + z**2 / (2 * n)) / (1 + z**2 / n)
    spread = z * np.sqrt(observed * (1 - observed) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    half = np.stack([observed - (centre - spread), centre + spread - observed])
    return stated, observed, np.clip(half, 0, None)
