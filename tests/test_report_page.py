"""The report for people: one file that fetches nothing and shows whatever is in it as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from train.evaluation.figure import save_figure
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.protocol import Settings, evaluate_models
from train.evaluation.report_folder import _json
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
    text = report_page(results, [drawing(tmp_path)])
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
    return folder / "curve.svg"


def test_two_figures_share_no_id(results, tmp_path):
    path = drawing(tmp_path)
    text = report_page(results, [path, path])
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
