"""What bands cover on test films: counted by hand, against crepes, and in a report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cft.model.conformal import Band, conformal_band
from train.evaluation.coverage import RATES, band_coverage
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.protocol import Settings, evaluate_models
from train.evaluation.report import markdown
from train.evaluation.report_page import report_page
from train.metrics.decisions import wilson_interval


def drawn(n: int, seed: int, shift: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < 0.4).astype(float)
    return 1 / (1 + np.exp(-generator.normal(shift * labels - 1, 1.2))), labels


def coverage(p, y, band, subgroups=None, groups=None, **settings):
    groups = np.arange(len(p)) if groups is None else groups
    return band_coverage(
        *(np.array(p)[:, None], np.array(y, float)[:, None], groups, ["Mass"], {"Mass": band}),
        subgroups or {},
        **{"replicates": 200, **settings},
    )


BAND = {"rule_out": 0.3, "rule_in": 0.7, "rule_out_error": 0.1, "rule_in_error": 0.2}


def test_the_rates_are_those_counted_by_hand():
    p = [0.1, 0.3, 0.5, 0.9, 0.1, 0.2, 0.5, 0.7, 0.8, 0.5]
    y = [1, 1, 1, 1, 0, 0, 0, 0, 0, np.nan]
    found = coverage(p, y, BAND)
    row = found["categories"]["Mass"]
    assert row["covered_positives"] == 3 / 4  # 0.3 is at the limit, so it is not ruled out
    assert row["covered_negatives"] == 3 / 5  # 0.7 is at the limit, so it is ruled in
    assert (row["ruled_in"], row["ruled_out"], row["unsure"]) == (0.3, 0.3, 0.4)
    assert (row["positives"], row["negatives"], row["films"]) == (4, 5, 10)
    assert found["promised"] == {"positives": 0.9, "negatives": 0.8}
    assert found["mean"]["unsure"] == 0.4
    assert row["covered_positives_low"] is None  # four patients say nothing of others
    assert row["unsure_low"] < 0.4 < row["unsure_high"]


def test_what_crossing_limits_both_claim_is_unsure_but_not_covered():
    band = {**BAND, "rule_out": 0.6, "rule_in": 0.4}
    row = coverage([0.5, 0.5, 0.9, 0.1], [1, 0, 1, 0], band)["categories"]["Mass"]
    assert (row["covered_positives"], row["covered_negatives"]) == (0.5, 0.5)
    assert (row["ruled_in"], row["ruled_out"], row["unsure"]) == (0.25, 0.25, 0.5)


def test_a_limit_that_is_not_there_promises_nothing():
    row = coverage([0.5, 0.9], [1, 0], {**BAND, "rule_out": None})["categories"]["Mass"]
    assert row["covered_positives"] is row["ruled_out"] is row["unsure"] is None
    assert (row["covered_negatives"], row["ruled_in"]) == (0, 0.5)


def test_without_a_film_of_a_class_nothing_is_covered():
    row = coverage([0.5, 0.9], [0, 0], BAND)["categories"]["Mass"]
    assert row["covered_positives"] is None


@pytest.mark.parametrize("seed", range(3))
def test_the_verdicts_counted_are_those_of_the_page(seed):
    p, y = drawn(300, seed)
    band = conformal_band(p, y)
    found = coverage(p, y, band)["categories"]["Mass"]
    verdicts = np.array([Band(**band).verdict(x) for x in p])
    for name, verdict in (("ruled_in", "in"), ("ruled_out", "out"), ("unsure", "unsure")):
        assert found[name] == pytest.approx((verdicts == verdict).mean())


def test_on_exchangeable_films_the_promise_holds_on_average_and_is_not_idle():
    shares = []
    for seed in range(40):
        band = conformal_band(*drawn(200, seed))
        row = coverage(*drawn(400, 1000 + seed), band, replicates=1)["categories"]["Mass"]
        shares.append([row["covered_positives"], row["covered_negatives"]])
    mean, error = np.mean(shares, axis=0), np.std(shares, axis=0) / np.sqrt(40)
    assert (mean > 0.9 - 3 * error).all()
    assert (mean < 0.93).all()


def test_a_subgroup_whose_scores_are_shifted_is_not_covered_though_all_are():
    p, y = drawn(2000, 0)
    band = conformal_band(*drawn(2000, 1))
    old = np.arange(0, 200)
    p[old] = np.where(y[old] == 1, p[old] / 4, p[old])
    rows = {"age": {"80+": old, "0-79": np.arange(200, 2000)}}
    found = coverage(p, y, band, rows)
    assert found["subgroups"]["age"]["80+"]["categories"]["Mass"]["covered_positives_high"] < 0.9
    young = found["subgroups"]["age"]["0-79"]
    assert young["categories"]["Mass"]["covered_positives_high"] > 0.9
    assert young["films"] == 1800


def test_the_films_of_a_patient_widen_the_interval():
    p, y = drawn(400, 0)
    band = conformal_band(*drawn(400, 1))
    once = coverage(p, y, band)["categories"]["Mass"]
    ten = coverage(*(np.repeat(x, 10) for x in (p, y)), band, groups=np.repeat(np.arange(400), 10))
    same = ten["categories"]["Mass"]
    for name in RATES:
        assert same[name] == pytest.approx(once[name])
        for end in ("low", "high"):
            assert same[f"{name}_{end}"] == pytest.approx(once[f"{name}_{end}"], abs=1e-9)


def test_where_all_are_covered_the_interval_is_wilson_s():
    row = coverage([0.9] * 40, [1] * 40, BAND)["categories"]["Mass"]
    # n / (n + z^2), the lower limit of a share of 1
    assert row["covered_positives_low"] == pytest.approx(40 / (40 + 1.959964**2), abs=1e-6)
    assert row["covered_positives_high"] == pytest.approx(1)


def test_wilson_s_interval_is_that_of_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for count, n in ((0, 20), (3, 20), (20, 20), (50, 400)):
        expected = proportion.proportion_confint(count, n, method="wilson")
        assert wilson_interval(count / n, n) == pytest.approx(expected)
    assert np.isnan(wilson_interval(np.nan, 0)).all()


def test_coverage_is_that_of_crepes():
    crepes = pytest.importorskip("crepes")
    p, y = drawn(500, 0)
    new, truth = drawn(700, 1, shift=1.2)
    strange = np.where(y == 1, 1 - p, p)
    fitted = crepes.ConformalClassifier().fit(strange, bins=y.astype(int))
    for error in (0.05, 0.1, 0.2):
        row = coverage(new, truth, conformal_band(p, y, error, error), replicates=1)
        kept = np.empty((len(new), 2), bool)
        for value, scores in ((0, new), (1, 1 - new)):
            both = np.repeat(scores[:, None], 2, axis=1)
            bins = np.full(len(new), value)
            chance = fitted.predict_p(both, bins=bins, all_classes=True, smoothing=False)
            kept[:, value] = chance[:, value] > error
        found = row["categories"]["Mass"]
        assert found["covered_positives"] == pytest.approx(kept[truth == 1, 1].mean())
        assert found["covered_negatives"] == pytest.approx(kept[truth == 0, 0].mean())
        assert found["unsure"] == pytest.approx((kept[:, 0] == kept[:, 1]).mean())


@pytest.fixture(scope="module")
def results():
    p, y = drawn(120, 0)
    names, attributes = ("Mass", "Nodule"), {"sex": np.array(["F", "M"] * 60)}
    truth = Truth(
        "drawn", tuple(map(str, range(120))), names, np.stack([y, y], 1), np.arange(120) // 2,
        "patient", attributes, "film",
    )  # fmt: skip
    model = Predictions("m", names, np.stack([p, p], 1), bands={"Mass": BAND})
    other = Predictions("plain", names, np.stack([p, p], 1))
    return evaluate_models(truth, [model, other], settings=Settings(replicates=50))


def test_the_report_has_coverage_by_category_and_subgroup(results):
    found = results["models"]["m"]["coverage"]
    assert set(found["categories"]) == {"Mass"}  # Nodule has no band
    assert set(found["subgroups"]["sex"]) == {"F", "M"}
    assert "coverage" not in results["models"]["plain"]
    json.dumps(results, allow_nan=False)
    shown = f"{found['subgroups']['sex']['F']['categories']['Mass']['covered_negatives']:.4f}"
    for text in (markdown({**results, "checklist": None}), report_page(results)):
        assert "90 % are promised not to be ruled out" in text
        assert shown in text
        assert "by sex" in text
