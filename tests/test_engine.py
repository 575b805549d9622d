"""What runs a network: ONNX Runtime gives torch's numbers, and torch is there without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import timm
import torch

import cft
from cft import cache
from cft.__main__ import main
from cft.errors import EngineError
from cft.model import onnx_engine
from cft.model.depths import GRID, Depth
from cft.model.engines import make_engine
from cft.model.ensemble import write_ensemble
from cft.model.folder import write_model_folder
from cft.model.torch_engine import Outputs, TorchEngine
from tests.conftest import ROOT, random_model_config

MISSING = 'the engine onnx is not installed: pip install "cft[fast]"'


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """An empty cache folder for each test."""
    monkeypatch.setenv("CFT_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def fast():
    pytest.importorskip("onnxruntime", reason="the extra `fast` is not installed")
    pytest.importorskip("onnx", reason="the extra `fast` is not installed")


@pytest.fixture
def bare(monkeypatch):
    """An environment without the extra."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def folder_of(path, architecture: str, size: int = 64, **arguments):
    """A model folder of a network with random weights, whose logits differ from film to film."""
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=3, in_chans=1, **arguments).eval()
    for buffer in network.buffers():  # running statistics other than 0 and 1
        if buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer) * 0.1)
    torch.nn.init.normal_(network.get_classifier().weight)
    config = random_model_config()
    config |= {"architecture": architecture, "model_args": {"in_chans": 1, **arguments}}
    config["pretrained_cfg"]["input_size"] = [1, size, size]
    del config["num_features"], config["global_pool"]
    return write_model_folder(path, state_dict=network.state_dict(), config=config, card="Random\n")


def batch_of(count: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 1, size, size), np.float32)


# --- Without the extra --------------------------------------------------------------------------


def test_an_unknown_engine_is_refused(tiny_model_folder):
    with pytest.raises(ValueError, match="no engine 'steam'; there are auto, torch, onnx"):
        cft.load(tiny_model_folder, "cpu", engine="steam")


def test_without_the_extra_torch_runs_the_network(tiny_model_folder, films, bare):
    model = cft.load(tiny_model_folder, "cpu")
    assert model.engine.name == "torch"
    assert set(model.predict(films[0]).probabilities) == set(model.label_names)


def test_without_the_extra_its_engine_is_an_error_that_names_the_extra(tiny_model_folder, bare):
    with pytest.raises(EngineError) as error:
        cft.load(tiny_model_folder, "cpu", engine="onnx")
    assert str(error.value) == MISSING


def test_without_the_exporter_torch_runs_the_network(tiny_model_folder, fast, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cft.load(tiny_model_folder, "cpu").engine.name == "torch"


def test_the_command_says_that_the_engine_is_missing(tiny_model_folder, films, bare, capsys):
    words = [str(films[0]), "--model", str(tiny_model_folder), "--device", "cpu"]
    assert main([*words, "--engine", "onnx"]) == 2
    assert capsys.readouterr().err == f"cft: {MISSING}\n"
    assert main([*words, "--engine", "auto"]) == 0


def built():
    """A small network, and that it has maps."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3, in_chans=1).eval(), True


def test_on_a_gpu_torch_runs_the_network():
    ask = (built, ("name",), batch_of(1), "cuda")
    assert make_engine(*ask, "auto").name == "torch"
    with pytest.raises(EngineError, match="runs on a CPU only, not on cuda"):
        make_engine(*ask, "onnx")


# --- With it ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("tf_efficientnet_lite0", {}),
        ("densenet121", {}),
        ("regnetx_004", {}),
        ("vit_tiny_patch16_224", {"img_size": 64}),
        ("convnext_atto", {}),
    ],
)
def test_its_numbers_are_those_of_torch(tmp_path, fast, architecture, arguments):
    folder = folder_of(tmp_path / "model", architecture, **arguments)
    torch_, onnx = (cft.load(folder, "cpu", engine=name) for name in ("torch", "onnx"))
    assert (torch_.engine.name, onnx.engine.name) == ("torch", "onnx")
    for count in (1, 3):  # other numbers of films than the graph was exported with
        batch = batch_of(count)
        with torch.inference_mode():
            expected = torch_.network(torch.from_numpy(batch)).numpy()
        assert expected.std() > 0.01
        np.testing.assert_allclose(onnx.logits(batch), expected, atol=1e-3, rtol=0)
        np.testing.assert_array_equal(onnx.logits(torch.from_numpy(batch)), onnx.logits(batch))
    generator = np.random.default_rng(0)
    film = cft.Radiograph(generator.random((90, 80), np.float32))
    one, other = torch_.predict(film), onnx.predict(film)
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
    assert torch_.has_heatmaps == onnx.has_heatmaps
    if onnx.has_heatmaps:
        for label in onnx.label_names:
            assert np.abs(one.heatmap(label) - other.heatmap(label)).max() < 1e-3


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_no_film_has_no_logits(tmp_path, fast, engine):
    model = cft.load(folder_of(tmp_path / "model", "regnetx_004"), "cpu", engine=engine)
    assert model.logits(np.zeros((0, *model.preprocess.input_size), np.float32)).shape == (0, 3)


def test_no_padding_is_left_to_be_computed_in_a_pass(tmp_path, fast):
    """Of TensorFlow's kind, which depends on the size of what is padded."""
    import onnx
    import onnxruntime

    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", in_chans=1).eval()
    graph = onnx_engine._export(Outputs(network, True), np.zeros((1, 1, 64, 64), np.float32))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "Conv" in left
    assert not left & {"Pad", "Shape"}


def test_it_is_chosen_where_it_is_installed_and_by_an_ensemble_too(
    tiny_model_folder, films, tmp_path, fast
):
    model = cft.load(tiny_model_folder, "cpu")
    assert model.engine.name == "onnx"
    config = random_model_config() | {"architecture": "ensemble"}
    members = [("one", tiny_model_folder, 1.0), ("two", tiny_model_folder, 1.0)]
    path = write_ensemble(tmp_path / "e", members, average="logits", config=config, card="")
    for wanted, used in (("auto", "onnx"), ("torch", "torch")):
        ensemble = cft.load(path, "cpu", wanted)
        assert [member.engine.name for member in ensemble.members] == [used, used]
    found = cft.load(path, "cpu").predict(films[0]).scores
    assert found == pytest.approx(cft.load(path, "cpu", "torch").predict(films[0]).scores, abs=1e-3)


def test_maps_and_fields_come_from_the_same_pass(fast):
    network, _ = built()
    depths, batch = (Depth("layer2", 48), Depth("layer4", 96)), batch_of(2)
    ask = (lambda: (network, True), ("x",), batch[:1], "cpu")
    engines = [make_engine(*ask, name, depths) for name in ("torch", "onnx")]
    heard = {}
    for depth in depths:
        part = network.get_submodule(depth.module)
        part.register_forward_hook(lambda module, x, y, name=depth.module: heard.update({name: y}))
    with torch.inference_mode():
        features = network.forward_features(torch.from_numpy(batch))
        places = features.movedim(1, -1)  # the head of each place, by itself
        maps = torch.stack([network.fc(film) for film in places]).movedim(-1, 1)
    for engine in engines:
        seen = engine(batch)
        np.testing.assert_allclose(seen.maps, maps, atol=1e-3, rtol=1e-3)
        assert set(seen.fields) == {depth.module for depth in depths}
        for name, output in heard.items():
            means = torch.nn.functional.adaptive_avg_pool2d(output, GRID).flatten(2).mT
            np.testing.assert_allclose(seen.fields[name], means, atol=1e-3, rtol=1e-3)


def test_a_module_that_the_network_lacks_is_refused():
    with pytest.raises(ValueError, match="no module 'layer9'"):
        Outputs(*built(), [Depth("layer9", 3)])


def test_passes_of_several_threads_are_not_mixed_up():
    engine = TorchEngine(Outputs(*built(), [Depth("layer1", 32)]), "cpu")
    batches = [batch_of(1) * factor for factor in range(1, 5)]
    expected = [engine(batch).fields["layer1"] for batch in batches]
    wrong = []

    def run(number: int) -> None:
        for _ in range(10):
            if not np.allclose(engine(batches[number]).fields["layer1"], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_command_needs_no_network_and_says_nothing_beside_the_findings(
    tiny_model_folder, films, fast
):
    """The guard of `tests/loopback` ends a process that looks for a remote host."""
    words = [str(films[0]), "--model", str(tiny_model_folder), "--plain", "--device", "cpu"]
    command = [sys.executable, "-m", "cft", *words, "--engine", "onnx"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3


# --- What cannot be run -------------------------------------------------------------------------


def test_a_network_that_cannot_be_exported_is_run_by_torch(tiny_model_folder, fast, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Unsupported: aten::odd\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    assert cft.load(tiny_model_folder, "cpu").engine.name == "torch"
    with pytest.raises(EngineError, match=r"cannot be exported to ONNX \(Unsupported: aten::odd\)"):
        cft.load(tiny_model_folder, "cpu", engine="onnx")


def test_a_graph_that_does_not_agree_with_torch_is_not_used(tmp_path, fast, monkeypatch):
    folder = folder_of(tmp_path / "model", "test_resnet")
    other = cft.load(folder_of(tmp_path / "other", "test_efficientnet", 160), "cpu", engine="torch")
    graph = onnx_engine._export(Outputs(other.network, True), batch_of(1, 160))
    monkeypatch.setattr(onnx_engine, "_export", lambda *_: graph)
    assert cft.load(folder, "cpu").engine.name == "torch"


def test_nor_is_one_that_nearly_agrees(tmp_path, fast, monkeypatch):
    folder = folder_of(tmp_path / "model", "test_resnet")
    nearly = cft.load(folder, "cpu", engine="torch").network
    torch.nn.init.constant_(nearly.get_classifier().bias, 0.01)
    graph = onnx_engine._export(Outputs(nearly, True), batch_of(1))
    monkeypatch.setattr(onnx_engine, "_export", lambda *_: graph)
    with pytest.raises(EngineError, match="logits are not those of torch"):
        cft.load(folder, "cpu", engine="onnx")


def test_a_network_too_large_for_the_format_is_run_by_torch(tiny_model_folder, fast, monkeypatch):
    monkeypatch.setattr(onnx_engine, "MAX_BYTES", 1000)
    assert cft.load(tiny_model_folder, "cpu").engine.name == "torch"


# --- The kept graph -----------------------------------------------------------------------------


@pytest.fixture
def exports(monkeypatch):
    """How often a graph was exported."""
    count, export = [], onnx_engine._export
    monkeypatch.setattr(onnx_engine, "_export", lambda *x: count.append(1) or export(*x))
    return count


def test_a_network_is_exported_once(tiny_model_folder, films, kept, exports, fast):
    scores = [cft.load(tiny_model_folder, "cpu").predict(films[0]).scores for _ in range(3)]
    assert len(exports) == 1
    assert scores[0] == scores[1] == scores[2]
    (file,) = kept.iterdir()
    assert file.suffix == ".onnx"


def test_with_a_kept_graph_torch_is_not_even_imported(tiny_model_folder, films, fast):
    first = cft.load(tiny_model_folder, "cpu").predict(films[0])
    code = (
        "import sys, cft\n"
        f"findings = cft.load({str(tiny_model_folder)!r}, 'cpu').predict({str(films[0])!r})\n"
        "print('torch' in sys.modules, list(findings.scores.values()), findings._maps.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    imported, scores = done.stdout.split(" ", 1)
    assert imported == "False"
    expected = f"{list(first.scores.values())} {first._maps.tolist()}"
    assert scores.strip() == expected


def test_a_kept_graph_spares_no_folder_its_checks(tiny_model_folder, tmp_path, fast):
    """The same weights, but an input so scaled that no score is finite."""
    cft.load(tiny_model_folder, "cpu")
    copy = shutil.copytree(tiny_model_folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["pretrained_cfg"]["std"] = [1e-300]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(cft.ModelFolderError, match="not finite"):
        cft.load(copy, "cpu")


def test_the_network_is_there_when_it_is_asked_for(tiny_model_folder, fast):
    cft.load(tiny_model_folder, "cpu")
    model = cft.load(tiny_model_folder, "cpu")
    batch = batch_of(2)
    with torch.inference_mode():
        expected = model.network(torch.from_numpy(batch))
    np.testing.assert_allclose(model.logits(batch), expected, atol=1e-3, rtol=0)
    assert model.network is model.network


def test_a_damaged_or_foreign_graph_is_made_anew(
    tiny_model_folder, model_folder, kept, exports, fast
):
    expected = cft.load(tiny_model_folder, "cpu", engine="torch").logits(batch_of(2))
    cft.load(tiny_model_folder, "cpu")
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    cft.load(model_folder, "cpu")
    (foreign,) = set(kept.iterdir()) - {file}
    for damaged in (whole[:-1], b"", whole[:-1] + b"?", foreign.read_bytes()):
        file.write_bytes(damaged)
        exports.clear()
        model = cft.load(tiny_model_folder, "cpu")
        assert model.engine.name == "onnx"
        assert len(exports) == 1
        np.testing.assert_allclose(model.logits(batch_of(2)), expected, atol=1e-3, rtol=0)
        assert file.read_bytes() != damaged


def test_other_weights_are_another_graph(tiny_model_folder, tmp_path, kept, exports, fast):
    copy = shutil.copytree(tiny_model_folder, tmp_path / "copy")
    cft.load(tiny_model_folder, "cpu")
    cft.load(copy, "cpu")  # the same weights in another place
    assert len(exports) == 1
    tensors = cft.load(copy, "cpu", engine="torch").network.state_dict()
    tensors = {name: x + 0.01 if name == "fc.bias" else x for name, x in tensors.items()}
    config = json.loads((copy / "config.json").read_text())
    write_model_folder(copy, state_dict=tensors, config=config, card="")
    cft.load(copy, "cpu")
    assert len(exports) == 2
    assert len(list(kept.iterdir())) == 2


def test_nothing_is_kept_where_that_is_not_possible(
    tiny_model_folder, tmp_path, monkeypatch, exports, fast
):
    (tmp_path / "file").write_text("")
    for place in ("", str(tmp_path / "file" / "folder")):
        monkeypatch.setenv("CFT_CACHE", place)
        for _ in range(2):
            assert cft.load(tiny_model_folder, "cpu").engine.name == "onnx"
    assert len(exports) == 4


def test_the_cache_forgets_what_was_not_used_for_longest(kept, monkeypatch):
    monkeypatch.setattr(cache, "MOST_FILES", 2)
    for number, name in enumerate(("a.onnx", "b.onnx")):
        cache.keep(name, name.encode())
        os.utime(kept / name, (number, number))
    assert cache.fetch("a.onnx") == b"a.onnx"  # used, so that b is the older one
    cache.keep("c.onnx", b"c.onnx")
    assert cache.fetch("b.onnx") is None
    assert (cache.fetch("a.onnx"), cache.fetch("c.onnx")) == (b"a.onnx", b"c.onnx")


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("CFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "cft"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.cache_folder() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "cft"
