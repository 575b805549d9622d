"""What else is computed of a frozen network and its films: kept beside the features, found again.

The folder is that of the features, whose name stands for the network without its last layer, the
preprocessing and every pixel; a file's name stands for the rest that decides what is in it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

__all__ = ["place_of"]


def place_of(folder: Path, kind: str, *facts: int | np.ndarray) -> Path:
    """The file for something of a kind, by all that decides it besides network and films."""
    digest = hashlib.sha256()
    for fact in facts:
        array = np.ascontiguousarray(fact, np.int64)
        digest.update(f"{array.shape}".encode())
        digest.update(array.data)
    return folder / f"{kind}-{digest.hexdigest()[:16]}"
