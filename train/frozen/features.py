"""What a frozen network makes of every film, computed once and kept on disk.

A film's features are the input of the network's last layer, so that ``z @ W.T + b`` are its own
logits. They are kept in a folder: ``features.f32`` holds the (N, D) array, ``done.u8`` one byte a
film (0 to do, 1 there), ``index.json`` what they were made from. Computing may be stopped at any
time; it goes on where it was. Only the films that are asked for are computed.

They are kept as float32, as the network gives them: a fit on them and the model in use see the same
numbers. (Half of the bytes, float16, would change a logit by up to 0.004 and the time of a fit
hardly at all; measured on NIH's films with EfficientNet-Lite0.)
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cft.architectures.pooled_linear import PooledLinear
from cft.errors import ModelFolderError
from cft.files import atomic_write, from_json, regular, reserve_all
from cft.model.folder import ModelFolder
from cft.model.network import build_network, try_out
from cft.model.preprocess import Preprocess
from train.datasets.pixels import Pixels
from train.locks import locked
from train.precision import full_precision

if TYPE_CHECKING:
    from cft.model.network import Network

__all__ = ["Change", "Features", "Frozen", "FrozenNetwork", "features_of", "linear_head"]
logger = logging.getLogger(__name__)
_FORMAT = 2
_ARRAY, _DONE, _INDEX = "features.f32", "done.u8", "index.json"

# Films between two notes of how far the work is; what is lost at most when it is killed.
_BLOCK = 512

# How far the logistic regressions on the features may be from the network's logits.
_TOLERANCE = 1e-4

# Layers that do nothing when a network is used, and that a network in training may have instead of
# each other.
_IDLE = ("Identity", "Dropout", "DropPath")


class Frozen(Protocol):
    """What features are computed with: a `FrozenNetwork`, or a `cft.Classifier`."""

    @property
    def network(self) -> Network: ...

    @property
    def preprocess(self) -> Preprocess: ...

    @property
    def device(self) -> torch.device: ...


@dataclass(frozen=True)
class FrozenNetwork:
    """A network in evaluation mode on the device, and nothing that only its use would need."""

    network: Network
    preprocess: Preprocess
    device: torch.device

    @classmethod
    def of(cls, folder: ModelFolder, device: torch.device) -> FrozenNetwork:
        """The network of a model folder with one head.

        Raises
        ------
        ModelFolderError
            If the folder does not fit, or the network does not answer.
        """
        network = build_network(folder)
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack memory_format
        try_out(network, folder, device)
        return cls(network, folder.facts.preprocess, device)


class Change(Protocol):
    """A way in which films are changed before the network sees them."""

    @property
    def name(self) -> str:
        """Names the change, with everything that decides it."""
        ...

    def __call__(self, films: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """The films at some rows, (n, 1, H, W) float32 in [0, 1] on the device, changed."""
        ...


@dataclass(frozen=True)
class Features:
    """The features of N films and the logistic regressions that the model has for them.

    Attributes
    ----------
    z
        (N, D) float32, memory-mapped. Rows that were not asked for may hold anything; those of
        unreadable films are of a black one.
    weights, biases
        (C, D) and (C,) float32: the model's logits are ``z @ weights.T + biases``.
    key
        Names network and films, but not the regressions.
    """

    z: np.ndarray
    weights: np.ndarray
    biases: np.ndarray
    key: str


def features_of(
    frozen: Frozen,
    pixels: Pixels,
    cache: str | os.PathLike,
    rows: np.ndarray | None = None,
    change: Change | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Features:
    """Compute the features of packed films, or open those that were computed before.

    Parameters
    ----------
    frozen
        The network; it computes in float32 of full precision, on any device.
    pixels
        The films, packed for the network's own preprocessing.
    cache
        Folder of features. Those of this network and these films have a folder of their own in it,
        named by a hash of the network without its last layer, of the preprocessing, of every pixel
        and of the change, so features are never used for another network or other films, and other
        logistic regressions find them.
    rows
        Films that are needed; None: all of them.
    change
        Of the films before the network sees them; None: they stay as they are.
    batch_size
        Films at once.
    progress
        Whether to show a progress bar.

    Raises
    ------
    ModelFolderError
        If the network does not end in one linear layer with a bias.
    OSError
        If the features cannot be written (the disk is full).
    """
    head = linear_head(frozen.network)
    shape = (len(pixels.array), head.in_features)
    made_from = {
        "format": _FORMAT,
        "network": _hash_of(frozen.network),
        "preprocess": frozen.preprocess.to_config(),
        "pixels_sha256": pixels.sha256,
        "change": change.name if change else None,
        "shape": list(shape),
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(cache) / key
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=True):  # a second run on the same films waits, and finds them there
        _open(folder, made_from)
        asked = np.arange(shape[0]) if rows is None else np.unique(rows)
        done = np.memmap(folder / _DONE, np.uint8, "r", shape=shape[0])
        todo = asked[done[asked] == 0]
        if len(todo):
            logger.info("computing the features of %d films into %s", len(todo), folder)
            _compute(frozen, pixels, folder, shape, todo, change, batch_size, progress)
    return Features(
        z=np.memmap(folder / _ARRAY, np.float32, "r", shape=shape),
        weights=head.weight.numpy(force=True),
        biases=head.bias.numpy(force=True),
        key=key,
    )


def linear_head(network: Network) -> nn.Linear:
    """A network's logistic regressions, as one layer.

    Raises
    ------
    ModelFolderError
        If it ends in anything else.
    """
    head = network.get_classifier()
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ModelFolderError(
            f"{_architecture(network)} does not end in one linear layer with a bias, so it has no "
            "logistic regressions to fit"
        )
    return head


def _compute(
    frozen: Frozen,
    pixels: Pixels,
    folder: Path,
    shape: tuple[int, int],
    todo: np.ndarray,
    change: Change | None,
    batch_size: int,
    progress: bool,
) -> None:
    """Fill the rows that are to do; their marks follow, block by block."""
    array = np.memmap(folder / _ARRAY, np.float32, "r+", shape=shape)
    marks = np.memmap(folder / _DONE, np.uint8, "r+", shape=shape[0])
    films = pixels.loader(frozen.device)
    parts = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    written: list[np.ndarray] = []

    def note() -> None:
        array.flush()  # the rows are on disk before the marks say so
        marks[np.concatenate(written)] = 1
        marks.flush()
        written.clear()

    with tqdm(total=len(todo), unit="film", desc="features", disable=not progress) as bar:
        try:
            for rows, batch in zip(parts, films.batches(parts), strict=True):
                with full_precision():
                    grey = batch.float() / 255
                    grey = change(grey, rows) if change else grey
                    array[rows] = _features(frozen, grey).numpy(force=True)
                written.append(rows)
                if sum(map(len, written)) >= _BLOCK:
                    note()
                bar.update(len(rows))
        finally:  # also after a Ctrl-C
            if written:
                note()


@torch.inference_mode()
def _features(frozen: Frozen, films: torch.Tensor) -> torch.Tensor:
    """(n, 1, H, W) float32 in [0, 1] -> (n, D) float32, checked against the network's logits."""
    network = frozen.network
    batch = frozen.preprocess.normalize(films).contiguous(memory_format=torch.channels_last)
    if isinstance(network, PooledLinear):  # its map is large, and it ends in one layer
        return network.pooled(batch)
    maps = network.forward_features(batch)
    z = network.forward_head(maps, pre_logits=True)
    expected = network.forward_head(maps)
    head = linear_head(network)
    fits = z.shape == (len(films), head.in_features)
    if not fits or not torch.allclose(head(z), expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ModelFolderError(
            f"the logits of {_architecture(network)} are not those of its last layer alone, so its "
            "logistic regressions cannot be fitted by themselves"
        )
    return z


def _architecture(network: Network) -> str:
    return str(network.pretrained_cfg["architecture"])


def _hash_of(network: Network) -> str:
    """SHA-256 of everything that decides what a network makes of a film, up to its last layer.

    The tensors alone would not do: with other strides or another pooling the same tensors compute
    something else.
    """
    head = linear_head(network)
    own = {id(tensor) for tensor in head.state_dict(keep_vars=True).values()}
    digest = hashlib.sha256(_architecture(network).encode())
    for name, module in network.named_modules():
        if module is not head and not type(module).__name__.startswith(_IDLE):
            # A layer that holds others says nothing of its own; their names are the structure.
            digest.update(f"\0{name}:{type(module).__name__}({module.extra_repr()})".encode())
    for name, tensor in sorted(network.state_dict(keep_vars=True).items()):
        if id(tensor) not in own:
            digest.update(f"\0{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            # Bytes as the tensor is laid out by rows, whatever the memory format.
            plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(plain.numpy().data)
    return digest.hexdigest()


def _open(folder: Path, made_from: dict) -> None:
    """Begin the features anew if they are not there or do not fit."""
    films, width = made_from["shape"]
    sizes = {_ARRAY: films * width * 4, _DONE: films}
    try:
        index = from_json(regular(folder / _INDEX).read_text())
        fits = {name: (folder / name).stat().st_size for name in sizes} == sizes
        if index == made_from and fits:
            return
    except (FileNotFoundError, ValueError):
        pass  # nothing there, or the remains of something else: begin
    (folder / _INDEX).unlink(missing_ok=True)  # it would vouch for rows that are not there yet
    reserve_all(folder, sizes)
    atomic_write(folder / _INDEX, json.dumps(made_from, indent=1))
