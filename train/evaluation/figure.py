"""What all plots share: style, colours, headings, legends, saving."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cft.files import atomic_write
from train.evaluation.predictions import Predictions, Truth
from train.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType


__all__ = ["SUFFIXES"]

#: Every plot is written once with each.
SUFFIXES = ("png", "svg")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), "-.", (0, (7, 2, 1, 2, 1, 2)), (0, (3, 1)), ":")
MARKERS = ("o", "s", "^", "v", "P", "X", "D")
GREY = "#777777"

STYLE: dict[RcKeyType, str | float] = {
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

# Letters in an inch of a title and of a legend, whose fonts are 10 and 7.5 points: a few less than
# fit on average, as some letters are wide.
_TITLE_LETTERS, _LEGEND_LETTERS = 13, 17


def save_figure(figure: Figure, stem: Path) -> str:
    """Write STEM.png and STEM.svg; returns the PNG's name."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix in SUFFIXES:
        data = io.BytesIO()  # the name may hold dots, so a suffix is added and none replaced
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        figure.savefig(data, format=suffix, dpi=200, metadata=metadata, facecolor="white")
        atomic_write(stem.with_name(f"{stem.name}.{suffix}"), data.getvalue())
    return f"{stem.name}.png"


def add_heading(figure: Figure, *sentences: str) -> None:
    """The title of a figure: one line, or where its width needs it one or more a sentence."""
    width = int(_TITLE_LETTERS * figure.get_figwidth())
    lines = [". ".join(sentences)]
    if len(lines[0]) > width:
        lines = [line for sentence in sentences for line in textwrap.wrap(sentence, width)]
    figure.set_figheight(figure.get_figheight() + 0.2 * (len(lines) - 1))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)


def add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
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


def panel_labels(
    results: Mapping[str, Any], truth: Truth, models: Sequence[Predictions]
) -> list[str]:
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


def colour_of(i: int) -> str:
    """Colour of the i-th model."""
    return COLOURS[i % len(COLOURS)]


def pick(looks: Sequence[Any], i: int) -> Any:
    """Dash or marker of the i-th model: another one when the colours begin anew."""
    return looks[(i + i // len(COLOURS)) % len(looks)]


def films_shown(truth: Truth) -> str:
    """What a plot is of: the truth, its rows and what they are grouped by."""
    text = f"{truth.name}: {counted(len(truth.keys), truth.row)}"
    if truth.unit != truth.row:
        text += f" of {counted(len(np.unique(truth.groups)), truth.unit)}"
    return text


def level_of(results: Mapping[str, Any]) -> str:
    return f"{100 * next(iter(results['models'].values()))['level']:g} %"
