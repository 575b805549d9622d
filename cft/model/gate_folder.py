"""Store the gate of a model in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from cft.files import atomic_write
from cft.model.folder import CONFIG, ModelFolder, parse_config
from cft.model.gate_statistics import GateStatistics

__all__ = ["store_gate"]


def store_gate(folder: ModelFolder, statistics: GateStatistics) -> Path:
    """Write a gate into the ``config.json`` of a folder, in place of one that may be there.

    Nothing else of the folder changes.

    Raises
    ------
    ModelFolderError
        If what would be written could not be read back, such as more than a folder may hold.
    OSError
        If it cannot be written.
    """
    config = dict(folder.config)
    config["cft"] = {**config.get("cft", {}), "gate": statistics.to_config()}
    parse_config(config, folder.path)
    path = folder.path / CONFIG
    atomic_write(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return path
