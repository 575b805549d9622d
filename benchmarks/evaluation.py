"""What a whole evaluation costs, and how that grows with the films.

Run ``python -m benchmarks.evaluation``. Scores are drawn by a law: 14 findings, two films a
patient, sex, age and view. Everything of a report is computed but for the drawing: AUROC, AP and
rates with intervals, calibration, decision curves, subgroups and their gaps. Beside the time that
passed stands the processors' own, which other programs on the machine do not change.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.exponent import line
from train.evaluation.essentials import essentials
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.protocol import Settings, evaluate_models
from train.evaluation.scores import evaluate_scores
from train.tables import aligned_table

FINDINGS = 14


def films(n: int, seed: int = 0) -> tuple[Truth, Predictions]:
    """Films of n / 2 patients, findings from rare to common, and a model's probabilities."""
    generator = np.random.default_rng(seed)
    prevalence = np.geomspace(0.01, 0.2, FINDINGS)
    y = (generator.random((n, FINDINGS)) < prevalence).astype(float)
    logits = np.log(prevalence / (1 - prevalence)) + 1.2 * y + generator.normal(size=y.shape)
    names = tuple(f"finding {c + 1}" for c in range(FINDINGS))
    attributes = {
        "sex": np.array(["F", "M"])[generator.integers(0, 2, n)],
        "age": generator.integers(1, 95, n).astype(str),
        "view": np.array(["PA", "AP"])[generator.integers(0, 2, n)],
    }
    keys = tuple(map(str, range(n)))
    truth = Truth("drawn", keys, names, y, np.arange(n) // 2, "patient", attributes, "film")
    probabilities = 1 / (1 + np.exp(-logits))
    points = dict.fromkeys(names, 0.1)
    return truth, Predictions("model", names, probabilities, operating_points=points)


def parts_of(n: int, replicates: int) -> dict[str, Callable[[], object]]:
    """What is measured on n films."""
    truth, model = films(n)
    arrays = model.scores, truth.labels, truth.groups, model.label_names
    points = model.operating_points
    return {
        "AUROC, AP, rates": lambda: evaluate_scores(
            *arrays, operating_points=points, replicates=replicates
        ),
        "calibration, net benefit": lambda: essentials(*arrays, replicates=replicates),
        "everything": lambda: evaluate_models(
            truth, [model], settings=Settings(replicates=replicates)
        ),
    }


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--films", type=int, nargs="+", default=[1600, 6400, 25_596])
    parser.add_argument("--replicates", type=int, default=1000)
    options = parser.parse_args(argv)
    rows = [["films", "part", "s", "CPU s", "growth beyond n log n", "peak memory, MB"]]
    first: dict[str, float] = {}
    costs: dict[str, dict[float, float]] = {}
    for n in options.films:
        for name, work in parts_of(n, options.replicates).items():
            before, cpu = time.perf_counter(), time.process_time()
            work()
            passed, cpu = time.perf_counter() - before, time.process_time() - cpu
            costs.setdefault(name, {})[n] = cpu
            growth = cpu / (n * np.log(n))
            share = growth / first.setdefault(name, growth)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append(
                [f"{n:,}", name, f"{passed:.1f}", f"{cpu:.1f}", f"{share:.2f}", f"{memory:,.0f}"]
            )
    print(aligned_table(rows))
    if len(options.films) > 1:
        for name, each in costs.items():
            print(line(f"CPU s, {name}", each))
    return 0


if __name__ == "__main__":
    sys.exit(main())
