"""The films of a run -> what its model folder stores for the gate; see `cft.model.gate_fit`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cft.errors import ModelFolderError
from cft.files import atomic_write, from_json, regular
from cft.model.fields import Fields
from cft.model.gate_fit import MOST_CHECKED, MOST_FITTED, fit_gate
from cft.model.gate_statistics import GateStatistics
from cft.model.preprocess import Preprocess
from train.datasets.pixels import Loader
from train.frozen.kept import place_of

if TYPE_CHECKING:
    from cft.model.network import Network

logger = logging.getLogger(__name__)

# To be raised when the same films teach something else.
_FORMAT = 1


def gate_of_run(
    network: Network,
    preprocess: Preprocess,
    films: Loader,
    rows: Mapping[str, np.ndarray],
    seed: int,
    kept: Path | None = None,
) -> GateStatistics | None:
    """Fit the gate on training films, and choose its limits by validation films.

    Parameters
    ----------
    network, preprocess
        The model.
    films, rows
        The packed films, and the rows of each split that take part.
    seed
        Of all that is drawn.
    kept
        The folder of the network's features, if it is frozen: what the gate has learnt is kept
        there, and found again. It takes thousands of passes.

    Returns
    -------
    GateStatistics or None
        None if there are too few films, the network has no stages that timm knows, or
        ``CFT_GATE=off`` is set; a line of the log says so.
    """
    if os.environ.get("CFT_GATE") == "off":
        return None
    random = np.random.default_rng(seed)
    chosen = [
        np.sort(random.permutation(rows[split])[:most])
        for split, most in (("train", MOST_FITTED), ("valid", MOST_CHECKED))
    ]
    file = kept and place_of(kept, "gate", _FORMAT, seed, *chosen)
    if file and (found := _found(file)):
        return found
    fitted, checked = (
        np.concatenate([batch.cpu().numpy()[:, 0] for batch in films.batches([some])])
        for some in chosen
    )
    try:
        gate = fit_gate(network, preprocess, fitted, checked, seed=seed)
    except ValueError as error:
        logger.warning("the model has no gate of its own: %s", error)
        return None
    if file:
        atomic_write(file, json.dumps(gate.to_config()))
    return gate


def _found(file: Path) -> GateStatistics | None:
    """What was kept; None if nothing was, or if it is damaged."""
    try:
        return GateStatistics.read(Fields(from_json(regular(file).read_text()), "gate", str(file)))
    except (OSError, ValueError, ModelFolderError):
        return None
