"""The processes of one run, as torchrun starts them; one process without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from train.errors import UsageError

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
