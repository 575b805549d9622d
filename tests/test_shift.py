"""A model on a second data set: laws that move only the calibration, or the ranking."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from train.datasets import read_dataset
from train.errors import EvaluationError
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.shift import _moved, named_as_here, shift_of
from train.evaluation.shift_tables import shift_parts
from train.metrics.delong import delong


def side(y: np.ndarray, p: np.ndarray, groups=None) -> tuple[Truth, Predictions]:
    names = tuple(f"F{c}" for c in range(y.shape[1]))
    groups = np.arange(len(y)) if groups is None else groups
    truth = Truth("drawn", tuple(map(str, range(len(y)))), names, y, groups, "patient", row="film")
    return truth, Predictions("m", names, p)


def drawn(n, prevalence, seed, signal=1.5, stated=0.15, categories=1):
    """Labels, and probabilities that are true where the prevalence is `stated` and signal 1.5."""
    generator = np.random.default_rng(seed)
    y = (generator.random((n, categories)) < prevalence).astype(float)
    x = generator.normal(signal * y)
    # Bayes: two normal laws 1.5 apart have the log likelihood ratio 1.5 x - 1.5 ** 2 / 2.
    z = np.log(stated / (1 - stated)) + 1.5 * x - 1.5**2 / 2
    return y, 1 / (1 + np.exp(-z))


def test_a_prevalence_alone_moves_the_calibration_in_the_large_and_no_ranking():
    first, second = side(*drawn(4000, 0.15, 0)), side(*drawn(3000, 0.45, 1))
    row = shift_of(first, second, replicates=300)["categories"]["F0"]
    assert row["differs"] == ["calibration"]
    assert row["auroc"]["low"] < 0 < row["auroc"]["high"]
    expected = np.log(0.45 / 0.55) - np.log(0.15 / 0.85)  # of the prior's log odds
    intercept = row["calibration_intercept"]
    assert intercept["low"] < expected < intercept["high"]
    assert intercept["difference"] == pytest.approx(expected, abs=0.2)
    assert row["calibration_slope"]["low"] < 0 < row["calibration_slope"]["high"]
    assert row["recalibrated"]["high"] < 0  # one number mends it
    assert row["recalibrated"]["intercept"] == pytest.approx(expected, abs=0.15)


@pytest.mark.slow
def test_phantoms_thinned_to_another_prevalence_differ_in_calibration_alone(monkeypatch):
    # Only their labels are asked for, so nothing is drawn.
    monkeypatch.setattr("train.datasets.phantoms._draw", lambda *_: np.zeros((16, 16), np.uint8))
    table = read_dataset("phantoms", None, phantoms=1500, phantom_size=16, missing="none")
    finding = table.label_names.index("Pleural Effusion")
    y = table.y[:, [finding]].astype(float)
    generator = np.random.default_rng(0)
    x = 1.5 * y + generator.normal(size=y.shape)
    share = y.mean()
    p = 1 / (1 + np.exp(-(np.log(share / (1 - share)) + 1.5 * x - 1.5**2 / 2)))
    patients = np.unique(table.patients)
    here = np.isin(table.patients, patients[::2])
    kept = ~here & ((y[:, 0] == 1) | (generator.random(len(y)) < 0.25))  # fewer negatives
    found = shift_of(
        *(side(y[rows], p[rows], table.patients[rows]) for rows in (here, kept)), replicates=300
    )
    row = found["categories"]["F0"]
    assert row["prevalence"][1] > 2 * row["prevalence"][0] * 0.9
    assert row["differs"] == ["calibration"]
    assert row["auroc"]["p_holm"] > 0.05
    assert row["calibration_intercept"]["low"] > 0


def test_a_weaker_signal_is_a_difference_of_ranking():
    first, second = side(*drawn(3000, 0.15, 0)), side(*drawn(3000, 0.15, 1, signal=0.5))
    row = shift_of(first, second, replicates=300)["categories"]["F0"]
    assert row["differs"] == ["ranking", "calibration"]
    assert row["auroc"]["high"] < 0
    assert row["calibration_slope"]["high"] < 0


def test_where_nothing_differs_nothing_is_said_to():
    pairs = [(drawn(800, 0.2, seed, categories=5), drawn(800, 0.2, seed + 50, categories=5))
             for seed in range(6)]  # fmt: skip
    said = [
        row["differs"]
        for a, b in pairs
        for row in shift_of(side(*a), side(*b), replicates=200)["categories"].values()
    ]
    assert sum(map(bool, said)) <= 2  # of thirty, corrected within each five


def test_figures_are_those_of_scikit_learn_and_the_interval_that_of_delong():
    first, second = side(*drawn(600, 0.3, 2)), side(*drawn(500, 0.3, 3, signal=1))
    area = shift_of(first, second, replicates=2000)["categories"]["F0"]["auroc"]
    own = [
        roc_auc_score(truth.labels[:, 0], model.scores[:, 0]) for truth, model in (first, second)
    ]
    assert (area["first"], area["second"]) == pytest.approx(own)
    fits = [delong(m.scores[:, 0], t.labels[:, 0], t.groups) for t, m in (first, second)]
    half = 1.96 * np.sqrt(sum(fit.covariance[0, 0] for fit in fits))
    difference = own[1] - own[0]
    assert area["low"] == pytest.approx(difference - half, abs=0.012)
    assert area["high"] == pytest.approx(difference + half, abs=0.012)


def test_films_are_moved_by_what_the_other_half_of_the_patients_says():
    y, p = drawn(400, 0.5, 4)
    groups = np.arange(400) // 2
    y, p = y[:, 0], p[:, 0]
    moved = _moved(p, y, groups, seed=0)
    by = np.log(moved / (1 - moved)) - np.log(p / (1 - p))
    values = np.unique(by.round(6))
    assert len(values) == 2
    assert all(len(np.unique(by[groups == g].round(6))) == 1 for g in range(200))
    # A half's own labels have no part in it.
    half = np.isclose(by, values[0], atol=1e-5)
    again = _moved(p, np.where(half, 1 - y, y), groups, seed=0)
    assert np.allclose(again[half], moved[half])
    row = shift_of(side(y[:, None], p[:, None], groups), side(y[:, None], p[:, None], groups),
                   replicates=20)["categories"]["F0"]["recalibrated"]  # fmt: skip
    assert row["before"] == pytest.approx(brier_score_loss(y, p))
    assert row["after"] == pytest.approx(brier_score_loss(y, moved))


def test_scores_that_are_no_probabilities_are_ranked_alone():
    y, p = drawn(200, 0.3, 5)
    row = shift_of(side(y, 10 * p), side(y, 10 * p), replicates=20)["categories"]["F0"]
    assert row["auroc"]["difference"] == 0
    assert row["calibration_intercept"] is row["recalibrated"] is None


def test_a_side_without_a_positive_has_no_difference_and_the_report_says_nothing_of_it():
    y, p = drawn(100, 0.3, 6, categories=2)
    empty = y.copy()
    empty[:, 1] = 0
    found = shift_of(side(y, p), side(empty, p), replicates=20)
    row = found["categories"]["F1"]
    assert row["auroc"]["difference"] is row["auroc"]["p_holm"] is None
    assert row["calibration_slope"]["difference"] is None
    assert row["recalibrated"]["after"] is None
    json.dumps(found, allow_nan=False)
    truth = {"rows": 100, "row": "film", "groups": 100, "unit": "patient", "notes": []}
    shift = {"there": {"first": "here", "truth": truth, "notes": [], "models": {"m": found}}}
    text = "\n".join(map(str, shift_parts(shift)))
    assert "### m on there" in text
    assert f"| F1 | {int(y[:, 1].sum())} and 0 |" in text


def test_without_a_common_category_nothing_is_compared():
    y, p = drawn(100, 0.3, 6)
    truth, model = side(y, p)
    other = Predictions("m", ("G",), p)
    with pytest.raises(ValueError, match="share no category"):
        shift_of((truth, model), (truth, other))


def test_categories_are_called_as_in_the_first_data_set():
    there = ("Edema", "Pleural Effusion")
    names = {"Effusion": "Pleural Effusion"}
    assert named_as_here(there, names, "chexpert") == ("Edema", "Effusion")
    assert named_as_here(there, {"A": "Edema", "Edema": "Pleural Effusion"}, "x") == ("A", "Edema")
    with pytest.raises(EvaluationError, match="chexpert has no category 'Mass'; it has Edema, "):
        named_as_here(there, {"Tumour": "Mass"}, "chexpert")
    with pytest.raises(EvaluationError, match="and chexpert has another 'Edema'"):
        named_as_here(there, {"Edema": "Pleural Effusion"}, "chexpert")
