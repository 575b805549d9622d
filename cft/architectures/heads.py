"""Two heads -> one linear layer that gives the same scores, on a model's configuration and tensors.

Category-wise fine-tuning, activation maps and frozen features all need one logistic regression for
each label. The scores of the networks of `cft.architectures.ctranscnn` are a weighted sum of two
linear layers on two parts of the features, so they are one linear layer on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cft.architectures.ctranscnn import SHARES

_ARCHITECTURES = ("ctranscnn", "chexnet_hybrid")
_HEADS = ("head_conv", "head_transformer")


def fold_heads(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A model with two heads as one with a single linear layer; any other model as it is.

    Parameters
    ----------
    config
        What ``config.json`` holds.
    tensors
        The network's tensors by name.

    Returns
    -------
    config, tensors
        The scores are the same but for rounding.
    """
    parts = [f"{head}.{kind}" for head in _HEADS for kind in ("weight", "bias")]
    ours = config.get("architecture") in _ARCHITECTURES
    if not ours or not all(name in tensors for name in parts) or not _fit(tensors, parts):
        return dict(config), dict(tensors)
    weights = [s * tensors[f"{x}.weight"].double() for s, x in zip(SHARES, _HEADS, strict=True)]
    biases = [s * tensors[f"{x}.bias"].double() for s, x in zip(SHARES, _HEADS, strict=True)]
    kind = tensors[parts[0]].dtype
    folded = {name: tensor for name, tensor in tensors.items() if name not in parts}
    folded["head.weight"] = torch.cat(weights, 1).to(kind)
    folded["head.bias"] = sum(biases[1:], biases[0]).to(kind)
    return {
        **config,
        # What has two heads is of the second edition if it does not say; see `CTransCNN`.
        "model_args": {"edition": 2, **(config.get("model_args") or {}), "folded": True},
        "pretrained_cfg": {**config["pretrained_cfg"], "classifier": "head"},
    }, folded


def _fit(tensors: Mapping[str, torch.Tensor], parts: list[str]) -> bool:
    """Whether the heads' tensors go together; others are refused where the network is built."""
    weights, biases = ([tensors[name] for name in parts[kind::2]] for kind in (0, 1))
    return (
        all(x.ndim == 2 for x in weights)
        and all(x.ndim == 1 for x in biases)
        and len({len(x) for x in (*weights, *biases)}) == 1
        and len({x.dtype for x in (*weights, *biases)}) == 1
        and weights[0].is_floating_point()
    )
