"""The CFT authors' Keras models: networks of keras.applications, saved as ``.h5`` or ``.keras``.

Their ``optimized_model.h5`` takes a grey film three times, 224 x 224 by area interpolation, with
values of 0 to 255, and answers with CheXpert's 14 categories in alphabetical order. The file says
which network it is. timm has the twins of DenseNet-121, 169 and 201 and of EfficientNet B0 to B7
(``tf_efficientnet_b*``). It has none of Keras's ResNet-50, 101 and 152, in both versions: those are
in `cft.architectures.keras_resnet`, which says what differs.

What is not the same is carried over exactly: Keras's larger epsilon goes into the variances, a bias
before batch normalisation into its mean, and ``Rescaling`` and ``Normalization`` before the network
become mean and standard deviation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cft.architectures import is_ours
from cft.convert.keras_file import KerasModel, read
from cft.convert.result import Converted, labels_of
from cft.convert.sources import find
from cft.errors import ConversionError
from cft.labels import CHEXPERT_14
from cft.model.network import new_network
from cft.model.preprocess import Preprocess

_DENSENETS = {24: "densenet121", 32: "densenet169", 48: "densenet201"}
#: Channels of the last convolution -> numbers of the network; B0 and B1 differ in their depth.
_EFFICIENTNETS = {
    **{1280: (0, 1), 1408: (2,), 1536: (3,), 1792: (4,)},
    **{2048: (5,), 2304: (6,), 2560: (7,)},
}

#: Blocks in the third stage -> number of the network.
_RESNETS = {6: 50, 23: 101, 36: 152}

_VARIABLES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "bias": "bias",
}
# What has no tensors and changes nothing where the names below say which network it is.
_SILENT = (
    *("Activation", "ReLU", "ZeroPadding2D", "MaxPooling2D", "AveragePooling2D", "Concatenate"),
    *("GlobalAveragePooling2D", "Dropout", "Reshape", "Multiply", "Add", "InputLayer"),
)


def convert(source: str, asked: str | None, name: str) -> tuple[Converted, Path]:
    """Convert a file; 14 outputs are CheXpert's categories by alphabet, unless `asked` says."""
    file = find(source)
    model = read(file)
    try:
        return converted(model, asked), file
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ConversionError):
            raise
        raise _refused(model, f"what it states ({type(error).__name__}: {error})") from None


def converted(model: KerasModel, asked: str | None = None) -> Converted:
    """A model of Keras under timm's names.

    Raises
    ------
    ConversionError
        If it is none of the networks above; the message lists its layers.
    """
    kinds = ("Rescaling", "Normalization", "Conv2D", "DepthwiseConv2D", "BatchNormalization")
    strange = [
        f"{name} ({kind})"
        for name, (kind, _) in model.layers.items()
        if kind not in (*kinds, *_SILENT, "Dense")
    ]
    dense = model.of_class("Dense")
    if strange or len(dense) != 1:
        raise _refused(model, ", ".join(strange) or f"{len(dense)} dense layers")
    if f"{dense[0]}/bias" not in model.arrays:
        raise _refused(model, "its last layer, which has no bias")
    activation = model.layers[dense[0]][1].get("activation")
    if activation not in ("sigmoid", "linear"):
        raise _refused(model, f"the activation {activation!r} of its last layer")
    architecture, names = _network(model)
    head = "fc" if is_ours(architecture) else "classifier"
    names[dense[0]] = head
    with torch.device("meta"):
        twin = new_network(architecture, num_classes=len(model.arrays[f"{dense[0]}/bias"]))
    eps = {n: m.eps for n, m in twin.named_modules() if hasattr(m, "running_var")}
    wanted = twin.state_dict().keys()
    tensors = {name: torch.tensor(0) for name in wanted if name.endswith("batches_tracked")}
    shifts = _biases_before_norms(model, names, wanted)
    for key, array in model.arrays.items():
        layer, _, variable = key.partition("/")
        kind, config = model.layers[layer]
        if kind == "Normalization":
            continue
        if layer not in names or variable not in _VARIABLES:
            raise _refused(model, f"the array {key}")
        place = names[layer]
        if variable == "bias" and f"{place}.bias" not in wanted:
            continue
        if variable == "moving_variance":
            array = array + np.float32(config["epsilon"] - eps[place])
        if variable == "moving_mean" and layer in shifts:
            array = array - shifts[layer]
        if kind == "DepthwiseConv2D":  # (h, w, channels, 1), under a name of its own until Keras 3
            array = array.swapaxes(2, 3)
        tensors[f"{place}.{_VARIABLES[variable]}"] = torch.from_numpy(_turned(variable, array))
    height, width, channels = _input(model)
    outputs = len(tensors[f"{head}.bias"])
    start = "After `import cft.architectures` timm" if is_ours(architecture) else "Stock timm"
    return Converted(
        architecture=architecture,
        tensors=tensors,
        labels=labels_of(asked, outputs, sorted(CHEXPERT_14) if outputs == 14 else ()),
        preprocess=Preprocess((channels, height, width), "area", **_scaling(model, channels)),
        title=f"A Keras model, {architecture}",
        about=f"{start} reads the folder, but has no area interpolation.",
        measured="The authors of category-wise fine-tuning report for their ensemble a mean AUROC "
        "of 0.933 on CheXpert's test set (arXiv 2401.16991).",
        trained_on="what its source says; the checkpoint does not",
    )


def _biases_before_norms(
    model: KerasModel, names: Mapping[str, str], wanted: Collection[str]
) -> dict[str, np.ndarray]:
    """Normalisation -> bias of the convolution before it, where the twin's has none.

    In keras.applications ``conv2_block1_1_bn`` follows ``conv2_block1_1_conv``.
    """
    shifts = {}
    for layer in model.of_class("Conv2D"):
        bias = model.arrays.get(f"{layer}/bias")
        if bias is None or f"{names[layer]}.bias" in wanted:
            continue
        norm = layer.removesuffix("conv") + "bn"
        if norm not in names:
            raise _refused(model, f"the bias of {layer}, which no normalisation follows")
        shifts[norm] = bias
    return shifts


def _network(model: KerasModel) -> tuple[str, dict[str, str]]:
    """timm's architecture, and Keras's name of each layer with tensors -> timm's."""
    wanted = model.of_class("Conv2D", "DepthwiseConv2D", "BatchNormalization")
    if "pool2_conv" in wanted:
        blocks = {n for n in wanted if re.fullmatch(r"conv4_block\d+_1_conv", n)}
        if len(blocks) not in _DENSENETS:
            raise _refused(model, f"{len(blocks)} layers in its third dense block")
        architecture, rules = _DENSENETS[len(blocks)], _densenet
    elif "block1a_dwconv" in wanted and "top_conv/kernel" in model.arrays:
        numbers = _EFFICIENTNETS.get(model.arrays["top_conv/kernel"].shape[3], ())
        deeper = "block1b_dwconv" in wanted
        fitting = [n for n in numbers if n > 1 or deeper == (n == 1)]
        if not fitting:
            raise _refused(model, "its widths")
        architecture, rules = f"tf_efficientnet_b{fitting[0]}", _efficientnet
    elif "conv2_block1_1_conv" in wanted and "conv1_conv" in wanted:
        blocks = {n for n in wanted if re.fullmatch(r"conv4_block\d+_1_conv", n)}
        if len(blocks) not in _RESNETS:
            raise _refused(model, f"{len(blocks)} blocks in its third stage")
        second = "conv2_block1_preact_bn" in wanted
        number = _RESNETS[len(blocks)]
        architecture = f"keras_resnetv2_{number}" if second else f"keras_resnet{number}"
        rules = _resnet_v2 if second else _resnet
    else:
        raise _refused(model, "its convolutions")
    names = {name: rules(name) for name in wanted}
    unknown = [name for name, place in names.items() if place is None]
    if unknown:
        raise _refused(model, ", ".join(unknown[:5]))
    return architecture, {name: place for name, place in names.items() if place}


def _densenet(name: str) -> str | None:
    """timm's name of a layer of Keras's DenseNet."""
    top = {"conv1_conv": "conv0", "conv1_bn": "norm0", "bn": "norm5"}
    if name in top:
        return f"features.{top[name]}"
    if found := re.fullmatch(r"pool(\d)_(bn|conv)", name):
        part = "norm" if found[2] == "bn" else "conv"
        return f"features.transition{int(found[1]) - 1}.{part}"
    if found := re.fullmatch(r"conv(\d)_block(\d+)_(0_bn|1_conv|1_bn|2_conv)", name):
        parts = {"0_bn": "norm1", "1_conv": "conv1", "1_bn": "norm2", "2_conv": "conv2"}
        layer = f"denseblock{int(found[1]) - 1}.denselayer{found[2]}"
        return f"features.{layer}.{parts[found[3]]}"
    return None


_BLOCK = re.compile(r"conv([2-5])_block(\d+)_(\w+)")


def _resnet(name: str) -> str | None:
    """The name in `keras_resnet50` of a layer of Keras's ResNet."""
    if name in ("conv1_conv", "conv1_bn"):
        return name.replace("conv1_conv", "conv1").replace("conv1_bn", "bn1")
    found = _BLOCK.fullmatch(name)
    parts = {f"{place}_{kind}": f"{kind}{place}" for place in "123" for kind in ("conv", "bn")}
    parts |= {"0_conv": "downsample.0", "0_bn": "downsample.1"}
    if not found or found[3] not in parts:
        return None
    return f"layer{int(found[1]) - 1}.{int(found[2]) - 1}.{parts[found[3]]}"


def _resnet_v2(name: str) -> str | None:
    """The name in `keras_resnetv2_50` of a layer of Keras's ResNet version 2."""
    top = {"conv1_conv": "conv1", "post_bn": "norm"}
    if name in top:
        return top[name]
    found = _BLOCK.fullmatch(name)
    parts = {"preact_bn": "preact", "0_conv": "shortcut", "3_conv": "conv3"}
    parts |= {f"{place}_{kind}": f"{kind}{place}" for place in "12" for kind in ("conv", "bn")}
    if not found or found[3] not in parts:
        return None
    return f"stages.{int(found[1]) - 2}.{int(found[2]) - 1}.{parts[found[3]]}"


def _efficientnet(name: str) -> str | None:
    """timm's name of a layer of Keras's EfficientNet."""
    top = {"stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2"}
    if name in top:
        return top[name]
    found = re.fullmatch(r"block([1-7])([a-z])_(\w+)", name)
    if not found:
        return None
    first = found[1] == "1"  # that stage does not expand its channels
    parts = {
        "dwconv": "conv_dw",
        "se_reduce": "se.conv_reduce",
        "se_expand": "se.conv_expand",
        "bn": "bn1" if first else "bn2",
        "project_conv": "conv_pw" if first else "conv_pwl",
        "project_bn": "bn2" if first else "bn3",
    }
    if not first:
        parts |= {"expand_conv": "conv_pw", "expand_bn": "bn1"}
    if found[3] not in parts:
        return None
    return f"blocks.{int(found[1]) - 1}.{ord(found[2]) - ord('a')}.{parts[found[3]]}"


def _turned(variable: str, array: np.ndarray) -> np.ndarray:
    """An array in PyTorch's order of axes."""
    if variable in ("kernel", "depthwise_kernel"):  # (h, w, in, out), or (in, out)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return np.ascontiguousarray(array)


def _input(model: KerasModel) -> tuple[int, int, int]:
    """Height, width and channels; 224 where the file leaves them open."""
    inputs = model.of_class("InputLayer")
    config = model.layers[inputs[0]][1] if inputs else {}
    shape = config.get("batch_shape") or config.get("batch_input_shape") or (None,) * 4
    height, width, channels = (list(shape) + [None] * 4)[1:4]
    return height or 224, width or 224, channels or 3


def _scaling(model: KerasModel, channels: int) -> dict[str, Any]:
    """Mean and standard deviation, for pixels in [0, 1], that the layers in front amount to.

    The network sees ``scale * value + offset`` of values from 0 to 255.
    """
    scale, offset = np.ones(channels), np.zeros(channels)
    for name in model.of_class("Rescaling", "Normalization"):
        kind, config = model.layers[name]
        if kind == "Rescaling":
            by, plus = np.array(config["scale"], float), np.array(config["offset"], float)
        else:
            mean, variance = _moments(model.arrays, name, config)
            by = 1 / np.maximum(np.sqrt(variance), 1e-7)
            plus = -mean * by
        scale, offset = scale * by.ravel(), offset * by.ravel() + plus.ravel()
    if not scale.all():
        raise _refused(model, "its scaling by 0")
    return {
        "mean": tuple(float(x) for x in -offset / (255 * scale)),
        "std": tuple(float(x) for x in 1 / (255 * scale)),
    }


def _moments(
    arrays: Mapping[str, np.ndarray], name: str, config: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a layer, which are given it or learnt by it."""
    stated = config.get("mean"), config.get("variance")
    found = (arrays.get(f"{name}/mean"), arrays.get(f"{name}/variance"))
    mean, variance = (a if a is not None else b for a, b in zip(found, stated, strict=True))
    if mean is None or variance is None:
        raise ConversionError(f"the layer {name} states no mean and variance")
    return np.asarray(mean, float), np.asarray(variance, float)


def _refused(model: KerasModel, why: str) -> ConversionError:
    """What cannot be converted, with the layers, of which long lists lose their middle."""
    layers = [f"{name} ({kind})" for name, (kind, _) in model.layers.items()]
    shown = layers if len(layers) <= 12 else [*layers[:8], "...", *layers[-3:]]
    return ConversionError(
        "this is no DenseNet, ResNet or EfficientNet of keras.applications that has a twin here, "
        f"because of {why}; its {len(layers)} layers: {', '.join(shown)}"
    )
