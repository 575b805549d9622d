"""Keras models, written by hand in Keras's two layouts, against Keras's layers one by one."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

import cft
from cft.convert.__main__ import main
from cft.labels import CHEXPERT_14

h5py = pytest.importorskip("h5py", reason="h5py is not installed")


class Tape:
    """Computes Keras's layers on random arrays, and notes both for the file.

    Films are (B, C, H, W); arrays have Keras's order of axes.
    """

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)
        self.layers, self.arrays = [], {}

    def layer(self, kind, name, arrays=None, **config):
        self.layers.append({"class_name": kind, "config": {"name": name, **config}})
        arrays = arrays or {}
        self.arrays[name] = {k: np.asarray(v, np.float32) for k, v in arrays.items()}
        return [torch.from_numpy(x) for x in self.arrays[name].values()]

    def conv(self, name, x, filters, size, stride=1, padding="valid", bias=False):
        fan = size * size * x.shape[1]
        arrays = {"kernel": self.random.normal(0, fan**-0.5, (size, size, x.shape[1], filters))}
        if bias:
            arrays["bias"] = self.random.normal(0, 0.1, filters)
        kernel, *rest = self.layer("Conv2D", name, arrays, strides=[stride] * 2, padding=padding)
        edge = size // 2 if padding == "same" else 0
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), *rest, stride=stride, padding=edge)

    def depthwise(self, name, x, size, stride=1, padding="valid"):
        kernel = self.random.normal(0, 1 / size, (size, size, x.shape[1], 1))
        # Keras 3 calls it a kernel; the first stage here is as Keras 2 wrote it.
        variable = "depthwise_kernel" if name.startswith("block1") else "kernel"
        (kernel,) = self.layer("DepthwiseConv2D", name, {variable: kernel})
        edge = size // 2 if padding == "same" else 0
        weight = kernel.permute(2, 3, 0, 1)
        return F.conv2d(x, weight, stride=stride, padding=edge, groups=x.shape[1])

    def norm(self, name, x, epsilon):
        n = x.shape[1]
        arrays = {
            "gamma": self.random.uniform(0.5, 1.5, n),
            "beta": self.random.normal(0, 0.2, n),
            "moving_mean": self.random.normal(0, 0.2, n),
            # Small ones show whether the epsilon is carried over.
            "moving_variance": self.random.uniform(1e-3, 1, n),
        }
        layer = self.layer("BatchNormalization", name, arrays, epsilon=epsilon, axis=[3])
        gamma, beta, mean, variance = (array[:, None, None] for array in layer)
        return (x - mean) / (variance + epsilon).sqrt() * gamma + beta

    def dense(self, name, x, units, activation="sigmoid"):
        arrays = {
            "kernel": self.random.normal(0, x.shape[1] ** -0.5, (x.shape[1], units)),
            "bias": self.random.normal(0, 1, units),
        }
        kernel, bias = self.layer("Dense", name, arrays, activation=activation, units=units)
        return x @ kernel + bias

    def plain(self, kind, name, **config):
        self.layer(kind, name, **config)


def densenet121(tape, x, slash="_"):
    """keras.applications' DenseNet-121; older versions have slashes in the names."""
    tape.plain("ZeroPadding2D", "zero_padding2d")
    x = tape.conv(f"conv1{slash}conv", F.pad(x, (3, 3, 3, 3)), 64, 7, 2)
    x = tape.norm(f"conv1{slash}bn", x, 1.001e-5).relu()
    tape.plain("Activation", f"conv1{slash}relu")
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for stage, count in ((2, 6), (3, 12), (4, 24), (5, 16)):
        for number in range(1, count + 1):
            name = f"conv{stage}_block{number}"
            y = tape.norm(f"{name}_0_bn", x, 1.001e-5).relu()
            y = tape.conv(f"{name}_1_conv", y, 128, 1)
            y = tape.norm(f"{name}_1_bn", y, 1.001e-5).relu()
            x = torch.cat([x, tape.conv(f"{name}_2_conv", y, 32, 3, padding="same")], 1)
            tape.plain("Concatenate", f"{name}_concat")
        if stage < 5:
            x = tape.norm(f"pool{stage}_bn", x, 1.001e-5).relu()
            x = F.avg_pool2d(tape.conv(f"pool{stage}_conv", x, x.shape[1] // 2, 1), 2)
    x = tape.norm("bn", x, 1.001e-5).relu()
    tape.plain("GlobalAveragePooling2D", "avg_pool")
    return x.mean((2, 3))


def efficientnet_b0(tape, x):
    """keras.applications' EfficientNet-B0, with its rescaling and normalisation."""
    tape.plain("Rescaling", "rescaling", scale=1 / 255, offset=0.0)
    mean, variance = tape.layer(
        "Normalization", "normalization", {"mean": [0.4, 0.5, 0.6], "variance": [0.04, 0.05, 0.06]}
    )
    tape.arrays["normalization"]["count"] = np.zeros((), np.float32)
    x = (x / 255 - mean[:, None, None]) / variance.sqrt()[:, None, None]
    tape.plain("Rescaling", "rescaling_1", scale=[2.0, 2.1, 2.2], offset=0.0)
    x = x * torch.tensor([2.0, 2.1, 2.2])[:, None, None]
    x = F.silu(tape.norm("stem_bn", tape.conv("stem_conv", F.pad(x, (0, 1, 0, 1)), 32, 3, 2), 1e-3))
    stages = (
        *((3, 1, 16, 1, 1), (3, 2, 24, 6, 2), (5, 2, 40, 6, 2), (3, 3, 80, 6, 2)),
        *((5, 3, 112, 6, 1), (5, 4, 192, 6, 2), (3, 1, 320, 6, 1)),
    )
    for stage, (size, repeats, filters, expand, stride) in enumerate(stages, 1):
        for number in range(repeats):
            name, before = f"block{stage}{'abcd'[number]}_", x
            step = stride if number == 0 else 1
            if expand != 1:
                y = tape.conv(f"{name}expand_conv", x, x.shape[1] * expand, 1, padding="same")
                x = F.silu(tape.norm(f"{name}expand_bn", y, 1e-3))
            if step == 2:
                tape.plain("ZeroPadding2D", f"{name}dwconv_pad")
                few, more = size // 2 - 1, size // 2  # of an even side
                y = tape.depthwise(f"{name}dwconv", F.pad(x, (few, more, few, more)), size, 2)
            else:
                y = tape.depthwise(f"{name}dwconv", x, size, padding="same")
            x = F.silu(tape.norm(f"{name}bn", y, 1e-3))
            y = x.mean((2, 3), keepdim=True)
            few = max(1, int(before.shape[1] * 0.25))
            y = F.silu(tape.conv(f"{name}se_reduce", y, few, 1, padding="same", bias=True))
            y = tape.conv(f"{name}se_expand", y, x.shape[1], 1, padding="same", bias=True)
            x = x * y.sigmoid()
            x = tape.conv(f"{name}project_conv", x, filters, 1, padding="same")
            x = tape.norm(f"{name}project_bn", x, 1e-3)
            x = x + before if number else x
    x = F.silu(tape.norm("top_bn", tape.conv("top_conv", x, 1280, 1, padding="same"), 1e-3))
    tape.plain("GlobalAveragePooling2D", "avg_pool")
    tape.plain("Dropout", "top_dropout")
    return x.mean((2, 3))


def resnet50(tape, x):
    """keras.applications' ResNet-50: the stride in the first convolution, biases everywhere."""

    def normed(name, x, filters, size, stride=1, padding="valid"):
        y = tape.conv(f"{name}_conv", x, filters, size, stride, padding, bias=True)
        return tape.norm(f"{name}_bn", y, 1.001e-5)

    x = normed("conv1", F.pad(x, (3, 3, 3, 3)), 64, 7, 2).relu()
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for stage, (count, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 2):
        for number in range(1, count + 1):
            name = f"conv{stage}_block{number}"
            stride = 2 if number == 1 and stage > 2 else 1
            before = normed(f"{name}_0", x, 4 * width, 1, stride) if number == 1 else x
            y = normed(f"{name}_1", x, width, 1, stride).relu()
            y = normed(f"{name}_2", y, width, 3, padding="same").relu()
            x = (before + normed(f"{name}_3", y, 4 * width, 1)).relu()
            tape.plain("Add", f"{name}_add")
    tape.plain("GlobalAveragePooling2D", "avg_pool")
    return x.mean((2, 3))


def resnet50v2(tape, x):
    """keras.applications' ResNet-50 V2: the stride in the last block of a stage."""
    x = tape.conv("conv1_conv", F.pad(x, (3, 3, 3, 3)), 64, 7, 2, bias=True)
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for stage, (count, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 2):
        for number in range(1, count + 1):
            name = f"conv{stage}_block{number}"
            stride = 2 if number == count and stage < 5 else 1
            y = tape.norm(f"{name}_preact_bn", x, 1.001e-5).relu()
            if number == 1:
                x = tape.conv(f"{name}_0_conv", y, 4 * width, 1, bias=True)
            elif stride == 2:
                tape.plain("MaxPooling2D", f"{name}_pool", pool_size=[1, 1], strides=[2, 2])
                x = F.max_pool2d(x, 1, 2)
            y = tape.norm(f"{name}_1_bn", tape.conv(f"{name}_1_conv", y, width, 1), 1.001e-5)
            y = tape.conv(f"{name}_2_conv", F.pad(y.relu(), (1, 1, 1, 1)), width, 3, stride)
            y = tape.norm(f"{name}_2_bn", y, 1.001e-5).relu()
            x = x + tape.conv(f"{name}_3_conv", y, 4 * width, 1, bias=True)
    x = tape.norm("post_bn", x, 1.001e-5).relu()
    tape.plain("GlobalAveragePooling2D", "avg_pool")
    return x.mean((2, 3))


def save_archive(path, tape, shape, nested="", backbone=None):
    """Write what Keras 3 writes: layers of a class are numbered, and so are a layer's arrays."""
    first = {"class_name": "InputLayer", "config": {"name": "in", "batch_shape": [None, *shape]}}
    layers = [first, *tape.layers]
    if nested:
        inside = {"name": nested, "layers": [first, *tape.layers[:backbone]]}
        layers = [first, {"class_name": "Functional", "config": inside}, *tape.layers[backbone:]]

    def write(group, layers):
        seen = Counter()
        for layer in layers:
            kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", layer["class_name"]).lower()
            place = f"layers/{kind}_{seen[kind]}" if seen[kind] else f"layers/{kind}"
            seen[kind] += 1
            if "layers" in layer["config"]:
                write(group.create_group(place), layer["config"]["layers"])
                continue
            variables = group.create_group(f"{place}/vars")
            for number, array in enumerate(tape.arrays.get(layer["config"]["name"], {}).values()):
                variables[str(number)] = array

    weights = path.with_suffix(".weights.h5")
    with h5py.File(weights, "w") as file:
        write(file, layers)
    model = {"class_name": "Functional", "config": {"name": "model", "layers": layers}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(model))
        archive.write(weights, "model.weights.h5")


def save(path, tape, shape, nested="", colon=":0", backbone=None):
    """Write what `model.save` writes; the first `backbone` layers may lie in an own model."""
    first = {"class_name": "InputLayer", "config": {"name": "in", "batch_shape": [None, *shape]}}
    layers = [first, *tape.layers]
    if nested:
        inside = {"name": nested, "layers": [first, *tape.layers[:backbone]]}
        model = {"class_name": "Functional", "config": inside}
        layers = [first, model, *tape.layers[backbone:]]
    config = {"class_name": "Functional", "config": {"name": "model", "layers": layers}}
    inner = {layer["config"]["name"] for layer in tape.layers[:backbone]} if nested else set()
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        top = file.create_group("model_weights")
        groups: dict[str, list] = {}
        for name, arrays in tape.arrays.items():
            outer = nested if name in inner else name
            groups.setdefault(outer, [])
            groups[outer] += [(f"{name}/{k}{colon}", array) for k, array in arrays.items()]
        top.attrs["layer_names"] = [name.encode() for name in groups]
        for outer, rows in groups.items():
            group = top.create_group(outer)
            names = [name.encode() for name, _ in rows]
            for number in range(0, max(1, len(names)), 200):  # as Keras divides long lists
                key = "weight_names" if len(names) <= 200 else f"weight_names{number // 200}"
                group.attrs[key] = names[number : number + 200]
            for name, array in rows:
                group[name] = array


def convert(source, folder, *more):
    return main(["cft-keras", str(source), str(folder), *more])


def film(side=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 1, side, side), generator=generator).float()


def agrees(folder, expected, side=64):
    """Of films of 0 to 255, grey three times, the scores before the sigmoid."""
    classifier = cft.load(folder, "cpu", engine="torch")
    found = classifier.logits(classifier.preprocess.normalize(film(side) / 255))
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5 * scale)
    return classifier


@pytest.mark.slow
def test_a_flat_densenet_with_old_names_gives_kerass_scores(tmp_path):
    tape = Tape()
    features = densenet121(tape, film().expand(-1, 3, -1, -1), slash="/")
    expected = tape.dense("predictions", features, 14)
    save(tmp_path / "optimized_model.h5", tape, [64, 64, 3])
    assert convert(tmp_path / "optimized_model.h5", tmp_path / "out") == 0
    classifier = agrees(tmp_path / "out", expected)
    assert classifier.label_names == tuple(sorted(CHEXPERT_14))
    preprocess = classifier.preprocess
    assert (preprocess.interpolation, preprocess.crop_mode) == ("area", "squash")
    assert preprocess.input_size == (3, 64, 64)
    assert classifier.has_heatmaps


@pytest.mark.slow
def test_a_nested_efficientnet_keeps_its_scaling_and_its_padding(tmp_path):
    tape = Tape()
    features = efficientnet_b0(tape, film().expand(-1, 3, -1, -1))
    backbone = len(tape.layers)
    expected = tape.dense("head", features, 2, "linear")
    save(tmp_path / "m.h5", tape, [64, 64, 3], "efficientnetb0", colon="", backbone=backbone)
    assert convert(tmp_path / "m.h5", tmp_path / "out", "--labels", "A,B") == 0
    classifier = agrees(tmp_path / "out", expected)
    assert classifier.facts.architecture == "tf_efficientnet_b0"
    assert classifier.label_names == ("A", "B")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "name"), [(resnet50, "keras_resnet50"), (resnet50v2, "keras_resnetv2_50")]
)
@pytest.mark.parametrize("side", [64, 75])
def test_a_resnet_keeps_its_strides_and_its_biases(network, name, side, tmp_path):
    """At an odd size it shows whether Keras's padding is kept at both edges."""
    tape = Tape()
    features = network(tape, film(side).expand(-1, 3, -1, -1))
    expected = tape.dense("predictions", features, 14)
    save(tmp_path / "m.h5", tape, [side, side, 3])
    assert convert(tmp_path / "m.h5", tmp_path / "out") == 0
    classifier = agrees(tmp_path / "out", expected, side)
    assert classifier.facts.architecture == name
    assert classifier.has_heatmaps


@pytest.mark.slow
def test_a_keras_file_gives_what_the_h5_file_gives(tmp_path):
    """Nested, and with a second dense layer's number taken by none."""
    tape = Tape()
    features = efficientnet_b0(tape, film().expand(-1, 3, -1, -1))
    backbone = len(tape.layers)
    tape.dense("head", features, 2)
    save(tmp_path / "m.h5", tape, [64, 64, 3], "efficientnetb0", backbone=backbone)
    save_archive(tmp_path / "m.keras", tape, [64, 64, 3], "efficientnetb0", backbone)
    folders = [tmp_path / kind for kind in ("h5", "keras")]
    for folder in folders:
        source = tmp_path / f"m.{folder.name}"
        assert convert(source, folder, "--labels", "A,B") == 0
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("number", [50, 101, 152])
@pytest.mark.parametrize("version", ["", "v2_"])
def test_every_keras_resnet_has_the_published_number_of_parameters(number, version):
    """Those of keras.applications with 1,000 classes, but for biases that go into means."""
    published = {"50": 25_636_712, "101": 44_707_176, "152": 60_419_944}
    published |= {"v2_50": 25_613_800, "v2_101": 44_675_560, "v2_152": 60_380_648}
    with torch.device("meta"):
        network = timm.create_model(f"keras_resnet{version}{number}", num_classes=1000)
    counted = sum(x.numel() for x in network.state_dict().values() if x.ndim)
    folded = sum(
        module.out_channels
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d) and not version
    )
    assert counted + folded == published[f"{version}{number}"]


def test_a_keras_file_that_is_damaged_is_one_sentence(tmp_path, capsys):
    tape = small()
    save_archive(tmp_path / "m.keras", tape, [8, 8, 3])
    assert convert(tmp_path / "m.keras", tmp_path / "out") == 1
    assert "because of its convolutions; its 3 layers" in capsys.readouterr().err
    whole = (tmp_path / "m.keras").read_bytes()
    (tmp_path / "half.keras").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with zipfile.ZipFile(tmp_path / "list.keras", "w") as archive:
        archive.writestr("config.json", "[]")
        archive.writestr("model.weights.h5", b"no HDF5")
    for name in ("half", "empty", "list"):
        assert convert(tmp_path / f"{name}.keras", tmp_path / "out") == 1
        error = capsys.readouterr().err
        assert "is no model that Keras saved as a .keras file" in error
        assert len(error.splitlines()) == 1


def small(last="sigmoid", kind="Conv2D"):
    tape = Tape()
    x = tape.conv("conv1_conv", torch.zeros(1, 3, 8, 8), 4, 3)
    if kind != "Conv2D":
        tape.plain(kind, "special")
    tape.dense("predictions", x.mean((2, 3)), 14, last)
    return tape


@pytest.mark.parametrize(
    ("tape", "why"),
    [
        (small(), "because of its convolutions; its 3 layers"),
        (small("softmax"), "the activation 'softmax' of its last layer"),
        (small(kind="Lambda"), "special (Lambda)"),
    ],
)
def test_another_network_is_refused_with_its_layers(tape, why, tmp_path, capsys):
    save(tmp_path / "m.h5", tape, [8, 8, 3])
    assert convert(tmp_path / "m.h5", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert why in error
    assert "conv1_conv (Conv2D)" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda layers: layers["predictions"].update(arrays={"kernel": np.zeros((1280, 3))}),
         "its last layer, which has no bias"),
        (lambda layers: layers["stem_bn"].pop("epsilon"), "what it states (KeyError: 'epsilon')"),
        (lambda layers: layers["rescaling"].update(scale=0.0), "its scaling by 0"),
    ],
)  # fmt: skip
def test_what_a_good_network_does_not_state_is_refused(change, why, tmp_path, capsys):
    tape = Tape()
    features = efficientnet_b0(tape, film(32).expand(-1, 3, -1, -1))
    tape.dense("predictions", features, 3)
    layers = {layer["config"]["name"]: layer["config"] for layer in tape.layers}
    change(layers)
    tape.arrays["predictions"] = layers["predictions"].pop("arrays", tape.arrays["predictions"])
    save(tmp_path / "m.h5", tape, [32, 32, 3])
    assert convert(tmp_path / "m.h5", tmp_path / "out", "--labels", "A,B,C") == 1
    error = capsys.readouterr().err
    assert why in error
    assert len(error.splitlines()) == 1


def test_what_is_no_whole_model_is_one_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / "no.h5").write_bytes(b"no HDF5")
    (tmp_path / "m.keras").write_bytes(b"")
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_group("model_weights")
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file.attrs["model_config"] = "[]"
    for name, why in (
        ("no.h5", "is no model that Keras saved as HDF5"),
        ("odd.h5", "is no model that Keras saved as HDF5"),
        ("m.keras", "is no model that Keras saved as a .keras file"),
        ("weights.h5", "holds weights without the model"),
    ):
        assert convert(tmp_path / name, tmp_path / "out") == 1
        error = capsys.readouterr().err
        assert why in error
        assert len(error.splitlines()) == 1
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    assert convert(tmp_path / "no.h5", tmp_path / "out") == 1
    assert 'pip install "cft[convert]"' in capsys.readouterr().err
