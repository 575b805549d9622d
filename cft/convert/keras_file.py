"""A model that Keras saved -> its layers and tensors. Nothing of it is run.

``model.save("x.h5")`` of Keras 2 and 3 writes the configuration of the layers as JSON, and a group
of arrays for each. ``model.save("x.keras")`` of Keras 3 writes a zip archive of the configuration
and of an HDF5 file, in which the layers of each class are numbered. A model that is a layer of
another is read as if its layers were the other's.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cft.convert.sources import MAX_BYTES
from cft.errors import ConversionError

_MODELS = ("Functional", "Model", "Sequential")

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MAX_CONFIG = 64 * 2**20  # that of ResNet-152 has 0.5 MB

_DAMAGED = (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError)

# Names of a layer's arrays, which a .keras file only numbers.
_NUMBERED = {
    **dict.fromkeys(("Conv2D", "DepthwiseConv2D", "Dense"), ("kernel", "bias")),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "Normalization": ("mean", "variance", "count"),
}


@dataclass(frozen=True)
class KerasModel:
    """What a file holds.

    Attributes
    ----------
    layers
        Name -> (class, configuration), in order; a slash in a name is an underscore here.
    arrays
        "layer/variable" -> array.
    """

    layers: dict[str, tuple[str, dict[str, Any]]]
    arrays: dict[str, np.ndarray]

    def of_class(self, *classes: str) -> list[str]:
        """Names of the layers of some classes."""
        return [name for name, (kind, _) in self.layers.items() if kind in classes]


def read(path: Path) -> KerasModel:
    """Read a file.

    Raises
    ------
    ConversionError
        If h5py is missing, or the file is no whole model.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise ConversionError('a file of Keras needs h5py: pip install "cft[convert]"') from None
    kind = "a .keras file" if path.suffix == ".keras" else "HDF5"
    try:
        if path.suffix == ".keras":
            return _read_archive(path)
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
            if text is None:
                raise ConversionError(
                    f"{path} holds weights without the model; save it with model.save, not "
                    "with save_weights"
                )
            layers = dict(_layers(json.loads(text)))
            return KerasModel(layers, dict(_arrays(file["model_weights"], layers)))
    except (*_DAMAGED, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, ConversionError):
            raise
        reason = " ".join(str(error).split())[:150]
        raise ConversionError(f"{path} is no model that Keras saved as {kind} ({reason})") from None


def _read_archive(path: Path) -> KerasModel:
    """A ``.keras`` file."""
    import h5py

    with zipfile.ZipFile(path) as archive, tempfile.TemporaryFile() as weights:
        for name, most in ((_CONFIG, _MAX_CONFIG), (_WEIGHTS, MAX_BYTES)):
            if archive.getinfo(name).file_size > most:
                raise ConversionError(f"{path}: {name} is larger than {most / 2**20:,.0f} MiB")
        model = json.loads(archive.read(_CONFIG))
        with archive.open(_WEIGHTS) as stream:
            shutil.copyfileobj(stream, weights)
        with h5py.File(weights, "r") as file:
            arrays = dict(_numbered_arrays(file, model))
    return KerasModel(dict(_layers(model)), arrays)


def _numbered_arrays(group: Any, model: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of a model in the group of a ``.keras`` file: ``layers/conv2d_1/vars/0``."""
    seen: Counter[str] = Counter()
    for layer in model["config"]["layers"]:
        kind, name = layer["class_name"], layer["config"].get("name", "").replace("/", "_")
        number = seen[kind]
        seen[kind] += 1
        place = f"layers/{_snake_case(kind)}{f'_{number}' if number else ''}"
        if kind in _MODELS:
            yield from _numbered_arrays(group[place], layer)
            continue
        stored = group.get(f"{place}/vars", {})
        names = _NUMBERED.get(kind, ())
        if len(stored) > len(names):
            raise ConversionError(f"the layer {name} ({kind}) has {len(stored)} arrays")
        if kind == "BatchNormalization" and len(stored) < len(names):
            raise ConversionError(f"the layer {name} ({kind}) has no scale or no centre")
        for index in range(len(stored)):
            yield f"{name}/{names[index]}", np.asarray(stored[str(index)], np.float32)


def _snake_case(kind: str) -> str:
    """The name of a class in a ``.keras`` file: Conv2D -> conv2d, InputLayer -> input_layer."""
    parts = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", parts).lower()


def _layers(model: dict[str, Any]) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    for layer in model["config"]["layers"]:
        kind, config = layer["class_name"], layer["config"]
        if kind in _MODELS:
            inside = dict(_layers(layer))
            # The input of a model within another is what comes before it.
            yield from ((n, x) for n, x in inside.items() if x[0] != "InputLayer")
        else:
            name = config.get("name", layer.get("name", ""))
            yield name.replace("/", "_"), (kind, config)


def _arrays(group: Any, layers: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for outer in _names(group, "layer_names"):
        for stored in _names(group[outer], "weight_names"):
            path, _, variable = stored.rpartition("/")
            variable = variable.partition(":")[0]
            array = np.asarray(group[outer][stored], np.float32)
            yield f"{_layer_of(path or outer, outer, layers)}/{variable}", array


def _layer_of(path: str, outer: str, layers: dict[str, Any]) -> str:
    """The layer that an array belongs to; its path may begin with the model around the layer."""
    if outer.replace("/", "_") in layers:
        return outer.replace("/", "_")
    plain = path.replace("/", "_")
    if plain in layers:
        return plain
    ends = [name for name in layers if plain.endswith(f"_{name}")]
    if not ends:
        raise ConversionError(f"the file has arrays of {path!r}, which is no layer of its model")
    return max(ends, key=len)


def _names(group: Any, key: str) -> list[str]:
    """A list of names; long ones are divided over several attributes, numbered from 0."""
    if key in group.attrs:
        names = list(group.attrs[key])
    else:
        names, number = [], 0
        while f"{key}{number}" in group.attrs:
            names += list(group.attrs[f"{key}{number}"])
            number += 1
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
