"""What programs ask of the page: its calls, its schema, the examples on it and in the README."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import cft
from cft.heatmap import overlay
from cft.page import server, study
from cft.page.about import api_html
from cft.page.uploads import Refused
from tests.conftest import ROOT
from tests.films import dataset, dicom, phantom

pytestmark = pytest.mark.slow

SCHEMA = json.loads((ROOT / "cft" / "page" / "schema.json").read_text(encoding="utf-8"))
ADDRESS = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def classifier(model_folder):
    return cft.load(model_folder, "cpu")


@pytest.fixture(scope="module")
def address(classifier):
    with server.serve(classifier) as address:
        yield address.rstrip("/")


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def picture(address: str) -> np.ndarray:
    head, _, data = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


# --------------------------------------------------------------------------------- calls


def test_a_single_film_is_accepted_where_a_list_is(client, films):
    alone = client.predict(handle_file(films[0]), api_name="/predict")
    assert alone == client.predict([handle_file(films[0])], api_name="/predict")
    assert [film["file"] for film in alone["films"]] == [films[0].name]


def test_the_heat_map_is_that_of_the_film(client, classifier, films):
    label = classifier.label_names[1]
    answer = client.predict(handle_file(films[0]), label, "off", api_name="/heatmap")
    findings, film = classifier.predict(films[0]), cft.read_radiograph(films[0])
    expected = overlay(film.pixels, findings.heatmap(label), findings.operating_points[label])
    assert np.abs(picture(answer).astype(int) - expected).max() <= 1


def test_a_heat_map_that_cannot_be_drawn_is_refused_in_a_sentence(client, films, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no film")
    label = "Effusion"
    for files, asked, sentence in (
        (films[0], "Gout", "has no finding of that name; it has"),
        (broken, label, "could not be read: the file is not a picture"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(handle_file(files), asked, "off", api_name="/heatmap")
    with pytest.raises(AppError, match="one film at a time"):
        client.predict([handle_file(films[0])] * 2, label, "off", api_name="/heatmap")
    with pytest.raises(AppError, match="gate is refuse, warn or off"):
        client.predict(handle_file(films[0]), label, "open", api_name="/heatmap")


def test_a_film_that_is_refused_has_no_heat_map_unless_it_is_asked_for(
    client, classifier, tmp_path, monkeypatch
):
    monkeypatch.setattr(classifier, "_is_gated", True)  # CFT_GATE is off in other tests
    slice_ = tmp_path / "slice.dcm"
    slice_.write_bytes(dicom(dataset(phantom(height=96, width=96), Modality="CT")))
    (verdict,) = client.predict(handle_file(slice_), api_name="/gate")
    assert (verdict["file"], verdict["verdict"]) == (slice_.name, "refuse")
    with pytest.raises(AppError, match=re.escape(verdict["reasons"][0])):
        client.predict(handle_file(slice_), "Effusion", api_name="/heatmap")
    assert picture(client.predict(handle_file(slice_), "Effusion", "off", api_name="/heatmap")).size


def lateral() -> bytes:
    """A lateral film."""
    return dicom(dataset(phantom(height=96, width=80), ViewPosition="LL", StudyInstanceUID="1.2"))


def test_a_study_is_what_python_says_it_is(client, classifier, films, tmp_path):
    side = tmp_path / "side.dcm"
    side.write_bytes(lateral())
    answer = client.predict(
        [handle_file(path) for path in (*films[:2], side)], api_name="/predict_study"
    )
    (study,) = answer["studies"]
    expected = classifier.predict_study(films[:2], [path.name for path in films[:2]])
    assert study["findings"] == json.loads(json.dumps(expected.to_dict()["findings"]))
    assert study["scored"] == [path.name for path in films[:2]]
    assert [left["file"] for left in study["not_scored"]] == [side.name]
    assert [film["file"] for film in study["films"]] == [*study["scored"], side.name]
    assert faults(answer, SCHEMA["$defs"]["studies"]) == []


def test_studies_are_grouped_by_dicom_by_name_and_by_the_caller(client, films, tmp_path):
    places = []
    for name, uid in (("a.dcm", "1.2"), ("b.dcm", "1.3"), ("c.dcm", "1.2")):
        places.append(tmp_path / name)
        film = dataset(phantom(height=96, width=80), StudyInstanceUID=uid)
        places[-1].write_bytes(dicom(film))
    for number in (0, 1):
        places.append(tmp_path / f"00000001_00{number}.png")
        shutil.copy(films[number], places[-1])
    files = [handle_file(path) for path in places]

    def names(study) -> list[tuple[str, list[str]]]:
        answer = client.predict(files, study, api_name="/predict_study")
        assert faults(answer, SCHEMA["$defs"]["studies"]) == []
        return [(s["study"], [film["file"] for film in s["films"]]) for s in answer["studies"]]

    assert names("auto") == [
        ("Study 1", ["a.dcm", "c.dcm"]),
        ("Study 2", ["b.dcm"]),
        ("00000001 000", ["00000001_000.png"]),
        ("00000001 001", ["00000001_001.png"]),
    ]
    assert [name for name, _ in names(["x", "y", "x", "y", "x"])] == ["x", "y"]
    assert len(names("one")) == 1


def test_studies_that_cannot_be_are_refused_in_a_sentence(client, films):
    film = handle_file(films[0])
    for asked, sentence in (
        ("age", "Films are grouped by one, auto, dicom, name, or by a list"),
        (["a", "b"], "2 names of studies for 1 films"),
        ([1], "or by a list that names each film's study"),
        ({"path": "a"}, "or by a list that names each film's study"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(film, asked, api_name="/predict_study")
    with pytest.raises(AppError, match="no operating points of that name"):
        client.predict(film, "one", "gentle", api_name="/predict_study")
    with pytest.raises(AppError, match="needs a prior film and a current one"):
        client.predict([], film, api_name="/compare")
    with pytest.raises(AppError, match="There is no film"):
        client.predict([], api_name="/predict_study")


def test_a_name_of_a_study_that_no_answer_can_hold_is_refused(classifier, films):
    with pytest.raises(Refused, match="names each film's study"):
        study.predict_study(classifier, [("a.png", films[0])], ["\ud800"])


def test_a_comparison_is_what_python_says_it_is(client, classifier, films):
    prior, current = (handle_file(path) for path in films[:2])
    answer = client.predict(prior, current, api_name="/compare")
    before, after = (classifier.predict_study([path]) for path in films[:2])
    expected = {label: change.to_dict() for label, change in after.changes(before).items()}
    assert {change["label"]: change for change in answer["changes"]} == expected
    sizes = [abs(change["difference"]) for change in answer["changes"]]
    assert sizes == sorted(sizes, reverse=True)
    assert answer["prior"]["scored"] == [films[0].name]
    assert faults(answer, SCHEMA["$defs"]["comparison"]) == []
    back = client.predict(current, prior, api_name="/compare")
    for one, other in zip(answer["changes"], back["changes"], strict=True):
        assert one["difference"] == -other["difference"]


def test_the_gate_answers_for_each_film(client, classifier, films, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no film")
    answer = client.predict([handle_file(films[0]), handle_file(broken)], api_name="/gate")
    assert answer[0] == {"file": films[0].name, **classifier.predict(films[0]).gate.to_dict()}
    assert set(answer[1]) == {"file", "error"}


def test_the_models_are_described(client, classifier):
    (model,) = client.predict(api_name="/models")
    assert model["weights_sha256"] == classifier.weights_sha256
    assert [finding["label"] for finding in model["findings"]] == list(classifier.label_names)


# -------------------------------------------------------------------------------- schema


def faults(value: Any, schema: dict[str, Any], at: str = "") -> list[str]:
    """Where a value is not what a schema says; of JSON Schema what ours uses."""
    if "$ref" in schema:
        return faults(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], at)
    if "anyOf" in schema:
        tried = [faults(value, one, at) for one in schema["anyOf"]]
        return [] if [] in tried else min(tried, key=len)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{at}: {value!r}"]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(IS[kind](value) for kind in kinds):
        return [f"{at}: {value!r} is not {kinds}"]
    found = []
    if isinstance(value, dict):
        found += [f"{at}: no {key}" for key in schema.get("required", ()) if key not in value]
        others = schema.get("additionalProperties", {})
        for key, inside in value.items():
            rule = schema.get("properties", {}).get(key, others)
            found += (
                [f"{at}.{key} too many"] if rule is False else faults(inside, rule, f"{at}.{key}")
            )
    elif isinstance(value, list):
        for i, inside in enumerate(value):
            found += faults(inside, schema["items"], f"{at}[{i}]")
    elif IS["number"](value):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        found += [] if low <= value <= high else [f"{at}: {value}"]
    return found


IS = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
}


@pytest.mark.parametrize("gate", ["refuse", "off"])
def test_answers_are_as_the_schema_says(client, films, tmp_path, gate):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no film")
    files = [handle_file(path) for path in (films[0], broken, films[1])]
    answer = client.predict(files, "", gate, api_name="/predict")
    assert faults(answer, SCHEMA) == []


def test_the_answer_of_the_bundled_model_with_all_its_figures_is_as_the_schema_says():
    document = server.predict(cft.load(device="cpu"), [server.example_film()], None, "off")
    document = json.loads(json.dumps(document))
    assert document["films"][0]["findings"][0]["test"]
    assert faults(document, SCHEMA) == []


def test_the_schema_refuses_what_is_not_an_answer():
    document = server.predict(cft.load(device="cpu"), [server.example_film()], None, "off")
    for change in (
        lambda d: d.pop("disclaimer"),
        lambda d: d["films"][0].update(patient="Doe"),
        lambda d: d["films"][0]["findings"][0].update(probability=1.5),
        lambda d: d["films"][0]["gate"].update(verdict="maybe"),
    ):
        other = json.loads(json.dumps(document))
        change(other)
        assert faults(other, SCHEMA)


def test_the_schema_is_valid():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


# ------------------------------------------------------------------------------ examples


def snippets() -> dict[str, str]:
    """Those on the page."""
    shown = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", api_html(20), re.DOTALL)
    kinds = ("python", "sh", "js", "study python", "study sh", "study js")
    return dict(zip(kinds, map(html.unescape, shown), strict=True))


def run(kind: str, code: str, folder: Path) -> str:
    """What a snippet prints; it is skipped where its program is missing."""
    programs = {"python": [sys.executable], "sh": ["bash", "-eu"], "js": ["node"]}
    program = programs[kind]
    if shutil.which(program[0]) is None or (kind == "sh" and shutil.which("curl") is None):
        pytest.skip(f"no {'curl' if kind == 'sh' else program[0]} here")
    file = folder / {"python": "a.py", "sh": "a.sh", "js": "a.mjs"}[kind]
    file.write_text(code)
    done = subprocess.run(
        [*program, str(file)], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["python", "sh", "js"])
def test_the_examples_on_the_page_run(kind, address, classifier, films, tmp_path):
    code = snippets()[kind]
    assert code.count(ADDRESS) == 1
    shutil.copy(films[0], tmp_path / "film.png")
    printed = run(kind, code.replace(ADDRESS, address), tmp_path)
    sentence = classifier.predict(films[0]).sentence
    if kind == "sh":
        (document,) = json.loads(printed)
        assert document["films"][0]["sentence"] == sentence
    else:
        assert sentence in printed
    if kind == "python":
        assert Image.open(tmp_path / "heatmap.png").mode == "RGB"


@pytest.mark.parametrize("kind", ["python", "sh", "js"])
def test_the_examples_of_studies_run(kind, address, classifier, films, tmp_path):
    code = snippets()[f"study {kind}"]
    assert code.count(ADDRESS) == 1
    shutil.copy(films[0], tmp_path / "film.png")
    shutil.copy(films[1], tmp_path / "prior.png")
    (tmp_path / "lateral.dcm").write_bytes(lateral())
    printed = run(kind, code.replace(ADDRESS, address), tmp_path)
    sentence = classifier.predict_study([films[0]]).sentence
    if kind == "sh":
        (document,) = json.loads(printed)
        (study,) = document["studies"]
        assert (study["sentence"], study["scored"]) == (sentence, ["film.png"])
    else:
        assert sentence in printed
    if kind == "python":
        assert all(f"\n{label} " in printed for label in classifier.label_names)


def test_readme_and_documentation_show_the_same_examples():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### Over the page's API")[2].partition("\n## ")[0]
    document = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for text, least in ((section, 1), (document, 4)):
        blocks = re.findall(r"```\w+\n(.*?)```", text, re.DOTALL)
        assert len(blocks) >= least
        assert set(blocks) <= set(snippets().values())


def test_gradios_own_page_of_the_api_which_shows_other_examples_is_gone(address):
    config = httpx.get(f"{address}/config").json()
    assert config["footer_links"] == []
