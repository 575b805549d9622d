"""The state of a training run in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from cft.files import atomic_write, regular
from train.errors import CheckpointError


def save_checkpoint(
    path: Path,
    facts: dict[str, Any],
    networks: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Write networks, optimiser and facts (plain JSON); the old file stays until this one is whole.

    Raises
    ------
    OSError
        If the file cannot be written; the old one is then still there.
    """
    tensors = {
        f"{prefix}.{name}": tensor
        for prefix, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{index}.{key}": value for key, value in state.items()})
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = safetensors.torch.save(tensors, metadata={"facts": json.dumps(facts)})
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data)


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint.

    Raises
    ------
    CheckpointError
        If it is not there or not readable.
    """
    try:
        with safetensors.safe_open(regular(path), framework="pt") as file:
            return json.loads(file.metadata()["facts"])
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint ({error})") from error


def load_checkpoint(
    path: Path,
    networks: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Put the tensors of a checkpoint into networks and optimiser, exactly as they were.

    Raises
    ------
    CheckpointError
        If it is not readable or belongs to another network.
    """
    try:
        tensors = safetensors.torch.load_file(regular(path))
        for prefix, network in networks.items():
            network.load_state_dict(_below(tensors, prefix), strict=True)
        if optimizer is not None:
            _load_optimizer(optimizer, _below(tensors, "optimizer"))
    except (OSError, safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this run ({error})") from error


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose name starts with the prefix, without it."""
    start = len(prefix) + 1
    return {name[start:]: x for name, x in tensors.items() if name.startswith(f"{prefix}.")}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        index = int(number)
        if index < len(parameters) and tensor.shape == parameters[index].shape:
            # In the parameter's own order in memory, which a fused optimiser takes for granted.
            tensor = torch.empty_like(parameters[index]).copy_(tensor)
        state.setdefault(index, {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
