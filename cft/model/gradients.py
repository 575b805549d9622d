"""Where a score comes from, by its gradients: Grad-CAM, and the gradient at the film itself.

For networks whose head is no average pooling with one linear layer. There the parts of the score
cannot be read off the feature map. Grad-CAM weighs the features by how the score reacts to each: a
picture of the score's slope in this film, and not of what the score adds up to.

References
----------
Selvaraju et al., "Grad-CAM" (ICCV 2017), equations 1 and 2.
Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks" (arXiv 1312.6034), section 3.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from cft.model.network import Network

__all__ = ["GradCamMaps", "grad_cam", "has_grad_cam", "input_gradient"]


def grad_cam(network: Network, film: torch.Tensor) -> torch.Tensor:
    """The Grad-CAM of each category.

    The features are those that ``forward_features`` gives, where they are a map. Of networks that
    work on tokens they are what enters the attention of the last block, since a class token alone
    is read after it; class and register tokens are left out.

    Parameters
    ----------
    network
        In evaluation mode.
    film
        (1, C, H, W) prepared film.

    Returns
    -------
    torch.Tensor
        (K, h, w) float32, not negative, on the film's device. For global average pooling and one
        linear layer it is the positive part of the class activation map without the bias, divided
        by h * w.

    Raises
    ------
    ValueError
        If the network shows no map of features.
    """
    with torch.inference_mode(False), torch.enable_grad():
        logits, features = _from_features(network, film.clone())
        seen = _place(network, features.detach())  # (C, h, w)
        maps = []
        for score in logits[0]:
            (slope,) = torch.autograd.grad(score, features, retain_graph=True)
            weights = _place(network, slope).mean(dim=(1, 2))
            maps.append(torch.einsum("c,chw->hw", weights, seen).clamp(min=0))
    return torch.stack(maps).float()


def input_gradient(network: Network, film: torch.Tensor) -> torch.Tensor:
    """(K, H, W): how strongly the score of each category reacts to each pixel of a prepared film.

    The largest absolute value over the channels of the (1, C, H, W) film.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pixels = film.clone().requires_grad_()
        logits = network.forward_head(network.forward_features(pixels))
        slopes = [torch.autograd.grad(x, pixels, retain_graph=True)[0][0] for x in logits[0]]
    return torch.stack([slope.abs().amax(dim=0) for slope in slopes]).float()


def has_grad_cam(network: Network, film: np.ndarray, device: str) -> bool:
    """Whether `grad_cam` can be drawn, by trying it on a (1, C, H, W) film."""
    try:
        maps = grad_cam(network, torch.from_numpy(film).to(device))
        return bool(torch.isfinite(maps).all())
    except Exception:  # whatever a network makes of gradients that nobody planned for
        return False


class GradCamMaps:
    """The Grad-CAM of one film, computed when it is first asked for.

    Parameters
    ----------
    network
        Gives the network. Not called before a map is asked for.
    film
        (C, H, W) prepared film. It is kept until then; of equal channels, one.
    device
        Where the network is.
    kind
        Says "grad-cam", or None where the network has none.
    """

    def __init__(
        self,
        network: Callable[[], Network],
        film: np.ndarray,
        device: str,
        kind: Callable[[], str | None],
    ):
        same = len(film) > 1 and all(np.array_equal(film[0], channel) for channel in film[1:])
        self._film = (film[:1] if same else film).copy()
        self._channels = len(film)
        self._network, self._device, self._kind = network, device, kind
        self._lock = threading.Lock()
        self._maps: np.ndarray | None = None

    @property
    def kind(self) -> str | None:
        """ "grad-cam"; None where the network has none."""
        return self._kind()

    def __getitem__(self, category: int) -> np.ndarray:
        """(h, w) float32, not negative."""
        with self._lock:
            if self._maps is None:
                film = torch.from_numpy(self._film).expand(self._channels, -1, -1)
                maps = grad_cam(self._network(), film[None].to(self._device))
                self._maps, self._film = maps.cpu().numpy(), np.empty(0)
            return self._maps[category]


def _from_features(network: Network, film: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, K) scores, and the features that they are a function of."""
    norm = _last_norm(network)
    if norm is None:
        with torch.no_grad():
            found = network.forward_features(film)
        features = found.detach().requires_grad_()
        return network.forward_head(features), features
    with _cut(norm) as cut:
        logits = network.forward_head(network.forward_features(film))
    if not cut:
        raise ValueError("the last block of this network is not used")
    return logits, cut[0]


def _last_norm(network: nn.Module) -> nn.Module | None:
    """What prepares the tokens for the last block's attention; None for other networks."""
    blocks: Any = getattr(network, "blocks", None)
    if not isinstance(blocks, (nn.Sequential, nn.ModuleList)) or not len(blocks):
        return None
    norm = getattr(blocks[-1], "norm1", None)
    return norm if isinstance(norm, nn.Module) else None


@contextmanager
def _cut(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Let gradients of the calling thread's pass begin at the output of a module."""
    found: list[torch.Tensor] = []
    thread = threading.get_ident()

    def begin(_: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if threading.get_ident() != thread:
            return None
        found.append(output.detach().requires_grad_())
        return found[-1]

    hook = module.register_forward_hook(begin)
    try:
        yield found
    finally:
        hook.remove()


def _place(network: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Features of one film in any layout of timm's -> (C, h, w)."""
    channels = int(getattr(network, "num_features", 0) or 0)
    if features.ndim == 4:
        last = features.shape[1] != channels and features.shape[3] == channels
        return features[0].permute(2, 0, 1) if last else features[0]
    if features.ndim != 3:
        raise ValueError(f"features of {features.ndim} dimensions are no map")
    tokens = features[0, int(getattr(network, "num_prefix_tokens", 0) or 0) :]
    height, width = _grid(network, len(tokens))
    return tokens.T.unflatten(1, (height, width))


def _grid(network: nn.Module, tokens: int) -> tuple[int, int]:
    """Rows and columns of a network's tokens."""
    stated = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if stated is not None and math.prod(stated) == tokens:
        return int(stated[0]), int(stated[1])
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{tokens} tokens are no square")
    return side, side
