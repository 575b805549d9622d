"""Gaps of subgroups against scikit-learn and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import recall_score, roc_auc_score

from train.evaluation.predictions import Predictions, Truth
from train.evaluation.protocol import Settings, evaluate_models
from train.evaluation.subgroup_gaps import subgroup_gaps
from train.evaluation.subgroup_tables import rate_parts
from train.tables import Table


@pytest.fixture(scope="module")
def films():
    generator = np.random.default_rng(1)
    y = generator.integers(0, 2, (300, 2)).astype(float)
    y[:20, 1] = np.nan
    p = 1 / (1 + np.exp(-(2 * y.astype(float) - 1 + generator.normal(size=(300, 2)))))
    return np.nan_to_num(p, nan=0.5), y, np.arange(300) // 2


def gaps(films, subgroups, thresholds=(0.5, None), **settings):
    settings = {"replicates": 200, **settings}
    return subgroup_gaps(*films, ["A", "B"], subgroups, thresholds, [True, True], **settings)


def test_a_gap_is_the_difference_of_scikit_learn_s_figures(films):
    p, y, _ = films
    rows = {"F": np.arange(120), "M": np.arange(120, 300)}
    found = gaps(films, {"sex": rows})["sex"]
    assert list(found) == ["F"]  # the gap of the other is the same with another sign
    assert found["F"]["against"] == "M"
    row = found["F"]["categories"]["A"]
    f, m = rows["F"], rows["M"]
    area = roc_auc_score(y[f, 0], p[f, 0]) - roc_auc_score(y[m, 0], p[m, 0])
    assert row["auroc"]["difference"] == pytest.approx(area)
    recall = [recall_score(y[x, 0], p[x, 0] >= 0.5) for x in (f, m)]
    assert row["sensitivity"]["difference"] == pytest.approx(recall[0] - recall[1])
    surplus = [(y[x, 0] - p[x, 0]).mean() for x in (f, m)]
    assert row["in_the_large"]["difference"] == pytest.approx(surplus[0] - surplus[1])
    assert row["auroc"]["low"] < area < row["auroc"]["high"]
    assert found["F"]["categories"]["B"]["sensitivity"]["difference"] is None  # no threshold
    assert found["F"]["categories"]["B"]["in_the_large"]["difference"] is not None


def test_one_of_three_values_is_compared_with_both_others(films):
    p, y, _ = films
    rows = {"a": np.arange(100), "b": np.arange(100, 200), "c": np.arange(200, 280)}
    found = gaps(films, {"age": rows})["age"]
    assert list(found) == ["a", "b", "c"]
    rest = np.concatenate([rows["b"], rows["c"]])  # the last 20 films have no age
    area = roc_auc_score(y[:100, 0], p[:100, 0]) - roc_auc_score(y[rest, 0], p[rest, 0])
    assert found["a"]["categories"]["A"]["auroc"]["difference"] == pytest.approx(area)


def test_no_gap_is_found_where_there_is_none_and_a_large_one_is(films):
    p, y, groups = films
    same = gaps(films, {"sex": {"F": np.arange(0, 150), "M": np.arange(150, 300)}})
    assert same["sex"]["F"]["categories"]["A"]["auroc"]["p_holm"] > 0.05
    spoilt = p.copy()
    spoilt[:150] = 1 - spoilt[:150]
    other = gaps((spoilt, y, groups), {"sex": {"F": np.arange(150), "M": np.arange(150, 300)}})
    row = other["sex"]["F"]["categories"]["A"]["auroc"]
    assert row["high"] < -0.3
    assert row["p_holm"] == pytest.approx(2 * row["p"])  # two categories are tested


def test_few_patients_have_no_interval(films):
    found = gaps(films, {"sex": {"F": np.arange(12), "M": np.arange(12, 300)}})["sex"]["F"]
    row = found["categories"]["A"]["auroc"]
    assert row["difference"] is not None
    assert row["low"] is row["p"] is row["p_holm"] is None
    assert found["groups"] == 6


@pytest.fixture(scope="module")
def reported(films):
    p, y, groups = films
    sex = np.where(np.arange(300) < 120, "F", "M")
    truth = Truth("t", tuple(map(str, range(300))), ("A", "B"), y, groups, "patient", {"sex": sex})
    model = Predictions("m", ("A", "B"), p, operating_points={"A": 0.5})
    settings = Settings(replicates=2000)
    return evaluate_models(truth, [model], settings=settings)["models"]["m"]["subgroups"]


def test_each_subgroup_has_its_rates_and_its_calibration_in_the_large(films, reported):
    p, y, _ = films
    f = np.arange(120)
    row = reported["sex"]["F"]["categories"]["A"]
    assert row["sensitivity"] == pytest.approx(recall_score(y[f, 0], p[f, 0] >= 0.5))
    assert row["specificity"] == pytest.approx(recall_score(1 - y[f, 0], p[f, 0] < 0.5))
    assert row["in_the_large"] == pytest.approx((y[f, 0] - p[f, 0]).mean())
    # Patients have two films each, so the interval is that of the mean over patients.
    of_patients = (y[f, 0] - p[f, 0]).reshape(-1, 2).mean(axis=1)
    ends = row["in_the_large_low"], row["in_the_large_high"]
    limits = stats.norm.interval(0.95, of_patients.mean(), stats.sem(of_patients))
    assert ends == pytest.approx(limits, abs=0.01)
    assert reported["sex"]["F"]["categories"]["B"]["sensitivity"] is None
    second = reported["sex"]["M"]["categories"]["B"]
    assert second["in_the_large"] == pytest.approx(np.nanmean(y[120:, 1] - p[120:, 1]))


def test_the_report_shows_the_rates_of_each_subgroup(reported):
    (rows,) = [part.rows for part in rate_parts(reported) if isinstance(part, Table)]
    assert [row[:3] for row in rows[1:]] == [
        [value, n, label] for value, n in (("F", "120"), ("M", "180")) for label in "AB"
    ]
    row = reported["sex"]["M"]["categories"]["A"]
    low, high = row["in_the_large_low"], row["in_the_large_high"]
    assert rows[3][6] == f"{row['in_the_large']:+.4f} ({low:+.4f} to {high:+.4f})"
    assert rows[4][4] == ""  # no threshold


def test_scores_that_are_no_probabilities_have_no_calibration_in_the_large(films):
    p, y, groups = films
    sex = np.where(np.arange(300) < 299, "F", "M")
    truth = Truth("t", tuple(map(str, range(300))), ("A", "B"), y, groups, "patient", {"sex": sex})
    models = [Predictions("ranks", ("A", "B"), 2 * p), Predictions("m", ("A", "B"), p)]
    found = evaluate_models(truth, models, settings=Settings(replicates=20))["models"]
    assert found["ranks"]["subgroups"]["sex"]["F"]["categories"]["A"]["in_the_large"] is None
    assert rate_parts(found["ranks"]["subgroups"]) == []
    alone = found["m"]["subgroups"]["sex"]["M"]["categories"]["A"]
    assert alone["in_the_large"] == pytest.approx(y[299, 0] - p[299, 0])
    assert alone["in_the_large_low"] is None
