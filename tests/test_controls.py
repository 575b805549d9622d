"""The control that knows view, sex and age of a film, and has not seen it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from train import evaluate
from train.datasets.labels import LabelTable
from train.errors import EvaluationError
from train.evaluation import plots
from train.evaluation.controls import (
    METADATA,
    cross_fitted_control,
    metadata_chances,
    metadata_control,
)
from train.evaluation.predictions import Truth


def table_of(n: int, seed: int) -> LabelTable:
    """Films with "Old" in the old, "Lying" in those filmed lying, "Chance" in anybody."""
    generator = np.random.default_rng(seed)
    age = generator.uniform(20, 90, n).astype(np.float32)
    view = generator.choice(["PA", "AP"], n)
    chance = generator.random((n, 3))
    y = np.stack([age / 100 > chance[:, 0], (view == "AP") & (chance[:, 1] < 0.8)], 1)
    y = np.column_stack([y, chance[:, 2] < 0.4]).astype(np.float32)
    names = np.array([f"film{i}" for i in range(n)])
    return LabelTable(
        images=[f"{name}.png" for name in names],
        y=y,
        uncertain=np.zeros(y.shape, bool),
        label_names=("Old", "Lying", "Chance"),
        patients=names,
        studies=names,
        split=np.full(n, "train"),
        attributes={"age": age, "view": view, "sex": generator.choice(["F", "M"], n)},
        dataset="made-up",
        names=names,
    )


def test_it_is_logistic_regression_on_the_facts_as_scikit_learn_has_it():
    trained, tested = table_of(600, 0), table_of(300, 1)

    def facts(table):
        rows = zip(table.attributes["view"], table.attributes["sex"], strict=True)
        return np.array(
            [[*words, age] for words, age in zip(rows, table.attributes["age"], strict=True)],
            dtype=object,
        )

    pipeline = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(), [0, 1]),
            (make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False)), [2]),
        ),
        LogisticRegression(max_iter=1000),
    )
    found = metadata_chances(trained, tested)
    for c in range(3):
        expected = pipeline.fit(facts(trained), trained.y[:, c]).predict_proba(facts(tested))[:, 1]
        assert np.allclose(found[:, c], expected, atol=1e-3)
    areas = [roc_auc_score(tested.y[:, c], found[:, c]) for c in range(3)]
    assert areas[0] > 0.6
    assert areas[1] > 0.8
    assert abs(areas[2] - 0.5) < 0.12


def test_a_category_of_one_kind_gets_its_share_and_an_unknown_age_the_mean():
    trained, tested = table_of(200, 0), table_of(20, 1)
    trained.y[:, 0] = 0
    tested.attributes["age"][:] = np.nan
    found = metadata_chances(trained, tested)
    assert (found[:, 0] == 0).all()
    assert np.isfinite(found).all()


def test_a_category_that_was_not_trained_is_left_out():
    trained, tested = table_of(200, 0), table_of(20, 1)
    trained = replace(trained, label_names=("Old", "Other", "Chance"))
    assert metadata_control(trained, tested, "max").label_names == ("Old", "Chance")


def test_without_training_films_or_facts_there_is_no_control():
    trained, tested = table_of(200, 0), table_of(20, 1)
    with pytest.raises(EvaluationError, match="there are none"):
        metadata_chances(trained.subset(np.zeros(200, bool)), tested)
    with pytest.raises(EvaluationError, match="neither view nor sex nor age"):
        metadata_chances(replace(trained, attributes={}), tested)


def truth_of_table(table: LabelTable) -> Truth:
    words = {name: values.astype(str) for name, values in table.attributes.items()}
    labels, keys = table.y.astype(float), tuple(table.names.tolist())
    pairs = np.arange(len(keys)) // 2
    return Truth("made-up", keys, table.label_names, labels, pairs, "patient", words)


def test_without_training_films_each_is_guessed_from_the_other_patients():
    """scikit-learn's folds by patient differ from ours, so the areas are near, not equal."""
    table = table_of(600, 0)
    truth = truth_of_table(table)
    found = cross_fitted_control(truth, ["Lying", "Chance", "Elsewhere"])
    assert found.label_names == ("Lying", "Chance")
    lying = table.attributes["view"] == "AP"
    facts = np.column_stack([lying, table.attributes["sex"] == "F", table.attributes["age"]])
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    expected = cross_val_predict(
        *(pipeline, facts, table.y[:, 1]),
        groups=truth.groups,
        cv=GroupKFold(5),
        method="predict_proba",
    )[:, 1]
    areas = [roc_auc_score(table.y[:, 1], x) for x in (found.scores[:, 0], expected)]
    assert areas[0] == pytest.approx(areas[1], abs=0.03)
    # What a film's own patient has plays no part in its guess.
    turned = truth_of_table(table)
    turned.labels[:2] = 1 - turned.labels[:2]
    again = cross_fitted_control(turned, ["Lying", "Chance"])
    assert (again.scores[:2] == found.scores[:2]).all()
    assert (again.scores[2:] != found.scores[2:]).any()


def test_labels_of_chance_are_not_guessed_by_learning_them():
    areas = []
    for seed in range(10):
        truth = truth_of_table(table_of(120, seed))
        guess = cross_fitted_control(truth, ["Chance"]).scores[:, 0]
        areas.append(roc_auc_score(truth.labels[:, 2], guess))
    assert np.mean(areas) < 0.56


def test_few_patients_or_no_facts_make_no_cross_fitted_control():
    truth = truth_of_table(table_of(8, 0))
    with pytest.raises(EvaluationError, match="5 folds, and made-up has 4 patients"):
        cross_fitted_control(truth, ["Old"])
    bare = replace(truth_of_table(table_of(40, 0)), attributes={})
    with pytest.raises(EvaluationError, match="neither view nor sex nor age"):
        cross_fitted_control(bare, ["Old"])


def test_tables_of_predictions_get_the_control_from_their_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    table = table_of(80, 0)
    age, view = table.attributes["age"], table.attributes["view"]
    rows = ["Study,Patient,Lying,view,age"]
    rows += [f"s{i},p{i // 2},{y:g},{view[i]},{age[i]:.0f}" for i, y in enumerate(table.y[:, 1])]
    (tmp_path / "truth.csv").write_text("\n".join(rows))
    scores = np.random.default_rng(0).random(80)
    rows = ["Study,Lying", *(f"s{i},{x:.4f}" for i, x in enumerate(scores))]
    (tmp_path / "model.csv").write_text("\n".join(rows))
    words = ["--predictions", "model.csv", "--truth", "truth.csv", "--controls", "--out", "report"]
    words = [str(tmp_path / x) if x.endswith("csv") or x == "report" else x for x in words]
    assert evaluate.main([*words, "--replicates", "20"]) == 0
    models = json.loads((tmp_path / "report" / "report.json").read_text())["models"]
    assert list(models) == ["model", METADATA]
    assert models[METADATA]["categories"]["Lying"]["auroc"] > 0.8
    text = (tmp_path / "truth.csv").read_text()
    (tmp_path / "truth.csv").write_text(text.replace(",view,age", ",other,further"))
    assert evaluate.main([*words, "--replicates", "20"]) == 1
    assert "says neither view nor sex nor age" in capsys.readouterr().err


@pytest.mark.slow
def test_an_evaluation_adds_the_control_for_every_truth(shared, tmp_path, no_plots):
    data = shared / "nih"
    words = ["--model", "weights", "--dataset", "nih", "--data", str(data), "--controls"]
    assert evaluate.main([*words, "--replicates", "20", "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert text.count(METADATA) > 2
