"""Plots of a report and of training."""

from __future__ import annotations

import argparse
import json
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score

from train.evaluation import dots, figure, grids, training_curves
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.report_folder import training_plots

pytestmark = pytest.mark.slow


# --- Training curves ----------------------------------------------------------------------------


def test_training_curves_are_drawn_from_a_runs_log(tmp_path):
    records = [
        {"epoch": e + 1, "loss": 1 / (e + 1), "valid": {"auroc": 0.5 + e / 20, "map": 0.1}}
        for e in range(4)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert training_curves.training_curves(log, tmp_path / "plots") == "training.png"
    svg = (tmp_path / "plots" / "training.svg").read_text()
    assert "0.650" in svg  # the best validation AUROC is written beside its point


def test_a_log_that_is_being_written_is_drawn_as_far_as_it_goes(tmp_path):
    log = tmp_path / "log.jsonl"
    record = {"epoch": 1, "loss": 0.5, "valid": {"auroc": None, "map": 0.25}}
    log.write_text(json.dumps(record) + "\n" + '{"epoch": 2, "lo')
    assert training_curves.training_curves(log, tmp_path) == "training.png"
    assert "0.250" in (tmp_path / "training.svg").read_text()


def test_curves_of_two_runs_never_share_a_file(model_folder, tmp_path):
    runs = [tmp_path / name for name in ("a/k1.0", "a/k1.5", "b/k1.0")]
    for run_ in runs:
        run_.mkdir(parents=True)
        shutil.copy(model_folder / "config.json", run_)
        record = {"epoch": 1, "loss": 0.5, "valid": {"auroc": 0.5, "map": 0.25}}
        (run_ / "log.jsonl").write_text(json.dumps(record) + "\n")
    drawn = training_plots(argparse.Namespace(model=list(map(str, runs)), out=tmp_path))
    assert len(set(drawn)) == 3
    assert all((tmp_path / image).exists() for image in drawn)


# --- Plots --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2.5, 6.8])
def test_a_title_never_leaves_its_figure(width):
    drawn = Figure(figsize=(width, 3), layout="constrained")
    figure.add_heading(
        drawn, "ROC curves and AUROC", "a truth with a long name: 500 studies of W " * 3
    )
    drawn.draw_without_rendering()
    assert drawn._suptitle.get_window_extent().x1 <= drawn.bbox.x1


def test_twenty_models_look_different():
    looks = [grids.line_style(i, str(i), {"other"}) for i in range(20)]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 20
    markers = [(figure.colour_of(i), figure.pick(figure.MARKERS, i)) for i in range(20)]
    assert len(set(markers)) == 20


@pytest.mark.parametrize(("largest", "limit"), [(0.04, 0.05), (0.21, 0.3), (0.5, 0.6), (1.3, 1)])
def test_a_rare_finding_fills_its_panel(largest, limit):
    axis = Figure().subplots()
    grids._scale(axis, largest, square=True)
    assert axis.get_xlim() == axis.get_ylim() == pytest.approx((-0.02 * limit, 1.02 * limit))


def test_every_mark_of_calibration_lies_within_its_panel():
    """Also of a model whose errors are larger than the first one's."""
    truth = Truth("t", ("1", "2"), ("A",), np.array([[0.0], [1.0]]), np.array([1, 2]), "patient")
    models = [
        Predictions(name, ("A",), np.zeros((2, 1)), None, True, {}, "")
        for name in ("first", "other")
    ]
    results = {
        "models": {
            name: {
                "categories": {"A": {"auroc": 0.5, "ece": after}},
                "uncalibrated": {"A": {"ece": before}},
            }
            for name, before, after in (("first", 0.02, 0.01), ("other", 0.3, 0.2))
        }
    }
    figure = dots.calibration_dumbbells(results, truth, models)
    for axis in figure.axes:
        low, high = axis.get_xlim()
        assert low == 0
        assert high >= max(x for line in axis.lines[:2] for x in line.get_xdata())


def test_the_steps_of_precision_and_recall_enclose_the_average_precision():
    generator = np.random.default_rng(0)
    labels = generator.choice([0, 1, np.nan], 200, p=[0.6, 0.3, 0.1])
    scores = (generator.standard_normal(200) + np.nan_to_num(labels)).round(1)
    recall, precision = grids.precision_recall_steps(scores, labels)
    known = ~np.isnan(labels)
    expected = average_precision_score(labels[known], scores[known])
    assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(expected)
    assert (np.diff(recall) > 0).all()


def test_a_point_of_the_reliability_diagram_stands_for_enough_cases():
    labels = np.array([1.0] * 12 + [0.0] * 188 + [np.nan] * 40)
    probabilities = np.linspace(0, 1, 240)
    stated, observed, half = grids.reliability_points(probabilities, labels)
    assert len(stated) == 2  # of about eight positives each, were they spread evenly
    assert stated == pytest.approx([probabilities[:100].mean(), probabilities[100:200].mean()])
    assert observed == pytest.approx([0.12, 0])
    # Wilson's limits are the roots p of (0.12 - p)^2 = 1.96^2 p (1 - p) / 100.
    z = 1.96**2 / 100
    low, high = sorted(np.roots([1 + z, -0.24 - z, 0.12**2]))
    np.testing.assert_allclose([observed[0] - half[0, 0], observed[0] + half[1, 0]], [low, high])


def test_an_empty_log_gives_no_plot(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    assert training_curves.training_curves(tmp_path / "log.jsonl", tmp_path) is None
