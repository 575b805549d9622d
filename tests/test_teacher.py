"""Distillation: what the teachers answer, what becomes of it, and what is recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

import cft
from cft.film.radiograph import Radiograph
from cft.model.ensemble import write_ensemble
from cft.model.folder import WEIGHTS, read_model_folder, write_model_folder
from tests.conftest import random_model_config
from tests.test_negative import arguments, labels, make_run, train_an_epoch, write_data
from train import negative
from train.command import Stop
from train.datasets import DataOptions, table_of
from train.errors import TrainingError
from train.stage1 import loop
from train.stage1.run import NETWORK, State
from train.stage1.teacher import Teacher, answers_of, notes_on

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
LABELS = ("Effusion", "Cardiomegaly")  # of three, in another order


def write_model(folder: Path, seed: int = 1, label_names=None, **preprocess) -> Path:
    """A small network of random weights whose answers differ from film to film."""
    config = {**random_model_config(), "architecture": "test_resnet", "num_features": 96}
    if label_names:
        config |= {"label_names": list(label_names), "num_classes": len(label_names)}
        config["pretrained_cfg"]["num_classes"] = len(label_names)
        config["cft"] = {"categories": {label_names[-1]: {"platt": {"scale": 0.5, "bias": 1.0}}}}
    config["pretrained_cfg"] |= preprocess
    channels = config["pretrained_cfg"]["input_size"][0]
    config["model_args"] = {"in_chans": channels}
    torch.manual_seed(seed)
    classes = config["num_classes"]
    network = timm.create_model("test_resnet", num_classes=classes, in_chans=channels)
    torch.nn.init.normal_(network.get_classifier().weight)
    return write_model_folder(folder, state_dict=network.state_dict(), config=config, card="")


def films_of(n: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 1, 6, 6, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bilinear").clamp(0, 1)


def in_use(folder: Path, films: torch.Tensor, names=LABELS) -> torch.Tensor:
    """The probabilities that a user of the model gets for these films."""
    found = cft.load(folder, device="cpu").predict([Radiograph(film[0].numpy()) for film in films])
    return torch.tensor([[f.probabilities[name] for name in names] for f in found])


# --- The answers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "preprocess",
    [
        {},
        {"input_size": [1, 96, 80]},
        {"input_size": [1, 48, 48], "crop_pct": 0.875, "crop_mode": "center"},
        {
            "input_size": [3, 64, 64],
            "interpolation": "bicubic",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    ],
)
def test_a_teacher_answers_as_it_does_in_use(tmp_path, preprocess):
    """Calibrated, at its own size, with its own mean, its labels by name."""
    folder, films = write_model(tmp_path / "model", **preprocess), films_of(3, 64)
    teacher = Teacher.of(str(folder), LABELS, CPU)
    found = answers_of([teacher], films, "float32")
    assert found.std(0).min() > 1e-3  # else a mistake would not be seen
    torch.testing.assert_close(found, in_use(folder, films), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_an_ensemble_is_a_teacher(tmp_path, average):
    members = [
        ("a", write_model(tmp_path / "a"), 3.0),
        ("b", write_model(tmp_path / "b", 2, ["Effusion", "Hernia", "Cardiomegaly"]), 1.0),
    ]
    config = {**random_model_config(), "architecture": "ensemble", "cft": {}}
    folder = write_ensemble(
        tmp_path / "both", members, average=average, config=config, card="# Both\n"
    )
    films = films_of(4, 64)
    found = answers_of([Teacher.of(str(folder), LABELS, CPU)], films, "float32")
    torch.testing.assert_close(found, in_use(folder, films), atol=1e-5, rtol=1e-4)


def test_several_teachers_answer_with_their_mean(tmp_path):
    folders = [write_model(tmp_path / str(seed), seed) for seed in (1, 2, 3)]
    films = films_of(4, 64)
    found = answers_of([Teacher.of(str(f), LABELS, CPU) for f in folders], films, "float32")
    expected = torch.stack([in_use(folder, films) for folder in folders]).mean(0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_teacher_without_a_category_is_refused(tmp_path):
    folder = write_model(tmp_path / "model")
    with pytest.raises(TrainingError, match=r"does not know Edema, Mass; it has Cardiomegaly, Eff"):
        Teacher.of(str(folder), ("Edema", "Effusion", "Mass"), CPU)


# --- The loss -----------------------------------------------------------------------------------


def taught_run(tmp_path, y, teachers=1, **changes):
    names = [f"c{i}" for i in range(y.shape[1])]
    small = {"input_size": [1, 48, 48]}
    folders = [write_model(tmp_path / f"t{n}", n, names, **small) for n in range(teachers)]
    run = make_run(tmp_path, y, arch="test_convnext", **changes)
    return replace(run, teachers=[Teacher.of(str(f), names, CPU) for f in folders])


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_gradient_is_that_of_the_mixed_target_and_of_the_answer_where_it_is_unknown(
    tmp_path, weight
):
    y = labels()
    y[np.random.default_rng(1).random(y.shape) < 0.4] = np.nan
    changes = {"batch_size": 32, "augment": "none", "teacher_weight": weight}
    run = taught_run(tmp_path, y, teachers=2, **changes)
    (batch,) = run.batches(0)
    films, targets = batch.parts[0].films.float() / 255, batch.parts[0].targets

    network = State.start(run).network.train()
    torch.manual_seed(run.seed(NETWORK, 0, 0))
    logits = network((films - 0.5) / 0.25)
    folders = [tmp_path / "t0", tmp_path / "t1"]
    taught = torch.stack([in_use(f, films, ["c0", "c1", "c2"]) for f in folders]).mean(0)
    unknown = targets.isnan()
    mixed = torch.where(unknown, taught, (1 - weight) * targets + weight * taught)
    counts = torch.where(unknown, weight, 1.0)
    loss = F.binary_cross_entropy_with_logits(logits, mixed, counts, reduction="sum")
    (loss / counts.sum()).backward()

    _, found = train_an_epoch(run)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_a_batch_in_parts_is_taught_as_a_whole_one(tmp_path):
    """With mixing: the teachers see the mixed films."""
    y = labels()
    y[:20][np.random.default_rng(1).random((20, 3)) < 0.8] = np.nan
    gradients = []
    for parts in (1, 4):
        changes = {"batch_size": 32, "mix": "logic", "accumulate": parts}
        _, found = train_an_epoch(taught_run(tmp_path, y, **changes))
        gradients.append(torch.cat([g.flatten() for g in found.values()]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-3)


def test_a_teacher_is_not_trained(tmp_path):
    run = taught_run(tmp_path, labels())
    network = run.teachers[0].members[0].network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train_an_epoch(run)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


# --- The command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def words_of(data: Path, out: Path, *more: str) -> list[str]:
    return [*arguments(data, out, epochs=2), *more]


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    assert negative.main(words_of(data, out)) == 0
    return out


@pytest.fixture(scope="module")
def taught(data, teacher, tmp_path_factory) -> Path:
    """A run with a teacher that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "taught"
    assert negative.main(words_of(data, out, "--teacher", str(teacher))) == 0
    return out


def test_a_model_names_its_teachers_by_their_weights_and_no_place(taught, teacher):
    config = read_model_folder(taught).config
    provenance = config["cft"]["provenance"]
    digest = read_model_folder(teacher).weights_sha256
    named = [{"architecture": "test_resnet", "weights_sha256": digest}]
    assert provenance["teachers"] == named
    assert provenance["command"].endswith("--teacher TEACHER")
    assert provenance["arguments"]["teacher_weight"] == 0.5
    card = (taught / "README.md").read_text()
    assert str(teacher) not in json.dumps(config) + card
    assert f"weights of the SHA-256 `{digest}`" in card
    assert "too good" not in card  # the same splits
    assert "teacher" not in (teacher / "README.md").read_text().lower()
    assert (taught / WEIGHTS).read_bytes() != (teacher / WEIGHTS).read_bytes()


def test_a_taught_run_that_is_resumed_ends_with_the_same_bytes(
    data, taught, teacher, tmp_path, monkeypatch, capsys
):
    words = words_of(data, tmp_path / "run", "--teacher", str(teacher))
    monkeypatch.setattr(loop, "_LOOK_EVERY", 3)
    with monkeypatch.context() as patch:
        asked = property(lambda self: True, lambda self, value: None)
        patch.setattr(Stop, "asked", asked, raising=False)
        assert negative.main(words) == 1
    assert negative.main([*words_of(data, tmp_path / "run"), "--resume"]) == 1
    assert "began with teachers = ['" in capsys.readouterr().err
    assert negative.main([*words, "--resume"]) == 0
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (taught / WEIGHTS).read_bytes()


def test_a_teacher_that_has_learnt_from_the_films_of_the_test_is_named(data, teacher):
    options = DataOptions(data=data, dataset="csv")
    table = table_of(options, 0)
    teachers = [Teacher.of(str(teacher), table.label_names, CPU)]
    assert list(notes_on(teachers, table, options)) == []
    split = np.array(["test" if s == "train" else "train" for s in table.split])
    (note,) = notes_on(teachers, table.with_split(split), options)
    n = (table.split == "train").sum()
    assert f"test films may be too good, for the teacher {teachers[0].model.name} has" in note
    assert f"trained on {n} of the {n} films" in note


def test_a_teacher_of_other_categories_is_one_sentence(data, tmp_path, capsys):
    other = write_model(tmp_path / "other", label_names=["Dark", "Dim"])
    assert negative.main(words_of(data, tmp_path / "run", "--teacher", str(other))) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"train.negative: the teacher {other} does not know Bright; it ")
    assert not (tmp_path / "run").exists()
