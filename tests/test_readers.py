"""Models beside readers, against a search over all thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from train.evaluation.against_readers import beside_readers
from train.evaluation.predictions import Predictions, Truth
from train.metrics.bootstrap import draw_groups
from train.metrics.readers import sensitivity_beside_reader


def by_search(scores, decisions, labels, weights):
    known = ~np.isnan(decisions) & ~np.isnan(labels)
    s, d, y, w = scores[known], decisions[known], labels[known], weights[known]
    alarms = (w * ((d == 1) & (y == 0))).sum()
    found = [0.0]
    for t in np.unique(s):
        if (w * ((s >= t) & (y == 0))).sum() <= alarms:
            found.append((w * ((s >= t) & (y == 1))).sum())
    positives = (w * (y == 1)).sum()
    return max(found) / positives, (w * ((d == 1) & (y == 1))).sum() / positives


@pytest.fixture
def films():
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 90).astype(float)
    y[:4] = np.nan
    scores = np.round(np.nan_to_num(y) + generator.normal(size=90), 1)  # with ties
    decisions = (np.nan_to_num(y) + generator.normal(size=90) > 0.5).astype(float)
    decisions[80:] = np.nan
    return scores, decisions, y, np.arange(90) // 2


def test_each_replicate_is_the_search_over_the_films_drawn(films):
    scores, decisions, y, groups = films
    estimate, drawn = sensitivity_beside_reader(*films, replicates=30, seed=1)
    assert estimate == pytest.approx(by_search(scores, decisions, y, np.ones(90)))
    counts = next(draw_groups(45, 30, 1, block=30))
    expected = [by_search(scores, decisions, y, column[groups]) for column in counts.T]
    assert drawn == pytest.approx(np.array(expected))


def test_a_reader_who_calls_what_the_model_calls_is_its_equal(films):
    scores, _, y, groups = films
    estimate, drawn = sensitivity_beside_reader(
        scores, (scores >= 0.5).astype(float), y, groups, replicates=50
    )
    assert estimate[0] == estimate[1]
    assert (drawn[:, 0] >= drawn[:, 1]).all()


def test_without_a_positive_nothing_is_compared():
    scores, y = np.array([0.1, 0.2]), np.zeros(2)
    estimate, drawn = sensitivity_beside_reader(scores, y, y, np.arange(2), replicates=5)
    assert np.isnan(estimate).all()
    assert np.isnan(drawn).all()


def test_p_is_corrected_over_labels_and_readers(films):
    scores, decisions, y, groups = films
    truth = Truth("t", tuple(map(str, range(90))), ("A",), y[:, None], groups, "patient")
    readers = [Predictions(name, ("A",), decisions[:, None]) for name in ("r1", "r2", "r3")]
    model = Predictions("m", ("A",), scores[:, None])
    found = beside_readers(truth, model, readers, replicates=100)["A"]
    assert list(found) == ["r1", "r2", "r3"]
    assert found["r1"]["low"] <= found["r1"]["difference"] <= found["r1"]["high"]
    assert found["r1"]["p_holm"] == pytest.approx(min(1, 3 * found["r1"]["p"]))
