"""DenseNets under torchvision's names: torchvision's own, and what was trained from them.

Recognised by their keys: a wrapper's prefixes (``module.``, ``densenet121.``) and, before PyTorch
0.4, ``norm.1`` for ``norm1``. A sigmoid after the last layer has no tensors; the probability here
is the sigmoid of the score, which is the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.data import ImageNetInfo

from cft.convert.result import IMAGENET, Converted, labels_of
from cft.convert.sources import find, read_tensors, sides
from cft.errors import ConversionError
from cft.labels import CHEXPERT_14, NIH_14
from cft.model.preprocess import Preprocess

#: Layers in the third dense block -> number of the network.
_NUMBERS = {24: 121, 32: 169, 48: 201, 36: 161}

_OLD = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)")
_PREFIX = re.compile(r"^(?:module\.)?(?:densenet\d+\.|model\.)?")

_CENTRE = Preprocess((3, 224, 224), "bilinear", crop_pct=224 / 256, crop_mode="center", **IMAGENET)
_SQUASH = Preprocess((3, 224, 224), "bilinear", **IMAGENET)


@dataclass(frozen=True)
class Project:
    """Whose DenseNet it is.

    Attributes
    ----------
    title, trained_on, about, measured, preprocess, labels
        See `cft.convert.result.Converted`; no labels where the user has to name them.
    """

    title: str
    trained_on: str
    preprocess: Preprocess
    labels: tuple[str, ...] = ()
    about: str = ""
    measured: str = ""


#: Name of a converter -> what it converts.
PROJECTS = {
    "torchvision-densenet": Project(
        title="A DenseNet of torchvision",
        trained_on="what its source says; the checkpoint does not",
        preprocess=_CENTRE,
        about="Its input is the centre crop of 224 from 256.",
    ),
    "gaetandi-chexpert": Project(
        title="gaetandi/cheXpert, DenseNet-121",
        trained_on="CheXpert (Stanford)",
        labels=CHEXPERT_14,
        preprocess=_SQUASH,
        about="Its authors train and test on random crops of 224; here the whole film is squashed "
        "to 224, so that an answer does not depend on chance.",
    ),
    "arnoweng-chexnet": Project(
        title="arnoweng/CheXNet, DenseNet-121",
        trained_on="NIH ChestX-ray14",
        labels=NIH_14,
        preprocess=_CENTRE,
        about="Its authors average the answers of ten crops of 224 from 256; here it is the centre "
        "crop alone, as in most uses since, so that figures differ from theirs.",
        measured="Its authors report a mean AUROC of 0.843, and 0.847 for an improved model, on a "
        "fifth of NIH's films drawn by chance, with ten crops.",
    ),
    "dacnet": Project(
        title="DACNet, DenseNet-121",
        trained_on="NIH ChestX-ray14",
        labels=tuple(sorted(NIH_14)),
        preprocess=_CENTRE,
        about="As its authors evaluate it. (Their web page leaves out the ReLU before pooling and "
        "normalises otherwise; this is the network that they trained.)",
        measured="Its authors report a mean AUROC of 0.85 on the films of 2 % of NIH's patients, "
        "drawn by chance.",
    ),
}


def renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a DenseNet under timm's names.

    Counters of batches, which files before PyTorch 0.4.1 lack, are set to 0: nothing uses them.
    """
    result = {}
    for name, tensor in tensors.items():
        plain = _OLD.sub(r"\1\2", _PREFIX.sub("", name))
        result[plain.replace("classifier.0.", "classifier.")] = tensor
    for name in [name for name in result if name.endswith("running_var")]:
        counter = name.replace("running_var", "num_batches_tracked")
        result.setdefault(counter, torch.tensor(0))
    return result


def architecture_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Which DenseNet the tensors of `renamed` are of.

    Raises
    ------
    ConversionError
        If none.
    """
    layers = [name for name in tensors if re.match(r"features\.denseblock3\.denselayer\d+\.", name)]
    count = len({name.split(".")[2] for name in layers})
    if count not in _NUMBERS or "classifier.weight" not in tensors:
        raise ConversionError("the checkpoint is no DenseNet under torchvision's names")
    return f"densenet{_NUMBERS[count]}"


def convert(source: str, asked: str | None, name: str) -> tuple[Converted, Path]:
    """Convert a checkpoint for one of the names of `PROJECTS`.

    Parameters
    ----------
    source
        Where the checkpoint is.
    asked
        The labels of the command line.
    name
        Of the converter.
    """
    file = find(source)
    tensors = read_tensors(file)
    kind = name
    if name == "torchvision-densenet" and any(_OLD.search(key) for key in tensors):
        # With the wrapper's prefix and the old names it is CheXNet's reproduction of 2017.
        kind = "arnoweng-chexnet" if any("densenet121." in key for key in tensors) else name
    new = renamed(tensors)
    architecture = architecture_of(new)
    outputs = sides(new, "classifier.weight", 2)[0]
    project = PROJECTS[kind]
    fixed, trained_on = project.labels, project.trained_on
    if kind == "torchvision-densenet" and outputs == 1000 and asked is None:
        fixed, trained_on = tuple(ImageNetInfo().label_names()), "ImageNet-1k: colour pictures"
    channels = sides(new, "features.conv0.weight", 4)[1]
    if channels != 3:
        raise ConversionError(f"the checkpoint takes {channels} channels instead of 3")
    return Converted(
        architecture=architecture,
        tensors=new,
        labels=labels_of(asked, outputs, fixed),
        preprocess=project.preprocess,
        title=project.title,
        about=project.about,
        measured=project.measured,
        trained_on=trained_on,
    ), file
