"""Many films on the page, in headless Chromium: the matrix, what is open, tables, reports."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import time
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from PIL import Image

import cft
from cft import results
from cft.model.config import ModelConfig
from cft.page import render, server
from tests import chromium
from tests.conftest import random_model_config
from tests.test_browser import browser as browser
from tests.test_browser import film, leaves, overflow
from tests.test_browser import visit as visit
from tests.test_browser_viewer import AXE, violations
from tests.test_meaning import measured
from tests.test_page_api import SCHEMA, faults

pytestmark = pytest.mark.slow

FORMULA, QUOTED = "=1+1.png", 'a, "b"\u202e.png'


def small(seed: int) -> bytes:
    """A small film, soon read."""
    encoded = io.BytesIO()
    Image.open(io.BytesIO(film(seed))).resize((64, 64)).save(encoded, format="PNG")
    return encoded.getvalue()


def names(page) -> list[str]:
    return page.locator("#many td .name").all_inner_texts()


def shows(page, expected: list[str]) -> bool:
    """Whether the matrix has these films, in this order, within the time that a page may take."""
    until = time.monotonic() + 5
    while names(page) != expected and time.monotonic() < until:
        page.wait_for_timeout(50)
    return names(page) == expected


def many(page, count: int) -> list[tuple[str, bytes]]:
    """Drop so many small films."""
    films = [(f"film {number}.png", small(number)) for number in range(count)]
    chromium.drop(page, films)
    return films


def downloaded(page, kind: str) -> tuple[str, bytes]:
    with page.expect_download() as started:
        page.locator(f"#many [data-many={kind}]").click()
    return started.value.suggested_filename, started.value.path().read_bytes()


def without_pictures(html: str) -> str:
    """A page without what is encoded in it, which has every short word by chance."""
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", html)


@pytest.fixture(scope="module")
def served(tiny_model_folder, tmp_path_factory):
    """The page with a model of three findings and two operating points: model, address, folder."""
    classifier = cft.load(tiny_model_folder, "cpu")
    facts = ModelConfig.read(measured(random_model_config()), "config.json")
    classifier.facts, classifier.categories = facts, facts.categories
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        with server.serve(classifier) as address:
            yield classifier, address, folder


@pytest.fixture(scope="module")
def address(served):
    """Of `visit`: where uploads of a process are kept is known to Gradio for one server only."""
    return served[1]


@pytest.fixture
def page(browser, served):
    """The page of that model in a fresh window; afterwards, whether the browser found a fault."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 844}, color_scheme="light", reduced_motion="reduce"
    )
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: leaves(r.url, served[1]) and faults.append(r.url))
    page.goto(served[1])
    page.wait_for_selector("#example")
    yield page
    context.close()
    assert not faults


# ----------------------------------------------------------------------- what does not go well


def test_what_cannot_be_read_stands_in_its_place_with_the_reason(visit, served):
    films = [("first.png", film(1)), ("broken.dcm", b"no film"), ("third.png", film(3))]
    chromium.drop(visit, films)
    assert names(visit) == [name for name, _ in films]
    rows = visit.locator("#many tbody tr")
    labels = len(served[0].label_names)
    assert "Could not be read: the file is not a picture" in rows.nth(1).inner_text()
    assert rows.nth(0).locator("td.of-finding").count() == labels
    assert rows.nth(2).locator("td.of-finding").count() == labels
    assert visit.locator("#many .count").inner_text() == "3 films · 1 could not be read"


def test_a_refused_film_has_its_reason_and_no_numbers(visit, monkeypatch):
    from cft.film.gate import Gate

    stream = cft.Classifier.stream

    def refused(self, films, *arguments):
        from dataclasses import replace

        for found in stream(self, films, *arguments):
            yield replace(found, gate=Gate("refuse", ("A picture of a cat.",)))

    monkeypatch.setattr(cft.Classifier, "stream", refused)
    many(visit, 2)
    row = visit.locator("#many tbody tr").first
    assert "Not answered. A picture of a cat." in row.inner_text()
    assert row.locator("td.of-finding").count() == 0
    assert row.locator("td.of-gate").inner_text() == "refused"
    assert visit.locator("#many .count").inner_text() == "2 films · 2 not answered"


def test_a_busy_server_is_waited_for_and_the_wait_is_said(page):
    asked = []

    def busy(route):
        asked.append(route.request.url)
        if len(asked) > 2:
            route.continue_()
        else:
            sentence = "The page is busy: films for about 3 minutes wait already. None was read."
            headers = {"Retry-After": "2"}
            route.fulfill(status=503, json={"detail": sentence}, headers=headers)

    page.route("**/call/row", busy)
    page.locator("#drop").evaluate(chromium._DROP, encoded([("a", small(1)), ("b", small(2))]))
    notice = page.locator("#many .notice")
    notice.wait_for()
    assert notice.inner_text() == (
        "The page is busy: films for about 3 minutes wait already. The next try is in 2 s."
    )
    page.wait_for_selector("#many.done")
    assert page.locator("#many .notice").is_hidden()
    assert page.locator("#many .count").inner_text() == "2 films"


def test_a_server_that_refuses_since_it_is_full_says_when_to_come_back(served, monkeypatch):
    monkeypatch.setattr("cft.page.line.Line.seconds", lambda self: 150.0)
    answer = httpx.post(f"{served[1]}gradio_api/call/row", json={"data": [[]]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert "films for about 2 minutes wait" in answer.json()["detail"]


def test_a_file_that_is_too_large_is_never_sent(page):
    sent = []
    page.on("request", lambda r: "/upload" in r.url and sent.append(r.url))
    page.evaluate("document.querySelector('#drop').dataset.megabytes = 0.0005")
    chromium.drop(page, [("a.png", b"a"), ("large.png", bytes(600))])
    reasons = page.locator("#many .of-failed").all_inner_texts()
    assert "Could not be read: the file is larger than 0.0005 MB." in reasons
    assert len(sent) == 1
    rows = list(csv.reader(io.StringIO(downloaded(page, "csv")[1].decode("utf-8-sig"))))
    assert len({len(row) for row in rows}) == 1
    assert rows[2][-1] == "the file is larger than 0.0005 MB"


def test_films_beyond_the_limit_are_left_out_and_counted(page):
    page.route("**/upload", lambda route: route.fulfill(status=400, body="No."))
    chromium.drop(page, [(f"{number}.png", b"a") for number in range(render.MOST_FILMS + 3)])
    assert page.locator("#many tbody tr").count() == render.MOST_FILMS
    assert "3 more were left out: at most 200 films" in page.locator(".notice").inner_text()


def test_hostile_names_are_text(page):
    hostile = "<img src=x onerror=alert(1)>.png"
    chromium.drop(page, [(hostile, b"no film"), (f"2{hostile}", small(1))])
    assert names(page) == [hostile, f"2{hostile}"]


def encoded(films: list[tuple[str, bytes]]) -> list:
    import base64

    return [[name, base64.b64encode(data).decode()] for name, data in films]


def test_unsure_cells_are_underlined_and_not_filled(page):
    many(page, 2)
    background, shadow = page.locator("#many tbody td.of-finding").first.evaluate(
        """(cell) => {
            cell.className = "of-finding unsure";
            const style = getComputedStyle(cell);
            return [style.backgroundColor, style.boxShadow];
        }"""
    )
    assert background == "rgba(0, 0, 0, 0)"
    assert "inset" in shadow


# ------------------------------------------------------------------------------ at what pace


def test_at_most_three_films_are_under_way_and_cancel_stops_the_others(page):
    held = []
    page.route("**/call/row", lambda route: held.append(route))
    films = [(f"{number}.png", small(number)) for number in range(6)]
    page.locator("#drop").evaluate(chromium._DROP, encoded(films))
    while len(held) < 3:
        page.wait_for_timeout(50)
    page.wait_for_timeout(300)
    assert len(held) == 3
    assert page.locator("#many .left").inner_text() == "0 of 6 read"
    held.pop(0).continue_()
    while len(held) < 3:  # a fourth in place of the one that was answered
        page.wait_for_timeout(50)
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("#many.done")
    assert page.locator("#many .count").inner_text() == "6 films · 5 not read yet"
    page.unroute("**/call/row")
    page.get_by_role("button", name="Go on").click()
    page.wait_for_function("document.querySelector('.count').textContent === '6 films'")
    assert page.locator("#many .progress").is_hidden()


def test_the_server_keeps_nothing_of_the_films(page, served):
    before = set(served[2].rglob("*"))
    many(page, 12)
    assert page.locator("#many td.of-gate").count() == 12
    assert not [path for path in set(served[2].rglob("*")) - before if path.is_file()]


def test_results_stay_until_they_are_cleared(page):
    many(page, 2)
    chromium.drop(page, [("other.png", small(8)), ("last.png", small(9))])
    assert names(page) == ["film 0.png", "film 1.png", "other.png", "last.png"]
    chromium.drop(page, [("alone.png", small(10))])
    page.get_by_role("heading", name="alone.png").wait_for()
    page.get_by_role("button", name="All films").click()
    page.wait_for_selector("#many.done")
    assert len(names(page)) == 5
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#many").is_hidden()
    assert page.get_by_text("Findings and heat maps appear here.").is_visible()


def test_the_same_film_dropped_twice_has_one_row(page):
    once = "const f = new File(['x'], 'a.png', {lastModified: 1}), g = new File(['y'], 'b.png');"
    page.evaluate(
        f"""() => {{ {once} for (const files of [[f, g], [f, g]]) {{
            const transfer = new DataTransfer();
            for (const file of files) transfer.items.add(file);
            const event = new DragEvent("drop", {{ dataTransfer: transfer, bubbles: true }});
            document.body.dispatchEvent(event);
        }} }}"""
    )
    page.wait_for_selector("#many.done")
    assert names(page) == ["a.png", "b.png"]


# ---------------------------------------------------------------------------------- the matrix


def test_the_cells_are_the_models_numbers_at_the_chosen_points(page, served):
    films = many(page, 5)
    found = [served[0].predict(data) for _, data in films]
    heads = page.locator("#many th[data-label]").all()
    labels = [head.get_attribute("data-label") for head in heads]
    assert labels == list(served[0].label_names)
    for name in ("sensitive", "specific"):
        page.locator("#many").get_by_label(name).check()
        page.wait_for_timeout(100)
        for line, findings in zip(page.locator("#many tbody tr").all(), found, strict=True):
            cells = line.locator("td.of-finding").all()
            shown = [cell.inner_text() for cell in cells]
            above = ["▲" in text for text in shown]
            assert above == [label in findings.at(name).positives for label in labels]
            numbers = [float(text.replace("▲", "")) for text in shown]
            probabilities = [100 * findings.probabilities[label] for label in labels]
            assert numbers == pytest.approx(probabilities, abs=0.51)
            assert line.locator("small").inner_text() == findings.at(name).sentence


def test_the_matrix_sorts_by_a_finding_by_name_and_back(page, served):
    films = many(page, 11)
    label = served[0].label_names[0]
    numbers = {name: served[0].predict(data).probabilities[label] for name, data in films}
    head = page.locator(f'#many th[data-label="{label}"]')
    dropped = [name for name, _ in films]
    for way, expected in (
        ("descending", sorted(dropped, key=lambda name: -numbers[name])),
        ("ascending", sorted(dropped, key=lambda name: numbers[name])),
        (None, dropped),
    ):
        head.locator("button").click()
        page.wait_for_timeout(100)
        assert head.get_attribute("aria-sort") == way
        assert shows(page, expected)
    for expected in (dropped, dropped[::-1]):  # 10 follows 9
        page.locator("#many th.of-film button").click()
        page.wait_for_timeout(100)
        assert shows(page, expected)


def test_the_matrix_is_filtered_by_name_and_by_what_is_found(page, served):
    films = [*[(f"film {number}.png", small(number)) for number in range(6)], ("bad", b"")]
    chromium.drop(page, films)
    page.locator("#many").get_by_label("sensitive").check()
    found = {name: served[0].predict(data).at("sensitive") for name, data in films[:-1]}
    page.get_by_label("Show films whose name has").fill("FILM 3")
    assert shows(page, ["film 3.png"])
    assert "1 shown" in page.locator("#many .count").inner_text()
    page.get_by_label("Show films whose name has").fill("")
    for kind, expected in (
        ("failed", ["bad"]),
        ("above", [name for name, f in found.items() if f.positives]),
        ("quiet", [name for name, f in found.items() if not f.positives]),
        ("label:Cardiomegaly", [n for n, f in found.items() if "Cardiomegaly" in f.positives]),
        ("refuse", []),
        ("all", [name for name, _ in films]),
    ):
        page.get_by_label("Show which films").select_option(kind)
        assert shows(page, expected), kind


# -------------------------------------------------------------------------------- opening one


def test_a_film_is_opened_by_sending_it_again_and_the_place_is_kept(page):
    many(page, 30)
    sent = []
    page.on("request", lambda r: "/upload" in r.url and sent.append(r.url))
    page.evaluate("window.scrollTo(0, 900)")
    page.wait_for_timeout(100)
    before = page.evaluate("window.scrollY")
    assert before > 500
    page.locator("#many td.of-film button").nth(14).click()
    page.wait_for_selector("#answer .viewing canvas")
    assert len(sent) == 1
    heading = page.get_by_role("heading", name="film 14.png")
    assert 0 <= heading.bounding_box()["y"] < 844
    assert page.locator("#place .where").inner_text() == "15 of 30"
    page.keyboard.press(".")
    page.get_by_role("heading", name="film 15.png").wait_for()
    page.keyboard.press(",")
    page.get_by_role("heading", name="film 14.png").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_selector("#many:not([hidden])")
    page.wait_for_timeout(200)
    assert page.evaluate("window.scrollY") == before
    assert page.evaluate("document.activeElement.innerText").startswith("film 14.png")


def test_the_browsers_way_back_leads_to_the_matrix(page):
    many(page, 2)
    page.locator("#many td.of-film button").first.click()
    page.wait_for_selector("#answer .film")
    page.go_back()
    page.wait_for_selector("#many:not([hidden])")
    assert len(names(page)) == 2


def test_the_chosen_points_hold_for_the_matrix_and_for_the_film(page):
    many(page, 2)
    page.locator("#many").get_by_label("sensitive").check()
    page.locator("#many td.of-film button").first.click()
    page.wait_for_selector("#answer .points")
    assert page.locator("#answer").get_by_label("sensitive").is_checked()
    page.locator("#answer").get_by_label("specific").check()
    page.get_by_role("button", name="All films").click()
    assert page.locator("#many").get_by_label("specific").is_checked()


def test_a_second_film_has_a_viewer_of_its_own(page):
    for name in ("first.png", "second.png"):
        chromium.drop(page, [(name, small(len(name)))])
        page.get_by_role("heading", name=name).wait_for()
        page.wait_for_selector("#answer .viewing canvas")


# ------------------------------------------------------------------------ where films come from


def test_a_folder_can_be_chosen_and_what_systems_leave_there_is_passed_by(page, tmp_path):
    place = tmp_path / "films"
    (place / "sub").mkdir(parents=True)
    for name in ("10.png", "9.png", "sub/1.png"):
        (place / name).write_bytes(small(len(name)))
    for name in (".DS_Store", "Thumbs.db", "sub/.hidden"):
        (place / name).write_bytes(b"x")
    page.locator("#choose-folder").set_input_files(place)
    page.wait_for_selector("#many.done")
    assert names(page) == ["films/9.png", "films/10.png", "films/sub/1.png"]


@pytest.mark.parametrize("target", ["h1", "#drop .zone"])
def test_a_dropped_folder_is_read_wherever_it_is_dropped(page, tmp_path, target):
    place = tmp_path / "films"
    place.mkdir()
    for number in range(3):
        (place / f"{number}.png").write_bytes(small(number))
    box = page.locator(target).bounding_box()
    tools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(place)], "dragOperationsMask": 1}
        spot = {"x": box["x"] + 20, "y": box["y"] + 10}
        tools.send("Input.dispatchDragEvent", {"type": kind, "data": data, **spot})
    page.wait_for_selector("#many.done")
    assert names(page) == [f"films/{number}.png" for number in range(3)]


# --------------------------------------------------------------------------------------- out


def test_the_table_is_that_of_the_command_line_with_a_mark_for_excel(page, served):
    films = [(FORMULA, small(1)), (QUOTED, small(2)), ("broken.png", b"no film")]
    chromium.drop(page, films)
    page.locator("#many").get_by_label("sensitive").check()
    name, table = downloaded(page, "csv")
    assert name == "=1+1 and 2 more findings.csv"
    assert table.startswith(b"\xef\xbb\xbf")
    found = []
    for path, data in films:
        try:
            found.append((path, served[0].predict(data).at("sensitive")))
        except cft.RadiographError as error:
            found.append((path, error))
    weights = served[0].weights_sha256
    expected = list(
        csv.DictReader(
            io.StringIO("".join(results.csv_rows(served[0].label_names, found, weights=weights)))
        )
    )
    rows = list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"))))
    for row, wanted in zip(rows, expected, strict=True):
        for column in wanted:
            if column in served[0].label_names and wanted[column]:
                assert math.isclose(float(row[column]), float(wanted[column]), abs_tol=1e-6)
            else:
                assert row[column] == wanted[column]


def test_the_document_has_the_published_form(page, served):
    films = [("a.png", small(1)), ("broken.png", b"no film")]
    chromium.drop(page, films)
    name, text = downloaded(page, "json")
    document = json.loads(text)
    assert name == "a and 1 more findings.json"
    assert not faults(document, SCHEMA)
    assert [entry["file"] for entry in document["films"]] == ["a.png", "broken.png"]
    expected = served[0].predict(films[0][1]).to_dict()["findings"]
    for got, wanted in zip(document["films"][0]["findings"], expected, strict=True):
        assert got["label"] == wanted["label"]
        assert got["probability"] == pytest.approx(wanted["probability"], abs=1e-6)


def test_a_report_holds_the_film_and_the_date_and_fetches_nothing(page, browser, tmp_path):
    chromium.drop(page, [("Doe John.png", film(4))])
    page.wait_for_selector("#answer .viewing canvas")
    page.locator("#answer").get_by_label("sensitive").check()
    sentence = page.locator("#answer [role=status]").inner_text()
    with page.expect_download() as started:
        page.locator("a.report:visible").click()
    assert started.value.suggested_filename == "Doe John report.html"
    path = tmp_path / "report.html"
    started.value.save_as(path)
    text = path.read_text(encoding="utf-8")
    assert "Doe" not in without_pictures(text)
    assert text.lower().count("<!doctype html>") == 1
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    report, asked = browser.new_page(), []
    report.on("request", lambda r: asked.append(r.url))
    report.goto(path.as_uri())
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert sentence in report.inner_text("main")
    assert str(datetime.now().year) in report.inner_text("time")
    film_side = report.evaluate("document.querySelector('#film').naturalWidth")
    assert film_side == 512  # enlarged, so that lines and numbers are fine beside it
    report.locator(".typed").click()
    report.keyboard.type("<b>Bed 4</b>")
    assert report.locator(".typed").inner_text() == "<b>Bed 4</b>"
    assert len(re.findall(rb"/Type\s*/Page\b", report.pdf(prefer_css_page_size=True))) == 1
    report.close()


# ------------------------------------------------------------------ for everybody, everywhere


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_matrix_and_report(browser, served, scheme, tmp_path):
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE} (npm install --no-save axe-core, or set CFT_AXE)")
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    context.set_default_timeout(chromium._MILLISECONDS)
    page = context.new_page()
    page.goto(served[1])
    page.wait_for_selector("#example")
    page.add_script_tag(path=AXE)
    chromium.drop(page, [("first.png", film(1)), ("broken.png", b""), ("third.png", film(3))])
    page.locator("#many th[data-sort^='label:'] button").first.click()
    assert violations(page) == []
    page.locator("#many td.of-film button").first.click()
    page.wait_for_selector(".viewing canvas")
    assert violations(page) == []
    with page.expect_download() as started:
        page.locator("a.report:visible").click()
    started.value.save_as(tmp_path / "report.html")
    report = context.new_page()
    report.set_content((tmp_path / "report.html").read_text().replace("default-src 'none'; ", ""))
    report.add_script_tag(path=AXE)
    assert violations(report) == []
    context.close()


@pytest.mark.parametrize("locale", ["de-DE", "ar"])
def test_the_page_is_english_whatever_the_browser_speaks(browser, served, locale):
    words = []
    for spoken in ("en-US", locale):
        context = browser.new_context(locale=spoken, viewport={"width": 1280, "height": 844})
        page = context.new_page()
        page.goto(served[1])
        page.wait_for_selector("#example")
        chromium.drop(page, [("a.png", small(1)), ("b.png", small(2))])
        page.get_by_text("About this model").click()
        page.get_by_text("How to read the page").wait_for()
        words.append(page.inner_text("body"))
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.evaluate("getComputedStyle(document.body).direction") == "ltr"
        context.close()
    assert words[0] == words[1]


@pytest.mark.parametrize("visit", [(390, "light"), (390, "dark")], indirect=True)
def test_the_matrix_fits_a_phone(visit):
    many(visit, 3)
    assert overflow(visit) <= 0
    visit.locator("#many td.of-film button").first.click()
    visit.wait_for_selector("#answer .film")
    assert overflow(visit) <= 0


def test_the_names_of_the_findings_stay_in_sight_while_the_matrix_is_scrolled(page):
    page.set_viewport_size({"width": 1280, "height": 500})
    many(page, 8)
    page.locator("#many tbody tr").last.scroll_into_view_if_needed()
    page.wait_for_timeout(100)
    heading = page.locator("#many thead th.of-finding").first.bounding_box()
    banner = page.get_by_role("note").bounding_box()
    assert page.locator("#many tbody tr").first.bounding_box()["y"] < 0
    assert heading["y"] >= 0
    assert heading["y"] + heading["height"] > banner["height"] + 40  # its words are below it
    page.set_viewport_size({"width": 390, "height": 844})  # columns are cut off: the table scrolls
    page.wait_for_timeout(200)
    assert overflow(page) <= 0


def test_a_keyboard_is_enough(page, tmp_path):
    paths = []
    for number in range(2):
        paths.append(tmp_path / f"{number}.png")
        Path(paths[-1]).write_bytes(small(number))
    page.wait_for_timeout(500)  # Gradio has put its elements in
    with page.expect_file_chooser() as chooser:
        page.locator("#choose").press("Space")
    chooser.value.set_files(paths)
    page.wait_for_selector("#many.done")
    page.locator("#many th.of-film button").press("Enter")
    page.wait_for_timeout(100)
    assert page.locator("#many th.of-film").get_attribute("aria-sort") == "ascending"
    page.locator("#many td.of-film button").nth(1).press("Enter")
    page.get_by_role("heading", name="1.png").wait_for()
