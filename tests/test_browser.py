"""The page in headless Chromium, as a visitor meets it: real drops, clicks and keys."""

from __future__ import annotations

import io
import json
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

import cft
from cft.labels import NIH_14
from cft.model.config import ModelConfig
from cft.model.folder import write_model_folder
from cft.model.selftest import EXAMPLE
from cft.page import server
from tests import chromium
from tests.conftest import random_model_config
from tests.films import dataset, dicom, phantom
from tests.test_meaning import measured
from train.datasets.phantom_drawing import draw_phantom

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{value}}.png"

CONTRAST = """
(element) => {
  const channels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (colour) => channels(colour)
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") {
    behind = behind.parentElement;
  }
  const pair = [light(getComputedStyle(element).color),
                light(getComputedStyle(behind).backgroundColor)].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
}
"""


@pytest.fixture(scope="module")
def browser():
    if not chromium.PATH.exists():
        pytest.skip(f"no Chromium at {chromium.PATH} (Debian: apt-get install chromium)")
    with chromium.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    """The page, served with a model of 14 findings and random weights."""
    classifier = cft.load(random_model_of_14(tmp_path_factory.mktemp("model")), "cpu")
    with server.serve(classifier) as address:
        yield address


@pytest.fixture(params=[(1280, "light")])
def visit(request, browser, address):
    """The page in a fresh window (width, colour scheme).

    Afterwards it is checked that nothing was asked of another host, that the browser found no
    fault and that no dialog was opened.
    """
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    faults = []
    page.on("console", lambda m: m.type == "error" and faults.append(m.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: leaves(request.url, address) and faults.append(request.url))
    page.goto(address)
    page.wait_for_selector("#example")
    yield page
    context.close()
    assert not faults


def leaves(url: str, address: str) -> bool:
    return urlparse(url).scheme not in ("data", "blob") and not url.startswith(address)


def random_model_of_14(folder):
    import timm
    import torch

    torch.manual_seed(1)
    network = timm.create_model("resnet10t", num_classes=14, in_chans=1).eval()
    torch.nn.init.normal_(network.get_classifier().weight)
    config = random_model_config()
    config["label_names"] = list(NIH_14)
    config["num_classes"] = config["pretrained_cfg"]["num_classes"] = 14
    point = {"threshold": 0.3, "sensitivity": 0.8, "specificity": 0.7, "rule": "youden"}
    config["cft"]["categories"] = {label: {"operating_point": point} for label in NIH_14}
    return write_model_folder(folder, state_dict=network.state_dict(), config=config, card="")


def film(seed: int) -> bytes:
    """A PNG file of a drawn film."""
    encoded = io.BytesIO()
    drawn = draw_phantom((), 256, np.random.default_rng(seed))
    Image.fromarray(drawn).save(encoded, format="PNG")
    return encoded.getvalue()


def overflow(page) -> int:
    """By how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def test_a_lateral_film_is_shown_with_a_warning(visit):
    lateral = dicom(dataset(phantom(height=128, width=128), ViewPosition="LL"))
    chromium.drop(visit, [("lateral.dcm", lateral)])
    assert visit.locator(".warning").inner_text().startswith("A lateral film: the model knows")
    chromium.drop(visit, [("lateral.dcm", lateral), ("other.png", film(1))])
    gists = visit.locator("#many td small")
    assert ["lateral" in gist for gist in gists.all_inner_texts()] == [True, True, False]


def test_films_can_be_dropped_again_and_again(visit):
    for name in ("first.png", "second.png"):
        chromium.drop(visit, [(name, film(1))])
        visit.get_by_role("heading", name=name).wait_for()


def test_choosing_a_finding_shows_its_words(visit):
    visit.click("#example")
    rows = visit.get_by_role("radio")
    rows.first.wait_for()
    for row in (0, 5):
        visit.locator("tbody tr").nth(row).click()
        assert rows.nth(row).is_checked()
        label = visit.locator("tbody th .at-0").nth(row).inner_text().strip()
        assert visit.locator(".worth h3:visible").inner_text() == label
    visit.keyboard.press("ArrowDown")
    assert rows.nth(6).is_checked()


def test_a_film_that_is_read_has_the_room_and_more_can_still_be_dropped(visit):
    """A film beside its findings takes two fifths of the window at least, or all of its height."""
    before = visit.locator("#drop").bounding_box()
    chromium.drop(visit, [("first.png", film(1))])
    visit.wait_for_selector(".viewing canvas")
    frame, table = (visit.locator(x).bounding_box() for x in (".frame", ".findings"))
    assert frame["width"] >= min(0.4 * 1280, 0.7 * 844)
    assert table["x"] >= frame["x"] + frame["width"]
    zone = visit.locator("#drop").bounding_box()
    assert zone["height"] < before["height"] / 3
    assert zone["y"] + zone["height"] <= frame["y"]
    for name in ("#choose", "#choose-folder"):
        assert visit.locator(f"label:has({name})").is_visible()
    assert overflow(visit) <= 0


def test_a_hostile_file_name_is_text(visit):
    chromium.drop(visit, [(HOSTILE, film(1))])
    assert visit.locator("#answer h2").inner_text() == HOSTILE


def test_the_document_can_be_downloaded(visit):
    chromium.drop(visit, [("first.png", film(1))])
    with visit.expect_download() as started:
        visit.locator("#answer").get_by_text("Download JSON").click()
    assert started.value.suggested_filename == "first findings.json"
    document = json.loads(started.value.path().read_text())
    assert len(document["films"][0]["findings"]) == 14


@pytest.mark.parametrize("visit", [(390, "light"), (390, "dark"), (1280, "dark")], indirect=True)
def test_the_page_is_legible_and_its_warning_stays_in_sight(visit):
    assert overflow(visit) <= 0
    visit.click("#example")
    visit.wait_for_selector("#answer table")
    visit.get_by_text("About this model").click()
    visit.get_by_text("How to read the page").scroll_into_view_if_needed()
    assert overflow(visit) <= 0
    banner = visit.get_by_role("note")
    assert banner.bounding_box()["y"] >= 0
    assert banner.inner_text() == cft.NOT_A_MEDICAL_DEVICE
    other, above = "tr:not(:has(:checked))", "tr:not(:has(:checked)):has(.positive)"
    for text in (".banner", ".facts", ".caution", f"{other} .verdict", f"{above} .verdict"):
        assert visit.locator(text).first.evaluate(CONTRAST) >= 4.5, text


def test_the_choice_of_points_and_the_prevalence_change_what_is_shown(browser, tiny_model_folder):
    classifier = cft.load(tiny_model_folder, "cpu")
    facts = ModelConfig.read(measured(random_model_config()), "config.json")
    classifier.facts, classifier.categories = facts, facts.categories
    with server.serve(classifier) as address:
        page = browser.new_page()
        page.goto(address)
        page.click("#example")
        page.wait_for_selector("#answer table")
        found = classifier.predict(EXAMPLE)
        for name in ("sensitive", "specific", "sensitive"):
            page.locator("#answer").get_by_label(name).check()
            at = found.at(name)
            assert page.locator("#answer [role=status]").inner_text() == at.sentence
            names = page.locator("#answer tbody th").all_inner_texts()
            shown = [name.strip().split("\n")[-1] for name in names]  # after a number, if above
            assert shown == at.order
            with page.expect_download() as started:
                page.locator("#answer").get_by_text("Download JSON").locator("visible=true").click()
            document = json.loads(started.value.path().read_text())
            assert document["films"][0]["operating_point"] == name
        page.locator("tbody tr", has_text="Cardiomegaly").click()
        for percent in (50, 0, 100):
            page.locator(".predictive input:visible").fill(str(percent))
            values = at.predictive_values("Cardiomegaly", percent / 100)
            for name in ("ppv", "npv"):
                text = page.locator(f"output[data-value={name}]:visible").inner_text()
                assert float(text.split()[0]) == pytest.approx(
                    100 * getattr(values, name), abs=0.51
                )
        for wrong in ("", "101", "-1"):
            page.locator(".predictive input:visible").fill(wrong)
            assert page.locator("output[data-value=ppv]:visible").inner_text() == "–"
        page.close()
