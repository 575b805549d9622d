"""Convert Keras's own networks and compare the scores: ``python -m tests.keras_parity [NAME ...]``

Each network of keras.applications that `cft.convert.keras` knows is built by Keras 3 (on PyTorch)
with random weights, flat and as one nested layer, saved as ``.h5`` and ``.keras``, converted, and
asked about the same films. One line a file; exit status 1 if a logit differs by more than 1e-5 of
the largest. Run by hand where ``pip install keras`` has been run; the tests compare with a literal
reference of the same layers instead.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cft
from cft.convert.__main__ import main as convert

#: As the share of the largest logit; float32 alone reaches a few millionths.
TOLERANCE = 1e-5
_SIDE = 64
_NETWORKS = (
    *("DenseNet121", "DenseNet169", "DenseNet201"),
    *("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"),
    *(f"EfficientNetB{number}" for number in range(8)),
)


def randomised(model: Any) -> Any:
    """The model with weights that keep its activations in range."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        name, shape = weight.path.rpartition("/")[2], tuple(weight.shape)
        if "kernel" in name:
            values = random.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        elif name == "gamma":
            values = random.uniform(0.5, 1.5, shape)
        elif "variance" in name:
            values = random.uniform(0.1, 1, shape)
        else:
            values = random.normal(0, 0.2, shape)
        weight.assign(values.astype("float32"))
    return model


def built(keras: Any, name: str, nested: bool, films: np.ndarray) -> Any:
    """A model of 14 outputs; its logits for `films` lie within -1 and 1."""
    network = getattr(keras.applications, name)
    base = network(include_top=False, weights=None, input_shape=(_SIDE, _SIDE, 3), pooling="avg")
    inputs, features = base.input, base.output
    if nested:
        inputs = keras.Input((_SIDE, _SIDE, 3))
        features = keras.layers.Dropout(0.2)(base(keras.layers.Rescaling(1 / 255)(inputs)))
    head = keras.layers.Dense(14, activation="sigmoid", name="predictions")
    model = randomised(keras.Model(inputs, head(features)))
    kernel = keras.ops.convert_to_numpy(head.kernel)
    before = keras.Model(inputs, features).predict(films, verbose=0)
    head.kernel.assign(kernel / np.abs(before @ kernel).max())
    return model


def difference(file: Path, folder: Path, films: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of a logit, as a share of the largest logit."""
    with contextlib.redirect_stdout(io.StringIO()):
        if convert(["cft-keras", str(file), str(folder)]):
            sys.exit(f"{file.name} was not converted")
    classifier = cft.load(folder, "cpu", engine="torch")
    grey = torch.from_numpy(films).permute(0, 3, 1, 2)[:, :1] / 255
    with torch.inference_mode():
        logits = classifier.logits(classifier.preprocess.normalize(grey)).numpy()
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def main() -> int:
    """Compare the networks of `NAME`, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NAME", help=", ".join(_NETWORKS))
    names = parser.parse_args().networks or _NETWORKS
    if unknown := {*names} - {*_NETWORKS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    os.environ["KERAS_BACKEND"] = "torch"
    import keras  # by hand only: no requirements file names it

    grey = np.random.default_rng(1).integers(0, 256, (2, _SIDE, _SIDE, 1))
    films = np.repeat(grey, 3, 3).astype("float32")
    worst = 0.0
    for name in names:
        for nested in (False, True):
            model = built(keras, name, nested, films)
            scores = model.predict(films, verbose=0).astype("float64")
            expected = np.log(scores / (1 - scores))
            for ending in ("h5", "keras"):
                with tempfile.TemporaryDirectory() as work:
                    file = Path(work) / f"model.{ending}"
                    model.save(file)
                    share = difference(file, Path(work) / "folder", films, expected)
                worst = max(worst, share)
                print(f"{name:16} {'nested' if nested else 'flat':6} .{ending:5} {share:.1e}")
    print(f"Keras {keras.__version__}: at most {worst:.1e} of the largest logit")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
