"""Stage 2 on arrays, as a notebook uses it: every method by name, with one interface."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from train.errors import CheckpointError
from train.stage2 import methods
from train.stage2.finished import Finished
from train.stage2.methods import METHODS, PRESETS, BestByValidation, method_of, tune
from train.stage2.task import Films, Head, Task, Tuned, TuneSettings

pytestmark = pytest.mark.slow

LABELS = ("Here", "There", "Never")


def problem(off: float, films: int = 400) -> tuple[Films, Films, Head]:
    """Two categories whose trained regressions are off by so much, and one without cases."""
    draw = np.random.default_rng(0)
    truth = draw.normal(size=(3, 6)).astype(np.float32)
    sides = []
    for number in (films, films):
        z = draw.normal(size=(number, 6)).astype(np.float32)
        y = (z @ truth.T + draw.logistic(size=(number, 3)) > 1).astype(np.float32)
        y[draw.random(y.shape) < 0.3] = np.nan
        y[:, 2] = np.nan
        sides.append(Films(z, y))
    trained = truth + draw.normal(0, off, truth.shape).astype(np.float32)
    return *sides, Head(trained, np.zeros(3, np.float32), LABELS)


def validation(train: Films, valid: Films, head: Head, tuned: Tuned) -> np.ndarray:
    """(2, C) the metric on validation films before and after."""
    task = Task(train, valid, head)
    return np.stack([task.validation(x) for x in (task.trained_scores, tuned.valid_scores)])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_same_interface(method):
    train, valid, head = problem(off=0.02, films=120)
    tuned = tune(train, valid, head, TuneSettings(method=method))
    assert tuned.head.weights.shape == head.weights.shape
    assert tuned.head.biases.shape == head.biases.shape
    assert tuned.valid_scores.shape == valid.y.shape
    assert tuned.methods[2] == "original"
    np.testing.assert_array_equal(tuned.head.weights[2], head.weights[2])
    before, after = validation(train, valid, head, tuned)
    if method in ("gradient", "greedy"):
        assert (after[:2] >= before[:2]).all()


@pytest.mark.parametrize("method", ["auto", "ga"])
def test_regressions_that_are_far_off_are_mended(method):
    train, valid, head = problem(off=1.0)
    before, after = validation(
        train, valid, head, tune(train, valid, head, TuneSettings(method=method))
    )
    assert (after[:2] > before[:2]).all()


def test_the_arrays_that_were_given_stay_as_they_were():
    train, valid, head = problem(off=1.0)
    before = head.copy()
    tune(train, valid, head)
    np.testing.assert_array_equal(head.weights, before.weights)
    np.testing.assert_array_equal(head.biases, before.biases)


@dataclass(frozen=True)
class _Doubled:
    """The trained regressions times two: every ranking, so every metric, stays as it was."""

    name: str = "doubled"

    def fit(self, task: Task) -> tuple[Head, dict]:
        return replace(task.head, weights=2 * task.head.weights), {}


def test_a_fit_that_only_equals_the_trained_regression_does_not_replace_it():
    train, valid, head = problem(off=0.02, films=120)
    tuned = BestByValidation([_Doubled()]).tune(Task(train, valid, head))
    before, after = validation(train, valid, head, tuned)
    np.testing.assert_array_equal(before[:2], after[:2])
    assert tuned.methods == ["original"] * 3
    np.testing.assert_array_equal(tuned.head.weights, head.weights)


def test_an_unknown_method_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"no method 'magic'; choose from auto, ga, gradient"):
        method_of(TuneSettings(method="magic"))


def test_the_published_recipe_runs_the_published_search():
    fits = method_of(PRESETS["paper"]).fits
    assert [fit.name for fit in fits] == ["gradient", "ga"]
    assert not fits[1].genetic.guided


def test_the_state_of_another_search_is_refused_by_its_category():
    train, valid, head = problem(off=0.02, films=120)
    finished = Finished()
    finished.keep("ga-state/0", {"of": np.array(1)})
    with pytest.raises(
        CheckpointError, match=r"^Here: the state of the search is of other.*--out$"
    ):
        METHODS["ga"][0]().tune(Task(train, valid, head, finished=finished))


def test_finished_parts_are_gone_on_with_and_those_of_other_work_refused(tmp_path, monkeypatch):
    train, valid, head = problem(off=0.02, films=120)
    settings = TuneSettings(method="gradient")
    kept = tmp_path / "parts.safetensors"
    first = tune(train, valid, head, settings, keep=kept)
    monkeypatch.setattr(methods, "descend", None)  # fitting again would fail
    again = tune(train, valid, head, settings, keep=kept)
    np.testing.assert_array_equal(again.head.weights, first.head.weights)
    for other in (
        (Films(train.z[:50], train.y[:50]), valid, head, settings),
        (train, valid, replace(head, biases=head.biases + 1), settings),
        (train, valid, head, replace(settings, seed=1)),
    ):
        with pytest.raises(CheckpointError, match="made from another model, other films"):
            tune(*other, keep=kept)
