"""Several films as one study, and what has changed since a prior one."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cft
from cft.__main__ import main
from cft.film.study import new_key, study_hash
from cft.model.folder import parse_config
from cft.study import group, named, seen_as_named
from tests.conftest import random_model_config
from tests.films import SECRET, dataset, dicom, phantom

UID = "1.2.840.113619.2.55.3.604688119.971.1448434233.1"


def of_study(uid: str | None, **elements) -> bytes:
    """A DICOM film with a Study Instance UID."""
    more = {} if uid is None else {"StudyInstanceUID": uid}
    return dicom(dataset(phantom(height=96, width=80), **more, **elements))


@pytest.fixture(scope="module")
def classifier(model_folder):
    return cft.load(model_folder, "cpu")


# ------------------------------------------------------------------------------ grouping


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("patient00001/study2/view1_frontal.jpg", ("patient00001", "study2", None)),
        ("train/patient64540/study1/view2_lateral.jpg", ("patient64540", "study1", "lateral")),
        (r"C:\data\patient00001\study2\view1_frontal.jpg", ("patient00001", "study2", None)),
        ("p10/p10000032/s50414267/02aa804e-bde0afdd.dcm", ("p10000032", "s50414267", None)),
        ("images/00000001_002.png", ("00000001", "002", None)),
        ("view1_frontal.jpg", None),
        ("a00000001_002.png", None),
        ("00000001_002", None),
        ("my lateral film.png", None),
    ],
)
def test_names_of_public_data_sets_say_patient_and_study(name, expected):
    found = named(name)
    assert (found and (found.patient, found.study, found.view)) == expected


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["12_pa.png", "12-lateral.dcm", "12 AP2.png"], [("12", (0, 1, 2))]),
        (["a/12_pa.png", "b/12_pa.png"], [("a/12", (0,)), ("b/12", (1,))]),
        (["pa.png", "japan.png", "12_pax.png"], [(f"Study {n + 1}", (n,)) for n in range(3)]),
    ],
)
def test_names_that_end_with_a_view_are_a_study(paths, expected):
    found = group([(path, b"") for path in paths], "name")
    assert [(each.name, each.films) for each in found] == expected


def test_films_of_one_dicom_study_are_found_whatever_their_names():
    films = [("a", of_study(UID)), ("b", of_study(UID + "2")), ("c", of_study(UID, Modality="DX"))]
    found = group(films)
    assert [each.films for each in found] == [(0, 2), (1,)]
    assert [each.name for each in found] == ["Study 1", "Study 2"]
    assert [each.patient for each in found] == [None, None]


def test_a_uid_counts_for_more_than_a_name_and_a_film_without_either_is_a_study():
    films = [
        ("00000001_000.png", of_study(UID)),
        ("00000001_000.png", b"no film"),
        ("00000001_001.png", of_study(UID)),
        ("one.png", b"no film"),
        ("two.png", b"no film"),
    ]
    found = group(films)
    assert [each.films for each in found] == [(0, 2), (1,), (3,), (4,)]
    assert found[1].name == "00000001 000"
    assert found[1].patient == "00000001"
    assert [each.films for each in group(films, "name")] == [(0, 1), (2,), (3,), (4,)]
    assert [each.films for each in group(films, "one")] == [(0, 1, 2, 3, 4)]


def test_films_are_grouped_by_folder_and_by_the_caller():
    films = [("x/1.png", b""), ("y/1.png", b""), ("x/2.png", b"")]
    assert [(e.name, e.films) for e in group(films, "folder")] == [("x", (0, 2)), ("y", (1,))]
    assert [(e.name, e.films) for e in group(films, ["b", "b", "a"])] == [
        ("b", (0, 1)),
        ("a", (2,)),
    ]


def test_what_cannot_be_grouped_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="1 names of studies for 2 films"):
        group([("a", b""), ("b", b"")], ["x"])
    with pytest.raises(ValueError, match="grouped by auto, one, dicom, name, folder, not by 'age'"):
        group([("a", b"")], "age")
    assert group([]) == []


def test_a_hash_tells_studies_apart_only_with_its_key_and_holds_nothing_of_the_uid():
    one, other = new_key(), new_key()
    first = study_hash(of_study(UID), one)
    assert first == study_hash(of_study(UID, SeriesDescription="x"), one)
    assert first != study_hash(of_study(UID), other)
    assert first != study_hash(of_study("1.2.3"), one)
    assert UID not in first
    assert SECRET not in first


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2"])
def test_a_hash_is_of_the_uid_in_every_byte_order(syntax):
    key = new_key()
    film = dataset(phantom(height=96, width=80), StudyInstanceUID=UID)
    assert study_hash(dicom(film, syntax), key) == study_hash(of_study(UID), key)


@pytest.mark.parametrize(
    "film",
    [b"", b"no film", of_study(None), of_study(UID)[:200], np.zeros((9, 9)), None, "/no/such/file"],
)
def test_what_has_no_uid_has_no_hash(film):
    assert study_hash(film, new_key()) is None


def test_the_reader_of_films_still_steps_over_the_uid():
    from cft.film.elements import Tag, read_header

    assert Tag.StudyInstanceUID not in read_header(of_study(UID))


# -------------------------------------------------------------------------------- studies


def test_of_each_finding_the_study_has_the_maximum_over_its_films(classifier, films):
    study = classifier.predict_study(films)
    alone = classifier.predict(films)
    assert study.left_out == {}
    for label in classifier.label_names:
        chances = [findings.probabilities[label] for findings in alone]
        assert study.findings.probabilities[label] == pytest.approx(max(chances), abs=1e-6)
        assert study.findings.film_of[label] == int(np.argmax(chances))
        expected = alone[int(np.argmax(chances))].heatmap(label, (20, 20))
        np.testing.assert_allclose(study.findings.heatmap(label, (20, 20)), expected, atol=1e-5)
    rows = study.to_dict()["findings"]
    assert [row["label"] for row in rows] == study.findings.order
    assert {row["file"] for row in rows} <= {str(path) for path in films}
    with pytest.raises(KeyError, match="no finding 'Gout'"):
        study.findings.heatmap("Gout")


def test_a_study_of_one_film_says_what_the_film_says(classifier, films):
    study, findings = classifier.predict_study([films[0]]), classifier.predict(films[0])
    assert study.findings.probabilities == findings.probabilities
    assert study.sentence == findings.sentence


def test_a_lateral_film_is_shown_and_not_scored(classifier):
    lateral = of_study(UID, ViewPosition="LL")
    study = classifier.predict_study([of_study(UID), lateral], ["front", "side"])
    assert study.to_dict()["scored"] == ["front"]
    (left,) = study.to_dict()["not_scored"]
    assert left["file"] == "side"
    assert "lateral" in left["reason"]
    assert isinstance(study.films[1][1], cft.Findings)
    alone = classifier.predict(of_study(UID))
    assert study.findings.probabilities == alone.probabilities


def test_a_model_that_was_trained_on_lateral_films_scores_them(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "both")
    config = json.loads((folder / "config.json").read_text())
    config["cft"]["provenance"]["views"] = {"lateral": 7}
    (folder / "config.json").write_text(json.dumps(config))
    films = [of_study(UID), of_study(UID, ViewPosition="LL")]
    assert cft.load(folder, "cpu").predict_study(films).left_out == {}


def test_a_name_can_say_that_a_film_is_lateral_and_the_file_knows_better(classifier, films):
    name = "patient00001/study1/view2_lateral.jpg"
    study = classifier.predict_study(films[:2], ["patient00001/study1/view1_frontal.jpg", name])
    assert list(study.left_out) == [1]
    assert seen_as_named(name, of_study(UID, ViewPosition="PA")).view == "PA"
    assert seen_as_named(name, b"no film") == b"no film"


def test_films_that_the_gate_refuses_or_that_cannot_be_read_are_not_scored(
    classifier, films, monkeypatch
):
    monkeypatch.setattr(classifier, "_is_gated", True)  # CFT_GATE is off in other tests
    plain = np.full((96, 96), 0.5)
    alone = classifier.predict(films[3])
    assert classifier.predict(plain).gate.verdict == "refuse"
    study = classifier.predict_study([plain, films[3], b"no film"])
    assert list(study.left_out) == [0, 2]
    assert study.left_out[0] == " ".join(classifier.predict(plain).gate.reasons)
    assert study.left_out[2].startswith("It could not be read: the file is not a picture")
    assert study.findings.probabilities == alone.probabilities
    assert list(classifier.predict_study([plain, films[3]], gate="warn").left_out) == []


def test_a_study_without_a_film_that_counts_says_so(classifier):
    study = classifier.predict_study([b"no film"])
    assert study.findings is None
    assert study.sentence == "Not answered: no film of the study can be scored"
    assert study.at(None).to_dict()["findings"] == []
    assert study.changes(study) == {}


def test_a_study_needs_films_with_names(classifier, films):
    for wrong, names in (([], None), (films[:1], ["a", "b"])):
        with pytest.raises(ValueError, match="a study needs films with a name each"):
            classifier.predict_study(wrong, names)


# -------------------------------------------------------------------------------- changes


@pytest.fixture(scope="module")
def measured(model_folder, tmp_path_factory):
    """A model that knows by how much two films of the same state differ, in two of its findings."""
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("models") / "measured")
    config = json.loads((folder / "config.json").read_text())
    rows = config["cft"]["categories"]
    rows["Cardiomegaly"]["repeatability"] = {
        "limit": 0.01, "level": 0.95, "low": 0.005, "high": 0.02, "pairs": 41, "patients": 20,
    }  # fmt: skip
    rows["Effusion"]["repeatability"] = {"limit": 90.0, "level": 0.95}
    rows["Hernia"] = {**(rows.get("Hernia") or {}), "evidence": "none"}
    rows["Hernia"]["repeatability"] = {"limit": 0.0, "level": 0.95}
    (folder / "config.json").write_text(json.dumps(config))
    return cft.load(folder, "cpu")


def test_exchanging_prior_and_current_changes_the_sign_and_nothing_else(measured, films):
    words = {"more": "less", "less": "more", "none": "none", None: None}
    for prior, current in pairwise(films):
        a, b = measured.predict(prior), measured.predict(current)
        forth, back = b.changes(a), a.changes(b)
        for label in measured.label_names:
            assert forth[label].difference == -back[label].difference  # to the last digit
            assert forth[label].verdict == words[back[label].verdict]
    assert all(change.difference == 0 for change in a.changes(a).values())


def test_a_change_is_the_difference_of_the_logits_of_the_probabilities(measured, films):
    a, b = measured.predict_study(films[:2]), measured.predict_study(films[2:])
    for label, change in b.changes(a).items():
        p, q = a.findings.probabilities[label], b.findings.probabilities[label]
        expected = np.log(q / (1 - q)) - np.log(p / (1 - p))
        assert change.difference == pytest.approx(expected, abs=1e-6)
        assert (change.prior, change.current) == (p, q)


def test_only_what_goes_beyond_films_of_the_same_state_is_called_a_change(measured, films):
    a, b = measured.predict(films[0]), measured.predict(films[3])
    found = b.changes(a)
    assert abs(found["Cardiomegaly"].difference) > 0.01  # so that there is something to call
    up = found["Cardiomegaly"].difference > 0
    assert found["Cardiomegaly"].verdict == ("more" if up else "less")
    assert found["Effusion"].verdict == "none"
    assert found["Hernia"].verdict is None  # no test shows that it means anything


def test_an_older_folder_gives_the_difference_and_no_verdict(classifier, films):
    a, b = classifier.predict(films[0]), classifier.predict(films[1])
    for change in b.changes(a).values():
        assert change.repeatability is None
        assert change.verdict is None
        assert np.isfinite(change.difference)


def test_findings_of_different_models_are_not_compared(classifier, measured, films):
    with pytest.raises(ValueError, match="different models"):
        classifier.predict(films[0]).changes(measured.predict(films[0]))


@pytest.mark.parametrize(
    ("stored", "phrase"),
    [
        ([], "must be an object"),
        ({"level": 0.95}, r"repeatability\.limit.* must be a number"),
        ({"limit": 1.0}, r"repeatability\.level.* must be a number"),
        ({"limit": -1.0, "level": 0.95}, "from 0 to 100"),
        ({"limit": 1.0, "level": 95}, "from 0 to 1"),
        ({"limit": 1.0, "level": 0.95, "pairs": 1.5}, "whole number"),
        ({"limit": 1.0, "level": 0.95, "low": "x"}, "must be a number"),
    ],
)
def test_a_repeatability_that_is_none_is_refused_in_a_sentence(stored, phrase):
    config = random_model_config()
    config["cft"]["categories"]["Effusion"]["repeatability"] = stored
    with pytest.raises(cft.ModelFolderError, match=phrase):
        parse_config(config, Path("somewhere"))


def test_films_as_pictures_are_grouped_and_scored(classifier, films):
    picture = Image.open(films[0])
    study = classifier.predict_study([picture, np.asarray(picture)])
    assert [name for name, _ in study.films] == ["film 1", "film 2"]
    assert study.left_out == {}


# --------------------------------------------------------------------------- command line


@pytest.fixture
def folder(films, tmp_path) -> Path:
    """A study of a frontal and a lateral film, one of one film, and one that cannot be read."""
    names = (
        "patient00001/study1/view1_frontal.png",
        "patient00001/study1/view2_lateral.png",
        "patient00001/study2/view1_frontal.png",
        "patient00002/study1/view1_frontal.png",
    )
    for name, film in zip(names, films, strict=False):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(film, tmp_path / name)
    (tmp_path / names[3]).write_bytes(b"no film")
    return tmp_path


def test_the_command_reads_a_folder_as_studies(folder, model_folder, classifier, capsys):
    words = ["--study", "auto", "--json", "--model", str(model_folder), "--device", "cpu"]
    assert main([str(folder), *words]) == 1  # a film cannot be read
    answer = json.loads(capsys.readouterr().out)
    names = [study["study"] for study in answer["studies"]]
    assert names == ["patient00001 study1", "patient00001 study2", "patient00002 study1"]
    first = answer["studies"][0]
    front = folder / "patient00001" / "study1" / "view1_frontal.png"
    assert first["scored"] == [str(front)]
    assert "lateral" in first["not_scored"][0]["reason"]
    chances = classifier.predict(front).probabilities
    assert {f["label"]: f["probability"] for f in first["findings"]} == pytest.approx(chances)
    assert answer["studies"][2]["findings"] == []


def test_a_lateral_film_beside_a_frontal_one_is_no_failure(folder, model_folder, capsys):
    words = ["--study", "auto", "--model", str(model_folder), "--device", "cpu"]
    assert main([str(folder / "patient00001" / "study1"), *words]) == 0
    out = capsys.readouterr().out
    assert "patient00001 study1: 2 films" in out
    assert "view2_lateral.png  not scored: It is a lateral film" in out


@pytest.mark.parametrize("other", [["--csv", "-"], ["--plain"]])
def test_studies_are_no_table_of_films(other, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["film.png", "--study", "auto", *other])
    assert stop.value.code == 2
    assert "--study gives a table or --json" in capsys.readouterr().err
