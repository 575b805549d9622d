"""Conformal thresholds keep their promise; sample sizes follow closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from train.metrics.conformal import bands, p_values
from train.metrics.delong import delong
from train.metrics.sample_size import auroc_error, detectable_difference, positives_needed


def test_no_more_new_films_are_ruled_wrongly_than_was_said():
    generator = np.random.default_rng(0)
    wrong = np.zeros(2)
    for _ in range(4000):
        y = np.array([1.0] * 30 + [0] * 50)
        low, high = bands(generator.normal(size=80) + y, y, error=0.1)
        wrong += generator.normal() + 1 < low, generator.normal() > high
    # A rank of 31 or 51 is at most the k-th with chance k / (n + 1), k rounded down.
    assert wrong / 4000 == pytest.approx([3 / 31, 5 / 51], abs=0.015)


def test_every_order_of_five_films_gives_the_exact_rate():
    ruled = [
        bands(np.array(order[:4], float), np.ones(4), error=0.2)[0] > order[4]
        for order in itertools.permutations(range(5))
    ]
    assert np.mean(ruled) == pytest.approx(0.2)


def test_too_few_films_rule_nothing():
    y = np.array([1, 0, np.nan])
    assert bands(np.array([0.2, 0.3, 0.9]), y, 0.05) == (-np.inf, np.inf)


@pytest.mark.parametrize("error", [0, 1, -0.1])
def test_an_error_rate_is_a_share(error):
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        bands(np.array([0.2]), np.array([1.0]), error)


def test_p_values_are_ranks():
    found = p_values(np.array([0.05, 0.2, 0.9]), np.array([0.1, 0.2, 0.3]))
    assert found.tolist() == [0.25, 0.75, 1.0]


def test_the_formula_s_error_is_near_to_delong_s():
    generator = np.random.default_rng(0)
    y = np.repeat([1.0, 0.0], [400, 1600])
    # The formula holds exactly for exponential scores.
    fit = delong((generator.exponential(size=2000) * (1 + 3 * y))[None], y, None)
    expected = auroc_error(fit.estimate[0], 400, 1600)
    assert np.sqrt(fit.covariance[0, 0]) == pytest.approx(expected, rel=0.06)


def test_so_many_positives_and_not_one_less():
    n = positives_needed(0.8, 0.1, 0.05)

    def width(positives):
        return 2 * 1.959964 * auroc_error(0.8, positives, 9 * positives)

    assert width(n) <= 0.05 < width(n - 1)
    assert positives_needed(0.8, 0.1, 0.05, now=(50, 2 * width(50))) > 3 * n  # films that depend


def test_a_difference_of_2_8_errors_is_found_four_times_in_five():
    generator = np.random.default_rng(0)
    difference = detectable_difference(0.01)
    assert difference == pytest.approx(0.028, abs=1e-4)
    drawn = difference + 0.01 * generator.normal(size=20_000)
    assert (np.abs(drawn) > 1.959964 * 0.01).mean() == pytest.approx(0.8, abs=0.01)
