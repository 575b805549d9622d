"""The parts of stage 2 that are done, kept in one file.

They lie in the file, memory-mapped, and not in memory: the scores of all films at every step of
every category's path take more than all else that stage 2 has of a film.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from cft.files import atomic_path, regular
from train.errors import CheckpointError

# PyTorch's tensors of a file are memory-mapped. Windows replaces no file that is.
_READ_AS = "np" if os.name == "nt" else "pt"


class Finished:
    """Parts of the work that are done, in one file, so that a stopped run can go on.

    Parameters
    ----------
    path
        The file; it need not be there. None: parts are kept in memory alone.
    made_from
        Names model and films; parts of other ones are refused.

    Raises
    ------
    CheckpointError
        If the file is not readable, or holds parts made from something else.
    """

    def __init__(self, path: Path | None = None, made_from: str = ""):
        self._path, self._facts = path, {"made_from": made_from}
        self._arrays: dict[str, np.ndarray] = {}
        if path is None or not path.exists():
            return
        try:
            found, self._arrays = _read(regular(path))
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{path} is not a readable checkpoint ({error})") from error
        if found.get("made_from") != made_from:
            raise CheckpointError(
                f"{path} was made from another model, other films or other labels; choose another "
                "--out"
            )

    def get(self, part: str) -> dict[str, np.ndarray] | None:
        """The arrays of a part, or None if it is still to do."""
        start = f"{part}/"
        found = {k.removeprefix(start): v for k, v in self._arrays.items() if k.startswith(start)}
        return found or None

    def keep(
        self, part: str, arrays: Mapping[str, np.ndarray], instead_of: str | None = None
    ) -> None:
        """Write the arrays of a part beside those already there, or in place of some part's."""
        if instead_of is not None:
            start = f"{instead_of}/"
            self._arrays = {k: x for k, x in self._arrays.items() if not k.startswith(start)}
        self._arrays |= {f"{part}/{name}": np.ascontiguousarray(x) for name, x in arrays.items()}
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path) as path:  # by its name: without a copy of it all in memory
            safetensors.numpy.save_file(self._arrays, path, self._facts)
        _, self._arrays = _read(self._path)  # in place of those in memory


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The facts and the arrays of a file."""
    with safetensors.safe_open(path, framework=_READ_AS) as file:
        arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        return file.metadata() or {}, arrays
