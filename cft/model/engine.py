"""What runs a network, torch or ONNX Runtime: a batch of films -> logits, maps and fields.

The one place where a film passes a network. Both engines answer the same question with the same
numbers, but for rounding; what they answer becomes findings in `cft.model.classifier`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from cft.model.depths import Depth, listening
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
    maps
        (N, K, h, w): the head's logistic regressions applied to each place of the last feature map,
        whose mean over the places is the logit; None if the head is no such thing.
    fields
        Module -> (N, GRID * GRID, C) mean features of the film's fields, at each depth that was
        asked for; see `cft.model.depths.listening`.
    """

    logits: torch.Tensor
    maps: torch.Tensor | None = None
    fields: dict[str, torch.Tensor] = field(default_factory=dict)

    def named(self) -> dict[str, torch.Tensor]:
        """All of its tensors, by the names that `Outputs` gives them."""
        maps = {} if self.maps is None else {"maps": self.maps}
        fields = {_FIELDS + module: tensor for module, tensor in self.fields.items()}
        return {"logits": self.logits, **maps, **fields}


# What the name of such an output begins with; the module follows.
_FIELDS = "fields of "


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
    depths
        Where the network is listened to.

    Raises
    ------
    ValueError
        If it has no module of such a name.
    """

    def __init__(self, network: Network, has_maps: bool, depths: Sequence[Depth] = ()):
        super().__init__()
        self.network, self.has_maps, self.depths = network, has_maps, tuple(depths)
        parts = {name for name, _ in network.named_modules()}
        for depth in self.depths:
            if depth.module not in parts:
                raise ValueError(f"the network has no module {depth.module!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """What `forward` gives, in order."""
        maps = ("maps",) if self.has_maps else ()
        return ("logits", *maps, *(_FIELDS + depth.module for depth in self.depths))

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N, C, H, W) -> a tensor for each of `names`."""
        with listening(self.network, self.depths) as heard:
            features = self.network.forward_features(batch)
        logits = self.network.forward_head(features)
        head = self.network.get_classifier()
        maps = []
        if self.has_maps and isinstance(head, nn.Linear):
            maps = [F.conv2d(features, head.weight[:, :, None, None], head.bias)]
        return (logits, *maps, *(heard[depth.module] for depth in self.depths))


def as_pass(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> Pass:
    """What `Outputs.forward` gave, by name."""
    found = dict(zip(names, tensors, strict=True))
    logits, maps = found.pop("logits"), found.pop("maps", None)
    return Pass(logits, maps, {name.removeprefix(_FIELDS): x for name, x in found.items()})


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
