"""What the networks of this project have in common that end in pooling and one linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["PooledLinear"]


class PooledLinear(nn.Module):
    """One linear layer on means of feature maps, as timm asks for it.

    A subclass has the attributes below and `forward_features`, `pooled` and `weighted`; these say
    the same in three ways, of which the first may take much memory.

    Attributes
    ----------
    num_features
        Of all maps together, D.
    drop_rate
        Dropout before the linear layer, in training.
    head
        The linear layer; made by `reset_classifier`.
    """

    num_features: int
    drop_rate: float

    if TYPE_CHECKING:

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            """(B, in_chans, H, W) -> (B, D, h, w)."""

        def pooled(self, x: torch.Tensor) -> torch.Tensor:
            """(B, in_chans, H, W) -> (B, D): the means of `forward_features`."""

        def weighted(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            """`forward_features` times a (C, D) weight at each position: (B, C, h, w)."""

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new linear layer, for other labels."""
        self.num_classes = num_classes
        self.head: nn.Module = (
            nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        )

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head

    def forward_maps(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, C, h, w): the linear layer at each position.

        The same numbers as of `forward_features`, but for rounding, and never so many at once.
        """
        head = self.head
        assert isinstance(head, nn.Linear)
        return self.weighted(x, head.weight) + head.bias[:, None, None]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Feature map -> scores, (B, C); with `pre_logits` the pooled features."""
        return self._answer(x.mean((2, 3)), pre_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, C)."""
        return self._answer(self.pooled(x))

    def _answer(self, means: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        means = F.dropout(means, self.drop_rate, self.training)
        return means if pre_logits else self.head(means)
