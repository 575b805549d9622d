"""Where a network runs, without PyTorch where the answer is plain: importing it takes seconds."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["device_name"]

# What Linux has where there may be a GPU that PyTorch knows as "cuda": NVIDIA's driver, that of its
# small boards, AMD's, and that of a Linux within Windows.
_OF_GPUS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")


def device_name(device: str | torch.device | None) -> str:
    """A device by PyTorch's name for it, such as "cpu" or "cuda:0".

    Parameters
    ----------
    device
        None takes a GPU if there is one.

    Raises
    ------
    RuntimeError
        If PyTorch knows no such device.
    """
    if str(device) == "cpu" or (device is None and not _may_have_gpu()):
        return "cpu"
    import torch

    return str(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))


def _may_have_gpu() -> bool:
    """False only where there is certainly none that PyTorch calls "cuda"."""
    if "torch" in sys.modules:  # it can be asked at once
        return True
    if sys.platform == "linux":
        return any(map(os.path.exists, _OF_GPUS))
    return sys.platform != "darwin"
