"""The films of a run -> what its model folder stores for the gate; see `cft.model.gate_fit`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cft.model.gate_fit import MOST_CHECKED, MOST_FITTED, fit_gate
from cft.model.gate_statistics import GateStatistics
from cft.model.preprocess import Preprocess
from train.datasets.pixels import Loader

if TYPE_CHECKING:
    from cft.model.network import Network

logger = logging.getLogger(__name__)


def gate_of_run(
    network: Network,
    preprocess: Preprocess,
    films: Loader,
    rows: Mapping[str, np.ndarray],
    seed: int,
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
    fitted, checked = (
        np.concatenate([batch.cpu().numpy()[:, 0] for batch in films.batches([some])])
        for some in chosen
    )
    try:
        return fit_gate(network, preprocess, fitted, checked, seed=seed)
    except ValueError as error:
        logger.warning("the model has no gate of its own: %s", error)
        return None
