"""RAD-DINO (Microsoft, 2024): DINOv2's ViT-B/14 on chest films at 518 pixels, a start for training.

Read under DINOv2's own names (``backbone_compatible.safetensors`` of ``microsoft/rad-dino``) or
those of the package transformers (``model.safetensors`` there).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from cft.convert.result import Converted
from cft.convert.sources import find, read_tensors
from cft.errors import ConversionError
from cft.model.preprocess import Preprocess

FILES = ("backbone_compatible.safetensors", "model.safetensors")

_PARTS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer.": "blocks.",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm.": "norm.",
}
_QUERY = re.compile(r"(.*)attention\.attention\.query\.(weight|bias)")


def renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under timm's names; ``encoder.layer`` tells that transformers wrote them."""
    plain = {name.removeprefix("dinov2."): tensor for name, tensor in tensors.items()}
    result = {}
    for name, tensor in plain.items():
        if name.endswith("mask_token"):
            continue  # of pretraining
        found = _QUERY.fullmatch(name)
        if found:
            parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
            name = f"{found[1]}attn.qkv.{found[2]}"
            tensor = torch.cat([plain[part] for part in parts])
        elif ".attention.attention." in name:
            continue  # joined with its query
        for theirs, ours in _PARTS.items():
            name = name.replace(theirs, ours)
        result[name] = tensor
    return result


def convert(source: str, asked: str | None, name: str) -> tuple[Converted, Path]:
    """Convert a checkpoint, which has no head and so no labels."""
    if asked is not None:
        raise ConversionError("rad-dino has no outputs, so --labels has nothing to name")
    file = find(source, FILES)
    tensors = read_tensors(file)
    if "patch_embed.proj.weight" not in tensors and not any("encoder.layer" in x for x in tensors):
        raise ConversionError("the checkpoint is no vision transformer under a name of DINOv2")
    return Converted(
        architecture="vit_base_patch14_dinov2",
        tensors=renamed(tensors),
        labels=(),
        preprocess=Preprocess(
            *((3, 518, 518), "bicubic", 1.0, "center"), mean=(0.5307,) * 3, std=(0.2583,) * 3
        ),
        title="RAD-DINO, ViT-B/14",
        about="A start for training (`--init`, `--freeze`).",
        trained_on="882,775 chest films without labels",
        licence="other",
    ), file
