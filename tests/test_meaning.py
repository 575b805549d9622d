"""What a number means: order, sentence, figures of test films, predictive values, self-test."""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import cft
from cft import results
from cft.__main__ import main
from cft.film.radiograph import Radiograph
from cft.model.config import ModelConfig
from cft.model.findings import LATERAL
from cft.model.folder import WEIGHTS
from cft.model.predictive import predictive_values
from cft.model.selftest import EXAMPLE, SelfTest, self_test
from cft.model.sentence import first_sentence
from cft.page import loading, render, server
from cft.page.gate import Gate
from cft.page.picture import Picture
from cft.page.uploads import Refused
from tests.conftest import random_model_config

LABELS = ["Cardiomegaly", "Effusion", "Hernia"]


def rates(threshold: float, sensitivity: float, specificity: float) -> dict:
    row: dict = {"threshold": threshold}
    for name, value in (("sensitivity", sensitivity), ("specificity", specificity)):
        row |= {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.05}
    return row


def measured(config: dict) -> dict:
    """The same configuration with points, a band, counts, and two test sets."""
    config = copy.deepcopy(config)
    rows = config["cft"]["categories"]
    for label, thresholds in (("Cardiomegaly", (0.25, 0.1)), ("Effusion", (0.4, 0.2))):
        points = {
            name: {"name": name, "threshold": t, "sensitivity": 0.99, "specificity": 0.99}
            for name, t in zip(("specific", "sensitive"), thresholds, strict=True)
        }
        rows[label] = {
            "platt": None,
            "operating_point": points["specific"],
            "operating_points": points,
            "band": {
                "rule_out": 0.05,
                "rule_in": 0.6,
                "rule_out_error": 0.1,
                "rule_in_error": 0.1,
            },
            "training": {"positives": 20, "negatives": 60, "unknown": 20},
        }
    test = {
        "categories": {
            label: {"auroc": 0.7, "ci_low": 0.6, "ci_high": 0.8, "positives": 40, "negatives": 60}
            for label in LABELS
        },
        "points": {
            "specific": {
                "categories": {
                    "Cardiomegaly": rates(0.25, 0.5, 0.8),
                    "Effusion": rates(0.41, 0.5, 0.8),  # of another threshold than the folder's
                }
            },
            "sensitive": {"categories": {"Cardiomegaly": rates(0.1000004, 0.9, 0.3)}},
        },
        "films": 100,
        "level": 0.95,
    }
    other = copy.deepcopy(test)
    del other["points"]
    config["cft"]["metrics"] = {"nih-experts": other, "nih": test}
    return config


@pytest.fixture(scope="module")
def facts() -> ModelConfig:
    return ModelConfig.read(measured(random_model_config()), "config.json")


def findings(facts: ModelConfig, *probabilities: float, **changes) -> cft.Findings:
    chances = dict(zip(LABELS, probabilities, strict=True))
    from cft.model.category import thresholds

    return cft.Findings(
        **{
            "scores": chances,
            "probabilities": chances,
            "view": None,
            "notes": (),
            "shape": (8, 8),
            "_categories": facts.categories,
            "_region": (0.0, 0.0, 8.0, 8.0),
            "_maps": None,
            **thresholds(facts.categories, None),
            **changes,
        }
    )


# --- Predictive values ----------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [(1.1, 0.5, 0.5), (0.5, -0.1, 0.5), (0.5, 0.5, np.nan)])
def test_a_share_that_is_none_is_refused(shares):
    with pytest.raises(ValueError, match="between 0 and 1"):
        predictive_values(*shares)


def test_predictive_values_are_those_of_counted_patients():
    generator = np.random.default_rng(0)
    for true, missed, false, quiet in generator.integers(1, 50, (20, 4)):
        patients = true + missed + false + quiet
        ppv, npv = predictive_values(
            true / (true + missed), quiet / (quiet + false), (true + missed) / patients
        )
        assert ppv == pytest.approx(true / (true + false))
        assert npv == pytest.approx(quiet / (quiet + missed))


def test_where_no_film_is_above_or_below_there_is_no_value():
    assert predictive_values(0, 1, 0.5) == (None, 0.5)
    assert predictive_values(1, 0, 0.5) == (0.5, None)


def test_findings_give_them_at_the_training_share_or_another(facts):
    found = findings(facts, 0.3, 0.3, 0.3)
    values = found.predictive_values("Cardiomegaly")
    assert values.prevalence == 0.2  # 20 of 100, those of unknown label among them
    assert values.ppv == pytest.approx(0.5 * 0.2 / (0.5 * 0.2 + 0.2 * 0.8))
    assert values.npv == pytest.approx(0.8 * 0.8 / (0.8 * 0.8 + 0.5 * 0.2))
    assert values.ppv_low < values.ppv < values.ppv_high
    assert values.npv_low < values.npv < values.npv_high
    rare = found.predictive_values("Cardiomegaly", 0.01)
    assert rare.ppv < values.ppv
    assert rare.npv > values.npv
    assert found.predictive_values("Effusion") is None  # not measured at its threshold
    with pytest.raises(ValueError, match="how frequent Hernia is"):
        found.predictive_values("Hernia")
    with pytest.raises(ValueError, match="a prevalence must be"):
        found.predictive_values("Cardiomegaly", 7)
    with pytest.raises(KeyError):
        found.predictive_values("Fracture")


# --- Figures of test films ------------------------------------------------------------------------


def test_figures_are_of_test_films_and_of_the_point_in_use(facts):
    found = findings(facts, 0.3, 0.3, 0.3)
    row = {r["label"]: r["test"] for r in found.to_dict()["findings"]}["Cardiomegaly"]
    assert (row["test_set"], row["positives"], row["negatives"]) == ("nih", 40, 60)
    assert (row["sensitivity"], row["specificity"], row["auroc"]) == (0.5, 0.8, 0.7)
    assert (row["sensitivity_low"], row["sensitivity_high"]) == (0.4, 0.55)
    assert found.at("sensitive").tested("Cardiomegaly").sensitivity.value == 0.9
    for unlike in ("Effusion", "Hernia"):  # measured at another threshold; without a threshold
        tested = found.tested(unlike)
        assert tested.sensitivity is None
        assert tested.figures.auroc == 0.7


def test_an_older_folder_has_none_and_says_so(model_folder, films, capsys):
    classifier = cft.load(model_folder, "cpu")
    found = classifier.predict(films[0])
    assert all(row["test"] is None for row in found.to_dict()["findings"])
    assert all(row["ruled"] is None for row in found.to_dict()["findings"])
    assert "sensitivity" not in results.table("x", found)
    picture = Picture.of(Radiograph(np.zeros((8, 8), np.float32)), alone=True)
    html = render.films_html(classifier, [("x", found, picture)])
    assert "The model folder states no figures of test films." in html
    assert "of-tests" not in html
    assert "In a hundred such patients" not in html


# --- Order and sentence ---------------------------------------------------------------------------


def test_the_order_is_by_the_distance_in_logits_and_what_has_no_evidence_is_last(facts):
    found = findings(facts, 0.28, 0.41, 0.99)
    log_odds = lambda p: np.log(p / (1 - p))  # noqa: E731
    assert found.distances["Cardiomegaly"] == pytest.approx(log_odds(0.28) - log_odds(0.25))
    assert found.distances["Hernia"] is None
    # Effusion has the larger probability, Cardiomegaly the larger distance.
    assert found.order == ["Cardiomegaly", "Effusion", "Hernia"]
    assert found.positives == ["Cardiomegaly", "Effusion"]
    rows = found.to_dict()["findings"]
    assert [row["label"] for row in rows] == found.order
    assert [row["positive"] for row in rows] == [True, True, None]
    lines = results.table("x", found).splitlines()[3:]
    assert [line.split()[0] for line in lines] == found.order
    config = measured(random_model_config())
    config["cft"]["categories"]["Cardiomegaly"]["evidence"] = "none"
    unproven = findings(ModelConfig.read(config, "config.json"), 0.99, 0.41, 0.2)
    assert unproven.order == ["Effusion", "Hernia", "Cardiomegaly"]
    assert unproven.positives == ["Effusion"]
    row = unproven.to_dict()["findings"][-1]
    assert (row["positive"], row["ruled"]) == (None, None)


@pytest.mark.parametrize(
    ("chances", "sentence"),
    [
        ((0.01, 0.02, 0.5), "Nothing above the operating point"),
        ((0.7, 0.65, 0.0), "Above: Cardiomegaly, Effusion"),
        ((0.7, 0.3, 0.0), "Above: Cardiomegaly. Unsure: Effusion"),
        ((0.3, 0.02, 0.0), "Above: Cardiomegaly (unsure)"),
        ((0.2, 0.3, 0.0), "Nothing above the operating point. Unsure: Cardiomegaly, Effusion"),
    ],
)
def test_one_sentence_says_what_is_found(facts, chances, sentence):
    found = findings(facts, *chances)
    assert found.sentence == sentence
    assert found.to_dict()["sentence"] == sentence
    assert results.table("x", found).splitlines()[1] == f"{sentence}."
    (row,) = csv.DictReader(io.StringIO("".join(results.csv_rows(LABELS, [("x", found)]))))
    assert row["sentence"] == sentence
    assert row["above"] == "; ".join(found.positives)
    assert row["unsure"] == "; ".join(found.unsure)
    assert row["operating_point"] == "specific"


def test_a_long_list_of_what_is_unsure_is_cut_and_counted():
    unsure = [f"F_{i}" for i in range(7)]
    assert first_sentence([], unsure, decided=True).endswith(
        "Unsure: F 0, F 1, F 2, F 3 and 3 more"
    )


def test_what_is_not_answered_says_why(facts):
    lateral = findings(facts, 0.7, 0.7, 0.0, notes=(LATERAL,))
    assert lateral.sentence.startswith("Not answered: a lateral film")
    found = findings(facts, 0.7, 0.7, 0.0)
    gate = SimpleNamespace(verdict="refuse", reasons=("this looks like a hand.",))
    object.__setattr__(found, "gate", gate)
    assert found.sentence == "Not answered: this looks like a hand"
    gate.verdict = "warn"
    assert found.sentence == "Above: Cardiomegaly, Effusion"
    without = ModelConfig.read({**random_model_config(), "cft": {}}, "config.json")
    assert findings(without, 0.7, 0.7, 0.0).sentence.startswith("Nothing is decided")


# --- The page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tiny_model_folder, tmp_path_factory):
    target = shutil.copytree(tiny_model_folder, tmp_path_factory.mktemp("meaning") / "model")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(measured(config)))
    return target


def test_the_page_has_every_choice_of_points_in_table_words_and_downloads(folder, films):
    classifier = cft.load(folder, "cpu")
    found = classifier.predict(films[0])
    picture = Picture.of(Radiograph(np.zeros((8, 8), np.float32)), alone=True)
    html = render.films_html(classifier, [("x", found, picture)])
    assert html.count('.json" href=') == html.count('.csv" href=') == 2
    for place, name in enumerate(("specific", "sensitive")):
        assert f'<span class="at at-{place}">{found.at(name).sentence}</span>' in html
    assert html.count('class="maps by-finding"') == 1
    assert 'value="20"' in html  # of a hundred, the share of the training films
    assert 'data-sensitivity="0.500000 0.400000 0.550000"' in html
    assert 'data-sensitivity="0.900000 0.800000 0.950000"' in html
    values = found.predictive_values("Cardiomegaly")
    assert f'<output data-value="ppv">{100 * values.ppv:.0f} (' in html
    assert "100 test films (NIH ChestX-ray14)" in html
    assert "of 40 with the finding 50" in html
    sheet = render.style(classifier)
    assert ".at-1 { display: none" in sheet
    assert ".at-2" not in sheet


def test_the_api_takes_a_point_and_refuses_one_that_is_not_there(folder, films):
    classifier = cft.load(folder, "cpu")
    film = [("x", cft.read_radiograph(films[0]))]
    assert (
        server.predict(classifier, film, "sensitive")["films"][0]["operating_point"] == "sensitive"
    )
    assert server.predict(classifier, film)["films"][0]["operating_point"] == "specific"
    server.check_point(classifier, "")
    for wrong in ("mild", None, 7, ["specific"]):
        with pytest.raises(Refused, match="it has specific, sensitive"):
            server.check_point(classifier, wrong)


# --- The self-test --------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny_model_folder, tmp_path):
    return shutil.copytree(tiny_model_folder, tmp_path / "model")


def test_without_reference_figures_there_is_nothing_to_test(copied, capsys):
    assert main(["selftest", str(copied), "--device", "cpu"]) == 1
    assert "holds no reference figures" in capsys.readouterr().err
    assert main(["selftest", "/no/such/folder"]) == 2
    assert "/no/such/folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--write"], "needs the FOLDER"), (["--write", "x", "--device", "cuda"], "on the CPU")],
)
def test_figures_are_written_into_a_folder_on_the_cpu_only(words, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["selftest", *words])
    assert sentence in capsys.readouterr().err


def test_a_model_passes_until_its_calibration_or_another_thing_changes(copied, capsys):
    weights = (copied / WEIGHTS).read_bytes()
    assert main(["selftest", "--write", str(copied)]) == 0
    assert main(["selftest", str(copied), "--device", "cpu"]) == 0
    assert "all 3 figures are those of the model folder" in capsys.readouterr().out
    assert (copied / WEIGHTS).read_bytes() == weights
    stored = json.loads((copied / "config.json").read_text())
    found = cft.load(copied, "cpu").predict(EXAMPLE)
    assert stored["cft"]["reference"]["scores"] == pytest.approx(found.scores, abs=1e-4)

    def changed(change) -> int:
        config = copy.deepcopy(stored)
        change(config)
        (copied / "config.json").write_text(json.dumps(config))
        return main(["selftest", str(copied), "--device", "cpu"])

    def slope(config: dict) -> None:
        config["cft"]["categories"]["Cardiomegaly"]["platt"]["scale"] = 0.01

    def contrast(config: dict) -> None:
        config["pretrained_cfg"]["std"] = [0.5]

    def film(config: dict) -> None:
        config["cft"]["reference"]["film_sha256"] = "00"

    assert changed(slope) == 1
    assert "1 of 3 figures" in (error := capsys.readouterr().err)
    assert "Cardiomegaly has the score" in error
    assert changed(contrast) == 1
    assert "figures of the example film are not those" in capsys.readouterr().err
    assert changed(film) == 1
    assert "of another example film" in capsys.readouterr().err
    assert changed(lambda config: None) == 0


def test_the_page_says_that_its_model_failed(copied, capsys, monkeypatch):
    classifier = cft.load(copied, "cpu")
    assert self_test(classifier).passed is None
    assert loading.self_tested(classifier).passed is None
    assert capsys.readouterr().err == ""
    failed = SelfTest(False, "3 of 3 figures <b>differ</b>")
    monkeypatch.setattr(loading, "self_test", lambda model: failed)
    assert loading.self_tested(classifier) is failed
    assert "THE SELF-TEST FAILED: 3 of 3" in capsys.readouterr().err
    notice = render.self_test_notice(failed)
    assert 'role="alert"' in notice
    assert "&lt;b&gt;differ" in notice
    assert render.self_test_notice(SelfTest(None, "x")) == ""

    def broken(model):
        raise cft.RadiographError("the network's scores of this film are not finite")

    monkeypatch.setattr(loading, "self_test", broken)
    assert loading.self_tested(classifier).passed is False


@pytest.mark.parametrize(
    ("passed", "status", "word"),
    [(True, 200, "passed"), (False, 503, "failed"), (None, 200, "not possible")],
)
def test_health_knows_the_self_test(passed, status, word):
    import asyncio

    sent = []

    async def send(message) -> None:
        sent.append(message)

    uploads = SimpleNamespace(health=lambda: {"ok": True})
    line = SimpleNamespace(seconds=lambda: 0.0)
    gate = Gate(
        *(None, None, uploads, line, None, {}),
        queue_runs=lambda: True,
        has_answer=lambda asked: True,
        self_test_passed=passed,
    )
    asyncio.run(gate._health(send))
    assert sent[0]["status"] == status
    health = json.loads(sent[1]["body"])
    assert (health["self_test"], health["ok"]) == (word, passed is not False)
