"""A network by PyTorch: on any device, and what ONNX Runtime's graphs are made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cft.architectures.pooled_linear import PooledLinear
from cft.model.depths import Depth
from cft.model.engine import Pass, as_pass, output_names
from cft.model.listening import listening

if TYPE_CHECKING:
    from cft.model.network import Network

__all__ = ["Outputs", "TorchEngine"]


class Outputs(nn.Module):
    """A network that answers with all that a `cft.model.engine.Pass` holds.

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
        return output_names(self.has_maps, (depth.module for depth in self.depths))

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N, C, H, W) -> a tensor for each of `names`."""
        with listening(self.network, self.depths) as heard:
            logits, maps = self._answer(batch)
        return (logits, *maps, *(heard[depth.module] for depth in self.depths))

    def _answer(self, batch: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits, and maps if there are any."""
        if self.has_maps and isinstance(self.network, PooledLinear):  # its features take memory
            maps = self.network.forward_maps(batch)
            return maps.mean((2, 3)), [maps]
        features = self.network.forward_features(batch)
        logits, head = self.network.forward_head(features), self.network.get_classifier()
        if self.has_maps and isinstance(head, nn.Linear):
            return logits, [F.conv2d(features, head.weight[:, :, None, None], head.bias)]
        return logits, []


class TorchEngine:
    """Runs a network by torch, on any device."""

    name = "torch"

    def __init__(self, outputs: Outputs, device: str):
        self._outputs, self._device, self.has_maps = outputs, device, outputs.has_maps

    @torch.inference_mode()
    def __call__(self, batch: np.ndarray) -> Pass:
        films = torch.from_numpy(np.ascontiguousarray(batch))
        on_device = films.to(self._device, memory_format=torch.channels_last)
        return as_pass(self._outputs.names, [x.cpu().numpy() for x in self._outputs(on_device)])
