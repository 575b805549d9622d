"""Combining models: means of probabilities, logits or ranks, and weights chosen on validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cft.model import averaging
from cft.model.odds import logit
from train.metrics.ranking import auroc

__all__ = ["SPACES", "combine", "greedy_weights"]

#: What can be averaged: the scores as they are, their logits, or their ranks.
SPACES = ("mean", "logits", "ranks")


def combine(
    scores: Sequence[np.ndarray], space: str = "mean", weights: Sequence[float] | None = None
) -> np.ndarray:
    """Weighted mean of several models' scores.

    Parameters
    ----------
    scores
        For each model (N, C), the same films and categories in the same order.
    space
        "mean": of the scores themselves. "logits": of the logits of probabilities, given back as
        a probability. "ranks": of each film's rank among the N (ties share their mean rank),
        scaled to [0, 1]; needs no common scale, but depends on the set of films.
    weights
        One for each model; None: equal.

    Returns
    -------
    numpy.ndarray
        (N, C)

    Raises
    ------
    ValueError
        If logits are asked for and a score is no probability, or there is no such space.
    """
    stacked = np.stack([np.asarray(s, np.float64) for s in scores])  # (M, N, C)
    shares = np.ones(len(stacked)) if weights is None else weights
    if space == "logits":
        _check_probabilities(stacked)
        return averaging.combine(stacked, shares, "logits")
    return averaging.combine([_into(s, space) for s in stacked], shares, "probabilities")


def _into(scores: np.ndarray, space: str) -> np.ndarray:
    """(N, C) scores of one model as what is averaged."""
    if space == "mean":
        return scores
    if space == "ranks":
        return np.stack([_shared_ranks(column) for column in scores.T], axis=1)
    if space != "logits":
        raise ValueError(f"no ensemble {space!r}; there are {', '.join(SPACES)}")
    _check_probabilities(scores)
    return logit(scores)


def _check_probabilities(scores: np.ndarray) -> None:
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError(
            f"a mean of logits needs probabilities, but scores go from {scores.min():g} to "
            f"{scores.max():g}; use ranks"
        )


def _shared_ranks(column: np.ndarray) -> np.ndarray:
    """(N,) ranks scaled to [0, 1], ties sharing their mean."""
    ordered = np.sort(column)
    first = np.searchsorted(ordered, column, side="left")
    last = np.searchsorted(ordered, column, side="right") - 1
    return (first + last) / (2 * max(len(column) - 1, 1))


def greedy_weights(
    scores: Sequence[np.ndarray], labels: np.ndarray, space: str = "mean", rounds: int = 50
) -> np.ndarray:
    """Forward selection of models with replacement on validation films (Caruana et al., ICML 2004).

    Starting from nothing, the model whose addition gives the highest mean AUROC is added, again
    and again; the selection with the highest mean AUROC wins, of equal ones the smallest. A
    model's weight is how often it was added.

    Parameters
    ----------
    scores
        For each model (N, C) on validation films, never the films to be reported on.
    labels
        (N, C) in {1, 0, NaN}.
    space
        As in `combine`.
    rounds
        Additions to try.

    Returns
    -------
    numpy.ndarray
        (M,) weights that sum to 1.

    Raises
    ------
    ValueError
        If no category has both classes on these films.
    """
    stacked = np.stack([_into(np.asarray(s, np.float64), space) for s in scores])
    labels = np.asarray(labels, np.float64).T[None]  # (1, C, N)
    added = np.zeros(len(stacked), dtype=int)
    best, best_added = -np.inf, added.copy()
    total = np.zeros(stacked.shape[1:])
    for _ in range(rounds):
        candidates = (total + stacked).transpose(0, 2, 1)  # (M, C, N)
        values = auroc(candidates, labels).nanmean(dim=1).numpy()
        if np.isnan(values).all():
            raise ValueError("no category has both classes on the validation films")
        choice = int(np.argmax(values))
        added[choice] += 1
        total = total + stacked[choice]
        if values[choice] > best + 1e-12:
            best, best_added = values[choice], added.copy()
    return best_added / best_added.sum()
