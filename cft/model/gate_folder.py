"""Store the gate of a model in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from cft.errors import ModelFolderError
from cft.files import atomic_write
from cft.film.read import read_radiograph
from cft.model.engines import FolderNetwork
from cft.model.folder import CONFIG, ModelFolder, read_model_folder
from cft.model.gate import Gatekeeper, depths_in
from cft.model.gate_statistics import GateStatistics
from cft.model.heads import with_one_head
from cft.model.selftest import EXAMPLE

__all__ = ["store_gate"]


def store_gate(folder: ModelFolder, statistics: GateStatistics) -> Path:
    """Write a gate into the ``config.json`` of a folder, in place of one that may be there.

    Nothing else of the folder changes. The folder is read again, and the model answers one film
    with the gate that is to be stored, before the file is replaced.

    Parameters
    ----------
    folder
        The folder as it was when its gate was fitted.
    statistics
        The gate.

    Raises
    ------
    ModelFolderError
        If the folder holds another model by now, or what would be written could not be used, such
        as more than a folder may hold. The file is as it was then.
    OSError
        If it cannot be written.
    """
    now = read_model_folder(folder.path)
    if now.weights_sha256 != folder.weights_sha256:
        raise ModelFolderError(
            f"the weights in {folder.path} have changed since the gate was fitted, so it was not "
            "stored"
        )
    config = dict(now.config)
    config["cft"] = {**config.get("cft", {}), "gate": statistics.to_config()}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    _answer_one_film(now.changed(json.loads(text)))
    path = folder.path / CONFIG
    atomic_write(path, text)
    return path


def _answer_one_film(folder: ModelFolder) -> None:
    """Let the gate of a folder judge the packaged example film, as whoever uses it would.

    Raises
    ------
    ModelFolderError
        If it cannot.
    """
    gate, preprocess = folder.facts.gate, folder.facts.preprocess
    assert gate is not None
    engine = FolderNetwork(with_one_head(folder), "cpu", "torch", depths_in(gate)).engine
    film = preprocess(read_radiograph(EXAMPLE).pixels)[None]
    try:
        Gatekeeper(gate, preprocess, engine).look(film)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelFolderError(
            f"the gate was not stored in {folder.path}, since it cannot judge a film ({error})"
        ) from error
