"""Films of other hospitals -> a gate that knows left from right in them, too.

A gate learns from thousands of films, often of one hospital. What it takes for mirrored does not
carry over well: films of intensive care elsewhere, with opaque lungs, tubes and cables, were called
mirrored that are not. A hundred films of such hospitals move the weights of left and right, no
farther than they have reason to, and choose with the others when a film is called mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from cft.model.gate import depths_in, differences, evidence
from cft.model.gate_fit import FEWEST, Features, Pictures, Progress, both_ways, limits_of_sides
from cft.model.gate_statistics import GateStatistics, as_stored
from cft.model.preprocess import Preprocess

if TYPE_CHECKING:
    from cft.model.network import Network

__all__ = ["adapt_gate", "pictures_to_adapt"]

# Of the penalty on what the weights move by, relative to the loss of one film.
_STRENGTH = 30.0
# Of the films that check, so many are to be called mirrored if they are.
_CAUGHT = 0.95
_STEPS = 80


def adapt_gate(
    network: Network,
    preprocess: Preprocess,
    statistics: GateStatistics,
    films: Sequence[np.ndarray] | np.ndarray,
    checks: Sequence[np.ndarray] | np.ndarray,
    *,
    progress: Progress = lambda count: None,
) -> GateStatistics:
    """Correct what a gate knows of left and right by films of other hospitals.

    Nothing else of the gate changes.

    Parameters
    ----------
    network, preprocess
        The network, in evaluation mode, and how its input is made.
    statistics
        Its gate.
    films
        (N, H, W) uint8 of the size of the input: upright films of other hospitals than the gate
        has learnt from.
    checks
        The same of other patients, of all hospitals: they choose the limit.
    progress
        Is called after each batch with how many pictures were done.

    Raises
    ------
    ValueError
        If there are fewer than `FEWEST` of either, or the network shows no maps of features.
    """
    for what, given in (("films of other hospitals", films), ("films to check with", checks)):
        if len(given) < FEWEST:
            raise ValueError(f"{len(given)} {what}; it takes {FEWEST}")
    pictures = Pictures(network, preprocess, depths_in(statistics), progress)
    learnt, checked = (both_ways(pictures, some) for some in (films, checks))
    side = _moved(statistics.side, *_differences(statistics, learnt))
    right_way, wrong_way = (table @ side for table in _differences(statistics, checked))
    mirrored, again = limits_of_sides(right_way, wrong_way, _CAUGHT)
    return replace(
        statistics,
        side=side,
        mirrored=mirrored,
        again=again,
        checked=len(checks),
        others=len(films),
    )


def pictures_to_adapt(films: int, checks: int) -> int:
    """How many pictures `adapt_gate` shows to the network."""
    return 2 * (films + checks)


def _differences(statistics: GateStatistics, ways: tuple[Features, Features]) -> list[np.ndarray]:
    depths = statistics.depths
    return [differences(depths, evidence(depths, features)[0]) for features in ways]


def _moved(side: np.ndarray, right_way: np.ndarray, wrong_way: np.ndarray) -> np.ndarray:
    """The weights (D,) that tell two tables (N, D) apart, from those that were known before.

    A logistic regression that minimises the sum of cross-entropies plus `_STRENGTH` / 2 times the
    squared distance from the weights before: their maximum a posteriori estimate, if these are the
    mean of what is to be expected.
    """
    x = torch.from_numpy(np.concatenate([right_way, wrong_way]).astype(np.float32))
    y = torch.cat([torch.zeros(len(right_way)), torch.ones(len(wrong_way))])
    before = torch.from_numpy(side.astype(np.float32))
    weights = before.clone().requires_grad_(True)
    solver = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        fit = F.binary_cross_entropy_with_logits(x @ weights, y, reduction="sum")
        total = (fit + _STRENGTH / 2 * (weights - before).square().sum()) / len(x)
        total.backward()
        return total

    solver.step(loss)
    return as_stored(weights.detach().numpy())
