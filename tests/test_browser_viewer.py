"""The viewer in headless Chromium: pointer, keys, touch, outlines, and what axe-core says."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cft
from cft.page import render, server
from tests import chromium
from tests.conftest import ROOT
from tests.films import dataset, dicom
from tests.test_browser import address as address
from tests.test_browser import browser as browser
from tests.test_browser import film
from tests.test_browser import visit as visit
from train.datasets.phantom_drawing import draw_phantom

pytestmark = pytest.mark.slow

# The script of npm's package axe-core: `npm install --no-save axe-core` at the top of a checkout.
AXE = Path(os.environ.get("CFT_AXE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))


def deep_film(side: int) -> bytes:
    """A DICOM file of a drawn film of 12 bits, its pixels half a millimetre apart."""
    drawn = draw_phantom((), 256, np.random.default_rng(1)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(drawn).resize((side, side), Image.Resampling.BICUBIC))
    pixels = np.clip(16 * smooth, 0, 4095).astype(np.uint16)
    return dicom(dataset(pixels, PixelSpacing=[0.5, 0.5]))


@pytest.fixture
def viewer(visit):
    """The page with a film of 12 bits, 200 pixels square, half a millimetre apart."""
    data = deep_film(200)
    chromium.drop(visit, [("deep.dcm", data)])
    visit.wait_for_selector(".viewing canvas")
    visit.wait_for_function("document.querySelector('.viewing').viewer.context")
    settle(visit)
    return visit


def settle(page) -> None:
    """Until what was asked for is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")


def seen(page) -> np.ndarray:
    """The canvas, (H, W, 3)."""
    settle(page)
    address = page.evaluate("document.querySelector('canvas').toDataURL()")
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB")
    ).astype(int)


def key(page, *keys: str) -> None:
    page.locator(".viewing canvas").focus()
    for each in keys:
        page.keyboard.press(each)
    settle(page)


def state(page, *names: str):
    settle(page)
    return page.evaluate(
        "(names) => names.map((n) => document.querySelector('.viewing').viewer[n])", list(names)
    )


def pull(page, start: tuple[float, float], end: tuple[float, float], **options) -> None:
    """Drag from and to shares of the canvas."""
    box = page.locator(".viewing canvas").bounding_box()
    (x, y), (u, v) = (
        (box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in (start, end)
    )
    page.mouse.move(x, y)
    page.mouse.down(**options)
    page.mouse.move((x + u) / 2, (y + v) / 2)
    page.mouse.move(u, v)
    page.mouse.up(**options)


def test_the_viewer_holds_the_greys_of_the_film_in_all_their_depth(viewer):
    data = deep_film(200)
    expected = 65535 * cft.read_radiograph(data).pixels.astype(float)
    grey = viewer.evaluate("[...document.querySelector('.viewing').viewer.grey]")
    assert np.abs(np.array(grey).reshape(200, 200) - expected).max() < 0.51


def test_at_first_the_film_is_seen_as_it_is_stored_without_a_heat_map(viewer):
    picture = seen(viewer)
    assert (picture.max(axis=2) == picture.min(axis=2)).all()  # grey
    assert picture.max() > 245
    assert state(viewer, "heat", "level", "spread") == ["off", 0.5, 1]


def test_a_drag_sets_window_and_level(viewer):
    pull(viewer, (0.3, 0.3), (0.6, 0.5))
    level, spread = state(viewer, "level", "spread")
    assert level > 0.51
    assert spread > 1.1
    key(viewer, "s")
    assert state(viewer, "level", "spread") == [0.5, 1]


def test_presets_window_by_the_greys_of_the_film(viewer):
    key(viewer, "l")
    lung = state(viewer, "level")[0]
    key(viewer, "b")
    assert state(viewer, "level")[0] > lung
    key(viewer, "u")
    low, high = state(viewer, "level", "spread")
    assert (low, high) == pytest.approx((0.5, 1), abs=0.01)


def test_the_preset_that_is_in_use_is_marked_until_the_window_is_dragged(viewer):
    def marked() -> list[str]:
        settle(viewer)
        return viewer.locator(".presets [aria-pressed=true]").all_inner_texts()

    assert marked() == ["As stored"]
    key(viewer, "l")
    assert marked() == ["Lung"]
    box = viewer.locator(".viewing canvas").bounding_box()
    viewer.mouse.move(box["x"] + 50, box["y"] + 50)
    viewer.mouse.down()
    viewer.mouse.move(box["x"] + 80, box["y"] + 60)
    viewer.mouse.up()
    assert marked() == []
    key(viewer, "z")
    assert marked() == ["As stored"]


def test_i_inverts_t_turns_and_m_mirrors(viewer):
    before = seen(viewer)
    key(viewer, "i")
    middle = (slice(20, -20), slice(20, -20))
    assert np.abs(255 - before - seen(viewer))[middle].max() <= 2
    key(viewer, "i", "m")
    assert np.abs(before[:, ::-1] - seen(viewer))[middle].mean() < 2
    key(viewer, "m", "t", "t")
    assert np.abs(before[::-1, ::-1] - seen(viewer))[middle].mean() < 2
    key(viewer, "T", "T")
    assert np.abs(before - seen(viewer)).max() <= 1


def test_a_turned_and_mirrored_film_follows_the_pointer(viewer):
    key(viewer, "t", "m")
    key(viewer, "+", "+", "+")
    before = viewer.evaluate(
        "(([v]) => v.onFilm({x: 100, y: 100}))([document.querySelector('.viewing').viewer])"
    )
    viewer.evaluate("document.querySelector('.viewing').viewer.shift(30, 20)")
    after = viewer.evaluate("document.querySelector('.viewing').viewer.onFilm({x: 130, y: 120})")
    assert (after["x"], after["y"]) == pytest.approx((before["x"], before["y"]))


def test_the_wheel_scrolls_the_page_until_the_film_is_clicked_and_then_zooms_to_the_cursor(viewer):
    box = viewer.locator(".viewing canvas").bounding_box()
    viewer.mouse.move(box["x"] + 100, box["y"] + 60)
    viewer.mouse.wheel(0, -200)
    assert state(viewer, "zoom") == [1]
    where = "document.querySelector('.viewing').viewer.onFilm({x: 100, y: 60})"
    viewer.mouse.down()
    viewer.mouse.up()
    before = viewer.evaluate(where)
    viewer.mouse.wheel(0, -200)
    assert state(viewer, "zoom")[0] > 1.5
    after = viewer.evaluate(where)
    assert (after["x"], after["y"]) == pytest.approx((before["x"], before["y"]), abs=0.5)
    key(viewer, "1")
    assert viewer.evaluate("document.querySelector('.viewing').viewer.scale()") == pytest.approx(1)
    key(viewer, "0")
    assert state(viewer, "zoom") == [1]


def test_the_ruler_measures_millimetres(viewer):
    key(viewer, "r")
    pull(viewer, (0.25, 0.5), (0.75, 0.5))  # half of 200 pixels of half a millimetre
    texts = (
        "(v => v.rulers.map((r) => v.length(r).text))(document.querySelector('.viewing').viewer)"
    )
    (text,) = viewer.evaluate(texts)
    assert text.endswith(" mm")
    assert float(text.split()[0]) == pytest.approx(50, abs=0.6)
    key(viewer, "x")
    assert viewer.evaluate(texts) == []


def test_the_ruler_measures_pixels_where_the_file_states_no_spacing(visit):
    chromium.drop(visit, [("plain.png", film(1))])  # 256 pixels across
    visit.wait_for_selector(".viewing canvas")
    key(visit, "r")
    pull(visit, (0.25, 0.5), (0.75, 0.5))
    text = visit.evaluate(
        "(v => v.length(v.rulers[0]).text)(document.querySelector('.viewing').viewer)"
    )
    assert text.endswith(" px")
    assert float(text.split()[0]) == pytest.approx(128, abs=2)


def test_choosing_a_finding_draws_its_outline_and_all_above_have_colours_and_numbers(viewer):
    viewer.locator("tbody tr").nth(1).click()
    assert state(viewer, "heat") == ["outline"]
    coloured = seen(viewer)
    assert (coloured.max(axis=2) != coloured.min(axis=2)).any() or (coloured == 255).any()
    key(viewer, "a")
    marks = viewer.locator(".findings .mark").all_inner_texts()
    positives = viewer.locator("tbody th .at-0.positive").count()
    assert marks == [str(i + 1) for i in range(positives)]
    colours = viewer.evaluate(
        "[...document.querySelectorAll('.mark')].slice(0, 7).map((m) => m.style.background)"
    )
    assert len(set(colours)) == len(colours) > 1
    key(viewer, "h")
    grey = seen(viewer)
    assert (grey.max(axis=2) == grey.min(axis=2)).all()
    viewer.locator("tbody tr").nth(2).click()
    assert state(viewer, "heat") == ["off"]  # as the visitor has said


def test_the_wash_can_be_made_fainter(viewer):
    viewer.locator("tbody tr").first.click()
    key(viewer, "v")
    strong = seen(viewer)
    key(viewer, "[", "[", "[", "[")
    faint = seen(viewer)
    key(viewer, "h")
    plain = seen(viewer)
    assert np.abs(strong - plain).sum() > np.abs(faint - plain).sum() > 0


def test_an_outline_is_where_half_of_the_maximum_is(viewer):
    """A cone's half-maximum is the circle of half its radius."""
    inside = viewer.evaluate(
        """() => {
          const [w, h] = [64, 48];
          const data = new Uint8ClampedArray(4 * w * h);
          for (let y = 0; y < h; y++) for (let x = 0; x < w; x++)
            data[4 * (y * w + x)] = 255 * Math.max(0, 1 - Math.hypot(x - 30, y - 20) / 20);
          const { path, peak } = outline(data, w, h, 640, 480);
          const context = document.createElement("canvas").getContext("2d");
          const at = (radius) => [0, 1, 2, 3, 4, 5].map((angle) => context.isPointInPath(path,
            305 + radius * Math.cos(angle), 205 + radius * Math.sin(angle)));
          return { in: at(94), out: at(106), peak };
        }"""
    )
    assert all(inside["in"])
    assert not any(inside["out"])
    assert inside["peak"] == {"x": 305, "y": 205}


def test_an_outline_closes_at_the_edge_and_has_two_parts_where_the_map_has(viewer):
    parts = viewer.evaluate(
        """() => {
          const data = new Uint8ClampedArray(4 * 100);
          for (const i of [0, 1, 10, 11, 55, 99, 88]) data[4 * i] = 255;
          const { path } = outline(data, 10, 10, 100, 100);
          const context = document.createElement("canvas").getContext("2d");
          return [[5, 5], [55, 55], [95, 95], [35, 35], [75, 25]]
            .map(([x, y]) => context.isPointInPath(path, x, y));
        }"""
    )
    assert parts == [True, True, True, False, False]


def test_every_action_has_a_key_of_its_own_that_the_list_names(viewer):
    keys = viewer.evaluate("Object.values(ACTIONS).flatMap(([keys]) => keys.split(' '))")
    assert len(keys) == len(set(keys))
    buttons = viewer.evaluate(
        "[...document.querySelectorAll('.viewing [data-action]')].map((b) => b.dataset.action)"
    )
    assert set(buttons) <= set(viewer.evaluate("Object.keys(ACTIONS)"))
    key(viewer, "?")
    assert viewer.locator(".keys kbd:visible").all_inner_texts() == keys
    viewer.keyboard.press("Escape")
    assert not viewer.locator(".keys").is_visible()


def test_full_screen_has_the_findings_beside_the_film_and_the_warning(viewer):
    key(viewer, "f")
    film_box = viewer.locator(".frame").bounding_box()
    table = viewer.locator("table.findings").bounding_box()
    assert film_box["height"] > 600
    assert table["x"] >= film_box["x"] + film_box["width"]
    assert viewer.get_by_text("Not a medical device.", exact=True).last.is_visible()
    chosen = viewer.locator(".findings input:checked").get_attribute("class")
    viewer.keyboard.press("j")
    assert viewer.locator(".findings input:checked").get_attribute("class") != chosen
    viewer.keyboard.press("Escape")
    assert viewer.locator(".frame").bounding_box()["height"] < film_box["height"]


def test_without_scripts_the_picture_and_its_heat_map_are_shown(browser, address):
    """Gradio itself needs scripts: what the server sends is laid out in a page without any."""
    classifier = cft.load(device="cpu")
    html = server.show(classifier, [("film.png", film(1))])
    page = browser.new_context(java_script_enabled=False).new_page()
    page.set_content(
        f"<style>{render.style(classifier)}</style><div class='gradio-container'>"
        f"<div class='contain'><div id='answer'>{html}</div></div></div>"
    )
    assert page.get_by_alt_text("The film").is_visible()
    assert page.locator(".maps img:visible").count() == 1
    assert page.locator("canvas").count() == 0
    page.get_by_label("Heat map").uncheck()
    assert page.locator(".maps img:visible").count() == 0
    page.context.close()


def test_on_a_phone_results_come_into_sight_and_the_film_stays_there(browser, address):
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True,
        reduced_motion="reduce",
    )  # fmt: skip
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#example")
    chromium.drop(page, [("film.png", film(1))])
    page.wait_for_selector(".viewing canvas")
    settle(page)
    assert 0 <= page.locator("#answer").bounding_box()["y"] < 422
    row = page.locator("tbody tr").nth(9)
    row.scroll_into_view_if_needed()
    row.tap()
    settle(page)
    box = page.locator(".frame").bounding_box()
    assert box["y"] >= page.get_by_role("note").bounding_box()["height"] - 1
    assert box["y"] + box["height"] <= 844
    assert page.evaluate("document.querySelector('.viewing').viewer.heat") == "outline"
    context.close()


def test_two_fingers_zoom(viewer):
    viewer.evaluate(
        """() => {
          const canvas = document.querySelector(".viewing canvas");
          canvas.setPointerCapture = () => {};
          const box = canvas.getBoundingClientRect();
          const send = (type, id, x) => canvas.dispatchEvent(new PointerEvent(type, { pointerId: id,
            pointerType: "touch", clientX: box.x + x, clientY: box.y + 100, bubbles: true }));
          send("pointerdown", 1, 100);
          send("pointerdown", 2, 150);
          send("pointermove", 2, 200);
          send("pointerup", 1, 100);
          send("pointerup", 2, 200);
        }"""
    )
    assert state(viewer, "zoom")[0] == pytest.approx(2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser, address, scheme):
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE} (npm install --no-save axe-core, or set CFT_AXE)")
    page = browser.new_context(color_scheme=scheme, reduced_motion="reduce").new_page()
    page.goto(address)
    page.wait_for_selector("#example")
    page.add_script_tag(path=AXE)
    assert violations(page) == []
    page.click("#example")
    page.wait_for_selector(".viewing canvas")
    page.get_by_text("About this model").click()
    page.get_by_text("For programs").click()
    settle(page)
    assert violations(page) == []
    page.locator("canvas").focus()
    page.keyboard.press("f")
    page.keyboard.press("?")
    settle(page)
    assert violations(page) == []
    page.context.close()


def violations(page) -> list[str]:
    """What axe-core finds wrong: its rule and the place."""
    page.wait_for_timeout(600)  # what fades has faded
    found = page.evaluate("async () => (await axe.run()).violations")
    return [f"{rule['id']}: {node['target']}" for rule in found for node in rule["nodes"]]
