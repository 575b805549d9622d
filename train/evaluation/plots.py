"""Plots of an evaluation, each as PNG and SVG; matplotlib is imported when one is drawn.

Colours are Okabe and Ito's, which people with any common colour vision tell apart, and lines also
differ in dash and markers in shape, so that a grey print can be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.evaluation.dots import auroc_by_category, calibration_dumbbells, subgroup_dots
from train.evaluation.figure import STYLE, save_figure
from train.evaluation.grids import precision_recall_grid, reliability_grid, roc_grid
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.probability_grids import decision_grid, distribution_grid

__all__ = ["draw_all"]


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
    with rc_context(STYLE):
        for name, draw in (
            ("auroc", auroc_by_category),
            ("roc", roc_grid),
            ("precision-recall", precision_recall_grid),
            ("reliability", reliability_grid),
            ("calibration", calibration_dumbbells),
            ("decision-curves", decision_grid),
            ("distributions", distribution_grid),
            ("subgroups", subgroup_dots),
        ):
            figure = draw(results, truth, models)
            if figure is not None:
                drawn.append(save_figure(figure, folder / name))
    return drawn
