"""Three operating points and a finding without evidence, wherever numbers are shown."""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil

import pytest

import cft
from cft import results
from cft.__main__ import main
from cft.model.ensemble import write_ensemble
from cft.page import render
from cft.page.about import about_html
from cft.page.picture import Picture
from tests.conftest import random_model_config

POINTS = {"specific": 0.9, "balanced": 0.4, "sensitive": 0.0}


def with_points(config: dict) -> dict:
    """The same configuration with three points for each finding but Hernia, and no evidence."""
    config = copy.deepcopy(config)
    for label in ("Cardiomegaly", "Effusion"):
        points = {
            name: {"name": name, "threshold": threshold, "sensitivity": 0.5, "specificity": 0.5}
            for name, threshold in POINTS.items()
        }
        row = config["cft"]["categories"][label]
        row.update(operating_point=points["specific"], operating_points=points)
    config["cft"]["categories"]["Effusion"]["evidence"] = "none"
    return config


@pytest.fixture(scope="module")
def folder(tiny_model_folder, tmp_path_factory):
    target = shutil.copytree(tiny_model_folder, tmp_path_factory.mktemp("points") / "model")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(with_points(config)))
    return target


@pytest.fixture(scope="module")
def classifier(folder):
    return cft.load(folder, "cpu")


def test_the_folders_own_point_is_in_use_until_another_is_asked_for(classifier, films):
    findings = classifier.predict(films[0])
    assert findings.point == "specific"
    for name, threshold in POINTS.items():
        at = findings.at(name)
        assert at.point == name
        expected = {"Cardiomegaly": threshold, "Effusion": threshold, "Hernia": None}
        assert at.operating_points == expected
        above = findings.probabilities["Cardiomegaly"] >= threshold
        assert at.positives == ["Cardiomegaly"] * above  # and never Effusion, without evidence
        assert at.probabilities == findings.probabilities
        assert at.to_dict()["operating_point"] == name
    assert findings.at("sensitive").at(None).point == "specific"


def test_a_point_that_the_model_has_not_is_refused_by_name(classifier, tiny_model_folder, films):
    with pytest.raises(ValueError, match=r"'mild'; it has specific, balanced, sensitive"):
        classifier.predict(films[0]).at("mild")
    old = cft.load(tiny_model_folder, "cpu").predict(films[0])
    assert old.point is None
    assert old.at(None).operating_points == old.operating_points
    with pytest.raises(ValueError, match="it has one of each finding"):
        old.at("specific")


def test_json_names_all_points_and_what_has_no_evidence(classifier, films):
    findings = classifier.predict(films[0])
    assert findings.evidence == {"Cardiomegaly": None, "Effusion": "none", "Hernia": None}
    rows = {row["label"]: row for row in findings.to_dict()["findings"]}
    assert rows["Effusion"]["operating_points"] == POINTS
    assert rows["Hernia"]["operating_points"] == {}
    assert {label: row["evidence"] for label, row in rows.items()} == findings.evidence


def test_every_table_marks_what_has_no_evidence(classifier, films):
    findings = classifier.predict(films[0])
    for text in (results.table("x", findings), results.plain(findings)):
        marked = [line for line in text.splitlines() if results.NO_EVIDENCE in line]
        assert len(marked) == 1
        assert "Effusion" in marked[0]
    failed = cft.RadiographError("why")
    lines = results.csv_rows(classifier.label_names, [("a", findings), ("b", failed)])
    rows = list(csv.DictReader(io.StringIO("".join(lines))))
    assert [row["no_evidence"] for row in rows] == ["Effusion", ""]
    assert rows[1]["error"] == "why"


def test_the_page_marks_it_and_names_the_points(classifier, films):
    film = cft.read_radiograph(films[0])
    picture = Picture.of(film, alone=True)
    html = render.films_html(classifier, [("x", classifier.predict(film), picture)])
    assert html.count('class="unproven"') == 1
    assert all(f'value="{i}"' in html for i in range(3))
    for threshold in ("90.0", "40.0", "0.0"):
        assert f"{threshold}\N{NARROW NO-BREAK SPACE}%" in html
    about = about_html(classifier)
    assert "specific, balanced, sensitive" in about
    assert "Effusion. On no test set did the model" in about


def test_a_model_with_one_point_shows_nothing_of_all_that(tiny_model_folder, films):
    classifier = cft.load(tiny_model_folder, "cpu")
    film = cft.read_radiograph(films[0])
    picture = Picture.of(film, alone=True)
    html = render.films_html(classifier, [("x", classifier.predict(film), picture)])
    html += about_html(classifier)
    assert not any(
        phrase in html for phrase in ("unproven", 'class="points"', "Choice", "No evidence")
    )


def test_the_command_takes_a_point_and_refuses_one_that_is_not_there(folder, films, capsys):
    words = [str(films[0]), "--model", str(folder), "--device", "cpu", "--json"]
    for name in (None, *POINTS):
        chosen = ["--point", name] if name else []
        assert main([*words, *chosen]) == 0
        film = json.loads(capsys.readouterr().out)["films"][0]
        assert film["operating_point"] == name or (name is None and "specific")
        row = next(row for row in film["findings"] if row["label"] == "Effusion")
        assert row["operating_point"] == POINTS[name or "specific"]
    assert main([*words, "--operating-point", "mild"]) == 2  # the older name of the option
    assert "it has specific, balanced, sensitive" in capsys.readouterr().err
    assert main([*words[:-1]]) == 0
    assert results.ABOUT_EVIDENCE in capsys.readouterr().out


def test_an_ensemble_has_points_of_its_own(folder, films, tmp_path):
    config = with_points(random_model_config())
    config["architecture"] = "ensemble"
    written = write_ensemble(
        tmp_path / "ensemble", [("one", folder, 1.0)], average="logits", config=config, card=""
    )
    findings = cft.load(written, "cpu").predict(films[0])
    assert (findings.point, findings.at("balanced").point) == ("specific", "balanced")
    assert findings.evidence["Effusion"] == "none"
    assert findings.at("balanced").heatmap("Effusion").shape == (64, 64)
