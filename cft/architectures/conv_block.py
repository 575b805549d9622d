"""The residual block of CTransCNN's convolutional branch."""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import nn

#: Of batch normalisation in the blocks and of layer normalisation.
EPS = 1e-6

# The authors' code normalises the same features twice, and each time counts the batch; one update
# of running statistics with this momentum equals two with PyTorch's default of 0.1.
_TWICE = 1 - (1 - 0.1) ** 2


class ConvBlock(nn.Module):
    """A bottleneck with two further branches, the "multi-branch residual" (MBR).

    Parameters
    ----------
    channels
        Of the input.
    out_channels
        Of the output, a multiple of 4; inside there is a quarter of them.
    stride
        Of the 3 x 3 convolution.
    project
        Whether the identity becomes a 1 x 1 convolution with batch normalisation, which it has to
        where the channels or the size change.
    drop_path
        Probability of leaving out the bottleneck in training.
    tells
        What it tells the transformer: "rectified", what is inside after the ReLU, as published; or
        "convolved", what the 3 x 3 convolution gives.

    Notes
    -----
    As in the authors' code, training begins with the bottleneck's last scale at 0.

    References
    ----------
    CTransCNN, Knowledge-Based Systems 2023, 111030.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        stride: int = 1,
        project: bool = False,
        drop_path: float = 0.0,
        tells: str = "rectified",
    ):
        super().__init__()
        inner, self.tells = out_channels // 4, tells
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner, EPS)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner, EPS, momentum=_TWICE)
        self.branch = nn.Conv2d(inner, inner, 1, bias=False)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels, EPS)
        nn.init.zeros_(self.norm3.weight)
        self.drop_path = DropPath(drop_path)
        self.identity = _projection(channels, out_channels, stride) if project else nn.Identity()
        self.shortcut = _projection(channels, out_channels, stride)

    def forward(
        self, x: torch.Tensor, extra: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the block.

        Parameters
        ----------
        x
            (B, channels, h, w).
        extra
            (B, out_channels / 4, h, w), added before the 3 x 3 convolution; what the transformer
            has to say.

        Returns
        -------
        torch.Tensor, torch.Tensor
            The output, (B, out_channels, h / stride, w / stride), and what the transformer is told,
            of the same size with a quarter of the channels.
        """
        inner = self.norm1(self.conv1(x)).relu()
        inner = self.conv2(inner if extra is None else inner + extra)
        # The authors add the normalised features twice, once as identity of the branch.
        normed = self.norm2(inner)
        rectified = (normed + self.branch(inner) + normed).relu()
        y = self.drop_path(self.norm3(self.conv3(rectified)))
        y = (y + self.identity(x) + self.shortcut(x)).relu()
        return y, rectified if self.tells == "rectified" else inner


def _projection(channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels, EPS),
    )
