"""A finished run measures its own model: calibration, and figures on its test films."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cft.model.calibration import apply_platt, fit_platt, operating_point
from train.datasets.labels import LabelTable
from train.evaluation.scores import evaluate_scores


def calibrate(scores: np.ndarray, table: LabelTable) -> dict[str, dict[str, Any]]:
    """Platt scaling and operating point of each category, from (N, C) logits on validation films.

    Returns
    -------
    dict
        Label -> ``platt`` (scale, bias), ``operating_point`` (Youden's) and ``best_f1`` (another
        one), each None where there are too few cases; thresholds are in units of the calibrated
        probability.
    """
    categories = {}
    for c, label in enumerate(table.label_names):
        platt = fit_platt(scores[:, c], table.y[:, c])
        chances = apply_platt(scores[:, c].astype(np.float64), *(platt or (1.0, 0.0)))
        categories[label] = {
            "platt": platt and {"scale": platt[0], "bias": platt[1]},
            "operating_point": operating_point(chances, table.y[:, c]),
            "best_f1": operating_point(chances, table.y[:, c], "f1"),
        }
    return categories


def evaluate(
    scores: np.ndarray, table: LabelTable, categories: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """`train.evaluation.scores.evaluate_scores` of (N, C) logits as calibrated probabilities."""
    chances = np.empty(scores.shape, np.float64)
    thresholds = {}
    for c, label in enumerate(table.label_names):
        platt, point = categories[label]["platt"], categories[label]["operating_point"]
        scale, bias = (platt["scale"], platt["bias"]) if platt else (1.0, 0.0)
        chances[:, c] = apply_platt(scores[:, c].astype(np.float64), scale, bias)
        thresholds[label] = point and point["threshold"]
    return evaluate_scores(
        chances, table.y, table.patients, table.label_names, operating_points=thresholds
    )


def test_tables(
    tested: LabelTable, others: Sequence[LabelTable]
) -> Iterator[tuple[LabelTable, list[int]]]:
    """The test films' tables of labels: their own and, where they have some, each other one.

    Yields
    ------
    (table, rows)
        The films of a table that are among the test films, and each film's row among these.
    """
    place = {name: row for row, name in enumerate(tested.names.tolist())}
    for table in (tested, *others):
        table = table.subset(np.array([name in place for name in table.names.tolist()], bool))
        if len(table):
            yield table, [place[name] for name in table.names.tolist()]
