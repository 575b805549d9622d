"""In which floating-point format the network and the kernels compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether the network computes in bfloat16."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


@contextmanager
def full_precision() -> Iterator[None]:
    """Products and convolutions in float32 as such, whatever the program has allowed elsewhere."""
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


def symmetric_eigen(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`torch.linalg.eigh` by one thread: eigenvalues, smallest first, and the vectors as columns.

    On a CPU that others use too, its threads wait for each other: two took twenty times as long as
    one for 1,280 columns.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return torch.linalg.eigh(matrix)
    finally:
        torch.set_num_threads(threads)
