"""Operating points and scalings that are chosen on some films and judged on others."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as reference_log_loss

from cft.model.calibration import GOAL, RULES, apply_platt, fit_platt, operating_point
from cft.model.odds import logit, sigmoid
from train.evaluation.cross_fit import POINTS, cross_fitted_point, deal, platt_if_it_helps
from train.evaluation.of_run import with_evidence
from train.evaluation.scores import evaluate_scores
from train.metrics.calibration import calibration_slope, log_loss


def cases(n, share=0.2, gap=1.5, seed=0, films=2):
    """(probabilities, labels, patients) of n films, so many of each patient, all independent."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < share).astype(float)
    return sigmoid(generator.normal(gap * labels, 1)), labels, np.arange(n) // films


# --- The rules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "wrong"), [(5, 0), (18, 0), (19, 0), (38, 0), (39, 1), (59, 2), (99, 4), (100, 4)]
)
def test_the_rules_leave_out_as_many_cases_as_split_conformal_prediction(n, wrong):
    """Worked by hand: the k-th of n holds for a new case with chance k / (n + 1)."""
    p = np.linspace(0.1, 0.9, n)
    others = np.full(5, 0.05), np.zeros(5)
    low = operating_point(np.append(p, others[0] * 0), np.append(np.ones(n), others[1]),
                          "sensitivity")  # fmt: skip
    assert low["sensitivity"] == pytest.approx(1 - wrong / n)
    high = operating_point(np.append(p, np.full(5, 0.99)), np.append(np.zeros(n), np.ones(5)),
                           "specificity")  # fmt: skip
    assert high["specificity"] == pytest.approx(1 - wrong / n)
    if n >= 19:
        assert (n - wrong) / (n + 1) >= GOAL > (n - wrong - 1) / (n + 1)


@pytest.mark.parametrize("rule", ["specificity", "sensitivity"])
def test_the_promise_holds_on_new_films(rule):
    """The mean over many draws of the share of new cases on the right side: at least the goal."""
    right = []
    for seed in range(300):
        p, y, _ = cases(160, share=0.4, seed=seed)
        t = operating_point(p, y, rule)["threshold"]
        p, y, _ = cases(4000, share=0.4, seed=10_000 + seed)
        right.append((p[y == 0] < t).mean() if rule == "specificity" else (p[y == 1] >= t).mean())
    assert GOAL - 0.003 < np.mean(right) < GOAL + 0.015


def test_where_every_film_scores_alike_specificity_calls_none_and_sensitivity_all():
    p, y = np.full(40, 0.5), np.arange(40) % 2
    assert operating_point(p, y, "specificity")["threshold"] > 0.5
    assert operating_point(p, y, "specificity")["sensitivity"] == 0
    assert operating_point(p, y, "sensitivity")["threshold"] <= 0.5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("highest", [1 - 2**-53, 1.0, 3.0])
def test_the_stated_figures_are_those_of_the_threshold_where_nothing_lies_between(rule, highest):
    """Half-way between neighbouring numbers is one of them, and a film at it would be called."""
    y = np.arange(40) % 5 == 0
    for lower in (0.2, np.nextafter(highest, 0), highest):
        p = np.r_[np.full(20, lower), np.full(20, highest)]
        point = operating_point(p, y.astype(float), rule)
        called = p >= point["threshold"]
        assert point["sensitivity"] == called[y].mean()
        assert point["specificity"] == pytest.approx(1 - called[~y].mean(), abs=1e-12)


# --- Cross-fitting ------------------------------------------------------------------------------


def test_patients_stay_together_and_every_rest_has_both_kinds():
    generator = np.random.default_rng(0)
    for seed in range(200):
        n = int(generator.integers(12, 60))
        groups, labels = generator.integers(0, 9, n), (generator.random(n) < 0.15).astype(float)
        fold = deal(labels, groups, seed=seed)
        assert all(len(set(fold[groups == g])) == 1 for g in groups)
        for value in (0, 1):
            if len(set(groups[labels == value])) > 1:
                assert all((labels[fold != k] == value).any() for k in set(fold))


def test_there_is_no_point_whose_threshold_is_no_probability():
    """No threshold up to 1 calls none of the films where some have probability 1."""
    p, y, patients = np.ones(60), (np.arange(60) % 3 == 0).astype(float), np.arange(60)
    assert cross_fitted_point(p, y, patients, "specificity", "specific") is None
    assert cross_fitted_point(p, y, patients, "sensitivity", "sensitive")["threshold"] <= 1
    assert cross_fitted_point(p / 2, y, patients, "specificity", "specific")["threshold"] > 0.5


def test_the_stated_figures_are_those_of_films_that_had_no_part():
    """On scores that say nothing, the best of many thresholds looks good; cross-fitted it does not.

    The reference is the truth: Youden's index of such scores is 0 at every threshold.
    """
    optimistic, honest = [], []
    for seed in range(60):
        p, y, groups = cases(60, share=0.3, gap=0, seed=seed)
        for found, point in (
            (optimistic, operating_point(p, y)),
            (honest, cross_fitted_point(p, y, groups, "youden", "balanced")),
        ):
            found.append(point["sensitivity"] + point["specificity"] - 1)
    assert np.mean(optimistic) > 0.15
    assert abs(np.mean(honest)) < 0.06


def test_the_threshold_is_that_of_all_films_and_unknown_labels_change_nothing():
    p, y, groups = cases(200)
    more = np.append(p, [0.5, 0.6]), np.append(y, [np.nan, np.nan]), np.append(groups, [7, 900])
    for name, rule in POINTS.items():
        point = cross_fitted_point(p, y, groups, rule, name)
        assert point["threshold"] == operating_point(p, y, rule)["threshold"]
        assert point["name"] == name
        assert "validation" in point["data"]
        assert cross_fitted_point(*more, rule, name) == point


@pytest.mark.parametrize("flip", [False, True])
def test_cases_of_a_single_patient_choose_nothing(flip):
    labels = np.repeat([1.0, 0.0], [6, 60])
    labels = 1 - labels if flip else labels
    groups = np.concatenate([np.zeros(6), np.arange(1, 61)])
    p = np.random.default_rng(0).random(66)
    assert operating_point(p, labels) is not None
    assert cross_fitted_point(p, labels, groups, "youden", "balanced") is None
    groups[0] = 99
    assert cross_fitted_point(p, labels, groups, "youden", "balanced") is not None


# --- Scaling ------------------------------------------------------------------------------------


def drawn(n, scale, seed=0):
    """Logits whose right scaling is known: the labels follow sigmoid(scale x logit)."""
    generator = np.random.default_rng(seed)
    x = generator.normal(0, 2, n)
    return x, (generator.random(n) < sigmoid(scale * x)).astype(float), np.arange(n)


@pytest.mark.slow
def test_scores_that_need_scaling_are_scaled_and_good_ones_are_left():
    x, y, groups = drawn(600, scale=0.3)
    platt, why = platt_if_it_helps(x, y, groups)
    assert platt == fit_platt(x, y)
    assert why["scaled"]
    assert why["log_loss_scaled"] < why["log_loss_as_trained"]
    kept = [platt_if_it_helps(*drawn(60, scale=1, seed=seed)) for seed in range(15)]
    assert sum(platt is None for platt, _ in kept) > 8  # fitted to the films it would always win
    for platt, why in kept:
        assert (platt is None) == (not why["scaled"])


def test_the_losses_are_of_films_that_had_no_part():
    x, y, groups = drawn(100, scale=0.5)
    _, why = platt_if_it_helps(x, y, groups)
    assert why["log_loss_as_trained"] == pytest.approx(reference_log_loss(y, sigmoid(x)))
    fold, scaled = deal(y, groups), np.empty(len(x))
    for k in range(5):
        scaled[fold == k] = apply_platt(x[fold == k], *fit_platt(x[fold != k], y[fold != k]))
    assert why["log_loss_scaled"] == pytest.approx(reference_log_loss(y, scaled))


def test_too_few_cases_say_nothing_about_scaling():
    assert platt_if_it_helps(np.arange(20.0), np.arange(20) < 4, np.arange(20)) == (None, None)


def test_the_slope_is_scikit_learns_and_that_of_the_law_that_drew_the_labels():
    x, y, _ = drawn(400, scale=0.5)
    reference = LogisticRegression(C=np.inf, tol=1e-8).fit(x[:, None], y).coef_[0, 0]
    assert calibration_slope(sigmoid(x), y) == pytest.approx(reference, abs=1e-4)
    x, y, _ = drawn(40_000, scale=0.5)
    assert calibration_slope(sigmoid(x), y) == pytest.approx(0.5, abs=0.02)
    more = np.append(y, np.nan)
    assert calibration_slope(np.append(sigmoid(x), 0.3), more) == calibration_slope(sigmoid(x), y)


@pytest.mark.parametrize(
    ("p", "y"),
    [([0.2, 0.3], [1, 1]), ([0.2, 0.2], [0, 1]), ([0.1, 0.9], [0, 1]), ([0.5], [np.nan])],
)
def test_a_slope_that_is_not_defined_is_nan(p, y):
    assert np.isnan(calibration_slope(np.array(p), np.array(y, float)))


def test_certainty_has_a_finite_log_loss():
    assert np.isfinite(log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0])))
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()


# --- Figures ------------------------------------------------------------------------------------


def test_each_point_has_its_rates_and_what_it_does_on_films_without_findings():
    y = np.array([[0, 0], [0, 0], [0, np.nan], [1, 0], [0, 1], [1, 1]], float)
    p = np.array([[0.1, 0.2], [0.6, 0.7], [0.9, 0.9], [0.8, 0.1], [0.3, 0.9], [0.4, 0.6]])
    points = {"low": {"A": 0.5, "B": 0.5}, "high": {"A": 0.95, "B": None}}
    found = evaluate_scores(p, y, np.arange(6), ("A", "B"), named_points=points, replicates=20)
    low, high = found["points"]["low"], found["points"]["high"]
    assert low["categories"]["A"]["sensitivity"] == 0.5  # 0.8 of 0.8 and 0.4
    assert low["categories"]["A"]["specificity"] == 0.5  # 0.1 and 0.3 of four
    assert low["categories"]["A"]["sensitivity_low"] <= 0.5
    assert low["normal"] == {"films": 2, "findings": 1.0, "quiet": 0.5}
    assert high["decided"] == ["A"]
    assert high["normal"] == {"films": 4, "findings": 0.0, "quiet": 1.0}  # A alone is decided
    assert high["categories"]["B"]["sensitivity"] is None


def test_a_category_is_marked_only_if_no_test_shows_that_it_is_ranked_better_than_chance():
    def test_set(**lows):
        return {"categories": {label: {"ci_low": low} for label, low in lows.items()}}

    tests = {
        "one": test_set(Good=0.6, Bad=0.4, Edge=0.5, Once=0.45, Undefined=None),
        "two": test_set(Good=0.4, Bad=0.3, Once=0.51),
    }
    categories = {x: {"platt": None} for x in ("Good", "Bad", "Edge", "Once", "Undefined", "New")}
    marked = with_evidence(categories, tests)
    assert {x for x, row in marked.items() if row.get("evidence") == "none"} == {
        "Bad", "Edge", "Undefined",
    }  # fmt: skip
    assert "evidence" not in marked["New"]
    assert "evidence" not in categories["Bad"]
