"""Studies, and a prior film beside the current one, in headless Chromium."""

from __future__ import annotations

import json
import shutil

import pytest

import cft
from cft.page import render, server
from tests.films import dataset, dicom, phantom
from tests.test_browser import browser as browser
from tests.test_browser import film
from tests.test_browser_viewer import AXE, settle, violations

pytestmark = pytest.mark.slow

LIMIT = 0.05


@pytest.fixture(scope="module")
def measured(model_folder, tmp_path_factory):
    """The small model, which knows by how much two films of the same state differ."""
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("models") / "measured")
    config = json.loads((folder / "config.json").read_text())
    for label in config["label_names"]:
        row = config["cft"]["categories"].setdefault(label, {})
        row["repeatability"] = {"limit": LIMIT, "level": 0.95, "pairs": 41, "patients": 20}
    (folder / "config.json").write_text(json.dumps(config))
    return cft.load(folder, "cpu")


@pytest.fixture(scope="module")
def address(measured):
    with server.serve(measured) as address:
        yield address


@pytest.fixture(scope="module")
def visitor(browser, address):
    """Opens the page in a context of its own."""
    contexts = []

    def visitor(**options):
        contexts.append(browser.new_context(reduced_motion="reduce", **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(180_000)
        page.goto(address)
        page.wait_for_selector("#example")
        return page

    yield visitor
    for context in contexts:
        context.close()


def compared(page):
    """The page with a prior and a current film of different sizes."""
    together(page, [("now.png", film(1))], [("before.png", film(2))])
    page.wait_for_function(
        "[...document.querySelectorAll('.pair figure')].every((f) => f.viewer?.context)"
    )
    settle(page)
    return page


@pytest.fixture(scope="module")
def pair_page(visitor):
    return compared(visitor(viewport={"width": 1280, "height": 1000}))


def together(page, current, prior=()) -> None:
    """Give the films of both studies to the page, and wait for its answer."""
    if not page.locator("#current-films").is_visible():
        page.get_by_text("A study, or a prior film beside it").click()
    for zone, films in (("#current-films", current), ("#prior-films", prior)):
        if films:
            page.locator(f"{zone} input[type=file]").set_input_files(
                [{"name": name, "mimeType": "", "buffer": data} for name, data in films]
            )
            assert films[0][0] in page.locator(f"{zone} .chosen").inner_text()
    page.click("#together")
    page.wait_for_selector("#answer [role=status]")


def key(page, which: str, *keys: str) -> None:
    page.locator(f".pair .{which} canvas").focus()
    for each in keys:
        page.keyboard.press(each)
    settle(page)


def states(page, *names: str) -> tuple[list, list]:
    """Of the prior and of the current film's viewer."""
    settle(page)
    return tuple(
        page.evaluate(
            "([which, names]) => names.map((n) => document.querySelector(which).viewer[n])",
            [f".pair .{which}", list(names)],
        )
        for which in ("prior", "current")
    )


def test_what_is_done_to_one_film_is_done_to_the_other(pair_page):
    for which in ("current", "prior"):
        key(pair_page, which, "z", "+", "+", "i", "t", "m", "ArrowLeft")
        names = ("zoom", "inverted", "turned", "mirrored")
        prior, current = states(pair_page, *names)
        assert prior == current == [pytest.approx(1.5625), True, 1, True]
        (x, y, w, h), (u, v, a, b) = states(pair_page, "x", "y", "width", "height")
        assert (x / w, y / h) == pytest.approx((u / a, v / b))
        assert (x / w, y / h) != (0.5, 0.5)
    key(pair_page, "current", "z")


def test_a_drag_moves_both_windows_by_as_much_from_where_their_presets_are(pair_page):
    key(pair_page, "current", "l")
    before = states(pair_page, "level", "spread")
    assert before[0] != before[1]  # each by its own greys
    box = pair_page.locator(".pair .current canvas").bounding_box()
    pair_page.mouse.move(box["x"] + 100, box["y"] + 100)
    pair_page.mouse.down()
    pair_page.mouse.move(box["x"] + 160, box["y"] + 130)
    pair_page.mouse.up()
    after = states(pair_page, "level", "spread")
    moved = [(a[0] - b[0], a[1] / b[1]) for a, b in zip(after, before, strict=True)]
    assert moved[0] == pytest.approx(moved[1])
    assert moved[0][1] > 1.1
    key(pair_page, "current", "z")
    assert states(pair_page, "level", "spread") == ([0.5, 1], [0.5, 1])


def test_a_finding_is_outlined_in_both_films(pair_page):
    row = pair_page.locator(".changes tbody tr").nth(2)
    row.click()
    assert states(pair_page, "heat") == (["outline"], ["outline"])
    chosen = "(which) => document.querySelector(which).viewer.maps.map((m) => m.chosen)"
    for which in (".pair .prior", ".pair .current"):
        assert pair_page.evaluate(chosen, which) == [False, False, True]
    key(pair_page, "prior", "h")
    assert states(pair_page, "heat") == (["off"], ["off"])


def test_the_changes_are_those_of_python(pair_page, measured):
    before, after = (measured.predict(film(number)) for number in (2, 1))
    changes = sorted(after.changes(before).values(), key=lambda change: -abs(change.difference))
    words = {"more": "▲ more", "less": "▼ less", "none": "no change"}
    rows = pair_page.locator(".changes tbody tr")
    assert rows.count() == len(changes)
    for number, change in enumerate(changes):
        cells = rows.nth(number).locator("th, td").all_inner_texts()
        assert cells[0].strip() == change.label
        assert float(cells[2].replace("−", "-")) == pytest.approx(change.difference, abs=0.006)
        assert cells[5] == words[change.verdict]
    assert pair_page.get_by_text("95 % of 41 such pairs of 20 patients").is_visible()


def test_one_film_lies_over_the_other_up_to_the_slider(pair_page):
    pair_page.get_by_label("one over the other").check()
    settle(pair_page)
    frames = [pair_page.locator(f".pair .{w} .frame").bounding_box() for w in ("prior", "current")]
    assert frames[0] == frames[1]
    box = frames[0]

    def at(share: float) -> str:
        x, y = box["x"] + share * box["width"], box["y"] + box["height"] / 2
        return pair_page.evaluate(
            "([x, y]) => document.elementFromPoint(x, y).closest('figure').className", [x, y]
        )

    assert "prior" in at(0.3)
    assert "current" in at(0.7)
    slider = pair_page.get_by_label("Where the current film begins")
    slider.fill("20")
    assert "current" in at(0.3)
    pair_page.get_by_label("side by side").check()
    settle(pair_page)
    frames = [pair_page.locator(f".pair .{w} .frame").bounding_box() for w in ("prior", "current")]
    assert frames[1]["x"] >= frames[0]["x"] + frames[0]["width"]


def test_full_screen_has_both_films_the_changes_and_the_warning(pair_page):
    key(pair_page, "current", "f")
    frames = [pair_page.locator(f".pair .{w} .frame").bounding_box() for w in ("prior", "current")]
    table = pair_page.locator(".changes").bounding_box()
    assert min(frame["height"] for frame in frames) > 500
    assert table["x"] >= frames[1]["x"] + frames[1]["width"]
    assert pair_page.locator(".pair .enlarged").inner_text() == "Not a medical device."
    assert pair_page.locator(".pair .enlarged").is_visible()
    key(pair_page, "current", "f")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_a_comparison(visitor, scheme):
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE} (npm install --no-save axe-core, or set CFT_AXE)")
    page = visitor(color_scheme=scheme)
    compared(page)
    page.add_script_tag(path=AXE)
    assert violations(page) == []


def test_a_study_is_read_as_one(visitor, measured):
    side = dicom(dataset(phantom(height=96, width=80), ViewPosition="LL"))
    page = visitor()
    together(page, [("front.png", film(1)), ("again.png", film(2)), ("side.dcm", side)])
    status = page.locator("#answer [role=status]").inner_text()
    study = measured.predict_study([film(1), film(2)])
    assert status == f"{study.sentence}."
    lines = page.locator(".study li").all_inner_texts()
    assert lines[0].split() == ["front.png", "scored"]
    assert "side.dcm not scored: It is a lateral film" in lines[2]
    rows = page.locator(".of-study tbody tr")
    assert rows.count() == 3
    label = study.findings.order[0]
    names = ["front.png", "again.png"]
    assert rows.first.locator("td").last.inner_text() == names[study.findings.film_of[label]]
    assert page.locator("details.entry").count() == 3


def test_films_that_are_dropped_on_a_zone_are_no_films_of_the_matrix(visitor):
    page = visitor()
    page.get_by_text("A study, or a prior film beside it").click()
    drop = """(zone, name) => {
        const data = new DataTransfer();
        data.items.add(new File(["x"], name));
        const facts = { bubbles: true, cancelable: true, dataTransfer: data };
        zone.dispatchEvent(new DragEvent("drop", facts));
    }"""
    page.locator("#prior-films").evaluate(drop, "before.png")
    assert page.locator("#prior-films .chosen").inner_text() == "before.png"
    assert page.locator("#many").is_hidden()
    assert page.locator("#answer .empty").is_visible()  # nothing is read yet


def test_a_comparison_without_a_current_film_is_refused_in_a_sentence(visitor):
    page = visitor()
    together(page, [], [("before.png", film(2))])
    assert "no current film" in page.locator("#answer").inner_text()


def test_without_scripts_both_films_and_a_heat_map_of_each_are_shown(browser, measured):
    """Gradio itself needs scripts: what the server sends is laid out in a page without any."""
    html = server.show_together(measured, [("b.png", film(1))], [("a.png", film(2))])
    page = browser.new_context(java_script_enabled=False).new_page()
    page.set_content(
        f"<style>{render.style(measured)}</style><div class='gradio-container'>"
        f"<div class='contain'><div id='answer'>{html}</div></div></div>"
    )
    for which in ("prior", "current"):
        assert page.get_by_alt_text(f"The {which} film").is_visible()
        assert page.locator(f".{which} .maps img:visible").count() == 1
    page.context.close()
