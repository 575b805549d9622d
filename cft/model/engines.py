"""Which engine runs a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from cft.errors import EngineError
from cft.model.engine import Engine, Outputs, TorchEngine
from cft.model.onnx_engine import onnx_engine

if TYPE_CHECKING:
    from cft.model.network import Network

__all__ = ["ENGINES", "make_engine"]

#: What `make_engine` can be asked for.
ENGINES = ("auto", "torch", "onnx")

_log = logging.getLogger(__name__)


def make_engine(
    build: Callable[[], tuple[Network, bool]],
    identity: Sequence[str],
    example: torch.Tensor,
    device: torch.device,
    wanted: str,
    modules: Sequence[str] = (),
) -> Engine:
    """The engine that runs a network.

    Parameters
    ----------
    build
        Gives the network, in evaluation mode on the device, and whether its head makes maps (see
        `cft.model.network.try_out`). Not called where its exported graph was kept: building it
        takes longer than all the rest.
    identity
        What names the network exactly, such as its weights' hash and its arguments: the graph is
        kept under it.
    example
        (1, C, H, W): a film that the network answers.
    device
        Where it runs.
    wanted
        "torch"; "onnx", ONNX Runtime (CPU only; the extra ``fast``); or "auto": that where it is
        installed, the device is a CPU and it agrees with torch to `TOLERANCE`, else torch.
    modules
        Names of modules whose output every `Pass` has to hold.

    Raises
    ------
    ValueError
        If there is no such engine, or the network has no such module.
    EngineError
        If "onnx" cannot run this network here.
    """
    if wanted not in ENGINES:
        raise ValueError(f"no engine {wanted!r}; there are {', '.join(ENGINES)}")
    if wanted != "torch":
        try:
            if device.type != "cpu":
                raise EngineError(f"the engine onnx runs on a CPU only, not on {device}")
            return onnx_engine(build, identity, example, modules)
        except EngineError as error:
            if wanted == "onnx":
                raise
            _log.info("torch runs the network: %s", error)
    return TorchEngine(Outputs(*build(), modules).eval(), device)
