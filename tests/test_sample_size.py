"""Sample sizes follow closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from train.metrics.delong import delong
from train.metrics.sample_size import auroc_error, detectable_difference, positives_needed


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
