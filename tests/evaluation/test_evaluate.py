"""The evaluation command: every refusal, and the figures of its report."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.evaluation.conftest import evaluate, failure, rewrite, write_csv
from train.evaluate import _parser, main
from train.evaluation.combine import combine, greedy_weights
from train.evaluation.read_tables import read_predictions, read_truth

pytestmark = pytest.mark.slow


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
