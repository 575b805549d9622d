"""Which layers of the network are trained, and how fast each learns."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import nn

from train.stage1.settings import Settings

if TYPE_CHECKING:
    from cft.model.network import Network

logger = logging.getLogger(__name__)


def optimizer_for(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser; weight decay acts on weights, not on biases, normalisation and tokens.

    With ``--layer-decay`` the groups are timm's (`timm.optim.param_groups_layer_decay`, after Bao
    et al., BEiT, ICLR 2022): the head learns at the full rate, and each layer below the next at the
    decay times its rate. A group's factor is its ``lr_scale``. Parameters of layers whose factor is
    below ``--freeze-below`` are in no group, and their ``requires_grad`` is off.
    """
    if settings.layer_decay == 1:
        spared: set[str] = getattr(network, "no_weight_decay", set)()
        decays = [(p.ndim > 1 and n not in spared, p) for n, p in network.named_parameters()]
        groups = [
            {"params": [p for yes, p in decays if yes], "weight_decay": settings.weight_decay},
            {"params": [p for yes, p in decays if not yes], "weight_decay": 0.0},
        ]
    else:
        # Imported here: with its optimisers comes PyTorch's compiler, which takes two seconds.
        from timm.optim import param_groups_layer_decay

        groups = param_groups_layer_decay(
            network,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
            no_opt_scale=settings.freeze_below,
        )
        _say_frozen(network)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.optimizer]
    # One pass over each tensor instead of one for each product: a fourth of the time on a CPU.
    return kind(groups, lr=settings.lr, betas=(settings.beta1, 0.999), fused=True)


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group: the rate times the factor of its layer."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def heads_of(network: Network) -> dict[str, nn.Module]:
    """Name -> layer of the logistic regressions; more than one only in distilled transformers."""
    head = network.get_classifier()
    heads = head if isinstance(head, (tuple, list)) else [head]
    return {n: module for n, module in network.named_modules() if any(module is h for h in heads)}


def choose_trained(
    network: Network, optimizer: torch.optim.Optimizer, settings: Settings, epoch: int
) -> bool:
    """Let the gradient reach the layers that an epoch trains: all of the optimiser's, or the head.

    Parameters
    ----------
    network, optimizer
        As `optimizer_for` made it; what is in none of its groups is never trained.
    settings
        ``freeze_epochs`` says for how many epochs only the head is trained.
    epoch
        From 0.

    Returns
    -------
    bool
        Whether other parameters are trained than before.
    """
    head = {id(p) for layer in heads_of(network).values() for p in layer.parameters()}
    everything = epoch >= settings.freeze_epochs
    changed = False
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        wanted = everything or id(parameter) in head
        changed = changed or parameter.requires_grad != wanted
        parameter.requires_grad_(wanted)
    return changed


def rest_frozen(network: nn.Module) -> None:
    """Put layers of which nothing is trained in evaluation mode, after a call of ``train()``.

    Their batch normalisation then uses and keeps its statistics, and they drop nothing. Up to the
    first layer that is trained, nothing is kept for a backward pass, and none is computed.
    """
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _say_frozen(network: nn.Module) -> None:
    """One line on what ``--freeze-below`` leaves as it is."""
    frozen = {n: p.numel() for n, p in network.named_parameters() if not p.requires_grad}
    if frozen:
        logger.info(
            "not trained: %d of %d parameters, up to %s",
            *(sum(frozen.values()), sum(p.numel() for p in network.parameters())),
            [*frozen][-1].rpartition(".")[0],
        )
