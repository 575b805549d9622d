"""The checklist: what is there is named with its figure, and nothing else is claimed."""

from __future__ import annotations

import numpy as np
import pytest

from train.evaluation.checklist import (
    checklist_parts,
    checklist_rows,
    facts_of_config,
    facts_of_results,
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


def test_all_items_of_both_guidelines_are_there():
    claim = [number for number, *_ in ITEMS["CLAIM 2024"]]
    assert claim == [str(i) for i in range(1, 45)]
    tripod = {number.rstrip("abcdefg") for number, *_ in ITEMS["TRIPOD+AI"]}
    assert tripod == {str(i) for i in range(1, 28)}
    assert len(ITEMS["TRIPOD+AI"]) == 52


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


def test_the_count_is_that_of_the_table(results):
    rows = checklist_rows(facts_of_results(results))
    sentence, *tables = checklist_parts(rows)
    cells = [row[2] for table in tables for row in table.rows[1:]]
    answered = sum(cell not in ("not reported", "for the authors to say") for cell in cells)
    assert sentence.startswith(f"{answered} of the ")
