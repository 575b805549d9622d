"""The evaluation command: the competition's official figures, its protocol, and every refusal."""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import average_precision_score, roc_curve

from cft.labels import CHEXPERT_5
from cft.page import render
from train.command import add_options
from train.datasets import DataOptions
from train.datasets.labels import LabelTable
from train.errors import StudyError, TableError
from train.evaluate import _parser, main
from train.evaluation import competition, dots, figure, grids, plots, training_curves
from train.evaluation.combine import combine, greedy_weights
from train.evaluation.inference import predictions_of, run, truth_of
from train.evaluation.predictions import (
    Predictions,
    Truth,
    predictions_csv,
    read_decisions,
    read_predictions,
    read_truth,
)
from train.evaluation.protocol import Settings, evaluate_models
from train.evaluation.report_folder import training_plots
from train.metrics.roc import roc_vertices

pytestmark = pytest.mark.slow

# Official mean AUROC of the five tasks (the competition's server; ngango2's is the organisers'
# data scored by the same rule) and readers below the curve, in the order of CHEXPERT_5.
OFFICIAL = {
    "drnet": (0.925528, [3, 3, 2, 3, 2]),
    "ihil": (0.926628, None),
    "ngango2": (0.923432, None),
    "sensexdr": (0.926643, None),
    "uestc": (0.924016, None),
    "yww211": (0.923129, [1, 3, 3, 3, 2]),
}


@pytest.fixture
def no_plots(monkeypatch):
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])


@pytest.fixture(scope="module")
def official(shared, tmp_path_factory):
    """The six competition models on the test set, with the readers: the folder written."""
    source = shared / "reference" / "chexpert-test"
    out = tmp_path_factory.mktemp("official")
    predictions = sorted(map(str, (source / "predictions").glob("*.csv")))
    arguments = ["--predictions", *predictions, "--truth", str(source / "groundtruth.csv")]
    arguments += ["--radiologists", str(source / "radiologists"), "--ensemble", "mean"]
    assert main([*arguments, "--replicates", "200", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def report(official):
    return json.loads((official / "report.json").read_text())


def write_csv(path: Path, columns: dict[str, list]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture
def tables(tmp_path):
    """Truth of 60 studies in two categories, and two models' predictions: (truth, a, b)."""
    generator = np.random.default_rng(0)
    studies = [f"patient{i // 2}/study{i}" for i in range(60)]
    y = generator.integers(0, 2, (60, 2))
    truth = write_csv(
        tmp_path / "truth.csv",
        {
            "Study": studies,
            "Edema": y[:, 0],
            "Mass": y[:, 1],
            "Sex": ["F", "M", ""] * 20,
            "Age": [30, 50, 70] * 20,
        },
    )
    models = []
    for name in ("a", "b"):
        p = 1 / (1 + np.exp(-generator.standard_normal((60, 2)) - 2 * y + 1))
        order = generator.permutation(60)
        columns = {"Mass": p[order, 1], "Study": [studies[i] for i in order], "Edema": p[order, 0]}
        models.append(write_csv(tmp_path / f"{name}.csv", columns))
    return truth, *models


def evaluate(*arguments, out) -> dict:
    assert main([*map(str, arguments), "--replicates", "20", "--out", str(out)]) == 0
    return json.loads((out / "report.json").read_text())


def rewrite(path: Path, change) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = change(rows)
    write_csv(path, {column: [row[column] for row in rows] for column in rows[0]})


def failure(capsys, *arguments, out) -> str:
    """The one sentence of a failed command that wrote nothing."""
    assert main([*map(str, arguments), "--out", str(out)]) == 1
    assert not out.exists()
    message = capsys.readouterr().err
    # One sentence; where a table has several problems, a line for each follows.
    assert all(line.startswith("  ") for line in message.splitlines()[1:])
    return message


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--predictions", "a.csv"],
        ["--truth", "t.csv"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--model", "m"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--ensemble-weights", "greedy"],
        ["--predictions", "a", "--truth", "t", "--ensemble", "mean", "--ensemble-weights=greedy"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--validation-truth", "v.csv"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--level", "95"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--replicates", "0"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--seed", "-1"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--data", "films"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--dataset", "nih"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--subset", "five"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--subset", "all=Mass"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--subset", "two=Mass,Mass"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--subset", "x=Mass", "--subset", "x=Edema"],
        ["--model", "a", "--ensemble=mean", "--save-ensemble", "e", "--optimistic-thresholds"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--shift", "b"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--shift-truth", "b.csv"],
        ["--model", "a", "--shift-truth", "b.csv", "--shift-predictions", "c.csv"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--shuffled", "b"],
        ["--predictions", "a.csv", "--truth", "t.csv", "--group-table", "b.csv"],
        ["--model", "a", "--maps", "cam"],
        ["--model", "a", "--boxes", "b.csv", "--maps", "cam,lime"],
        ["--model", "a", "--boxes", "b.csv", "--maps", ","],
    ],
)
def test_wrong_usage_exits_with_two(arguments, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda rows: rows[1:], "lacks 1 of the 60 rows"),
        (lambda rows: [*rows, rows[0]], "twice"),
        (
            lambda rows: [{**row, "Mass": ""} for row in rows],
            "row 2, column 'Mass': '' is not allo",
        ),
        (lambda rows: [{**row, "Mass": "high"} for row in rows], "  and 40 more"),
        (
            lambda rows: [{**row, "Mass": "nan"} for row in rows],
            "'nan' is not allowed; expected a",
        ),
        (
            lambda rows: [{**row, "Mass": "inf"} for row in rows],
            "'inf' is not allowed; expected a",
        ),
        (lambda rows: [{**rows[0], "Study": " "}, *rows[1:]], "row 2, column 'Study': ' '"),
        (
            lambda rows: [{**row, "model": ""} for row in rows],
            "row 2, column 'model': '' is not allowed",
        ),
        (
            lambda rows: [{**row, "model": "m", "Mass": "", "Edema": ""} for row in rows],
            "no score of the model 'm'",
        ),
        (lambda rows: [{"Study": r["Study"], "Oedema": "1"} for r in rows], "no column named like"),
        (lambda rows: [{"Film": r["Study"], "Mass": r["Mass"]} for r in rows], "no column 'Study'"),
    ],
)
def test_predictions_that_do_not_fit_are_refused_by_name(tables, tmp_path, capsys, change, phrase):
    truth, a, _ = tables
    rewrite(a, change)
    message = failure(capsys, "--predictions", a, "--truth", truth, out=tmp_path / "out")
    assert phrase in message
    assert str(a) in message or str(truth) in message


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda rows: [*rows, rows[3]], "a second time"),
        (lambda rows: [{**rows[0], "Study": ""}, *rows[1:]], "row 2, column 'Study': '' is"),
        (lambda rows: [{**row, "Patient": ""} for row in rows], "row 2, column 'Patient': ''"),
        (
            lambda rows: [{**row, "Mass": "2"} for row in rows],
            "'2' is not allowed; expected 1, 0",
        ),
        (lambda rows: [{**row, "Mass": "maybe"} for row in rows], "column 'Mass': 'maybe'"),
    ],
)
def test_a_truth_that_does_not_fit_is_refused_by_name(tables, tmp_path, capsys, change, phrase):
    truth, a, _ = tables
    rewrite(truth, change)
    message = failure(capsys, "--predictions", a, "--truth", truth, out=tmp_path / "out")
    assert phrase in message
    assert str(truth) in message


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"", "holds no rows"),
        (b"\n\n", "holds no rows"),
        (b"Study,Mass\n", "holds no rows"),
        (b"Study,Mass,Mass\nx,1,2\n", "two columns named 'Mass'"),
        (b"Study,Mass\nx,1,2\n", "row 2 has 3 cells, but the header has 2"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"Study;Mass\nx;1\n", "lacks 60 of the 60 rows"),
        (b"Case;Mass\nx;1\n", "a.csv has no column 'Study' to join by (its columns: Case, Mass)"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tables, tmp_path, capsys, content, phrase):
    truth, a, _ = tables
    a.write_bytes(content)
    assert phrase in failure(capsys, "--predictions", a, "--truth", truth, out=tmp_path / "out")


def test_a_missing_file_is_named(tables, tmp_path, capsys):
    message = failure(
        capsys, "--predictions", tmp_path / "none.csv", "--truth", tables[0], out=tmp_path / "out"
    )
    assert "cannot read" in message
    assert "none.csv" in message


def test_every_option_has_a_help_text_and_shows_its_default():
    parser = _parser()
    assert not [action.option_strings for action in parser._actions if not action.help]
    text = " ".join(parser.format_help().split())
    assert "films to score (default: test; of a table that names no split all films, unless" in text


def test_two_models_of_one_name_are_refused(tables, tmp_path, capsys):
    truth, a, _ = tables
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "a.csv"
    twin.write_bytes(a.read_bytes())
    message = failure(capsys, "--predictions", a, twin, "--truth", truth, out=tmp_path / "out")
    assert "two models are named 'a'" in message


def test_a_folder_without_readers_is_refused(tables, tmp_path, capsys):
    truth, a, _ = tables
    (tmp_path / "readers").mkdir()
    message = failure(
        capsys, "--predictions", a, "--truth", truth, "--radiologists", tmp_path / "readers",
        out=tmp_path / "out",
    )  # fmt: skip
    assert "no CSV tables of radiologists' decisions" in message


def test_a_reader_who_judged_none_of_the_categories_is_refused(tables, tmp_path, capsys):
    truth, a, _ = tables
    readers = tmp_path / "readers"
    readers.mkdir()
    studies = read_truth(truth, ["Mass"]).keys
    write_csv(readers / "r.csv", {"Study": studies, "Oedema": [1] * len(studies)})
    message = failure(
        capsys, "--predictions", a, "--truth", truth, "--radiologists", readers,
        out=tmp_path / "out",
    )  # fmt: skip
    assert f"{readers / 'r.csv'} has no column named like a category" in message


def test_a_reader_who_decided_nothing_is_refused(tables, tmp_path, capsys):
    truth, a, _ = tables
    readers = tmp_path / "readers"
    readers.mkdir()
    studies = read_truth(truth, ["Mass"]).keys
    write_csv(readers / "r.csv", {"Study": studies, "Mass": [""] * len(studies)})
    message = failure(
        capsys, "--predictions", a, "--truth", truth, "--radiologists", readers,
        out=tmp_path / "out",
    )  # fmt: skip
    assert f"{readers / 'r.csv'} holds no decision" in message


def test_columns_spelt_otherwise_are_named_on_both_sides(tables, tmp_path, capsys):
    truth, a, _ = tables
    rewrite(a, lambda rows: [{"Study": r["Study"], "mass": r["Mass"]} for r in rows])
    message = failure(capsys, "--predictions", a, "--truth", truth, out=tmp_path / "out")
    assert "(mass); its columns are Study, Edema, Mass" in message


@pytest.mark.parametrize("below", ["", "further/down"])
def test_a_file_in_the_place_of_the_output_is_named_before_any_work(
    tables, tmp_path, capsys, monkeypatch, below
):
    monkeypatch.setattr("train.evaluation.report_folder.evaluate_models", None)  # never reached
    file = tmp_path / "file"
    file.write_text("mine")
    arguments = ["--predictions", tables[1], "--truth", tables[0], "--out", file / below]
    assert main(list(map(str, arguments))) == 1
    assert f"{file} is a file, so no folder can be made there" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_an_ensemble_never_overwrites_another_model(model_folder, tmp_path, capsys):
    saved = tmp_path / "model"
    shutil.copytree(model_folder, saved)
    before = (saved / "config.json").read_bytes()
    message = failure(
        capsys, "--model", model_folder, "--ensemble", "mean", "--save-ensemble", saved,
        out=tmp_path / "out",
    )  # fmt: skip
    assert f"{saved} holds another model" in message
    assert (saved / "config.json").read_bytes() == before


def test_thresholds_are_never_chosen_on_the_films_that_are_scored(tables, tmp_path, capsys):
    truth, a, _ = tables
    message = failure(
        capsys, "--predictions", a, "--truth", truth, "--validation-predictions", a,
        "--validation-truth", truth, out=tmp_path / "out",
    )  # fmt: skip
    assert "share 60 rows" in message


def test_a_subset_that_no_model_predicts_is_refused(tables, tmp_path, capsys):
    truth, a, _ = tables
    message = failure(
        capsys, "--predictions", a, "--truth", truth, "--subset", "two=Mass,Hernia",
        out=tmp_path / "out",
    )  # fmt: skip
    assert "subset 'two' names 'Hernia'" in message


def test_logits_of_scores_that_are_no_probabilities_are_refused(tables, tmp_path, capsys):
    truth, a, b = tables
    rewrite(b, lambda rows: [{**row, "Mass": "1.5"} for row in rows])
    message = failure(
        capsys, "--predictions", a, b, "--truth", truth, "--ensemble", "logits",
        out=tmp_path / "out",
    )  # fmt: skip
    assert "a mean of logits needs probabilities" in message


# --- CheXpert's official figures ----------------------------------------------------------------


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_mean_of_the_five_tasks_equals_the_official_score(report, name):
    mean = report["models"][name]["subsets"]["chexpert_5"]
    assert round(mean["auroc"], 6) == OFFICIAL[name][0]
    assert mean["ci_low"] < mean["auroc"] < mean["ci_high"]


@pytest.mark.parametrize("name", ["drnet", "yww211"])
def test_readers_below_the_curve_equal_the_official_counts(report, name):
    below = report["models"][name]["radiologists_below"]
    assert [below[label] for label in CHEXPERT_5] == OFFICIAL[name][1]
    assert below["mean"] == pytest.approx(np.mean(OFFICIAL[name][1]))


@pytest.mark.parametrize(
    ("reader", "label", "sensitivity", "false_positive_rate"),
    [
        ("bc4", "Atelectasis", 0.8039, 0.2133),
        ("bc6", "Edema", 0.7949, 0.1872),
        ("bc8", "Pleural Effusion", 0.8942, 0.1364),
    ],
)
def test_each_readers_rates_equal_the_published_ones(
    report, reader, label, sensitivity, false_positive_rate
):
    rates = report["radiologists"][reader][label]
    assert round(rates["sensitivity"], 4) == sensitivity
    assert round(rates["false_positive_rate"], 4) == false_positive_rate


def test_the_place_is_that_of_the_official_table(shared, report):
    table = shared / "reference" / "chexpert_leaderboard_scores.csv"
    with table.open(newline="") as file:
        figures = [
            float(row["mean_auc"]) + float(row["mean_rads"]) / 1000 for row in csv.DictReader(file)
        ]
    assert len(figures) == 290
    for name in ("drnet", "ihil", "sensexdr", "uestc", "yww211"):
        model = report["models"][name]
        own = OFFICIAL[name][0] + model["radiologists_below"]["mean"] / 1000
        place = 1 + sum(figure > own + 1e-9 for figure in figures)
        assert model["leaderboard"] == {"place": place, "of": 290}


def test_scores_that_exceed_one_are_ranked_and_not_clipped(report):
    row = report["models"]["ngango2"]["categories"]["Atelectasis"]
    assert row["auroc"] > 0.88
    assert row["brier"] is None


def test_the_folder_holds_report_predictions_and_plots(official):
    for name in ("report.html", "report.json", "report.md", "predictions.csv"):
        assert (official / name).stat().st_size > 0
    for name in ("auroc", "roc", "precision-recall", "reliability"):
        with Image.open(official / "plots" / f"{name}.png") as image:
            assert min(image.size) > 800
            assert len(image.convert("L").getcolors(256)) > 50  # not a blank page
        assert (official / "plots" / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        assert f"plots/{name}.png" in (official / "report.md").read_text()


def all_files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_report_lists_the_files_of_its_folder(official, report):
    assert report["files"] == all_files(official)


def test_plots_of_an_earlier_report_are_removed_and_other_files_stay(tables, tmp_path):
    truth, a, _ = tables
    out = tmp_path / "out"
    evaluate("--predictions", a, "--truth", truth, out=out)
    assert (out / "plots" / "subgroups.png").exists()
    (out / "plots" / "mine.png").write_text("mine")
    rewrite(truth, lambda rows: [{k: r[k] for k in ("Study", "Edema", "Mass")} for r in rows])
    report = evaluate("--predictions", a, "--truth", truth, out=out)
    assert not list((out / "plots").glob("subgroups.*"))
    assert all_files(out) == sorted([*report["files"], "plots/mine.png"])


@pytest.mark.parametrize("damaged", ["", "[]", "null", '{"files": 5}', '{"files": [5, null, []]}'])
def test_a_damaged_report_is_written_anew(tables, tmp_path, no_plots, damaged):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text(damaged)
    report = evaluate("--predictions", tables[1], "--truth", tables[0], out=out)
    assert report["files"] == ["predictions.csv", "report.html", "report.json", "report.md"]


def test_only_plots_within_the_folder_are_ever_removed(tables, tmp_path, no_plots):
    out, elsewhere = tmp_path / "out", tmp_path / "plots"
    inside = [out / name for name in ("notes.txt", "plots/notes.txt", "films/a.png")]
    outside = [elsewhere / "roc.png", tmp_path / "a.png"]
    (out / "plots" / "folder.png").mkdir(parents=True)
    (out / "plots" / "linked").symlink_to(elsewhere)
    for path in (*inside, *outside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    listed = [str(path.relative_to(out)) for path in inside] + list(map(str, outside))
    listed += ["../plots/roc.png", "plots/../../a.png", "plots/../../plots/roc.png"]
    listed += ["plots/linked/roc.png", "plots/folder.png", "plots/gone.png", "\0/a.png"]
    (out / "report.json").write_text(json.dumps({"files": listed}))
    evaluate("--predictions", tables[1], "--truth", tables[0], out=out)
    assert all(path.read_text() == "mine" for path in (*inside, *outside))


def test_the_ensemble_is_scored_among_the_models(report):
    ensemble = report["models"]["ensemble"]
    best = max(r["subsets"]["all"]["auroc"] for n, r in report["models"].items() if n in OFFICIAL)
    assert ensemble["subsets"]["all"]["auroc"] > best
    assert any("ngango2" in note for note in ensemble["notes"])  # its scores are no probabilities


def test_every_pair_of_models_is_compared(report):
    pairs = {(c["first"], c["second"]) for c in report["comparisons"]}
    assert len(pairs) == 21
    comparison = next(c for c in report["comparisons"] if c["second"] == "uestc")
    same = comparison["categories"]["Consolidation"]  # drnet and uestc share these scores
    assert same["difference"] == 0
    assert same["delong"]["p"] == same["bootstrap"]["p"] == 1
    five = comparison["subsets"]["chexpert_5"]
    assert five.pop("categories") == list(CHEXPERT_5)
    assert five == pytest.approx(comparison["mean"])


def test_a_comparison_names_the_mean_over_the_five_tasks_once(official):
    text = (official / "report.md").read_text()
    assert text.count("mean AUROC over chexpert_5") == 21
    assert "mean AUROC over all" not in text


# --- The step rule, by hand ---------------------------------------------------------------------

# Vertices: (0, 0) (0, 1/2) (1/2, 1/2) (1/2, 1) (1, 1).
SCORES, TRUTH = np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("sensitivity", "false_positive_rate", "below"),
    [
        (0.5, 0.25, True),  # before the vertex (1/2, 1/2) the curve is at 1/2
        (0.51, 0.25, False),
        (0.5, 0.5, True),  # the first vertex at 1/2 is (1/2, 1/2); before it 1/2
        (0.51, 0.5, False),  # though the curve climbs to 1 at this very rate
        (1.0, 0.75, True),
        (0.1, 0.0, False),  # nothing lies before the first vertex
        (0.0, 0.0, True),
    ],
)
def test_the_step_rule_reads_the_curve_before_the_vertex(sensitivity, false_positive_rate, below):
    result = competition.readers_below(SCORES, TRUTH, {"r": (sensitivity, false_positive_rate)})
    assert result == {"count": int(below), "readers": ["r"] if below else []}


def test_the_vertices_are_those_of_scikit_learn():
    generator = np.random.default_rng(4)
    labels = generator.choice([0, 1, np.nan], 200, p=[0.6, 0.3, 0.1])
    scores = (generator.standard_normal(200) + np.nan_to_num(labels)).round(1)
    known = ~np.isnan(labels)
    expected = roc_curve(labels[known], scores[known], drop_intermediate=False)[:2]
    np.testing.assert_allclose(roc_vertices(scores, labels), expected)


def test_tied_scores_make_one_vertex():
    x, y = roc_vertices(np.array([1.0, 1.0, 0.0, 5.0]), np.array([1, 0, 0, np.nan]))
    np.testing.assert_allclose([x, y], [[0, 0.5, 1], [0, 1, 1]])


def test_readers_rates_leave_out_what_is_unknown():
    decisions, labels = np.array([1, 0, np.nan, 1, 1]), np.array([1, 1, 1, 0, np.nan])
    assert competition.reader_rates(decisions, labels) == (0.5, 1.0)


def test_the_majority_of_three_readers_is_a_reader_of_its_own():
    truth = Truth("t", tuple("abcd"), ("Edema",), np.array([[1.0], [1], [0], [0]]),
                  np.arange(4), "study")  # fmt: skip
    votes = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1]])
    readers = [Predictions(f"r{i}", ("Edema",), votes[:, [i]].astype(float)) for i in range(3)]
    model = Predictions("m", ("Edema",), np.array([[0.9], [0.8], [0.2], [0.1]]))
    results = evaluate_models(truth, [model], readers, Settings(replicates=5))
    majority = results["radiologists"]["majority"]["Edema"]
    assert majority == {"sensitivity": 0.5, "false_positive_rate": 0.5}
    assert results["models"]["m"]["radiologists_below"] == {"Edema": 3, "mean": 3.0}
    assert "leaderboard" not in results["models"]["m"]  # these are not the competition's studies


# --- Tables -------------------------------------------------------------------------------------


def test_rows_and_columns_are_joined_by_name(tables):
    path, a, _ = tables
    truth = read_truth(path, ["Mass", "Edema"])
    (model,) = read_predictions(a, truth)
    with a.open(newline="") as file:
        by_study = {row["Study"]: row for row in csv.DictReader(file)}
    for label in ("Mass", "Edema"):
        expected = [float(by_study[key][label]) for key in truth.keys]
        np.testing.assert_array_equal(model.column(label), expected)


def test_uncertain_and_blank_labels_are_unknown_and_counted(tmp_path):
    path = write_csv(tmp_path / "t.csv", {"Study": list("abcd"), "Mass": ["1", "", "-1.0", "0"]})
    truth = read_truth(path, ["Mass"])
    np.testing.assert_array_equal(truth.labels[:, 0], [1, np.nan, np.nan, 0])
    assert truth.notes == ("1 labels marked uncertain (-1) are counted as unknown",)


@pytest.mark.parametrize(
    ("columns", "unit", "expected"),
    [
        ({"Study": ["patient1/study1", "patient1/study2"]}, "patient", ["patient1"] * 2),
        ({"Study": ["x", "y"], "patient_id": ["7", "7"]}, "patient", ["7", "7"]),
        ({"Study": ["x", "y"]}, "patient", ["x", "y"]),
        ({"Study": ["patient1/a", "patient1/b"]}, "study", ["patient1/a", "patient1/b"]),
    ],
)
def test_films_are_grouped_by_patient_where_the_table_says_who(tmp_path, columns, unit, expected):
    path = write_csv(tmp_path / "t.csv", {**columns, "Mass": [1, 0]})
    assert read_truth(path, ["Mass"], unit=unit).groups.tolist() == expected


def test_a_misspelt_column_and_surplus_rows_are_named(tables):
    path, a, _ = tables
    rewrite(a, lambda rows: [{**row, "Masss": "0"} for row in rows])
    rewrite(a, lambda rows: [*rows, {**rows[0], "Study": "patient99/study1"}])
    (model,) = read_predictions(a, read_truth(path, ["Mass", "Edema"]))
    assert any("'Masss'" in note for note in model.notes)
    assert any("1 rows" in note for note in model.notes)


def test_categories_that_are_not_predicted_are_named(tables, tmp_path, no_plots):
    truth, a, b = tables
    rewrite(b, lambda rows: [{"Study": row["Study"], "Mass": row["Mass"]} for row in rows])
    report = evaluate("--predictions", a, b, "--truth", truth, out=tmp_path / "both")
    assert "b.csv does not predict Edema" in report["models"]["b"]["notes"]
    assert report["truth"]["notes"] == []  # sex, age and the like are no categories
    report = evaluate("--predictions", b, "--truth", truth, out=tmp_path / "one")
    assert report["truth"]["notes"] == ["not predicted, so not scored: Edema"]


def test_a_truth_without_a_positive_gives_nulls_and_says_so(tables, tmp_path):
    truth, a, _ = tables
    rewrite(truth, lambda rows: [{**row, "Mass": "0", "Edema": "0"} for row in rows])
    report = evaluate("--predictions", a, "--truth", truth, out=tmp_path / "out")
    model = report["models"]["a"]
    for figures in (*model["categories"].values(), *model["subsets"].values()):
        assert figures["auroc"] is figures["ap"] is figures["ci_low"] is None
    assert any("no known positive" in note for note in model["notes"])
    assert any("there is no mean AUROC over 'all'" in note for note in model["notes"])


def test_written_predictions_are_read_back_exactly(tables, tmp_path):
    path, a, b = tables
    truth = read_truth(path, ["Mass", "Edema"])
    models = [*read_predictions(a, truth), *read_predictions(b, truth)]
    models.append(Predictions("only mass", ("Mass",), models[0].columns(["Mass"])))
    copy = tmp_path / "copy.csv"
    copy.write_text(predictions_csv(truth, models))
    for original, again in zip(models, read_predictions(copy, truth), strict=True):
        assert again.name == original.name
        assert set(again.label_names) == set(original.label_names)
        np.testing.assert_array_equal(again.columns(original.label_names), original.scores)


def test_a_reader_may_leave_a_study_open(tables, tmp_path):
    truth = read_truth(tables[0], ["Mass"])
    decisions = write_csv(
        tmp_path / "r.csv", {"Study": truth.keys, "Mass": ["", *["1"] * (len(truth.keys) - 1)]}
    )
    column = read_decisions(decisions, truth).column("Mass")
    assert np.isnan(column[0])
    assert (column[1:] == 1).all()


def test_a_table_with_spaces_and_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeffStudy, Mass \na, 1 \nb,0\n", encoding="utf-8")
    assert read_truth(path, ["Mass"]).labels[:, 0].tolist() == [1, 0]


def test_an_unknown_file_is_a_table_error(tmp_path):
    with pytest.raises(TableError, match=r"cannot read .*none\.csv"):
        read_truth(tmp_path / "none.csv", ["Mass"])


# --- Tables of films ----------------------------------------------------------------------------


@pytest.fixture
def films_tables(tmp_path):
    """What `cft --csv` writes on 12 films, one of which cannot be read, and one's own labels."""
    generator = np.random.default_rng(5)
    y = generator.integers(0, 2, 12)
    y[:2] = 0, 1
    scores = [repr(float(x)) for x in generator.random(12)]
    files = [f"films/{i}.png" for i in range(12)]
    scores[3] = ""
    errors = ["" if x else "not an image" for x in scores]
    columns = {"file": files, "Mass": scores, "view": [""] * 12, "notes": [""] * 12}
    found = write_csv(tmp_path / "findings.csv", {**columns, "error": errors})
    own = {"image": [f"{i}.png" for i in range(12)], "patient": [i // 2 for i in range(12)]}
    return write_csv(tmp_path / "my.csv", {**own, "split": ["test"] * 12, "Mass": y}), found


def test_what_the_program_writes_is_scored_against_ones_own_table(films_tables, tmp_path, no_plots):
    truth, found = films_tables
    report = evaluate("--predictions", found, "--truth", truth, out=tmp_path / "out")
    assert report["truth"]["row"] == "film"
    assert report["truth"]["films"] == report["truth"]["rows"] == 11
    assert report["truth"]["groups"] == 6
    assert report["truth"]["notes"] == [
        "left out 1 film for which findings.csv has an error instead of scores, first '3.png': "
        "not an image"
    ]
    assert report["models"]["findings"]["notes"][0] == (
        "joined 'file' of findings.csv with 'image' of the truth by the last part of their paths"
    )
    scores = {row["file"]: row["Mass"] for row in csv.DictReader(found.open(newline=""))}
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert float(row["Mass"]) == float(scores[f"films/{row['image']}"])


def test_the_csv_of_the_program_itself_is_accepted(films, model_folder, tmp_path, no_plots):
    from cft.__main__ import main as use

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no film")
    found = tmp_path / "found.csv"
    use([*map(str, [*films, bad]), "--model", str(model_folder), "--csv", str(found)])
    columns = {"image": [*(film.name for film in films), "bad.png"], "Effusion": [0, 1, 0, 1, 1, 0]}
    truth = write_csv(tmp_path / "my.csv", columns)
    report = evaluate("--predictions", found, "--truth", truth, out=tmp_path / "out")
    assert report["truth"]["films"] == 5
    assert "left out 1 film for which found.csv has an error" in " ".join(report["truth"]["notes"])


def test_films_of_the_same_name_are_joined_by_their_whole_path_only(films_tables, tmp_path, capsys):
    truth, found = films_tables
    rewrite(found, lambda rows: [*rows, {**rows[0], "file": "others/0.png"}])
    message = failure(capsys, "--predictions", found, "--truth", truth, out=tmp_path / "out")
    assert "lacks 1 of the 11 rows" in message
    rewrite(truth, lambda rows: [{**r, "image": f"films/{r['image']}"} for r in rows])
    report = evaluate("--predictions", found, "--truth", truth, out=tmp_path / "out")
    notes = report["models"]["findings"]["notes"]
    assert "joined 'file' of findings.csv with 'image' of the truth by their values" in notes
    assert "1 rows of findings.csv have no truth and are not used" in notes


def test_a_key_that_is_named_is_used(films_tables, tmp_path, no_plots):
    truth, found = films_tables
    rewrite(truth, lambda rows: [{**r, "case": f"films/{r['image']}"} for r in rows])
    report = evaluate(
        "--predictions", found, "--truth", truth, "--key", "case", out=tmp_path / "out"
    )
    assert "with 'case' of the truth by their values" in report["models"]["findings"]["notes"][0]


@pytest.mark.parametrize("text", ["NaN", "n/a", "none", "NA"])
def test_a_blank_label_is_blank_for_every_reader(tmp_path, text):
    path = write_csv(tmp_path / "t.csv", {"Study": list("abc"), "Mass": [text, "yes", "False"]})
    np.testing.assert_array_equal(read_truth(path, ["Mass"]).labels[:, 0], [np.nan, 1, 0])


# --- Figures of the command ---------------------------------------------------------------------


def test_the_same_command_gives_the_same_bytes(tables, tmp_path):
    truth, a, b = tables
    rewrite(truth, lambda rows: [{"Study": row["Study"], "Mass": row["Mass"]} for row in rows])
    for name in ("one", "two"):
        evaluate("--predictions", a, b, "--truth", truth, out=tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_subgroups_are_reported_with_their_numbers(tables, tmp_path, no_plots):
    truth, a, _ = tables
    report = evaluate("--predictions", a, "--truth", truth, out=tmp_path / "out")
    subgroups = report["models"]["a"]["subgroups"]
    assert {value: r["films"] for value, r in subgroups["sex"].items()} == {"F": 20, "M": 20}
    assert list(subgroups["age"]) == ["0-39", "40-59", "60-79"]
    text = (tmp_path / "out" / "report.md").read_text()
    row = subgroups["sex"]["F"]["categories"]["Mass"]
    assert f"{row['auroc']:.4f}" in text
    assert "F (n = 20)" in text


def test_a_subgroup_of_few_patients_is_named(tables, tmp_path, no_plots):
    truth, a, _ = tables
    rewrite(truth, lambda rows: [{**r, "Sex": "O" if i < 8 else "F"} for i, r in enumerate(rows)])
    report = evaluate("--predictions", a, "--truth", truth, out=tmp_path / "out")
    notes = report["models"]["a"]["notes"]
    assert "sex O: 4 patients are too few for an interval that can be trusted" in notes


def test_every_table_and_section_says_what_it_is_about(tables, tmp_path, capsys, no_plots):
    truth, a, b = tables
    evaluate("--predictions", a, b, "--truth", truth, out=tmp_path / "out")
    size = "60 studies of 30 patients"
    printed = capsys.readouterr().out.split("\n\n")
    assert [part.splitlines()[0] for part in printed[:2]] == [
        f"Means, {size}",
        f"AUROC by category, {size}",
    ]
    text = (tmp_path / "out" / "report.md").read_text()
    for section in text.split("\n## ")[1:]:
        heading, lead = section.split("\n\n")[:2]
        assert lead == f"{size}." or heading in ("Checklist", "Notes"), heading


def test_films_and_studies_are_both_counted(nih, model_folder, tmp_path, capsys, no_plots):
    options = ("--model", model_folder, "--dataset", "nih", "--data", nih)
    report = evaluate(*options, out=tmp_path / "out")
    assert report["truth"]["films"] == 14
    assert "Means, 14 studies (14 films) of 14 patients" in capsys.readouterr().out
    evaluate(*options, "--films", "separate", out=tmp_path / "films")
    assert "Means, 14 films of 14 patients" in capsys.readouterr().out


def test_a_named_subset_is_averaged(tables, tmp_path, no_plots):
    truth, a, _ = tables
    report = evaluate(
        "--predictions", a, "--truth", truth, "--subset", "one=Mass", out=tmp_path / "out"
    )
    model = report["models"]["a"]
    assert model["subsets"]["one"]["auroc"] == model["categories"]["Mass"]["auroc"]


def test_optimistic_thresholds_are_marked_everywhere(tables, tmp_path, capsys, no_plots):
    truth, a, _ = tables
    out = tmp_path / "out"
    report = evaluate(
        "--predictions", a, "--truth", truth, "--optimistic-thresholds", "--threshold-rule", "f1",
        out=out,
    )  # fmt: skip
    points = report["models"]["a"]["operating_points"]
    assert points == {"source": "the films that are scored", "optimistic": True, "rule": "f1"}
    assert "**Optimistic**" in (out / "report.md").read_text()
    assert "note: a: optimistic: operating points were chosen on the fi" in capsys.readouterr().out


def test_the_f1_rule_finds_the_largest_f1(tables, tmp_path, no_plots):
    truth, a, _ = tables
    options = ("--predictions", a, "--truth", truth, "--optimistic-thresholds")
    best = evaluate(*options, "--threshold-rule", "f1", out=tmp_path / "f1")
    y = read_truth(truth, ["Mass"]).labels[:, 0] == 1
    scores = read_predictions(a, read_truth(truth, ["Mass"]))[0].column("Mass")
    f1 = [2 * (y & (scores >= t)).sum() / (y.sum() + (scores >= t).sum()) for t in scores]
    assert best["models"]["a"]["categories"]["Mass"]["f1"] == pytest.approx(max(f1))


def test_without_a_source_of_thresholds_no_rate_is_given(tables, tmp_path, no_plots):
    truth, a, _ = tables
    report = evaluate("--predictions", a, "--truth", truth, out=tmp_path / "out")
    assert report["models"]["a"]["categories"]["Mass"]["sensitivity"] is None
    assert report["models"]["a"]["operating_points"]["source"] is None


@pytest.fixture
def validation(tables, tmp_path):
    """Other studies; model a is good on them and model b is noise: (truth, [a, b])."""
    generator = np.random.default_rng(1)
    studies = [f"patient{i}/valid" for i in range(80)]
    y = generator.integers(0, 2, (80, 2))
    folder = tmp_path / "validation"
    folder.mkdir()
    truth = write_csv(folder / "t.csv", {"Study": studies, "Edema": y[:, 0], "Mass": y[:, 1]})
    paths = []
    for name, signal in (("a", 3), ("b", 0)):
        p = 1 / (1 + np.exp(-generator.standard_normal((80, 2)) - signal * y + signal / 2))
        columns = {"Study": studies, "Edema": p[:, 0], "Mass": p[:, 1]}
        paths.append(write_csv(folder / f"{name}.csv", columns))
    return truth, paths


def test_thresholds_come_from_the_validation_tables(tables, validation, tmp_path, no_plots):
    truth, a, b = tables
    report = evaluate(
        "--predictions", a, b, "--truth", truth, "--validation-predictions", *validation[1],
        "--validation-truth", validation[0], "--ensemble", "mean", out=tmp_path / "out",
    )  # fmt: skip
    for name in ("a", "b", "ensemble"):
        model = report["models"][name]
        assert model["categories"]["Mass"]["sensitivity"] is not None
        points = model["operating_points"]
        assert points["source"] == "the validation films (youden)"
        assert not points["optimistic"]


def test_greedy_weights_are_chosen_on_validation(tables, validation, tmp_path, no_plots):
    truth, a, b = tables
    report = evaluate(
        "--predictions", a, b, "--truth", truth, "--validation-predictions", *validation[1],
        "--validation-truth", validation[0], "--ensemble", "ranks", "--ensemble-weights", "greedy",
        out=tmp_path / "out",
    )  # fmt: skip
    ensemble = report["models"]["ensemble"]
    assert ensemble["weights"]["a"] > 0.8
    assert ensemble["categories"]["Mass"]["brier"] is None  # ranks are no probabilities
    assert ensemble["categories"]["Mass"]["threshold"] is None


def test_the_command_runs_as_a_module(tables, tmp_path):
    truth, a, _ = tables
    command = [sys.executable, "-m", "train.evaluate", "--predictions", a, "--truth", truth]
    command += ["--key", "Nothing", "--out", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "no column 'Nothing'" in result.stderr
    assert "Traceback" not in result.stderr


# --- Ensembles ----------------------------------------------------------------------------------


def test_combinations_are_as_by_hand():
    a, b = np.array([[0.2], [0.8], [0.5]]), np.array([[0.4], [0.9], [0.4]])
    np.testing.assert_allclose(combine([a, b])[:, 0], [0.3, 0.85, 0.45])
    np.testing.assert_allclose(combine([a, b], weights=[3, 1])[:, 0], [0.25, 0.825, 0.475])
    logit = (np.log(0.2 / 0.8) + np.log(0.4 / 0.6)) / 2
    np.testing.assert_allclose(combine([a, b], "logits")[0, 0], 1 / (1 + np.exp(-logit)))
    np.testing.assert_allclose(combine([a, b], "ranks")[:, 0], [0.125, 1, 0.375])


def test_a_mean_of_logits_bears_certainty():
    combined = combine([np.array([[0.0], [1.0]]), np.array([[0.5], [0.5]])], "logits")
    assert np.isfinite(combined).all()
    assert combined[0, 0] < 0.001 < 0.999 < combined[1, 0]


def test_greedy_selection_leaves_out_what_does_not_help():
    generator = np.random.default_rng(2)
    y = (generator.random((200, 1)) < 0.4).astype(float)
    good = [y + generator.standard_normal((200, 1)) for _ in range(2)]
    weights = greedy_weights([*good, -y], y)
    assert weights[2] == 0
    assert (weights[:2] > 0).all()
    assert weights.sum() == pytest.approx(1)


def test_greedy_selection_without_both_classes_is_refused():
    with pytest.raises(ValueError, match="both classes"):
        greedy_weights([np.zeros((3, 1))], np.ones((3, 1)))


# --- Models -------------------------------------------------------------------------------------


@pytest.fixture
def table(films):
    """Five films of three studies of two patients, labelled in three of the model's categories."""
    y = np.array([[1, 0, 0], [1, 0, 0], [0, 1, np.nan], [0, 1, np.nan], [1, 1, 0]], np.float32)
    return LabelTable(
        images=tuple(films),
        y=y,
        uncertain=np.zeros(y.shape, bool),
        label_names=("Effusion", "Cardiomegaly", "Mass"),
        patients=np.array(["p", "p", "p", "p", "q"]),
        studies=np.array(["s1", "s1", "s0", "s0", "s2"]),
        split=np.array(["test"] * 5),
        attributes={
            "sex": np.array(["F", "F", "F", "F", "M"]),
            "age": np.array([50, 50, np.nan, np.nan, 70], np.float32),
            "view": np.array(["PA", "lateral", "AP", "AP", "PA"]),
        },
        dataset="films",
    )


@pytest.fixture(scope="module")
def classifier(model_folder):
    import cft

    return cft.load(model_folder, device="cpu")


@pytest.mark.parametrize(("rule", "combined"), [("max", np.max), ("mean", np.mean)])
def test_films_of_a_study_are_combined(table, classifier, rule, combined):
    model = predictions_of("m", classifier, run(classifier, [table]), table, rule)
    truth = truth_of(table, rule)
    assert truth.keys == ("s1", "s0", "s2")
    assert model.label_names == ("Cardiomegaly", "Effusion")  # in the model's order
    found = [f.probabilities["Effusion"] for f in classifier.predict(list(table.images))]
    expected = [combined(found[:2]), combined(found[2:4]), found[4]]
    np.testing.assert_allclose(model.column("Effusion"), expected, rtol=1e-6)
    np.testing.assert_array_equal(truth.columns(["Effusion"])[:, 0], [1, 0, 1])
    assert truth.groups.tolist() == ["p", "p", "q"]


def test_attributes_that_differ_within_a_study_are_unknown(table):
    truth = truth_of(table, "max")
    assert truth.attributes["view"].tolist() == ["", "AP", "PA"]
    assert truth.attributes["age"].tolist() == ["50.0", "", "70.0"]


def test_separate_films_keep_their_names(table, classifier):
    truth = truth_of(table, "separate", unit="study")
    assert truth.keys == tuple(path.name for path in table.images)
    assert (truth.row, truth.unit) == ("film", "film")
    model = predictions_of("m", classifier, run(classifier, [table]), table, "separate")
    assert len(model.scores) == 5


def test_different_labels_within_a_study_are_refused(table):
    y = table.y.copy()
    y[1, 0] = 0
    other = LabelTable(**{**vars(table), "y": y})
    with pytest.raises(StudyError, match=r"'s1' have different labels for 'Effusion'"):
        truth_of(other, "max")
    assert truth_of(other, "separate").labels[1, 0] == 0


def test_operating_points_come_from_the_model_folder(table, classifier):
    scores = run(classifier, [table])
    model = predictions_of("m", classifier, scores, table, "max")
    assert model.operating_points == {"Cardiomegaly": 0.25, "Effusion": 0.0}
    assert "the model folder" in model.source
    other = predictions_of("m", classifier, scores, table, "max", "f1")
    assert other.operating_points == {"Cardiomegaly": 0.5, "Effusion": None}
    results = evaluate_models(truth_of(table, "max"), [model], settings=Settings(replicates=5))
    assert results["models"]["m"]["categories"]["Effusion"]["sensitivity"] == 1
    before = results["models"]["m"]["uncalibrated"]["Cardiomegaly"]["brier"]
    assert before != results["models"]["m"]["categories"]["Cardiomegaly"]["brier"]


@pytest.fixture
def nih(tmp_path):
    """A data set of 24 phantoms in the compact layout of ChestX-ray14, with experts' labels."""
    from cft.labels import NIH_14

    folder = tmp_path / "nih"
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(3)
    names = [f"{i:08d}_000.png" for i in range(24)]
    for name in names:
        pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / "images" / name)
    columns = {
        "image": names,
        "patient_id": [str(i) for i in range(24)],
        "age": [40 + i for i in range(24)],
        "sex": ["F", "M"] * 12,
        "view": ["PA"] * 24,
        **{label: generator.integers(0, 2, 24) for label in NIH_14},
        "width": [1024] * 24,
    }
    write_csv(folder / "labels.csv", columns)
    experts = {"image": names[:14], **{x: generator.integers(0, 2, 14) for x in NIH_14}}
    write_csv(folder / "expert_labels.csv", experts)
    return folder


def test_one_run_reports_against_the_mined_and_the_experts_labels(nih, model_folder, tmp_path):
    out = tmp_path / "out"
    report = evaluate("--model", model_folder, "--dataset", "nih", "--data", nih, out=out)
    assert list(report["references"]) == ["nih-experts"]
    against_experts = report["references"]["nih-experts"]["models"][model_folder.name]
    mined = report["models"][model_folder.name]
    assert against_experts["films"] == mined["films"] == 14
    assert set(mined["categories"]) == {"Cardiomegaly", "Effusion", "Hernia"}
    text = (out / "report.md").read_text()
    assert "## Against nih-experts" in text
    assert "plots/nih-experts/roc.png" in text
    assert "plots/calibration.png" in text  # for models that were run, before and after
    assert "the model does not predict Atelectasis, Infiltration" in " ".join(mined["notes"])


def test_kinds_of_maps_are_compared_in_one_command(nih, model_folder, tmp_path, no_plots):
    boxes = tmp_path / "boxes.csv"
    rows = [f"{i:08d}_000.png,Effusion,{8 * (i % 4)},8,40,32" for i in range(24)]
    boxes.write_text("\n".join(["film,finding,x,y,w,h", *rows]))
    words = ["--model", model_folder, "--dataset", "nih", "--data", nih, "--boxes", boxes]
    words += ["--box-side", "64", "--maps", "cam,grad-cam,gradient", "--replicates", "20"]
    model = evaluate(*words, out=tmp_path / "out")["models"][model_folder.name]
    kinds = model["maps"]["kinds"]
    assert list(kinds) == ["cam", "grad-cam", "gradient"]
    assert kinds["cam"]["micro"] == model["localisation"]  # what the page draws
    assert len({row["micro"]["n"] for row in kinds.values()}) == 1
    assert len({row["micro"]["floor_hit"] for row in kinds.values()}) == 1
    pairs = [(row["first"], row["second"]) for row in model["maps"]["differences"]]
    assert pairs == [("cam", "grad-cam"), ("cam", "gradient"), ("grad-cam", "gradient")]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| cam minus grad-cam |" in text


def test_a_kind_of_maps_that_a_model_lacks_is_refused_before_any_film(
    nih, model_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("train.evaluation.run_models.cannot", lambda model, kind: "it has none")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("film,finding,x,y,w,h\n00000001_000.png,Effusion,8,8,40,32\n")
    words = ["--model", model_folder, "--dataset", "nih", "--data", nih, "--boxes", boxes]
    words += ["--box-side", "64", "--split", "all", "--maps", "cam"]
    message = failure(capsys, *words, out=tmp_path / "out")
    assert "has no maps of the kind 'cam': it has none" in message


def shuffled_run(model_folder, folder, **changes) -> Path:
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["cft"]["provenance"] |= {"arguments": {"shuffle_labels": True}, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_run_with_shuffled_labels_is_found_beside_the_model(
    nih, model_folder, tmp_path, no_plots
):
    model = tmp_path / "runs" / "model"
    shutil.copytree(model_folder, model)
    shuffled_run(model_folder, tmp_path / "runs" / "control")
    shuffled_run(model_folder, tmp_path / "runs" / "other", dataset="chexpert")
    words = ["--model", model, "--dataset", "nih", "--data", nih, "--split", "test"]
    report = evaluate(*words, "--controls", out=tmp_path / "out")
    for one in (report, *report["references"].values()):
        assert list(one["models"])[-1] == "shuffled labels (control)"
        control = one["models"]["shuffled labels (control)"]
        assert (
            control["subsets"]["all"]["auroc"] == one["models"]["model"]["subsets"]["all"]["auroc"]
        )
        assert control["categories"]["Effusion"]["threshold"] is None
        assert "each other's labels" in " ".join(control["notes"])


def test_a_folder_of_another_run_is_no_control(nih, model_folder, tmp_path, capsys):
    words = ["--model", model_folder, "--dataset", "nih", "--data", nih]
    message = failure(capsys, *words, "--shuffled", model_folder, out=tmp_path / "out")
    assert "is no run with --shuffle-labels" in message


def test_films_are_grouped_by_a_further_column(nih, model_folder, tmp_path, capsys, no_plots):
    names = [path.name for path in sorted((nih / "images").iterdir())]
    table = write_csv(
        tmp_path / "machines.csv",
        {"film": names[:20], "machine": ["A", "B"] * 10, "number": range(20)},
    )
    words = ["--model", model_folder, "--dataset", "nih", "--data", nih, "--split", "all"]
    words += ["--group-table", table, "--key", "film"]
    report = evaluate(*words, "--group-column", "machine", out=tmp_path / "out")
    model = report["models"][model_folder.name]
    assert {value: row["films"] for value, row in model["subgroups"]["machine"].items()} == {
        "A": 10, "B": 10,
    }  # fmt: skip
    assert "A" in model["gaps"]["machine"]
    assert "machine" in (tmp_path / "out" / "report.md").read_text()
    capsys.readouterr()
    message = failure(capsys, *words, "--group-column", "ward", out=tmp_path / "bad")
    assert "has no column 'ward' to group by" in message


def test_a_column_of_the_truth_groups_its_rows(tables, tmp_path, capsys, no_plots):
    truth, a, _ = tables
    rewrite(truth, lambda rows: [{**row, "Site": "xyz"[i % 3]} for i, row in enumerate(rows)])
    words = ["--predictions", a, "--truth", truth]
    report = evaluate(*words, "--group-column", "Site", out=tmp_path / "out")
    assert list(report["models"]["a"]["subgroups"]["Site"]) == ["x", "y", "z"]
    message = failure(capsys, *words, "--group-column", "Study", out=tmp_path / "bad")
    assert "has 60 different values" in message


def test_a_second_data_set_is_scored_beside_the_first(nih, model_folder, tmp_path, no_plots):
    other = tmp_path / "other"
    shutil.copytree(nih, other)
    out = tmp_path / "out"
    words = ["--model", model_folder, "--dataset", "nih", "--data", nih]
    report = evaluate(*words, "--shift", other, out=out)
    assert list(report["shift"]) == ["nih (other)"]
    shift = report["shift"]["nih (other)"]
    found = shift["models"][model_folder.name]
    for row in found["categories"].values():  # the same films, so nothing differs
        assert row["differs"] == []
        assert row["auroc"]["difference"] in (0, None)
    assert "have the same name in both data sets" in " ".join(shift["notes"])
    text = (out / "report.md").read_text()
    assert "## Shift: nih (other)" in text
    assert "Recalibrated in the large" in text
    assert "Shift: nih (other)" in (out / "report.html").read_text()


def test_tables_of_a_second_data_set_are_compared_by_order(tables, tmp_path, capsys, no_plots):
    truth, a, b = tables
    words = ["--predictions", a, b, "--truth", truth, "--shift-truth", truth]
    report = evaluate(*words, "--shift-predictions", b, a, out=tmp_path / "out")
    (shift,) = report["shift"].values()
    assert list(shift["models"]) == ["a", "b"]
    areas = {name: of["categories"]["Mass"]["auroc"] for name, of in shift["models"].items()}
    assert areas["a"]["second"] == areas["b"]["first"]
    assert areas["a"]["difference"] == -areas["b"]["difference"] != 0
    message = failure(capsys, *words, "--shift-predictions", a, out=tmp_path / "bad")
    assert "1 models are predicted for the second data set and 2 for the first" in message


def test_a_film_that_cannot_be_read_is_left_out_and_named(nih, model_folder, tmp_path, no_plots):
    (nih / "images" / "00000003_000.png").write_bytes(b"not an image")
    report = evaluate(
        "--model", model_folder, "--dataset", "nih", "--data", nih, out=tmp_path / "out"
    )
    assert report["models"][model_folder.name]["films"] == 13
    assert any("1 films could not be read" in note for note in report["truth"]["notes"])


def test_a_model_without_a_common_category_is_refused(model_folder, tmp_path, capsys, nih):
    config = json.loads((model_folder / "config.json").read_text())
    config["label_names"] = ["x", "y", "z"]
    config["cft"].pop("categories")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes())
    message = failure(
        capsys, "--model", other, "--dataset", "nih", "--data", nih, out=tmp_path / "out"
    )
    assert "other predicts no category of the data set 'nih'" in message


def trained_on(dataset, model_folder, folder, seed, **arguments) -> Path:
    """A copy of a model folder that says that it was trained on a data set drawn with a seed."""
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["cft"]["provenance"] = {"dataset": dataset, "seed": seed, "arguments": arguments}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def trained_on_nih(model_folder, folder, seed, **arguments) -> Path:
    return trained_on("nih", model_folder, folder, seed, **arguments)


def seen_films(report, model) -> list[str]:
    return [n for n in report["models"][model]["notes"] if "the model has been trained on" in n]


@pytest.fixture
def drawn_nih(nih):
    """A data set whose test films are drawn by a seed, not named by the data set."""
    (nih / "expert_labels.csv").unlink()
    return nih


def test_films_that_the_model_was_trained_on_are_counted_and_named(
    drawn_nih, model_folder, tmp_path, no_plots
):
    options = ("--dataset", "nih", "--data", drawn_nih, "--test", "0.5")
    own = trained_on_nih(model_folder, tmp_path / "own", seed=0, test=0.5, valid=None)
    other = trained_on_nih(model_folder, tmp_path / "other", seed=1, test=0.5, valid=None)
    silent = trained_on_nih(model_folder, tmp_path / "silent", seed=0)
    report = evaluate("--model", own, other, silent, *options, out=tmp_path / "out")
    assert not seen_films(report, "own")
    (note,) = seen_films(report, "other")
    assert "of the 12 films" in note
    assert "--seed 1" in note
    assert seen_films(report, "silent")  # with its default share of test films


def test_the_splits_that_a_run_wrote_down_are_not_drawn_again(
    drawn_nih, model_folder, tmp_path, no_plots
):
    """Not even options that draw other splits count then."""
    options = ("--dataset", "nih", "--data", drawn_nih, "--test", "0.5")
    model = trained_on_nih(model_folder, tmp_path / "model", seed=1, test=0.5)
    films = [f"{i:08d}_000.png" for i in range(24)]
    lines = [f"{film},{i},{'train' if i < 3 else 'test'}\n" for i, film in enumerate(films)]
    (model / "splits.csv").write_text("".join(["film,patient,split\n", *lines]))
    report = evaluate("--model", model, *options, out=tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        scored = {row["Study"] for row in csv.DictReader(file)}
    seen = len(scored & {f"{i:08d}_000" for i in range(3)})
    if seen:
        (note,) = seen_films(report, "model")
        assert f"trained on {seen} of the 12 films" in note
        assert "splits.csv" in note
    else:
        assert not seen_films(report, "model")


def test_a_fine_tuned_model_has_seen_the_films_of_its_stage_1(
    drawn_nih, model_folder, tmp_path, no_plots
):
    """The seed of stage 2 draws folds, not splits."""
    model = trained_on_nih(model_folder, tmp_path / "model", seed=1, test=0.5, valid=None)
    config = json.loads((model / "config.json").read_text())
    config["cft"]["provenance"]["stage_1"] = {"seed": 0}
    (model / "config.json").write_text(json.dumps(config))
    options = ("--dataset", "nih", "--data", drawn_nih, "--test", "0.5")
    report = evaluate("--model", model, *options, out=tmp_path / "out")
    assert not seen_films(report, "model")


# --- Which films are scored ---------------------------------------------------------------------


@pytest.fixture
def own_table(nih):
    """A table of one's own of the 24 films, which names no split."""
    columns = {"image": [f"images/{i:08d}_000.png" for i in range(24)], "Effusion": [0, 1] * 12}
    return write_csv(nih / "own.csv", columns)


def scored_films(report, out) -> set[str]:
    with (out / "predictions.csv").open(newline="") as file:
        films = {row["image"] for row in csv.DictReader(file)}
    assert len(films) == report["truth"]["films"]
    return films


def test_a_table_that_names_no_split_is_scored_as_a_whole(
    own_table, model_folder, tmp_path, no_plots
):
    report = evaluate("--model", model_folder, "--data", own_table, out=tmp_path / "out")
    assert len(scored_films(report, tmp_path / "out")) == 24
    assert report["truth"]["row"] == "film"
    assert "All films are scored, as the data names no split." in report["truth"]["notes"]
    assert not [note for note in report["truth"]["notes"] if "Drew" in note]
    some = evaluate(
        "--model", model_folder, "--data", own_table, "--test", "0.25", out=tmp_path / "some"
    )
    assert some["truth"]["films"] == 6
    options = ("--data", own_table, "--split", "all")
    assert evaluate("--model", model_folder, *options, out=tmp_path / "all")["truth"]["films"] == 24


@pytest.mark.parametrize("split", ["test", "valid", "train"])
def test_a_split_that_a_table_does_not_name_is_refused(
    own_table, model_folder, tmp_path, capsys, split
):
    message = failure(
        capsys, "--model", model_folder, "--data", own_table, "--split", split, out=tmp_path / "out"
    )
    assert f"own.csv names no split, so it has no {split} films; leave out --split" in message


def test_an_empty_split_names_those_that_are_not(nih, own_table, model_folder, tmp_path, capsys):
    rewrite(own_table, lambda rows: [{**row, "split": "valid"} for row in rows])
    message = failure(capsys, "--model", model_folder, "--data", own_table, out=tmp_path / "out")
    assert "no films in split 'test'; choose another with --split: valid or all" in message


def test_of_the_table_that_trained_a_model_the_test_films_of_its_run_are_scored(
    own_table, model_folder, tmp_path, no_plots
):
    """Whether its run wrote the splits down or they have to be drawn again."""
    model = trained_on("csv", model_folder, tmp_path / "model", seed=3, test=0.5)
    report = evaluate("--model", model, "--data", own_table, out=tmp_path / "drawn")
    drawn = scored_films(report, tmp_path / "drawn")
    assert len(drawn) == 12
    assert not seen_films(report, "model")
    films = [f"images/{i:08d}_000.png" for i in range(24)]
    lines = [f"{film},{film},{'test' if i < 5 else 'train'}\n" for i, film in enumerate(films)]
    (model / "splits.csv").write_text("".join(["film,patient,split\n", *lines]))
    report = evaluate("--model", model, "--data", own_table, out=tmp_path / "written")
    assert scored_films(report, tmp_path / "written") == set(films[:5])
    assert "The splits are those of the model's own run." in report["truth"]["notes"]
    assert not seen_films(report, "model")
    options = ("--data", own_table, "--split", "all")
    report = evaluate("--model", model, *options, out=tmp_path / "all")
    (note,) = seen_films(report, "model")
    assert "trained on 19 of the 24 films" in note


def test_another_table_than_the_one_that_trained_a_model_is_scored_as_a_whole(
    own_table, model_folder, tmp_path, no_plots
):
    model = trained_on("csv", model_folder, tmp_path / "model", seed=0)
    (model / "splits.csv").write_text("film,patient,split\nelse.png,p,train\n")
    report = evaluate("--model", model, "--data", own_table, out=tmp_path / "out")
    assert report["truth"]["films"] == 24
    assert not seen_films(report, "model")


def test_the_phantoms_of_a_models_own_run_are_drawn_again(model_folder, tmp_path, no_plots):
    drawn = {"phantoms": 60, "phantom_size": 32, "missing": "none"}
    model = trained_on("phantoms", model_folder, tmp_path / "model", 1, **drawn)
    report = evaluate("--model", model, out=tmp_path / "out")
    assert report["truth"]["films"] < 30
    assert not seen_films(report, "model")


def typed(note: str) -> argparse.Namespace:
    """What the options that a note advises say when they are typed in a shell."""
    parser = argparse.ArgumentParser()
    add_options(parser, DataOptions)
    parser.add_argument("--seed")
    return parser.parse_args(shlex.split(note.partition("are those of ")[2]))


def test_the_options_of_a_models_own_splits_can_be_typed(nih, model_folder, tmp_path, no_plots):
    columns = {
        "File Name": [f"images/{i:08d}_000.png" for i in range(24)],
        "an id": range(24),
        "Effusion": [0, 1] * 12,
    }
    data = write_csv(nih / "own.csv", columns)
    mapping = ["image=File Name", "patient=an id"]
    model = trained_on("csv", model_folder, tmp_path / "model", 1, map=mapping, test=0.5)
    report = evaluate(
        "--model", model, "--data", data, "--test", "0.5", "--map", *mapping, out=tmp_path / "out"
    )
    (note,) = seen_films(report, "model")
    options = typed(note)
    assert (options.map, options.seed, options.test) == (mapping, "1", 0.5)


def test_the_options_of_a_models_own_phantoms_are_named(model_folder, tmp_path, no_plots):
    drawn = {"phantoms": 60, "phantom_size": 32, "missing": "none"}
    model = trained_on("phantoms", model_folder, tmp_path / "model", 1, **drawn)
    options = ("--dataset", "phantoms", "--phantoms", 60)
    report = evaluate("--model", model, *options, out=tmp_path / "out")
    (note,) = seen_films(report, "model")
    assert drawn.items() <= vars(typed(note)).items()


def test_phantoms_stand_in_only_for_a_model_that_was_trained_on_them(
    model_folder, tmp_path, capsys, no_plots, monkeypatch
):
    monkeypatch.setattr("train.datasets.phantoms._FILMS", 60)
    own = trained_on("phantoms", model_folder, tmp_path / "own", seed=0)
    evaluate("--model", own, out=tmp_path / "out")
    for models in ([model_folder], [own, model_folder]):
        words = ["--model", *map(str, models), "--out", str(tmp_path / "none")]
        assert main(words) == 2
        assert f"{model_folder.name} was not trained on phantoms" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()
    evaluate("--model", model_folder, "--dataset", "phantoms", out=tmp_path / "asked")


def test_a_member_trained_on_phantoms_is_enough_for_an_ensemble(
    model_folder, tmp_path, no_plots, monkeypatch
):
    monkeypatch.setattr("train.datasets.phantoms._FILMS", 60)
    own = trained_on("phantoms", model_folder, tmp_path / "own", seed=0)
    saved = tmp_path / "saved"
    words = ("--dataset", "phantoms", "--ensemble", "mean", "--save-ensemble", saved)
    evaluate("--model", own, model_folder, *words, out=tmp_path / "out")
    evaluate("--model", saved, out=tmp_path / "again")


def test_a_model_that_does_not_say_how_its_films_were_drawn_is_named(
    drawn_nih, model_folder, tmp_path, no_plots
):
    model = trained_on_nih(model_folder, tmp_path / "model", seed=0)
    config = json.loads((model / "config.json").read_text())
    del config["cft"]["provenance"]["arguments"]
    (model / "config.json").write_text(json.dumps(config))
    report = evaluate(
        "--model", model, "--dataset", "nih", "--data", drawn_nih, out=tmp_path / "out"
    )
    assert any("does not say" in note for note in report["models"]["model"]["notes"])


def test_validation_films_that_a_member_was_trained_on_are_named(
    nih, model_folder, tmp_path, no_plots
):
    options = ("--dataset", "nih", "--data", nih, "--valid", "0.5", "--ensemble", "mean")
    twin = tmp_path / "twin"
    shutil.copytree(model_folder, twin)
    other = trained_on_nih(model_folder, tmp_path / "other", seed=1, valid=0.5)
    report = evaluate("--model", twin, other, *options, out=tmp_path / "out")
    assert not seen_films(report, "other")  # the test films are the experts', with any seed
    (note,) = seen_films(report, "ensemble")
    assert "validation" in note
    assert "other" in note


def test_a_missing_model_is_one_sentence(nih, tmp_path, capsys):
    message = failure(
        capsys, "--model", tmp_path / "none", "--dataset", "nih", "--data", nih,
        out=tmp_path / "out",
    )  # fmt: skip
    assert "no model folder" in message


def test_a_saved_ensemble_is_loaded_and_scores_the_same(nih, model_folder, tmp_path, no_plots):
    import cft

    twin = tmp_path / "twin"
    shutil.copytree(model_folder, twin)
    saved = tmp_path / "ensemble"
    options = ("--dataset", "nih", "--data", nih)
    report = evaluate(
        "--model", model_folder, twin, *options, "--ensemble", "mean", "--save-ensemble", saved,
        out=tmp_path / "out",
    )  # fmt: skip
    ensemble = cft.load(saved, device="cpu")
    assert ensemble.config["cft"]["metrics"]["nih"]["films"] == 14
    again = evaluate("--model", saved, *options, out=tmp_path / "again")
    figures = [r["models"]["ensemble"]["subsets"]["all"] for r in (report, again)]
    assert figures[0]["auroc"] == figures[1]["auroc"]
    card = (saved / "README.md").read_text()
    assert "An ensemble of networks" in card
    assert "14 studies of 14 patients" in card
    assert "Test set NIH ChestX-ray14: 14 studies" in render.about_html(ensemble)


def test_an_ensemble_that_cannot_be_loaded_is_not_called_written(
    nih, model_folder, tmp_path, no_plots, monkeypatch, capsys
):
    import cft.model.ensemble

    def without_members(folder, *_, **__):
        shutil.copytree(model_folder, folder)
        (folder / "model.safetensors").unlink()

    monkeypatch.setattr(cft.model.ensemble, "write_ensemble", without_members)
    words = ["--model", model_folder, "--dataset", "nih", "--data", nih, "--ensemble", "mean"]
    words += ["--save-ensemble", tmp_path / "ensemble", "--out", tmp_path / "out"]
    assert main(list(map(str, words))) == 1
    told = capsys.readouterr()
    assert "a model was written that cannot be used: " in told.err
    assert "has no model.safetensors" in told.err
    assert "written" not in told.out


@pytest.mark.parametrize("ensemble", [[], ["--ensemble", "ranks"]])
def test_only_means_and_logits_can_be_saved(ensemble, tmp_path):
    arguments = ["--model", "a", "b", *ensemble, "--save-ensemble", "e", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


# --- Training curves ----------------------------------------------------------------------------


def test_training_curves_are_drawn_from_a_runs_log(tmp_path):
    records = [
        {"epoch": e + 1, "loss": 1 / (e + 1), "valid": {"auroc": 0.5 + e / 20, "map": 0.1}}
        for e in range(4)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert training_curves.training_curves(log, tmp_path / "plots") == "training.png"
    svg = (tmp_path / "plots" / "training.svg").read_text()
    assert "0.650" in svg  # the best validation AUROC is written beside its point


def test_a_log_that_is_being_written_is_drawn_as_far_as_it_goes(tmp_path):
    log = tmp_path / "log.jsonl"
    record = {"epoch": 1, "loss": 0.5, "valid": {"auroc": None, "map": 0.25}}
    log.write_text(json.dumps(record) + "\n" + '{"epoch": 2, "lo')
    assert training_curves.training_curves(log, tmp_path) == "training.png"
    assert "0.250" in (tmp_path / "training.svg").read_text()


def test_curves_of_two_runs_never_share_a_file(model_folder, tmp_path):
    runs = [tmp_path / name for name in ("a/k1.0", "a/k1.5", "b/k1.0")]
    for run_ in runs:
        run_.mkdir(parents=True)
        shutil.copy(model_folder / "config.json", run_)
        record = {"epoch": 1, "loss": 0.5, "valid": {"auroc": 0.5, "map": 0.25}}
        (run_ / "log.jsonl").write_text(json.dumps(record) + "\n")
    drawn = training_plots(argparse.Namespace(model=list(map(str, runs)), out=tmp_path))
    assert len(set(drawn)) == 3
    assert all((tmp_path / image).exists() for image in drawn)


# --- Plots --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2.5, 6.8])
def test_a_title_never_leaves_its_figure(width):
    drawn = Figure(figsize=(width, 3), layout="constrained")
    figure.add_heading(
        drawn, "ROC curves and AUROC", "a truth with a long name: 500 studies of W " * 3
    )
    drawn.draw_without_rendering()
    assert drawn._suptitle.get_window_extent().x1 <= drawn.bbox.x1


def test_twenty_models_look_different():
    looks = [grids.line_style(i, str(i), {"other"}) for i in range(20)]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 20
    markers = [(figure.colour_of(i), figure.pick(figure.MARKERS, i)) for i in range(20)]
    assert len(set(markers)) == 20


@pytest.mark.parametrize(("largest", "limit"), [(0.04, 0.05), (0.21, 0.3), (0.5, 0.6), (1.3, 1)])
def test_a_rare_finding_fills_its_panel(largest, limit):
    axis = Figure().subplots()
    grids._scale(axis, largest, square=True)
    assert axis.get_xlim() == axis.get_ylim() == pytest.approx((-0.02 * limit, 1.02 * limit))


def test_every_mark_of_calibration_lies_within_its_panel():
    """Also of a model whose errors are larger than the first one's."""
    truth = Truth("t", ("1", "2"), ("A",), np.array([[0.0], [1.0]]), np.array([1, 2]), "patient")
    models = [
        Predictions(name, ("A",), np.zeros((2, 1)), None, True, {}, "")
        for name in ("first", "other")
    ]
    results = {
        "models": {
            name: {
                "categories": {"A": {"auroc": 0.5, "ece": after}},
                "uncalibrated": {"A": {"ece": before}},
            }
            for name, before, after in (("first", 0.02, 0.01), ("other", 0.3, 0.2))
        }
    }
    figure = dots.calibration_dumbbells(results, truth, models)
    for axis in figure.axes:
        low, high = axis.get_xlim()
        assert low == 0
        assert high >= max(x for line in axis.lines[:2] for x in line.get_xdata())


def test_only_models_that_were_run_have_a_plot_of_calibration(official):
    assert not (official / "plots" / "calibration.png").exists()


def test_the_roc_grid_has_a_band_however_many_models_there_are(official, tables, tmp_path):
    svg = (official / "plots" / "roc.svg").read_text()
    assert svg.count('id="FillBetweenPolyCollection') == 5  # the best of seven models, five tasks
    assert "Band and figures: 95 % interval of ensemble" in svg


def test_the_steps_of_precision_and_recall_enclose_the_average_precision():
    generator = np.random.default_rng(0)
    labels = generator.choice([0, 1, np.nan], 200, p=[0.6, 0.3, 0.1])
    scores = (generator.standard_normal(200) + np.nan_to_num(labels)).round(1)
    recall, precision = grids.precision_recall_steps(scores, labels)
    known = ~np.isnan(labels)
    expected = average_precision_score(labels[known], scores[known])
    assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(expected)
    assert (np.diff(recall) > 0).all()


def test_a_point_of_the_reliability_diagram_stands_for_enough_cases():
    labels = np.array([1.0] * 12 + [0.0] * 188 + [np.nan] * 40)
    probabilities = np.linspace(0, 1, 240)
    stated, observed, half = grids.reliability_points(probabilities, labels)
    assert len(stated) == 2  # of about eight positives each, were they spread evenly
    assert stated == pytest.approx([probabilities[:100].mean(), probabilities[100:200].mean()])
    assert observed == pytest.approx([0.12, 0])
    # Wilson's limits are the roots p of (0.12 - p)^2 = 1.96^2 p (1 - p) / 100.
    z = 1.96**2 / 100
    low, high = sorted(np.roots([1 + z, -0.24 - z, 0.12**2]))
    np.testing.assert_allclose([observed[0] - half[0, 0], observed[0] + half[1, 0]], [low, high])


def test_an_empty_log_gives_no_plot(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    assert training_curves.training_curves(tmp_path / "log.jsonl", tmp_path) is None


def test_a_model_with_named_points_is_reported_at_each_of_them(table, model_folder, tmp_path):
    """The one in use by default; another by its rule; and all of them beside it."""
    import cft
    from train.evaluation.report import markdown

    folder = shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    row = config["cft"]["categories"]["Cardiomegaly"]
    rules = {"specific": "specificity", "balanced": "youden", "sensitive": "sensitivity"}
    row["operating_points"] = {
        name: {"name": name, "threshold": 0.1 + i / 10, "rule": rule}
        for i, (name, rule) in enumerate(rules.items())
    }
    row["operating_point"] = row["operating_points"]["specific"]
    (folder / "config.json").write_text(json.dumps(config))
    classifier = cft.load(folder, "cpu")
    scores = run(classifier, [table])
    chosen = {
        rule: predictions_of("m", classifier, scores, table, "max", rule).operating_points
        for rule in (None, *rules.values())
    }
    found = [points["Cardiomegaly"] for points in chosen.values()]
    assert found == pytest.approx([0.1, 0.1, 0.2, 0.3])
    model = predictions_of("m", classifier, scores, table, "max")
    results = evaluate_models(truth_of(table, "max"), [model], settings=Settings(replicates=5))
    points = results["models"]["m"]["points"]
    assert list(points) == list(rules)
    at = [of["categories"]["Cardiomegaly"]["threshold"] for of in points.values()]
    assert at == pytest.approx([0.1, 0.2, 0.3])
    assert "At the operating point *sensitive*:" in markdown(results)
