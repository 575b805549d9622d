"""What a frozen backbone makes of every film, computed once: all that stage 2 works on.

A film's features are the input of the model's logistic regressions, so that ``z @ W.T + b`` are
the model's own logits. They are kept in a folder: ``features.f32`` holds the (N, D) array,
``index.json`` what it was made from and how many rows are there. Computing may be stopped at any
time; it goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cft.errors import ModelFolderError
from cft.files import atomic_write, reserve
from cft.model.classifier import Classifier
from train.datasets.pixels import Pixels
from train.locks import locked
from train.precision import full_precision

__all__ = ["Features", "features_of"]
logger = logging.getLogger(__name__)
_FORMAT = 1
_ARRAY, _INDEX = "features.f32", "index.json"

# Films between two notes of how far the work is; what is lost at most when it is stopped.
_BLOCK = 2048

# How far the logistic regressions on the features may be from the network's logits.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Features:
    """The features of N films and the logistic regressions that the model has for them.

    Attributes
    ----------
    z
        (N, D) float32, memory-mapped; rows of unreadable films are those of a black one.
    weights, biases
        (C, D) and (C,) float32: the model's logits are ``z @ weights.T + biases``.
    key
        Names model and films.
    """

    z: np.ndarray
    weights: np.ndarray
    biases: np.ndarray
    key: str


def features_of(
    classifier: Classifier,
    pixels: Pixels,
    cache: str | os.PathLike,
    batch_size: int = 64,
    progress: bool = True,
) -> Features:
    """Compute the features of packed films, or open those that were computed before.

    Parameters
    ----------
    classifier
        The model; its backbone computes in float32 of full precision, on any device.
    pixels
        The films, packed for the model's own preprocessing.
    cache
        Folder of features. Those of this model and these films have a folder of their own in it,
        named by a hash of the weights, of the preprocessing and of every pixel, so features are
        never used for another model or other films.
    batch_size
        Films at once.
    progress
        Whether to show a progress bar.

    Raises
    ------
    ModelFolderError
        If the model does not end in one linear layer with a bias.
    OSError
        If the features cannot be written (the disk is full).
    """
    head = linear_head(classifier)
    shape = (len(pixels.array), head.in_features)
    made_from = {
        "format": _FORMAT,
        "weights_sha256": classifier.weights_sha256,
        "preprocess": classifier.preprocess.to_config(),
        "pixels_sha256": _hash_of(pixels.array),
        "shape": list(shape),
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(cache) / key
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=True):  # a second run on the same films waits, and finds them there
        index = _open(folder, made_from)
        if index["done"] < len(pixels.array):
            logger.info("computing the features of %d films into %s", len(pixels.array), folder)
            _compute(classifier, pixels, folder, index, batch_size, progress)
    return Features(
        z=np.memmap(folder / _ARRAY, np.float32, "r", shape=shape),
        weights=head.weight.numpy(force=True),
        biases=head.bias.numpy(force=True),
        key=key,
    )


def linear_head(classifier: Classifier) -> nn.Linear:
    """The model's logistic regressions, as one layer.

    Raises
    ------
    ModelFolderError
        If it ends in anything else.
    """
    head = classifier.network.get_classifier()
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ModelFolderError(
            f"{classifier.config['architecture']} does not end in one linear layer with a bias, "
            "so it has no logistic regressions to fine-tune"
        )
    return head


def _compute(
    classifier: Classifier,
    pixels: Pixels,
    folder: Path,
    index: dict,
    batch_size: int,
    progress: bool,
) -> None:
    """Fill the rows that are to do; the index follows, block by block."""
    n, start = len(pixels.array), index["done"]
    array = np.memmap(folder / _ARRAY, np.float32, "r+", shape=tuple(index["shape"]))
    films = pixels.loader(classifier.device)
    parts = [np.arange(i, min(i + batch_size, n)) for i in range(start, n, batch_size)]
    noted = start
    with tqdm(total=n, initial=start, unit="film", desc="features", disable=not progress) as bar:
        for rows, batch in zip(parts, films.batches(parts), strict=True):
            with full_precision():
                array[rows] = _features(classifier, batch).numpy(force=True)
            done = int(rows[-1]) + 1
            if done - noted >= _BLOCK or done == n:
                array.flush()  # the rows are on disk before the index says so
                index["done"] = noted = done
                atomic_write(folder / _INDEX, json.dumps(index, indent=1))
            bar.update(len(rows))


@torch.inference_mode()
def _features(classifier: Classifier, films: torch.Tensor) -> torch.Tensor:
    """(n, 1, H, W) uint8 -> (n, D) float32, checked against the network's own logits."""
    network = classifier.network
    batch = classifier.preprocess.normalize(films.float() / 255)
    maps = network.forward_features(batch.contiguous(memory_format=torch.channels_last))
    z = network.forward_head(maps, pre_logits=True)
    expected = network.forward_head(maps)
    head = linear_head(classifier)
    fits = z.shape == (len(films), head.in_features)
    if not fits or not torch.allclose(head(z), expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ModelFolderError(
            f"the logits of {classifier.config['architecture']} are not those of its last layer "
            "alone, so its logistic regressions cannot be fine-tuned"
        )
    return z


def _hash_of(films: np.ndarray) -> str:
    """SHA-256 of (N, H, W) uint8 films, read in blocks."""
    digest = hashlib.sha256()
    for start in range(0, len(films), _BLOCK):
        digest.update(np.ascontiguousarray(films[start : start + _BLOCK]).data)
    return digest.hexdigest()


def _open(folder: Path, made_from: dict) -> dict:
    """The index of a folder of features, begun anew if they are not there or do not fit."""
    try:
        index = json.loads((folder / _INDEX).read_text())
        size = (folder / _ARRAY).stat().st_size
        if {**index, "done": 0} == {**made_from, "done": 0} and size == _bytes(made_from):
            return index
    except (FileNotFoundError, ValueError, TypeError):
        pass  # nothing there, or the remains of something else: begin
    (folder / _INDEX).unlink(missing_ok=True)  # it would vouch for rows that are not there yet
    reserve(folder / _ARRAY, _bytes(made_from))
    index = {**made_from, "done": 0}
    atomic_write(folder / _INDEX, json.dumps(index, indent=1))
    return index


def _bytes(made_from: dict) -> int:
    return int(np.prod(made_from["shape"])) * 4
