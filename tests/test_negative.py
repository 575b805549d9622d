"""Stage 1: training learns, stops, resumes exactly, divides its work, and fails in one sentence."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import BatchNormAct2d

import cft
from cft.model.folder import WEIGHTS, read_model_folder
from tests.forks import Fork
from train import complete, negative
from train.command import Stop
from train.datasets.labels import SHUFFLED, LabelTable
from train.datasets.pixels import Pixels
from train.errors import CheckpointError, TrainingError
from train.evaluation.epoch_scores import FOLDER, read_epochs
from train.losses import loss_named
from train.negative import parse
from train.processes import Processes
from train.publishing import export
from train.run_folder import Work
from train.stage1 import checkpoint, loop
from train.stage1.augment import augment
from train.stage1.batch_norm import share_batch_statistics
from train.stage1.checkpoint import read_facts
from train.stage1.loop import figures_of, out_of_patience, train
from train.stage1.mix import mix_films, mix_targets
from train.stage1.network import build
from train.stage1.presets import PRESETS
from train.stage1.run import Run, State
from train.stage1.schedule import learning_rate, plateaus
from train.stage1.settings import Settings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SIZE = 32


def write_data(folder: Path) -> Path:
    """A CSV data set of 160 small films; "Bright" is a bright spot, "Dark" a dark one."""
    from PIL import Image

    generator = np.random.default_rng(0)
    lines = ["image,patient,split,Bright,Dark"]
    for number in range(160):
        labels = generator.random(2) < 0.4
        film = generator.normal(120, 15, (SIZE, SIZE))
        for present, value, column in zip(labels, (100, -90), (4, 20), strict=True):
            row = generator.integers(4, 20)
            film[row : row + 8, column : column + 8] += value * present
        Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        split = ("train", "train", "train", "valid", "test")[number % 5]
        lines.append(f"{number}.png,p{number},{split},{labels[0]:d},{labels[1]:d}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def arguments(data: Path, out: Path, **changes) -> list[str]:
    options = {
        "data": data,
        "dataset": "csv",
        "out": out,
        "arch": "test_resnet",
        "image-size": SIZE,
        "epochs": 3,
        "batch-size": 16,
        "lr": 0.01,
        "ema": 0.9,
        "dropout": 0.1,
        "device": "cpu",
        "threads": 1,
        "workers": 1,
        "cache": out.parent,
        **changes,
    }
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    return [word for word in words if word != "True"]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert negative.main(arguments(data, out)) == 0
    return out


# --- A whole run --------------------------------------------------------------------------------


def test_a_control_on_shuffled_labels_learns_nothing_and_says_what_it_is(data, trained, tmp_path):
    out = tmp_path / "control"
    assert negative.main([*arguments(data, out), "--shuffle-labels"]) == 0
    control, whole = (
        json.loads((folder / "config.json").read_text())["cft"] for folder in (out, trained)
    )
    assert SHUFFLED in control["provenance"]["notes"]
    assert SHUFFLED in (out / "README.md").read_text()
    mean = [one["metrics"]["csv"]["subsets"]["all"]["auroc"] for one in (control, whole)]
    assert mean[0] < mean[1] - 0.1


def test_an_older_folder_is_completed_to_what_a_run_writes_today(trained, tmp_path, capsys):
    older = shutil.copytree(
        trained, tmp_path / "older", ignore=shutil.ignore_patterns("checkpoint")
    )
    whole = json.loads((trained / "config.json").read_text())
    config = json.loads((trained / "config.json").read_text())
    for row in config["cft"]["categories"].values():
        del row["band"], row["training"], row["repeatability"]
    del config["cft"]["reference"], config["cft"]["metrics"]["csv"]["band"]
    (older / "config.json").write_text(json.dumps(config))
    assert cft.load(older, "cpu").categories["Bright"].band is None
    assert complete.main([str(older), "--device", "cpu"]) == 0
    completed = json.loads((older / "config.json").read_text())
    for label, row in completed["cft"]["categories"].items():
        expected = whole["cft"]["categories"][label]
        assert row["training"] == expected["training"]
        assert sum(row["training"].values()) == 96
        assert row["repeatability"] is expected["repeatability"] is None  # a film of each patient
        assert row["band"] == pytest.approx(expected["band"], abs=1e-3)
        for limit in ("rule_out", "rule_in"):
            found, stored = (
                one["cft"]["metrics"]["csv"]["band"][limit]["categories"][label]
                for one in (completed, whole)
            )
            assert found == pytest.approx(stored, abs=1e-3)
    assert completed["cft"]["reference"] == whole["cft"]["reference"]
    assert completed["cft"]["metrics"]["csv"]["points"] == config["cft"]["metrics"]["csv"]["points"]
    assert "## Ruled in, ruled out, unsure" in (older / "README.md").read_text()
    # Films that are not those of the run: the ones that trained the model would judge it.
    lines = (older / "splits.csv").read_text().replace("valid", "train", 1)
    (older / "splits.csv").write_text(lines)
    assert complete.main([str(older), "--device", "cpu"]) == 1
    assert "32 films of the split 'valid', and here are 31" in capsys.readouterr().err


def test_controls_are_added_to_a_folder_and_its_card(data, trained, tmp_path, capsys):
    folder, control = tmp_path / "model", tmp_path / "control"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("checkpoint"))
    before = (folder / "config.json").read_bytes()
    assert complete.main([str(folder), "--device", "cpu", "--shuffled", str(trained)]) == 1
    assert "is no run with --shuffle-labels" in capsys.readouterr().err
    assert (folder / "config.json").read_bytes() == before
    assert negative.main([*arguments(data, control), "--shuffle-labels"]) == 0
    assert complete.main([str(folder), "--device", "cpu", "--shuffled", str(control)]) == 0
    found = json.loads((folder / "config.json").read_text())["cft"]["metrics"]["csv"]["controls"]
    own = json.loads((control / "config.json").read_text())["cft"]["metrics"]["csv"]
    assert list(found) == ["shuffled labels"]  # nothing is known of view, sex and age
    mean = {key: own["subsets"]["all"][key] for key in ("auroc", "ci_low", "ci_high")}
    assert found["shuffled labels"] == pytest.approx(mean, abs=1e-3)
    assert complete.main([str(folder), "--device", "cpu"]) == 0  # which leaves what is there
    card = (folder / "README.md").read_text()
    said = f"shuffled labels {mean['auroc']:.3f}"
    assert f"Controls on the same films, mean AUROC: {said}" in card


def test_where_maps_point_to_is_added_to_a_folder(data, trained, tmp_path, capsys):
    folder, boxes = tmp_path / "model", tmp_path / "boxes.csv"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("checkpoint"))
    before = json.loads((folder / "config.json").read_text())
    head = "image,finding,x,y,w,h\n"
    # Film 0 trained the model: none of the test films is framed.
    boxes.write_text(f"{head}0.png,Bright,0,0,{SIZE},{SIZE}\n")
    command = [str(folder), "--device", "cpu", "--boxes", str(boxes), "--box-side", str(SIZE)]
    assert complete.main(command) == 1
    assert "boxes.csv frames no finding on a test film" in capsys.readouterr().err
    assert json.loads((folder / "config.json").read_text()) == before
    # Every point lies in a box that is the whole film; the one chosen on the boxes of the other
    # films lies in one that is in the same corner.
    whole, corner = f"0,0,{SIZE},{SIZE}", "0,0,2,2"
    rows = [f"{n}.png,Bright,{whole}" for n in (4, 9)]
    rows += [f"{n}.png,Dark,{corner}" for n in (4, 9, 14)]
    boxes.write_text(head + "\n".join(rows) + "\n")
    assert complete.main(command) == 0
    found = json.loads((folder / "config.json").read_text())["cft"]["metrics"]["csv"]
    bright, dark = (found["categories"][label]["localisation"] for label in ("Bright", "Dark"))
    assert (bright["n"], bright["hit"], bright["floor_hit"]) == (2, 1.0, 1.0)
    assert (dark["n"], dark["floor_hit"]) == (3, 1.0)
    assert found["localisation"]["n"] == 5
    test_set = cft.load(folder, "cpu").facts.test_sets[0]
    assert test_set.pointing.films == 5
    assert test_set.categories["Bright"].pointing.hit.value == 1.0


def test_a_run_learns_and_writes_a_model_folder_that_everybody_reads(trained, data):
    ours = read_model_folder(trained).config["cft"]
    assert ours["metrics"]["csv"]["subsets"]["all"]["auroc"] > 0.8
    assert ours["provenance"]["splits"]["train"] == {"films": 96, "patients": 96}
    assert ours["provenance"]["label_policy"]["unknown"] == "negative"
    bright = ours["categories"]["Bright"]
    assert list(bright["operating_points"]) == ["specific", "balanced", "sensitive"]
    assert bright["operating_point"] == bright["operating_points"]["specific"]
    assert "evidence" not in bright  # its AUROC is far above chance
    assert ours["metrics"]["csv"]["points"]["specific"]["decided"] == ["Bright", "Dark"]
    assert ours["metrics"]["csv"]["uncalibrated"]["Bright"]["brier"] > 0
    card = (trained / "README.md").read_text()
    for phrase in ("## Operating points", "operating point *sensitive*", "Brier before"):
        assert phrase in card
    classifier = cft.load(trained, device="cpu")
    assert classifier.predict(np.zeros((32, 32), np.uint8)).point == "specific"
    assert classifier.label_names == ("Bright", "Dark")
    assert classifier.has_heatmaps
    batch = torch.rand(3, 1, SIZE, SIZE)
    stock = timm.create_model(f"local-dir:{trained}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(stock(batch), classifier.logits(batch))


def test_the_model_folder_gives_the_scores_that_were_measured(trained, data):
    """Packed to eight bits and read anew by the user's path, a film keeps its ranking."""
    classifier = cft.load(trained, device="cpu")
    films = [data.parent / f"{n}.png" for n in range(4, 160, 5)]
    found = [f.probabilities["Bright"] for f in classifier.predict(films)]
    labels = [
        line.split(",")[3] == "1" for line in data.read_text().splitlines()[1:] if ",test," in line
    ]
    from sklearn.metrics import roc_auc_score

    measured = read_model_folder(trained).config["cft"]["metrics"]["csv"]["categories"]["Bright"]
    assert roc_auc_score(labels, found) == pytest.approx(measured["auroc"], abs=1e-6)


def test_a_run_killed_before_its_last_line_of_the_log_has_it_after_resuming(
    trained, data, tmp_path
):
    shutil.copytree(trained, tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    whole = log.read_text()
    log.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert negative.main([*arguments(data, tmp_path / "run"), "--resume"]) == 0
    assert log.read_text() == whole


def test_the_log_has_one_line_an_epoch(trained):
    records = (trained / "log.jsonl").read_text().splitlines()
    assert len(records) == 3
    assert read_facts(trained / "checkpoint" / "last.safetensors")["step"] == 18


def test_the_same_command_gives_the_same_bytes(trained, data, tmp_path):
    assert negative.main(arguments(data, tmp_path / "again")) == 0
    assert weights(tmp_path / "again") == weights(trained)


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


def test_the_splits_are_written_beside_the_model(trained, data):
    rows = [line.split(",") for line in data.read_text().splitlines()[1:]]
    expected = [f"{film},{patient},{split}" for film, patient, split, *_ in rows]
    assert (trained / "splits.csv").read_text().splitlines() == ["film,patient,split", *expected]


# --- Interruption -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_run_ends_with_the_bytes_of_a_whole_one(trained, data, tmp_path, number):
    words = arguments(data, tmp_path / "run")
    process = Fork(negative.main, words)
    for line in process.output:
        if "epoch 1/3  loss" in line:
            process.send_signal(number)
            break
    assert process.wait() == (-signal.SIGKILL if number == signal.SIGKILL else 1)
    assert not (tmp_path / "run" / WEIGHTS).exists()
    assert negative.main([*words, "--resume"]) == 0
    assert weights(tmp_path / "run") == weights(trained)


def test_a_run_resumed_within_an_epoch_ends_with_the_same_bytes(
    trained, data, tmp_path, monkeypatch
):
    """Stopped at every look, so that checkpoints fall within epochs."""
    words = arguments(data, tmp_path / "run")
    monkeypatch.setattr(loop, "_LOOK_EVERY", 4)
    asked = property(lambda self: True, lambda self, value: None)
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", asked, raising=False)
        steps = []
        for _ in range(3):
            assert negative.main([*words, "--resume"]) == 1
            steps.append(read_facts(tmp_path / "run" / "checkpoint" / "last.safetensors")["step"])
    assert steps == [4, 6, 8]
    assert negative.main([*words, "--resume"]) == 0
    assert weights(tmp_path / "run") == weights(trained)
    for file in sorted((trained / FOLDER).iterdir()):  # epochs before and after the stops
        assert (tmp_path / "run" / FOLDER / file.name).read_bytes() == file.read_bytes()


def test_a_run_keeps_the_validation_scores_of_each_epoch(trained):
    from sklearn.metrics import roc_auc_score

    scores, y, names = read_epochs(trained)
    assert list(scores) == [1, 2, 3]
    assert names == ["Bright", "Dark"]
    for epoch, line in enumerate((trained / "log.jsonl").read_text().splitlines(), 1):
        logged = json.loads(line)["valid"]["categories"]
        for c, name in enumerate(names):
            area = roc_auc_score(y[:, c], scores[epoch][:, c])
            assert area == pytest.approx(logged[name], abs=0.01)  # of half precision


def test_a_run_is_resumed_only_by_the_arguments_that_began_it(trained, data, tmp_path, capsys):
    words = arguments(data, trained, lr=0.02)
    assert negative.main([*words, "--resume"]) == 1
    assert "began with lr = 0.01, not 0.02" in capsys.readouterr().err


def test_a_run_is_not_overwritten_by_accident(trained, data, capsys):
    before = weights(trained)
    assert negative.main(arguments(data, trained)) == 1
    assert "already holds a run; add --resume" in capsys.readouterr().err
    assert weights(trained) == before


def test_a_folder_that_no_run_made_is_not_overwritten(data, tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    assert negative.main(arguments(data, tmp_path)) == 1
    assert "holds README.md that no run made; choose another --out" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_a_second_run_in_the_folder_ends_at_once_and_the_first_is_not_disturbed(
    trained, data, tmp_path, capsys
):
    words = arguments(data, tmp_path / "run")
    process = Fork(negative.main, words)
    for line in process.output:
        if "epoch 1/3  loss" in line:
            process.send_signal(signal.SIGSTOP)
            break
    try:
        before = (tmp_path / "run" / "run.json").read_text()
        for more in ([], ["--resume"]):
            second = arguments(data, tmp_path / "run", seed=1)
            assert negative.main([*second, *more]) == 1
            message = capsys.readouterr().err.splitlines()[-1]
            assert f"another process is training in {tmp_path / 'run'}" in message
        assert (tmp_path / "run" / "run.json").read_text() == before
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.wait() == 0
    assert weights(tmp_path / "run") == weights(trained)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "\x00", "[" * 100_000])
def test_a_damaged_record_of_the_run_is_one_sentence(
    trained, data, tmp_path, monkeypatch, capsys, content
):
    out = tmp_path / "run"
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns("*.md", "config.json", WEIGHTS))
    (out / "run.json").unlink()
    if content is not None:
        (out / "run.json").write_text(content)
    monkeypatch.setattr(negative, "films_of", None)  # never reached
    assert negative.main([*arguments(data, out), "--resume"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{out / 'run.json'}, which says how the run began, cannot be read" in message


# --- Failures -----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_said_and_the_last_checkpoint_stays(
    data, tmp_path, capsys, monkeypatch
):
    words = arguments(data, tmp_path / "run")
    real = loop.learning_rate
    monkeypatch.setattr(
        loop,
        "learning_rate",
        lambda s, peak, step, *x: 1e38 if step > 7 else real(s, peak, step, *x),
    )
    assert negative.main(words) == 1
    error = capsys.readouterr().err
    assert "the loss is no longer a number at step 12 (epoch 2)" in error.splitlines()[-1]
    assert read_facts(tmp_path / "run" / "checkpoint" / "last.safetensors")["step"] == 6
    monkeypatch.undo()
    assert negative.main([*words, "--resume"]) == 0


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(data, tmp_path, capsys, monkeypatch):
    def write(path, content, real=checkpoint.atomic_write, calls=[]):  # noqa: B006
        calls.append(path)
        if len(calls) == 3:  # best and last of the first epoch are written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, content)

    monkeypatch.setattr(checkpoint, "atomic_write", write)
    assert negative.main(arguments(data, tmp_path / "run")) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert read_facts(tmp_path / "run" / "checkpoint" / "last.safetensors")["step"] == 6


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "last.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nothing")
    with pytest.raises(CheckpointError, match=r"last\.safetensors is not a readable checkpoint"):
        read_facts(tmp_path / "last.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch-size": 500}, "96 training films, fewer than one batch of 500"),
        ({"batch-size": 10, "accumulate": 4}, "--batch-size 10 cannot be divided by 1 process"),
        ({"batch-size": 2, "mix": "logic"}, "--mix logic mixes up to 3 films of a batch; make"),
        ({"batch-size": 1}, "--batch-size 1 with --accumulate 1 is one film at a time, on which"),
        ({"batch-size": 2, "accumulate": 2}, "make --batch-size larger"),
        ({"init": "nowhere"}, "nowhere is not a folder"),
        (
            {"arch": "test_vit", "image-size": 40},
            "test_vit cannot be used on one grey channel at --image-size 40",
        ),
    ],
)
def test_what_cannot_work_is_one_sentence(data, tmp_path, capsys, changes, message):
    assert negative.main(arguments(data, tmp_path / "run", **changes)) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("train.negative: ")
    assert message in sentence


def test_a_model_folder_that_cannot_be_loaded_is_not_called_written(
    trained, data, tmp_path, monkeypatch, capsys, caplog
):
    """Whatever the reason; the sizes that the reader refuses are refused as options already."""
    write = export.write_model_folder

    def of_eight_pixels(folder, *, config, **more):
        small = {**config["pretrained_cfg"], "input_size": [1, 8, 8]}
        return write(folder, config={**config, "pretrained_cfg": small}, **more)

    monkeypatch.setattr(export, "write_model_folder", of_eight_pixels)
    shutil.copytree(trained, tmp_path / "run")
    assert negative.main([*arguments(data, tmp_path / "run"), "--resume"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("train.negative: a model was written that cannot be used: ")
    assert "input_size" in message
    assert "wrote the model folder" not in caplog.text


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ("test test test", "has no training films: all 3 are in test"),
        ("train test train", "has no validation films, so nothing can be chosen"),
    ],
)
def test_splits_are_checked_before_any_film_is_packed(
    tmp_path, capsys, monkeypatch, sides, message
):
    monkeypatch.setattr(negative, "films_of", None)  # never reached
    lines = [f"{i}.png,{side},{i % 2}" for i, side in enumerate(sides.split())]
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["image,split,Mass", *lines]) + "\n")
    words = (
        arguments(table, tmp_path / "run", valid="0")
        if "train" in sides
        else arguments(table, tmp_path / "run")
    )
    assert negative.main(words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--arch", "resnet0"],
        ["--loss", "hinge"],
        ["--augment", "shear=1"],
        ["--mix", "cut"],
        ["--teacher-weight", "0"],
        ["--teacher-weight", "1.1"],
        ["--teacher-weight", "nan"],
        ["--schedule", "up"],
        ["--lr", "fast"],
        ["--lr", "-1"],
        ["--lr", "0"],
        ["--lr", "nan"],
        ["--lr", "inf"],
        ["--image-size", "0"],
        ["--image-size", "15"],
        ["--image-size", "4097"],
        ["--image-size", "100000"],
        ["--batch-size", "0"],
        ["--accumulate", "0"],
        ["--epochs", "0"],
        ["--threads", "-2"],
        ["--workers", "0"],
        ["--seed", "-1"],
        ["--patience", "-1"],
        ["--judge-width", "-1"],
        ["--clip", "-1"],
        ["--weight-decay", "-1"],
        ["--checkpoint-minutes", "nan"],
        ["--dropout", "3"],
        ["--ema", "2"],
        ["--warmup", "5"],
    ],
)
def test_a_wrong_option_is_wrong_usage(wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(["--data", "somewhere", *wrong])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m train.negative: error: ")


# --- The loop, from inside ----------------------------------------------------------------------


def table_of(y: np.ndarray, split: np.ndarray | None = None) -> LabelTable:
    n = len(y)
    names = np.array([f"f{i}" for i in range(n)])
    return LabelTable(
        images=tuple(Path(name) for name in names),
        y=y.astype(np.float32),
        uncertain=np.zeros(y.shape, bool),
        label_names=tuple(f"c{i}" for i in range(y.shape[1])),
        patients=names,
        studies=names,
        split=np.array(["train", "valid"] * n)[:n] if split is None else split,
        dataset="test",
    )


def make_run(tmp_path, y, pixels=None, **changes) -> Run:
    settings = Settings(
        **{"arch": "test_resnet", "image_size": SIZE, "batch_size": 8, "clip": 0.0, **changes}
    )
    generator = np.random.default_rng(0)
    if pixels is None:
        pixels = Pixels(generator.integers(0, 256, (len(y), SIZE, SIZE), dtype=np.uint8), {})
    here = Processes(0, 1, torch.device("cpu"))
    work = Work(out=tmp_path, device="cpu")
    return Run.of(settings, work, table_of(y), y.astype(np.float32), pixels, here)


def train_an_epoch(run: Run) -> tuple[State, dict[str, torch.Tensor]]:
    """The state after an epoch, and the gradient of its last step by parameter."""
    state, gradients = State.start(run), {}
    for name, parameter in state.network.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: gradients.update({name: p.grad.clone()})
        )
    next(train(run, state, Stop()))
    return state, gradients


def labels(n=64, c=3, seed=0):
    return (np.random.default_rng(seed).random((n, c)) < 0.4).astype(np.float32)


@pytest.mark.parametrize("mix", ["none", "mixup", "logic"])
def test_accumulation_does_not_change_the_gradient(tmp_path, mix):
    """Unknown labels are unevenly spread over the parts; the divisor is the whole batch's."""
    y = labels()
    y[:20][np.random.default_rng(1).random((20, 3)) < 0.8] = np.nan
    gradients = []
    for parts in (1, 4):
        # Without batch normalisation, whose statistics are those of a part. One step an epoch.
        arch = {"arch": "test_convnext", "batch_size": 32, "mix": mix}
        _, found = train_an_epoch(make_run(tmp_path, y, **arch, accumulate=parts))
        gradients.append(torch.cat([g.flatten() for g in found.values()]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_an_unknown_label_has_no_influence(tmp_path):
    """Its column alone is unknown in training: that logistic regression gets no gradient."""
    y = labels()
    y[::2, 1] = np.nan
    _, gradients = train_an_epoch(make_run(tmp_path, y))
    gradient = gradients["fc.weight"]
    assert (gradient[1] == 0).all()
    assert (gradient[[0, 2]] != 0).any()


def test_the_average_follows_its_formula(tmp_path):
    run = make_run(tmp_path, labels(), ema=0.5, epochs=1)
    state = State.start(run)
    head = state.network.get_classifier().weight
    passed = [head.detach().clone()]
    state.optimizer.register_step_post_hook(lambda *_: passed.append(head.detach().clone()))
    next(train(run, state, Stop()))
    expected = passed[0]
    for step, weights in enumerate(passed[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights
    assert len(passed) == 5
    torch.testing.assert_close(state.average.get_classifier().weight, expected)
    running = [n for n, b in state.average.named_buffers() if n.endswith("running_mean")]
    assert any(state.average.get_buffer(n).abs().sum() > 0 for n in running)


def test_rows_targets_and_films_of_a_batch_belong_together(tmp_path):
    y = labels()
    films = np.arange(64, dtype=np.uint8)[:, None, None] * np.ones((1, SIZE, SIZE), np.uint8)
    run = make_run(tmp_path, y, pixels=Pixels(films, {}), accumulate=2)
    for batch in run.batches(0):
        shown = torch.cat([part.films[:, 0, 0, 0] for part in batch.parts])
        targets = torch.cat([part.targets for part in batch.parts])
        assert shown.tolist() == batch.rows.tolist()
        np.testing.assert_array_equal(targets, y[batch.rows])


@pytest.mark.parametrize("mix", ["mixup", "logic"])
@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (1, 4), (2, 2), (4, 1)])
def test_films_are_mixed_alike_however_a_batch_is_divided(tmp_path, mix, world, accumulate):
    """The films that are mixed into a film may be another part's, or another process's."""
    y = labels()
    y[::3, 1] = np.nan
    run = make_run(tmp_path, y, mix=mix, accumulate=accumulate)
    here = [Processes(rank, world, torch.device("cpu")) for rank in range(world)]
    processes = [replace(run, here=each).batches(1) for each in here]
    undivided = make_run(tmp_path, y, mix=mix).batches(1)
    for whole, *shares_of_batch in zip(undivided, *processes, strict=True):
        (part,) = whole.parts
        changes = {name: rows[:8] for name, rows in part.changes.items()}
        films = augment(part.films[:8].float() / 255, changes)
        assert (part.films[:8, 0].numpy() == run.films._films[whole.rows]).all()
        into = part.shares[:, :, None, None, None]
        expected = sum(films.roll(-k, 0) * into[:, k] for k in range(into.shape[1]))
        known = mix_targets(mix, torch.from_numpy(y[whole.rows]), part.shares)

        # As a batch is divided: the first parts of all processes, then their second parts, ...
        parts = [batch.parts[number] for number in range(accumulate) for batch in shares_of_batch]
        mixed = [
            mix_films(augment(part.films.float() / 255, part.changes), part.shares)
            for part in parts
        ]
        torch.testing.assert_close(torch.cat(mixed), expected)
        targets = torch.cat([part.targets for part in parts])
        torch.testing.assert_close(targets, known, equal_nan=True, rtol=0, atol=0)
        assert all(batch.known == (~known.isnan()).sum() for batch in shares_of_batch)


def test_every_epoch_sees_every_film_at_most_once_in_another_order(tmp_path):
    run = make_run(tmp_path, labels())
    first, second = (np.concatenate([b.rows for b in run.batches(epoch)]) for epoch in (0, 1))
    assert len(set(first.tolist())) == len(first) == 32
    assert set(first.tolist()) == set(run.rows["train"].tolist())
    assert first.tolist() != second.tolist()


def test_an_epoch_that_is_gone_on_with_has_the_same_batches(tmp_path):
    run = make_run(tmp_path, labels(), mix="logic")
    whole, rest = list(run.batches(1)), list(run.batches(1, first=2))
    for expected, found in zip(whole[2:], rest, strict=True):
        assert found.rows.tolist() == expected.rows.tolist()
        parts = [batch.parts[0] for batch in (expected, found)]
        torch.testing.assert_close(*(x.changes["theta"] for x in parts), rtol=0, atol=0)
        torch.testing.assert_close(*(x.shares for x in parts), rtol=0, atol=0)


def test_the_first_scores_are_the_log_odds_of_each_category(tmp_path):
    y = labels(200)
    run = make_run(tmp_path, y)
    training = run.rows["train"]
    share = (y[training].sum(0) + 1) / (len(training) + 2)
    bias = State.start(run).network.get_classifier().bias.detach().numpy()
    np.testing.assert_allclose(bias, np.log(share / (1 - share)), rtol=1e-5)


def test_an_unknown_label_is_no_part_of_the_share_that_a_bias_starts_at(tmp_path):
    """Of 100 training films 30 are known, 10 of them positive; the others must not dilute that."""
    y = labels(200)
    training = make_run(tmp_path, y).rows["train"]
    y[training, 1] = np.nan
    y[training[:10], 1] = 1
    y[training[10:30], 1] = 0
    bias = State.start(make_run(tmp_path, y)).network.get_classifier().bias.detach().numpy()
    assert len(training) == 100
    assert bias[1] == pytest.approx(np.log(11 / 21), rel=1e-5)


def test_unreadable_films_take_no_part(tmp_path):
    pixels = Pixels(np.zeros((64, SIZE, SIZE), np.uint8), {0: "broken", 3: "broken"})
    run = make_run(tmp_path, labels(), pixels=pixels)
    assert 0 not in run.rows["train"]
    assert 3 not in run.rows["valid"]
    assert len(run.rows["train"]) == len(run.rows["valid"]) == 31


def test_a_category_without_positives_is_named(caplog):
    y = labels()
    y[:, 2] = 0
    negative.warn_of_missing_positives(table_of(y), y)
    assert "no training film is positive for c2" in caplog.text


def test_early_stopping_waits_as_long_as_it_is_told(tmp_path):
    run = make_run(tmp_path, labels(), patience=2)
    state = State.start(run)
    for score, stops in ((0.5, False), (0.6, False), (0.6, False), (0.4, True)):
        state.history.append({"valid": {"auroc": score}})
        assert out_of_patience(run, state) is stops
    assert state.best_epoch("auroc") == 2


def test_validation_leaves_out_categories_without_both_kinds():
    y = np.array([[1, 1], [0, 1], [1, np.nan], [0, 1]])
    scores = np.array([[2.0, 0], [1, 0], [3, 0], [0, 0]])
    result = figures_of(scores, table_of(y))
    assert result["auroc"] == result["map"] == 1.0
    assert list(result["categories"]) == ["c0"]


# --- Schedules ----------------------------------------------------------------------------------


def test_one_cycle_is_pytorchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=200, pct_start=0.2, cycle_momentum=False
    )
    for step in range(200):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate("one-cycle", 3e-3, step, 200, 0.2) == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        if step < 199:
            reference.step()


def test_cosine_ends_at_the_final_rate():
    rates = [learning_rate("cosine", 2.0, step, 100, 0.1, final=0.01) for step in range(100)]
    assert max(rates) == pytest.approx(2.0)
    assert rates[-1] == min(rates[10:]) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("width", "'width' is not name=value"),
        ("width=1,width=2", "names width twice"),
        ("in_chans=3", "in_chans is decided by --init"),
        ("pretrained=true", "may not set pretrained"),
        ("checkpoint_path=x", "may not set checkpoint_path"),
    ],
)
def test_arguments_of_the_network_are_refused_before_anything_is_read(text, why, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(["--data", "somewhere", "--model-args", text])
    assert exit_.value.code == 2
    assert why in capsys.readouterr().err


def test_an_argument_that_the_network_does_not_take_is_named():
    settings = Settings(arch="test_resnet", image_size=64, model_args="nonsense=1")
    with pytest.raises(TrainingError, match="nonsense"):
        build(settings, ["A"], np.array([[0.0], [1.0]]))


def test_cosine_rises_along_a_line_and_falls_to_zero():
    rates = [learning_rate("cosine", 1.0, step, 100, 0.1) for step in range(100)]
    np.testing.assert_allclose(np.diff(rates[:10]), rates[0])
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert np.all(np.diff(rates[11:]) < 0)


def test_plateau_falls_to_a_tenth_after_two_evaluations_without_a_best():
    assert plateaus([0.5, 0.6, 0.6, 0.7, 0.6]) == 0
    assert plateaus([0.5, 0.6, 0.6, 0.5, 0.55, 0.6, 0.9]) == 2
    assert learning_rate("plateau", 1.0, 50, 100, 0.0, [0.5, 0.4, 0.4]) == pytest.approx(0.1)


# --- Several processes --------------------------------------------------------------------------


def test_two_processes_reach_the_result_of_one(data, tmp_path):
    """The same global batch and augmentation; batch statistics over both processes."""
    changes = {"dropout": 0.0, "lr": 0.001, "epochs": 2}
    one, two = tmp_path / "one", tmp_path / "two"
    assert negative.main(arguments(data, one, **changes)) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = [*launcher, "--nproc-per-node", "2", "-m", "train.negative"]
    words += arguments(data, two, **changes)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("wrote the model folder") == 1
    first, second = (read_model_folder(folder).state_dict for folder in (one, two))
    for name, tensor in first.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(second[name], tensor, atol=2e-3, rtol=2e-3, msg=name)
    metrics = [read_model_folder(f).config["cft"]["metrics"]["csv"] for f in (one, two)]
    assert metrics[0]["films"] == metrics[1]["films"] == 32
    areas = [m["subsets"]["all"]["auroc"] for m in metrics]
    assert areas[0] == pytest.approx(areas[1], abs=0.01)


def normalised(rank: int, world: int, folder: str) -> None:
    """One process's part of a batch through batch normalisation; what came out goes to a file."""
    if world > 1:
        meet = f"file://{folder}/meet"
        torch.distributed.init_process_group("gloo", meet, rank=rank, world_size=world)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(8, 3, 5, 5, generator=generator, dtype=torch.float64) * 3 + 2
    weights = torch.randn(8, 3, 5, 5, generator=generator, dtype=torch.float64)
    network = torch.nn.Sequential(BatchNormAct2d(3), torch.nn.BatchNorm2d(3)).double()
    network = share_batch_statistics(network, torch.device("cpu")) if world > 1 else network
    mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
    part = batch[mine].requires_grad_()
    result = network(part)
    (result * weights[mine]).sum().backward()
    grads = [p.grad for p in network.parameters()]
    for grad in grads if world > 1 else ():
        torch.distributed.all_reduce(grad)
    tensors = {"result": result.detach(), "input": part.grad}
    tensors |= {f"parameter {i}": grad for i, grad in enumerate(grads)}
    tensors |= dict(network.named_buffers())
    save_file({k: v.contiguous() for k, v in tensors.items()}, f"{folder}/{world}-{rank}")
    if world > 1:
        torch.distributed.destroy_process_group()


def test_batch_statistics_of_two_processes_are_those_of_one(tmp_path):
    """Results, gradients and running statistics, with and without a fused activation."""
    normalised(0, 1, str(tmp_path))
    both = [Fork(normalised, rank, 2, str(tmp_path)) for rank in range(2)]
    for process in both:
        assert process.wait() == 0, process.said
    whole, first, second = (load_file(tmp_path / name) for name in ("1-0", "2-0", "2-1"))
    for name, tensor in whole.items():
        if name in ("result", "input"):
            torch.testing.assert_close(torch.cat([first[name], second[name]]), tensor, msg=name)
        else:
            torch.testing.assert_close(first[name], tensor, msg=name)
            torch.testing.assert_close(second[name], tensor, msg=name)


# --- Presets ------------------------------------------------------------------------------------


#: Recipes that begin with random tensors, or with a folder.
FROM_SCRATCH = {"nih-demo", "rehearsal", "ctranscnn", "chexnet_hybrid"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_run_that_can_be_built(name):
    settings = parse(["--preset", name, "--data", "somewhere"]).settings
    assert timm.is_model(settings.arch)
    assert loss_named(settings.loss)
    assert settings.batch_size % settings.accumulate == 0


@pytest.mark.parametrize(
    ("name", "optimizer", "rate", "decay", "batch", "epochs", "patience", "ema"),
    [
        ("coco-partial", "adam", 2e-4, 1e-4, 128, 60, 10, 0.999),  # train.py of the CFT authors
        ("dacnet", "adamw", 5e-5, 1e-5, 8, 25, 5, 0),  # scripts/dacnet.py of DacNet
        ("dacnet-vit", "adam", 1e-4, 1e-5, 16, 20, 5, 0),  # scripts/vit_transformer.py
        ("chexnet-replica", "adam", 1e-3, 1e-5, 16, 20, 5, 0),  # replicate_chexnet.py at 8624ce0
        ("eva-x", "adamw", 1e-3, 0.05, 1024, 30, 0, 0),  # train_files/eva_x/cxr14/vit_s.sh
        ("ctranscnn", "adamw", 1e-3, 0.05, 32, 300, 0, 0),  # configs/*_CTransCNN.py
        ("chexnet_hybrid", "adamw", 1e-3, 0.05, 32, 300, 0, 0),
    ],
)
def test_a_published_recipe_has_the_numbers_of_its_authors_code(
    name, optimizer, rate, decay, batch, epochs, patience, ema
):
    """None of these codes limits the gradient."""
    settings = parse(["--preset", name, "--data", "somewhere"]).settings
    assert (settings.optimizer, settings.lr, settings.weight_decay) == (optimizer, rate, decay)
    assert (settings.batch_size, settings.epochs, settings.patience) == (batch, epochs, patience)
    assert (settings.ema, settings.clip) == (ema, 0)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - FROM_SCRATCH))
def test_a_published_recipe_begins_with_pretrained_weights(name):
    settings = parse(["--preset", name, "--data", "somewhere"]).settings
    assert settings.init == "pretrained"
    assert timm.models.get_pretrained_cfg(settings.arch).hf_hub_id.startswith("timm/")
    rates = {"drop_path_rate": settings.drop_path} if settings.drop_path else {}
    with torch.device("meta"):
        timm.create_model(settings.arch, in_chans=3, num_classes=14, **rates)


def test_an_option_beside_a_preset_wins():
    asked = parse(
        ["--preset", "u-ones", "--data", "somewhere", "--epochs", "7", "--uncertain", "ignore"]
    )
    assert (asked.settings.epochs, asked.settings.arch) == (7, "densenet121.tv_in1k")
    assert asked.arguments["uncertain"] == ["ignore"]
    assert asked.command == (
        "python -m train.negative --preset u-ones --data DATA --epochs 7 --uncertain ignore"
    )


@pytest.mark.parametrize("option", ["--patience", "--clip", "--warmup", "--ema", "--dropout"])
def test_nought_switches_off_what_can_be_off(option):
    settings = parse(["--data", "somewhere", option, "0"]).settings
    assert getattr(settings, option[2:]) == 0


def test_no_default_of_an_option_is_shown_as_nothing(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert "(default: )" not in " ".join(capsys.readouterr().out.split())


def test_without_data_the_run_is_a_rehearsal():
    asked = parse([])
    assert asked.data.data is None
    assert asked.settings.arch == PRESETS["rehearsal"]["arch"]


def test_the_provenance_of_earlier_runs_has_the_same_names():
    """Stage 2 takes its options of the data from there."""
    config = read_model_folder(ROOT / "weights").config["cft"]["provenance"]
    earlier = config.get("stage_1", config)["arguments"]
    assert set(earlier) <= set(parse([]).arguments)
