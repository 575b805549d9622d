"""The network, the optimiser and the preprocessing that the settings of a run ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cft.model.folder import read_model_folder
from cft.model.network import new_network
from cft.model.preprocess import Preprocess
from train.errors import TrainingError
from train.stage1.settings import Settings

if TYPE_CHECKING:
    from cft.model.network import Network


def build(settings: Settings, label_names: Sequence[str], y: np.ndarray) -> Network:
    """The network at its start.

    Parameters
    ----------
    settings
        Names architecture, dropout and, in `init`, the model folder to start from.
    label_names
        The categories.
    y
        (N, C) training targets; the biases start at the log-odds of each category's share, so that
        the first epochs are not spent on learning how rare each finding is.

    Raises
    ------
    TrainingError
        If timm cannot build the network, or `init` holds another one.
    """
    film = torch.zeros(1, 1, settings.image_size, settings.image_size)
    try:
        network = new_network(
            settings.arch, in_chans=1, drop_rate=settings.dropout, num_classes=len(label_names)
        )
        with torch.inference_mode():  # some networks, such as transformers, have one size only
            network.eval()(film)
            network.train()
    except (TypeError, AssertionError, RuntimeError) as error:
        raise TrainingError(
            f"{settings.arch} cannot be used on one grey channel at --image-size "
            f"{settings.image_size}: {error}"
        ) from None
    if settings.init:
        start_from(network, settings.init, settings.arch, label_names)
    head = network.get_classifier()
    if isinstance(head, nn.Linear) and head.bias is not None and not settings.init:
        known = (~np.isnan(y)).sum(0)
        share = (np.nansum(y, 0) + 1) / (known + 2)  # never 0 or 1
        with torch.no_grad():
            head.bias.copy_(torch.from_numpy(np.log(share / (1 - share))))
    return network


def start_from(
    network: Network, folder: str, architecture: str, label_names: Sequence[str]
) -> None:
    """Copy a model folder's tensors; the logistic regressions only if the labels are the same."""
    source = read_model_folder(folder)
    if source.config["architecture"] != architecture:
        raise TrainingError(
            f"{folder} holds a {source.config['architecture']}, not the {architecture} of --arch"
        )
    tensors = dict(source.state_dict)
    if source.label_names != tuple(label_names):
        head = network.pretrained_cfg["classifier"]
        own = network.state_dict()
        tensors.update({name: own[name] for name in own if name.startswith(f"{head}.")})
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise TrainingError(f"the tensors of {folder} do not fit: {error}") from None


def optimizer_for(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser; weight decay acts on weights, not on biases and normalisation."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.optimizer]
    return kind(groups, lr=settings.lr)


def preprocess_of(settings: Settings) -> Preprocess:
    """Whole films squashed to a square; 0.5 and 0.25 are about the mean and spread of films."""
    return Preprocess(
        input_size=(1, settings.image_size, settings.image_size),
        interpolation="bilinear",
        mean=(0.5,),
        std=(0.25,),
    )
