"""A model with two heads is used as one with a single linear layer."""

from __future__ import annotations

from cft.model.folder import ModelFolder

__all__ = ["with_one_head"]


def with_one_head(folder: ModelFolder) -> ModelFolder:
    """A folder whose network has two heads, as one with a single linear layer; others as they are.

    See `cft.architectures.heads.fold_heads`. The hash stays that of the file.
    """
    if "head_conv.weight" not in folder.names:
        return folder
    from cft.architectures.heads import fold_heads  # slow to import

    config, tensors = fold_heads(folder.config, folder.state_dict)
    return folder.changed(config, tensors)
