"""Reading and writing model folders: everything that does not fit is refused, by name."""

import json
import shutil

import pytest
import safetensors.torch
import torch

from cft.errors import ModelFolderError
from cft.files import atomic_write
from cft.model.folder import read_model_folder, write_model_folder
from tests.conftest import random_model_config


@pytest.fixture
def copy(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "copy")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def replace_tensors(folder, tensors):
    """Put other tensors in place, with a configuration that agrees to their hash."""
    config = json.loads((folder / "config.json").read_text())
    del config["cft"]["weights_sha256"]
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def test_what_is_written_is_read_back(model_folder):
    folder = read_model_folder(model_folder)
    expected = random_model_config()
    ours = folder.config.pop("cft")
    assert folder.config == {key: value for key, value in expected.items() if key != "cft"}
    assert ours["format"] == 1
    assert ours["weights_sha256"] == folder.weights_sha256
    assert folder.label_names == ("Cardiomegaly", "Effusion", "Hernia")
    assert (model_folder / "README.md").read_text().startswith("# A model with random weights")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(ModelFolderError, match=f"has no {name}"):
        read_model_folder(copy)


def test_a_pickle_is_never_a_substitute(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=r"has no model\.safetensors"):
        read_model_folder(copy)


def test_weights_of_another_configuration_are_refused(copy):
    tensors = safetensors.torch.load_file(copy / "model.safetensors")
    tensors["fc.bias"] += 1
    safetensors.torch.save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"not the file that config\.json was written for"):
        read_model_folder(copy)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights_are_refused(copy, keep):
    config = json.loads((copy / "config.json").read_text())
    del config["cft"]["weights_sha256"]
    (copy / "config.json").write_text(json.dumps(config))
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(ModelFolderError, match="not a readable safetensors file"):
        read_model_folder(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_on_both_sides(copy, value, tmp_path):
    tensors = safetensors.torch.load_file(copy / "model.safetensors")
    tensors["fc.bias"][1] = value
    replace_tensors(copy, tensors)
    with pytest.raises(ModelFolderError, match=r"'fc\.bias'.*NaN or infinity"):
        read_model_folder(copy)
    with pytest.raises(ModelFolderError, match=r"'fc\.bias'.*NaN or infinity"):
        write_model_folder(
            tmp_path / "new", state_dict=tensors, config=random_model_config(), card=""
        )
    assert not (tmp_path / "new" / "config.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_configuration_that_is_not_an_object_is_refused(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        read_model_folder(copy)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architecture": None}, "architecture"),
        ({"pretrained_cfg": None}, "pretrained_cfg"),
        ({"model_args": [1]}, "model_args"),
        ({"label_names": None}, "label_names"),
        ({"label_names": ["a", "b"]}, "2 labels for 3 outputs"),
        ({"label_names": ["a", "b", "b"]}, "twice"),
        ({"cft": {"format": 2}}, "newer"),
        ({"cft": "mine"}, '"cft"'),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(copy, changes, named):
    edit_config(copy, **changes)
    with pytest.raises(ModelFolderError, match=named):
        read_model_folder(copy)


def test_a_huge_configuration_is_refused_unread(copy):
    (copy / "config.json").write_text(" " * (5 * 2**20))
    with pytest.raises(ModelFolderError, match="4 MiB"):
        read_model_folder(copy)


def test_labels_may_be_numbered_as_timm_allows(copy):
    edit_config(copy, label_names={"0": "a", "1": "b", "2": "c"}, cft={})
    assert read_model_folder(copy).label_names == ("a", "b", "c")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    target = tmp_path / "file.json"
    atomic_write(target, "old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_writing_again_replaces_the_model_and_keeps_other_files(copy):
    (copy / "log.jsonl").write_text("{}\n")
    tensors = {name: torch.zeros_like(t) for name, t in read_model_folder(copy).state_dict.items()}
    write_model_folder(copy, state_dict=tensors, config=random_model_config(), card="new")
    assert not any(tensor.any() for tensor in read_model_folder(copy).state_dict.values())
    assert (copy / "log.jsonl").exists()
