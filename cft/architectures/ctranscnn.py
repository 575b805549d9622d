"""CTransCNN and CheXNet's hybrid network: a CNN and a transformer side by side, in exchange.

Two names for `timm.create_model`:

``ctranscnn``
    CTransCNN (Knowledge-Based Systems 2023, 111030; github.com/wuliwuxin/CTransCNN). The trunk has
    33,985,392 parameters, as the original.
``chexnet_hybrid``
    CheXNet (X. Wu et al., "CheXNet: Combing Transformer and CNN for Thorax Disease Diagnosis from
    Chest X-ray Images", PRCV 2023): the same trunk with label embedding and multi-scale pooling
    (MEMSP) and an inner branch (IB). Its code was not published: see the two classes in
    `cft.architectures.transformer` for what is the paper's and what is our reading. (Not to be
    confused with the CheXNet of Rajpurkar et al., which is a DenseNet-121.)

Both are trained with two heads, one for each branch. Used, the scores are 0.9 times those of the
convolutional head plus 0.1 times those of the transformer's. That is one linear layer on the joined
features, and `cft.architectures.heads.fold_heads` makes it one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from cft.architectures.conv_block import EPS, ConvBlock
from cft.architectures.interaction import ToMap, ToTokens
from cft.architectures.transformer import TransformerLayer

__all__ = ["SHARES", "CTransCNN"]

#: Shares of the convolutional and of the transformer's logits in the scores.
SHARES = (0.9, 0.1)

# Heads of each attention; each is `width` numbers wide.
_ATTENTION_HEADS = 6

# Edition of the network -> what a map tells the tokens, and epsilon of the normalisations in the
# bridges' branches and before the transformer's head.
_EDITIONS = {1: ("convolved", EPS), 2: ("rectified", 1e-5)}


class Level(nn.Module):
    """Two convolutional blocks beside one transformer layer, with interaction both ways.

    Parameters
    ----------
    channels, out_channels
        Of the map, before and after.
    dim
        Length of a token.
    stride
        Of the first block.
    finer
        How many times finer the map is than the tokens' grid, after the first block.
    last
        Whether the second block halves the map once more, as at the end of the trunk.
    memsp, ib, drop_path
        See `TransformerLayer`. The first block is never left out, as in the authors' code.
    iim
        Whether the branches interact; without, each goes its own way.
    edition
        See `CTransCNN`.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        dim: int,
        stride: int,
        finer: int,
        last: bool,
        memsp: bool,
        ib: bool,
        iim: bool,
        drop_path: float,
        edition: int,
    ):
        super().__init__()
        inner, (tells, eps) = out_channels // 4, _EDITIONS[edition]
        self.first = ConvBlock(
            channels, out_channels, stride, project=channels != out_channels, tells=tells
        )
        self.to_tokens = ToTokens(inner, dim, finer, eps) if iim else None
        self.layer = TransformerLayer(dim, _ATTENTION_HEADS, memsp, ib, drop_path)
        self.to_map = ToMap(dim, inner, finer) if iim else None
        self.second = ConvBlock(
            out_channels, out_channels, 2 if last else 1, project=last, drop_path=drop_path
        )

    def forward(
        self, x: torch.Tensor, tokens: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, channels, h, w) and tokens (B, S + P, D) -> both, after this level."""
        x, told = self.first(x)
        if self.to_tokens is not None:
            special = tokens[:, : tokens.shape[1] - grid[0] * grid[1]]
            # As published: the class token stands before what the map says, too, and so doubles.
            tokens = tokens + self.to_tokens(told, special)
        tokens = self.layer(tokens, grid)
        said = None if self.to_map is None else self.to_map(tokens, grid)
        return self.second(x, said)[0], tokens


class CTransCNN(nn.Module):
    """CTransCNN, and with MEMSP and IB CheXNet's hybrid network.

    Parameters
    ----------
    num_classes
        C, the number of labels; 0: no heads.
    in_chans
        Channels of the input.
    global_pool
        Only "avg".
    drop_rate
        Dropout before the heads.
    drop_path_rate
        Largest probability of leaving out a residual part in training; the published value is 0.1.
    width
        Channels of the first third of the levels; twice and four times as many follow. A multiple
        of 4, at least 8. A token is six times as long.
    depth
        Number of levels, a multiple of 3.
    memsp
        Label embedding and multi-scale pooling: a learnt token for each label goes through the
        transformer, whose second attention is over coarse maps.
    ib
        The inner branch beside the second attention.
    iim
        The interaction of the branches.
    folded
        One linear layer on the joined features, ``head``, instead of the two heads.
    edition
        2 is the network as its authors' code has it. 1 is what this project had before: a map told
        the tokens what its 3 x 3 convolutions gave, not what comes of it after the ReLU, and two
        epsilons differed. By default 2, but 1 if `folded`: model folders without this argument
        were written before there was one, and keep their scores.

    Attributes
    ----------
    num_features
        Length of the joined features: pooled channels of the map, then the class token.

    Notes
    -----
    The input is 224 x 224 as published. There are no position embeddings, so any other size will
    do; after the stem it is padded with zeros to a multiple of 16 pixels.
    """

    pretrained_cfg: dict[str, Any]
    head: nn.Module
    head_conv: nn.Module
    head_transformer: nn.Module
    label_tokens: nn.Parameter

    def __init__(
        self,
        num_classes: int = 14,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        width: int = 64,
        depth: int = 12,
        memsp: bool = False,
        ib: bool = False,
        iim: bool = True,
        folded: bool = False,
        edition: int | None = None,
    ):
        super().__init__()
        edition = edition if edition is not None else 1 if folded else 2
        if edition not in _EDITIONS:
            raise ValueError(f"edition is {edition!r}, but has to be one of {sorted(_EDITIONS)}")
        if global_pool != "avg":
            raise ValueError(f"global_pool is {global_pool!r}, but this network has only 'avg'")
        # A quarter of the channels goes through the blocks. One alone makes oneDNN, as PyTorch
        # 2.14 calls it, write beyond its memory in the backward pass (on a CPU, channels last).
        if width < 8 or width % 4:
            raise ValueError(f"width is {width}, which is no multiple of 4 from 8 on")
        if depth < 3 or depth % 3:
            raise ValueError(f"depth is {depth}, which is no multiple of 3")
        dim = width * _ATTENTION_HEADS
        self.global_pool, self.drop_rate, self.memsp, self.folded = "avg", drop_rate, memsp, folded
        self.dim, self.map_features = dim, 4 * width
        self.num_features = self.head_hidden_size = self.map_features + dim
        drop_paths = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()

        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patches = nn.Conv2d(width, dim, 4, 4)
        self.first_block = ConvBlock(width, width, project=True)
        self.first_layer = TransformerLayer(dim, _ATTENTION_HEADS, memsp, ib, drop_paths[0])
        third = depth // 3
        channels = [width * 2 ** (level // third) for level in range(depth)]
        self.levels = nn.Sequential(
            *(
                Level(
                    channels[level - 1],
                    channels[level],
                    dim,
                    stride=channels[level] // channels[level - 1],
                    finer=4 * width // channels[level],
                    last=level == depth - 1,
                    memsp=memsp,
                    ib=ib,
                    iim=iim,
                    drop_path=drop_paths[level],
                    edition=edition,
                )
                for level in range(1, depth)
            )
        )
        self.norm = nn.LayerNorm(dim, _EDITIONS[edition][1])
        self.apply(_initialise)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New heads, and with MEMSP new label tokens, for other labels."""
        self.num_classes = num_classes
        place = self.class_token
        if self.memsp:
            tokens = torch.empty(num_classes, self.dim, device=place.device)
            self.label_tokens = nn.Parameter(nn.init.trunc_normal_(tokens, std=0.02))
        widths = {"head_conv": self.map_features, "head_transformer": self.dim}
        if self.folded:
            widths = {"head": self.num_features}
        for name, width in widths.items():
            head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
            setattr(self, name, head.apply(_initialise).to(place.device))

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """The one linear layer, or the two heads."""
        return self.head if self.folded else (self.head_conv, self.head_transformer)

    def no_weight_decay(self) -> set[str]:
        """Parameters of two dimensions and more that weight decay leaves alone."""
        return {"class_token", "label_tokens"}

    def label_parameters(self) -> set[str]:
        """Parameters beside the heads that have a row for each label."""
        return {"label_tokens"} if self.memsp else set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's groups of layers, from the input to the heads."""
        stem = r"^stem|^patches|^class_token|^label_tokens|^first_"
        return {"stem": stem, "blocks": [(r"^levels\.(\d+)", None), (r"^norm", (99999,))]}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features, h, w), with h = H / 32.

        The class token is the same at each place, so that the mean over places is the joined
        features, and a linear layer applied to each place gives class activation maps: what varies
        in them is of the convolutional branch.
        """
        x = self.stem(x)
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        patches = self.patches(x)
        grid = (patches.shape[2], patches.shape[3])
        special: torch.Tensor = self.class_token
        if self.memsp:
            special = torch.cat([special, self.label_tokens[None]], 1)
        special = special.expand(len(x), -1, -1)
        tokens = torch.cat([special, patches.flatten(2).transpose(1, 2)], 1)
        x, _ = self.first_block(x)
        tokens = self.first_layer(tokens, grid)
        for level in self.levels:
            x, tokens = level(x, tokens, grid)
        class_token = self.norm(tokens)[:, 0, :, None, None]
        return torch.cat([x, class_token.expand(-1, -1, *x.shape[2:])], 1)

    def forward_head(
        self, x: torch.Tensor, pre_logits: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Feature map -> scores, (B, C); of two heads in training, those of each.

        With `pre_logits` the joined features, (B, num_features).
        """
        x = F.dropout(x.mean((2, 3)), self.drop_rate, self.training)
        if pre_logits or not self.num_classes:
            return x
        if self.folded:
            return self.head(x)
        conv = self.head_conv(x[:, : self.map_features])
        transformer = self.head_transformer(x[:, self.map_features :])
        if self.training:
            return conv, transformer
        return SHARES[0] * conv + SHARES[1] * transformer

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """(B, in_chans, H, W) -> what `forward_head` gives."""
        return self.forward_head(self.forward_features(x))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stated() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 14,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "stem.0",
        "classifier": ("head_conv", "head_transformer"),
    }


default_cfgs = generate_default_cfgs({"ctranscnn": _stated(), "chexnet_hybrid": _stated()})


def _create(variant: str, pretrained: bool, **arguments: Any) -> CTransCNN:
    network = build_model_with_cfg(CTransCNN, variant, pretrained, **arguments)
    if network.folded:
        network.pretrained_cfg = {**network.pretrained_cfg, "classifier": "head"}
    return network


@register_model
def ctranscnn(pretrained: bool = False, **kwargs: Any) -> CTransCNN:
    """CTransCNN; see `CTransCNN` for the arguments."""
    return _create("ctranscnn", pretrained, **kwargs)


@register_model
def chexnet_hybrid(pretrained: bool = False, **kwargs: Any) -> CTransCNN:
    """CheXNet's hybrid network; each of its parts can be switched off, as in `CTransCNN`."""
    return _create("chexnet_hybrid", pretrained, **{"memsp": True, "ib": True, **kwargs})
