"""The gate has the same evidence from either engine, from the pass that gives the scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cft
from cft.film.turn import turned
from cft.model import gate as model_gate
from cft.model import onnx_engine
from cft.model.depths import GRID
from cft.model.folder import read_config, read_model_folder, write_model_folder
from cft.model.gate_fit import fit_gate
from cft.model.gate_folder import store_gate
from cft.model.listening import _fields
from cft.model.network import build_network, new_network
from cft.model.onnx_engine import OnnxEngine
from tests.conftest import ROOT, random_model_config
from train.datasets import read_dataset

SIZE = 96


@pytest.fixture(autouse=True)
def gate_is_on(monkeypatch, tmp_path):
    """The other tests switch it off; and no graph is kept from one test to another."""
    monkeypatch.delenv("CFT_GATE")
    monkeypatch.setenv("CFT_CACHE", str(tmp_path / "kept"))
    model_gate.bundled_gatekeeper.cache_clear()
    yield
    model_gate.bundled_gatekeeper.cache_clear()


@pytest.fixture
def fast():
    pytest.importorskip("onnxruntime", reason="the extra `fast` is not installed")
    pytest.importorskip("onnx", reason="the extra `fast` is not installed")


@pytest.fixture(scope="module")
def phantoms() -> np.ndarray:
    """(90, 96, 96) uint8: chest films drawn by code."""
    table = read_dataset("phantoms", None, phantoms=90, phantom_size=SIZE)
    assert table.pixels is not None
    return np.asarray(table.pixels)


@pytest.fixture(scope="module")
def pictures(phantoms) -> list[cft.Radiograph]:
    """Films that the gates did not learn from, some of them turned, and noise."""
    films = [cft.Radiograph(x.astype(np.float32) / 255) for x in phantoms[80:]]
    noise = np.random.default_rng(0).random((SIZE, SIZE), np.float32)
    return [
        *films,
        *(turned(films[0], x) for x in ("turn left", "turn right", "turn around", "invert")),
        cft.Radiograph(noise),
    ]


def seen_by_batch_norm(network: torch.nn.Module, films: np.ndarray) -> None:
    """Running statistics of films, without which features of random weights grow with depth."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # type: ignore[assignment]  # the plain mean, as torch documents
    with torch.no_grad():
        network.train()(torch.from_numpy(films).float()[:, None] / 127.5 - 1)
    network.eval()


@pytest.fixture(scope="module")
def gated(tmp_path_factory, phantoms):
    """Make a model folder of a network with random weights and a gate of its own."""
    made: dict[str, Path] = {}

    def make(architecture: str = "test_resnet", **arguments) -> Path:
        name = architecture + str(arguments)
        if name not in made:
            torch.manual_seed(0)
            arguments = {"in_chans": 1, **arguments}
            network = new_network(architecture, num_classes=3, **arguments)
            seen_by_batch_norm(network, phantoms[:20])
            torch.nn.init.normal_(network.get_classifier().weight)
            config = random_model_config()
            config |= {"architecture": architecture, "model_args": arguments}
            config["pretrained_cfg"]["input_size"] = [1, SIZE, SIZE]
            del config["num_features"], config["global_pool"]
            path = tmp_path_factory.mktemp("gated") / "model"
            write_model_folder(path, state_dict=network.state_dict(), config=config, card="")
            folder = read_model_folder(path)
            films = phantoms[:50], phantoms[50:80]
            gate = fit_gate(build_network(folder), folder.facts.preprocess, *films)
            store_gate(folder, gate)
            made[name] = path
        return made[name]

    return make


def batch_of(model: cft.Classifier, films: list[cft.Radiograph]) -> np.ndarray:
    return np.stack([model.preprocess(film.pixels) for film in films])


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 7, 12, 13])
def test_fields_are_those_of_adaptive_pooling(side):
    maps = torch.randn((2, 3, side, side + 1), generator=torch.Generator().manual_seed(0))
    expected = F.adaptive_avg_pool2d(maps, GRID).flatten(2).transpose(1, 2)
    torch.testing.assert_close(_fields(maps, 3, 0), expected)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        pytest.param("tf_efficientnet_lite0", {}, marks=pytest.mark.slow),
        ("test_resnet", {}),
        ("test_vit", {"img_size": SIZE}),
        ("joined", {"of": "test_efficientnet", "copies": 2}),
        ("spatial_pyramid", {"of": "test_efficientnet", "depths": "blocks.0+blocks.2"}),
    ],
)
def test_both_engines_judge_alike(gated, pictures, fast, architecture, arguments):
    folder = gated(architecture, **arguments)
    one, other = (cft.load(folder, "cpu", name) for name in ("torch", "onnx"))
    assert (one.engine.name, other.engine.name) == ("torch", "onnx")
    assert one.gatekeeper.engine is one.engine
    assert other.gatekeeper.engine is other.engine
    judged = [model.predict(pictures, batch_size=4) for model in (one, other)]
    assert [f.gate for f in judged[0]] == [f.gate for f in judged[1]]
    assert len({f.gate.verdict for f in judged[0]}) > 1
    statistics, batch = one.gatekeeper.statistics, batch_of(one, pictures)
    found = []
    for model in (one, other):
        table, distances = model_gate.evidence(statistics.depths, model.engine(batch).fields)
        found.append((distances, model_gate.probabilities(statistics, table)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    for a, b in zip(*judged, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-3)


def test_one_pass_gives_scores_maps_and_gate(gated, pictures, fast, monkeypatch):
    model = cft.load(gated(), "cpu", "onnx")
    sizes, call = [], OnnxEngine.__call__
    monkeypatch.setattr(
        OnnxEngine, "__call__", lambda self, x: sizes.append(len(x)) or call(self, x)
    )
    model.predict(pictures[:5], batch_size=3)
    assert sizes == [3, 2]


def test_a_model_without_statistics_and_the_bundled_one_see_a_film_once_each(
    gated, tiny_model_folder, pictures, fast, monkeypatch
):
    monkeypatch.setattr(model_gate, "BUNDLED", gated())
    bundled = cft.load(gated(), "cpu", "torch")
    for name in ("torch", "onnx", "auto"):
        model = cft.load(tiny_model_folder, "cpu", name)
        assert model.gatekeeper.engine.name == model.engine.name
        assert [f.gate for f in model.predict(pictures)] == [
            f.gate for f in bundled.predict(pictures)
        ]
    passes, call = [], OnnxEngine.__call__
    monkeypatch.setattr(
        OnnxEngine, "__call__", lambda self, x: passes.append(self) or call(self, x)
    )
    model.predict(pictures[:4])
    assert passes == [model.engine, model.gatekeeper.engine]


def test_the_bundled_gate_is_there_where_the_model_insists_on_onnx(
    gated, tiny_model_folder, fast, monkeypatch
):
    """What judges may be run by torch all the same."""
    monkeypatch.setattr(model_gate, "BUNDLED", gated())
    cft.load(tiny_model_folder, "cpu", "onnx")  # so that its graph is kept
    model_gate.bundled_gatekeeper.cache_clear()
    monkeypatch.setattr(onnx_engine, "_GRAPH", -1)
    export = onnx_engine._export
    monkeypatch.setattr(
        onnx_engine,
        "_export",
        lambda outputs, x: export(outputs, x) if not outputs.depths else b"no graph",
    )
    model = cft.load(tiny_model_folder, "cpu", "onnx")
    assert (model.engine.name, model.gatekeeper.engine.name) == ("onnx", "torch")


@pytest.mark.parametrize("own", [True, False])
def test_with_kept_graphs_torch_is_not_imported(
    gated, tiny_model_folder, pictures, fast, own, monkeypatch
):
    """Neither the model's own nor that of the bundled one, in a process of its own."""
    folder = gated() if own else tiny_model_folder
    code = (
        "import sys, json, numpy as np, pathlib, cft\n"
        "from cft.model import gate\n"
        f"gate.BUNDLED = pathlib.Path({str(gated())!r})\n"
        f"model = cft.load({str(folder)!r}, 'cpu')\n"
        "film = cft.Radiograph(np.random.default_rng(0).random((96, 96), np.float32))\n"
        "engines = [model.engine.name, model.gatekeeper.engine.name]\n"
        "verdict = model.predict(film).gate.verdict\n"
        "print(json.dumps([*engines, 'torch' in sys.modules, verdict]))"
    )
    monkeypatch.setattr(model_gate, "BUNDLED", gated())
    model = cft.load(folder, "cpu")  # keeps the graphs
    film = cft.Radiograph(np.random.default_rng(0).random((96, 96), np.float32))
    assert [model.engine.name, model.gatekeeper.engine.name] == ["onnx", "onnx"]
    verdict = model.predict(film).gate.verdict
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["onnx", "onnx", False, verdict]
    assert verdict != "pass"


def test_other_depths_are_another_graph(gated, fast, monkeypatch):
    count, export = [], onnx_engine._export
    monkeypatch.setattr(onnx_engine, "_export", lambda *x: count.append(1) or export(*x))
    for _ in range(2):
        assert cft.load(gated(), "cpu").engine.name == "onnx"
    assert len(count) == 1
    monkeypatch.setenv("CFT_GATE", "off")
    for _ in range(2):
        assert cft.load(gated(), "cpu").gatekeeper is None
    assert len(count) == 2


def test_a_graph_whose_fields_are_not_torchs_is_not_used(gated, fast, monkeypatch):
    export = onnx_engine._export

    def spoilt(outputs, example):
        with monkeypatch.context() as patch:
            shares = "cft.model.listening._shares"
            patch.setattr(shares, lambda side, device: torch.eye(GRID, side) / 10)
            return export(outputs, example)

    monkeypatch.setattr(onnx_engine, "_export", spoilt)
    assert cft.load(gated(), "cpu").engine.name == "torch"
    with pytest.raises(cft.ModelFolderError, match=r"fields of .* are not those of torch"):
        cft.load(gated(), "cpu", "onnx")


@pytest.mark.parametrize("engine", ["torch", "auto"])
@pytest.mark.parametrize(
    ("change", "message"),
    [({"module": "fc"}, "shows no map of"), ({"module": "layer9"}, "has no part 'layer9'")],
)
def test_statistics_of_a_part_without_maps_are_refused(gated, tmp_path, engine, change, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in gated().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = read_config(folder)
    config["cft"]["gate"]["depths"][0].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(cft.ModelFolderError, match=f"of another network.*{message}"):
        cft.load(folder, "cpu", engine)
