"""Networks of one kind side by side, with one linear layer over the features of all.

The mean of several networks' logits is one linear layer on their joined features, if each ends in
global average pooling and a linear layer. So an ensemble is one network: one file, exact activation
maps, and one logistic regression for each category, which category-wise fine-tuning can fit again.
`train.stage1.join` makes it of finished runs.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

__all__ = ["Joined"]

NAME = "joined"


class Joined(nn.Module):
    """Networks that each see the whole film.

    Parameters
    ----------
    of
        Name of the networks' architecture in timm, or of one of this project's. Its features have
        to be a map, (B, D, h, w).
    copies
        How many there are.
    num_classes, in_chans, drop_rate
        As timm has them; dropout is before the linear layer.
    global_pool
        "avg"; there is no other.
    **arguments
        Further arguments of the architecture.

    Attributes
    ----------
    networks
        Without their own last layers.
    head
        The linear layer.
    num_features
        ``copies`` times D.

    Raises
    ------
    ValueError
        If there is no such architecture, or `copies` is less than 1.
    """

    def __init__(
        self,
        of: str = "resnet18",
        copies: int = 2,
        num_classes: int = 14,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **arguments: Any,
    ):
        super().__init__()
        if of == NAME or not timm.is_model(of):  # a name that loads something is no model either
            raise ValueError(f"there is no architecture {of!r} to join")
        if copies < 1:
            raise ValueError(f"copies is {copies}, but has to be at least 1")
        if global_pool != "avg":
            raise ValueError(f"global_pool is {global_pool!r}, but this network has only 'avg'")
        self.global_pool, self.drop_rate = "avg", drop_rate
        networks: list[Any] = [
            timm.create_model(of, pretrained=False, num_classes=0, in_chans=in_chans, **arguments)
            for _ in range(copies)
        ]
        self.networks = nn.ModuleList(networks)
        stages = getattr(networks[0], "feature_info", None)
        #: Stages of the first network, as timm lists them.
        self.feature_info = [
            {**stage, "module": f"networks.0.{stage['module']}"}
            for stage in (stages if isinstance(stages, list) else [])
            if stage.get("module")
        ]
        self.num_features: int = copies * networks[0].num_features
        self.head_hidden_size = self.num_features
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new linear layer, for other labels."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features, h, w)."""
        networks: Any = self.networks
        return torch.cat([network.forward_features(x) for network in networks], 1)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Feature map -> scores, (B, C); with `pre_logits` the pooled features."""
        x = F.dropout(x.mean((2, 3)), self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, C)."""
        return self.forward_head(self.forward_features(x))


_STATED = {
    "url": "",
    "num_classes": 14,
    "input_size": (3, 224, 224),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": None,
    "classifier": "head",
}

default_cfgs = generate_default_cfgs({NAME: _STATED})


@register_model
def joined(pretrained: bool = False, **kwargs: Any) -> Joined:
    """Networks side by side; see `Joined` for the arguments."""
    return build_model_with_cfg(Joined, NAME, pretrained, **kwargs)
