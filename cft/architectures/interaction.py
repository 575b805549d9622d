"""How CTransCNN's two branches speak to each other: the information interaction module (IIM).

Both bridges follow the description of the published network; CheXNet (Wu et al., PRCV 2023) names
the same module.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cft.architectures.conv_block import EPS
from cft.architectures.transformer import map_of


class ToTokens(nn.Module):
    """What the convolutional branch tells the transformer (C2T).

    Parameters
    ----------
    channels
        Of the map.
    dim
        Length of a token.
    stride
        How many times finer the map is than the tokens' grid.
    eps
        Of the branch's batch normalisation; the published code leaves it at PyTorch's default.
    """

    def __init__(self, channels: int, dim: int, stride: int, eps: float = 1e-5):
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, 1)
        self.branch = nn.Sequential(
            nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim, eps), nn.Sigmoid(), nn.Conv2d(dim, dim, 1)
        )
        self.pool = nn.AvgPool2d(stride)
        self.norm = nn.LayerNorm(dim, EPS)

    def forward(self, maps: torch.Tensor, special: torch.Tensor) -> torch.Tensor:
        """(B, channels, h, w) and the special tokens (B, S, D) -> (B, S + h' * w', D)."""
        x = self.conv(maps)
        x = self.pool(x + self.branch(x)).flatten(2).transpose(1, 2)
        return torch.cat([special, F.gelu(self.norm(x))], 1)


class ToMap(nn.Module):
    """What the transformer tells the convolutional branch (T2C).

    Parameters
    ----------
    dim
        Length of a token.
    channels
        Of the map.
    stride
        How many times finer the map is than the tokens' grid.
    """

    def __init__(self, dim: int, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(dim, channels, 1)
        self.norm = nn.BatchNorm2d(channels, EPS)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """(B, S + h * w, D) -> (B, channels, stride * h, stride * w)."""
        x = self.norm(self.conv(map_of(tokens, grid))).relu()
        size = (self.stride * grid[0], self.stride * grid[1])
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        return x + self.branch(x).sigmoid()
