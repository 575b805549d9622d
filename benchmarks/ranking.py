"""Exact AUROC of many score vectors: this project's kernel beside its peers, in one run.

    python -m benchmarks.ranking            # 64 x 191,027, the size of CheXpert's training set

scikit-learn is measured as the loop that one writes around it. torchmetrics takes part where it is
installed, one call per vector and without its checks of the arguments. Peers and kernel
take turns within each round, so that a busy machine slows all of them, and the table shows medians.
Errors are against scikit-learn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from train.metrics.ranking import auroc, average_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vectors", type=int, default=64)
    parser.add_argument("--films", type=int, default=191_027)
    parser.add_argument("--positives", type=float, default=0.12, help="share of positive labels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.vectors} x {options.films:,}, {options.threads} threads, {options.device}")
    for name, (scores, labels) in inputs(options).items():
        print(f"\n{name}\n{'':34}{'seconds':>10}{'ratio':>8}{'largest error':>15}")
        for metric, contestants in competitors(scores, labels, options.device).items():
            times, results = race(contestants, options.rounds)
            own, reference = times["this project"], results["scikit-learn, loop"]
            for peer, seconds in times.items():
                error = np.abs(results[peer] - reference).max()
                line = f"{metric + ', ' + peer:34}{seconds:10.3f}{seconds / own:8.1f}{error:15.1e}"
                print(line, flush=True)


def inputs(options: argparse.Namespace) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Name -> (scores (B, N) float32, labels (N,) or (B, N))."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.vectors, options.films)
    labels = (torch.rand(shape, generator=generator) < options.positives).float()
    scores = torch.randn(shape, generator=generator)
    return {
        "one row of labels for all (a population of one category)": (scores + labels[0], labels[0]),
        "labels of its own for each row (categories)": (scores + labels, labels),
        "heavily tied scores, labels of its own for each row": (
            (scores + labels).mul(4).round(),
            labels,
        ),
    }


def competitors(
    scores: torch.Tensor, labels: torch.Tensor, device: str
) -> dict[str, dict[str, Callable[[], np.ndarray]]]:
    """Metric -> peer -> a call that gives (B,) values."""
    each = labels.expand_as(scores)
    s, y = scores.numpy(), each.numpy()
    there, labels_there = scores.to(device), labels.to(device)

    def loop(metric: Callable) -> Callable[[], np.ndarray]:
        return lambda: np.array([metric(a, b) for a, b in zip(y, s, strict=True)])

    def kernel(metric: Callable) -> Callable[[], np.ndarray]:
        return lambda: metric(there, labels_there).cpu().numpy()

    found = {
        "AUROC": {"this project": kernel(auroc), "scikit-learn, loop": loop(roc_auc_score)},
        "AP": {
            "this project": kernel(average_precision),
            "scikit-learn, loop": loop(average_precision_score),
        },
    }
    try:
        from torchmetrics.functional.classification import (
            binary_auroc,
            binary_average_precision,
        )
    except ImportError:
        print("torchmetrics is not installed and takes no part")
        return found
    # Scores outside [0, 1] would be put through a sigmoid, which makes ties: see its issue 2819.
    low, high = there.min(), there.max()
    scaled, whole = (there - low) / (high - low), each.to(device).long()
    for name, metric in (("AUROC", binary_auroc), ("AP", binary_average_precision)):
        found[name]["torchmetrics, loop"] = lambda metric=metric: np.array(
            [metric(a, b, validate_args=False).item() for a, b in zip(scaled, whole, strict=True)]
        )
    return found


def race(
    contestants: dict[str, Callable[[], np.ndarray]], rounds: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Median seconds and results of each, taking turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    results = {}
    for _ in range(rounds + 1):
        for name, call in contestants.items():
            started = time.perf_counter()
            results[name] = call()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}, results


if __name__ == "__main__":
    main()
