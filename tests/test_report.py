"""Figures, tables and the model card: one dict, and nothing silent about what is undefined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

from cft import NOT_A_MEDICAL_DEVICE
from cft.labels import CHEXPERT_5
from tests.conftest import random_model_config
from train.evaluation.report import markdown, summary
from train.evaluation.scores import evaluate_scores, named_subsets
from train.publishing.card import model_card

LABELS = ("Cardiomegaly", "Effusion", "Hernia")


@pytest.fixture
def films():
    """(scores in [0, 1], labels with unknowns, patients) of 120 films."""
    generator = np.random.default_rng(0)
    labels = generator.choice([0, 1, np.nan], (120, 3), p=[0.5, 0.3, 0.2])
    scores = 1 / (1 + np.exp(-generator.standard_normal((120, 3)) - np.nan_to_num(labels)))
    return scores, labels, np.arange(120) // 2


@pytest.fixture
def figures(films):
    points = {"Cardiomegaly": 0.6, "Effusion": 0.5, "Hernia": None}
    return evaluate_scores(*films, LABELS, operating_points=points, replicates=50)


@pytest.mark.parametrize("columns", [2, 4])
def test_a_wrong_number_of_label_names_is_refused(columns):
    with pytest.raises(ValueError, match="3 labels"):
        evaluate_scores(np.zeros((5, columns)), np.zeros((5, columns)), np.arange(5), LABELS)


def test_a_subset_of_unknown_categories_is_refused(films):
    with pytest.raises(ValueError, match="'five' names 'Edema'"):
        evaluate_scores(*films, LABELS, subsets={"five": ["Edema"]}, replicates=5)


def test_a_score_that_is_nan_is_refused(films):
    scores, labels, groups = films
    scores = scores.copy()
    scores[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        evaluate_scores(scores, labels, groups, LABELS, replicates=5)


def test_every_metric_equals_scikit_learn(films, figures):
    scores, labels, _ = films
    for c, label in enumerate(LABELS[:2]):
        known = ~np.isnan(labels[:, c])
        y, s = labels[known, c], scores[known, c]
        row = figures["categories"][label]
        called = s >= row["threshold"]
        expected = {
            "auroc": roc_auc_score(y, s),
            "ap": average_precision_score(y, s),
            "brier": brier_score_loss(y, s),
            "sensitivity": recall_score(y, called),
            "specificity": recall_score(1 - y, ~called),
            "ppv": precision_score(y, called),
            "f1": f1_score(y, called),
            "mcc": matthews_corrcoef(y, called),
            "positives": y.sum(),
            "negatives": (1 - y).sum(),
            "unknown": (~known).sum(),
            "prevalence": y.mean(),
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_every_interval_encloses_its_estimate(figures):
    for label in LABELS[:2]:
        row = figures["categories"][label]
        for metric in ("ap", "brier", "sensitivity", "specificity", "ppv", "f1", "mcc"):
            assert row[f"{metric}_low"] < row[metric] < row[f"{metric}_high"]
        for name in ("ci", "delong"):
            assert row[f"{name}_low"] < row["auroc"] < row[f"{name}_high"]


def test_means_are_over_the_categories_and_name_them(figures):
    mean = figures["subsets"]["all"]
    rows = [figures["categories"][label] for label in LABELS]
    assert mean["auroc"] == pytest.approx(np.mean([row["auroc"] for row in rows]))
    assert mean["ci_low"] < mean["auroc"] < mean["ci_high"]
    assert mean["decided"] == ["Cardiomegaly", "Effusion"]
    assert mean["f1"] == pytest.approx((rows[0]["f1"] + rows[1]["f1"]) / 2)


def test_the_report_shows_the_means_at_the_operating_points(results, figures):
    mean = figures["subsets"]["all"]
    shown = " | ".join(f"{mean[x]:.4f}" for x in ("sensitivity", "specificity", "ppv", "f1", "mcc"))
    assert f"| Mean of all (2) |  | {shown} |" in markdown(results)


def test_without_a_threshold_no_rate_is_given(figures):
    row = figures["categories"]["Hernia"]
    assert row["threshold"] is row["sensitivity"] is row["f1_low"] is None


def test_a_category_with_one_class_is_null_and_named_not_zero(films):
    scores, labels, groups = films
    labels = labels.copy()
    labels[:, 2] = np.where(labels[:, 2] == 1, np.nan, labels[:, 2])
    figures = evaluate_scores(scores, labels, groups, LABELS, replicates=20)
    row = figures["categories"]["Hernia"]
    assert row["auroc"] is row["ci_low"] is row["delong_low"] is row["ap"] is None
    assert row["negatives"] > 0
    assert "no known positive" in row["note"]
    assert figures["subsets"]["all"]["defined"] == ["Cardiomegaly", "Effusion"]
    assert any("without Hernia" in note for note in figures["notes"])


@pytest.mark.parametrize(
    ("labels", "scores", "phrase"),
    [
        ([np.nan] * 40, np.arange(40), "no known label"),
        ([1] * 40, np.arange(40), "no known negative"),
        ([0] * 20 + [1] * 20, np.full(40, 0.3), "all scores are equal"),
        ([1] * 3 + [0] * 37, np.arange(40), "too few independent positives (3)"),
        ([0] * 4 + [1] * 36, np.arange(40), "too few independent negatives (4)"),
    ],
)
def test_what_says_little_is_named(labels, scores, phrase):
    figures = evaluate_scores(
        np.asarray(scores, float)[:, None], np.array(labels)[:, None], np.arange(40), ["Edema"],
        replicates=10,
    )  # fmt: skip
    assert phrase in figures["categories"]["Edema"]["note"]
    assert figures["notes"][0].startswith("Edema: ")


def test_scores_outside_zero_and_one_have_no_brier_score(films):
    scores, labels, groups = films
    scores = scores.copy()
    scores[0, 1] = 1.2
    figures = evaluate_scores(scores, labels, groups, LABELS, replicates=10)
    rows = figures["categories"]
    assert rows["Effusion"]["brier"] is rows["Effusion"]["ece"] is None
    assert rows["Cardiomegaly"]["brier"] is not None
    assert figures["subsets"]["all"]["brier"] is None  # no mean over other categories than stated


def test_ranks_have_no_brier_score_though_they_lie_in_zero_and_one(films):
    figures = evaluate_scores(*films, LABELS, probabilities=False, replicates=10)
    assert figures["categories"]["Effusion"]["brier"] is None
    assert figures["categories"]["Effusion"]["auroc"] is not None


def test_infinite_scores_are_ranked(films):
    scores, labels, groups = films
    scores = np.where(scores > 0.9, np.inf, scores)
    figures = evaluate_scores(scores, labels, groups, LABELS, replicates=10)
    assert figures["categories"]["Effusion"]["auroc"] is not None


def test_the_figures_are_plain_json(figures):
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_the_five_tasks_are_a_subset_where_all_are_there():
    assert set(named_subsets(LABELS)) == {"all"}
    assert named_subsets([*CHEXPERT_5, "Hernia"])["chexpert_5"] == list(CHEXPERT_5)


# --- Text ---------------------------------------------------------------------------------------


@pytest.fixture
def results(figures):
    figures["operating_points"] = {"source": "validation", "optimistic": False, "rule": None}
    return {
        "truth": {
            "name": "films",
            "rows": 120,
            "row": "film",
            "groups": 60,
            "unit": "patient",
            "notes": ["A note on the truth."],
        },
        "models": {"net": figures},
        "radiologists": {},
        "comparisons": [],
    }


def test_the_report_shows_figures_with_intervals_and_counts(results):
    text = markdown(results, ["plots/roc.png"])
    row = results["models"]["net"]["categories"]["Effusion"]
    low, high = row["ci_low"], row["ci_high"]
    assert f"{row['auroc']:.4f} ({low:.4f} to {high:.4f})" in text
    assert "120 films of 60 patients" in text
    assert "At the operating points of validation:" in text
    assert "- A note on the truth." in text
    assert "![roc](plots/roc.png)" in text


def test_optimistic_operating_points_are_marked(results):
    points = {"source": "x", "optimistic": True, "rule": "f1"}
    results["models"]["net"]["operating_points"] = points
    assert "**Optimistic**" in markdown(results)


def test_all_rows_of_a_table_have_as_many_cells(results):
    tables = [block for block in markdown(results).split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_summary_has_a_line_a_model_and_a_line_a_category(results):
    lines = summary(results).splitlines()
    assert sum(line.startswith("net ") for line in lines) == 1
    assert [line.split()[0] for line in lines if line.startswith(LABELS)] == list(LABELS)
    assert "note: A note on the truth." in lines


# --- Model card ---------------------------------------------------------------------------------


@pytest.fixture
def config(figures):
    config = random_model_config()
    config["cft"]["metrics"] = {'Test films: the "experts\'" labels': figures}
    config["cft"]["provenance"] = {
        "trained_on": "2,300 films of 1,500 patients",
        "stage": "negative",
        "dataset": "nih",
        "command": "python -m train.negative --dataset nih --seed 3",
        "arguments": {"lr": 0.001, "seed": 3},
        "seed": 3,
        "splits": {"train": {"films": 2300, "patients": 1500}},
        "label_policy": {"unknown": "negative", "uncertain": "ignore"},
    }
    return config


def test_the_card_is_read_by_the_hub_library(config, figures):
    card = ModelCard(model_card(config))
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.license == "apache-2.0"
    results = {r.metric_name: r for r in card.data.eval_results}
    expected = round(figures["subsets"]["all"]["auroc"], 4)
    assert results["Mean AUROC"].metric_value == expected
    assert results["Mean AUROC"].dataset_name == 'Test films: the "experts\'" labels'


def test_the_card_says_what_a_reader_must_know(config, figures):
    text = model_card(config)
    mean = figures["subsets"]["all"]["auroc"]
    for phrase in (
        NOT_A_MEDICAL_DEVICE,
        "2,300 films of 1,500 patients",
        "NIH Clinical Center",
        "Nabulsi",
        "python -m train.negative --dataset nih --seed 3",
        f"**{mean:.4f} (",
        "timm.create_model",
        "cft.load",
        "gradio_client",
        "10.1007/978-981-99-8145-8_26",
        "About Hernia.",
    ):
        assert phrase in text


def test_the_card_names_rows_and_units_of_its_figures(config, figures):
    figures.update(row="study", unit="study", level=0.9)
    text = model_card(config)
    assert "120 studies of 60 studies" in text
    assert "90 %, bootstrap over studies" in text


def test_the_bundled_card_is_what_its_config_gives():
    folder = Path(__file__).parents[1] / "weights"
    config = json.loads((folder / "config.json").read_text())
    assert (folder / "README.md").read_text() == model_card(config)


def test_the_card_says_which_probabilities_are_not_calibrated(config):
    text = model_card(config)
    assert "1 of 3 findings" in text
    assert "too few cases for Effusion, Hernia" in text


def test_a_model_of_unknown_origin_has_a_card_that_says_so():
    config = random_model_config()
    config["cft"] = {}
    text = model_card(config)
    assert "not recorded" in text
    assert "Not measured." in text
    assert "not calibrated" in text
    assert ModelCard(text).data.eval_results is None


def test_the_card_tells_both_stages_with_their_commands_and_policies(config):
    first = config["cft"]["provenance"]
    first["label_policy"]["overrides"] = {"uncertain": {"Hernia": "positive"}}
    first["versions"] = {"torch": "2.8"}
    config["cft"]["provenance"] = {
        "stage": "cft",
        "dataset": "nih",
        "trained_on": first["trained_on"],
        "parent": "ab" * 32,
        "command": "python -m train.cft --model MODEL --method ga",
        "label_policy": {"unknown": "ignore", "uncertain": "ignore", "overrides": {}},
        "methods": {"Cardiomegaly": "ga", "Effusion": "ga", "Hernia": "original"},
        "versions": {"torch": "2.9"},
        "stage_1": first,
    }
    text = model_card(config)
    one, two = text.index("### Stage 1"), text.index("### Stage 2")
    assert one < text.index(first["command"]) < two
    assert two < text.index("python -m train.cft --model MODEL --method ga")
    left_out = "uncertain labels are left out (Hernia: count as positive)."
    assert f"Unknown labels count as negative, {left_out}" in text[one:two]
    assert "Unknown and uncertain labels are left out." in text[two:]
    assert "Hernia keep the regression of stage 1." in text[two:]
    assert "ab" * 32 in text[two:]
    assert "| torch | 2.8 | 2.9 |" in text


@pytest.mark.parametrize(
    ("dataset", "licence", "phrases"),
    [
        ("nih", "apache-2.0", ["without restriction", "wang2017chestxray8"]),
        ("phantoms", "apache-2.0", ["drawn by this project's code"]),
        ("chexpert", "other", ["no commercial use", "irvin2019chexpert"]),
        ("csv", "other", ["is not recorded here: ask"]),
        (None, "other", ["is not recorded here: ask"]),
    ],
)
def test_the_card_gives_no_licence_that_the_data_may_forbid(config, dataset, licence, phrases):
    config["cft"]["provenance"]["dataset"] = dataset
    text = model_card(config)
    card = ModelCard(text)
    assert card.data.license == licence
    assert card.data.get("license_name") == (None if licence != "other" else "see-training-data")
    assert card.data.datasets is None  # nothing of these was fetched from the Hub
    assert all(phrase in text for phrase in phrases)


def test_the_card_of_an_ensemble_says_where_its_members_are(config):
    config["architecture"] = "ensemble"
    config["cft"]["provenance"]["stage"] = "ensemble"
    text = model_card(config)
    assert "each is a whole model with its own card in `members/`" in text
    assert "Each member is calibrated" in text
    assert "timm.create_model" not in text


def test_the_card_marks_what_has_no_evidence_and_why_a_scaling_is_missing(config):
    categories = config["cft"]["categories"]
    categories["Hernia"] = {"evidence": "none", "platt": None, "operating_point": None}
    categories["Effusion"]["calibration"] = {"scaled": False}
    text = model_card(config)
    assert "**No evidence for Hernia**: on no test set" in text
    assert (
        "scaling does not help Effusion (cross-fitted log loss); too few cases for Hernia" in text
    )
