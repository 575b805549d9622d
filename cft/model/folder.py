"""The one on-disk format of a model: ``config.json``, ``model.safetensors``, ``README.md``.

The folder is exactly what stock timm reads (``timm.create_model("local-dir:PATH",
pretrained=True)``); what is ours lives under the key ``"cft"`` of ``config.json``. Reading is
strict: only safetensors, never a pickle, and a folder that does not fit is refused with one
sentence that says what and where.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft.errors import ModelFolderError
from cft.files import atomic_write
from cft.model.config import FORMAT, ModelConfig

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

#: Largest files of a model folder, in bytes. The largest network of timm stays below 10 GB; those
#: that anyone reads films with, far below 4.
MAX_BYTES = {CONFIG: 4 * 2**20, CARD: 4 * 2**20, WEIGHTS: 4 * 2**30}

#: Most tensors of a network; timm's deepest have some thousand.
MAX_TENSORS = 20_000
_MAX_HEADER = 8 * 2**20  # bytes, some four hundred for each of them


@dataclass(frozen=True)
class ModelFolder:
    """A checked model folder.

    Attributes
    ----------
    path
        Where it was read.
    config
        The parsed ``config.json``.
    weights_sha256
        Hash of ``model.safetensors``: names the exact weights.
    tensors
        Reads and checks the tensors, and may raise `ModelFolderError` then; see `state_dict`.
    names
        What tensors there are.
    named
        Whether its outputs must have names; see `read_model_folder`.
    """

    path: Path
    config: dict[str, Any]
    weights_sha256: str
    tensors: Callable[[], dict[str, torch.Tensor]] = field(repr=False)
    names: frozenset[str] = field(repr=False)
    named: bool = True

    @cached_property
    def state_dict(self) -> dict[str, torch.Tensor]:
        """Name -> tensor, on the CPU; what is stored in 16 bits is float32 here.

        Read when first asked for, of a folder that `open_model_folder` gave. PyTorch is imported
        for them.
        """
        return self.tensors()

    def changed(
        self, config: dict[str, Any], state_dict: dict[str, torch.Tensor] | None = None
    ) -> ModelFolder:
        """The same with another configuration, and perhaps other tensors made of its own."""
        if state_dict is None:
            return replace(self, config=config, tensors=lambda: self.state_dict)
        names = frozenset(state_dict)
        return replace(self, config=config, tensors=lambda: state_dict, names=names)

    @cached_property
    def facts(self) -> ModelConfig:
        """What the configuration says, with types."""
        return parse_config(self.config, self.path, named=self.named)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the categories, in the order of the model's outputs."""
        return self.facts.label_names


def write_model_folder(
    path: str | os.PathLike,
    *,
    state_dict: dict[str, torch.Tensor],
    config: dict[str, Any],
    card: str,
    named: bool = True,
) -> Path:
    """Write a model folder; other files already in the folder are left alone.

    The weights' hash is stored in ``config.json``, so that a reader that meets new weights beside
    an old configuration (or the reverse) refuses the pair instead of mixing them.

    Parameters
    ----------
    path
        The folder; made if absent.
    state_dict
        Name -> tensor.
    config
        timm's keys at the root, ours under ``"cft"``; see DESIGN in the README.
    card
        Text of the model card (Markdown).
    named
        See `read_model_folder`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ModelFolderError
        If what would be written could not be read back.
    """
    import safetensors.torch

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    _check_finite(tensors, path)
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    ours = {"format": FORMAT, **config.get("cft", {})}
    ours["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    config = {**config, "cft": ours}
    parse_config(config, path, named=named)
    atomic_write(path / WEIGHTS, weights)
    atomic_write(path / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    atomic_write(path / CARD, card)
    return path


def read_model_folder(path: str | os.PathLike, *, named: bool = True) -> ModelFolder:
    """Read and check a model folder.

    Parameters
    ----------
    path
        The folder.
    named
        Whether its outputs must have names. Those of timm's own models have none, which are a start
        for training all the same.

    Raises
    ------
    ModelFolderError
        If a file is missing, is not what it claims to be, holds NaN or infinity, or was written
        by a newer version of the format.
    """
    folder = open_model_folder(path, named=named)
    _ = folder.state_dict
    return folder


def open_model_folder(path: str | os.PathLike, *, named: bool = True) -> ModelFolder:
    """Read a model folder, whose tensors are checked when they are first asked for.

    For who may not need them: of weights whose graph was kept, see `cft.model.onnx_engine`, they
    were checked when it was made.

    Parameters
    ----------
    path, named
        See `read_model_folder`.

    Raises
    ------
    ModelFolderError
        See there; `ModelFolder.state_dict` raises it for what is wrong with single tensors.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelFolderError(f"{path} is not a folder, so it holds no model")
    config = _read_json(path)
    facts = parse_config(config, path, named=named)
    stated = facts.weights_sha256
    weights = read_regular(path / WEIGHTS, MAX_BYTES[WEIGHTS], _check_header)
    digest = hashlib.sha256(weights).hexdigest()
    expected = stated or digest
    if digest != expected:
        raise ModelFolderError(
            f"{path / WEIGHTS} is not the file that {CONFIG} was written for (SHA-256 "
            f"{digest[:12]}... instead of {expected[:12]}...); fetch the folder again"
        )
    names = _names(weights, path)
    folder = ModelFolder(path, config, digest, lambda: _tensors(weights, path), names, named)
    vars(folder)["facts"] = facts  # which the property would read once more
    return folder


def _names(weights: bytes, path: Path) -> frozenset[str]:
    """The names of the tensors in a weights file."""
    length = int.from_bytes(weights[:8], "little")
    try:
        entries = json.loads(weights[8 : 8 + length])
        names = frozenset(entries) - {"__metadata__"}
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if len(names) > MAX_TENSORS:
        raise ModelFolderError(f"{path / WEIGHTS} holds more than {MAX_TENSORS:,} tensors")
    return names


def _tensors(weights: bytes, path: Path) -> dict[str, torch.Tensor]:
    """The checked tensors of a weights file."""
    import safetensors.torch

    try:
        state_dict = safetensors.torch.load(weights)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    _check_finite(state_dict, path)
    return {name: _single(tensor) for name, tensor in state_dict.items()}


def _unreadable(path: Path, error: Exception) -> ModelFolderError:
    return ModelFolderError(f"{path / WEIGHTS} is not a readable safetensors file ({error})")


def _single(tensor: torch.Tensor) -> torch.Tensor:
    """Weights of 16 bits, which many files have, as float32, in which networks compute."""
    import torch

    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def read_regular(
    path: Path, most: int, check: Callable[[bytes, int], None] = lambda start, size: None
) -> bytes:
    """The content of a file, if it is one: never of a pipe or device, never more than `most` bytes.

    Parameters
    ----------
    path, most
        The file, and its largest size in bytes.
    check
        Gets the first 8 bytes and the size before the rest is read; raises if they are wrong.

    Raises
    ------
    ModelFolderError
        If there is no such file, it is something else, is too large, or cannot be read.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise ModelFolderError(f"{path} is not a regular file")
            if state.st_size > most:
                raise ModelFolderError(
                    f"{path} is larger than {most / 2**20:,g} MiB, so it is not what its name says"
                )
            start = file.read(8)
            check(start, state.st_size)
            return start + file.read(state.st_size - len(start))
    except ModelFolderError:
        raise
    except FileNotFoundError:
        raise ModelFolderError(
            f"{path.parent} has no {path.name}, so it is not a model folder"
        ) from None
    except MemoryError:
        raise ModelFolderError(
            f"{path} cannot be read (more than the memory that is left)"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelFolderError(f"{path} cannot be read ({reason})") from error


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; the opening of a pipe would otherwise wait for somebody to write into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_header(start: bytes, size: int) -> None:
    """Whether a file may be in safetensors' format: the length of a header, and room for it."""
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
        raise ValueError("it is not a readable safetensors file: its header is missing or too long")


def read_config(path: Path, *, named: bool = True) -> dict[str, Any]:
    """Read and check ``config.json`` alone, without the weights; see also `parse_config`.

    Parameters
    ----------
    path, named
        See `read_model_folder`.

    Raises
    ------
    ModelFolderError
        See `read_model_folder`.
    """
    config = _read_json(path)
    parse_config(config, path, named=named)
    return config


def read_facts(path: Path) -> ModelConfig:
    """What the ``config.json`` of a folder says; see `read_config`."""
    return parse_config(_read_json(path), path)


def _read_json(path: Path) -> Any:
    """What ``config.json`` holds, unchecked."""
    data = read_regular(path / CONFIG, MAX_BYTES[CONFIG])
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path / CONFIG} is not valid JSON ({error})") from error


def parse_config(config: Any, path: Path, *, named: bool = True) -> ModelConfig:
    """What the ``config.json`` of a folder says; see `cft.model.config.ModelConfig.read`."""
    return ModelConfig.read(config, str(path / CONFIG), named=named)


def _check_finite(state_dict: dict[str, torch.Tensor], path: Path) -> None:
    import torch

    for name, tensor in state_dict.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelFolderError(f"tensor {name!r} of {path / WEIGHTS} holds NaN or infinity")
