"""Heat maps beside those of films without findings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import cft
from cft.errors import ModelFolderError
from cft.heatmap import beside_normal
from cft.model.folder import CONFIG
from cft.model.odds import logit
from tests.test_negative import arguments, labels, make_run, write_data
from train import cft as stage_2
from train import negative
from train.publishing.normal_maps import kept_normal_maps, normal_maps
from train.stage1.run import State


def with_map(folder: Path, target: Path, value) -> Path:
    """The model folder with a normal map of its first category."""
    shutil.copytree(folder, target)
    config = json.loads((target / CONFIG).read_text())
    category = config["label_names"][0]
    rows = config["cft"].setdefault("categories", {})
    rows[category] = {**(rows.get(category) or {}), "normal_map": value}
    (target / CONFIG).write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    "value",
    [
        *("text", 1, {}, [], [[]], [1.0], [[1.0], []], [[1.0], [1.0, 2.0]], [["1"]], [[True]]),
        *([[None]], [[1e300]], [[0.0] * 1000], [[0.0]] * 1000),
    ],
)
def test_a_map_that_is_none_is_refused(model_folder, tmp_path, value):
    with pytest.raises(ModelFolderError, match="normal_map"):
        cft.load(with_map(model_folder, tmp_path / "model", value), device="cpu")


def test_a_map_of_another_network_changes_nothing(model_folder, films, tmp_path):
    plain = cft.load(model_folder, device="cpu").predict(films[0])
    other = cft.load(with_map(model_folder, tmp_path / "model", [[1.0, 2.0]]), device="cpu")
    label = next(iter(plain.scores))
    np.testing.assert_array_equal(other.predict(films[0]).heatmap(label), plain.heatmap(label))


def test_the_mean_stays_and_what_is_usual_is_taken_away():
    draw = np.random.default_rng(0)
    local, normal = draw.normal(size=(2, 7, 7)).astype(np.float32)
    found = beside_normal(local, normal.tolist())
    assert found.dtype == np.float32
    assert found.mean() == pytest.approx(local.mean(), abs=1e-6)
    expected = [[local[i, j] - normal[i, j] + normal.mean() for j in range(7)] for i in range(7)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(beside_normal(normal, normal), normal.mean(), atol=1e-6)
    np.testing.assert_array_equal(beside_normal(local, None), local)


def test_the_map_of_a_film_is_shown_beside_the_usual(model_folder, films, tmp_path):
    """At the positions of the feature map, where nothing is interpolated."""
    plain = cft.load(model_folder, device="cpu").predict(films[0])
    label, shape = next(iter(plain.scores)), plain._maps.shape[1:]
    normal = np.random.default_rng(1).normal(size=shape).round(3)
    folder = with_map(model_folder, tmp_path / "model", normal.tolist())
    other = cft.load(folder, device="cpu").predict(films[0])
    assert other.scores == plain.scores
    scale, bias = plain._categories[label].platt or (1.0, 0.0)
    local = (logit(other.heatmap(label, shape).astype(np.float64)) - bias) / scale
    expected = plain._maps[0] - normal + normal.mean()
    seen = np.abs(expected) < 8  # beyond, float32 rounds the probability
    np.testing.assert_allclose(local[seen], expected[seen], atol=0.02)


def test_normal_films_are_those_without_any_finding(tmp_path):
    """Against the mean over the films themselves, one by one."""
    y = labels(200)
    y[:60] = 0
    y[60:70] = np.nan  # nothing is known of these
    run = make_run(tmp_path, y)
    network = State.start(run).network.eval()
    found = normal_maps(run, network)
    rows = [row for row in run.rows["valid"] if (run.table.y[row] == 0).all()]
    assert len(rows) >= 20
    total = 0
    head = network.get_classifier()
    with torch.inference_mode():
        for row in rows:
            film = torch.from_numpy(np.asarray(next(iter(run.films.batches([[row]])))).copy())
            features = network.forward_features(run.preprocess.normalize(film.float() / 255))
            positions = features[0].permute(1, 2, 0) @ head.weight.T + head.bias
            total = total + positions.permute(2, 0, 1).numpy()
    np.testing.assert_allclose(found, total / len(rows), atol=1e-5)


def test_the_mean_map_of_a_frozen_network_is_found_again(tmp_path):
    """Other regressions find it; a damaged file is computed anew."""
    kept = tmp_path / "kept"
    kept.mkdir()
    y = labels(200)
    y[:60] = 0
    run = make_run(tmp_path, y)
    network = State.start(run).network.eval()
    assert np.array_equal(normal_maps(run, network, kept), normal_maps(run, network))
    torch.nn.init.normal_(network.get_classifier().weight)
    expected = normal_maps(run, network)
    films = run.films
    object.__setattr__(run, "films", None)  # nothing is asked of them
    assert np.array_equal(normal_maps(run, network, kept), expected)
    object.__setattr__(run, "films", films)
    (file,) = kept.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(normal_maps(run, network, kept), expected)


def test_too_few_normal_films_give_no_map(tmp_path):
    run = make_run(tmp_path, np.ones((60, 3), np.float32))
    assert normal_maps(run, State.start(run).network.eval()) is None


def test_a_network_that_ends_otherwise_has_none(tmp_path):
    run = make_run(tmp_path, np.zeros((200, 3), np.float32), arch="test_vit")
    assert normal_maps(run, State.start(run).network.eval()) is None


def test_a_regression_that_is_fitted_again_loses_its_map():
    before = {"A": {"normal_map": [[1.0]]}, "B": {"normal_map": [[2.0]]}, "C": None}
    after = {"A": {"platt": None}, "B": {"platt": None}, "C": {"platt": None}}
    kept = kept_normal_maps(after, before, {"A": "original", "B": "auto", "C": "original"})
    assert kept == {**after, "A": {"platt": None, "normal_map": [[1.0]]}}


@pytest.mark.slow
def test_training_writes_the_maps_and_stage_2_keeps_those_that_hold(tmp_path):
    data = write_data(tmp_path)
    lines = data.read_text().splitlines()
    # Of 32 validation films 24 have no finding.
    lines = [
        ",".join([*line.split(",")[:3], "0", "0"]) if ",valid," in line else line for line in lines
    ]
    mixed = [
        line[:-3] + "1,1" if ",valid," in line and i % 20 == 4 else line
        for i, line in enumerate(lines)
    ]
    data.write_text("\n".join(mixed) + "\n")
    out = tmp_path / "run"
    assert negative.main(arguments(data, out, epochs=1)) == 0
    rows = json.loads((out / CONFIG).read_text())["cft"]["categories"]
    assert all(np.ndim(row["normal_map"]) == 2 for row in rows.values())
    tuned = tmp_path / "cft"
    words = f"--model {out} --data {data} --out {tuned} --device cpu --threads 1 --workers 1"
    assert stage_2.main(words.split()) == 0
    ours = json.loads((tuned / CONFIG).read_text())["cft"]
    for label, method in ours["provenance"]["methods"].items():
        assert ("normal_map" in ours["categories"][label]) == (method == "original")
