"""A film's row in the matrix and its report, as the server makes them."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import httpx
import numpy as np
import pytest
from PIL import Image

import cft
from cft import results
from cft.film.gate import Gate
from cft.model.config import ModelConfig
from cft.page import batch, server
from cft.page.uploads import Refused
from tests.conftest import ROOT, random_model_config
from tests.films import dataset, dicom, phantom
from tests.test_meaning import measured
from tests.test_page_api import faults

pytestmark = pytest.mark.slow

SCHEMA = json.loads((ROOT / "cft" / "page" / "schema.json").read_text(encoding="utf-8"))
HOSTILE = "<img src=x onerror=alert(1)>'\"&{{x}}.png"


@pytest.fixture(scope="module")
def classifier(tiny_model_folder):
    """A model of three findings with two operating points."""
    classifier = cft.load(tiny_model_folder, "cpu")
    facts = ModelConfig.read(measured(random_model_config()), "config.json")
    classifier.facts, classifier.categories = facts, facts.categories
    return classifier


def content(address: str) -> bytes:
    return base64.b64decode(address.partition(",")[2])


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.elements, self.text, self.addresses = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.addresses += [
            value for name, value in attributes if name in ("src", "href", "srcset", "action")
        ]

    def handle_data(self, data):
        self.text = " ".join(f"{self.text} {data}".split())


def reports(html: str) -> list[str]:
    """The reports in an answer."""
    links = [part.partition('"')[0] for part in html.split('report.html" href="')[1:]]
    return [content(link).decode() for link in links]


# ------------------------------------------------------------------------------------ rows


def test_the_row_of_a_film_that_cannot_be_read_has_the_reason(classifier, tmp_path):
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"no film")
    row = batch.row(classifier, broken)
    with pytest.raises(cft.RadiographError) as error:
        cft.read_radiograph(broken)
    assert row["thumbnail"] is None
    for point in row["points"]:
        assert point["document"]["films"] == [{"file": "", "error": str(error.value)}]
        (cells,) = csv.reader([point["line"]])
        assert (cells[0], cells[-1]) == ("", str(error.value))


def test_a_row_says_at_each_choice_of_points_what_the_command_line_says(classifier, films):
    row, found = batch.row(classifier, films[0]), classifier.predict(films[0])
    for point, name in zip(row["points"], ("specific", "sensitive"), strict=True):
        (film,) = point["document"]["films"]
        assert film == {"file": "", **found.at(name).to_dict()}
        assert not faults(point["document"], SCHEMA)
        (cells,) = csv.DictReader(io.StringIO(row["header"] + point["line"]))
        assert cells["operating_point"] == name
        assert cells["weights_sha256"] == classifier.weights_sha256
        assert cells["above"] == "; ".join(found.at(name).positives)
        thresholds = dict(each.rsplit(" ", 1) for each in cells["thresholds"].split("; "))
        expected = found.at(name).operating_points
        assert {label: float(x) for label, x in thresholds.items()} == pytest.approx(
            {label: x for label, x in expected.items() if x is not None}
        )
        for label in classifier.label_names:
            assert float(cells[label]) == found.probabilities[label]


def test_the_thumbnail_is_the_film_made_smaller(classifier, films):
    shown = np.asarray(
        Image.open(io.BytesIO(content(batch.row(classifier, films[0])["thumbnail"])))
    )
    film = Image.fromarray(np.round(255 * cft.read_radiograph(films[0]).pixels).astype(np.uint8))
    assert max(shown.shape) <= 112
    same = np.asarray(film.resize(shown.shape[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(same - shown).max() <= 2


UID = "1.2.840.99.4711"


def of_study(**elements) -> bytes:
    return dicom(dataset(phantom(height=96, width=80), StudyInstanceUID=UID, **elements))


@pytest.mark.parametrize("salt", [None, 7, ["a"], "a" * 65])
def test_a_salt_that_is_none_is_refused(classifier, films, salt):
    with pytest.raises(Refused, match="at most 64 characters"):
        batch.row(classifier, films[0], salt)


def test_films_of_a_dicom_study_have_the_same_hash_with_the_same_salt_alone(classifier, films):
    first, second = of_study(), of_study(ViewPosition="PA")
    row = batch.row(classifier, first, "a" * 64)
    assert UID not in json.dumps(row)
    assert row["study"] == batch.row(classifier, second, "a" * 64)["study"]
    assert row["study"] != batch.row(classifier, first, "b" * 64)["study"]
    assert batch.row(classifier, first)["study"] is None  # without a salt
    assert batch.row(classifier, films[0], "a" * 64)["study"] is None  # no DICOM
    assert batch.row(classifier, b"no film", "a" * 64)["study"] is None


def test_a_row_says_why_a_film_does_not_count_in_a_study(classifier, films):
    assert batch.row(classifier, films[0])["left_out"] == ""
    assert "lateral film" in batch.row(classifier, of_study(ViewPosition="LL"))["left_out"]
    assert "could not be read" in batch.row(classifier, b"no film")["left_out"]


@pytest.fixture(scope="module")
def address(tiny_model_folder):
    """Of the page."""
    with server.serve(cft.load(tiny_model_folder, "cpu")) as address:
        yield address


def test_a_row_is_of_one_film(address, films):
    api = f"{address}gradio_api"
    sent = [("files", (film.name, film.read_bytes())) for film in films[:2]]
    paths = httpx.post(f"{api}/upload", files=sent).json()
    data = [[{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]]
    event = httpx.post(f"{api}/call/row", json={"data": data}).json()["event_id"]
    assert "A row is of one film" in httpx.get(f"{api}/call/row/{event}", timeout=60).text


def test_there_is_no_server_for_mcp_and_nothing_speaks_of_one(address):
    """Gradio's own would go around the limits on uploads."""
    for path in ("mcp", "mcp/", "mcp/http", "mcp/sse", "mcp/schema"):
        assert httpx.get(f"{address}gradio_api/{path}").status_code == 404
        assert httpx.post(f"{address}gradio_api/{path}", json={}).status_code == 404
    config = httpx.get(f"{address}config").json()
    assert not config.get("mcp_server")
    assert not config.get("footer_links")


# --------------------------------------------------------------------------------- reports


def test_a_report_names_no_file_and_shows_a_models_words_as_text(classifier, films, monkeypatch):
    monkeypatch.setattr(classifier, "weights_sha256", HOSTILE)
    html = server.show(classifier, [(HOSTILE, films[0])])
    assert len(reports(html)) == 2
    for text in reports(html):
        page = Page(text)
        assert page.elements.count("img") == 1  # the film's, into which no address is written yet
        assert "onerror" in page.text  # the hash, as text
        assert page.text.count("onerror") == 1  # and no name of a file
        assert page.addresses == []
        assert "default-src 'none'" in text


def test_the_words_of_labels_are_text_in_a_report(films, tmp_path, model_folder):
    from cft.model.folder import write_model_folder

    first = cft.load(model_folder, "cpu", engine="torch")
    config = random_model_config()
    config["label_names"] = ["<script>alert(1)</script>", "<b>&", "C"]
    config["cft"] = {"provenance": {"trained_on": "<script>x</script>"}}
    state = first.network.state_dict()
    folder = write_model_folder(tmp_path / "m", state_dict=state, config=config, card="")
    classifier = cft.load(folder, "cpu", engine="torch")
    (text,) = reports(server.show(classifier, [("film", films[0])]))
    page = Page(text)
    assert not {"script", "b"} & set(page.elements)
    assert "<script>alert(1)</script>" in page.text
    assert "<script>x</script>" in page.text


def test_a_report_says_what_the_findings_say(classifier, films):
    found = classifier.predict(films[0])
    for text, name in zip(
        reports(server.show(classifier, [("a.png", films[0])])),
        ("specific", "sensitive"),
        strict=True,
    ):
        page, at = Page(text), found.at(name)
        assert at.sentence in page.text
        assert page.text.count("▲ above") == len(at.positives)
        assert f"{name}: " in page.text
        assert classifier.weights_sha256 in page.text
        assert cft.NOT_A_MEDICAL_DEVICE.split(". ")[0] in page.text
        table = page.text.partition("Result")[2]
        order = [table.index(f" {label} ") for label in at.order]
        assert order == sorted(order)
        for label, probability in found.probabilities.items():
            assert f" {label} {100 * probability:.1f} %" in table


def test_a_refused_film_has_a_report_without_numbers(classifier, films, monkeypatch):
    predict = type(classifier).stream

    def refused(self, films, *arguments):
        from dataclasses import replace

        for found in predict(self, films, *arguments):
            yield replace(found, gate=Gate("refuse", ("A picture of a cat.",)))

    monkeypatch.setattr(type(classifier), "stream", refused)
    for text in reports(server.show(classifier, [("a.png", films[0])])):
        assert "A picture of a cat." in Page(text).text
        assert "table" not in Page(text).elements


def test_several_films_and_a_broken_one_have_no_report(classifier, films):
    assert not reports(server.show(classifier, [("a", films[0]), ("b", films[1])]))
    assert not reports(server.show(classifier, [("a", b"")]))


# ---------------------------------------------------------------------------------- tables


def test_the_pages_table_has_a_mark_for_excel_and_is_the_command_lines_besides(classifier, films):
    html = server.show(classifier, [("Müller.png", films[0])])
    link = html.split('findings.csv" href="')[1].partition('"')[0]
    table = content(link)
    assert table.startswith(b"\xef\xbb\xbf")
    rows = results.csv_rows(
        classifier.label_names,
        [("Müller.png", classifier.predict(films[0]))],
        weights=classifier.weights_sha256,
    )
    assert table.decode("utf-8-sig") == "".join(rows)


def test_a_study_is_unsure_where_its_film_is(classifier, films):
    found = next(
        (film, found)
        for film, found in ((film, classifier.predict(film)) for film in films)
        if any(ruled == "unsure" for ruled in found.ruled.values())
    )
    unsure = [label for label in found[1].order if found[1].ruled[label] == "unsure"]
    html = server.show_together(classifier, [("one", found[0]), ("two", found[0])])
    table = html.split('<table class="of-study">')[1].split("</table>")[0]
    rows = dict(re.findall(r">(\w+)</span></th>(.*?)</tr>", table, re.DOTALL))
    assert [label for label in rows if '<small class="unsure">unsure</small>' in rows[label]]
    for label, row in rows.items():
        assert ("unsure" in row) == (label in unsure), label


def test_the_first_film_that_counts_is_open_in_a_study(classifier, films):
    broken = ("broken", b"no film")
    html = server.show_together(classifier, [broken, ("one", films[0]), ("two", films[1])])
    opened = re.findall(r'<details class="entry" name="films" open>\n<summary><bdi.*?>(\w+)<', html)
    assert opened == ["one"]
    beside = server.show_together(classifier, [("now", films[0])], [("before", films[1])])
    assert '<details class="entry" name="films" open>' not in beside  # both are shown above
