"""What films without findings give in each place, for heat maps to be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from cft.files import atomic_file, regular
from cft.model.network import has_linear_head
from train.frozen.kept import place_of
from train.stage1.run import Run

if TYPE_CHECKING:
    from cft.model.network import Network

# Fewer films than that say too little of what is usual.
_FEWEST = 20
_DECIMALS = 4


def normal_maps(run: Run, network: Network, kept: Path | None = None) -> np.ndarray | None:
    """The mean local scores of the validation films without any finding.

    Validation films, since a network answers films that it was trained on otherwise.

    Parameters
    ----------
    run
        Settings and data.
    network
        What it made, in evaluation mode.
    kept
        The folder of the network's features, if it is frozen: the films' mean map of features is
        kept there, and found again.

    Returns
    -------
    numpy.ndarray or None
        (C, h, w) float64; None where fewer than 20 films are normal, and for a network whose scores
        are not the mean over positions of a linear function of its feature map.
    """
    rows, head = run.rows["valid"], network.get_classifier()
    y = run.table.y[rows]
    normal = rows[(np.nan_to_num(y, nan=0) == 0).all(1) & (y == 0).any(1)]
    if not isinstance(head, nn.Linear) or len(normal) < _FEWEST:
        return None
    file = kept and place_of(kept, "normal", normal)
    features = _found(file) if file else None
    if features is None:
        features = _mean_features(run, network, normal)
        if features is not None and file:
            with atomic_file(file) as stream:
                np.save(stream, features)
    if features is None:
        return None
    weight, bias = (x.double().numpy(force=True) for x in (head.weight, head.bias))
    return np.einsum("cd,dhw->chw", weight, features) + bias[:, None, None]


@torch.inference_mode()
def _mean_features(run: Run, network: Network, rows: np.ndarray) -> np.ndarray | None:
    """(D, h, w) float64, the mean map of features of some films; None as `normal_maps` says."""
    total: torch.Tensor | float = 0.0
    size = run.settings.batch_size
    for films in run.films.batches(rows[i : i + size] for i in range(0, len(rows), size)):
        batch = run.preprocess.normalize(films.float() / 255)
        features = network.forward_features(batch.contiguous(memory_format=torch.channels_last))
        if not has_linear_head(network, features):
            return None
        total = total + features.double().sum(0)
    assert isinstance(total, torch.Tensor)
    return (total / len(rows)).cpu().numpy()


def _found(file: Path) -> np.ndarray | None:
    """What was kept; None if nothing was, or if it is damaged."""
    try:
        return np.load(regular(file), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def with_normal_maps(
    categories: Mapping[str, Mapping[str, Any]], maps: np.ndarray | None
) -> dict[str, dict[str, Any]]:
    """Categories as they go into ``config.json``, each with its ``normal_map``; C as `maps`."""
    if maps is None:
        return {label: dict(row) for label, row in categories.items()}
    return {
        label: {**row, "normal_map": each.round(_DECIMALS).tolist()}
        for (label, row), each in zip(categories.items(), maps, strict=True)
    }


def kept_normal_maps(
    categories: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Any],
    methods: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Categories of stage 2 with the parent's maps, where its regression is still in use."""
    kept = {label: (before.get(label) or {}).get("normal_map") for label in categories}
    return {
        label: {**row, "normal_map": kept[label]}
        if kept[label] is not None and methods[label] == "original"
        else dict(row)
        for label, row in categories.items()
    }
