"""Models beside each radiologist, as studies over readers compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.evaluation.predictions import Predictions, Truth
from train.metrics.comparison import compare_replicates, holm
from train.metrics.decisions import finite_or_none
from train.metrics.readers import sensitivity_beside_reader
from train.tables import Table, figure_cell, p_cell, range_cell

__all__ = ["beside_readers", "reader_parts"]


def beside_readers(
    truth: Truth,
    model: Predictions,
    readers: Sequence[Predictions],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, Any]]:
    """A model's sensitivity at each reader's specificity, minus the reader's sensitivity.

    Returns
    -------
    dict
        Label -> reader -> ``model``, ``reader`` (sensitivities), ``difference``, ``low``, ``high``,
        ``p`` and ``p_holm`` (corrected over all labels and readers); see
        `train.metrics.readers.sensitivity_beside_reader`.
    """
    found: dict[str, dict[str, Any]] = {}
    for label in model.label_names:
        for reader in readers:
            if label not in reader.label_names:
                continue
            estimate, drawn = sensitivity_beside_reader(
                *(model.column(label), reader.column(label), truth.columns([label])[:, 0]),
                *(truth.groups, replicates, seed),
            )
            change = compare_replicates(
                estimate[:1] - estimate[1:], drawn[:, :1] - drawn[:, 1:], level
            )
            found.setdefault(label, {})[reader.name] = {
                "model": finite_or_none(estimate[0]),
                "reader": finite_or_none(estimate[1]),
                **{
                    name: finite_or_none(getattr(change, name)[0])
                    for name in ("difference", "low", "high", "p")
                },
            }
    rows = [row for by_reader in found.values() for row in by_reader.values()]
    p = np.array([np.nan if row["p"] is None else row["p"] for row in rows])
    for row, corrected in zip(rows, holm(p), strict=True):
        row["p_holm"] = finite_or_none(corrected)
    return found


def reader_parts(result: Mapping[str, Any], explain: bool) -> list[str | Table]:
    """A table of one model beside each reader."""
    rows = [["Category", "Reader", "Reader's sensitivity", "Model's", "Difference", "p (Holm)"]]
    for label, by_reader in result.get("beside_readers", {}).items():
        for reader, row in by_reader.items():
            if row["difference"] is not None:
                limits = range_cell(row["low"], row["high"], signed=True)
                cells = [figure_cell(row["reader"]), figure_cell(row["model"])]
                change = f"{row['difference']:+.4f} ({limits})"
                rows.append([label, reader, *cells, change, p_cell(row["p_holm"])])
    if len(rows) == 1:
        return []
    parts: list[str | Table] = ["Sensitivity at each reader's specificity:", Table(rows)]
    if explain:
        parts.append(
            "The model is read at the last threshold with no more false alarms than the reader, "
            "without interpolation. Intervals: paired bootstrap; p is corrected by Holm over all "
            "categories and readers."
        )
    return parts
