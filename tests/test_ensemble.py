"""An ensemble is a model folder that names its members, and is used as one model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import timm
import torch

import cft
from cft.errors import ModelFolderError
from cft.model.averaging import combine
from cft.model.ensemble import write_ensemble
from cft.model.folder import write_model_folder
from cft.model.odds import logit
from tests.conftest import random_model_config

LABELS = ["Effusion", "Hernia"]


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory):
    """A second model, of another size and with its labels in another order."""
    torch.manual_seed(1)
    network = timm.create_model("resnet10t", num_classes=3, in_chans=1).eval()
    torch.nn.init.normal_(network.get_classifier().weight)
    config = random_model_config()
    config["label_names"] = ["Hernia", "Cardiomegaly", "Effusion"]
    config["pretrained_cfg"]["input_size"] = [1, 96, 96]
    folder = tmp_path_factory.mktemp("models") / "other"
    state = network.state_dict()
    return write_model_folder(folder, state_dict=state, config=config, card="# Other\n")


def ensemble_config() -> dict:
    config = random_model_config()
    points = {"Effusion": {"operating_point": {"threshold": 0.4, "rule": "youden"}}}
    return {
        "architecture": "ensemble",
        "label_names": LABELS,
        "pretrained_cfg": {**config["pretrained_cfg"], "num_classes": 2},
        "cft": {"categories": points},
    }


@pytest.fixture(scope="module", params=["probabilities", "logits"])
def average(request):
    return request.param


@pytest.fixture(scope="module")
def written(model_folder, other_folder, average, tmp_path_factory):
    members = [("first", model_folder, 3.0), ("second one/x", other_folder, 1.0)]
    return write_ensemble(
        tmp_path_factory.mktemp("ensembles") / "ensemble",
        members,
        average=average,
        config=ensemble_config(),
        card="# Ensemble\n",
    )


@pytest.fixture(scope="module")
def ensemble(written):
    return cft.load(written, device="cpu")


@pytest.fixture(scope="module")
def members(model_folder, other_folder):
    return [cft.load(folder, device="cpu") for folder in (model_folder, other_folder)]


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the ensemble whose configuration a test may change."""
    copy = tmp_path / "ensemble"
    copy.mkdir()
    shutil.copy(written / "config.json", copy)
    (copy / "members").symlink_to(written / "members")  # large, and only read
    return copy


def edit(folder, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda c: c["cft"].update(members=[]), "must list 1 to"),
        (lambda c: c["cft"].update(members="x"), "must list 1 to"),
        (lambda c: c["cft"].update(members=[{}] * 65), "must list 1 to 64"),
        (lambda c: c["cft"].update(members=[{"weight": 1}]), 'names no "folder"'),
        (lambda c: c["cft"]["members"][0].update(folder="../first"), "not inside"),
        (lambda c: c["cft"]["members"][0].update(folder="/first"), "not inside"),
        (lambda c: c["cft"]["members"][0].update(folder="members\\..\\x"), "not inside"),
        (lambda c: c["cft"]["members"][0].update(folder="members/none"), "is not a folder"),
        (lambda c: c["cft"]["members"][0].update(weight=0), "above 0"),
        (lambda c: c["cft"]["members"][0].update(weight=-1), "from 0 to"),
        (lambda c: c["cft"]["members"][0].update(weight=10**400), "whole number of 1,329 bits"),
        (lambda c: c["cft"]["members"][0].update(weight=float("nan")), "holds nan"),
        (lambda c: c["cft"]["members"][0].update(weight="1"), r"weight.* must be a number"),
        (lambda c: c["cft"]["members"][0].update(weights_sha256="0" * 64), "is not the file"),
        (lambda c: c["cft"].update(average="median"), "averages 'median'"),
        (lambda c: c.update(label_names=["Effusion", "Mass"]), "does not predict 'Mass'"),
        (
            lambda c: c["cft"]["categories"]["Effusion"]["operating_point"].update(threshold=2),
            "must be a number from 0 to 1",
        ),
        (
            lambda c: c["cft"]["categories"]["Effusion"].update(operating_point=[]),
            "operating_point.* must be an object",
        ),
    ],
)
@pytest.mark.parametrize("average", ["logits"], indirect=True, scope="module")
def test_an_ensemble_that_does_not_fit_is_refused_in_one_sentence(folder, change, phrase):
    edit(folder, change)
    with pytest.raises(ModelFolderError, match=phrase):
        cft.load(folder, device="cpu")


@pytest.mark.parametrize("average", ["logits"], indirect=True, scope="module")
def test_an_ensemble_is_no_member_of_another(folder, tmp_path):
    with pytest.raises(ModelFolderError, match=r"no model\.safetensors"):
        write_ensemble(
            tmp_path / "outer",
            [("inner", folder, 1.0)],
            average="logits",
            config=ensemble_config(),
            card="",
        )


def test_an_ensemble_without_members_is_not_written(model_folder, tmp_path):
    with pytest.raises(ModelFolderError, match="no members"):
        write_ensemble(
            tmp_path / "none",
            [("first", model_folder, 0.0)],
            average="logits",
            config=ensemble_config(),
            card="",
        )


def test_an_unknown_average_is_not_written(model_folder, tmp_path):
    with pytest.raises(ModelFolderError, match="averages 'ranks'"):
        write_ensemble(
            tmp_path / "ranks",
            [("first", model_folder, 1.0)],
            average="ranks",
            config=ensemble_config(),
            card="",
        )
    assert not (tmp_path / "ranks" / "config.json").exists()


# --- Use ----------------------------------------------------------------------------------------


def test_its_probabilities_are_the_weighted_mean_of_its_members(ensemble, members, films, average):
    assert isinstance(ensemble, cft.Ensemble)
    found = ensemble.predict(films)
    answers = [member.predict(films) for member in members]
    for i, findings in enumerate(found):
        for label in LABELS:
            p = np.array([answer[i].probabilities[label] for answer in answers])
            expected = 0.75 * p[0] + 0.25 * p[1]
            if average == "logits":
                odds = (p[0] / (1 - p[0])) ** 0.75 * (p[1] / (1 - p[1])) ** 0.25
                expected = odds / (1 + odds)
            assert findings.probabilities[label] == pytest.approx(expected, rel=1e-5)
            assert findings.scores[label] == pytest.approx(logit(expected), abs=1e-4)
    assert ensemble.label_names == tuple(found[0].probabilities) == tuple(LABELS)


def test_its_operating_points_are_its_own(ensemble, films):
    findings = ensemble.predict(films[0])
    assert findings.operating_points == {"Effusion": 0.4, "Hernia": None}
    called = findings.probabilities["Effusion"] >= 0.4
    assert findings.positives == (["Effusion"] if called else [])


def test_its_heat_map_is_the_weighted_mean_of_its_members(ensemble, members, films):
    assert ensemble.has_heatmaps
    maps = [member.predict(films[1]).heatmap("Hernia") for member in members]
    findings = ensemble.predict(films[1])
    found = findings.heatmap("Hernia")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 0.75 * maps[0] + 0.25 * maps[1], atol=1e-5)
    with pytest.raises(KeyError, match="no finding 'Mass'"):
        findings.heatmap("Mass")


def test_what_each_member_says_stands_beside_the_mean(ensemble, members, films):
    findings = ensemble.predict(films[1])
    for label in LABELS:
        alone = [member.predict(films[1]).probabilities[label] for member in members]
        assert findings.members(label) == pytest.approx(alone, rel=1e-5)
        assert min(alone) < findings.probabilities[label] < max(alone)
    rows = {row["label"]: row["members"] for row in findings.to_dict()["findings"]}
    assert rows == {label: list(findings.members(label)) for label in LABELS}
    with pytest.raises(KeyError, match="no finding 'Mass'"):
        findings.members("Mass")
    alone = members[0].predict(films[1])
    assert alone.members("Hernia") == ()
    assert alone.to_dict()["findings"][0]["members"] is None


def test_a_study_of_an_ensemble_has_the_members_of_the_film_that_shows_most(ensemble, films):
    study = ensemble.predict_study(films[:3])
    for label in LABELS:
        film = films[study.findings.film_of[label]]
        expected = ensemble.predict(film)
        assert study.findings.members(label) == pytest.approx(expected.members(label), rel=1e-5)
        np.testing.assert_allclose(
            study.findings.heatmap(label), expected.heatmap(label), atol=1e-5
        )


def test_a_film_that_cannot_be_read_gives_its_error_in_its_place(ensemble, films, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    results = list(ensemble.stream([films[0], bad, films[1]], batch_size=2))
    assert [isinstance(r, cft.RadiographError) for r in results] == [False, True, False]
    with pytest.raises(cft.RadiographError):
        ensemble.predict([films[0], bad])


def test_the_batch_size_changes_nothing(ensemble, films):
    one, all_ = (ensemble.predict(films, batch_size=n) for n in (1, 16))
    for a, b in zip(one, all_, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, rel=1e-5)
    with pytest.raises(ValueError, match="at least 1"):
        list(ensemble.stream(films, batch_size=0))


def test_it_holds_whole_copies_of_its_members(written, ensemble, members):
    assert ensemble.name.startswith("ensemble of 2 ")
    for name, member in zip(("0-first", "1-second-one-x"), members, strict=True):
        copy = written / "members" / name
        assert not copy.is_symlink()
        assert cft.load(copy, device="cpu").weights_sha256 == member.weights_sha256


def test_another_weight_is_another_ensemble(folder, ensemble):
    edit(folder, lambda c: c["cft"]["members"][0].update(weight=2.0))
    assert cft.load(folder, device="cpu").weights_sha256 != ensemble.weights_sha256


def test_certainty_has_a_finite_logit():
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()
    assert combine(np.array([0.0, 1.0]), [1, 1], "logits") == pytest.approx(0.5)
