"""Optional logging to TensorBoard or trackio, beside the JSONL log that is always written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.errors import TrainingError


def tracker(kind: str, folder: Path, arguments: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """A function that takes each epoch's record.

    Parameters
    ----------
    kind
        "none", "tensorboard" or "trackio"; the latter two must be installed.
    folder
        The run's folder; TensorBoard's files go into it, trackio takes its name.
    arguments
        The settings of the run.

    Raises
    ------
    TrainingError
        If the tracker is not installed.
    """
    if kind == "none":
        return lambda record: None
    try:
        if kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(folder / "tensorboard")
            return lambda record: _to_tensorboard(writer, record)
        import trackio

        trackio.init(project="cft", name=folder.name, config=arguments)
        return lambda record: trackio.log(_flat(record), step=record["step"])
    except ImportError:
        raise TrainingError(f"--track {kind}: pip install {kind} first") from None


def _to_tensorboard(writer: Any, record: dict[str, Any]) -> None:
    for name, value in _flat(record).items():
        writer.add_scalar(name, value, record["step"])
    writer.flush()


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested numbers -> one level, with names such as ``valid/auroc``."""
    flat = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}/"))
        else:
            flat[prefix + name] = value
    return flat
