"""A converted folder goes wherever a native one goes: loader, page, commands, both stages."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from gradio_client import Client, handle_file
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import cft
import train.cft
import train.evaluate
import train.negative
from cft import __main__ as command
from cft.convert.__main__ import main as convert
from cft.convert.catalogue import CONVERTERS
from cft.labels import NIH_14
from cft.model.folder import WEIGHTS, read_model_folder
from cft.page import server
from tests.conftest import ROOT
from tests.test_convert_peers import as_eva, eva, randomise

pytestmark = pytest.mark.slow

#: Converters of the same module and architecture as one that is tried.
SAME_AS = {
    "torchvision-densenet": "dacnet",
    "gaetandi-chexpert": "dacnet",
    "arnoweng-chexnet": "dacnet",
}
#: What makes no model but a start; ImageNet's classes, or no outputs at all.
STARTS = {"efficientnet-lite", "rad-dino"}


# --- Checkpoints with random weights --------------------------------------------------------------


def dacnet(folder: Path) -> list[str]:
    torch.manual_seed(0)
    tensors = randomise(torchvision.models.densenet121(num_classes=14)).state_dict()
    torch.save(tensors, folder / "dannynet.pth")
    return ["dacnet", str(folder / "dannynet.pth")]


def torchxrayvision(folder: Path) -> list[str]:
    torch.manual_seed(0)
    network = torchvision.models.densenet121(num_classes=18)
    network.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save(randomise(network).state_dict(), folder / "densenet121-res224-chex.pt")
    return ["torchxrayvision", str(folder / "densenet121-res224-chex.pt")]


def eva_x(folder: Path) -> list[str]:
    torch.manual_seed(0)
    tensors = randomise(eva("tiny", num_classes=3)).state_dict()
    torch.save({"model": as_eva(tensors, fused=True)}, folder / "eva_x_ti.pt")
    return ["eva-x", str(folder / "eva_x_ti.pt"), "--labels", "Mass,Nodule,Hernia"]


def keras_efficientnet(folder: Path) -> list[str]:
    return keras(folder, "efficientnet_b0")


def keras_resnet(folder: Path) -> list[str]:
    """An architecture of this project's own."""
    return keras(folder, "resnet50v2")


def keras(folder: Path, network: str) -> list[str]:
    pytest.importorskip("h5py", reason="h5py is not installed")
    from tests import test_convert_keras as made

    tape = made.Tape()
    features = getattr(made, network)(tape, made.film().expand(-1, 3, -1, -1))
    tape.dense("predictions", features, 3)
    made.save(folder / "optimized_model.h5", tape, [64, 64, 3])
    return ["cft-keras", str(folder / "optimized_model.h5"), "--labels", "Edema,Mass,Nodule"]


TRIED = {
    "dacnet": dacnet,
    "torchxrayvision": torchxrayvision,
    "eva-x": eva_x,
    "cft-keras": keras_efficientnet,
    "cft-keras, ResNet": keras_resnet,
}


def test_no_converter_is_forgotten():
    assert {*CONVERTERS} == {name.partition(",")[0] for name in TRIED} | {*SAME_AS} | STARTS


@pytest.fixture(params=TRIED)
def folder(request, tmp_path) -> Path:
    """A converted folder; DenseNets then read films of 64 pixels, which takes a twelfth as long."""
    name, source, *more = TRIED[request.param](tmp_path)
    folder = tmp_path / "converted"
    assert convert([name, source, str(folder), *more]) == 0
    config = json.loads((folder / "config.json").read_text())
    if config["architecture"].startswith("densenet"):
        stated = config["pretrained_cfg"]
        stated["input_size"] = [stated["input_size"][0], 64, 64]
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def labelled_films(folder: Path, labels: tuple[str, ...]) -> Path:
    """A CSV of 24 films of noise of which all labels are known, on all three sides."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(24):
        pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).resize((70, 80)).save(folder / f"{number}.png")
        known = (random.permutation(len(labels)) + number) % 2
        side = ("train", "train", "valid", "test")[number // 6]
        rows.append([f"{number}.png", f"p{number}", side, *known])
    with (folder / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "patient", "split", *labels], *rows])
    return folder / "films.csv"


def same_but_for_the_last_layer(one: Path, other: Path) -> bool:
    first, second = read_model_folder(one), read_model_folder(other)
    last = first.config["pretrained_cfg"]["classifier"]
    kept = {name for name in first.state_dict if not name.startswith(f"{last}.")}
    return kept < second.state_dict.keys() and all(
        torch.equal(first.state_dict[name], second.state_dict[name]) for name in kept
    )


def test_a_converted_folder_goes_where_a_native_one_goes(
    folder, tmp_path, capsys, monkeypatch, no_plots
):
    labels = read_model_folder(folder).label_names
    example = ROOT / "cft" / "page" / "example.png"
    work = ["--threads", "1", "--workers", "1", "--device", "cpu"]

    # The page, whose gate is the bundled model's.
    monkeypatch.delenv("CFT_GATE")
    noise = np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with server.serve(cft.load(folder, "cpu", engine="torch")) as address:
        files = [handle_file(str(path)) for path in (example, tmp_path / "noise.png")]
        page = Client(address, verbose=False)
        film, other = page.predict(files, api_name="/predict")["films"]
    assert film["gate"]["verdict"] in ("pass", "warn")  # it is drawn by code
    assert {row["label"] for row in film["findings"]} == {*labels}
    assert other["gate"]["verdict"] == "refuse"
    assert other["findings"] == []
    monkeypatch.setenv("CFT_GATE", "off")

    # The command line gives the page's scores.
    capsys.readouterr()
    words = [str(example), "--model", str(folder), "--json", "--engine", "torch"]
    assert command.main(words) == 0
    said = json.loads(capsys.readouterr().out)["films"][0]["findings"]
    scores = {row["label"]: row["score"] for row in film["findings"]}
    assert {row["label"]: row["score"] for row in said} == pytest.approx(scores, rel=1e-4)

    # An evaluation.
    data = labelled_films(tmp_path, labels)
    report = tmp_path / "report"
    words = ["--model", str(folder), "--data", str(data), "--out", str(report)]
    assert train.evaluate.main([*words, "--replicates", "20"]) == 0
    (result,) = json.loads((report / "report.json").read_text())["models"].values()
    assert 0 <= result["subsets"]["all"]["auroc"] <= 1

    # Category-wise fine-tuning, of which only the last layer may be another.
    tuned = tmp_path / "tuned"
    words = ["--model", str(folder), "--data", str(data), "--out", str(tuned), *work]
    assert train.cft.main(words) == 0
    assert same_but_for_the_last_layer(folder, tuned)
    assert cft.load(tuned, "cpu", engine="torch").predict(example).probabilities.keys() == {*labels}

    # A start whose network stays as it is.
    config = read_model_folder(folder).config
    size = config["pretrained_cfg"]["input_size"][-1]
    frozen = tmp_path / "frozen"
    words = ["--data", str(data), "--init", str(folder), "--arch", config["architecture"]]
    words += ["--freeze", "--freeze-strength", "1", "--image-size", str(size)]
    assert train.negative.main([*words, "--out", str(frozen), *work]) == 0
    assert cft.load(frozen, "cpu", engine="torch").label_names == labels


def test_a_converted_folder_that_lacks_a_tensor_is_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    lost = sorted(name for name in tensors if name.endswith("weight"))[1]
    save_file({name: tensors[name] for name in tensors if name != lost}, folder / WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    del config["cft"]["weights_sha256"]  # what is left is not found by its hash alone
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(cft.ModelFolderError, match=re.escape(lost)):
        cft.load(folder, "cpu")


def test_a_label_of_nih_is_spelt_as_its_data_set_spells_it():
    """So that a converted model is measured on the films of its source without a map."""
    from cft.convert.densenet import PROJECTS

    assert {*PROJECTS["dacnet"].labels} == {*NIH_14}
