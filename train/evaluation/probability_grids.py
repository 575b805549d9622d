"""Plots of probabilities with one panel for each category: decision curves, distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from train.evaluation.figure import (
    DASHES,
    MARKERS,
    add_legend,
    colour_of,
    films_shown,
    level_of,
    panel_labels,
    pick,
)
from train.evaluation.grids import emphasised_models, line_style, panel_grid, panel_title
from train.evaluation.predictions import Predictions, Truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["decision_grid", "distribution_grid"]

# A curve is drawn a little beyond the threshold from which on no one gains anything.
_BEYOND = 1.3


def decision_grid(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    """Net benefit against that of treating all and none, and each radiologist's."""
    labels = _with(results, truth, models, "net_benefit")
    if not labels:
        return None
    emphasised = emphasised_models(results, models)
    title = ["Decision curves", films_shown(truth)]
    if len(emphasised) < len(models):
        title.append(f"Band: {level_of(results)} interval of {', '.join(emphasised)}")
    figure, axes = panel_grid(len(labels), title, "Threshold probability", "Net benefit")
    for axis, label in zip(axes, labels, strict=True):
        y = truth.labels[:, truth.label_names.index(label)]
        panel_title(axis, label, y)
        prevalence = float(np.nanmean(y))
        axis.axhline(0, color="#999999", linewidth=0.8, label="treat none")
        last = prevalence
        for i, model in enumerate(models):
            row = results["models"][model.name]["categories"].get(label)
            if row is None or row["net_benefit"] is None:
                continue
            t, benefit, everyone = np.array(row["net_benefit"]).T
            look = line_style(i, model.name, emphasised)
            axis.plot(t, benefit, **look, label=model.name)
            if model.name in emphasised:
                _, low, high = np.array(row["net_benefit_interval"]).T
                axis.fill_between(t, low, high, color=look["color"], alpha=0.15, linewidth=0)
            above = t[benefit > 0]
            last = max(last, above[-1] if len(above) else 0)
            if i == 0:
                axis.plot(t, everyone, color="#777777", linewidth=0.8, ls="--", label="treat all")
        _reader_lines(axis, results, label)
        limit = min(1.0, max(0.05, last * _BEYOND))
        axis.set_aspect("auto")
        axis.set_box_aspect(1)
        axis.set(xlim=(0, limit), ylim=(-0.3 * prevalence, 1.1 * prevalence))
        _ticks(axis, limit, prevalence)
    add_legend(figure, axes)
    return figure


def _ticks(axis: Axes, limit: float, prevalence: float) -> None:
    for name, top in (("x", limit), ("y", prevalence)):
        ticks = [0, top / 2, top]
        axis.set(**{f"{name}ticks": ticks, f"{name}ticklabels": [f"{x:.2g}" for x in ticks]})


def _reader_lines(axis: Axes, results: Mapping[str, Any], label: str) -> None:
    """A reader decides one way, whatever the price: a line with a mark."""
    for i, (reader, by_label) in enumerate(results.get("reader_net_benefit", {}).items()):
        rows = by_label.get(label)
        if rows:
            axis.plot(
                *np.array(rows).T,
                color="black",
                linewidth=0.6,
                linestyle=pick(DASHES, i + 1),
                marker=MARKERS[i % len(MARKERS)],
                markersize=3,
                markevery=(5 + 3 * i, 20),
                markerfacecolor="white",
                label=f"reader {reader}",
                zorder=2.2,
            )


def distribution_grid(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> Figure | None:
    """How the first model's probabilities are distributed, by outcome."""
    first = [
        model
        for model in models
        if any(row["distribution"] for row in results["models"][model.name]["categories"].values())
    ][:1]
    labels = _with(results, truth, first, "distribution")
    if not labels:
        return None
    title = [f"Probabilities by outcome, {first[0].name}", films_shown(truth)]
    figure, axes = panel_grid(len(labels), title, "Stated probability", "Share of the films")
    for axis, label in zip(axes, labels, strict=True):
        panel_title(axis, label, truth.labels[:, truth.label_names.index(label)])
        row = results["models"][first[0].name]["categories"][label]["distribution"]
        edges, highest = np.array(row["edges"]), 0.0
        for i, (name, look) in enumerate((("negatives", "-"), ("positives", (0, (3, 1))))):
            counts = np.array(row[name]["counts"], float)
            if not counts.sum():
                continue
            share = counts / counts.sum()
            highest = max(highest, share.max())
            colour = colour_of(i)
            axis.stairs(share, edges, color=colour, linewidth=1.1, linestyle=look, label=name)
            axis.stairs(share, edges, color=colour, alpha=0.15, fill=True)
            median = dict(map(tuple, row[name]["quantiles"]))[0.5]
            axis.plot(median, 0, marker=MARKERS[i], color=colour, markersize=4, clip_on=False)
        axis.set_aspect("auto")
        axis.set_box_aspect(1)
        axis.set(xlim=(0, edges[-1]), ylim=(0, 1.05 * highest))
        _ticks(axis, edges[-1], highest)
    add_legend(figure, axes)
    return figure


def _with(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions], name: str
) -> list[str]:
    """The categories for which some model has this figure."""
    return [
        label
        for label in panel_labels(results, truth, models)
        if any(
            results["models"][m.name]["categories"].get(label, {}).get(name) is not None
            for m in models
        )
    ]
