"""Networks side by side, with one linear layer over the features of all.

The mean of several networks' logits is one linear layer on their joined features, if each ends in
global average pooling and a linear layer. So an ensemble is one network: one file, exact activation
maps, and one logistic regression for each category, which category-wise fine-tuning can fit again.
`train.stage1.join` makes it of finished runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from cft.architectures.pooled_linear import PooledLinear
from cft.architectures.spatial_pyramid import STATED, SpatialPyramid, finest, placed

__all__ = ["Joined"]

NAME = "joined"


class Joined(PooledLinear):
    """Networks that each see the whole film.

    Parameters
    ----------
    of
        Name of the networks' architecture in timm, or of one of this project's; or a list with one
        for each. Their features have to be maps, (B, D, h, w).
    copies
        How many there are, if one name is given.
    each
        Arguments of each network, if a list of names is given.
    num_classes, in_chans, drop_rate
        As timm has them; dropout is before the linear layer.
    global_pool
        "avg"; there is no other.
    **arguments
        Further arguments of all networks.

    Attributes
    ----------
    networks
        Without their own last layers.
    kinds
        Architecture and own arguments of each.
    head
        The linear layer.
    num_features
        The sum of all D.

    Raises
    ------
    ValueError
        If there is no such architecture, no network, or not one entry of `each` for each name.
    """

    def __init__(
        self,
        of: str | Sequence[str] = "resnet18",
        copies: int = 2,
        each: Sequence[Mapping[str, Any]] = (),
        num_classes: int = 14,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **arguments: Any,
    ):
        super().__init__()
        names = [of] * copies if isinstance(of, str) else [*of]
        for name in names:
            if name == NAME or not timm.is_model(name):  # what loads something is no model either
                raise ValueError(f"there is no architecture {name!r} to join")
        if not names:
            raise ValueError(f"there has to be at least one network, but copies is {copies}")
        if each and len(each) != len(names):
            raise ValueError(f"each has {len(each)} entries for {len(names)} networks")
        if global_pool != "avg":
            raise ValueError(f"global_pool is {global_pool!r}, but this network has only 'avg'")
        self.global_pool, self.drop_rate = "avg", drop_rate
        self.kinds = list(zip(names, each or [{}] * len(names), strict=True))
        networks: list[Any] = [
            timm.create_model(name, num_classes=0, in_chans=in_chans, **arguments, **own)
            for name, own in self.kinds
        ]
        self.networks = nn.ModuleList(networks)
        stages = getattr(networks[0], "feature_info", None)
        #: Stages of the first network, as timm lists them.
        self.feature_info = [
            {**stage, "module": f"networks.0.{stage['module']}"}
            for stage in (stages if isinstance(stages, list) else [])
            if stage.get("module")
        ]
        self.num_features = sum(network.num_features for network in networks)
        self.head_hidden_size = self.num_features
        self.reset_classifier(num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features, h, w), at the positions of the finest map."""
        networks: Any = self.networks
        maps = [network.forward_features(x) for network in networks]
        h, w = finest(maps)
        return torch.cat([placed(each, h, w) for each in maps], 1)

    def weighted(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`forward_features` times a (C, num_features) weight at each position: (B, C, h, w)."""
        networks: Any = self.networks
        weights = weight.split([network.num_features for network in networks], 1)
        maps = [_weighted(*each, x) for each in zip(networks, weights, strict=True)]
        h, w = finest(maps)
        return torch.stack([placed(each, h, w) for each in maps]).sum(0)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features), without the map of all."""
        networks: Any = self.networks
        return torch.cat([_pooled(network, x) for network in networks], 1)


def _weighted(network: Any, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The features of one network times a (C, D) weight at each position of its map."""
    if isinstance(network, SpatialPyramid):
        return network.weighted(x, weight)
    return F.conv2d(network.forward_features(x), weight[:, :, None, None])


def _pooled(network: Any, x: torch.Tensor) -> torch.Tensor:
    """The features of one network: as it pools them itself, or the mean of its map."""
    if isinstance(network, SpatialPyramid):
        return network.pooled(x)
    return network.forward_features(x).mean((2, 3))


default_cfgs = generate_default_cfgs({NAME: STATED})


@register_model
def joined(pretrained: bool = False, **kwargs: Any) -> Joined:
    """Networks side by side; see `Joined` for the arguments."""
    return build_model_with_cfg(Joined, NAME, pretrained, **kwargs)
