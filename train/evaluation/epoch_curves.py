"""ROC curves of a run's validation films after each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train.evaluation.epoch_scores import read_epochs
from train.evaluation.figure import COLOURS, STYLE, add_legend, save_figure
from train.evaluation.grids import panel_grid, panel_title
from train.metrics.ranking import auroc
from train.metrics.roc import roc_vertices
from train.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["epoch_curves"]

# Points of a curve, which else would have as many as there are films.
_GRID = np.linspace(0, 1, 101)


def epoch_curves(run: Path, folder: Path, name: str, title: str = "Training") -> str | None:
    """Draw a panel for each category with a ROC curve for each epoch.

    Parameters
    ----------
    run
        Folder of a run with scores of `train.evaluation.epoch_scores`.
    folder
        Gets ``NAME.png`` and ``NAME.svg``.
    name, title
        Of the files, and what was trained.

    Returns
    -------
    str or None
        Name of the PNG file; None if no epoch was kept, or no category has both kinds of films.
    """
    from matplotlib import rc_context

    kept = read_epochs(run)
    if kept is None:
        return None
    scores, y, label_names = kept
    columns = [c for c in range(len(label_names)) if {0, 1} <= set(y[:, c][~np.isnan(y[:, c])])]
    if not columns:
        return None
    with rc_context(STYLE):
        figure, axes = panel_grid(
            len(columns),
            [f"{title}: ROC curves of {len(y):,} validation films after each epoch",
             counted(len(scores), "epoch")],
            "False-positive rate",
            "Sensitivity",
        )  # fmt: skip
        for axis, c in zip(axes, columns, strict=True):
            panel_title(axis, label_names[c], y[:, c])
            _curves(axis, {epoch: of[:, c] for epoch, of in scores.items()}, y[:, c])
        add_legend(figure, axes)
        return save_figure(figure, folder / name)


def _curves(axis: Axes, scores: dict[int, np.ndarray], y: np.ndarray) -> None:
    """Pale for early epochs, dark for late ones, another colour for that of the largest AUROC."""
    labels = y.astype(np.float32)[None]
    areas = {x: float(auroc(of.astype(np.float32)[None], labels)[0]) for x, of in scores.items()}
    best = max(areas, key=lambda epoch: areas[epoch])
    first, last = min(scores), max(scores)
    axis.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.7, zorder=1)
    for place, (epoch, of) in enumerate(scores.items()):
        x, sensitivity = roc_vertices(of, y)
        end = epoch in (first, last)
        axis.plot(
            _GRID,
            np.interp(_GRID, x, sensitivity),
            color=COLOURS[1] if epoch == best else COLOURS[0],
            alpha=1 if epoch == best else 0.15 + 0.7 * (place + 1) / len(scores),
            linewidth=1.5 if epoch == best else 0.9 if end else 0.5,
            zorder=3 if epoch == best else 2,
            label="largest AUROC" if epoch == best else f"epoch {epoch}" if end else None,
        )
    axis.text(
        *(0.98, 0.03, f"{areas[first]:.3f} to {areas[last]:.3f}, most {areas[best]:.3f} ({best})"),
        transform=axis.transAxes,
        ha="right",
        fontsize=6.5,
        zorder=4,
    )
