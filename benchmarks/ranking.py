"""Exact AUROC of many score vectors: this project's kernel beside its peers, in one run.

    python -m benchmarks.ranking            # 64 x 191,027, the size of CheXpert's training set

scikit-learn is measured as the loop that one writes around it. torchmetrics takes part where it is
installed, one call per vector and without its checks of the arguments. Peers and kernel
take turns within each round, so that a busy machine slows all of them, and the table shows medians:
seconds, and seconds of processors, which a busy machine changes little, with their ratios. Errors
are against scikit-learn. At the end: what sorting takes of the kernel's time, which bounds it, and
how the kernel's time grows with the films.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.exponent import line
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
        head = f"{'seconds':>10}{'ratio':>8}{'processors':>12}{'ratio':>8}{'largest error':>15}"
        print(f"\n{name}\n{'':34}{head}")
        for metric, contestants in competitors(scores, labels, options.device).items():
            times, results = race(contestants, options.rounds)
            own, reference = times["this project"], results["scikit-learn, loop"]
            for peer, (seconds, processors) in times.items():
                error = np.abs(results[peer] - reference).max()
                compared = f"{seconds:10.3f}{seconds / own[0]:8.1f}"
                compared += f"{processors:12.3f}{processors / own[1]:8.1f}"
                print(f"{metric + ', ' + peer:34}{compared}{error:15.1e}", flush=True)
    print("\n" + "\n".join(growth_of(options)))


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
) -> tuple[dict[str, tuple[float, float]], dict[str, np.ndarray]]:
    """Median seconds, of the clock and of processors, and results of each, taking turns; the first
    round warms up.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    results = {}
    for _ in range(rounds + 1):
        for name, call in contestants.items():
            started, cpu = time.perf_counter(), time.process_time()
            results[name] = call()
            times[name].append((time.perf_counter() - started, time.process_time() - cpu))
    medians = {
        name: tuple(statistics.median(column) for column in zip(*taken[1:], strict=True))
        for name, taken in times.items()
    }
    return medians, results


def growth_of(options: argparse.Namespace) -> list[str]:
    """Lines: seconds of processors at three sizes, of the kernel and of sorting alone (CPU)."""
    generator = torch.Generator().manual_seed(0)
    sizes = [max(20, options.films // share) for share in (16, 4, 1)]
    shape = (min(16, options.vectors), options.films)
    labels = (torch.rand(shape[1], generator=generator) < options.positives).float()
    labels[:2] = torch.tensor([0.0, 1.0])
    scores = torch.randn(shape, generator=generator) + labels

    def sort(n: int) -> None:
        for row in scores[:, :n].numpy():
            for value in (0, 1):
                np.sort(row[labels[:n].numpy() == value])

    parts: dict[str, Callable[[int], object]] = {
        "AUROC": lambda n: auroc(scores[:, :n], labels[:n]),
        "AP": lambda n: average_precision(scores[:, :n], labels[:n]),
        "sorting both classes alone": sort,
    }
    lines = []
    for name, work in parts.items():
        costs = {
            n: race({name: lambda n=n, work=work: work(n)}, options.rounds)[0][name][1]
            for n in sizes
        }
        lines.append(line(f"{name} of {shape[0]} vectors, processor time", costs))
    return lines


if __name__ == "__main__":
    main()
