"""EVA-X (npj Digital Medicine 2025, MIT): vision transformers of 16-pixel patches for chest films.

Tiny, small and base, pretrained or fine-tuned, under the names of EVA's authors or of timm. A
pretrained one has no head and is a start for ``--init``; ``norm`` after its blocks is then the
normalisation after pooling, as its authors use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from cft.convert.result import Converted, labels_of
from cft.convert.sources import find, read_tensors, sides
from cft.errors import ConversionError
from cft.model.preprocess import Preprocess

#: Length of a token -> timm's network.
_SIZES = {
    192: "eva02_tiny_patch14_224",
    384: "eva02_small_patch14_224",
    768: "eva02_base_patch14_224",
}

# Parts of names, the longer first: w12 begins as w1 does.
_PARTS = {
    "mlp.ffn_ln": "mlp.norm",
    "attn.inner_attn_ln": "attn.norm",
    "mlp.w12": "mlp.fc1",
    "mlp.w1": "mlp.fc1_g",
    "mlp.w2": "mlp.fc1_x",
    "mlp.w3": "mlp.fc2",
}
_PRETRAINING = ("mask_token", "lm_head.weight", "lm_head.bias")


def renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an EVA-X under timm's names, recognised by ``mask_token`` if pretrained."""
    pretrained = "mask_token" in tensors
    result = {}
    for name, tensor in tensors.items():
        if "rope" in name or name in _PRETRAINING:
            continue  # computed, or of no use after pretraining
        for theirs, ours in _PARTS.items():
            name = name.replace(theirs, ours)
        if "blocks.0.attn.q_proj.weight" in tensors:
            name = name.replace("q_bias", "q_proj.bias").replace("v_bias", "v_proj.bias")
        if pretrained and name in ("norm.weight", "norm.bias"):
            name = f"fc_{name}"
        result[name] = tensor
    return result


def convert(source: str, asked: str | None, name: str) -> tuple[Converted, Path]:
    """Convert a checkpoint; `asked` names the labels of a fine-tuned one."""
    file = find(source)
    new = renamed(read_tensors(file))
    _, tokens, width = sides(new, "pos_embed", 3) if "pos_embed" in new else (0, 0, 0)
    if width not in _SIZES:
        raise ConversionError("the checkpoint is no EVA-X of size tiny, small or base")
    if tokens != 14 * 14 + 1:
        raise ConversionError(f"the checkpoint has {tokens - 1} patches instead of 14 x 14")
    head = new.get("head.weight")
    if head is None and asked is not None:
        raise ConversionError("the checkpoint has no outputs, so --labels has nothing to name")
    labels = () if head is None else labels_of(asked, sides(new, "head.weight", 2)[0])
    # Some files hold the normalisation of pretraining beside that after pooling.
    if "fc_norm.weight" in new:
        new = {key: value for key, value in new.items() if not key.startswith("norm.")}
    return Converted(
        architecture=_SIZES[width],
        tensors=new,
        labels=labels,
        model_args={"patch_size": 16, "ref_feat_shape": [14, 14], "global_pool": "avg"},
        preprocess=Preprocess(
            *((3, 224, 224), "bicubic", 224 / 256, "center"),
            mean=(0.49185243,) * 3,
            std=(0.28509309,) * 3,
        ),
        title=f"EVA-X, {_SIZES[width].split('_')[1]}",
        about="A start for training (`--init`, `--freeze`)." if head is None else "",
        measured="Its authors report for NIH's official test set AUROCs of .824 (tiny), .833 "
        "(small) and .835 (base) after fine-tuning, of the epoch that was best on that list.",
        trained_on="520,000 chest films (pretraining)"
        if head is None
        else "what its source says; the checkpoint does not",
        licence="mit",
    ), file
