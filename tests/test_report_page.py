"""The report for people: one file that fetches nothing and shows whatever is in it as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests import chromium
from train.evaluation.captions import plots_beside
from train.evaluation.figure import save_figure
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.protocol import Settings, evaluate_models
from train.evaluation.report import markdown
from train.evaluation.report_folder import _folder, _json
from train.evaluation.report_page import report_page

BAD = '<img src=x onerror=alert(1)> **"&'


@pytest.fixture(scope="module")
def results():
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, (60, 1)).astype(float)
    p = 1 / (1 + np.exp(-(y + generator.normal(size=(60, 1)))))
    truth = Truth(BAD, tuple(map(str, range(60))), ("Mass",), y, np.arange(60), "patient")
    models = [Predictions(f"model {BAD}", ("Mass",), p, notes=("see `this`",))]
    return evaluate_models(truth, models, settings=Settings(replicates=20))


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.ids, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data):
        self.text += data


def test_names_are_text_and_never_elements(results):
    page = Page(report_page(results))
    assert "img" not in page.tags
    assert BAD in page.text
    assert "code" in page.tags  # but what the report marks is marked


def test_nothing_is_fetched(results, tmp_path):
    text = report_page(results, [drawing(tmp_path)], tmp_path)
    assert "default-src 'none'" in text
    addresses = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')> ]+)", text)
    outside = [x for x in addresses if not x.startswith("#") and x not in ("x",)]
    assert outside == []
    assert not {"link", "iframe", "object", "image"} & set(Page(text).tags)


def test_the_tables_say_what_the_results_say(results):
    text = Page(report_page(results)).text
    row = results["models"][f"model {BAD}"]["categories"]["Mass"]
    for figure in (row["auroc"], row["calibration_slope"], row["ici"]):
        assert f"{figure:.4f}" in text


def drawing(folder):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([0, 1], [0, 1], marker="o", label=BAD)
    figure.legend()
    save_figure(figure, folder / "curve")
    return "curve.png"


def test_two_figures_share_no_id(results, tmp_path):
    path = drawing(tmp_path)
    text = report_page(results, [path, path], tmp_path)
    page = Page(text)
    assert page.tags.count("svg") == 2
    assert len(page.ids) == len(set(page.ids))
    used = re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'xlink:href="#([^"]+)"', text)
    assert used
    assert set(used) <= set(page.ids)


def test_lists_of_numbers_are_on_one_line_and_mean_the_same(results):
    results = {**results, "odd": ["[\n 1, 2\n]", [], [None, 1e-05, -2]]}
    text = _json(results)
    assert json.loads(text) == json.loads(json.dumps(results))
    assert "[ 0.01, " in text


def test_plots_stand_beside_their_truth_with_a_caption():
    found = plots_beside(
        [
            "plots/roc.png",
            "plots/experts/roc.png",
            "plots/training-a.png",
            "plots/training-a-roc.png",
        ]
    )
    assert {truth: [plot.name for plot in of] for truth, of in found.items()} == {
        "": ["roc"],
        "experts": ["roc"],
        "training": ["training-a", "training-a-roc"],
    }
    assert all(plot.caption for of in found.values() for plot in of)


def test_the_page_and_the_markdown_show_a_figure_after_the_means_and_before_the_models(
    results, tmp_path
):
    (tmp_path / "plots").mkdir()
    drawing(tmp_path / "plots")
    for name in ("png", "svg"):
        (tmp_path / "plots" / f"curve.{name}").rename(tmp_path / "plots" / f"roc.{name}")
    page = report_page(results, ["plots/roc.png"], tmp_path)
    text = markdown(results, ["plots/roc.png"])
    for whole, mark in ((page, "<svg"), (text, "![roc](plots/roc.png)")):
        places = [whole.index(x) for x in (">Means<" if mark == "<svg" else "## Means", mark)]
        assert places == sorted(places)
        assert whole.index("ROC curves; the band") > places[1]
        assert whole.index("Calibration:") > places[1]


def test_a_model_says_which_network_it_is(results):
    provenance = {"trained_on": "9 films", "date": "2026-01-02"}
    config = {
        "architecture": "resnet18",
        "cft": {"weights_sha256": "0123456789abcdef", "provenance": provenance},
    }
    (name,) = results["models"]
    model = {**results["models"][name], "folder": _folder(config)}
    text = markdown({**results, "models": {name: model}})
    assert (
        "Network: resnet18, weights 0123456789ab, trained on 9 films, made on 2026-01-02." in text
    )
    assert "Network:" not in markdown(results)  # a table of predictions
    assert _folder({"cft": {"members": ["a", "b"]}})["architecture"] == "ensemble of 2"


ROWS = """<details><summary>5 rows</summary><table><thead><tr>
<th aria-sort="none"><button type="button">p</button></th></tr></thead><tbody>
<tr><th>0.0100</th></tr><tr><th></th></tr><tr><th>&lt; 0.0001</th></tr><tr><th>0.0001</th></tr>
<tr><th>1,000 (2 to 3)</th></tr></tbody></table></details>"""


@pytest.fixture(scope="module")
def visit(results, tmp_path_factory):
    if not chromium.PATH.exists():
        pytest.skip(f"no Chromium at {chromium.PATH} (Debian: apt-get install chromium)")
    path = tmp_path_factory.mktemp("page") / "report.html"
    text = report_page(results)
    path.write_text(text.replace("</main>", f"{ROWS}</main>"), encoding="utf-8")
    with chromium.chromium() as browser:
        page = browser.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page, asked, path.as_uri()


@pytest.mark.slow
def test_a_browser_fetches_only_the_page(visit):
    _, asked, address = visit
    assert asked == [address]


@pytest.mark.slow
def test_a_click_sorts_by_number_with_what_is_less_first_and_the_empty_last(visit):
    page, *_ = visit
    page.click("summary")
    button, cells = page.locator("details thead button"), page.locator("details tbody th")
    button.click()
    assert cells.all_inner_texts() == ["< 0.0001", "0.0001", "0.0100", "1,000 (2 to 3)", ""]
    button.click()
    assert cells.all_inner_texts() == ["1,000 (2 to 3)", "0.0100", "0.0001", "< 0.0001", ""]
    page.click("summary")


@pytest.mark.slow
def test_what_is_folded_away_is_printed_and_folded_again(visit):
    page, *_ = visit
    state = "document.querySelector('details').open"
    assert page.evaluate(state) is False
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(state) is True
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(state) is False


@pytest.mark.slow
def test_dark_is_dark_and_paper_is_white(visit):
    page, *_ = visit
    colours = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    seen = {}
    for scheme, media in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        page.emulate_media(color_scheme=scheme, media=media)
        paper, ink = (
            sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in page.evaluate(colours)
        )
        seen[scheme, media] = paper > ink
    assert seen == {("light", "screen"): True, ("dark", "screen"): False, ("dark", "print"): True}
