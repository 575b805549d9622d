"""A finished run measures its own model: calibration, and figures on its test films."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cft.model.calibration import apply_platt, operating_point
from cft.model.conformal import conformal_band
from cft.model.odds import logit, sigmoid
from train.datasets.labels import LabelTable
from train.evaluation.cross_fit import POINTS, cross_fitted_points, platt_if_it_helps
from train.evaluation.follow_up import repeatability_of
from train.evaluation.scores import evaluate_scores, unproven
from train.metrics.calibration import calibration_figures


def calibrate(scores: np.ndarray, table: LabelTable) -> dict[str, dict[str, Any]]:
    """Platt scaling and operating points of each category, from (N, C) logits on validation films.

    Returns
    -------
    dict
        Label -> ``platt`` (scale, bias), None where it does not help or there are too few cases;
        ``calibration``, the losses that decided so; ``operating_points``, by name (see
        `train.evaluation.cross_fit.POINTS`); ``operating_point``, the first of these, which is used
        if none is asked for; and ``best_f1`` (another one). Each is None where there are too few
        cases. And ``band``, see `band_of`, and ``repeatability``, see `repeatability_of`.
        Thresholds are in units of the calibrated probability.
    """
    categories = {}
    every = np.empty(scores.shape, np.float64)  # calibrated
    for c, label in enumerate(table.label_names):
        logits, y = scores[:, c].astype(np.float64), table.y[:, c]
        platt, why = platt_if_it_helps(logits, y, table.patients)
        chances = apply_platt(logits, *(platt or (1.0, 0.0)))
        every[:, c] = chances
        points = cross_fitted_points(chances, y, table.patients)
        categories[label] = {
            "platt": platt and {"scale": platt[0], "bias": platt[1]},
            "calibration": why,
            "operating_point": next(iter(points.values())),
            "operating_points": points,
            "best_f1": operating_point(chances, y, "f1"),
            "band": band_of(chances, y),
        }
    return with_repeatability(categories, every, table)


def with_repeatability(
    categories: Mapping[str, Mapping[str, Any]], probabilities: np.ndarray, table: LabelTable
) -> dict[str, dict[str, Any]]:
    """The categories with what (N, C) calibrated probabilities of follow-up films say."""
    found = repeatability_of(logit(probabilities), table)
    return {label: {**row, "repeatability": found[label]} for label, row in categories.items()}


def band_of(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """`cft.model.conformal.conformal_band` of (N,) validation films, for the model folder."""
    return {**conformal_band(probabilities, labels), "data": "validation films"}


def evaluate(
    scores: np.ndarray, table: LabelTable, categories: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """`train.evaluation.scores.evaluate_scores` of (N, C) logits as calibrated probabilities.

    With ``band``: "rule_out" and "rule_in" -> ``categories``, label -> the rates at that limit; and
    ``uncalibrated``: label -> Brier score, calibration error and slope before the scaling.
    """
    chances = np.empty(scores.shape, np.float64)
    for c, label in enumerate(table.label_names):
        platt = categories[label]["platt"]
        scale, bias = (platt["scale"], platt["bias"]) if platt else (1.0, 0.0)
        chances[:, c] = apply_platt(scores[:, c].astype(np.float64), scale, bias)
    raw = sigmoid(scores.astype(np.float64))
    return {
        **with_band(
            evaluate_scores(
                *(chances, table.y, table.patients, table.label_names),
                operating_points={
                    label: _threshold(row["operating_point"]) for label, row in categories.items()
                },
                named_points={
                    **{
                        name: {
                            label: _threshold(row["operating_points"][name])
                            for label, row in categories.items()
                        }
                        for name in POINTS
                    },
                    **band_points({label: row["band"] for label, row in categories.items()}),
                },
            )
        ),
        "uncalibrated": {
            label: calibration_figures(raw[:, c], table.y[:, c])
            for c, label in enumerate(table.label_names)
        },
    }


def band_points(bands: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Both limits of each category's band as named operating points."""
    return {
        limit: {label: band[limit] for label, band in bands.items()}
        for limit in ("rule_out", "rule_in")
    }


def with_band(result: dict[str, Any]) -> dict[str, Any]:
    """What `evaluate_scores` gives, the points of `band_points` as ``band`` and not as ``points``.

    Of the films with a finding, 1 - sensitivity at ``rule_out`` were ruled out by mistake; of those
    without, 1 - specificity at ``rule_in`` were ruled in.
    """
    points = dict(result["points"])
    band = {
        limit: {
            "categories": {
                label: {
                    key: x
                    for key, x in row.items()
                    if key.startswith(("threshold", "sensitivity", "specificity"))
                }
                for label, row in points.pop(limit)["categories"].items()
            }
        }
        for limit in ("rule_out", "rule_in")
    }
    return {**result, "points": points, "band": band}


def with_training(
    categories: Mapping[str, Mapping[str, Any]], label_names: Sequence[str], y: np.ndarray
) -> dict[str, dict[str, Any]]:
    """The categories with ``training``: how many training films are positive, negative, unknown.

    Parameters
    ----------
    categories
        From `calibrate`.
    label_names
        The C categories of the columns of `y`.
    y
        (N, C) in {1, 0, NaN}, of the training films.
    """
    column = {label: y[:, c] for c, label in enumerate(label_names)}
    return {
        label: {
            **row,
            "training": {
                "positives": int((column[label] == 1).sum()),
                "negatives": int((column[label] == 0).sum()),
                "unknown": int(np.isnan(column[label]).sum()),
            },
        }
        for label, row in categories.items()
    }


def _threshold(point: Mapping[str, Any] | None) -> float | None:
    return None if point is None else point["threshold"]


def with_evidence(
    categories: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The categories, those that no test shows to be ranked better than chance marked so.

    Parameters
    ----------
    categories
        From `calibrate`.
    metrics
        Name of a test set -> what `evaluate` gives of it.

    Returns
    -------
    dict
        The same with ``"evidence": "none"`` where no test set's interval of the AUROC lies above
        0.5. Nothing is said of a category that was not tested.
    """
    marked = set(unproven(categories, metrics.values()))
    return {
        label: {**row, "evidence": "none"} if label in marked else dict(row)
        for label, row in categories.items()
    }


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
