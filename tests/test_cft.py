"""Stage 2, the command: a frozen backbone, known labels only, validation decides, test measures."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open

import cft as use
from cft.model.folder import CONFIG, WEIGHTS, read_model_folder
from train import cft, negative
from train.command import Stop
from train.errors import TrainingError
from train.frozen import lbfgs
from train.stage2 import finished, methods, refit, result
from train.stage2.choice import Choice
from train.stage2.genetic import Evolution
from train.stage2.refit import STRENGTHS
from train.stage2.task import Task

pytestmark = pytest.mark.slow

SIZE = 32
LABELS = ("Bright", "Dark", "Never")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """200 small films in CSV: a bright and a dark spot, and a finding that nobody has.

    A third of the training labels are blank and some are uncertain.
    """
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    lines = [f"image,patient,split,{','.join(LABELS)}"]
    for number in range(200):
        present = generator.random(2) < 0.4
        film = generator.normal(120, 20, (SIZE, SIZE))
        for there, value, column in zip(present, (60, -60), (4, 20), strict=True):
            row = generator.integers(4, 20)
            film[row : row + 8, column : column + 8] += value * there
        Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        split = ("train", "train", "train", "valid", "test")[number % 5]
        cells = [str(int(x)) for x in present]
        if split == "train":
            cells = [
                x if u > 0.4 else ("" if u > 0.1 else "-1")
                for x, u in zip(cells, generator.random(2), strict=True)
            ]
        lines.append(f"{number}.png,p{number},{split},{','.join(cells)},0")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


@pytest.fixture(scope="module")
def parent(data, tmp_path_factory) -> Path:
    """A run of stage 1."""
    out = tmp_path_factory.mktemp("runs") / "negative"
    words = f"--data {data} --dataset csv --out {out} --arch test_resnet --image-size {SIZE}"
    words += " --epochs 3 --batch-size 16 --lr 0.01 --ema 0.9 --device cpu --threads 1 --workers 1"
    assert negative.main(words.split()) == 0
    return out


def words(parent: Path, data: Path, out: Path, *more: str) -> list[str]:
    fixed = f"--model {parent} --data {data} --out {out} --device cpu --threads 1 --workers 1"
    return [*fixed.split(), "--cache", str(parent.parent), *more]


@pytest.fixture
def a_gain(monkeypatch):
    """As if cross-validation had shown a gain: what changes, changes."""
    found = Choice(4, np.full(len(STRENGTHS), 0.02), np.full(len(STRENGTHS), 0.01))
    monkeypatch.setattr(methods, "choose", lambda *_: found)


@pytest.fixture
def searches(monkeypatch):
    """Searches that return noise: better in some categories, worse in others."""

    def noise(seed):
        def fit(self, task):
            generator = np.random.default_rng(seed)
            change = generator.normal(0, 0.3, task.head.weights.shape).astype(np.float32)
            return replace(task.head, weights=task.head.weights + change), {}

        return fit

    monkeypatch.setattr(methods.Gradient, "fit", noise(1))
    monkeypatch.setattr(methods.Search, "fit", noise(2))


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["--seed=-1", "--threads=-2", "--workers=0", "--judge-width=-1"])
def test_a_wrong_number_is_wrong_usage(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        cft.main(["--model", str(tmp_path), "--out", str(tmp_path / "out"), wrong])
    assert exit_.value.code == 2
    assert "is not a whole number" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_one_sentence(tmp_path, capsys):
    assert cft.main(["--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_data_that_is_not_phantoms_has_to_be_named(parent, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(parent, model, ignore=shutil.ignore_patterns("checkpoint", "run.json"))
    config = json.loads((model / CONFIG).read_text())
    # As after a run that recognised its data: its name is not among the arguments.
    config["cft"]["provenance"]["arguments"]["dataset"] = None
    (model / CONFIG).write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="2"):
        cft.main(["--model", str(model), "--out", str(tmp_path / "out")])
    assert "was trained on csv: give its folder or table with --data" in capsys.readouterr().err


def test_the_data_of_a_run_on_this_machine_need_not_be_named(parent, tmp_path):
    fixed = f"--model {parent} --out {tmp_path / 'out'} --device cpu --threads 1 --workers 1"
    assert cft.main([*fixed.split(), "--cache", str(parent.parent)]) == 0
    provenance = json.loads((tmp_path / "out" / CONFIG).read_text())["cft"]["provenance"]
    assert provenance["dataset"] == "csv"
    assert provenance["command"] == "python -m train.cft --model MODEL --data DATA"


def test_data_that_is_no_longer_there_has_to_be_named(parent, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(parent, model, ignore=shutil.ignore_patterns("checkpoint"))
    (model / "run.json").write_text(json.dumps({"data": str(tmp_path / "gone.csv")}))
    with pytest.raises(SystemExit, match="2"):
        cft.main(["--model", str(model), "--out", str(tmp_path / "out")])
    assert "give its folder or table with --data" in capsys.readouterr().err


def test_the_model_itself_is_not_written_over(parent, data, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(parent, model, ignore=shutil.ignore_patterns("checkpoint", "run.json"))
    with pytest.raises(SystemExit, match="2"):
        cft.main(words(model, data, tmp_path / "elsewhere" / ".." / "model"))
    assert "is the model itself" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_wrong_usage(parent, data, tmp_path, capsys):
    assert cft.main([*words(parent, data, tmp_path / "out"), "--device", "nonsense"]) == 2
    assert "--device nonsense cannot be used" in capsys.readouterr().err


def test_an_unreadable_film_is_no_sign_of_other_data(parent, data, tmp_path, caplog):
    """The parent's count is of the films that it could read."""
    films = tmp_path / "films"
    shutil.copytree(data.parent, films)
    (films / "0.png").write_bytes(b"no film")
    model = tmp_path / "model"
    shutil.copytree(parent, model, ignore=shutil.ignore_patterns("checkpoint"))
    config = json.loads((model / CONFIG).read_text())
    config["cft"]["provenance"]["splits"]["train"]["films"] -= 1
    (model / CONFIG).write_text(json.dumps(config))
    options = words(model, films / "table.csv", tmp_path / "out")
    assert cft.main([*options, "--cache", str(tmp_path)]) == 0
    assert "films that trained it may test it" not in caplog.text
    options = words(model, data, tmp_path / "other")
    assert cft.main(options) == 0
    assert "120 training films are here, and the parent was trained on 119" in caplog.text


def test_a_model_of_unknown_data_needs_data(model_folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cft.main(["--model", str(model_folder), "--out", str(tmp_path)])
    assert "does not say what it was trained on" in capsys.readouterr().err


def test_an_impossible_loss_is_wrong_usage(parent, data, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        cft.main(words(parent, data, tmp_path, "--method", "gradient", "--loss", "hinge"))


def test_a_run_is_not_written_over(parent, data, tmp_path, capsys):
    assert cft.main(words(parent, data, tmp_path / "out")) == 0
    assert cft.main(words(parent, data, tmp_path / "out")) == 1
    assert "already holds a run; add --resume" in capsys.readouterr().err


def test_a_run_is_gone_on_with_only_as_it_began(parent, data, tmp_path, capsys):
    assert cft.main(words(parent, data, tmp_path / "out")) == 0
    assert cft.main(words(parent, data, tmp_path / "out", "--resume", "--fitness", "ap")) == 1
    assert "began with fitness = 'auroc'" in capsys.readouterr().err


def test_parts_of_other_films_are_not_gone_on_with(parent, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert cft.main(words(parent, data, out)) == 0
    finished = _finished(out)
    assert finished.get("auto/0")
    other = data.parent / "other.csv"
    other.write_text("\n".join(data.read_text().splitlines()[:-1]) + "\n")
    assert cft.main(words(parent, other, out, "--resume")) == 1
    assert "another model, other films" in capsys.readouterr().err


def test_parts_made_from_other_labels_are_not_gone_on_with(parent, data, tmp_path, capsys):
    films = tmp_path / "films"
    shutil.copytree(data.parent, films)
    options = [*words(parent, films / "table.csv", tmp_path / "out"), "--resume"]
    assert cft.main(options) == 0
    lines = (films / "table.csv").read_text().splitlines()
    name, *rest = lines[1].split(",")  # a training film
    other = {"1": "0", "0": "1", "-1": "1", "": "1"}[rest[2]]
    lines[1] = ",".join([name, *rest[:2], other, *rest[3:]])
    (films / "table.csv").write_text("\n".join(lines) + "\n")
    assert cft.main(options) == 1
    assert "other films or other labels" in capsys.readouterr().err


def _finished(out: Path) -> finished.Finished:
    """The parts of a run, whatever they were made from."""
    path = out / "checkpoint" / "last.safetensors"
    with safe_open(path, framework="np") as file:
        return finished.Finished(path, file.metadata()["made_from"])


def test_patients_on_both_sides_are_refused(parent, data, tmp_path, capsys):
    shared = data.parent / "shared.csv"
    shared.write_text(data.read_text().replace(",p3,valid", ",p4,valid"))
    more = ("--shared-patients", "keep")
    assert cft.main(words(parent, shared, tmp_path / "out", *more)) == 1
    assert "1 patients have films in valid and in test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "second"), [("valid", "test"), ("train", "valid"), ("train", "test")]
)
def test_a_patient_is_on_one_side_alone(first, second):
    """Each pair of sides by itself: two of three checks would let a leak through."""
    sides = {"train": ["a", "b"], "valid": ["c", "d"], "test": ["e", "f"]}
    sides[second][1] = sides[first][0]
    patients = np.array([*sides["train"], *sides["valid"], *sides["test"]])
    rows = {"train": np.array([0, 1]), "valid": np.array([2, 3]), "test": np.array([4, 5])}
    table = SimpleNamespace(patients=patients)
    with pytest.raises(TrainingError, match=f"1 patients have films in {first} and in {second}"):
        cft.refuse_overlap(table, rows)
    cft.refuse_overlap(table, {**rows, second: rows[second][:1]})


def test_a_missing_category_is_named(parent, data, tmp_path, capsys):
    other = data.parent / "renamed.csv"
    other.write_text(data.read_text().replace("Bright", "Shiny"))
    assert cft.main(words(parent, other, tmp_path / "out")) == 1
    assert "no category 'Bright'" in capsys.readouterr().err


# --- Splits of the parent -----------------------------------------------------------------------


def moved(parent: Path, folder: Path) -> Path:
    """A copy of the parent whose run had five films more in test, and five fewer in validation."""
    shutil.copytree(parent, folder, ignore=shutil.ignore_patterns("checkpoint"))
    text = (folder / "splits.csv").read_text()
    (folder / "splits.csv").write_text(text.replace(",valid", ",test", 5))
    return folder


def films_of_splits(folder: Path) -> dict[str, int]:
    splits = json.loads((folder / CONFIG).read_text())["cft"]["provenance"]["splits"]
    return {split: counts["films"] for split, counts in splits.items()}


def test_the_splits_are_those_that_the_parent_recorded(parent, data, tmp_path):
    model, out = moved(parent, tmp_path / "model"), tmp_path / "out"
    assert cft.main(words(model, data, out)) == 0
    assert films_of_splits(out) == {"train": 120, "valid": 35, "test": 45}
    assert (out / "splits.csv").read_text() == (model / "splits.csv").read_text()
    (model / "splits.csv").unlink()
    assert cft.main(words(model, data, tmp_path / "drawn")) == 0
    assert films_of_splits(tmp_path / "drawn") == {"train": 120, "valid": 40, "test": 40}


def test_a_film_that_the_parent_did_not_have_is_left_out(parent, data, tmp_path, caplog):
    model = moved(parent, tmp_path / "model")
    lines = (model / "splits.csv").read_text().splitlines(keepends=True)
    (model / "splits.csv").write_text("".join(lines[:-1]))
    assert cft.main(words(model, data, tmp_path / "out")) == 0
    assert "Left out 1 film that the run did not have: 199.png." in caplog.text


def test_splits_that_are_asked_for_anew_are_drawn_anew(parent, data, tmp_path):
    model = moved(parent, tmp_path / "model")
    more = ("--shared-patients", "keep")
    assert cft.main(words(model, data, tmp_path / "out", *more)) == 0
    assert films_of_splits(tmp_path / "out") == {"train": 120, "valid": 40, "test": 40}


def test_damaged_splits_are_refused_by_row(parent, data, tmp_path, capsys):
    model = moved(parent, tmp_path / "model")
    text = (model / "splits.csv").read_text()
    (model / "splits.csv").write_text(text.replace("train", "trian", 1))
    assert cft.main(words(model, data, tmp_path / "out")) == 1
    assert "splits.csv: row 2, column 'split': 'trian'" in capsys.readouterr().err


# --- The result ---------------------------------------------------------------------------------


def test_everything_but_the_logistic_regressions_stays_byte_for_byte(
    parent, data, tmp_path, a_gain
):
    assert cft.main(words(parent, data, tmp_path / "out")) == 0
    before, after = read_model_folder(parent), read_model_folder(tmp_path / "out")
    changed = {
        name
        for name, tensor in before.state_dict.items()
        if tensor.numpy().tobytes() != after.state_dict[name].numpy().tobytes()
    }
    assert changed == {"fc.weight", "fc.bias"}
    assert set(after.state_dict) == set(before.state_dict)
    # A category that could not be fitted keeps its regression too.
    for name in changed:
        np.testing.assert_array_equal(before.state_dict[name][2], after.state_dict[name][2])


def test_the_regressions_are_moved_as_far_as_the_evidence_allows(parent, data, tmp_path, a_gain):
    out = tmp_path / "out"
    assert cft.main(words(parent, data, out)) == 0
    path = _finished(out).get("auto/1")
    trained, new = (read_model_folder(folder).state_dict for folder in (parent, out))
    share = 1 - (0.01 / 0.02) ** 2  # as James and Stein shrink a gain of two errors
    assert json.loads((out / "report.json").read_text())["share"] == pytest.approx(share)
    for name, refitted in (("fc.weight", path["weights"]), ("fc.bias", path["biases"])):
        before = trained[name][1].numpy()
        expected = before + share * (refitted[4] - before)
        np.testing.assert_allclose(new[name][1].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_without_evidence_the_weights_are_the_parents(parent, data, tmp_path, monkeypatch):
    none = Choice(None, np.zeros(len(STRENGTHS)), np.zeros(len(STRENGTHS)))
    monkeypatch.setattr(methods, "choose", lambda *_: none)
    assert cft.main(words(parent, data, tmp_path / "out")) == 0
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (parent / WEIGHTS).read_bytes()


def test_the_model_folder_is_read_by_everybody(parent, data, tmp_path, a_gain):
    out = tmp_path / "out"
    assert cft.main(words(parent, data, out)) == 0
    classifier = use.load(out, device="cpu")
    stock = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    batch = torch.rand(2, 1, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(stock(batch), classifier.logits(batch))
    assert classifier.predict(data.parent / "4.png").probabilities.keys() == set(LABELS)


def test_a_model_folder_that_cannot_be_loaded_is_not_called_written(
    parent, data, tmp_path, monkeypatch, capsys
):
    def without_weights(folder, **_):
        shutil.copytree(parent, folder, dirs_exist_ok=True)
        (folder / WEIGHTS).unlink()

    monkeypatch.setattr(cft, "write_model_folder", without_weights)
    assert cft.main(words(parent, data, tmp_path / "out")) == 1
    told = capsys.readouterr()
    assert "a model was written that cannot be used: " in told.err.splitlines()[-1]
    assert "wrote" not in told.out


def test_the_scores_measured_are_those_of_the_model_folder(parent, data, tmp_path, a_gain):
    from sklearn.metrics import roc_auc_score

    out = tmp_path / "out"
    assert cft.main(words(parent, data, out)) == 0
    films = [data.parent / f"{n}.png" for n in range(4, 200, 5)]
    truth = [
        line.split(",")[3] == "1" for line in data.read_text().splitlines() if ",test," in line
    ]
    measured = json.loads((out / "report.json").read_text())["metrics"]["csv"]
    for folder, found in ((out, measured), (parent, measured["stage_1"])):
        scores = [f.scores["Bright"] for f in use.load(folder, device="cpu").predict(films)]
        expected = roc_auc_score(truth, scores)
        assert found["categories"]["Bright"]["auroc"] == pytest.approx(expected, abs=1e-6)


def test_what_stage_2_leaves_is_measured_once_with_the_figures_of_both(
    parent, data, tmp_path, monkeypatch
):
    """The figures are those of measuring it twice, and a second measurement is not made."""
    monkeypatch.setattr(methods, "choose", lambda *_: Choice(None, np.zeros(10), np.ones(10)))
    reports = []
    for known, calls in ((result._left_as_it_was, 1), (lambda *_: False, 2)):
        monkeypatch.setattr(result, "_left_as_it_was", known)
        scored = Counted(result.evaluate)
        monkeypatch.setattr(result, "evaluate", scored)
        out = tmp_path / f"out{calls}"
        assert cft.main(words(parent, data, out)) == 0
        monkeypatch.undo()
        monkeypatch.setattr(methods, "choose", lambda *_: Choice(None, np.zeros(10), np.ones(10)))
        assert scored.calls == calls
        reports.append((out / "report.json").read_text())
    assert reports[0] == reports[1]


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.calls, self._function = 0, function

    def __call__(self, *given):
        self.calls += 1
        return self._function(*given)


def test_provenance_names_the_parent_and_both_stages(parent, data, tmp_path, a_gain):
    out = tmp_path / "out"
    assert cft.main(words(parent, data, out, "--seed", "3")) == 0
    before, after = (json.loads((f / CONFIG).read_text())["cft"] for f in (parent, out))
    found = after["provenance"]
    assert found["parent"] == before["weights_sha256"]
    assert found["stage"] == "cft"
    assert found["command"] == "python -m train.cft --model MODEL --data DATA --seed 3"
    assert found["stage_1"]["command"] == before["provenance"]["command"]
    assert found["stage_1"]["label_policy"]["unknown"] == "negative"
    assert found["label_policy"]["unknown"] == "ignore"
    assert found["methods"] == {"Bright": "auto", "Dark": "auto", "Never": "original"}
    metrics = after["metrics"]["csv"]
    assert metrics["stage_1"]["subsets"]["all"]["auroc"] == pytest.approx(
        before["metrics"]["csv"]["subsets"]["all"]["auroc"], abs=1e-5
    )
    card = (out / "README.md").read_text()
    assert "after stage 1" in card
    assert found["stage_1"]["command"] in card


def test_the_table_says_what_was_known_and_why_a_category_was_skipped(
    parent, data, tmp_path, capsys
):
    assert cft.main(words(parent, data, tmp_path / "out")) == 0
    table = capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["categories"]
    assert rows["Never"]["skipped"] == "no known positive training film"
    assert "no known positive training film" in table
    cells = [line.split(",")[3] for line in data.read_text().splitlines() if ",train," in line]
    # An uncertain mark, -1, counts as unknown, like a blank.
    assert "-1" in cells
    assert rows["Bright"]["positives"] == cells.count("1")
    assert rows["Bright"]["negatives"] == cells.count("0")


def test_test_labels_change_nothing_but_the_figures(parent, data, tmp_path, a_gain):
    other = data.parent / "turned.csv"
    turn = str.maketrans("01", "10")
    lines = [
        line
        if ",test," not in line
        else ",".join(
            cell if i < 3 else cell.translate(turn) for i, cell in enumerate(line.split(","))
        )
        for line in data.read_text().splitlines()
    ]
    other.write_text("\n".join(lines) + "\n")
    folders = tmp_path / "one", tmp_path / "two"
    for folder, table in zip(folders, (data, other), strict=True):
        assert cft.main(words(parent, table, folder)) == 0
    configs = [json.loads((folder / CONFIG).read_text())["cft"] for folder in folders]
    for config in configs:
        for category in config["categories"].values():
            category.pop("evidence", None)  # says what the test found
    assert configs[0]["categories"] == configs[1]["categories"]
    assert configs[0]["metrics"] != configs[1]["metrics"]
    assert (folders[0] / WEIGHTS).read_bytes() == (folders[1] / WEIGHTS).read_bytes()


def test_the_same_command_gives_the_same_bytes(parent, data, tmp_path, a_gain):
    for name in ("one", "two"):
        assert cft.main(words(parent, data, tmp_path / name)) == 0
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()


def test_greedy_is_never_worse_on_validation(parent, data, tmp_path, searches):
    assert cft.main(words(parent, data, tmp_path / "out", "--preset", "paper")) == 0
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["categories"]
    for label in ("Bright", "Dark"):
        row = rows[label]
        if row["method"] == "original":
            assert row["valid_after"] == row["valid_before"]
        else:
            assert row["valid_after"] > row["valid_before"]
    assert rows["Never"]["method"] == "original"


def test_a_model_that_stage_2_has_changed_is_refused(parent, data, tmp_path, capsys, a_gain):
    assert cft.main(words(parent, data, tmp_path / "one")) == 0
    assert cft.main(words(tmp_path / "one", data, tmp_path / "two")) == 1
    assert "has been through stage 2" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_a_model_that_stage_2_left_alone_counts_as_one_of_stage_1(parent, data, tmp_path, capsys):
    """Its films are split as stage 1 split them, however often that happens."""
    before = json.loads((parent / CONFIG).read_text())["cft"]["provenance"]
    model = parent
    for name in ("one", "two", "three"):
        assert cft.main(words(model, data, tmp_path / name, "--seed", "5")) == 0
        model = tmp_path / name
        its = json.loads((model / CONFIG).read_text())["cft"]["provenance"]
        assert its["stage_1"]["command"] == before["command"]
        assert its["stage_1"]["arguments"]["seed"] == before["arguments"]["seed"] == 0
        assert its["splits"] == before["splits"]


def test_average_precision_can_be_the_fitness(parent, data, tmp_path):
    assert cft.main(words(parent, data, tmp_path / "out", "--fitness", "ap")) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["fitness"] == "ap"


# --- Interruption -------------------------------------------------------------------------------


def test_a_stopped_run_keeps_what_is_finished_and_goes_on(
    parent, data, tmp_path, monkeypatch, capsys, a_gain
):
    # One by one in both runs: how many are fitted together decides in which order sums are made.
    monkeypatch.setattr(methods, "groups_of", lambda y: [[c] for c in range(y.shape[1])])
    assert cft.main(words(parent, data, tmp_path / "whole")) == 0
    fit, fitted = refit.Refitter.paths, []

    def stop_after_one(self, categories, *labels):
        fitted.extend(categories)
        found = fit(self, categories, *labels)
        if len(fitted) == 1:
            cft_stop[0].asked = True
        return found

    cft_stop = []
    enter = Stop.__enter__
    monkeypatch.setattr(Stop, "__enter__", lambda self: cft_stop.append(self) or enter(self))
    monkeypatch.setattr(refit.Refitter, "paths", stop_after_one)
    out = tmp_path / "out"
    assert cft.main(words(parent, data, out)) == 1
    assert "what is finished is kept" in capsys.readouterr().err
    assert not (out / WEIGHTS).exists()
    assert cft.main(words(parent, data, out, "--resume")) == 0
    assert fitted == [0, 1]  # neither twice
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_a_stop_is_heard_while_many_categories_are_fitted_together(
    parent, data, tmp_path, monkeypatch, capsys
):
    strengths, stops = [], []
    minimise, enter = lbfgs.Regressions.minimise, Stop.__enter__

    def asked_meanwhile(self, strength, tolerance):
        strengths.append(strength)
        stops[0].asked = True
        return minimise(self, strength, tolerance)

    monkeypatch.setattr(Stop, "__enter__", lambda self: stops.append(self) or enter(self))
    monkeypatch.setattr(lbfgs.Regressions, "minimise", asked_meanwhile)
    assert cft.main(words(parent, data, tmp_path / "out")) == 1
    assert "what is finished is kept" in capsys.readouterr().err
    assert strengths == [refit.STRENGTHS[0]]


# --- The searches -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [("--method", "ga", "--preset", "paper"), ("--method", "gradient", "--loss", "asl")],
)
def test_a_search_is_never_worse_on_validation(parent, data, tmp_path, more):
    assert cft.main(words(parent, data, tmp_path / "out", *more)) == 0
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["categories"]
    assert {row["method"] for row in rows.values()} <= {"original", more[1]}
    for label in ("Bright", "Dark"):
        assert rows[label]["valid_after"] >= rows[label]["valid_before"]


def test_the_search_goes_as_far_as_all_categories_gain_together(parent, data, tmp_path, a_gain):
    out = tmp_path / "out"
    assert cft.main(words(parent, data, out, "--method", "ga")) == 0
    found = json.loads((out / "report.json").read_text())
    assert found["chosen_among"] == "generation"
    assert found["chosen"] == 6  # the fifth of the places
    by_label = {label: row["method"] for label, row in found["categories"].items()}
    assert by_label == {"Bright": "ga", "Dark": "ga", "Never": "original"}
    parts = _finished(out)
    trained, new = (read_model_folder(f).state_dict["fc.weight"].numpy() for f in (parent, out))
    for c in (0, 1):
        passed = parts.get(f"ga-path/{c}")["weights"][4]
        expected = trained[c] + (1 - (0.01 / 0.02) ** 2) * (passed - trained[c])
        np.testing.assert_allclose(new[c], expected, rtol=1e-4, atol=1e-6)


def test_the_history_of_the_searches_is_kept(parent, data, tmp_path):
    assert cft.main(words(parent, data, tmp_path / "out", "--method", "ga")) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "search.csv").open()))
    assert [row["category"] for row in rows] == ["Bright"] * 40 + ["Dark"] * 40
    best = [float(row["best"]) for row in rows[:40]]
    assert best == sorted(best)
    assert all(0 <= float(row["mean"]) <= float(row["best"]) <= 1 for row in rows)


def test_the_search_sees_no_validation_label(parent, data, tmp_path, a_gain):
    other = data.parent / "other-valid.csv"
    lines = data.read_text().splitlines()
    turn = str.maketrans("01", "10")
    turned = [
        ",".join(cell if i < 3 else cell.translate(turn) for i, cell in enumerate(x.split(",")))
        if ",valid," in x
        else x
        for x in lines
    ]
    other.write_text("\n".join(turned) + "\n")
    folders = tmp_path / "one", tmp_path / "two"
    for folder, table in zip(folders, (data, other), strict=True):
        assert cft.main(words(parent, table, folder, "--method", "ga")) == 0
    weights = [read_model_folder(folder).state_dict["fc.weight"] for folder in folders]
    assert torch.equal(*weights)


def test_a_search_that_was_stopped_goes_on_where_it_was(parent, data, tmp_path, monkeypatch):
    more = ("--method", "ga")
    assert cft.main(words(parent, data, tmp_path / "whole", *more)) == 0
    step, stops, steps = Evolution.step, [], []

    def stop_after_five(self):
        steps.append(self.lineages[0].generation)
        if len(steps) == 5:
            stops[-1].asked = True
        step(self)

    enter = Stop.__enter__
    monkeypatch.setattr(Stop, "__enter__", lambda self: stops.append(self) or enter(self))
    monkeypatch.setattr(Evolution, "step", stop_after_five)
    out = tmp_path / "out"
    assert cft.main(words(parent, data, out, *more)) == 1
    assert cft.main(words(parent, data, out, *more, "--resume")) == 0
    assert steps[:6] == [0, 1, 2, 3, 4, 5]  # no generation twice
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_a_stopped_descent_is_begun_again(parent, data, tmp_path, monkeypatch, capsys):
    more = ("--method", "gradient")
    assert cft.main(words(parent, data, tmp_path / "whole", *more)) == 0
    descend, calls = methods.descend, []

    def stopped_at_first(*arguments, watch, **options):
        calls.append(1)
        ended = (lambda validation: True) if len(calls) == 1 else watch
        return descend(*arguments, watch=ended, **options)

    monkeypatch.setattr(methods, "descend", stopped_at_first)
    asked = Task.stop_if_asked
    monkeypatch.setattr(
        Task,
        "stop_if_asked",
        lambda self: setattr(self.stop, "asked", len(calls) == 1) or asked(self),
    )
    out = tmp_path / "out"
    assert cft.main(words(parent, data, out, *more)) == 1
    calls.append(1)
    assert "what is finished is kept" in capsys.readouterr().err
    assert cft.main(words(parent, data, out, *more, "--resume")) == 0
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
