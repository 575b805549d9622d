"""What runs a network: a batch of prepared films -> logits and features, by torch or ONNX Runtime.

The one place where a film passes a network. Both engines answer the same question with the same
numbers, but for rounding; what they answer becomes findings in `cft.model.classifier`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from cft.errors import EngineError

if TYPE_CHECKING:
    from cft.model.network import Network

__all__ = ["ENGINES", "TOLERANCE", "Engine", "Outputs", "Pass", "TorchEngine", "make_engine"]

#: What `make_engine` can be asked for.
ENGINES = ("auto", "torch", "onnx")

#: Largest difference from torch's logits; of the largest of them, where that is above 1.
TOLERANCE = 1e-3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pass:
    """What one pass of a network makes of N films, float32.

    Attributes
    ----------
    logits
        (N, K).
    features
        What goes into the network's head: the last feature map, (N, D, h, w) of a convolutional
        network, (N, T, D) tokens of a transformer.
    outputs
        Module -> its output, of the modules that were asked for. Not pooled.
    """

    logits: torch.Tensor
    features: torch.Tensor
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


class Engine(Protocol):
    """Runs one network."""

    @property
    def name(self) -> str:
        """ "torch" or "onnx"."""

    def __call__(self, batch: torch.Tensor) -> Pass:
        """(N, C, H, W) float32 -> what the network makes of it."""


class Outputs(nn.Module):
    """A network that answers with all that a `Pass` holds.

    Parameters
    ----------
    network
        The network, in evaluation mode.
    modules
        Names of those of its modules whose output is wanted, too.

    Raises
    ------
    ValueError
        If it has no module of such a name.
    """

    def __init__(self, network: Network, modules: Sequence[str] = ()):
        super().__init__()
        self.network, self.modules_kept = network, tuple(modules)
        self._seen = threading.local()  # passes of other threads are not mixed up
        parts = dict(network.named_modules())
        for name in self.modules_kept:
            if name not in parts:
                raise ValueError(f"the network has no module {name!r}")
            parts[name].register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            if (seen := getattr(self._seen, "outputs", None)) is not None:
                seen[name] = output

        return keep

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N, C, H, W) -> logits, features and an output for each of the modules."""
        self._seen.outputs = {}
        try:
            features = self.network.forward_features(batch)
            logits = self.network.forward_head(features)
            found = self._seen.outputs
        finally:
            self._seen.outputs = None
        return (logits, features, *(found[name] for name in self.modules_kept))


class TorchEngine:
    """Runs a network by torch, on any device; tensors of a `Pass` are on that device."""

    name = "torch"

    def __init__(self, outputs: Outputs, device: torch.device):
        self._outputs, self._device = outputs, device

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> Pass:
        on_device = batch.to(self._device, memory_format=torch.channels_last)
        logits, features, *others = self._outputs(on_device)
        return Pass(logits, features, dict(zip(self._outputs.modules_kept, others, strict=True)))


def make_engine(
    network: Network,
    device: torch.device,
    wanted: str,
    identity: Sequence[str],
    example: torch.Tensor,
    modules: Sequence[str] = (),
) -> Engine:
    """The engine that runs a network.

    Parameters
    ----------
    network
        In evaluation mode, on the device.
    device
        Where it runs.
    wanted
        "torch"; "onnx", ONNX Runtime (CPU only; the extra ``fast``); or "auto": that where it is
        installed, the device is a CPU and it agrees with torch to `TOLERANCE`, else torch.
    identity
        What names the network exactly, such as its weights' hash and its arguments: an exported
        graph is kept under it.
    example
        (1, C, H, W): a film that the network answers.
    modules
        Names of modules whose output every `Pass` has to hold.

    Raises
    ------
    ValueError
        If there is no such engine.
    EngineError
        If "onnx" cannot run this network here.
    """
    if wanted not in ENGINES:
        raise ValueError(f"no engine {wanted!r}; there are {', '.join(ENGINES)}")
    outputs = Outputs(network, modules).eval()
    plain = TorchEngine(outputs, device)
    if wanted == "torch":
        return plain
    try:
        if device.type != "cpu":
            raise EngineError(f"the engine onnx runs on a CPU only, not on {device}")
        from cft.model.onnx_engine import OnnxEngine

        return OnnxEngine.of(outputs, plain, identity, example)
    except EngineError as error:
        if wanted == "onnx":
            raise
        _log.info("torch runs the network: %s", error)
        return plain


def threads() -> int:
    """How many threads an engine uses: as many as torch, never more than there are processors."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(torch.get_num_threads(), available or 1))
