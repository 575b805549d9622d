"""Gaps of subgroups against scikit-learn and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from train.evaluation.subgroup_gaps import subgroup_gaps


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
