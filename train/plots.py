"""Plots of an evaluation, each as PNG and SVG; matplotlib is imported when one is drawn.

Colours are Okabe and Ito's, which people with any common colour vision tell apart, and lines also
differ in dash and markers in shape, so that a grey print can be read.
"""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cft.model_folder import atomic_write
from train.chexpert import step_curve
from train.figures import FEW, sigmoid
from train.predictions import Predictions, Truth
from train.statistics import bootstrap_roc_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "SUFFIXES",
    "draw_all",
    "precision_recall_steps",
    "reliability_points",
    "training_curves",
]

#: Every plot is written once with each.
SUFFIXES = ("png", "svg")

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), "-.", (0, (7, 2, 1, 2, 1, 2)), (0, (3, 1)), ":")
_MARKERS = ("o", "s", "^", "v", "P", "X", "D")
_GREY = "#777777"

_STYLE = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cft",  # the same figure gives the same file
}

# With more models than this, bands and error bars would hide the curves: one model keeps its own.
_MOST_BANDS = 2
_BAND_REPLICATES = 500

# Letters in an inch of a title and of a legend, whose fonts are 10 and 7.5 points: a few less than
# fit on average, as some letters are wide.
_TITLE_LETTERS, _LEGEND_LETTERS = 13, 17

# Above this average precision, a panel's lower corner is free of curves instead of its upper one.
_HIGH_AP = 0.6

# A point of the reliability diagram stands for about this many positives (or negatives) at least.
_CASES_A_BIN = 8
_MOST_BINS = 10


def draw_all(
    folder: Path, results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> list[str]:
    """Draw every plot that the results have material for.

    Parameters
    ----------
    folder
        Made if absent; gets ``NAME.png`` and ``NAME.svg``.
    results
        What `train.evaluate.evaluate_models` gives for `truth` and `models`.

    Returns
    -------
    list of str
        Names of the PNG files, in the order to show them.
    """
    from matplotlib import rc_context

    drawn = []
    with rc_context(_STYLE):
        for name, draw in (
            ("auroc", _auroc_by_category),
            ("roc", _roc_grid),
            ("precision-recall", _precision_recall_grid),
            ("reliability", _reliability_grid),
            ("calibration", _calibration_dumbbells),
            ("subgroups", _subgroup_dots),
        ):
            figure = draw(results, truth, models)
            if figure is not None:
                drawn.append(_save(figure, folder / name))
    return drawn


def _save(figure: Figure, stem: Path) -> str:
    """Write STEM.png and STEM.svg; returns the PNG's name."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix in SUFFIXES:
        data = io.BytesIO()  # the name may hold dots, so a suffix is added and none replaced
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        figure.savefig(data, format=suffix, dpi=200, metadata=metadata, facecolor="white")
        atomic_write(stem.with_name(f"{stem.name}.{suffix}"), data.getvalue())
    return f"{stem.name}.png"


def _heading(figure: Figure, *sentences: str) -> None:
    """The title of a figure: one line, or where its width needs it one or more a sentence."""
    width = int(_TITLE_LETTERS * figure.get_figwidth())
    lines = [". ".join(sentences)]
    if len(lines[0]) > width:
        lines = [line for sentence in sentences for line in textwrap.wrap(sentence, width)]
    figure.set_figheight(figure.get_figheight() + 0.2 * (len(lines) - 1))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend below the panels, each name once, in as many columns as there is room for."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    inches = max(map(len, handles)) / _LEGEND_LETTERS + 0.5  # with the handle and a gap
    columns = max(1, min(len(handles), 4, int(figure.get_figwidth() / inches)))
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + 0.16 * (rows - 1))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=7.5
    )


# --- Grids: one panel a category ----------------------------------------------------------------


def _panels(results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]) -> list[str]:
    """The categories for which some model has an AUROC."""
    return [
        label
        for label in truth.label_names
        if any(
            label in m.label_names
            and results["models"][m.name]["categories"][label]["auroc"] is not None
            for m in models
        )
    ]


def _grid(n: int, title: Sequence[str], x_label: str, y_label: str) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = n if n <= 3 else 3 if n <= 6 else 4
    rows = math.ceil(n / columns)
    side = {1: 3.6, 2: 2.6}.get(n, 2.1)
    figure = Figure(figsize=(side * columns + 0.4, (side + 0.2) * rows + 1.1), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.11)
    _heading(figure, *title)
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


def _title(axis: Axes, label: str, y: np.ndarray) -> None:
    """The category and its known cases above its panel."""
    counts = f"{int(np.sum(y == 1))} positive, {int(np.sum(y == 0))} negative"
    axis.set_title(label.replace("_", " "), pad=13)
    place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 3)}
    axis.annotate(counts, **place, textcoords="offset points", fontsize=7, color=_GREY)


def _emphasised(results: Mapping[str, Any], models: Sequence[Predictions]) -> set[str]:
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


def _colour(i: int) -> str:
    """Colour of the i-th model."""
    return _COLOURS[i % len(_COLOURS)]


def _of_model(looks: Sequence[Any], i: int) -> Any:
    """Dash or marker of the i-th model: another one when the colours begin anew."""
    return looks[(i + i // len(_COLOURS)) % len(looks)]


def _look(i: int, name: str, emphasised: set[str]) -> dict[str, Any]:
    """Colour and line of the i-th model; one that stands out among others is solid."""
    stands_out = name in emphasised
    return {
        "color": _colour(i),
        "linestyle": "-" if emphasised == {name} else _of_model(_DASHES, i),
        "linewidth": 1.6 if stands_out else 0.9,
        "zorder": 3 if stands_out else 2.5,
    }


def _films(truth: Truth) -> str:
    """What a plot is of: the truth, its rows and what they are grouped by."""
    plural = {"patient": "patients", "study": "studies", "film": "films"}
    text = f"{truth.name}: {len(truth.keys):,} {plural[truth.row]}"
    if truth.unit != truth.row:
        text += f" of {len(np.unique(truth.groups)):,} {plural[truth.unit]}"
    return text


def _roc_grid(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    labels = _panels(results, truth, models)
    if not labels:
        return None
    emphasised = _emphasised(results, models)
    title = ["ROC curves and AUROC", _films(truth)]
    if len(emphasised) < len(models):
        title.append(f"Band and figures: {_level(results)} interval of {', '.join(emphasised)}")
    figure, axes = _grid(len(labels), title, "False-positive rate", "Sensitivity")
    for axis, label in zip(axes, labels, strict=True):
        y = truth.labels[:, truth.label_names.index(label)]
        _title(axis, label, y)
        axis.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.7, zorder=1)
        for i, model in enumerate(models):
            if label in model.label_names:
                _roc_curve(axis, results, truth, model, label, i, emphasised)
        _reader_points(axis, results, label)
        _figures_in_panel(axis, results, models, label, ("auroc", "ci"), emphasised, top=False)
    _legend(figure, axes)
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
    look = _look(i, model.name, emphasised)
    x, sensitivity = step_curve(model.column(label), y)
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
        lines.append((_colour(i), text if low is None else f"{text} ({low:.3f}–{high:.3f})"))
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
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=4.5,
                markerfacecolor="black" if reader == "majority" else "white",
                markeredgecolor="black",
                markeredgewidth=0.9,
                label=f"readers' {reader}" if reader == "majority" else f"reader {reader}",
                zorder=5,
            )


def _precision_recall_grid(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    labels = _panels(results, truth, models)
    if not labels:
        return None
    emphasised = _emphasised(results, models)
    title = ["Precision, recall and average precision", _films(truth)]
    if len(emphasised) < len(models):
        title.append(f"Figures with {_level(results)} interval: {', '.join(emphasised)}")
    figure, axes = _grid(len(labels), title, "Recall (sensitivity)", "Precision (PPV)")
    for axis, label in zip(axes, labels, strict=True):
        y = truth.labels[:, truth.label_names.index(label)]
        _title(axis, label, y)
        share = largest = np.nanmean(y)
        axis.plot(
            [0, 1], [share, share], color="#999999", linewidth=0.8, label="share of positives"
        )
        for i, model in enumerate(models):
            if label in model.label_names:
                recall, precision = precision_recall_steps(model.column(label), y)
                look = _look(i, model.name, emphasised)
                axis.plot(recall, precision, drawstyle="steps-pre", **look, label=model.name)
                largest = max(largest, precision.max())
        # Room for the figures above the curves of a rare finding.
        _scale(axis, 1.3 * largest, square=False)
        high = any(
            (results["models"][x]["categories"].get(label, {}).get("ap") or 0) > _HIGH_AP
            for x in emphasised
        )
        _figures_in_panel(axis, results, models, label, ("ap", "ap"), emphasised, top=not high)
    _legend(figure, axes)
    return figure


def precision_recall_steps(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The steps whose area is the average precision: (recall, precision), starting at recall 0.

    One step for each score at which a positive is found; precision holds from the recall before.
    """
    known = ~np.isnan(labels)
    false_positive_rate, recall = step_curve(scores, labels)
    true = recall * np.sum(labels[known] == 1)
    called = true + false_positive_rate * np.sum(labels[known] == 0)
    rises = np.append(True, np.diff(recall) > 0)
    precision = np.append(np.nan, true[1:] / called[1:])[rises]
    precision[0] = precision[1]
    return recall[rises], precision


def _reliability_grid(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    """Stated against observed probability; before calibration too, for one model that was run."""
    rows = results["models"]
    labels = [
        label
        for label in _panels(results, truth, models)
        if any(
            label in m.label_names and rows[m.name]["categories"][label]["brier"] is not None
            for m in models
        )
    ]
    if not labels:
        return None
    figure, axes = _grid(
        len(labels),
        ["Reliability (bins of equal size)", _films(truth)],
        "Stated probability",
        "Observed share",
    )
    few = len(models) <= _MOST_BANDS
    for axis, label in zip(axes, labels, strict=True):
        y = truth.labels[:, truth.label_names.index(label)]
        _title(axis, label, y)
        axis.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, label="perfect calibration")
        largest = 0.0
        for i, model in enumerate(models):
            if label not in model.label_names:
                continue
            if rows[model.name]["categories"][label]["brier"] is None:
                continue
            column = model.label_names.index(label)
            if model.logits is not None and len(models) == 1:
                before = reliability_points(sigmoid(model.logits[:, column]), y)
                _reliability_line(axis, *before, i, f"{model.name}, before calibration", "before")
                largest = max(largest, before[0].max(), before[1].max())
            stated, observed, half = reliability_points(model.scores[:, column], y)
            kind = "with bars" if few else "plain"
            _reliability_line(axis, stated, observed, half, i, model.name, kind)
            highest = observed + half[1] if few else observed
            largest = max(largest, stated.max(), highest.max())
        _scale(axis, largest, square=True)
    _legend(figure, axes)
    return figure


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
    colour = _colour(i)
    before = kind == "before"
    axis.errorbar(
        stated,
        observed,
        yerr=half if kind == "with bars" else None,
        color=colour,
        linestyle=(0, (1.2, 1.6)) if before else _of_model(_DASHES, i),
        linewidth=0.9,
        elinewidth=0.7,
        alpha=0.7 if before else 1,
        marker=_of_model(_MARKERS, i),
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


# --- Dots with intervals ------------------------------------------------------------------------


def _auroc_by_category(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    """AUROC of each category and the mean; two models as a dumbbell with their difference."""
    from matplotlib.figure import Figure

    labels = _panels(results, truth, models)
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
    axis.set_xlabel(f"AUROC with {_level(results)} interval")
    _heading(figure, "AUROC by category", _films(truth))
    if len(models) > 1:
        _legend(figure, [axis])
    return figure


def _differences(axis: Axes, results: Mapping[str, Any], rows: Sequence[str]) -> None:
    """Right of the dumbbells, how much the second model has more than the first."""
    comparison = results["comparisons"][0] if results["comparisons"] else None
    if comparison is None:
        return
    x = axis.get_yaxis_transform()  # x in shares of the axis, y in rows
    heading = f"{comparison['second']}\nminus {comparison['first']}"
    axis.text(1.02, -0.62, heading, transform=x, fontsize=7, color=_GREY, va="bottom")
    for r, label in enumerate(rows):
        row = comparison["mean"] if label == "mean" else comparison["categories"].get(label)
        if row is None or row["difference"] is None:
            continue
        limits = row if label == "mean" else row["delong"]
        text = f"{-row['difference']:+.3f}"
        if limits["low"] is not None:
            text += f" ({-limits['high']:+.3f} to {-limits['low']:+.3f})"
        axis.text(1.02, r, text, transform=x, fontsize=7, va="center")


def _level(results: Mapping[str, Any]) -> str:
    return f"{100 * next(iter(results['models'].values()))['level']:g} %"


def _dots(
    axis: Axes, points: list[tuple], i: int, name: str | None, lines: list[float] | None = None
) -> None:
    """Points with horizontal intervals; each (value, y, low or None, high or None).

    The points lie on `lines`, where given, and only their intervals beside these.
    """
    colour, marker = _colour(i), _of_model(_MARKERS, i)
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
    for y in range(len(rows) - 1):
        axis.axhline(y + 0.5, color="#EEEEEE", linewidth=0.7, zorder=0)
    axis.axhline(len(rows) - 1.5, color="#888888", linewidth=0.8)


def _area_axis(axis: Axes) -> None:
    """An axis of AUROCs: within [0, 1], with a line at chance where that is in sight."""
    low, high = axis.get_xlim()
    axis.set_xlim(max(low, 0), min(high, 1.0))
    if axis.get_xlim()[0] < 0.5:
        axis.axvline(0.5, color="#999999", linewidth=0.8, linestyle=":")


def _known(y: np.ndarray) -> int:
    return int(np.sum(~np.isnan(y)))


def _calibration_dumbbells(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    """Calibration error of each category before and after calibration, for models that were run."""
    from matplotlib.figure import Figure

    run = [(i, m.name) for i, m in enumerate(models) if "uncalibrated" in results["models"][m.name]]
    labels = _panels(results, truth, models)
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
            marker=_of_model(_MARKERS, i),
            color=_colour(i),
            label=f"after, {name}",
            **look,
        )
        axis.set_title(name)
        axis.locator_params(axis="x", nbins=10 // columns)
        axis.set_xlabel("Expected calibration error")
        _category_axis(axis, rows, truth)
    axes[0].set_xlim(left=0)  # of all, and not before all are drawn
    _heading(figure, "Calibration error before and after calibration", _films(truth))
    _legend(figure, axes[: len(run)])
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


def _subgroup_dots(
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
        f"Mean AUROC over the categories defined in the subgroup, with {_level(results)} interval"
    )
    _heading(figure, "Subgroups", _films(truth))
    if len(models) > 1:
        _legend(figure, [axis])
    return figure


def _subgroup_name(attribute: str, value: str, result: Mapping[str, Any]) -> str:
    count = len(result["subsets"]["all"]["defined"])
    name = attribute if value.startswith(attribute) else f"{attribute} {value}"
    return (
        f"{name}  (n = {result['films']:,}, {count} {'category' if count == 1 else 'categories'})"
    )


# --- Training -----------------------------------------------------------------------------------


def training_curves(
    log: Path, folder: Path, name: str = "training", title: str = "Training"
) -> str | None:
    """Draw loss and validation metrics per epoch from a run's ``log.jsonl``.

    Parameters
    ----------
    log
        One JSON record an epoch with ``epoch``, ``loss`` and ``valid`` (``auroc``, ``map``), as
        `train.negative` writes it.
    folder
        Gets ``NAME.png`` and ``NAME.svg``.
    title
        What was trained, and on how many films; the number of epochs is added.

    Returns
    -------
    str or None
        Name of the PNG file; None if the log holds no epoch.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    records = _records(log)
    if not records:
        return None
    epochs = [record["epoch"] for record in records]
    curves = {
        "Training loss": [record["loss"] for record in records],
        "Mean AUROC, validation films": [record["valid"]["auroc"] for record in records],
        "Mean AP, validation films": [record["valid"]["map"] for record in records],
    }
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.8, 2.5), layout="constrained")
        for i, (axis, (name_of_curve, values)) in enumerate(
            zip(figure.subplots(1, 3), curves.items(), strict=True)
        ):
            best = min if i == 0 else max
            _curve(axis, epochs, values, best, _COLOURS[i])
            axis.set_title(name_of_curve, fontsize=8)
        _heading(figure, f"{title}: {len(epochs)} epoch{'s' if len(epochs) > 1 else ''}")
        return _save(figure, folder / name)


def _records(log: Path) -> list[dict[str, Any]]:
    """The records of a log, up to a last line that is still being written."""
    records = []
    for line in log.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _curve(
    axis: Axes,
    epochs: Sequence[int],
    values: Sequence[float | None],
    best: Callable[..., float],
    colour: str,
) -> None:
    """Values by epoch (None where undefined), the best one marked with its value."""
    known = [
        (value, epoch) for value, epoch in zip(values, epochs, strict=True) if value is not None
    ]
    axis.plot([e for _, e in known], [v for v, _ in known], color=colour, linewidth=1.3)
    axis.set_xlabel("Epoch")
    axis.margins(y=0.18)
    if known:
        value, epoch = best(known, key=lambda pair: pair[0])
        axis.plot(epoch, value, marker="o", markersize=4, color=colour)
        late = epoch > (epochs[0] + epochs[-1]) / 2
        axis.annotate(
            f"{value:.3f}, epoch {epoch}",
            (epoch, value),
            textcoords="offset points",
            xytext=(4 if late else -4, 5 if best is max else -5),
            ha="right" if late else "left",
            va="bottom" if best is max else "top",
            fontsize=7.5,
        )
