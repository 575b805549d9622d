"""The checklist: what is there is named with its figure, and nothing else is claimed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import ROOT
from train.evaluation.checklist import (
    checklist_parts,
    checklist_rows,
    facts_of_config,
    facts_of_results,
    facts_of_source,
)
from train.evaluation.checklist_items import ITEMS
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.protocol import Settings, evaluate_models


@pytest.fixture(scope="module")
def results():
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, (60, 1)).astype(float)
    p = 1 / (1 + np.exp(-(y + generator.normal(size=(60, 1)))))
    sex = {"sex": np.array(["F", "M"] * 30)}
    truth = Truth("films", tuple(map(str, range(60))), ("Mass",), y, np.arange(60), "patient", sex)
    found = evaluate_models(
        truth, [Predictions("m", ("Mass",), p)], settings=Settings(replicates=20)
    )
    return {**found, "references": {}}


def answer(rows, guideline, number):
    return next(row[3] for row in rows if row[:2] == [guideline, number])


def test_all_items_of_both_guidelines_are_there_in_order():
    assert [number for number, *_ in ITEMS["CLAIM 2024"]] == [str(i) for i in range(1, 45)]
    # How many parts each item of TRIPOD+AI has, where it has more than one.
    parts = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
    numbers = [
        f"{item}{letter}"
        for item in range(1, 28)
        for letter in ("abcdefg"[: parts[item]] if item in parts else [""])
    ]
    assert [number for number, *_ in ITEMS["TRIPOD+AI"]] == numbers
    assert len(numbers) == 52


@pytest.mark.parametrize("guideline", ITEMS)
def test_every_item_has_a_subject_and_a_fact(guideline):
    for number, subject, fact in ITEMS[guideline]:
        assert subject, f"item {number}"
        assert fact, f"item {number}"


def test_nine_in_ten_that_software_can_answer_are_answered_for_the_bundled_model():
    config = json.loads((ROOT / "weights" / "config.json").read_text())
    rows = [
        row for row in checklist_rows(facts_of_config(config)) if row[3] != "for the authors to say"
    ]
    answered = [row for row in rows if row[3] != "not reported"]
    assert len(answered) >= 0.9 * len(rows)


def test_a_test_on_other_films_is_external_and_one_on_the_same_is_not():
    config = {"cft": {"provenance": {"dataset": "nih"}}}
    other = facts_of_source(config, ["nih", "chexpert"])
    assert "CheXpert" in other["external"]
    assert "NIH" not in other["external"]
    assert other["differences"] == other["clusters"] == ""
    same = facts_of_source(config, ["nih", "nih-experts"])
    assert same["external"].startswith("none: all test films are of NIH")
    assert all(same.values())
    assert not any(facts_of_source({}, ["nih"]).values())


def test_nothing_known_is_nothing_claimed():
    assert {row[3] for row in checklist_rows({})} == {"not reported", "for the authors to say"}


def test_a_model_folder_without_figures_claims_none():
    config = {"architecture": "resnet18", "label_names": ["Mass"], "pretrained_cfg": {}}
    rows = checklist_rows(facts_of_config(config))
    for number in ("7", "19", "23", "25", "28", "37", "39"):
        assert answer(rows, "CLAIM 2024", number) == "not reported"
    assert answer(rows, "TRIPOD+AI", "15") == "not reported"


def test_figures_of_the_report_are_the_answers(results):
    rows = checklist_rows(facts_of_results(results))
    mean = results["models"]["m"]["subsets"]["all"]["auroc"]
    assert f"{mean:.4f}" in answer(rows, "CLAIM 2024", "37")
    assert "60 rows of 60 patients" in answer(rows, "TRIPOD+AI", "10")
    assert answer(rows, "CLAIM 2024", "36") == "sex: F 30, M 30"
    assert "sex" in answer(rows, "TRIPOD+AI", "14")
    assert answer(rows, "CLAIM 2024", "39") == "not reported"
    assert answer(rows, "TRIPOD+AI", "12d") == "not reported", "sex is no cluster"


def test_every_model_is_named_with_its_figure_and_only_what_was_computed_is_claimed(results):
    rows = checklist_rows(facts_of_results(results))
    assert answer(rows, "CLAIM 2024", "38") == "not reported", "there is no operating point"
    assert "operating points" not in answer(rows, "CLAIM 2024", "28")
    assert "net benefit" in answer(rows, "CLAIM 2024", "28")
    assert answer(rows, "TRIPOD+AI", "23a").endswith("; subgroups: see Gaps")
    y = np.tile([[0.0], [1.0]], (20, 1))
    truth = Truth("films", tuple(map(str, range(40))), ("Mass",), y, np.arange(40), "patient", {})
    ranks = np.arange(40.0)[:, None]
    models = [Predictions("a, b", ("Mass",), ranks), Predictions("c", ("Mass",), -ranks)]
    found = evaluate_models(truth, models, settings=Settings(replicates=20))
    rows = checklist_rows(facts_of_results({**found, "references": {}}))
    assert answer(rows, "CLAIM 2024", "6") == "1 finding in chest films, by a, b; c"
    assert "net benefit" not in answer(rows, "CLAIM 2024", "28")
    areas = [of["subsets"]["all"]["auroc"] for of in found["models"].values()]
    said = answer(rows, "CLAIM 2024", "37")
    assert f"a, b: mean AUROC {areas[0]:.4f}" in said
    assert f"c: mean AUROC {areas[1]:.4f}" in said


def test_what_is_decided_wrongly_is_counted():
    y = np.array([[1], [1], [1], [0], [0], [0], [0], [np.nan]], float)
    p = np.array([[0.9], [0.8], [0.1], [0.7], [0.2], [0.1], [0.1], [0.9]])
    truth = Truth("films", tuple("abcdefgh"), ("Mass",), y, np.arange(8), "patient", {})
    model = Predictions("m", ("Mass",), p, operating_points={"Mass": 0.5})
    found = evaluate_models(truth, [model], settings=Settings(replicates=5))
    text = facts_of_results({**found, "references": {}})["failures"]
    assert "1 of 3 findings are missed and 1 of 4 absent ones called" in text


def test_the_count_is_that_of_the_table(results):
    rows = checklist_rows(facts_of_results(results))
    sentence, *tables = checklist_parts(rows)
    cells = [row[2] for table in tables for row in table.rows[1:]]
    answered = sum(cell not in ("not reported", "for the authors to say") for cell in cells)
    assert sentence.startswith(f"{answered} of the ")
