"""What else is computed of a frozen network and its films: kept beside the features, found again.

The folder is that of the features, whose name stands for the network without its last layer, the
preprocessing and every pixel; a file's name stands for the rest that decides what is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from cft.files import atomic_path

__all__ = ["computed_on", "kept_tensors", "place_of"]

# Ends the stored name of a matrix whose columns lie side by side in memory.
_COLUMNS = ", transposed"


def place_of(folder: Path, kind: str, *facts: int | str | np.ndarray) -> Path:
    """The file for something of a kind, by all that decides it besides network and films."""
    digest = hashlib.sha256()
    for fact in facts:
        if isinstance(fact, str):
            fact = np.frombuffer(fact.encode(), np.uint8)
        array = np.ascontiguousarray(fact, np.int64)
        digest.update(f"{array.shape}".encode())
        digest.update(array.data)
    return folder / f"{kind}-{digest.hexdigest()[:16]}"


def computed_on(device: torch.device) -> str:
    """What decides the rounding of sums: a run finds only what it would compute to the same bit."""
    return f"{torch.__version__} {device.type} {torch.get_num_threads()}"


def kept_tensors(
    file: Path | None,
    compute: Callable[[], Mapping[str, torch.Tensor]],
    device: torch.device,
    usable: Callable[[Mapping[str, torch.Tensor]], bool] = lambda _: True,
) -> Mapping[str, torch.Tensor]:
    """Tensors from a file, or computed and kept there if it is not there, damaged or of no use.

    What is found lies in memory as what was computed did: by rows or by columns, and in memory of
    its own. Otherwise products with it could be rounded in another way.

    Parameters
    ----------
    file
        From `place_of`; None: nothing is kept.
    compute
        Gives the tensors by name, always the same names.
    device
        Where they are to be.
    usable
        Whether what was found is of the kind that would be computed; an older version may have
        kept another.
    """
    if file is None:
        return compute()
    found = _found(file, device, usable)
    if found is not None:
        return found
    found = compute()
    stored = {
        **{name: x.contiguous() for name, x in found.items() if not _by_columns(x)},
        **{f"{name}{_COLUMNS}": x.mT for name, x in found.items() if _by_columns(x)},
    }
    with atomic_path(file) as path:
        safetensors.torch.save_file(stored, path)
    return found


def _found(
    file: Path, device: torch.device, usable: Callable[[Mapping[str, torch.Tensor]], bool]
) -> Mapping[str, torch.Tensor] | None:
    """What is in a file of `kept_tensors`, if it is there and usable."""
    try:
        stored = safetensors.torch.load_file(file, device=str(device))
    except (OSError, safetensors.SafetensorError):
        return None
    found = {
        name.removesuffix(_COLUMNS): (x.mT if name.endswith(_COLUMNS) else x).clone()
        for name, x in stored.items()
    }
    return found if usable(found) else None


def _by_columns(x: torch.Tensor) -> bool:
    return x.ndim == 2 and not x.is_contiguous() and x.mT.is_contiguous()
