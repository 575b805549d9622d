"""The one on-disk format of a model: ``config.json``, ``model.safetensors``, ``README.md``.

The folder is exactly what stock timm reads (``timm.create_model("local-dir:PATH",
pretrained=True)``); what is ours lives under the key ``"cft"`` of ``config.json``. Reading is
strict: only safetensors, never a pickle, and a folder that does not fit is refused with one
sentence that says what and where.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cft.errors import ModelFolderError
from cft.files import atomic_write

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

#: Version of the ``"cft"`` block that this code writes, and the newest that it reads.
FORMAT = 1
_MAX_CONFIG_BYTES = 4 * 2**20
_MAX_LABELS = 10_000


@dataclass(frozen=True)
class ModelFolder:
    """A checked model folder.

    Attributes
    ----------
    path
        Where it was read.
    config
        The parsed ``config.json``.
    state_dict
        Name -> tensor, on the CPU.
    weights_sha256
        Hash of ``model.safetensors``: names the exact weights.
    """

    path: Path
    config: dict[str, Any]
    state_dict: dict[str, torch.Tensor]
    weights_sha256: str

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the categories, in the order of the model's outputs."""
        return label_names_of(self.config, self.path)


def write_model_folder(
    path: str | os.PathLike,
    *,
    state_dict: dict[str, torch.Tensor],
    config: dict[str, Any],
    card: str,
) -> Path:
    """Write a model folder; other files already in the folder are left alone.

    The weights' hash is stored in ``config.json``, so that a reader that meets new weights beside
    an old configuration (or the reverse) refuses the pair instead of mixing them.

    Parameters
    ----------
    path
        The folder; made if absent.
    state_dict
        Name -> tensor.
    config
        timm's keys at the root, ours under ``"cft"``; see DESIGN in the README.
    card
        Text of the model card (Markdown).

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ModelFolderError
        If what would be written could not be read back.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    _check_finite(tensors, path)
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    ours = {"format": FORMAT, **config.get("cft", {})}
    ours["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    config = {**config, "cft": ours}
    _check_config(config, path)
    atomic_write(path / WEIGHTS, weights)
    atomic_write(path / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    atomic_write(path / CARD, card)
    return path


def read_model_folder(path: str | os.PathLike, *, named: bool = True) -> ModelFolder:
    """Read and check a model folder.

    Parameters
    ----------
    path
        The folder.
    named
        Whether its outputs must have names. Those of timm's own models have none, which are a start
        for training all the same.

    Raises
    ------
    ModelFolderError
        If a file is missing, is not what it claims to be, holds NaN or infinity, or was written
        by a newer version of the format.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelFolderError(f"{path} is not a folder, so it holds no model")
    config = read_config(path, named=named)
    weights = _read_bytes(path, WEIGHTS)
    digest = hashlib.sha256(weights).hexdigest()
    expected = config.get("cft", {}).get("weights_sha256", digest)
    if digest != expected:
        raise ModelFolderError(
            f"{path / WEIGHTS} is not the file that {CONFIG} was written for (SHA-256 "
            f"{digest[:12]}... instead of {str(expected)[:12]}...); fetch the folder again"
        )
    try:
        state_dict = safetensors.torch.load(weights)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ModelFolderError(
            f"{path / WEIGHTS} is not a readable safetensors file ({error})"
        ) from error
    _check_finite(state_dict, path)
    return ModelFolder(path, config, state_dict, digest)


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except FileNotFoundError:
        raise ModelFolderError(f"{path} has no {name}, so it is not a model folder") from None
    except OSError as error:
        raise ModelFolderError(f"{path / name} cannot be read ({error.strerror})") from error


def read_config(path: Path, *, named: bool = True) -> dict[str, Any]:
    """Read and check ``config.json`` alone, without the weights.

    Parameters
    ----------
    path, named
        See `read_model_folder`.

    Raises
    ------
    ModelFolderError
        See `read_model_folder`.
    """
    data = _read_bytes(path, CONFIG)
    if len(data) > _MAX_CONFIG_BYTES:
        raise ModelFolderError(f"{path / CONFIG} is larger than 4 MiB, so it is no configuration")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path / CONFIG} is not valid JSON ({error})") from error
    _check_config(config, path, named)
    return config


def _check_config(config: Any, path: Path, named: bool = True) -> None:
    where = path / CONFIG
    if not isinstance(config, dict):
        raise ModelFolderError(f"{where} must hold a JSON object")
    if not isinstance(config.get("architecture"), str):
        raise ModelFolderError(f'{where} names no "architecture"')
    if not isinstance(config.get("pretrained_cfg"), dict):
        raise ModelFolderError(f'{where} has no "pretrained_cfg", so the input size is unknown')
    if not isinstance(config.get("model_args", {}), dict):
        raise ModelFolderError(f'"model_args" in {where} must be an object')
    ours = config.get("cft", {})
    if not isinstance(ours, dict) or not isinstance(ours.get("categories", {}), dict):
        raise ModelFolderError(f'"cft" in {where} must be an object')
    if not isinstance(ours.get("format", FORMAT), int) or ours.get("format", FORMAT) > FORMAT:
        raise ModelFolderError(
            f"{where} has format {ours['format']!r}, newer than {FORMAT}, the newest that this "
            "version reads; upgrade this package"
        )
    if named:
        _check_names(config, path)


def _check_names(config: dict[str, Any], path: Path) -> None:
    names = label_names_of(config, path)
    classes = config.get("num_classes", config["pretrained_cfg"].get("num_classes", len(names)))
    if classes != len(names):
        raise ModelFolderError(f"{path / CONFIG} names {len(names)} labels for {classes} outputs")


def label_names_of(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Names of the categories that a ``config.json`` states, in the order of the outputs."""
    names = config.get("label_names", config["pretrained_cfg"].get("label_names"))
    if isinstance(names, dict):  # timm also allows {"0": name, ...}
        names = [names.get(str(i)) for i in range(min(len(names), _MAX_LABELS))]
    if not isinstance(names, list) or not names or not all(isinstance(x, str) for x in names):
        raise ModelFolderError(
            f'{path / CONFIG} has no "label_names", so its outputs have no meaning'
        )
    if len(set(names)) != len(names):
        raise ModelFolderError(f"{path / CONFIG} names a label twice")
    return tuple(names)


def _check_finite(state_dict: dict[str, torch.Tensor], path: Path) -> None:
    for name, tensor in state_dict.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelFolderError(f"tensor {name!r} of {path / WEIGHTS} holds NaN or infinity")
