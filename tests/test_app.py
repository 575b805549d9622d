"""The page's handlers as plain functions, its HTML, and the served page through gradio_client."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from jinja2 import UndefinedError
from PIL import Image

import cft
from cft.model.config import ModelConfig
from cft.model.folder import write_model_folder
from cft.page import render, server, start
from cft.page.about import about_html
from cft.page.template import fill
from cft.page.uploads import MAX_FILMS, Refused, Uploads, sweep, uploaded_films
from tests import pages
from tests.conftest import ROOT, random_model_config

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)>'\"&${alert(2)}{{value}}\u202egnp.png"


@pytest.fixture(scope="module")
def classifier(model_folder):
    return cft.load(model_folder, "cpu")


@pytest.fixture(scope="module")
def served(classifier, tmp_path_factory):
    """The page, served: its address, and the folder that holds what Gradio writes."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        with server.serve(classifier) as address:
            yield SimpleNamespace(address=address, folder=folder)
    assert not list(folder.iterdir())  # closed, it leaves nothing


@pytest.fixture(scope="module")
def client(served):
    return Client(served.address, verbose=False)


def files_in(folder: Path) -> list[Path]:
    walk = os.walk(folder)  # unlike rglob, it outlives a folder that vanishes meanwhile
    return [Path(place, name) for place, _, names in walk for name in names]


def upload(path: Path, folder: Path) -> dict:
    """What Gradio hands to a handler for an upload."""
    place = folder / path.name.encode().hex()
    place.mkdir(parents=True, exist_ok=True)
    copy = place / path.name
    copy.write_bytes(path.read_bytes())
    return {"path": str(copy), "orig_name": path.name}


def waiting(uploads: Uploads, path: Path, visitor: str = "a") -> dict:
    """The same for one that has arrived and waits to be read."""
    with uploads.arriving(visitor) as transfer:
        file = upload(path, transfer.place)
        transfer.complete([Path(file["path"])])
    return file


class Elements(HTMLParser):
    """The elements of some HTML with their attributes, and the text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def content(address: str) -> bytes:
    """What a ``data:`` address holds."""
    return base64.b64decode(address.split(";base64,", 1)[1])


# ------------------------------------------------------------------------------ handlers


@pytest.mark.parametrize("files", [None, []])
def test_a_request_without_files_is_refused_in_a_sentence(files):
    with pytest.raises(Refused, match="no film"):
        uploaded_films(files)


def test_too_many_files_are_refused_in_a_sentence_and_deleted(films, tmp_path):
    uploads = Uploads(tmp_path)
    files = [waiting(uploads, films[0]) for _ in range(MAX_FILMS + 1)]
    with pytest.raises(Refused, match="at most 20"), uploads.reading(files):
        pass
    assert not files_in(tmp_path)


def test_a_file_that_cannot_be_read_gets_its_sentence_and_the_others_their_findings(
    classifier, films
):
    films = [("good.png", films[0]), ("bad.dcm", b"nonsense"), ("good too.png", films[1])]
    document = server.predict(classifier, films)
    assert [("error" in film) for film in document["films"]] == [False, True, False]
    html = server.show(classifier, films)
    assert "3 films, 1 of which could not be read" in html
    assert f"Could not be read: {document['films'][1]['error']}." in html
    assert len(Elements(html).all("table")) == 2


def test_a_single_file_that_cannot_be_read_gets_its_sentence(classifier):
    html = server.show(classifier, [("film.png", b"")])
    assert "Could not be read: the file is empty." in html
    assert not Elements(html).all("table")


def test_the_page_shows_the_numbers_of_the_classifier(classifier, films):
    findings = classifier.predict(films[0])
    html = server.show(classifier, [("film.png", films[0])])
    shown = re.findall(r'"probability">([\d.]+)\N{NARROW NO-BREAK SPACE}%</td>', html)
    expected = [findings.probabilities[label] for label in findings.order]
    assert [float(number) for number in shown] == pytest.approx(
        [100 * p for p in expected], abs=0.051
    )
    above = re.findall(r">▲ above|>below|>not set", html)
    assert above.count(">▲ above") == len(findings.positives)
    assert above.count(">not set") == 1  # Hernia has no operating point


def test_the_film_and_its_heat_maps_are_inside_the_answer(classifier, films):
    film = cft.read_radiograph(films[4])
    pictures = Elements(server.show(classifier, [("film.png", films[4])])).all("img")
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in pictures)
    shown = np.asarray(Image.open(io.BytesIO(content(pictures[0]["src"]))))
    assert (shown == np.round(255 * film.pixels)).all()
    rows = classifier.predict(films[4]).to_dict()["findings"]
    assert [p["alt"] for p in pictures[1:]] == [f"Heat map of {row['label']}" for row in rows]


def test_large_films_are_made_smaller_for_the_screen(classifier):
    film = np.random.default_rng(0).integers(0, 256, (1400, 700), np.uint8)
    pictures = Elements(server.show(classifier, [("film.png", film), ("b", film)])).all("img")
    sizes = [Image.open(io.BytesIO(content(picture["src"]))).size for picture in pictures]
    assert sizes[0] == (512, 1024)
    assert sizes[1] == (48, 96)


def test_the_downloads_hold_the_document_and_the_table(classifier, films):
    named = [("film, one.png", films[0]), ("bad.png", b"x")]
    links = Elements(server.show(classifier, named)).all("a")
    name = "film, one and 1 more findings"
    assert [link["download"] for link in links] == [f"{name}.json", f"{name}.csv"]
    document, table = (content(link["href"]).decode() for link in links)
    assert json.loads(document) == server.predict(classifier, named)
    rows = list(csv.DictReader(io.StringIO(table.removeprefix("\ufeff"))))
    assert [row["file"] for row in rows] == ["film, one.png", "bad.png"]
    assert float(rows[0]["Effusion"]) == classifier.predict(films[0]).probabilities["Effusion"]


def test_a_file_name_is_shown_as_text_whatever_it_is(classifier, films):
    files = [
        {"path": "/somewhere/upload", "orig_name": HOSTILE},
        {"path": f"/somewhere/{HOSTILE}", "orig_name": None},
        {"path": "/x", "orig_name": "..\\..\\folder/film\n\x00.png"},
    ]
    names = [name for name, _ in uploaded_films(files)]
    assert names[0] == names[1] == HOSTILE.replace("\u202e", "\N{REPLACEMENT CHARACTER}")
    assert names[2] == "film\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}.png"
    plain = Elements(server.show(classifier, [("a", films[0]), ("b", b"")]))
    hostile = Elements(server.show(classifier, [(names[0], films[0]), (names[0], b"")]))
    assert names[0] in hostile.text
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert [set(a) for _, a in hostile.elements] == [set(a) for _, a in plain.elements]


def test_the_words_of_a_model_folder_are_shown_as_text(classifier, films, tmp_path):
    config = random_model_config()
    config["label_names"] = ["<b>A</b>", "B", "C"]
    config["label_descriptions"] = {"<b>A</b>": "<script>alert(1)</script>"}
    config["cft"] = {"provenance": {"trained_on": "<script>x</script>"}}
    folder = write_model_folder(
        tmp_path, state_dict=classifier.network.state_dict(), config=config, card=""
    )
    model = cft.load(folder, "cpu")
    for html in (server.show(model, [("film", films[0])]), about_html(model)):
        assert "<script" not in html
        assert "<b>A" not in html


def test_a_template_escapes_what_it_prints_and_misses_no_value():
    assert "</strong> &lt;b&gt;.</p>" in render.fallback_notice("<b>")
    with pytest.raises(UndefinedError, match="reason"):
        fill("fallback")


def test_a_model_without_heat_maps_says_so(model_folder, films):
    classifier = cft.load(model_folder, "cpu")
    classifier.has_heatmaps = False
    html = server.show(classifier, [("film.png", films[0])])
    assert "This model has no heat maps." in html
    assert len(Elements(html).all("img")) == 1


def test_the_example_film_says_that_it_is_synthetic(classifier):
    name, film = server.example_film()
    assert "ynthetic" in name
    html = server.show(classifier, [(name, film)])
    assert "Synthetic example film" in html
    assert "drawn by a program: it shows no patient" in html


# ------------------------------------------------------------------------------- about


def test_a_model_folder_without_measurements_says_so(classifier):
    html = about_html(classifier)
    assert "The model folder states no measurements." in html
    assert classifier.weights_sha256 in html
    assert "Nothing: the weights are random." in html


def test_every_evaluation_of_the_model_folder_is_shown(classifier):
    row = {"auroc": 0.8123, "ci_low": 0.751, "ci_high": 0.864, "positives": 31}
    undefined = {"auroc": None, "ci_low": None, "ci_high": None, "positives": 0}
    result = {
        "categories": {"Effusion": row, "Pleural_Thickening": undefined},
        "subsets": {"all": {"auroc": 0.8123, "ci_low": 0.751, "ci_high": 0.864}},
        "films": 395,
        "level": 0.9,
    }
    config = {**classifier.config, "cft": {"metrics": {"films": {"experts": result}, "note": "x"}}}
    changed = SimpleNamespace(
        config=config,
        preprocess=classifier.preprocess,
        facts=(facts := ModelConfig.read(config, "here")),
        categories=facts.categories,
        label_names=classifier.label_names,
        weights_sha256=classifier.weights_sha256,
        commit=None,
    )
    text = Elements(about_html(changed)).text
    assert "Test set films, experts: 395 films" in text
    assert "AUROC (90 % interval)" in text
    assert "Effusion0.812 (0.75 to 0.86)31" in text
    assert "Pleural Thickeningnot defined0" in text
    assert "Mean0.812 (0.75 to 0.86)" in text


# ------------------------------------------------------------------------------- uploads


def test_the_sweeper_outlives_a_folder_that_vanishes_while_it_walks(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "film.png").write_bytes(b"x")
    real = os.scandir

    def vanishing(place):
        if not isinstance(place, int) and Path(place).name == "b":
            shutil.rmtree(place)
        return real(place)

    monkeypatch.setattr(os, "scandir", vanishing)
    sweep(tmp_path, age=-1)
    assert list(tmp_path.iterdir()) == []


def test_the_sweeper_deletes_what_is_old_and_nothing_else(films, tmp_path):
    upload(films[0], tmp_path)
    (tmp_path / "tmpw2k1").write_bytes(b"the beginning of a transfer that broke off")
    sweep(tmp_path, age=3600)
    assert len(files_in(tmp_path)) == 2
    sweep(tmp_path, age=-1)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------- served


def test_the_api_answers_with_the_documented_object(client, classifier, films):
    answer = client.predict([handle_file(films[0]), handle_file(films[1])], api_name="/predict")
    assert set(answer) == {"model", "films", "disclaimer"}
    assert answer["disclaimer"] == cft.NOT_A_MEDICAL_DEVICE
    assert [film["file"] for film in answer["films"]] == [films[0].name, films[1].name]
    for film, path in zip(answer["films"], films[:2], strict=True):
        expected = classifier.predict(path).to_dict()
        for got, wanted in zip(film["findings"], expected["findings"], strict=True):
            assert got["label"] == wanted["label"]
            assert got["probability"] == pytest.approx(wanted["probability"], abs=1e-5)
        assert film["height"] == expected["height"]


def test_the_api_says_what_each_of_its_calls_answers(client):
    info = client.view_api(return_format="dict")
    calls = ["/predict", "/predict_study", "/compare", "/heatmap", "/gate", "/models"]
    assert list(info["named_endpoints"]) == calls
    assert not info["unnamed_endpoints"]
    assert "not a medical device" in info["named_endpoints"]["/predict"]["description"]
    assert all(call["description"] for call in info["named_endpoints"].values())


def test_nothing_of_a_request_stays_on_disk(served, client, films, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no film")
    client.predict([handle_file(films[0]), handle_file(broken)], api_name="/predict")
    client.predict([handle_file(films[0]), handle_file(films[0])], api_name="/predict")
    assert not files_in(served.folder)


def test_no_more_than_the_last_answer_stays_in_memory(served, films):
    for _ in range(3):
        Client(served.address, verbose=False).predict([handle_file(films[0])], api_name="/predict")
    (running,) = [b for b in gr.Blocks.get_instances() if b.is_running]
    assert len(running.state_holder.session_data) <= 1


def test_a_film_that_two_visitors_upload_at_once_is_read_for_both(served, films):
    paths = [post_upload(served, films[0].name, films[0].read_bytes()).json()[0] for _ in "ab"]
    assert paths[0] != paths[1]
    for path in paths:
        assert '"findings"' in call(served, [{"path": path, "meta": {"_type": "gradio.FileData"}}])
    assert not files_in(served.folder)


def test_a_film_that_is_too_large_does_not_take_the_others_along(served, films):
    paths = [
        post_upload(served, name, data).json()[0]
        for name, data in (("large.dcm", bytes(50 * 2**20 + 1)), ("a.png", films[0].read_bytes()))
    ]
    answer = call(served, [{"path": p, "meta": {"_type": "gradio.FileData"}} for p in paths])
    large, other = json.loads(answer.partition("data: ")[2])[0]["films"]
    assert large["error"] == "the file is larger than 50 MB"
    assert len(other["findings"]) == 3
    assert not files_in(served.folder)


def test_an_upload_over_the_limit_is_refused(served):
    response = post_upload(served, "large.dcm", bytes(100 * 2**20 + 1))
    assert response.status_code == 413
    assert not files_in(served.folder)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], "There is no film"),
        ([{"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}], "no uploaded files"),
        ([{"path": "/etc/hostname"}], "no uploaded files"),
        (["/etc/hostname"], "no uploaded files"),
        (
            [{"path": "http://127.0.0.1:9/film.png", "meta": {"_type": "gradio.FileData"}}],
            "not fetched from an address",
        ),
    ],
)
def test_what_was_not_uploaded_is_refused_in_a_sentence(served, files, sentence, capfd):
    answer = call(served, files)
    assert "event: error" in answer
    assert sentence in answer
    output = capfd.readouterr()
    assert "Traceback" not in output.err + output.out
    assert Path("/etc/hostname").exists()


def test_the_client_gets_the_sentence_for_too_many_films(client, films):
    with pytest.raises(AppError, match="21 files are too many"):
        client.predict([handle_file(films[0])] * 21, api_name="/predict")


def test_nothing_is_reported_to_anybody(served):
    config = httpx.get(f"{served.address}config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("run_history")
    assert httpx.get(f"{served.address}monitoring").status_code == 404
    assert "googleapis" not in httpx.get(f"{served.address}theme.css").text


def post_upload(served, name: str, data: bytes) -> httpx.Response:
    return httpx.post(f"{served.address}gradio_api/upload", files={"files": (name, data)})


def call(served, files: list) -> str:
    """Call the endpoint without a client, as ``curl`` would; gives the events."""
    started = httpx.post(f"{served.address}gradio_api/call/predict", json={"data": [files]})
    event = started.json()["event_id"]
    return httpx.get(f"{served.address}gradio_api/call/predict/{event}", timeout=60).text


# --------------------------------------------------------------------------------- main


def test_an_option_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        start.main(["--prot", "8080"])
    assert "--prot" in capsys.readouterr().err


def test_the_page_starts_on_a_machine_too_busy_to_show_it_within_seconds(classifier, monkeypatch):
    """Gradio asks for the front page once, with three seconds for it, and would give up."""
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)
    with server.serve(classifier) as address:
        assert httpx.get(address, timeout=60).is_success


def test_the_port_can_be_chosen(classifier):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with server.serve(classifier, server_port=port) as address:
        assert address == f"http://127.0.0.1:{port}/"


def test_a_missing_model_is_named_in_a_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("CFT_MODEL", str(tmp_path / "nowhere"))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert start.main() == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "The page cannot start: there is no model folder at" in capsys.readouterr().err


def test_the_program_names_no_file_and_leaves_none(model_folder, films, tmp_path):
    """``python app.py`` as a visitor's machine or a Space runs it, from start to SIGTERM."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    named = tmp_path / "Doe John 1956.png"
    named.write_bytes(films[0].read_bytes())
    broken = tmp_path / "Doe Jane 1957.dcm"
    broken.write_bytes(b"no film")
    environment = {
        **os.environ, "CFT_MODEL": str(model_folder), "GRADIO_TEMP_DIR": str(folder),
    }  # fmt: skip
    command = [sys.executable, "app.py", "--host", "127.0.0.1"]
    with pages.running(command, cwd=ROOT, env=environment) as page:
        client = Client(page.address, verbose=False)
        answer = client.predict([handle_file(named), handle_file(broken)], api_name="/predict")
        lost = [{"path": str(named), "meta": {"_type": "gradio.FileData"}}]
        assert "no uploaded files" in call(SimpleNamespace(address=f"{page.address}/"), lost)
        assert [film["file"] for film in answer["films"]] == [named.name, broken.name]
    assert page.status == 0
    assert "Doe" not in page.said
    assert not files_in(folder)
