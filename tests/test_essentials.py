"""Calibration, decision curves and distributions against direct definitions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix

from train.evaluation.essentials import essentials
from train.metrics.bootstrap import bootstrap_bins, bootstrap_totals
from train.metrics.calibration import recalibration
from train.metrics.calibration_curve import Bins, calibration_curve
from train.metrics.net_benefit import (
    THRESHOLDS,
    net_benefit,
    net_benefit_of_all,
    net_benefit_of_rates,
)
from train.metrics.smooth import Kernel, lowess


def drawn(n=400, slope=1.0, shift=0.0, seed=0):
    """Probabilities, and labels whose logits are slope x the stated ones + shift."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(-1, 1.2, n)
    truth = 1 / (1 + np.exp(-(slope * logit + shift)))
    return 1 / (1 + np.exp(-logit)), (generator.random(n) < truth).astype(float)


class TestLowess:
    def test_it_is_a_weighted_line_through_the_nearest_two_thirds(self):
        x, y = drawn(60)
        at = np.array([x.min(), 0.2, 0.31, x.max()])
        expected = []
        for place in at:
            near = np.argsort(np.abs(x - place))[:40]
            u = np.abs(x[near] - place) / np.abs(x[near] - place).max()
            line = np.polyfit(x[near], y[near], 1, w=np.sqrt((1 - u**3) ** 3))
            expected.append(np.polyval(line, place))
        assert lowess(x, y, at) == pytest.approx(expected, abs=1e-12)

    def test_films_with_one_probability_have_their_mean(self):
        assert lowess(np.full(5, 0.3), np.array([0, 1, 1, 0, 0.0]), [0.3]) == pytest.approx([0.4])

    def test_bins_of_single_films_give_the_same_curve(self):
        x, y = drawn(80)
        at = np.linspace(x.min(), x.max(), 7)
        order = np.argsort(x)
        curve = Kernel(x, x[order], at).curve(np.ones((1, 80)), y[order][None])
        assert curve[0] == pytest.approx(lowess(x, y, at), abs=1e-9)


class TestRecalibration:
    def test_labels_that_follow_a_law_give_that_law(self):
        p, y = drawn(40_000, slope=1.5, shift=0.4)
        found = recalibration(p, y, np.arange(len(y)))
        assert found.slope == pytest.approx(1.5, abs=0.05)
        assert found.slope_low < 1.5 < found.slope_high
        # In the large: with slope 1, the stated mean becomes the observed one.
        logit = np.log(p / (1 - p)) + found.intercept
        assert (1 / (1 + np.exp(-logit))).mean() == pytest.approx(y.mean(), abs=1e-9)

    def test_the_interval_of_independent_films_is_near_to_fisher_s(self):
        p, y = drawn(20_000)
        found = recalibration(p, y, np.arange(len(y)))
        error = 1 / np.sqrt(np.sum(p * (1 - p)))
        width = found.intercept_high - found.intercept_low
        assert width == pytest.approx(2 * 1.959964 * error, rel=0.02)

    def test_filming_every_patient_twice_tells_nothing_new(self):
        p, y = drawn(300)
        once = recalibration(p, y, np.arange(300))
        twice = recalibration(np.tile(p, 2), np.tile(y, 2), np.tile(np.arange(300), 2))
        assert vars(twice) == pytest.approx(vars(once), rel=1e-6)

    def test_unknown_labels_are_not_counted(self):
        p, y = drawn(300)
        more = recalibration(
            np.append(p, [0.5, 0.9]), np.append(y, [np.nan, np.nan]), np.arange(302)
        )
        assert vars(more) == pytest.approx(vars(recalibration(p, y, np.arange(300))))

    def test_one_class_or_two_patients_give_no_figures(self):
        p, y = drawn(50)
        assert np.isnan(list(vars(recalibration(p, np.zeros(50), np.arange(50))).values())).all()
        few = recalibration(p, y, np.arange(50) % 2)
        assert np.isfinite(few.slope)
        assert np.isnan([few.slope_low, few.intercept_low]).all()

    @pytest.mark.parametrize("stated", [1e-9, 1 - 1e-9])
    def test_absurd_probabilities_have_an_intercept_all_the_same(self, stated):
        y = np.array([0, 1, 0, 0.0])
        intercept = recalibration(np.full(4, stated), y, np.arange(4)).intercept
        logit = np.log(max(stated, 2.0**-24)) - np.log1p(-min(stated, 1 - 2.0**-24))
        assert 1 / (1 + np.exp(-(logit + intercept))) == pytest.approx(0.25, abs=1e-6)


class TestNetBenefit:
    def test_it_is_what_the_table_of_decisions_says(self):
        p, y = drawn(150)
        for i, value in zip((0, 9, 29, 70), net_benefit(p, y)[[0, 9, 29, 70]], strict=True):
            t = (i + 1) / 100
            (_, fp), (_, tp) = confusion_matrix(y, p >= t, labels=[0, 1])
            assert value == pytest.approx(tp / 150 - fp / 150 * t / (1 - t), abs=1e-12)

    def test_a_score_at_the_threshold_is_treated(self):
        benefit = net_benefit(np.array([0.07, 0.29]), np.array([1.0, 1.0]))
        assert benefit[[6, 7, 28, 29]].tolist() == [1, 0.5, 0.5, 0]

    def test_treating_all_is_a_model_that_always_says_one(self):
        y = np.array([1, 0, 0, np.nan, 1, 0])
        of_ones = net_benefit(np.ones(6), y)
        assert net_benefit_of_all(0.4) == pytest.approx(of_ones, abs=1e-12)

    def test_a_reader_is_a_model_of_zeros_and_ones(self):
        called, y = np.array([1, 1, 0, 0, 1, 0.0]), np.array([1, 0, 0, 1, 1, 0.0])
        expected = net_benefit(called, y)
        assert net_benefit_of_rates(2 / 3, 1 / 3, 0.5) == pytest.approx(expected, abs=1e-12)

    def test_without_a_known_label_there_is_none(self):
        assert np.isnan(net_benefit(np.array([0.5]), np.array([np.nan]))).all()


def test_bins_are_counted_as_totals_are():
    generator = np.random.default_rng(0)
    bins, groups = generator.integers(-1, 5, (40, 2)), generator.integers(0, 11, 40)
    found = bootstrap_bins(bins, 5, groups, replicates=70, seed=3)
    for c in range(2):
        one_hot = bins[:, [c]] == np.arange(5)
        assert (found[c] == bootstrap_totals(one_hot, groups, 70, 3)).all()


class TestCurve:
    @staticmethod
    def curve(p, y, groups=None):
        bins = Bins.of(p, y, THRESHOLDS)
        groups = np.arange(len(p)) if groups is None else groups
        index = np.where(bins.index < 0, -1, bins.index + bins.n * (y == 1))
        counts = bootstrap_bins(index[:, None], 2 * bins.n, groups, 200)[0].astype(float)
        positives = counts[:, bins.n :]
        return calibration_curve(p, y, bins, counts[:, : bins.n] + positives, positives)

    def test_the_distance_is_that_of_the_law_of_the_labels(self):
        p, y = drawn(20_000, slope=0.5)
        truth = 1 / (1 + np.exp(-0.5 * np.log(p / (1 - p))))
        found = self.curve(p, y)
        assert found.ici[0] == pytest.approx(np.abs(truth - p).mean(), abs=0.01)
        assert found.e90[0] == pytest.approx(np.quantile(np.abs(truth - p), 0.9), abs=0.03)
        assert found.ici_if_true < 0.006

    def test_probabilities_that_are_true_are_as_far_off_as_chance_says(self):
        found = [self.curve(*drawn(500, seed=seed)) for seed in range(20)]
        mean = np.mean([curve.ici[0] for curve in found])
        assert mean == pytest.approx(np.mean([curve.ici_if_true for curve in found]), rel=0.25)

    def test_the_interval_holds_the_curve_and_is_wider_by_patient(self):
        p, y = drawn(200)
        single = self.curve(p, y)
        paired = self.curve(np.repeat(p, 4), np.repeat(y, 4), np.repeat(np.arange(200), 4))
        inside = (single.low <= single.observed + 0.01) & (single.observed <= single.high + 0.01)
        assert inside.mean() > 0.95
        width = np.mean(single.high - single.low)
        assert np.mean(paired.high - paired.low) == pytest.approx(width, rel=0.1)

    def test_one_class_has_no_curve(self):
        assert self.curve(np.array([0.1, 0.2, 0.3]), np.zeros(3)) is None


class TestEssentials:
    def test_every_figure_is_there_and_the_intervals_hold_them(self):
        p, y = drawn(300)
        row = essentials(p[:, None], y[:, None], np.arange(300), ["Mass"], replicates=200)["Mass"]
        for name in ("calibration_slope", "calibration_intercept", "brier_skill"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        skill = 1 - brier_score_loss(y, p) / brier_score_loss(y, np.full(300, y.mean()))
        assert row["brier_skill"] == pytest.approx(skill)
        assert [t for t, *_ in row["net_benefit"]] == [i / 100 for i in range(1, 100)]
        assert [x for _, x, _ in row["net_benefit"]] == net_benefit(p, y).tolist()
        assert [x for *_, x in row["net_benefit"]] == net_benefit_of_all(y.mean()).tolist()
        limits = row["net_benefit_interval"]
        inside = [
            lo <= x <= hi for (_, x, _), (_, lo, hi) in zip(row["net_benefit"], limits, strict=True)
        ]
        assert np.mean(inside) > 0.95
        assert sum(row["distribution"]["positives"]["counts"]) == y.sum()
        assert sum(row["distribution"]["negatives"]["counts"]) == 300 - y.sum()

    def test_replicates_of_the_net_benefit_are_those_of_the_films_drawn(self):
        p, y = drawn(60)
        groups = np.arange(60) // 2
        row = essentials(p[:, None], y[:, None], groups, ["Mass"], replicates=50)["Mass"]
        treated = p >= 0.3
        totals = bootstrap_totals(
            np.stack([treated & (y == 1), treated & (y == 0), np.ones(60)], 1), groups, 50
        )
        benefit = (totals[:, 0] - totals[:, 1] * 3 / 7) / totals[:, 2]
        low, high = np.percentile(benefit, [2.5, 97.5])
        assert row["net_benefit_interval"][29] == pytest.approx([0.3, low, high])

    def test_scores_that_are_no_probabilities_have_none_of_it(self):
        p, y = drawn(30)
        for scores, flag in ((p + 0.5, True), (p, False)):
            found = essentials(
                scores[:, None], y[:, None], np.arange(30), ["Mass"], probabilities=flag
            )
            assert set(found["Mass"].values()) == {None}

    def test_a_category_of_one_class_keeps_what_is_defined(self):
        row = essentials(np.full((9, 1), 0.2), np.zeros((9, 1)), np.arange(9), ["Mass"])["Mass"]
        assert row["ici"] is row["calibration_slope"] is row["brier_skill"] is None
        assert row["net_benefit"][9] == pytest.approx([0.1, -1 / 9, -1 / 9])
        assert row["useful"] == []
