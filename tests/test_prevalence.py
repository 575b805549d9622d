"""`cft --prevalence`: predictive values among patients of whom a stated share has a finding."""

import csv
import io
import json
import shutil
from argparse import ArgumentTypeError

import pytest

import cft
from cft import __main__ as command
from cft.commands.prevalence import prevalences
from tests.conftest import random_model_config
from tests.test_meaning import facts, findings, measured  # noqa: F401  # a fixture among them


@pytest.fixture(scope="module")
def folder(tiny_model_folder, tmp_path_factory):
    """A model folder whose first finding was measured on test films."""
    path = tmp_path_factory.mktemp("measured") / "model"
    shutil.copytree(tiny_model_folder, path)
    config = json.loads((path / "config.json").read_text())
    metrics = measured(random_model_config())["cft"]["metrics"]["nih"]
    first, second = config["label_names"][:2]
    for name, threshold in (("specific", 0.3), ("sensitive", 0.1)):
        for label in (first, second):
            row = config["cft"]["categories"].setdefault(label, {})
            point = {"name": name, "threshold": threshold, "sensitivity": 0.9, "specificity": 0.9}
            row.setdefault("operating_points", {})[name] = point
            row["operating_point"] = row["operating_points"]["specific"]
    rates = {"threshold": 0.3, "sensitivity": 0.5, "specificity": 0.8}
    for name, value in (("sensitivity", 0.5), ("specificity", 0.8)):
        rates |= {f"{name}_low": value - 0.1, f"{name}_high": value + 0.05}
    metrics["categories"] = {
        first: {"auroc": 0.7, "ci_low": 0.6, "ci_high": 0.8, "positives": 40, "negatives": 60}
    }
    metrics["points"] = {"specific": {"categories": {first: rates}}}
    config["cft"]["metrics"] = {"nih": metrics}
    (path / "config.json").write_text(json.dumps(config))
    return path


def run(capsys, *words: object) -> tuple[int, str, str]:
    status = command.main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Effusion", "'Effusion' is not of the form NAME=N%"),
        ("", "is not of the form"),
        ("Effusion=20", "has no percent sign: Effusion=20% is twenty in a hundred"),
        ("Effusion=0.2", "has no percent sign"),
        ("Effusion=120%", "120% of Effusion is not between 0% and 100%"),
        ("Effusion=-1%", "is not between"),
        ("Effusion=many%", "many% of Effusion is not between"),
        ("Effusion=nan%", "is not between"),
        ("Effusion=1%,Effusion=2%", "Effusion is named twice"),
    ],
)
def test_what_could_be_meant_otherwise_is_refused(text, sentence):
    with pytest.raises(ArgumentTypeError, match=sentence):
        prevalences(text)


def test_wrong_usage_is_exit_status_2(capsys, folder, films):
    for words, sentence in (
        (["--prevalence", "Effusion=20"], "has no percent sign"),
        (["--prevalence", "Effusion=20%", "--plain"], "--prevalence gives a table"),
    ):
        with pytest.raises(SystemExit) as ended:
            command.main([str(films[0]), "--model", str(folder), *words])
        assert ended.value.code == 2
        assert sentence in capsys.readouterr().err
    status, out, err = run(capsys, films[0], "--model", folder, "--prevalence", "Fracture=20%")
    assert (status, out) == (2, "")
    assert err.startswith("cft: --prevalence Fracture: the model has no such finding; it has ")


def test_python_refuses_the_same(facts):  # noqa: F811
    found = findings(facts, 0.3, 0.3, 0.3)
    with pytest.raises(ValueError, match="no finding 'Fracture'; the model has Cardiomegaly"):
        found.among({"Fracture": 0.2})
    with pytest.raises(ValueError, match="a prevalence of Hernia must be between 0 and 1, not 20"):
        found.among({"Hernia": 20})


# --- What is said ---------------------------------------------------------------------------------


def test_percent_are_shares():
    assert prevalences("Effusion=20%, Pleural_Thickening = 0.5%") == {
        "Effusion": 0.2,
        "Pleural_Thickening": 0.005,
    }


def test_a_stated_prevalence_takes_the_place_of_the_training_films(facts):  # noqa: F811
    found = findings(facts, 0.3, 0.3, 0.3)
    stated = found.among({"Hernia": 0.1}).among({"Cardiomegaly": 0.01})
    assert stated.prevalences == {"Hernia": 0.1, "Cardiomegaly": 0.01}
    values = stated.predictive_values("Cardiomegaly")
    assert values == found.predictive_values("Cardiomegaly", 0.01)
    assert values.ppv == pytest.approx(0.5 * 0.01 / (0.5 * 0.01 + 0.2 * 0.99))
    assert stated.predictive_values("Cardiomegaly", 0.3).prevalence == 0.3
    assert stated.predictive_values("Hernia") is None  # no test films, but no error any more
    rows = {row["label"]: row for row in stated.at(None).to_dict()["findings"]}
    assert rows["Cardiomegaly"]["predictive_values"]["prevalence"] == 0.01
    assert found.predictive_values("Cardiomegaly").prevalence == 0.2  # as it was


def test_table_json_and_csv_have_the_predictive_values(capsys, folder, films):
    first, second = cft.load(folder, "cpu").label_names[:2]
    words = (films[0], "--model", folder, "--prevalence", f"{first}=20%,{second}=5%")
    ppv = 0.5 * 0.2 / (0.5 * 0.2 + 0.2 * 0.8)
    npv = 0.8 * 0.8 / (0.8 * 0.8 + 0.5 * 0.2)

    status, out, _ = run(capsys, *words)
    assert status == 0
    line = next(line for line in out.splitlines() if line.startswith(f"  {first} where"))
    assert f"where 20 of 100 have it: of 100 films above the point {100 * ppv:.1f} (" in line
    assert f"of 100 below {100 * npv:.1f} (" in line
    assert f"{second} where 5 of 100 have it: unknown, no test films" in out

    status, out, _ = run(capsys, *words, "--json")
    rows = {row["label"]: row for row in json.loads(out)["films"][0]["findings"]}
    assert rows[first]["predictive_values"]["prevalence"] == 0.2
    assert rows[first]["predictive_values"]["ppv"] == pytest.approx(ppv)
    assert rows[second]["predictive_values"] is None

    status, out, _ = run(capsys, *words, "--csv", "-")
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["prevalence"] == f"{first} 0.2; {second} 0.05"
    assert row["ppv"] == f"{first} {ppv:.6g}"
    assert row["npv"] == f"{first} {npv:.6g}"


def test_without_the_option_nothing_changes(capsys, folder, films):
    _, out, _ = run(capsys, films[0], "--model", folder, "--csv", "-")
    assert not {"prevalence", "ppv", "npv"} & set(next(csv.reader(io.StringIO(out))))
    _, out, _ = run(capsys, films[0], "--model", folder)
    assert "of 100" not in out


def test_a_study_has_them_too(capsys, folder, films):
    first = cft.load(folder, "cpu").label_names[0]
    _, out, _ = run(
        capsys, films[0], "--model", folder, "--prevalence", f"{first}=20%",
        "--study", "one", "--json",
    )  # fmt: skip
    rows = {row["label"]: row for row in json.loads(out)["studies"][0]["findings"]}
    assert rows[first]["predictive_values"]["prevalence"] == 0.2


def test_a_table_begun_with_other_prevalences_is_not_gone_on_with(capsys, folder, films, tmp_path):
    first = cft.load(folder, "cpu").label_names[0]
    words = (films[0], "--model", folder, "--csv", tmp_path / "rows.csv", "--resume")
    assert run(capsys, *words, "--prevalence", f"{first}=20%")[0] == 0
    before = (tmp_path / "rows.csv").read_text()
    status, _, err = run(capsys, *words, "--prevalence", f"{first}=10%")
    assert status == 2
    assert f"has the prevalences {first} 0.2, not {first} 0.1" in err
    assert run(capsys, *words)[0] == 2  # other columns
    assert run(capsys, *words, "--prevalence", f"{first}=20%")[0] == 0
    assert (tmp_path / "rows.csv").read_text() == before
