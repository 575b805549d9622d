"""A network's own features at several depths, taken from the pass that gives the scores."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from cft.model.depths import GRID, Depth

__all__ = ["depths_of", "listening"]

# The first stages of a network see edges; what they cost in a model folder is worth more later.
_MOST_DEPTHS = 4


def depths_of(network: nn.Module) -> tuple[Depth, ...]:
    """The last four stages of a network, or of a network in one stage four of its blocks.

    Empty where timm does not know the stages, as of a network that is not timm's own.
    """
    info = getattr(network, "feature_info", None)
    stages: list[dict[str, Any]] = list(getattr(info, "info", info) or [])
    modules = dict(network.named_modules())
    found = [
        Depth(stage["module"], int(stage["num_chs"]))
        for stage in stages
        if stage.get("module") in modules and stage.get("num_chs")
    ]
    if len({stage.get("reduction") for stage in stages}) == 1:  # a transformer: blocks alike
        step = max(1, len(found) // _MOST_DEPTHS)
        found = found[::-1][::step][::-1]
    return tuple(found[-_MOST_DEPTHS:])


@contextlib.contextmanager
def listening(network: nn.Module, depths: tuple[Depth, ...]) -> Iterator[dict[str, torch.Tensor]]:
    """Keep what passes some depths of a network, in passes of the calling thread.

    Yields
    ------
    dict
        After a pass: name of the module -> (N, GRID * GRID, C) float32, the mean features of the
        fields, row by row. A depth whose output is no such map is missing.
    """
    heard: dict[str, torch.Tensor] = {}
    hooks = []
    prefix = int(getattr(network, "num_prefix_tokens", 0) or 0)
    thread = threading.get_ident()

    def hear(depth: Depth) -> None:
        def keep(module: Any, inputs: Any, output: Any) -> None:
            if threading.get_ident() != thread:
                return
            fields = _fields(output, depth.channels, prefix)
            if fields is not None:
                heard[depth.module] = fields

        hooks.append(network.get_submodule(depth.module).register_forward_hook(keep))

    try:
        for depth in depths:
            hear(depth)
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _fields(output: Any, channels: int, prefix: int) -> torch.Tensor | None:
    """The output of a stage, in any layout of timm's -> (N, GRID * GRID, C); None if it is none."""
    if not isinstance(output, torch.Tensor):
        return None
    if output.ndim == 3 and output.shape[2] == channels:  # tokens, row by row after some others
        tokens = output[:, prefix:]
        side = math.isqrt(int(tokens.shape[1]))
        if side * side != int(tokens.shape[1]):
            return None
        output = tokens.transpose(1, 2).unflatten(2, (side, side))
    elif output.ndim == 4 and output.shape[1] != channels and output.shape[3] == channels:
        output = output.permute(0, 3, 1, 2)
    if output.ndim != 4 or output.shape[1] != channels:
        return None
    rows, columns = (_shares(int(side), output.device) for side in output.shape[2:])
    pooled = rows @ output.float() @ columns.T
    return pooled.flatten(2).transpose(1, 2)


def _shares(side: int, device: torch.device) -> torch.Tensor:
    """(GRID, side): a position's share in the mean of each field, as in adaptive average pooling.

    A product with it can be exported to ONNX for any side; that pooling only for multiples of GRID.
    """
    shares = torch.zeros(GRID, side)
    for field in range(GRID):
        first, end = field * side // GRID, -(-(field + 1) * side // GRID)
        shares[field, first:end] = 1 / (end - first)
    return shares.to(device)
