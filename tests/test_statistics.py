"""Bootstrap, DeLong and Holm against direct definitions and published figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from train.metrics import bootstrap as bootstrap_module
from train.metrics.bootstrap import (
    bootstrap_auroc,
    bootstrap_average_precision,
    bootstrap_bins,
    bootstrap_totals,
    draw_groups,
)
from train.metrics.calibration import calibration_error
from train.metrics.comparison import compare_bootstrap, compare_delong, compare_means, holm
from train.metrics.decisions import rates
from train.metrics.delong import delong
from train.metrics.roc import bootstrap_roc_band

BOOTSTRAPS = {
    "auroc": (bootstrap_auroc, roc_auc_score),
    "ap": (bootstrap_average_precision, average_precision_score),
}

# Albumin, total protein, K-G score and outcome of the patients that DeLong, DeLong and
# Clarke-Pearson (1988) report on, without the six of them that lack one of the tests.
OVARIAN = np.fromstring(
    """
    3.0 5.8 10 0  3.2 6.3  5 1  3.9 6.8  3 1  2.8 4.8  6 0  3.2 5.8  3 1  0.9 4.0  5 0
    2.5 5.7  8 0  1.6 5.6  5 1  3.8 5.7  5 1  3.7 6.7  6 1  3.2 5.4  4 1  3.8 6.6  6 1
    4.1 6.6  5 1  3.6 5.7  5 1  4.3 7.0  4 1  3.6 6.7  4 0  2.3 4.4  6 1  4.2 7.6  4 0
    4.0 6.6  6 0  3.5 5.8  6 1  3.8 6.8  7 1  3.0 4.7  8 0  4.5 7.4  5 1  3.7 7.4  5 1
    3.1 6.6  6 1  4.1 8.2  6 1  4.3 7.0  5 1  4.3 6.5  4 1  3.2 5.1  5 1  2.6 4.7  6 1
    3.3 6.8  6 0  1.7 4.0  7 0  3.7 6.1  5 1  3.3 6.3  7 1  4.2 7.7  6 1  3.5 6.2  5 1
    2.9 5.7  9 0  2.1 4.8  7 1  2.8 6.2  8 0  4.0 7.0  7 1  3.3 5.7  6 1  3.7 6.9  5 1
    3.6 6.6  5 1
    """,
    sep=" ",
).reshape(-1, 4)


@pytest.fixture
def films():
    """Scores with ties, labels with unknowns, several films a group."""
    generator = np.random.default_rng(0)
    labels = generator.choice([0, 1, np.nan], (90, 3), p=[0.5, 0.3, 0.2])
    scores = (generator.standard_normal((90, 3)) + np.nan_to_num(labels)).round(1)
    groups = generator.integers(0, 40, 90).astype(str)
    return scores, labels, groups


# --- Bootstrap ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bootstrap", [bootstrap_auroc, bootstrap_average_precision])
class TestRefusals:
    def test_shapes_that_do_not_fit(self, bootstrap):
        with pytest.raises(ValueError, match="shape"):
            bootstrap(np.zeros((4, 2)), np.zeros((4, 3)), np.arange(4))

    def test_a_group_too_few(self, bootstrap):
        with pytest.raises(ValueError, match="3 groups"):
            bootstrap(np.zeros((4, 2)), np.zeros((4, 2)), np.arange(3))

    def test_no_rows(self, bootstrap):
        with pytest.raises(ValueError, match="no rows"):
            bootstrap(np.zeros((0, 2)), np.zeros((0, 2)), np.arange(0))

    @pytest.mark.parametrize("level", [0, 1, 95])
    def test_a_level_that_is_no_share(self, bootstrap, level):
        with pytest.raises(ValueError, match="between 0 and 1"):
            bootstrap(np.ones((2, 1)), np.array([[0], [1]]), np.arange(2), level=level)

    def test_no_replicates(self, bootstrap):
        with pytest.raises(ValueError, match="at least one replicate"):
            bootstrap(np.ones((2, 1)), np.array([[0], [1]]), np.arange(2), replicates=0)


@pytest.mark.parametrize("name", BOOTSTRAPS)
def test_many_films_are_drawn_a_few_replicates_at_a_time_and_no_differently(
    films, name, monkeypatch
):
    expected = BOOTSTRAPS[name][0](*films, replicates=20, seed=3).replicates
    monkeypatch.setattr(bootstrap_module, "_MOST", 3 * len(films[0]))
    found = BOOTSTRAPS[name][0](*films, replicates=20, seed=3).replicates
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", BOOTSTRAPS)
def test_each_replicate_is_the_metric_of_the_films_drawn(films, name):
    bootstrap, reference = BOOTSTRAPS[name]
    scores, labels, groups = films
    result = bootstrap(scores, labels, groups, replicates=20, seed=3)
    names = np.unique(groups)
    (counts,) = draw_groups(len(names), 20, 3, block=20)
    for r in range(20):
        rows = [
            row
            for group, times in zip(names, counts[:, r], strict=True)
            for row in np.repeat(np.flatnonzero(groups == group), int(times))
        ]
        for c in range(3):
            y, s = labels[rows, c], scores[rows, c]
            known = ~np.isnan(y)
            expected = reference(y[known], s[known])
            assert result.replicates[r, c] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(result.low, np.percentile(result.replicates, 2.5, axis=0))
    np.testing.assert_allclose(result.high, np.percentile(result.replicates, 97.5, axis=0))


@pytest.mark.parametrize("name", BOOTSTRAPS)
def test_the_estimate_is_the_metric_of_all_films(films, name):
    bootstrap, reference = BOOTSTRAPS[name]
    scores, labels, groups = films
    result = bootstrap(scores, labels, groups, replicates=10)
    for c in range(3):
        known = ~np.isnan(labels[:, c])
        expected = reference(labels[known, c], scores[known, c])
        assert result.estimate[c] == pytest.approx(expected, abs=1e-12)
    assert result.mean == pytest.approx(result.estimate.mean())


def test_draws_do_not_depend_on_how_they_are_cut_into_blocks():
    whole = np.concatenate(list(draw_groups(17, 100, 5, block=100)), axis=1)
    cut = np.concatenate(list(draw_groups(17, 100, 5, block=7)), axis=1)
    np.testing.assert_array_equal(whole, cut)
    assert (whole.sum(axis=0) == 17).all()


@pytest.mark.parametrize("draw", [bootstrap_auroc, bootstrap_average_precision])
def test_labels_of_half_the_size_give_the_same_figures(films, draw):
    """They are not copied, and numbers of other kinds are."""
    scores, labels, groups = films
    plain = draw(scores, labels, groups, replicates=20)
    small = draw(scores, labels.astype(np.float32), groups, replicates=20)
    np.testing.assert_array_equal(small.replicates, plain.replicates)
    np.testing.assert_array_equal(small.estimate, plain.estimate)


def test_one_seed_gives_one_result_and_another_seed_another(films):
    first, again = (bootstrap_auroc(*films, replicates=50, seed=1) for _ in range(2))
    other = bootstrap_auroc(*films, replicates=50, seed=2)
    np.testing.assert_array_equal(first.replicates, again.replicates)
    assert (first.replicates != other.replicates).any()


def test_films_of_one_group_widen_the_interval():
    generator = np.random.default_rng(1)
    labels = (generator.random((60, 1)) < 0.4).astype(float)
    scores = generator.standard_normal((60, 1)) + labels
    four_times = [np.repeat(x, 4, axis=0) for x in (scores, labels)]
    by_patient = bootstrap_auroc(*four_times, np.repeat(np.arange(60), 4))
    by_film = bootstrap_auroc(*four_times, np.arange(240))
    alone = bootstrap_auroc(scores, labels, np.arange(60))
    np.testing.assert_allclose(by_patient.low, alone.low)
    assert by_film.high[0] - by_film.low[0] < 0.7 * (alone.high[0] - alone.low[0])


def test_a_category_with_one_class_is_nan_and_no_part_of_the_mean(films):
    scores, labels, groups = films
    labels = labels.copy()
    labels[:, 1] = np.where(np.isnan(labels[:, 1]), np.nan, 0)
    result = bootstrap_auroc(scores, labels, groups, replicates=50)
    assert np.isnan([result.estimate[1], result.low[1], result.high[1]]).all()
    assert result.mean == pytest.approx(result.estimate[[0, 2]].mean())
    assert result.mean_low < result.mean < result.mean_high


def test_without_any_defined_category_the_mean_is_nan():
    result = bootstrap_auroc(np.ones((3, 1)), np.zeros((3, 1)), np.arange(3), replicates=5)
    assert np.isnan([result.mean, result.mean_low, result.mean_high]).all()


def test_replicates_without_a_positive_are_left_out_of_the_interval():
    labels = np.zeros((12, 1))
    labels[0] = 1
    result = bootstrap_auroc(np.arange(12.0)[:, None], labels, np.arange(12), replicates=200)
    undefined = np.isnan(result.replicates[:, 0])
    assert 0.2 < undefined.mean() < 0.5  # (11/12)^12 = 0.35
    assert result.mean_low == result.mean_high == 0.0


def test_a_single_positive_patient_gives_no_interval():
    labels, groups = np.zeros((12, 2)), np.array([0, 0, *range(1, 11)])
    labels[[0, 1], 0] = 1
    labels[[1, 5], 1] = 1
    scores = np.arange(24.0).reshape(12, 2) % 7
    result = bootstrap_auroc(scores, labels, groups, replicates=50)
    assert np.isnan(result.low).tolist() == np.isnan(result.high).tolist() == [True, False]


def test_the_average_precision_of_positives_alone_is_one_without_an_interval():
    result = bootstrap_average_precision(np.arange(4.0)[:, None], np.ones((4, 1)), np.arange(4))
    assert (result.replicates == 1).all()
    assert np.isnan(result.low).all()


def test_the_mean_of_a_subset_uses_the_same_replicates(films):
    result = bootstrap_auroc(*films, replicates=100)
    mean, low, high = result.of_mean(np.array([0, 2]))
    assert mean == pytest.approx(result.estimate[[0, 2]].mean())
    of_pairs = result.replicates[:, [0, 2]].mean(axis=1)
    assert (low, high) == pytest.approx(tuple(np.percentile(of_pairs, [2.5, 97.5])))


def test_totals_are_sums_over_the_films_drawn(films):
    _, labels, groups = films
    values = np.nan_to_num(labels)
    totals = bootstrap_totals(values, groups, replicates=30, seed=4)
    names, index = np.unique(groups, return_inverse=True)
    counts = np.concatenate(list(draw_groups(len(names), 30, 4, block=30)), axis=1)
    np.testing.assert_allclose(totals, counts[index].T @ values)


def test_the_band_encloses_the_roc_curve():
    generator = np.random.default_rng(2)
    labels = (generator.random(300) < 0.3).astype(float)
    scores = generator.standard_normal(300) + labels
    grid = np.linspace(0.05, 0.95, 10)
    low, high = bootstrap_roc_band(scores, labels, np.arange(300), grid)
    curve = np.interp(grid, *roc_curve(labels, scores)[:2])
    assert ((low <= curve) & (curve <= high) & (low < high))[:-1].all()


def test_the_band_of_a_perfect_model_is_at_one():
    labels = np.array([0.0, 1.0, np.nan] * 20)
    low, high = bootstrap_roc_band(
        np.nan_to_num(labels), labels, np.arange(60), np.array([0.0, 0.5, 1.0]), replicates=20
    )
    np.testing.assert_array_equal([low, high], 1.0)


# --- Decisions and probabilities ----------------------------------------------------------------


def test_rates_equal_scikit_learn():
    generator = np.random.default_rng(3)
    y, called = generator.random(200) < 0.3, generator.random(200) < 0.4
    counts = ((y & called).sum(), (~y & called).sum(), (~y & ~called).sum(), (y & ~called).sum())
    expected = {
        "sensitivity": recall_score(y, called),
        "specificity": recall_score(~y, ~called),
        "ppv": precision_score(y, called),
        "f1": f1_score(y, called),
        "mcc": matthews_corrcoef(y, called),
    }
    assert {k: float(v) for k, v in rates(*counts).items()} == pytest.approx(expected)


def test_a_rate_that_divides_by_zero_is_nan_not_zero():
    result = rates(*np.array([[0, 0], [0, 3], [5, 2], [0, 0]]))
    assert np.isnan(result["sensitivity"]).all()
    assert np.isnan(result["ppv"][0])
    assert result["ppv"][1] == 0
    assert np.isnan(result["f1"][0])
    assert np.isnan(result["mcc"]).all()


def test_the_calibration_error_of_a_small_case_is_as_by_hand():
    # Bins of width 1/2: {0.1, 0.3} holds no positive, {0.6, 1.0} one of two; NaN is not counted.
    p, y = np.array([0.1, 0.3, 0.6, 1.0, 0.9]), np.array([0, 0, 1, 0, np.nan])
    assert calibration_error(p, y, bins=2) == pytest.approx((0.2 * 2 + 0.3 * 2) / 4)
    assert np.isnan(calibration_error(p, np.full(5, np.nan)))


# --- DeLong -------------------------------------------------------------------------------------


def direct_delong(scores, labels):
    """AUROCs and covariance by the definition, over all pairs."""
    kernels = []
    for row in scores:
        positive, negative = row[labels == 1][:, None], row[labels == 0][None]
        kernels.append((positive > negative) + 0.5 * (positive == negative))
    by_positive = np.stack([k.mean(axis=1) for k in kernels])
    by_negative = np.stack([k.mean(axis=0) for k in kernels])
    covariance = np.cov(by_positive) / by_positive.shape[1]
    return by_positive.mean(axis=1), covariance + np.cov(by_negative) / by_negative.shape[1]


def test_delong_gives_the_published_figures_of_its_own_example():
    """Areas, standard errors and tests as SAS documents them for PROC LOGISTIC (ROCCONTRAST)."""
    tests, benefit = OVARIAN[:, :3] * [1, 1, -1], OVARIAN[:, 3]
    fit = delong(tests.T, benefit)
    np.testing.assert_allclose(fit.estimate, [0.7366, 0.6478, 0.7258], atol=5e-5)
    errors = np.sqrt(np.diag(fit.covariance))
    np.testing.assert_allclose(errors, [0.0927, 0.1000, 0.1028], atol=5e-5)
    against = compare_delong(tests[:, :2], tests[:, [2, 2]], benefit[:, None].repeat(2, axis=1))
    np.testing.assert_allclose(against.difference, [0.0108, -0.0780], atol=5e-5)
    np.testing.assert_allclose(against.low, [-0.1761, -0.2830], atol=5e-5)
    np.testing.assert_allclose(against.high, [0.1976, 0.1271], atol=5e-5)
    np.testing.assert_allclose(against.p, [0.9102, 0.4561], atol=5e-5)


def test_delong_equals_the_definition_over_all_pairs():
    generator = np.random.default_rng(4)
    for _ in range(20):
        labels = (generator.random(50) < 0.4).astype(float)
        scores = (generator.standard_normal((3, 50)) + labels).round(1)
        estimate, covariance = direct_delong(scores, labels)
        for groups in (None, np.arange(50)):
            fit = delong(scores, labels, groups)
            np.testing.assert_allclose(fit.estimate, estimate, atol=1e-12)
            np.testing.assert_allclose(fit.covariance, covariance, atol=1e-12)


def test_repeating_every_film_of_a_patient_adds_no_evidence():
    generator = np.random.default_rng(5)
    labels = (generator.random(40) < 0.4).astype(float)
    scores = generator.standard_normal((2, 40)) + labels
    once = delong(scores, labels)
    thrice = delong(scores.repeat(3, axis=1), labels.repeat(3), np.arange(40).repeat(3))
    np.testing.assert_allclose(thrice.covariance, once.covariance, rtol=1e-9)


def test_delong_by_patient_agrees_with_the_bootstrap_by_patient():
    generator = np.random.default_rng(6)
    person = generator.standard_normal(150).repeat(4)  # what films of one patient have in common
    labels = (person + generator.standard_normal(600) > 1).astype(float)
    scores = person + generator.standard_normal(600)
    groups = np.arange(150).repeat(4)
    error = np.sqrt(delong(scores, labels, groups).covariance[0, 0])
    by_bootstrap = bootstrap_auroc(scores[:, None], labels[:, None], groups, replicates=4000)
    assert error == pytest.approx(by_bootstrap.replicates.std(), rel=0.1)
    assert error > 1.1 * np.sqrt(delong(scores, labels).covariance[0, 0])


@pytest.mark.parametrize("labels", [[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
def test_delong_has_no_variance_from_a_single_case(labels):
    fit = delong(np.arange(4.0), np.array(labels, dtype=float))
    assert np.isnan(fit.covariance).all()
    assert np.isnan(fit.interval()).all()


def test_the_interval_of_delong_stays_inside_zero_and_one():
    labels = np.array([0.0] * 10 + [1.0] * 3)
    scores = np.arange(13.0)
    scores[9] = 11.5
    low, high = delong(scores, labels).interval()
    assert 0 <= low[0] < high[0] == 1


# --- Comparisons --------------------------------------------------------------------------------


def test_a_model_does_not_differ_from_itself(films):
    scores, labels, groups = films
    by_delong = compare_delong(scores, 10 * scores - 3, labels, groups)
    result = bootstrap_auroc(scores, labels, groups, replicates=50)
    by_bootstrap, of_mean = compare_bootstrap(result, result)
    for comparison in (by_delong, by_bootstrap, of_mean):
        np.testing.assert_allclose(comparison.difference, 0, atol=1e-12)
        np.testing.assert_allclose(comparison.p, 1)


def test_the_two_comparisons_agree_where_both_hold():
    generator = np.random.default_rng(7)
    labels = (generator.random((800, 2)) < 0.3).astype(float)
    first = generator.standard_normal((800, 2)) + labels
    second = first + 2 * generator.standard_normal((800, 2))
    groups = np.arange(800)
    by_delong = compare_delong(first, second, labels, groups)
    draws = [bootstrap_auroc(s, labels, groups, replicates=2000) for s in (first, second)]
    by_bootstrap, of_mean = compare_bootstrap(*draws)
    np.testing.assert_allclose(by_delong.difference, by_bootstrap.difference)
    np.testing.assert_allclose(by_delong.low, by_bootstrap.low, atol=0.01)
    np.testing.assert_allclose(by_delong.high, by_bootstrap.high, atol=0.01)
    assert (by_delong.p < 1e-3).all()
    assert (by_bootstrap.p < 1e-2).all()
    assert of_mean.p[0] < 1e-2


def test_p_values_of_equally_good_models_are_uniform():
    generator = np.random.default_rng(8)
    labels = (np.arange(120) % 3 == 0).astype(float)[:, None].repeat(400, axis=1)
    first, second = (generator.standard_normal((120, 400)) + labels for _ in range(2))
    p = compare_delong(first, second, labels).p
    assert np.abs(np.quantile(p, [0.05, 0.25, 0.5, 0.75]) - [0.05, 0.25, 0.5, 0.75]).max() < 0.08


def test_the_means_over_some_categories_are_compared_replicate_by_replicate():
    generator = np.random.default_rng(10)
    labels = (generator.random((80, 3)) < 0.4).astype(float)
    labels[:, 1] = 0  # undefined, so no part of the mean
    scores = generator.standard_normal((2, 80, 3)) + labels
    first, second = (bootstrap_auroc(s, labels, np.arange(80), replicates=40) for s in scores)
    found = compare_means(first, second, np.array([0, 1]))
    assert found.difference[0] == first.estimate[0] - second.estimate[0]
    change = first.replicates[:, 0] - second.replicates[:, 0]
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(np.percentile(change, [2.5, 97.5])))
    smaller = min((change <= 0).sum(), (change >= 0).sum())
    assert found.p[0] == pytest.approx(min(2 * (smaller + 1) / 41, 1))
    assert np.isnan(compare_means(first, second, np.array([1])).p[0])


def test_an_undefined_comparison_is_nan():
    labels = np.zeros((6, 1))
    scores = np.random.default_rng(9).random((2, 6, 1))
    comparison = compare_delong(*scores, labels)
    assert np.isnan([comparison.difference, comparison.low, comparison.p, comparison.p_holm]).all()
    draws = [bootstrap_auroc(s, labels, np.arange(6), replicates=5) for s in scores]
    assert np.isnan(compare_bootstrap(*draws)[0].p).all()


def test_holm_corrects_as_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and no value below one before it.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_holm_stays_at_most_one_and_passes_over_nan():
    np.testing.assert_allclose(holm([0.9, np.nan, 0.8]), [1.0, np.nan, 1.0])
    assert holm(np.full(3, np.nan)).shape == (3,)


def test_threads_change_no_bit_of_a_replicate():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (5000, 3)).astype(float)
    scores, groups = generator.random((5000, 3)), np.arange(5000) // 3
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(
                (
                    bootstrap_auroc(scores, labels, groups, replicates=70).replicates,
                    bootstrap_bins((4 * scores).astype(int), 4, groups, replicates=70),
                )
            )
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert (one == other).all()
