"""Platt scaling and operating points against scipy, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score, roc_curve

from cft.model.calibration import MIN_CASES, apply_platt, fit_platt, operating_point
from cft.model.odds import fit_line


def cases(n=400, slope=1.5, bias=-1.0, seed=0):
    """Scores in unusual units, and labels that follow a logistic law of them."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(3, 20, n)
    truth = 1 / (1 + np.exp(-(slope * (scores - 3) / 20 + bias)))
    return scores, (generator.random(n) < truth).astype(float)


def reference_fit(scores, labels):
    """Minimise Platt's objective, as he writes it, with a general optimiser."""
    n1, n0 = labels.sum(), (1 - labels).sum()
    t = np.where(labels == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))

    def objective(p):
        z = p[0] * scores + p[1]
        return np.sum(np.logaddexp(0, z) - t * z)

    return minimize(objective, [0.01, 0.0], method="Nelder-Mead", options={"xatol": 1e-9,
                    "fatol": 1e-12, "maxiter": 10_000}).x  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_fit_minimises_platts_objective(seed):
    scores, labels = cases(seed=seed)
    np.testing.assert_allclose(fit_platt(scores, labels), reference_fit(scores, labels), rtol=1e-3)


@pytest.mark.parametrize(("n", "slope", "bias"), [(40, 1.5, 0), (3000, 0.3, -5), (2000, 9, 3)])
def test_the_fit_is_that_of_a_general_solver(n, slope, bias):
    scores, labels = cases(n, slope, bias)
    labels[:MIN_CASES], labels[MIN_CASES : 2 * MIN_CASES] = 1, 0
    n1, n0 = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    # A soft target is a film counted as both: positive with weight t, negative with 1 - t.
    solver = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(
        np.concatenate([scores, scores])[:, None] / 20,
        np.repeat([1, 0], n),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    expected = solver.coef_[0, 0] / 20, solver.intercept_[0]
    np.testing.assert_allclose(fit_platt(scores, labels), expected, rtol=1e-4, atol=1e-6)


def test_a_line_is_found_from_where_newtons_method_alone_would_diverge():
    """One positive far from the others, where the curve is flat at the start."""
    x = np.concatenate([np.full(2000, -0.02), [44.0, 45.0]])
    targets = np.concatenate([np.full(2000, 1e-4), [0.9, 0.99]])
    x = (x - x.mean()) / x.std()
    slope, intercept = fit_line(x, targets)
    p = 1 / (1 + np.exp(-(slope * x + intercept)))
    np.testing.assert_allclose([(p - targets).sum(), (p - targets) @ x], 0, atol=1e-6)


def test_unknown_labels_are_left_out():
    scores, labels = cases()
    more_scores = np.concatenate([scores, np.full(100, 1e3)])
    more_labels = np.concatenate([labels, np.full(100, np.nan)])
    assert fit_platt(more_scores, more_labels) == fit_platt(scores, labels)
    probabilities = apply_platt(scores, 0.1, 0)
    assert operating_point(np.append(probabilities, 0.5), np.append(labels, np.nan)) == (
        operating_point(probabilities, labels)
    )


@pytest.mark.parametrize("rare", [0.0, 1.0])
def test_too_few_cases_of_either_kind_give_nothing(rare):
    labels = np.full(200, 1 - rare)
    labels[: MIN_CASES - 1] = rare
    scores = np.random.default_rng(0).random(200)
    assert fit_platt(scores, labels) is None
    assert operating_point(scores, labels) is None
    labels[MIN_CASES - 1] = rare
    assert fit_platt(scores, labels) is not None
    assert operating_point(scores, labels) is not None


def test_separable_scores_give_finite_numbers():
    scale, bias = fit_platt(np.arange(40.0), np.arange(40) >= 20)
    assert 0 < scale < 10
    assert np.isfinite(bias)


def test_a_ranking_never_turns_round():
    scores, labels = cases()
    scale, bias = fit_platt(-scores, labels)
    assert scale > 0
    probabilities = apply_platt(-scores, scale, bias)
    assert roc_auc_score(labels, probabilities) == roc_auc_score(labels, -scores)
    assert np.abs(probabilities - labels.mean()).max() < 0.01


def test_constant_scores_give_the_share_of_positives():
    labels = np.repeat([1.0, 0.0], [10, 30])
    scale, bias = fit_platt(np.full(40, 7.0), labels)
    # Platt's own smoothing moves the share a little towards one half.
    assert apply_platt(7.0, scale, bias) == pytest.approx((10 * 11 / 12 + 30 / 32) / 40, abs=1e-6)


def test_huge_logits_do_not_overflow():
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_array_equal(apply_platt(np.array([-800.0, 800.0]), 1, 0) > 0.5, [0, 1])


def test_calibration_keeps_the_mean():
    scores, labels = cases(n=2000)
    assert apply_platt(scores, *fit_platt(scores, labels)).mean() == pytest.approx(
        labels.mean(), abs=0.002
    )


@pytest.mark.parametrize("ties", [False, True])
def test_the_operating_point_is_the_best_of_the_roc_curve(ties):
    scores, labels = cases()
    probabilities = apply_platt(scores, 0.1, -1)
    if ties:
        probabilities = probabilities.round(1)
    false_positive, true_positive, _ = roc_curve(labels, probabilities, drop_intermediate=False)
    point = operating_point(probabilities, labels)
    assert point["sensitivity"] + point["specificity"] - 1 == pytest.approx(
        (true_positive - false_positive).max()
    )
    called = probabilities >= point["threshold"]
    assert called[labels == 1].mean() == pytest.approx(point["sensitivity"])
    assert (~called)[labels == 0].mean() == pytest.approx(point["specificity"])
    assert point["rule"] == "youden"


def test_the_best_f1_is_that_of_scikit_learn_where_the_lowest_film_is_a_positive():
    """All positives count in F1, those below every threshold too."""
    scores, labels = cases()
    probabilities = apply_platt(scores, 0.1, -1)
    labels[np.argmin(probabilities)] = 1
    point = operating_point(probabilities, labels, rule="f1")
    found = f1_score(labels, probabilities >= point["threshold"])
    called = [probabilities >= value for value in np.unique(probabilities)]
    assert found == max(f1_score(labels, one) for one in called)
    few = np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.0, 1.0])
    # All of them called: F1 is 0.8; the threshold is the lowest of all.
    assert operating_point(*few, rule="f1", min_cases=1)["threshold"] == pytest.approx(0.1)
    few = np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 0.0, 0.0, 1.0])
    # 2 of 4 called for nothing: F1 is 2/3 with all or with the last alone, which errs less.
    assert operating_point(*few, rule="f1", min_cases=1)["threshold"] == pytest.approx(0.35)


def test_the_threshold_lies_between_the_films_it_separates():
    point = operating_point(np.repeat([0.2, 0.6], 10), np.repeat([0.0, 1.0], 10))
    assert point["threshold"] == pytest.approx(0.4)
    assert (point["sensitivity"], point["specificity"]) == (1, 1)


def test_an_unknown_rule_is_refused_by_name():
    with pytest.raises(ValueError, match="no rule 'best'"):
        operating_point(np.zeros(3), np.zeros(3), rule="best")
