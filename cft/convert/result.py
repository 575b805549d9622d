"""What a converter makes of a checkpoint, and the model folder that it becomes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cft import labels as label_sets
from cft.errors import ConversionError
from cft.model.folder import CARD, CONFIG, WEIGHTS, read_model_folder, write_model_folder
from cft.model.network import build_network, new_network, try_out
from cft.model.preprocess import Preprocess

#: ImageNet's mean and standard deviation, per colour.
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

_SETS = {
    "nih-14": label_sets.NIH_14,
    "chexpert-14": label_sets.CHEXPERT_14,
    "chexpert-5": label_sets.CHEXPERT_5,
}

_CARD = """\
---
license: {licence}
library_name: timm
pipeline_tag: image-classification
---

# {title}

Converted by `cft convert {name}`: the tensors of `{file}` (SHA-256 `{digest}`) under the names of
timm's `{architecture}`. {about}

{measured}

Not a medical device. Research software for study and demonstration: never use it to diagnose,
triage or treat.
"""


@dataclass(frozen=True)
class Converted:
    """A checkpoint under timm's names, with what belongs beside it.

    Attributes
    ----------
    architecture, model_args
        What `timm.create_model` is given.
    tensors
        By timm's names.
    labels
        Of the outputs, in their order; none for a network without a head.
    preprocess
        How a film becomes the input.
    title, about, measured
        For the card: what it is; what differs from the authors' own use; what they measured.
    trained_on
        One sentence for the provenance.
    thresholds
        Label -> operating point, in units of the probability; what has none is left out.
    licence
        An SPDX identifier, or "other".
    """

    architecture: str
    tensors: Mapping[str, torch.Tensor]
    labels: tuple[str, ...]
    preprocess: Preprocess
    title: str
    trained_on: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    measured: str = ""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    licence: str = "other"


def labels_of(
    asked: str | None, outputs: int, fixed: Sequence[str] = (), blanks: bool = False
) -> tuple[str, ...]:
    """The labels of a network's outputs.

    Parameters
    ----------
    asked
        Of ``--labels``: names with commas between, or the name of a set.
    outputs
        How many there are.
    fixed
        What the source itself says, if it says so.
    blanks
        Whether a label may be blank, which is an output to leave out.

    Raises
    ------
    ConversionError
        If nobody says what the outputs are, or their numbers differ.
    """
    if asked is None and not fixed:
        raise ConversionError(
            f"the checkpoint does not say what its {outputs} outputs are; name them in their order "
            f"with --labels A,B,... (or one of {', '.join(_SETS)})"
        )
    if asked is None:
        names = tuple(fixed)
    else:
        names = _SETS.get(asked) or tuple(name.strip() for name in asked.split(","))
    if len(names) != outputs:
        raise ConversionError(f"{len(names)} labels were named for {outputs} outputs")
    if not blanks and not all(names):
        raise ConversionError(f"label {names.index('') + 1} of --labels is blank")
    for place, name in enumerate(names):
        if not (name == "" or name.isprintable()):
            raise ConversionError(f"label {place + 1} of --labels holds a control character")
        if name and name in names[:place]:
            raise ConversionError(f"--labels names {name!r} twice")
    return names


def write(converted: Converted, name: str, file: Path, folder: Path) -> str:
    """Write a model folder and load it, strictly; returns the architecture.

    Raises
    ------
    ConversionError
        If the tensors are not exactly those of the network.
    ModelFolderError
        If what was written cannot be used: its scores of a film are not finite, for one.
    """
    classes = len(converted.labels)
    arguments = {**converted.model_args, "in_chans": converted.preprocess.input_size[0]}
    with torch.device("meta"):
        twin = new_network(converted.architecture, num_classes=classes, **arguments)
    _check(converted, twin)
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(2**20):
            digest.update(part)
    stated = {**converted.preprocess.to_config(), "num_classes": classes}
    stated |= {key: twin.pretrained_cfg[key] for key in ("first_conv", "classifier")}
    config = {
        "architecture": converted.architecture,
        "num_classes": classes,
        "num_features": twin.num_features,
        "model_args": arguments,
        "pretrained_cfg": {**stated, "license": converted.licence},
        "cft": {
            "categories": {
                label: {
                    "platt": None,
                    "operating_point": {"threshold": point, "rule": f"as published by {name}"},
                }
                for label, point in converted.thresholds.items()
            },
            "provenance": {
                "trained_on": f"{converted.trained_on}; converted from {name}",
                "converted_from": name,
            },
        },
    }
    if classes:
        config["label_names"] = list(converted.labels)
        known = label_sets.DESCRIPTIONS
        config["label_descriptions"] = {x: known[x] for x in converted.labels if x in known}
        config["problem_type"] = "multi_label_classification"
    card = _CARD.format(
        licence=converted.licence,
        title=converted.title,
        name=name,
        file=file.name,
        digest=digest.hexdigest(),
        architecture=converted.architecture,
        about=converted.about,
        measured=converted.measured or "The authors' figures are not repeated here.",
    )
    tensors = dict(converted.tensors)
    with _nothing_left(folder):
        write_model_folder(
            folder, state_dict=tensors, config=config, card=card, named=bool(classes)
        )
        if classes:  # as whoever uses it loads it
            written = read_model_folder(folder)
            try_out(build_network(written), written, torch.device("cpu"))
    return converted.architecture


@contextlib.contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """Take away what was written into a folder if it turns out to be of no use."""
    was_there = folder.exists()
    before = {file.name for file in folder.iterdir()} if was_there else set()
    try:
        yield
    except BaseException:
        for name in {CONFIG, WEIGHTS, CARD} - before:
            (folder / name).unlink(missing_ok=True)
        if not was_there and folder.exists():
            folder.rmdir()
        raise


def refuse_existing(folder: Path) -> None:
    """Raise `ConversionError` if a folder holds a model."""
    if (folder / CONFIG).exists():
        raise ConversionError(f"{folder} already holds a model; choose another folder")


def _check(converted: Converted, twin: nn.Module) -> None:
    """The tensors are those of timm's network, by name and by shape."""
    expected = {name: _kind(x) for name, x in twin.state_dict().items()}
    found = {name: _kind(x) for name, x in converted.tensors.items()}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        first = wrong[0]
        raise ConversionError(
            f"the checkpoint is no {converted.architecture}: {len(wrong)} tensors differ, first "
            f"{first}, which is {found.get(first, 'missing')} instead of "
            f"{expected.get(first, 'absent')}"
        )


def _kind(tensor: torch.Tensor) -> str:
    """Shape of a tensor, and whether it counts."""
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"
