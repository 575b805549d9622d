"""The control that knows view, sex and age of a film, and has not seen it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from train import evaluate
from train.datasets.labels import LabelTable
from train.errors import EvaluationError
from train.evaluation.controls import METADATA, metadata_chances, metadata_control


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


def test_tables_of_predictions_have_no_training_films(capsys):
    words = ["--predictions", "a.csv", "--truth", "b.csv", "--controls", "--out", "report"]
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(words)
    assert "--controls goes with --model" in capsys.readouterr().err


@pytest.mark.slow
def test_an_evaluation_adds_the_control_for_every_truth(shared, tmp_path, no_plots):
    data = shared / "nih"
    words = ["--model", "weights", "--dataset", "nih", "--data", str(data), "--controls"]
    assert evaluate.main([*words, "--replicates", "20", "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert text.count(METADATA) > 2
