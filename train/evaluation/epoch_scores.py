"""The validation scores of each epoch of a run, kept in its folder.

A file for each epoch, so that nothing grows: scores are in half precision, two bytes for each film
and category. What an epoch wrote stays when a run is gone on with.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from cft.files import atomic_write, regular

__all__ = ["FOLDER", "keep_epoch", "read_epochs"]

#: Of the files, in a run's folder.
FOLDER = "validation"

_FILE = re.compile(r"epoch-(\d+)\.safetensors")
_LARGEST = np.finfo(np.float16).max


def keep_epoch(
    folder: Path, epoch: int, scores: np.ndarray, y: np.ndarray, label_names: tuple[str, ...]
) -> None:
    """Write the validation scores of an epoch, in place of what it wrote before.

    Parameters
    ----------
    folder
        Of the run.
    epoch
        From 1 on.
    scores
        (N, C) logits; kept as float16.
    y
        (N, C) in {1, 0, NaN}; kept as 1, 0 and -1.
    label_names
        The C categories.
    """
    tensors = {
        "scores": np.clip(scores, -_LARGEST, _LARGEST).astype(np.float16),
        "labels": np.nan_to_num(y, nan=-1).astype(np.int8),
    }
    data = safetensors.numpy.save(tensors, metadata={"label_names": json.dumps(label_names)})
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    atomic_write(folder / FOLDER / f"epoch-{epoch:04}.safetensors", data)


def read_epochs(folder: Path) -> tuple[dict[int, np.ndarray], np.ndarray, list[str]] | None:
    """What `keep_epoch` wrote for a run.

    Returns
    -------
    (scores, y, label_names) or None
        Epoch -> (N, C) float32, in order; (N, C) float64 in {1, 0, NaN}; the categories. None if
        there is nothing. An epoch whose file is damaged, or is of other films than the last, is
        left out.
    """
    found = []
    for path in sorted((folder / FOLDER).glob("*.safetensors")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            continue
        try:
            with safetensors.safe_open(regular(path), framework="numpy") as file:
                names = json.loads(file.metadata()["label_names"])
                scores, labels = file.get_tensor("scores"), file.get_tensor("labels")
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError):
            continue
        if scores.ndim == 2 and scores.shape == labels.shape == (len(scores), len(names)):
            found.append((int(match[1]), scores, labels, names))
    if not found:
        return None
    _, _, last, names = found[-1]
    scores = {
        epoch: of.astype(np.float32)
        for epoch, of, labels, theirs in found
        if theirs == names and np.array_equal(labels, last)
    }
    return scores, np.where(last < 0, np.nan, last.astype(np.float64)), names
