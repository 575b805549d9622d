"""Intervals of the AUROC: this project's bootstrap and DeLong beside the usual ways, in one run.

    python -m benchmarks.intervals          # 500 studies, 14 categories, 10,000 replicates

The usual bootstrap is a loop that draws rows and calls scikit-learn for each category; it is
measured on few replicates and its time scaled up. The usual DeLong compares every positive with
every negative. The differences are between the figures of both ways, on the same draws and films.
At the end: how the time of both grows with the studies.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.exponent import line
from train.metrics.bootstrap import bootstrap_auroc, draw_groups
from train.metrics.delong import delong

_LOOPED = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--categories", type=int, default=14)
    parser.add_argument("--replicates", type=int, default=10_000)
    parser.add_argument("--positives", type=float, default=0.2, help="share of positive labels")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    shape = (options.studies, options.categories)
    labels = (generator.random(shape) < options.positives).astype(float)
    scores = generator.standard_normal(shape) + labels
    print(f"{options.studies} studies x {options.categories} categories\n")
    _bootstrap(scores, labels, options)
    print("\nDeLong, one category")
    print(f"{'studies':>10}{'pairs, s':>12}{'sorted, s':>12}{'difference':>12}")
    costs = {}
    for studies in (500, 5_000, 20_000):
        y = (generator.random(studies) < options.positives).astype(float)
        costs[studies] = _delong(generator.standard_normal(studies) + y, y, options.rounds)
    print("\n" + line("DeLong, sorted", costs, "studies"))
    costs = {}
    for share in (16, 4, 1):
        part = slice(options.studies // share)
        studies = np.arange(options.studies)[part]
        costs[len(studies)], _ = _fastest(
            lambda: bootstrap_auroc(scores[part], labels[part], studies, options.replicates),  # noqa: B023
            options.rounds,
        )
    print(line(f"Bootstrap, {options.replicates:,} replicates", costs, "studies"))


def _bootstrap(scores: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> None:
    studies = np.arange(options.studies)
    own, result = _fastest(
        lambda: bootstrap_auroc(scores, labels, studies, options.replicates), options.rounds
    )
    looped, expected = _fastest(lambda: _loop(scores, labels, options.replicates), 1)
    difference = np.nanmax(np.abs(result.replicates[: len(expected)] - expected))
    print(f"Bootstrap, {options.replicates:,} replicates")
    print(f"{'scikit-learn, loop (scaled up)':34}{looped * options.replicates / _LOOPED:10.2f} s")
    print(f"{'this project':34}{own:10.2f} s   largest difference {difference:.1e}")


def _loop(scores: np.ndarray, labels: np.ndarray, replicates: int) -> np.ndarray:
    """(R, C) AUROC in the first replicates of the same draw, by scikit-learn."""
    counts = next(draw_groups(len(scores), replicates, seed=0, block=_LOOPED))
    rows = (np.repeat(np.arange(len(scores)), drawn.astype(int)) for drawn in counts.T)
    return np.array(
        [[roc_auc_score(y[r], s[r]) for s, y in zip(scores.T, labels.T, strict=True)] for r in rows]
    )


def _delong(scores: np.ndarray, labels: np.ndarray, rounds: int) -> float:
    slow, expected = _fastest(lambda: _over_pairs(scores, labels), 1)
    fast, result = _fastest(lambda: delong(scores, labels), rounds)
    difference = abs(result.covariance[0, 0] / expected - 1)
    print(f"{len(labels):>10,}{slow:>12.4f}{fast:>12.4f}{difference:>12.1e}")
    return fast


def _over_pairs(scores: np.ndarray, labels: np.ndarray) -> float:
    """DeLong's variance by its definition."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative).astype(np.float32)
    wins += 0.5 * (positive[:, None] == negative)
    components = wins.mean(axis=1, dtype=float), wins.mean(axis=0, dtype=float)
    return sum(np.var(x, ddof=1) / len(x) for x in components)


def _fastest(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """(seconds, result) of the fastest of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


if __name__ == "__main__":
    main()
