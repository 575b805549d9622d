"""Films are answered without PyTorch, whose import takes seconds, once the graph was kept."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import cft
from cft.__main__ import main
from cft.model import devices
from cft.model.folder import WEIGHTS, open_model_folder
from cft.threads import processors, set_threads, threads
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def kept(tiny_model_folder, tmp_path_factory):
    """The environment of a process: a cache that holds the graph of the model, which it names."""
    pytest.importorskip("onnxruntime", reason="the extra `fast` is not installed")
    pytest.importorskip("onnx", reason="the extra `fast` is not installed")
    folder = str(tmp_path_factory.mktemp("kept"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFT_CACHE", folder)
        patch.setenv("CFT_GATE", "off")
        model = cft.load(tiny_model_folder, "cpu")
    assert model.engine.name == "onnx"
    return {
        **os.environ,
        "CFT_CACHE": folder,
        "CFT_GATE": "off",
        "CFT_MODEL": str(tiny_model_folder),
    }


_WITHOUT = """
import sys

class Without:
    def find_spec(name, *_):
        if name == "torch":
            raise ImportError("PyTorch was imported")

sys.meta_path.insert(0, Without)
"""


def said(code: str, environment: dict[str, str]) -> str:
    """What a process prints in which nobody can import PyTorch."""
    code = _WITHOUT + code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_where_no_graph_was_kept_torch_is_needed(kept, films, tmp_path):
    """Else the others would show nothing."""
    with pytest.raises(AssertionError, match="PyTorch was imported"):
        said("import cft; cft.load()", {**kept, "CFT_CACHE": str(tmp_path)})


def test_the_command_writes_findings_and_heat_maps(kept, films, tmp_path, monkeypatch):
    code = (
        "from cft.__main__ import main\n"
        f"sys.exit(main([{str(films[0])!r}, '--json', '--heatmaps', {str(tmp_path)!r}]))"
    )
    found = json.loads(said(code, kept))
    for name in ("CFT_CACHE", "CFT_GATE", "CFT_MODEL"):
        monkeypatch.setenv(name, kept[name])
    expected = cft.load(device="cpu", engine="torch").predict(films[0]).scores
    scores = {row["label"]: row["score"] for row in found["films"][0]["findings"]}
    assert scores == pytest.approx(expected, abs=1e-3)
    assert list(tmp_path.rglob("*.png"))


def test_the_page_answers(kept, films):
    """Everything that a film's answer is made of."""
    code = (
        "from cft.page import answers, api, batch\n"
        "from cft.page.loading import load_model\n"
        "from cft.page.start import with_gradio\n"
        "model, _ = load_model()\n"
        f"film = ('a film', {str(films[0])!r})\n"
        "with_gradio()\n"
        "label = model.label_names[0]\n"
        "print(len(answers.show(model, [film])) > 1000,\n"
        "      len(answers.show_together(model, [film], [film])) > 1000,\n"
        "      len(answers.predict(model, [film])['films']),\n"
        "      api.heat_map(model, [film], label)[:14], api.model(model)['heat_map_kind'],\n"
        "      sorted(batch.row(model, film[1]))[0])\n"
    )
    assert said(code, kept).split() == ["True", "True", "1", "data:image/png", "cam", "header"]


# --- What decides without it --------------------------------------------------------------------


def test_a_device_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.device_name(None) == "cuda"
    assert devices.device_name("cpu") == devices.device_name(torch.device("cpu")) == "cpu"
    assert devices.device_name("cuda:1") == devices.device_name(torch.device("cuda", 1)) == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.device_name(None) == "cpu"
    with pytest.raises(RuntimeError, match="sofa"):
        devices.device_name("sofa")


@pytest.mark.parametrize(
    ("platform", "there", "may"),
    [
        ("linux", (), False),
        ("linux", ("/dev/nvidiactl",), True),
        ("linux", ("/dev/kfd",), True),
        ("linux", ("/dev/dxg",), True),
        ("linux", ("/dev/nvme0",), False),
        ("darwin", (), False),
        ("win32", (), True),
    ],
)
def test_torch_is_asked_for_a_gpu_where_there_may_be_one(platform, there, may, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(devices.os.path, "exists", there.__contains__)
    assert devices._may_have_gpu()  # torch is imported: it is asked
    monkeypatch.delitem(sys.modules, "torch")
    assert devices._may_have_gpu() is may


def test_threads_are_as_many_as_torch_will_have(monkeypatch):
    before = torch.get_num_threads()
    try:
        set_threads(1)
        assert torch.get_num_threads() == threads() == 1
    finally:
        torch.set_num_threads(before)
    code = (
        "from cft.threads import processors, set_threads, threads\n"
        "print(threads(), processors()); set_threads(1); print(threads())\n"
        "set_threads(10**6); print(threads()); set_threads(1); sys.meta_path.pop(0)\n"
        "import torch; print(torch.get_num_threads(), threads())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    most = str(processors())
    assert said(code, environment).split() == [most, most, "1", most, "1", "1"]
    odd = {**environment, "OMP_NUM_THREADS": "2,1"}
    assert said("from cft.threads import threads; print(threads())", odd).strip() == most


# --- What is checked later ----------------------------------------------------------------------


def test_tensors_are_checked_when_they_are_asked_for(tiny_model_folder, tmp_path):
    tensors = open_model_folder(tiny_model_folder).state_dict
    spoilt = {**tensors, "fc.bias": torch.full_like(tensors["fc.bias"], np.nan)}
    from safetensors.torch import save_file

    config = json.loads((tiny_model_folder / "config.json").read_text())
    del config["cft"]["weights_sha256"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(spoilt, tmp_path / WEIGHTS)
    folder = open_model_folder(tmp_path)
    assert folder.names == tensors.keys()
    with pytest.raises(cft.ModelFolderError, match=r"'fc\.bias' .* holds NaN"):
        _ = folder.state_dict
    with pytest.raises(cft.ModelFolderError, match=r"'fc\.bias' .* holds NaN"):
        cft.load(tmp_path, "cpu")


def test_the_command_says_that_there_is_no_such_device(tiny_model_folder, films, capsys):
    words = [str(films[0]), "--model", str(tiny_model_folder), "--device", "sofa"]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("cft: --device sofa cannot be used (")
