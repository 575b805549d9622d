"""Which films are scored, and saved ensembles."""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import shutil

import pytest

from cft.page.about import about_html
from tests.evaluation.conftest import (
    evaluate,
    failure,
    rewrite,
    seen_films,
    trained_on,
    trained_on_nih,
    write_csv,
)
from train.command import add_options
from train.datasets import DataOptions
from train.evaluate import main

pytestmark = pytest.mark.slow


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
    assert "Test set NIH ChestX-ray14: 14 studies" in about_html(ensemble)


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
