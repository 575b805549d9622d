"""Peers' checkpoints, made here with random weights, against the peers' own networks."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import cft
from cft.__main__ import main as cft_main
from cft.convert import eva_x, rad_dino, xray_vision
from cft.convert.__main__ import main
from cft.convert.catalogue import CONVERTERS
from cft.convert.result import labels_of
from cft.convert.sources import find, read_tensors
from cft.errors import ConversionError
from cft.labels import CHEXPERT_14, NIH_14
from cft.model.folder import read_model_folder


def randomise(network: nn.Module) -> nn.Module:
    """Nothing stays at 0 or 1, so that no tensor can be left out or exchanged unnoticed."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim <= 1:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(0.5 + noise if "var" in name or "weight" in name else noise - 0.5)
    return network.eval()


def convert(name, source, folder, *more) -> int:
    return main([name, str(source), str(folder), *more])


def agrees(folder, original, channels, size=64):
    """The folder's network and the original one give the same scores (1e-5 relative)."""
    classifier = cft.load(folder, "cpu", engine="torch")  # at another size than its own
    x = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = original(x), classifier.logits(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    return classifier


def of_time(tensors):
    """Under the names of PyTorch before 0.4: ``norm.1`` for ``norm1``, and no counters."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)")
    return {
        old.sub(r"\1.\2", name): tensor
        for name, tensor in tensors.items()
        if "num_batches" not in name
    }


@pytest.fixture(scope="module")
def densenet():
    torch.manual_seed(0)
    return randomise(torchvision.models.densenet121(num_classes=14))


@pytest.fixture(scope="module")
def wrapped(densenet, tmp_path_factory):
    """Files as the three projects write them, by converter."""
    folder = tmp_path_factory.mktemp("peers")
    tensors = densenet.state_dict()
    sigmoid = {
        f"module.densenet121.{name.replace('classifier.', 'classifier.0.')}": tensor
        for name, tensor in tensors.items()
    }
    files = {
        "gaetandi-chexpert": {"epoch": 1, "state_dict": sigmoid, "best_loss": 0.1, "optimizer": {}},
        "arnoweng-chexnet": {"epoch": 1, "best_loss": 0.1, "state_dict": of_time(sigmoid)},
        "dacnet": OrderedDict(tensors),
    }
    paths = {}
    for name, content in files.items():
        paths[name] = folder / f"{name}.pth.tar"
        torch.save(content, paths[name])
    return paths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labels", "crop"),
    [
        ("gaetandi-chexpert", CHEXPERT_14, ("squash", 1.0)),
        ("arnoweng-chexnet", NIH_14, ("center", 0.875)),
        ("dacnet", tuple(sorted(NIH_14)), ("center", 0.875)),
    ],
)
def test_a_densenet_gives_the_scores_of_the_original(
    densenet, wrapped, name, labels, crop, tmp_path, films
):
    assert convert(name, wrapped[name], tmp_path / "out") == 0
    classifier = agrees(tmp_path / "out", densenet, 3)
    assert classifier.label_names == labels
    assert (classifier.preprocess.crop_mode, classifier.preprocess.crop_pct) == crop
    assert classifier.preprocess.mean == (0.485, 0.456, 0.406)
    assert classifier.has_heatmaps
    findings = classifier.predict(films[1])
    # The film as their loaders make it, but for the filter: three channels, normalised.
    assert findings.heatmap(labels[0]).shape == (100, 80)
    stock = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(stock(x), densenet(x), rtol=1e-4, atol=1e-3)


def test_old_names_below_the_wrapper_are_recognised(wrapped, tmp_path):
    path = wrapped["arnoweng-chexnet"]
    assert convert("torchvision-densenet", path, tmp_path / "out") == 0
    assert read_model_folder(tmp_path / "out").label_names == NIH_14


def test_labels_that_nobody_states_have_to_be_named(wrapped, tmp_path, capsys):
    for name in ("gaetandi-chexpert", "dacnet"):
        assert convert("torchvision-densenet", wrapped[name], tmp_path / "out") == 1
        assert "does not say what its 14 outputs are" in capsys.readouterr().err
    assert convert("dacnet", wrapped["dacnet"], tmp_path / "out", "--labels", "A,B") == 1
    assert "2 labels were named for 14 outputs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    names = ",".join(f"label {i}" for i in range(14))
    path = wrapped["gaetandi-chexpert"]
    assert convert("torchvision-densenet", path, tmp_path / "out", "--labels", names) == 0
    assert read_model_folder(tmp_path / "out").label_names[13] == "label 13"
    assert convert("torchvision-densenet", path, tmp_path / "b", "--labels", "chexpert-14") == 0
    assert read_model_folder(tmp_path / "b").label_names == CHEXPERT_14


def test_another_network_is_refused_by_its_first_tensor(densenet, tmp_path, capsys):
    tensors = densenet.state_dict()
    torch.save({**tensors, "features.extra": torch.zeros(1)}, tmp_path / "a.pth")
    assert convert("dacnet", tmp_path / "a.pth", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "is no densenet121: 1 tensors differ, first features.extra" in error
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "b.pth")
    assert convert("dacnet", tmp_path / "b.pth", tmp_path / "out") == 1
    assert "no DenseNet under torchvision's names" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- Reading without running --------------------------------------------------------------------


class Bomb:
    """What a hostile pickle would do."""

    def __reduce__(self):
        return (print, ("boom",))


class Shell:
    def __reduce__(self):
        return (os.system, ("echo boom",))


def test_code_in_a_pickle_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "other": Bomb()}, tmp_path / "a.pth")
    assert list(read_tensors(tmp_path / "a.pth")) == ["a"]  # the class that it names is inert
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Bomb()))
    torch.save({"state_dict": {}, "other": Shell()}, tmp_path / "c.pth")
    for name in ("a.pth", "b.pth", "c.pth"):
        assert convert("dacnet", tmp_path / name, tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "boom" not in captured.out + captured.err
    assert len(captured.err.splitlines()) == 3
    assert "b.pth is no checkpoint of PyTorch" in captured.err
    assert "c.pth cannot be read without running code" in captured.err
    assert "unsupported GLOBAL posix.system" in captured.err  # what it wants to run
    assert "weights_only" not in captured.err  # nor how to run it


def test_what_is_no_checkpoint_is_one_sentence(tmp_path, capsys):
    (tmp_path / "no.pth").write_bytes(b"no pickle at all")
    (tmp_path / "no.safetensors").write_bytes(b"nor this")
    torch.save([1, 2], tmp_path / "list.pth")
    for source, why in (
        (tmp_path / "no.pth", "is no checkpoint of PyTorch, or it is damaged"),
        (tmp_path / "no.safetensors", "is not readable safetensors"),
        (tmp_path / "list.pth", "holds no tensors by name"),
        (tmp_path / "nowhere.pth", "there is no checkpoint at"),
        (tmp_path, "holds 3 checkpoints instead of one"),
    ):
        assert convert("dacnet", source, tmp_path / "out") == 1
        error = capsys.readouterr().err
        assert why in error
        assert len(error.splitlines()) == 1


def test_what_wrappers_and_optimisers_add_to_tensors_is_taken_away(tmp_path):
    weight = torch.arange(3.0)
    content = {
        "model_ema": {},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
        "model": {"module._orig_mod.a": weight.double(), "module._orig_mod.b": weight[:2]},
    }
    torch.save(content, tmp_path / "a.pth")
    found = read_tensors(tmp_path / "a.pth")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "a": [0, 1, 2],
        "b": [0, 1],
    }
    assert found["a"].dtype == torch.float32


def test_tensors_that_share_their_memory_become_two(tmp_path):
    weight = torch.arange(3.0)
    torch.save({"a": weight, "b": weight}, tmp_path / "a.pth")
    found = read_tensors(tmp_path / "a.pth")
    assert found["a"].data_ptr() != found["b"].data_ptr()
    assert torch.equal(found["a"], found["b"])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2).to_sparse(),
        torch.zeros(2, dtype=torch.complex64),
    ],
    ids=["sparse", "complex"],
)
def test_a_tensor_of_an_odd_kind_is_named(tensor, tmp_path):
    torch.save({"a": tensor}, tmp_path / "a.pth")
    with pytest.raises(
        ConversionError, match=r"the tensor a of .* is sparse, quantised or complex"
    ):
        read_tensors(tmp_path / "a.pth")


def hollow(network, **other):
    """Every name of a network with a number instead of a tensor, but for those that are given."""
    with torch.device("meta"):
        names = network().state_dict()
    tensors = {**dict.fromkeys(names, torch.zeros(())), **other}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


HEAD = {"classifier.weight": torch.zeros(18, 4), "classifier.bias": torch.zeros(18)}
STEM = {"features.conv0.weight": torch.zeros(64, 1, 7, 7)}


@pytest.mark.parametrize(
    ("name", "other", "why"),
    [
        ("dacnet", {}, "has a tensor of shape () as classifier.weight, which has 2 sides there"),
        (
            "dacnet",
            {**HEAD, "features.conv0.weight": None},
            "has no tensor features.conv0.weight, which has 4 sides there",
        ),
        ("torchxrayvision", HEAD, "of shape () as features.conv0.weight, which has 4 sides"),
        ("torchxrayvision", STEM, "of shape () as classifier.weight, which has 2 sides"),
        (
            "torchxrayvision",
            {**STEM, **HEAD, "classifier.bias": None},
            "has no tensor classifier.bias, which has 1 sides there",
        ),
        (
            "torchxrayvision",
            {**STEM, **HEAD, "classifier.bias": torch.zeros(3)},
            "classifier.bias is not of 18 outputs",
        ),
    ],
)
def test_a_tensor_of_another_shape_is_named(name, other, why, tmp_path, capsys):
    torch.save(hollow(torchvision.models.densenet121, **other), tmp_path / "a.pth")
    assert convert(name, tmp_path / "a.pth", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert why in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("tensors", "words", "why"),
    [
        ({"pos_embed": torch.zeros(192)}, [], "of shape (192,) as pos_embed, which has 3 sides"),
        (
            {"pos_embed": torch.zeros(1, 197, 192), "mask_token": torch.zeros(1)},
            ["--labels", "nih-14"],
            "has no outputs, so --labels has nothing to name",
        ),
    ],
)
def test_an_odd_eva_x_is_refused_in_a_sentence(tensors, words, why, tmp_path, capsys):
    torch.save(tensors, tmp_path / "a.pth")
    assert convert("eva-x", tmp_path / "a.pth", tmp_path / "out", *words) == 1
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (["A", "B", "A"], "--labels names 'A' twice"),
        (["A", "B\nC", "D"], "label 2 of --labels holds a control character"),
        (["A", "", "B"], "label 2 of --labels is blank"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, why):
    with pytest.raises(ConversionError, match=why):
        labels_of(",".join(labels), 3)


# --- torchxrayvision ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xrv():
    """Networks as the package builds them, in random weights."""
    torch.manual_seed(0)
    dense = torchvision.models.densenet121(num_classes=18)
    dense.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    residual = torchvision.models.resnet50(num_classes=18)
    residual.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return randomise(dense), randomise(residual)


@pytest.mark.slow
def test_the_packages_densenet_keeps_its_trained_outputs_and_operating_points(xrv, tmp_path):
    weights = xray_vision.WEIGHTS["densenet121-res224-chex"]
    torch.save(xrv[0].state_dict(), tmp_path / weights.file)
    assert convert("torchxrayvision", tmp_path / weights.file, tmp_path / "out") == 0
    kept = [place for place, label in enumerate(weights.labels) if label]
    classifier = agrees(tmp_path / "out", lambda x: xrv[0](x)[:, kept], 1)
    assert classifier.label_names == tuple(label for label in weights.labels if label)
    assert len(classifier.label_names) == 11
    points = {label: c.threshold for label, c in classifier.categories.items()}
    assert points["Pneumonia"] == 0.07749717
    assert points["Lung Opacity"] == 0.3270967
    # What the package makes of pixels in 0..255 (datasets.normalize) is what the network gets here.
    film = np.random.default_rng(0).integers(0, 256, (300, 224), dtype=np.uint8)
    found = classifier.preprocess(film[38:262].astype(np.float32) / 255)
    expected = (2 * (film[38:262] / 255.0) - 1.0) * 1024
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-3)


@pytest.mark.slow
def test_the_packages_resnet_reads_films_of_512_pixels(xrv, tmp_path):
    file = tmp_path / "resnet50-res512-all.pt"  # as whoever saves the tensors again may call it
    torch.save(xrv[1].state_dict(), file)
    assert convert("torchxrayvision", file, tmp_path / "out") == 0
    classifier = agrees(tmp_path / "out", xrv[1], 1)
    assert classifier.preprocess.input_size == (1, 512, 512)
    assert classifier.label_names == xray_vision.PATHOLOGIES
    assert classifier.categories["Lung Lesion"].threshold is None
    assert classifier.categories["Hernia"].threshold == 0.5020846


def test_18_outputs_without_a_name_have_the_packages_labels_and_no_points(xrv, tmp_path):
    torch.save(xrv[0].state_dict(), tmp_path / "mine.pt")
    assert convert("torchxrayvision", tmp_path / "mine.pt", tmp_path / "out") == 0
    folder = read_model_folder(tmp_path / "out")
    assert folder.label_names == xray_vision.PATHOLOGIES
    assert all(row.threshold is None for row in folder.facts.categories.values())


def test_a_network_without_finite_scores_is_not_called_written(xrv, tmp_path, capsys):
    """A variance below zero is a finite number, and its root is none."""
    tensors = xrv[0].state_dict()
    wrong = {**tensors, "features.norm0.running_var": -tensors["features.norm0.running_var"]}
    torch.save(wrong, tmp_path / "mine.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    assert convert("torchxrayvision", tmp_path / "mine.pt", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "scores of a grey film are not finite" in said.err
    assert "wrote" not in said.out
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_weights_of_whole_numbers_are_refused_before_anything_is_written(xrv, tmp_path, capsys):
    tensors = {**xrv[0].state_dict(), "classifier.bias": torch.zeros(18, dtype=torch.int64)}
    torch.save(tensors, tmp_path / "mine.pt")
    assert convert("torchxrayvision", tmp_path / "mine.pt", tmp_path / "out") == 1
    assert "first classifier.bias, which is (18,) of whole numbers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_numbers_leave_no_folder(xrv, tmp_path, capsys):
    tensors = {**xrv[0].state_dict(), "classifier.bias": torch.full((18,), torch.nan)}
    torch.save(tensors, tmp_path / "mine.pt")
    assert convert("torchxrayvision", tmp_path / "mine.pt", tmp_path / "out") == 1
    assert "'classifier.bias' of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_labels_that_are_all_blank_leave_nothing_to_convert(xrv, tmp_path, capsys):
    torch.save(xrv[0].state_dict(), tmp_path / "mine.pt")
    words = ("--labels", "," * 17)
    assert convert("torchxrayvision", tmp_path / "mine.pt", tmp_path / "out", *words) == 1
    assert "no output would be left" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_pickled_module_gives_its_tensors_and_runs_nothing(tmp_path, monkeypatch):
    """The package's own files are such pickles; their classes need not be there."""
    package = types.ModuleType("gone")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                OrderedDict(conv0=nn.Conv2d(1, 2, 3), norm0=nn.BatchNorm2d(2))
            )
            self.register_buffer("table", torch.ones(2), persistent=False)
            self.op_threshs = torch.tensor([0.5])

    Net.__module__, Net.__qualname__, package.Net = "gone", "Net", Net
    monkeypatch.setitem(sys.modules, "gone", package)
    net = Net()
    torch.save(net, tmp_path / "net.pt")
    old = {"_use_new_zipfile_serialization": False}  # as before PyTorch 1.6
    torch.save(net, tmp_path / "old.pt", **old)
    torch.save({"state_dict": net.state_dict(), "net": Bomb()}, tmp_path / "tensors.pt", **old)
    monkeypatch.delitem(sys.modules, "gone")
    expected = net.state_dict()
    for name in ("net.pt", "tensors.pt"):
        found = read_tensors(tmp_path / name)
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ConversionError, match="a whole module as PyTorch saved it before"):
        read_tensors(tmp_path / "old.pt")


def test_weights_that_the_package_has_not_fetched_are_named_with_their_address(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert convert("torchxrayvision", "densenet121-res224-nih", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "/v1/nih-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt" in error


@pytest.mark.parametrize("name", xray_vision.WEIGHTS)
def test_each_set_of_weights_has_18_outputs(name):
    weights = xray_vision.WEIGHTS[name]
    assert len(weights.labels) == len(weights.points) == 18
    assert all(0 < point < 1 for point in weights.points if point is not None)


# --- Vision transformers ------------------------------------------------------------------------


def as_eva(tensors, fused):
    """timm's tensors under the names of EVA's authors."""
    theirs = {}
    for name, tensor in tensors.items():
        for ours, other in (
            ("mlp.norm", "mlp.ffn_ln"),
            ("attn.norm", "attn.inner_attn_ln"),
            ("mlp.fc1_g", "mlp.w1"),
            ("mlp.fc1_x", "mlp.w2"),
            ("mlp.fc2", "mlp.w3"),
        ):
            name = name.replace(ours, other)
        if fused:
            name = name.replace("mlp.fc1.", "mlp.w12.")
        else:
            name = name.replace("q_proj.bias", "q_bias").replace("v_proj.bias", "v_bias")
        theirs[name] = tensor
    return theirs


def eva(size, **more):
    arguments = {"patch_size": 16, "ref_feat_shape": (14, 14), **more}
    return timm.create_model(f"eva02_{size}_patch14_224", **arguments)


@pytest.mark.slow
def test_a_tuned_eva_x_gives_the_scores_of_its_authors_formula(tmp_path):
    torch.manual_seed(0)
    original = randomise(eva("tiny", num_classes=14))
    torch.save({"model": as_eva(original.state_dict(), fused=True)}, tmp_path / "eva_x_ti.pt")
    assert convert("eva-x", tmp_path / "eva_x_ti.pt", tmp_path / "o", "--labels", "nih-14") == 0

    def authors(x):
        tokens = original.forward_features(x)
        pooled = original.fc_norm(tokens[:, 1:].mean(1))
        return original.head(pooled)

    classifier = agrees(tmp_path / "o", authors, 3, 224)
    assert classifier.label_names == NIH_14
    assert classifier.heatmap_kind == "grad-cam"


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_every_name_of_a_pretrained_eva_x_has_its_place(size):
    with torch.device("meta"):
        plain = eva(size, num_classes=0).state_dict()
    theirs = as_eva(plain, fused=size != "base")
    theirs = {name.replace("fc_norm", "norm"): tensor for name, tensor in theirs.items()}
    theirs |= dict.fromkeys(("mask_token", "lm_head.weight", "rope.freqs_cos"), torch.zeros(1))
    found = eva_x.renamed(theirs)
    assert {n: x.shape for n, x in found.items()} == {n: x.shape for n, x in plain.items()}


@pytest.mark.slow
def test_rad_dino_is_a_start_under_either_of_its_names(tmp_path):
    torch.manual_seed(0)
    original = timm.create_model("vit_base_patch14_dinov2", num_classes=0, depth=1)
    tensors = {**original.state_dict(), "mask_token": torch.zeros(1, 768)}
    renamed = rad_dino.renamed(tensors)
    expected = original.state_dict()
    assert all(torch.equal(renamed[name], expected[name]) for name in expected)
    other = {
        "embeddings.cls_token": expected["cls_token"],
        "layernorm.weight": expected["norm.weight"],
    }
    q, k, v = expected["blocks.0.attn.qkv.weight"].chunk(3)
    prefix = "encoder.layer.0.attention.attention"
    other |= {f"{prefix}.{n}.weight": x for n, x in (("query", q), ("key", k), ("value", v))}
    other |= {"encoder.layer.0.layer_scale1.lambda1": expected["blocks.0.ls1.gamma"]}
    other |= {"encoder.layer.0.attention.output.dense.bias": expected["blocks.0.attn.proj.bias"]}
    found = rad_dino.renamed(other)
    assert len(found) == 5
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_start_without_outputs_is_read_by_training(tmp_path):
    """Tiny EVA-X: the folder has no labels, so it is for --init and not for use."""
    from train.stage1.network import build, preprocess_of
    from train.stage1.settings import Settings

    torch.manual_seed(0)
    plain = eva("tiny", num_classes=0)
    theirs = {k.replace("fc_norm", "norm"): v for k, v in as_eva(plain.state_dict(), True).items()}
    save_file({**theirs, "mask_token": torch.zeros(1)}, tmp_path / "eva.safetensors")
    assert convert("eva-x", tmp_path / "eva.safetensors", tmp_path / "out") == 0
    with pytest.raises(cft.ModelFolderError, match="label_names"):
        cft.load(tmp_path / "out", "cpu")
    settings = Settings(arch="eva02_tiny_patch14_224", init=str(tmp_path / "out"), image_size=224)
    network = build(settings, ["A", "B"], np.array([[0.0, 1.0]] * 4))
    assert preprocess_of(settings).mean[0] == 0.49185243
    for name in ("blocks.3.mlp.fc2.weight", "fc_norm.bias"):
        assert torch.equal(network.state_dict()[name], plain.state_dict()[name])


# --- The command --------------------------------------------------------------------------------


def test_the_list_names_every_converter_and_why_one_is_missing(capsys):
    assert cft_main(["convert", "--list"]) == 0
    listing = capsys.readouterr().out
    assert all(any(line.startswith(name) for line in listing.splitlines()) for name in CONVERTERS)
    assert "not jfhealthcare: its PCAM pooling" in listing


@pytest.mark.parametrize("words", [[], ["dacnet"], ["dacnet", "a"], ["nobody", "a", "b"]])
def test_an_incomplete_command_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2


def test_the_card_says_where_the_weights_are_from(wrapped, tmp_path):
    assert convert("dacnet", wrapped["dacnet"], tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`dacnet.pth.tar` (SHA-256" in card
    assert "Not a medical device" in card
    provenance = json.loads((tmp_path / "out" / "config.json").read_text())["cft"]["provenance"]
    assert provenance["trained_on"] == "NIH ChestX-ray14; converted from dacnet"
    assert provenance["converted_from"] == "dacnet"
    assert convert("dacnet", wrapped["dacnet"], tmp_path / "out") == 1


# --- Where checkpoints lie ----------------------------------------------------------------------


def test_a_checkpoint_of_the_hub_is_fetched_by_its_name(hub):
    hub.add("org/rad", {"backbone_compatible.safetensors": b"12345678", "model.bin": b"no"})
    path = find("hf-hub:org/rad@main", rad_dino.FILES)
    assert path.read_bytes() == b"12345678"
    hub.add("org/other", {"model.safetensors": b"8765"})
    assert find("hf-hub:org/other", rad_dino.FILES).read_bytes() == b"8765"


@pytest.mark.parametrize("name", ["org/pickles", "org/nobody", "no name at all"])
def test_what_the_hub_does_not_have_is_one_sentence(hub, name):
    hub.add("org/pickles", {"eva_x.pt": b"no"})
    with pytest.raises(ConversionError, match="cannot be fetched"):
        find(f"hf-hub:{name}")


def test_a_folder_is_searched_for_the_one_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConversionError, match="holds no checkpoints instead of one"):
        find(str(tmp_path))
    (tmp_path / "a.pt").write_bytes(b"")
    assert find(str(tmp_path)) == tmp_path / "a.pt"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert find(str(tmp_path)) == tmp_path / "model.safetensors"
