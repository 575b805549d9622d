"""Where heat maps point to, beside a fixed point: in a model folder, and as the page says it."""

from __future__ import annotations

import copy

import pytest

import cft
from cft.errors import ModelFolderError
from cft.model.config import ModelConfig
from cft.model.selftest import EXAMPLE
from cft.page import server
from cft.page.table import pointing_sentence
from tests.conftest import random_model_config
from tests.test_meaning import measured

OF_ONE = {"n": 4, "patients": 4, "hit": 0.75, "floor_hit": 1.0}
OF_ALL = {"n": 25, "patients": 21, "hit": 0.2, "floor_hit": 0.52}


def facts(**entries) -> ModelConfig:
    """Of a folder whose test films have boxes: of Cardiomegaly, and of all categories."""
    config = copy.deepcopy(measured(random_model_config()))
    test = config["cft"]["metrics"]["nih"]
    for label, entry in entries.items():
        (test if label == "every" else test["categories"][label])["localisation"] = entry
    return ModelConfig.read(config, "config.json")


@pytest.mark.parametrize("broken", [{"hit": 1.5}, {"hit": "most"}, {"n": -1}, {"n": 2.5}])
def test_a_share_or_a_number_that_cannot_be_is_refused(broken):
    with pytest.raises(ModelFolderError, match="localisation"):
        facts(every={**OF_ALL, **broken})


@pytest.mark.parametrize("missing", ["n", "hit", "floor_hit"])
def test_an_entry_without_its_floor_or_its_films_says_nothing(missing):
    entry = {key: value for key, value in OF_ALL.items() if key != missing}
    assert "has not been measured" in pointing_sentence(facts(every=entry).test_sets, "Effusion")


def test_a_folder_without_boxes_says_that_it_is_not_known():
    assert pointing_sentence(facts().test_sets, "Effusion") == (
        "Whether the map points to what a radiologist would frame has not been measured."
    )


def test_a_finding_with_boxes_has_its_films_and_those_of_all_findings():
    found = facts(Cardiomegaly=OF_ONE, every=OF_ALL)
    assert pointing_sentence(found.test_sets, "Cardiomegaly") == (
        "Of 4 test films on which radiologists framed this finding, the map is strongest inside "
        "the frame on 3, and a point that never moves lies inside on 4; of all 25 framed findings "
        "on 5 and 13."
    )


def test_a_finding_without_boxes_has_those_of_all_findings():
    found = facts(Cardiomegaly=OF_ONE, Effusion=None, every=OF_ALL)
    for label in ("Effusion", "Hernia"):
        assert pointing_sentence(found.test_sets, label) == (
            "Radiologists framed this finding on no test film. Of 25 findings that they framed, "
            "the map is strongest inside the frame on 5, and a point that never moves lies inside "
            "on 13."
        )


def test_it_stands_beside_the_heat_map(tiny_model_folder):
    classifier = cft.load(tiny_model_folder, "cpu")
    found = facts(Cardiomegaly=OF_ONE, every=OF_ALL)
    classifier.facts, classifier.categories = found, found.categories
    html = server.show(classifier, [("film.png", EXAMPLE)])
    beside = html.split('<div class="pointing by-finding">')[1].split("</figcaption>")[0]
    said = [line for line in beside.splitlines() if line.startswith("<p>")]
    labels = classifier.predict(EXAMPLE).order  # the rule that shows one goes by its place
    for label, line in zip(labels, said, strict=False):
        assert line == f"<p>{pointing_sentence(found.test_sets, label)}</p>"
