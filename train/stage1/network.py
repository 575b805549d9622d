"""The network and the preprocessing that the settings of a run ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cft.model.network import new_network
from cft.model.preprocess import Preprocess
from train.errors import TrainingError
from train.stage1.layers import heads_of
from train.stage1.settings import Settings
from train.stage1.start import arguments_of, input_of, take_over

if TYPE_CHECKING:
    from cft.model.network import Network


def build(settings: Settings, label_names: Sequence[str], y: np.ndarray) -> Network:
    """The network at its start.

    Parameters
    ----------
    settings
        Name architecture, dropout and, in `init`, where the tensors come from.
    label_names
        The categories.
    y
        (N, C) training targets; the biases of new logistic regressions start at the log-odds of
        each category's share, so that the first epochs are not spent on learning how rare each
        finding is.

    Raises
    ------
    TrainingError
        If timm cannot build the network, or `init` holds another one.
    ModelFolderError
        If what `init` names cannot be had or read.
    """
    preprocess = preprocess_of(settings)
    arguments = {**arguments_of(settings), "in_chans": preprocess.input_size[0]}
    rates = {"drop_rate": settings.dropout}
    if settings.drop_path:  # not every architecture takes it
        rates["drop_path_rate"] = settings.drop_path
    try:
        network = new_network(settings.arch, num_classes=len(label_names), **arguments, **rates)
        with torch.inference_mode():  # some networks have one size only
            network.eval()(torch.zeros(1, *preprocess.input_size))
            network.train()
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if "drop_path_rate" in str(error):
            raise TrainingError(f"{settings.arch} takes no --drop-path") from None
        grey = "one grey channel" if preprocess.input_size[0] == 1 else "a grey film three times"
        raise TrainingError(
            f"{settings.arch} cannot be used on {grey} at --image-size "
            f"{settings.image_size}: {error}"
        ) from None
    new = np.ones(len(label_names), bool)
    if settings.init != "random":
        new = take_over(settings, network, label_names, arguments)
    known = (~np.isnan(y)).sum(0)
    share = (np.nansum(y, 0) + 1) / (known + 2)  # never 0 or 1
    odds = torch.from_numpy(np.log(share / (1 - share)))
    for head in heads_of(network).values():
        if isinstance(head, nn.Linear) and head.bias is not None:
            rows = torch.from_numpy(new)
            with torch.no_grad():
                head.bias[rows] = odds[rows].to(head.bias.dtype)
    return network


def preprocess_of(settings: Settings) -> Preprocess:
    """Whole films squashed to a square, with the channels, mean and std that the start asks for.

    What a pack of films holds does not depend on the start.
    """
    mean, std = input_of(settings)
    return Preprocess(
        input_size=(len(mean), settings.image_size, settings.image_size),
        interpolation="bilinear",
        mean=mean,
        std=std,
    )
