"""The layers of the transformer branch: of CTransCNN, and what CheXNet (2023) adds to them.

Tokens are (B, S + h * w, D): S special ones in front (the class token, and with MEMSP one for each
label), then the patches of an h x w map, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn

from cft.architectures.conv_block import EPS


class Attention(nn.Module):
    """Self-attention whose scores go through a sigmoid before the softmax.

    Parameters
    ----------
    dim
        Length of a token.
    heads
        Number of heads; a divisor of `dim`.

    References
    ----------
    CTransCNN, Knowledge-Based Systems 2023, 111030.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """(B, T, D) -> (B, T, D); the grid does not matter here."""
        return self.join(self.attend(*self.split(tokens)))

    def split(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> queries, keys and values of each head, (3, B, heads, T, D / heads)."""
        return self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Three times (B, heads, T, d) -> (B, heads, T, d)."""
        scores = (q @ k.transpose(-2, -1) * self.scale).sigmoid()
        return scores.softmax(-1) @ v

    def join(self, heads: torch.Tensor) -> torch.Tensor:
        """(B, heads, T, d) -> (B, T, D)."""
        return self.proj(heads.transpose(1, 2).flatten(2))


class MultiScaleAttention(Attention):
    """The multi-scale pooling of MEMSP: attention between the special tokens and coarse maps.

    Queries, keys and values of the patches are pooled to 2 x 2, 3 x 3 and 4 x 4; at each scale they
    attend together with the special tokens; what comes out for the pooled patches is brought back
    to the size of the map, and the scales are averaged.

    The paper names label embedding, multi-scale pooling and their purpose; no code was published
    under its name. The authors' code of CTransCNN holds a draft that is switched off: in the second
    attention, queries, keys and values of each head, a matrix of tokens by numbers, are reduced by
    their maximum to 2 x 2, 3 x 3 and 4 x 4 and brought back bilinearly; the scales of queries and
    keys are multiplied and those of values added, attention follows without the sigmoid, and the
    queries are added to it. Ours has its scales, its place and its way back. It is our reading that
    what is pooled is the map of the patches, by its mean, so that a scale is one of the film; that
    the special tokens are not pooled; and that the scales attend by themselves and are averaged.

    References
    ----------
    X. Wu et al., "CheXNet: Combing Transformer and CNN for Thorax Disease Diagnosis from Chest
    X-ray Images", PRCV 2023.
    """

    scales = (2, 3, 4)

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """(B, S + h * w, D) -> the same shape; `grid` is (h, w)."""
        qkv = self.split(tokens)
        special = tokens.shape[1] - grid[0] * grid[1]
        total = torch.zeros_like(qkv[0])

        def back(x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, grid, mode="bilinear", align_corners=False)

        for scale in self.scales:
            pooled = _on_maps(partial(F.adaptive_avg_pool2d, output_size=scale), qkv, special, grid)
            small = self.attend(*pooled)
            total = total + _on_maps(back, small, special, (scale, scale))
        return self.join(total / len(self.scales))


def _on_maps(
    resize: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    special: int,
    grid: tuple[int, int],
) -> torch.Tensor:
    """(..., S + h * w, d) -> (..., S + h' * w', d): the patches' maps resized."""
    front, patches = x[..., :special, :], x[..., special:, :]
    maps = resize(patches.transpose(-2, -1).reshape(-1, x.shape[-1], *grid))
    patches = maps.flatten(2).reshape(*x.shape[:-2], x.shape[-1], -1).transpose(-2, -1)
    return torch.cat([front, patches], -2)


class InnerBranch(nn.Module):
    """The inner branch (IB): local detail for the patches, which pooled attention cannot see.

    The paper says that it brings in local detail beside the multi-scale pooling; no code was
    published. Ours is the reading: a 3 x 3 convolution of each channel of the patches' map, batch
    normalisation and GELU, added to what the attention gives. The special tokens get nothing.

    Parameters
    ----------
    dim
        Length of a token.

    References
    ----------
    X. Wu et al., PRCV 2023; see `MultiScaleAttention`.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = nn.BatchNorm2d(dim, EPS)

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """(B, S + h * w, D) -> the same shape, zero for the special tokens."""
        special = tokens.shape[1] - grid[0] * grid[1]
        maps = F.gelu(self.norm(self.conv(map_of(tokens, grid))))
        return F.pad(maps.flatten(2).transpose(1, 2), (0, 0, special, 0))


def map_of(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The patches of (B, S + h * w, D) tokens as a map, (B, D, h, w)."""
    special = tokens.shape[1] - grid[0] * grid[1]
    return tokens[:, special:].transpose(1, 2).unflatten(2, grid)


class TransformerLayer(nn.Module):
    """Two attentions and a network of two layers, each after normalisation and added.

    Parameters
    ----------
    dim, heads
        See `Attention`.
    memsp
        Whether the second attention is the `MultiScaleAttention`.
    ib
        Whether an `InnerBranch` stands beside the second attention.
    drop_path
        Probability of leaving out a part in training.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        memsp: bool = False,
        ib: bool = False,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.attention1 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, EPS)
        self.attention2 = (MultiScaleAttention if memsp else Attention)(dim, heads)
        self.inner = InnerBranch(dim) if ib else None
        self.norm3 = nn.LayerNorm(dim, EPS)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """(B, S + h * w, D) -> the same shape."""
        tokens = tokens + self.drop_path(self.attention1(self.norm1(tokens), grid))
        normed = self.norm2(tokens)
        second = self.attention2(normed, grid)
        if self.inner is not None:
            second = second + self.inner(normed, grid)
        tokens = tokens + self.drop_path(second)
        return tokens + self.drop_path(self.mlp(self.norm3(tokens)))
