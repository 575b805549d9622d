"""Batch normalisation over the whole batch of a run with several processes.

Every process holds the whole network and computes its part of each global batch. With the
statistics of the whole batch the parts add up to what one process would compute.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn


def share_batch_statistics(network: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch normalisation of a network take its statistics over all processes.

    Names and tensors of the network stay as they are.
    """
    if device.type == "cuda":
        return convert_sync_batchnorm(network)
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, GlobalBatchNorm(child))
        else:
            share_batch_statistics(child, device)
    return network


class _Total(torch.autograd.Function):
    """Sum of a tensor over the processes, through which gradients flow."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        # Every process's result depends on this process's tensor.
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class GlobalBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes, for devices without SyncBatchNorm.

    Takes the place of ``nn.BatchNorm2d`` and of timm's ``BatchNormAct2d`` (which has dropout and
    activation in it), with the same parameters and buffers. It must keep running statistics, as all
    of timm's do.
    """

    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    drop: nn.Module
    act: nn.Module

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        assert norm.momentum is not None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        fused = isinstance(norm, BatchNormAct2d)
        self.drop = norm.get_submodule("drop") if fused else nn.Identity()
        self.act = norm.get_submodule("act") if fused else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self.training:
            return self.act(self.drop(super().forward(x)))
        values = x if x.dtype == torch.float64 else x.float()
        # Every process has the same number of films of the same size.
        count = values.numel() / values.shape[1] * dist.get_world_size()
        mean = _Total.apply(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _Total.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        normal = centred * scale[:, None, None] + self.bias[:, None, None]
        return self.act(self.drop(normal.to(x.dtype)))
