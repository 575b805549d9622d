"""Model folders that are run on films, and what their films have seen."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import (
    evaluate,
    failure,
    rewrite,
    seen_films,
    trained_on_nih,
    write_csv,
)
from train.datasets.labels import LabelTable
from train.errors import StudyError
from train.evaluate import main
from train.evaluation.inference import predictions_of, run, truth_of
from train.evaluation.protocol import Settings, evaluate_models

pytestmark = pytest.mark.slow


# --- Models -------------------------------------------------------------------------------------


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


def test_a_category_of_another_name_there_is_compared_as_well(tables, tmp_path, capsys, no_plots):
    truth, a, _ = tables
    other = [tmp_path / "there.csv", tmp_path / "scores.csv"]
    for path, of in zip(other, (truth, a), strict=True):
        path.write_text(of.read_text().replace("Mass", "Lung Lesion"))
    words = ["--predictions", a, "--truth", truth, "--shift-truth", other[0]]
    words += ["--shift-predictions", other[1]]
    (without,) = evaluate(*words, out=tmp_path / "out")["shift"].values()
    assert "Mass" not in without["models"]["a"]["categories"]
    report = evaluate(*words, "--shift-map", "Mass=Lung Lesion", out=tmp_path / "out")
    (shift,) = report["shift"].values()
    row = shift["models"]["a"]["categories"]["Mass"]["auroc"]
    assert row["first"] == row["second"] == report["models"]["a"]["categories"]["Mass"]["auroc"]
    message = failure(capsys, *words, "--shift-map", "Mass=Tumour", out=tmp_path / "bad")
    assert "has no category 'Tumour'" in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Mass"], "is not of the form NAME=NAME"),
        (["Mass=A", "Mass=B"], "names a category twice"),
        (["Mass=A"], "--shift-map goes with --shift"),
    ],
)
def test_a_wrong_map_of_names_is_wrong_usage(words, said, capsys, tmp_path):
    command = ["--model", "m", "--data", "d", "--shift-map", *words, "--out", str(tmp_path)]
    if "goes with" not in said:
        command += ["--shift", "other.csv"]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert said in capsys.readouterr().err


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
