"""What runs a network: a batch of prepared films -> logits and features, by torch or ONNX Runtime.

The one place where a film passes a network. Both engines answer the same question with the same
numbers, but for rounding; what they answer becomes findings in `cft.model.classifier`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from cft.model.parallel import processors

if TYPE_CHECKING:
    from cft.model.network import Network

__all__ = [
    "TOLERANCE",
    "Engine",
    "Outputs",
    "Pass",
    "TorchEngine",
    "as_pass",
]

#: Largest difference from torch's logits; of the largest of them, where that is above 1.
TOLERANCE = 1e-3


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
    maps
        (N, K, h, w): the head's logistic regressions applied to each place of the last feature map,
        whose mean over the places is the logit; None if the head is no such thing.
    outputs
        Module -> its output, of the modules that were asked for. Not pooled.
    """

    logits: torch.Tensor
    features: torch.Tensor
    maps: torch.Tensor | None = None
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


class Engine(Protocol):
    """Runs one network."""

    @property
    def name(self) -> str:
        """ "torch" or "onnx"."""

    @property
    def has_maps(self) -> bool:
        """Whether a `Pass` has ``maps``."""

    def __call__(self, batch: torch.Tensor) -> Pass:
        """(N, C, H, W) float32 -> what the network makes of it."""


class Outputs(nn.Module):
    """A network that answers with all that a `Pass` holds.

    Parameters
    ----------
    network
        The network, in evaluation mode.
    has_maps
        Whether its head is the mean over places and one linear layer, see
        `cft.model.network.try_out`.
    modules
        Names of those of its modules whose output is wanted, too.

    Raises
    ------
    ValueError
        If it has no module of such a name.
    """

    def __init__(self, network: Network, has_maps: bool, modules: Sequence[str] = ()):
        super().__init__()
        self.network, self.has_maps, self.modules_kept = network, has_maps, tuple(modules)
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

    @property
    def names(self) -> tuple[str, ...]:
        """What `forward` gives, in order."""
        maps = ("maps",) if self.has_maps else ()
        return ("logits", "features", *maps, *(f"output of {name}" for name in self.modules_kept))

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N, C, H, W) -> a tensor for each of `names`."""
        self._seen.outputs = {}
        try:
            features = self.network.forward_features(batch)
            logits = self.network.forward_head(features)
            found = self._seen.outputs
        finally:
            self._seen.outputs = None
        head = self.network.get_classifier()
        maps = []
        if self.has_maps and isinstance(head, nn.Linear):
            maps = [F.conv2d(features, head.weight[:, :, None, None], head.bias)]
        return (logits, features, *maps, *(found[name] for name in self.modules_kept))


def as_pass(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> Pass:
    """What `Outputs.forward` gave, by name."""
    found = dict(zip(names, tensors, strict=True))
    logits, features, maps = found.pop("logits"), found.pop("features"), found.pop("maps", None)
    others = {name.removeprefix("output of "): tensor for name, tensor in found.items()}
    return Pass(logits, features, maps, others)


class TorchEngine:
    """Runs a network by torch, on any device; tensors of a `Pass` are on that device."""

    name = "torch"

    def __init__(self, outputs: Outputs, device: torch.device):
        self._outputs, self._device, self.has_maps = outputs, device, outputs.has_maps

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> Pass:
        on_device = batch.to(self._device, memory_format=torch.channels_last)
        return as_pass(self._outputs.names, self._outputs(on_device))


def threads() -> int:
    """How many threads an engine uses: as many as torch, never more than there are processors."""
    return max(1, min(torch.get_num_threads(), processors()))
