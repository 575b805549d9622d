"""A file of somebody else's -> tensors by name, without running anything that is in it."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from cft.errors import ConversionError

#: Largest checkpoint that is read: DINOv2's giant has 4.5 GB.
MAX_BYTES = 8 * 2**30

_PICKLES = (".pt", ".pth", ".tar", ".bin", ".ckpt")
_WRAPPERS = ("model_ema", "model", "module", "state_dict")
_PREFIXES = ("module.", "_orig_mod.")
_HUB = "hf-hub:"


class _Inert:
    """Stands for every class that a pickled module names: keeps its state and does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state[0] if isinstance(state, tuple) else state


def find(source: str, names: tuple[str, ...] = ("model.safetensors",)) -> Path:
    """The file that a source means.

    Parameters
    ----------
    source
        A file, a folder with one checkpoint in it, or ``hf-hub:org/name[@revision]`` where the
        weights lie as safetensors.
    names
        What the file is called on the Hub, the best first.

    Raises
    ------
    ConversionError
        If there is no such file, or more than one.
    """
    if source.startswith(_HUB):
        return _from_hub(source, names)
    path = Path(source)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConversionError(f"there is no checkpoint at {source}")
    kinds = (*_PICKLES, ".safetensors", ".h5", ".hdf5", ".keras")
    files = sorted(file for file in path.iterdir() if file.suffix in kinds and file.is_file())
    named = [file for name in names for file in files if file.name == name]
    if named:
        return named[0]
    if len(files) != 1:
        raise ConversionError(f"{path} holds {len(files) or 'no'} checkpoints instead of one")
    return files[0]


def _from_hub(source: str, names: tuple[str, ...]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = source.removeprefix(_HUB).partition("@")
    reason: Exception | None = None
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except EntryNotFoundError as error:
            reason = error
            if isinstance(error, LocalEntryNotFoundError):
                break  # no network, and not in the cache
        except (HfHubHTTPError, ValueError, OSError) as error:
            raise ConversionError(f"{source} cannot be fetched ({_line(error)})") from None
    raise ConversionError(f"{source}: {' or '.join(names)} cannot be fetched ({_line(reason)})")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint: safetensors, or what `torch.save` wrote.

    Pickles are read by PyTorch's restricted reader (``weights_only=True``). Where a whole module
    was saved instead of its tensors, as torchxrayvision does, each class that it names is replaced
    by one that only keeps what it is given. Nothing of the file or of another package is run.

    Raises
    ------
    ConversionError
        If it is neither, or holds no tensors.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ConversionError(f"{path} is larger than {MAX_BYTES / 2**30:g} GiB")
    if path.suffix == ".safetensors":
        try:
            return _plain(safetensors.torch.load_file(path), path)
        except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
            raise ConversionError(f"{path} is not readable safetensors ({_line(error)})") from None
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in _classes_in(path)]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile pickle makes of the reader
        if "persistent_load of storage" in str(error):
            raise ConversionError(
                f"{path} is a whole module as PyTorch saved it before 1.6, which is not read "
                "without running its code; save its tensors where it is used: "
                "torch.save(model.state_dict(), FILE)"
            ) from None
        raise ConversionError(f"{path} {_why(error)}") from None
    tensors = _unwrapped(content)
    if not tensors:
        raise ConversionError(f"{path} holds no tensors by name")
    return _plain(tensors, path)


def _why(error: Exception) -> str:
    """Why a pickle is not read, without PyTorch's advice to run what is in it."""
    text = str(error)
    if "Weights only load failed" not in text:
        return f"is no checkpoint of PyTorch, or it is damaged ({_line(error)})"
    said = [part for part in text.split("\n\n") if part.strip()]
    return f"cannot be read without running code that is in it ({_line(said[:2][-1])})"


def _plain(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Tensors that can be stored: dense, none within another, in 32 bits at most.

    What wrappers put before all names is dropped (``module.``, ``_orig_mod.``).
    """
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in tensors)), ""):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    result, seen = {}, set()
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise ConversionError(
                f"the tensor {name} of {path} is sparse, quantised or complex, which no network "
                "here takes"
            )
        storage = tensor.untyped_storage().data_ptr()
        tensor = tensor.float() if tensor.dtype == torch.float64 else tensor
        result[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return result


def sides(tensors: Mapping[str, torch.Tensor], name: str, count: int) -> tuple[int, ...]:
    """The shape of a tensor that has to be there and have so many sides.

    Raises
    ------
    ConversionError
        If it is not, or has not.
    """
    shape = tuple(tensors[name].shape) if name in tensors else None
    if shape is None or len(shape) != count:
        what = "has no tensor" if shape is None else f"has a tensor of shape {shape} as"
        raise ConversionError(f"the checkpoint {what} {name}, which has {count} sides there")
    return shape


def _classes_in(path: Path) -> set[str]:
    """Names of what a pickle would import, found without importing it."""
    if zipfile.is_zipfile(path):
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    names = set()
    with path.open("rb") as file:
        # Before PyTorch 1.6: a number, a version, facts of the machine, the object, its storages.
        for _ in range(5):
            for code, argument, _ in pickletools.genops(file):
                if code.name == "GLOBAL":
                    names.add(str(argument).replace(" ", ".").replace("__builtin__", "builtins"))
    return names


def _unwrapped(content: Any) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, which may lie in an entry, or of a module."""
    if isinstance(content, _Inert):
        return dict(_of_module(content, ""))
    if not isinstance(content, Mapping):
        return {}
    for wrapper in _WRAPPERS:
        inside = content.get(wrapper)
        if isinstance(inside, (Mapping, _Inert)) and (tensors := _unwrapped(inside)):
            return tensors
    return {
        name: value.detach()
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }


def _of_module(module: _Inert, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a pickled `torch.nn.Module`, as its ``state_dict`` would name them."""
    state = getattr(module, "state", None)
    if not isinstance(state, Mapping):
        return
    transient = state.get("_non_persistent_buffers_set") or ()
    for part in ("_parameters", "_buffers"):
        for name, value in (state.get(part) or {}).items():
            if isinstance(value, torch.Tensor) and name not in transient:
                yield prefix + name, value.detach()
    for name, child in (state.get("_modules") or {}).items():
        if isinstance(child, _Inert):
            yield from _of_module(child, f"{prefix}{name}.")


def _line(error: object) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200]
