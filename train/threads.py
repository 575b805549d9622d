"""Parts of a computation side by side, each by one thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

__all__ = ["Map", "parts_of", "side_by_side"]

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

# Films that a product with their features takes at once, so that what is between stays in the
# cache; on a GPU more, as each product is a call. Parts that threads share.
_BLOCK, _BLOCK_ELSEWHERE, _PARTS = 1024, 16384, 16


class Map(Protocol):
    """As the builtin `map` with one sequence."""

    def __call__(
        self, function: Callable[[_Part], _Result], parts: Iterable[_Part], /
    ) -> Iterable[_Result]: ...


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Map]:
    """A `map` that shares its calls among as many threads as PyTorch has; results come in order.

    PyTorch itself shares each product and waits for the slowest thread before the next; here a
    thread goes through all steps of its part, and waits once. Results do not depend on the number
    of threads, as each part is worked out by one. While the map is in use, PyTorch has one thread
    in this one, too.

    Parameters
    ----------
    device
        Where the work is done; anything but a CPU is given one part after the other.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield map
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, "part", torch.set_num_threads, (1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)


def parts_of(films: int, device: torch.device) -> list[list[slice]]:
    """Blocks of so many films, in at most 16 parts; the same whatever the number of threads."""
    block = _BLOCK if device.type == "cpu" else _BLOCK_ELSEWHERE
    blocks = [slice(i, min(i + block, films)) for i in range(0, films, block)]
    size = max(1, math.ceil(len(blocks) / _PARTS))
    return [blocks[i : i + size] for i in range(0, len(blocks), size)]
