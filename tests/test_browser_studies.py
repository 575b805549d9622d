"""Studies among many films of the page, in headless Chromium."""

from __future__ import annotations

import json
import re

import pytest

from cft import study as grouping
from cft.model.findings import LATERAL_FILM
from cft.model.sentence import first_sentence
from tests import chromium
from tests.films import dataset, dicom, phantom
from tests.test_browser import browser as browser
from tests.test_browser_batch import downloaded, names, small, without_pictures
from tests.test_browser_batch import page as page
from tests.test_browser_batch import served as served
from tests.test_browser_viewer import AXE, violations
from tests.test_page_api import SCHEMA, faults

pytestmark = pytest.mark.slow

PAIR = [("4711_pa.png", small(1)), ("other.png", small(2)), ("4711-ap.png", small(3))]


def of_study(uid: str, seed: int, **elements) -> bytes:
    pixels = phantom(height=96, width=80)
    return dicom(dataset(pixels + seed, StudyInstanceUID=uid, **elements))


def titles(page) -> list[str]:
    return page.locator("#many tr.study .title").all_inner_texts()


def members(page) -> list[str]:
    return page.locator("#many tr.member .name").all_inner_texts()


def becomes(page, look, expected: list[str]) -> None:
    """The matrix is drawn a moment after a change: wait for it, five seconds at most."""
    for _ in range(100):
        if look(page) == expected:
            return
        page.wait_for_timeout(50)
    assert look(page) == expected


def handle(page, name: str):
    return page.locator("#many tbody tr", has_text=name).locator("[data-many=move]").last


# ------------------------------------------------------------------------- what changes nothing


def test_films_of_different_studies_stand_as_they_were_dropped(page):
    films = [(f"0000000{number}_000.png", small(number)) for number in (1, 2, 3)]
    chromium.drop(page, [*films, ("00000001_001.png", small(4))])  # later, of the first patient
    becomes(page, names, [*(name for name, _ in films), "00000001_001.png"])
    becomes(page, titles, [])
    assert page.locator("#many .by-study").is_hidden()
    assert "studies" not in json.loads(downloaded(page, "json")[1])


def test_a_dicom_study_is_known_without_its_number_and_only_with_the_same_salt(page):
    uid, other = "1.2.840.99.4711", "1.2.840.99.4712"
    answers = []
    page.on("response", lambda r: "/call/row/" in r.url and answers.append(r.text()))
    films = [
        ("a.dcm", of_study(uid, 1)),
        ("b.dcm", of_study(other, 2)),
        ("c.dcm", of_study(uid, 3)),
    ]
    chromium.drop(page, films)
    becomes(page, titles, ["Study 1"])
    becomes(page, members, ["a.dcm", "c.dcm"])
    assert len(answers) == 3
    assert not [text for text in answers if "1.2.840" in text]
    first = re.findall(r'"study": ?"([0-9a-f]{32})"', "".join(answers))
    page.reload()
    page.wait_for_selector("#example")
    chromium.drop(page, films)
    again = re.findall(r'"study": ?"([0-9a-f]{32})"', "".join(answers[3:]))
    assert len(set(first)) == len(set(again)) == 2
    assert not set(first) & set(again)


# ------------------------------------------------------------------------------ what they say


@pytest.mark.parametrize("point", ["specific", "sensitive"])
def test_a_study_says_what_python_says_of_it(page, served, point):
    lateral = ("4711_lateral.png", small(7))
    chromium.drop(page, [*PAIR, lateral, ("4711_ll.png", b"no film")])
    page.locator("#many").get_by_label(point).check()
    becomes(page, titles, ["4711"])
    films = [PAIR[0], PAIR[2], lateral, ("4711_ll.png", b"no film")]
    study = served[0].predict_study([data for _, data in films], [n for n, _ in films]).at(point)
    document = json.loads(downloaded(page, "json")[1])
    assert not faults(document, SCHEMA["$defs"]["studies"])
    first, second = document["studies"]
    assert (first["study"], second["study"]) == ("4711", "other.png")
    expected = study.to_dict()
    for part in ("sentence", "operating_point", "scored", "not_scored"):
        assert first[part] == expected[part]
    assert first["scored"] == ["4711_pa.png", "4711-ap.png"]
    for got, wanted in zip(first["findings"], expected["findings"], strict=True):
        for part in ("label", "file", "positive", "ruled", "operating_point"):
            assert got[part] == wanted[part]
        assert got["probability"] == pytest.approx(wanted["probability"], abs=1e-6)
    row = page.locator("#many tr.study")
    assert row.locator("small").inner_text() == f"4 films, 2 scored. {study.sentence}"
    cells = row.locator("td.of-finding").all_inner_texts()
    for label, shown in zip(served[0].label_names, cells, strict=True):
        share = study.findings.probabilities[label]
        assert float(shown.replace("▲", "")) == pytest.approx(100 * share, abs=0.51)
        assert ("▲" in shown) == (label in study.findings.positives)


@pytest.mark.parametrize("above", [0, 1, 5])
@pytest.mark.parametrize("unsure", [0, 4, 6])
def test_the_sentence_is_that_of_python(page, served, above, unsure):
    labels = [*served[0].label_names, *(f"Label_{number}" for number in range(5))]
    band = [label for i, label in enumerate(labels) if i >= 8 - unsure]
    rows = [
        {
            "label": label,
            "positive": i < above,
            "ruled": "unsure" if label in band else "out",
            "distance": -i,
            "probability": 0.5,
            "evidence": None,
        }
        for i, label in enumerate(labels)
    ]
    expected = first_sentence(labels[:above], band, decided=True)
    # The module's functions are its own: one film whose answer has these findings.
    page.route("**/call/row/*", lambda route: route.fulfill(body=_event(rows)))
    chromium.drop(page, [("1_pa.png", small(1)), ("1_ap.png", small(2))])
    said = page.locator("#many tr.study small").inner_text()
    assert said == f"2 films, 2 scored. {expected}"


def _event(rows: list[dict]) -> str:
    film = {
        "file": "",
        "sentence": "",
        "view": None,
        "notes": [],
        "gate": {"verdict": "pass", "reasons": []},
        "operating_point": None,
        "findings": [{"operating_point": 0.1, "score": 0.5, **row} for row in rows],
    }
    points = [{"document": {"films": [film]}, "line": "\n"}] * 2
    answer = {"thumbnail": None, "header": "", "study": None, "left_out": "", "points": points}
    return f"event: complete\ndata: {json.dumps([answer])}\n\n"


def test_a_study_is_opened_as_one_and_left_for_its_place(page, served):
    chromium.drop(page, PAIR)
    page.locator("#many tr.study [data-many=study]").click()
    page.wait_for_selector("#answer .study")
    study = served[0].predict_study([PAIR[0][1], PAIR[2][1]])
    assert page.locator("#answer [role=status]").inner_text() == f"{study.sentence}."
    assert page.locator("#answer details.entry").count() == 2
    page.keyboard.press("Escape")
    page.wait_for_selector("#many:not([hidden])")
    becomes(page, titles, ["4711"])


def test_a_film_whose_name_says_lateral_is_left_out_of_an_opened_study(page, browser, tmp_path):
    place = tmp_path / "patient00001" / "study1"
    place.mkdir(parents=True)
    for name in ("view1_frontal.png", "view2_lateral.png"):
        (place / name).write_bytes(small(len(name)))
    page.locator("#choose-folder").set_input_files(place.parent)
    page.wait_for_selector("#many.done")
    becomes(page, titles, ["patient00001 study1"])
    page.locator("#many tr.study [data-many=study]").click()
    page.wait_for_selector("#answer .study")
    lines = page.locator(".study li").all_inner_texts()
    assert "view1_frontal.png scored" in lines[0]
    assert "view2_lateral.png not scored: It is a lateral film" in lines[1]
    report, *_ = report_of(page, "#answer [data-many=report-study]", browser, tmp_path)
    _, scored, lateral = report.locator(".sheet").all()
    assert scored.locator("tbody tr").count() == 3
    assert lateral.locator("tbody tr").count() == 0
    said = lateral.locator(".sentence").inner_text()
    assert said == f"Not scored: It is {LATERAL_FILM}"
    report.close()


# ----------------------------------------------------------------------- where studies come from


def test_films_of_a_small_folder_below_the_dropped_one_are_a_study(page, tmp_path):
    place = tmp_path / "films"
    for path in ("one/a.png", "one/b.png", "c.png", "d.png", *(f"many/{n}.png" for n in range(7))):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(small(len(path)))
    page.locator("#choose-folder").set_input_files(place)
    page.wait_for_selector("#many.done")
    becomes(page, titles, ["films/one"])
    becomes(page, members, ["films/one/a.png", "films/one/b.png"])


def test_names_say_the_same_in_python_and_in_the_browser(page):
    paths = [
        "patient00001/study1/view1_frontal.jpg",
        "patient00001/study1/view2_lateral.jpg",
        "x/p10/p10000032/s50414267/02aa804e-bde0afdd.dcm",
        "00000001_002.png",
        "films/12 PA.png",
        "films/12.LAT2.dcm",
        "pa.png",
        "lateral.dcm",
        "japan.png",
        "12_pax.png",
        "view1_frontal.jpg",
        "a/_pa.png",
    ]
    words = page.locator("#many").get_attribute("data-names")
    found = page.evaluate(
        """([paths, words]) => {
            const { patterns, lateral } = JSON.parse(words);
            return paths.map((path) => {
                for (const pattern of patterns) {
                    const found = path.match(new RegExp(pattern, "i"));
                    const [, patient, study, view] = found ?? [];
                    if (found) return [patient, study, lateral.includes(view?.toLowerCase())];
                }
                return null;
            });
        }""",
        [paths, words],
    )
    expected = [grouping.named(path) for path in paths]
    assert found == [e and [e.patient, e.study, e.view == "lateral"] for e in expected]
    assert [e is None for e in expected] == [False] * 6 + [True] * 6


# ------------------------------------------------------------------------ by the visitor's hand


def test_a_row_is_dragged_onto_another_and_taken_out_again(page):
    chromium.drop(page, [(f"{name}.png", small(i)) for i, name in enumerate("abc")])
    rows = page.locator("#many tbody tr")
    rows.nth(2).drag_to(rows.nth(0))
    becomes(page, titles, ["Study 1"])
    becomes(page, members, ["a.png", "c.png"])
    becomes(page, names, ["a.png", "c.png", "b.png"])
    page.locator("#many tr", has_text="b.png").drag_to(page.locator("#many tr.study"))
    becomes(page, members, ["a.png", "b.png", "c.png"])
    page.get_by_role("button", name="Take b.png out of its study").click()
    becomes(page, members, ["a.png", "c.png"])
    page.get_by_role("button", name="Take c.png out of its study").click()
    becomes(page, names, ["a.png", "b.png", "c.png"])
    becomes(page, titles, [])


def test_a_keyboard_puts_films_together_and_escape_puts_one_down(page):
    chromium.drop(page, [(f"{name}.png", small(i)) for i, name in enumerate("ab")])
    handle(page, "a.png").press("Enter")
    page.locator("#many .notice", has_text="a.png is taken up").wait_for()
    assert handle(page, "a.png").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    page.locator("#many .notice").wait_for(state="hidden")
    handle(page, "a.png").press("Enter")
    page.locator("#many .notice").wait_for()
    handle(page, "b.png").press("Enter")
    becomes(page, titles, ["Study 1"])
    becomes(page, members, ["a.png", "b.png"])


def test_together_can_be_turned_off(page):
    chromium.drop(page, PAIR)
    page.get_by_label("Films of a study together").uncheck()
    becomes(page, names, [name for name, _ in PAIR])
    becomes(page, titles, [])
    page.get_by_label("Films of a study together").check()
    becomes(page, titles, ["4711"])


def test_a_study_sorts_and_filters_as_one(page, served):
    label = served[0].label_names[0]
    chromium.drop(page, PAIR)
    chance = {name: served[0].predict(data).probabilities[label] for name, data in PAIR}
    both = max(chance["4711_pa.png"], chance["4711-ap.png"])
    study, other = ["4711_pa.png", "4711-ap.png"], ["other.png"]
    page.locator(f'#many th[data-label="{label}"] button').click()
    becomes(page, names, ([*study, *other] if both > chance["other.png"] else [*other, *study]))
    page.get_by_label("Show films whose name has").fill("4711-ap")
    becomes(page, names, study)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_a_matrix_with_a_study(browser, served, scheme):
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE} (npm install --no-save axe-core, or set CFT_AXE)")
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(served[1])
    page.wait_for_selector("#example")
    page.add_script_tag(path=AXE)
    chromium.drop(page, PAIR)
    handle(page, "other.png").click()
    page.wait_for_timeout(150)
    assert violations(page) == []
    context.close()


# ------------------------------------------------------------------------------------- reports


def report_of(page, button, browser, tmp_path):
    """The report that a button makes, opened: its page, and its text as a file."""
    with page.expect_download() as started:
        page.locator(button).click()
    path = tmp_path / "report.html"
    started.value.save_as(path)
    report = browser.new_page()
    asked = []
    report.on("request", lambda r: asked.append(r.url))
    report.goto(path.as_uri())
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    text = without_pictures(path.read_text(encoding="utf-8"))
    return report, text, started.value.suggested_filename


def pages_of(report) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", report.pdf(prefer_css_page_size=True)))


def test_the_report_of_many_has_a_page_for_each_and_first_what_all_say(
    page, served, browser, tmp_path
):
    chromium.drop(page, [*PAIR, ("broken.png", b"no film")])
    page.locator("#many").get_by_label("sensitive").check()
    report, text, name = report_of(page, "#many [data-many=report]", browser, tmp_path)
    assert name == "4711_pa and 3 more report.html"
    assert "4711" not in text
    assert "other.png" not in text
    first, *others = report.locator(".sheet").all()
    study = served[0].predict_study([PAIR[0][1], PAIR[2][1]]).at("sensitive")
    alone = served[0].predict(PAIR[1][1]).at("sensitive")
    said = first.locator(".summary").all_inner_texts()
    assert [part.split("\n")[0] for part in said] == ["Study 1: 2 films", "Film 3", "Film 4"]
    assert study.sentence in said[0]
    assert alone.sentence in said[1]
    assert "Could not be read: the file is not a picture" in said[2]
    rows = first.locator("tbody tr").all()
    most = {0: "Film 1", 1: "Film 2"}
    for row, label in zip(rows, study.findings.order, strict=True):
        cells = row.locator("th, td").all_inner_texts()
        assert cells[0] == label.replace("_", " ")
        share = 100 * study.findings.probabilities[label]
        assert float(cells[1].rstrip("\u202f%")) == pytest.approx(share, abs=0.051)
        assert cells[4] == most[study.findings.film_of[label]]
    assert len(others) == 3  # one of the films could not be read
    order = (PAIR[0], PAIR[2], PAIR[1])
    for number, (sheet, (_, data)) in enumerate(zip(others, order, strict=True), start=1):
        assert f"Film {number} of 4" in sheet.locator("h1").inner_text()
        assert served[0].predict(data).at("sensitive").sentence in sheet.inner_text()
        assert sheet.locator("figure img").evaluate("(image) => image.naturalWidth") == 512
    assert len(report.locator("[id]").all()) == 0  # each id would be there more than once
    assert pages_of(report) == 4
    report.close()


def test_an_opened_study_has_a_report_as_well(page, served, browser, tmp_path):
    chromium.drop(page, PAIR)
    page.locator("#many tr.study [data-many=study]").click()
    page.wait_for_selector("#answer .study")
    report, text, name = report_of(page, "#answer [data-many=report-study]", browser, tmp_path)
    assert name == "4711_pa and 1 more report.html"
    assert "4711" not in text
    study = served[0].predict_study([PAIR[0][1], PAIR[2][1]])
    assert study.sentence in report.locator(".sheet").first.inner_text()
    assert pages_of(report) == 3
    report.close()


def test_the_films_of_the_zone_have_a_report_though_none_has_a_row(page, served, browser, tmp_path):
    page.get_by_text("A study, or a prior film beside it").click()
    page.locator("#current-films input").set_input_files(
        [{"name": name, "mimeType": "", "buffer": data} for name, data in PAIR]
    )
    page.click("#together")
    page.wait_for_selector("#answer .study")
    report, _, _ = report_of(page, "#answer [data-many=report-study]", browser, tmp_path)
    study = served[0].predict_study([data for _, data in PAIR])
    assert study.sentence in report.locator(".sheet").first.inner_text()
    report.close()


def test_a_report_can_be_stopped(page):
    chromium.drop(page, PAIR)
    held = []
    page.route("**/call/film", lambda route: held.append(route))
    page.locator("#many [data-many=report]").click()
    while not held:
        page.wait_for_timeout(50)
    assert page.locator("#many .notice").inner_text() == "Report: film 1 of 3 …"
    page.get_by_role("button", name="Stop the report").click()
    page.wait_for_selector("#many [data-many=report]:text-is('Report')")
    assert page.locator("#many .notice").is_hidden()
    assert len(held) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_a_report_of_many(page, browser, tmp_path, scheme):
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE} (npm install --no-save axe-core, or set CFT_AXE)")
    chromium.drop(page, PAIR)
    report, text, _ = report_of(page, "#many [data-many=report]", browser, tmp_path)
    report.close()
    report = browser.new_page(color_scheme=scheme)
    report.set_content(text.replace("default-src 'none'; ", ""))
    report.add_script_tag(path=AXE)
    assert violations(report) == []
    report.close()
