"""A network of timm whose features are pooled in fields of the film, at several depths.

Global pooling of the last feature map asks only whether something is anywhere. In chest films it
matters where: air above the diaphragm is lung, below it stomach. Here the feature maps of several
depths are averaged in each of ``grid`` x ``grid`` fields (spatial pyramids, Lazebnik et al., CVPR
2006; their pooling in networks, He et al., TPAMI 2015), and one linear layer reads them all.

The scores are still the mean over positions of a linear function of one feature map, so that
activation maps are exact and the logistic regression of each category can be fitted again. In that
map each field has channels of its own, which are zero outside of it, and all depths have the
positions of the finest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from cft.architectures.pooled_linear import PooledLinear

__all__ = ["NAME", "STATED", "SpatialPyramid", "finest", "placed"]

NAME = "spatial_pyramid"

_MOST_FIELDS = 16  # a side
_TRIED_SIDE = 64  # pixels of the film that a new network is asked about its depths with
_LARGEST_MAP = 2**26  # numbers for a film; those of a small network at 224 pixels are 2**20


class SpatialPyramid(PooledLinear):
    """Fields at several depths, and one linear layer.

    Parameters
    ----------
    of
        Name of the network in timm. Its parts have to run one after the other, and the parts of a
        `torch.nn.Sequential` among them as well: so do EfficientNets, RegNets, ResNets, DenseNets.
    depths
        Names of the parts whose output is read, joined by ``+``, in the order in which they run; of
        a sequence, the output of its last part. What comes after the last is left out.
    grid
        Fields a side, 1 to 16.
    num_classes, in_chans, drop_rate
        As timm has them; dropout is before the linear layer.
    global_pool
        "avg"; there is no other.
    **arguments
        Further arguments of the network.

    Attributes
    ----------
    network
        Without what comes after the last depth.
    head
        The linear layer. Its inputs are ordered by depth, then channel, then field row by row.
    num_features
        Channels of all depths times fields.
    feature_info
        The depths, as timm lists stages.

    Raises
    ------
    ValueError
        If there is no such network, it has no such depths, or their output is no feature map.
    """

    #: The network if none is named.
    OF = "tf_efficientnet_lite0"

    def __init__(
        self,
        of: str = OF,
        depths: str = "blocks.3+blocks.4+blocks.5",
        grid: int = 4,
        num_classes: int = 14,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **arguments: Any,
    ):
        super().__init__()
        if of in (NAME, "joined") or not timm.is_model(of):
            raise ValueError(f"there is no architecture {of!r} to read depths of")
        if global_pool != "avg":
            raise ValueError(f"global_pool is {global_pool!r}, but this network has only 'avg'")
        if not 1 <= grid <= _MOST_FIELDS:
            raise ValueError(f"grid is {grid}, but has to be 1 to {_MOST_FIELDS}")
        self.global_pool, self.drop_rate, self.grid = "avg", drop_rate, grid
        self.network: Any = timm.create_model(
            of, pretrained=False, num_classes=0, in_chans=in_chans, **arguments
        ).eval()
        names = [name for name, _ in _parts(self.network)]
        last = {name.rpartition(".")[0]: name for name in names if "." in name}
        self.depths = tuple(last.get(name, name) for name in depths.split("+"))
        if [name for name in names if name in self.depths] != [*self.depths]:
            raise ValueError(
                f"depths are {depths}, but have to be some of the parts of {of}, in their order: "
                f"{', '.join(names)}"
            )
        _cut_after(self.network, self.depths[-1])
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, in_chans, _TRIED_SIDE, _TRIED_SIDE))
        for name, features in zip(self.depths, maps, strict=True):
            if features.ndim != 4:
                raise ValueError(f"{name} of {of} gives no feature map")
        self.network.train()
        self.feature_info = [
            {
                "module": f"network.{name}",
                "num_chs": features.shape[1],
                "reduction": _TRIED_SIDE // features.shape[2],
            }
            for name, features in zip(self.depths, maps, strict=True)
        ]
        self.num_features = grid * grid * sum(features.shape[1] for features in maps)
        self.head_hidden_size = self.num_features
        self.reset_classifier(num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features, h, w), at the positions of the finest depth."""
        together = torch.cat(self._aligned(x), 1)
        return (together[:, :, None] * self._fields(together)).flatten(1, 2)

    def weighted(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`forward_features` times a (C, num_features) weight at each position: (B, C, h, w)."""
        maps = self._maps(x)
        sizes = [each.shape[1] for each in maps]
        weights = weight.unflatten(1, (sum(sizes), self.grid**2)).split(sizes, 1)
        h, w = finest(maps)
        # For each field what it would give at each position, then of each its own positions.
        of_depths = [
            placed(F.conv2d(each, own.transpose(1, 2).flatten(0, 1)[:, :, None, None]), h, w)
            for each, own in zip(maps, weights, strict=True)
        ]
        answers = torch.stack(of_depths).sum(0).unflatten(1, (-1, self.grid**2))
        return (answers * self._fields(answers)).sum(2)

    def _fields(self, like: torch.Tensor) -> torch.Tensor:
        """(fields, h, w): at each position of a map the share of each field, times h * w."""
        h, w = map(int, like.shape[-2:])
        rows, columns = (_shares(self.grid, side, like) * side for side in (h, w))
        return (rows[:, None, :, None] * columns[None, :, None, :]).flatten(0, 1)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features): the means of the fields, without the map."""
        # As of the large map: where the sides of two depths do not divide, the order matters.
        means = [placed(each, self.grid, self.grid) for each in self._aligned(x)]
        return torch.cat(means, 1).flatten(1)

    def _aligned(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The output of each depth at the positions of the finest."""
        maps = self._maps(x)
        h, w = finest(maps)
        if self.num_features * h * w > _LARGEST_MAP:
            raise ValueError(
                f"{self.num_features:,} features at {h} x {w} positions are too many; take fewer "
                "fields, later depths or smaller films"
            )
        return [placed(each, h, w) for each in maps]

    def _maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The output of each depth."""
        maps = []
        for name, part in _parts(self.network):
            x = part(x)
            if name in self.depths:
                maps.append(x)
            if name == self.depths[-1]:
                break
        return maps


def finest(maps: Sequence[torch.Tensor]) -> tuple[int, int]:
    """The largest height and width of some feature maps."""
    return max(int(each.shape[2]) for each in maps), max(int(each.shape[3]) for each in maps)


def placed(features: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Feature maps at other positions, by the area that old and new ones share.

    The mean over the positions, and over every area of whole positions, stays what it is.

    Parameters
    ----------
    features
        (B, D, H, W).
    h, w
        The new size, smaller or larger.

    Returns
    -------
    torch.Tensor
        (B, D, h, w).
    """
    if (h, w) == tuple(features.shape[2:]):
        return features
    rows, columns = (
        _shares(new, int(old), features)
        for new, old in zip((h, w), features.shape[2:], strict=True)
    )
    return rows @ features @ columns.T


def _shares(fields: int, side: int, like: torch.Tensor) -> torch.Tensor:
    """(fields, side): the share of each position in the mean of each of equal fields of a side."""
    edges = torch.arange(fields + 1, dtype=torch.float64) / fields
    places = torch.arange(side + 1, dtype=torch.float64) / side
    ends = torch.minimum(edges[1:, None], places[None, 1:])
    begins = torch.maximum(edges[:-1, None], places[None, :-1])
    return ((ends - begins).clamp(min=0) * fields).to(like)


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a network in their order, those of a sequence each for itself."""
    for name, part in network.named_children():
        if isinstance(part, nn.Sequential):
            yield from ((f"{name}.{inner}", each) for inner, each in part.named_children())
        else:
            yield name, part


def _cut_after(network: nn.Module, last: str) -> None:
    """Take away the parts after one of them."""
    names = [name for name, _ in _parts(network)]
    for name in names[names.index(last) + 1 :]:
        outer, _, inner = name.rpartition(".")
        delattr(network.get_submodule(outer), inner)


#: What timm is told of a network that has no weights of its own.
STATED = {
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

default_cfgs = generate_default_cfgs({NAME: STATED})


@register_model
def spatial_pyramid(pretrained: bool = False, **kwargs: Any) -> SpatialPyramid:
    """Fields at several depths; see `SpatialPyramid` for the arguments."""
    return build_model_with_cfg(SpatialPyramid, NAME, pretrained, **kwargs)
