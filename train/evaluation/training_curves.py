"""Loss and validation metrics of a run of stage 1, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft.files import from_json, regular
from train.evaluation.figure import COLOURS, STYLE, add_heading, save_figure
from train.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = ["training_curves"]


# --- Training -----------------------------------------------------------------------------------


def training_curves(
    log: Path, folder: Path, name: str = "training", title: str = "Training"
) -> str | None:
    """Draw loss and validation metrics per epoch from a run's ``log.jsonl``.

    Parameters
    ----------
    log
        One JSON record an epoch with ``epoch``, ``loss`` and ``valid`` (``auroc``, ``map``), as
        `train.negative` writes it.
    folder
        Gets ``NAME.png`` and ``NAME.svg``.
    title
        What was trained, and on how many films; the number of epochs is added.

    Returns
    -------
    str or None
        Name of the PNG file; None if the log holds no epoch.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    records = _records(log)
    if not records:
        return None
    epochs = [record["epoch"] for record in records]
    curves = {
        "Training loss": [record["loss"] for record in records],
        "Mean AUROC, validation films": [record["valid"]["auroc"] for record in records],
        "Mean AP, validation films": [record["valid"]["map"] for record in records],
    }
    with rc_context(STYLE):
        figure = Figure(figsize=(6.8, 2.5), layout="constrained")
        for i, (axis, (name_of_curve, values)) in enumerate(
            zip(figure.subplots(1, 3), curves.items(), strict=True)
        ):
            best = min if i == 0 else max
            _curve(axis, epochs, values, best, COLOURS[i])
            axis.set_title(name_of_curve, fontsize=8)
        add_heading(figure, f"{title}: {counted(len(epochs), 'epoch')}")
        return save_figure(figure, folder / name)


def _records(log: Path) -> list[dict[str, Any]]:
    """The records of a log, up to a last line that is still being written."""
    records = []
    for line in regular(log).read_text().splitlines():
        try:
            records.append(from_json(line))
        except ValueError:
            break
    return [record for record in records if "epoch" in record]  # a frozen network has none


def _curve(
    axis: Axes,
    epochs: Sequence[int],
    values: Sequence[float | None],
    best: Callable[..., tuple[float, int]],
    colour: str,
) -> None:
    """Values by epoch (None where undefined), the best one marked with its value."""
    known = [
        (value, epoch) for value, epoch in zip(values, epochs, strict=True) if value is not None
    ]
    axis.plot([e for _, e in known], [v for v, _ in known], color=colour, linewidth=1.3)
    axis.set_xlabel("Epoch")
    axis.margins(y=0.18)
    if known:
        value, epoch = best(known, key=lambda pair: pair[0])
        axis.plot(epoch, value, marker="o", markersize=4, color=colour)
        late = epoch > (epochs[0] + epochs[-1]) / 2
        axis.annotate(
            f"{value:.3f}, epoch {epoch}",
            (epoch, value),
            textcoords="offset points",
            xytext=(4 if late else -4, 5 if best is max else -5),
            ha="right" if late else "left",
            va="bottom" if best is max else "top",
            fontsize=7.5,
        )
