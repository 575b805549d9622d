"""The processes of one training run, as torchrun starts them; one process without it.

Every process holds the whole network and computes its part of each global batch. The parts add up
to what one process would compute: gradients are summed over processes, and batch normalisation
takes its statistics over the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn

from train.labels import UsageError

# The main process packs the films while the others wait, which takes as long as it takes.
_PATIENCE = timedelta(hours=24)


@dataclass(frozen=True)
class Processes:
    """This process and how many others there are.

    Attributes
    ----------
    rank
        Number of this process, from 0.
    world
        How many processes there are.
    device
        The device of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace a tensor by its sum over the processes."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.sum_(torch.tensor(float(flag), device=self.device)) > 0)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.any(False)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the processes in the backward pass."""
        if self.world == 1:
            return network
        # The buffers are batch statistics, which are the same everywhere already.
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # torch says here, not before, what is not there
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"--device {name} cannot be used ({reason})") from None
    return device


@contextmanager
def processes(device: str | None) -> Iterator[Processes]:
    """Join the processes that torchrun started.

    Parameters
    ----------
    device
        Such as "cpu", "cuda" or "cuda:1"; None takes a GPU if there is one. With several
        processes "cuda" is a GPU for each.

    Raises
    ------
    UsageError
        If there is no such device.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if world == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank, world, chosen)
    finally:
        dist.destroy_process_group()


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
    activation in it), with the same parameters and buffers.
    """

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        fused = isinstance(norm, BatchNormAct2d)
        self.drop = norm.drop if fused else nn.Identity()
        self.act = norm.act if fused else nn.Identity()

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
