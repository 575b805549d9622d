"""A model that Keras saved as HDF5 -> its layers and tensors. Nothing of it is run.

``model.save("x.h5")`` of Keras 2 and 3 writes the configuration of the layers as JSON, and a group
of arrays for each. A model that is a layer of another is read as if its layers were the other's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cft.errors import ConversionError

_MODELS = ("Functional", "Model", "Sequential")


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
        If h5py is missing, or the file is no whole model in HDF5.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise ConversionError('a file of Keras needs h5py: pip install "cft[convert]"') from None
    if path.suffix == ".keras":
        raise ConversionError(
            f"{path} is in Keras 3's own format; save the model as .h5 there: "
            'keras.saving.load_model("x.keras").save("x.h5")'
        )
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
            if text is None:
                raise ConversionError(
                    f"{path} holds weights without the model; save it with model.save, not "
                    "with save_weights"
                )
            layers = dict(_layers(json.loads(text)))
            return KerasModel(layers, dict(_arrays(file["model_weights"], layers)))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, ConversionError):
            raise
        reason = " ".join(str(error).split())[:150]
        raise ConversionError(f"{path} is no model that Keras saved as HDF5 ({reason})") from None


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
