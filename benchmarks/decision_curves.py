"""Net benefit of predictions beside that of radiologists, as they are and recalibrated.

    python -m benchmarks.decision_curves --predictions FILE... --truth FILE --radiologists DIR

A decision curve takes a score for a probability. Scores of a competition were made to rank, so each
is shown twice: as it is, and after a Platt scaling that was fitted to the other studies (five folds
by patient). The scaling moves no film of a fold past another; what remains is the ranking. The
radiologists' decisions stand beside it, each and by majority, and the gain of the scaled scores
over the majority (paired bootstrap by patient, 95 %).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from cft.labels import CHEXPERT_5
from cft.model.calibration import apply_platt, fit_platt
from cft.model.odds import logit
from train.evaluation.cross_fit import deal
from train.evaluation.predictions import Predictions
from train.evaluation.read_tables import read_decisions, read_predictions, read_truth
from train.metrics.bootstrap import bootstrap_totals, percentiles
from train.metrics.net_benefit import net_benefit, net_benefit_of_all
from train.tables import aligned_table

THRESHOLDS = (0.1, 0.2, 0.3, 0.5)


def recalibrated(scores: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(N,) probabilities by a Platt scaling of (N,) scores, fitted to the other patients."""
    x = logit(scores) if _probable(scores) else np.asarray(scores, np.float64)
    result, fold = np.empty(len(x)), deal(y, groups)
    for k in np.unique(fold):
        platt = fit_platt(x[fold != k], y[fold != k])
        if platt is None:
            raise ValueError("too few positives or negatives for a scaling")
        result[fold == k] = apply_platt(x[fold == k], *platt)
    return result


def _probable(scores: np.ndarray) -> bool:
    return bool(scores.min() >= 0 and scores.max() <= 1)


def per_film(called: np.ndarray, y: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) what each film adds to the net benefit of calling some of them; its mean is it."""
    return called * np.where(y == 1, 1, -threshold / (1 - threshold))


def rows_of(
    model: Predictions, votes: np.ndarray, y: np.ndarray, groups: np.ndarray, label: str
) -> list[list[str]]:
    """A row for each threshold; `votes` (readers, N) in {1, 0}."""
    scores = model.column(label)
    scaled = recalibrated(scores, y, groups)
    majority = votes.mean(axis=0) > 0.5
    rows = []
    for t in THRESHOLDS:
        gain = per_film(scaled >= t, y, t) - per_film(majority, y, t)
        drawn = bootstrap_totals(np.stack([gain, np.ones(len(y))], axis=1), groups)
        low, high = percentiles(drawn[:, 0] / drawn[:, 1], 0.95)
        readers = [per_film(vote, y, t).mean() for vote in (*votes, majority)]
        at = np.array([t])
        rows.append(
            [
                *(label, model.name, f"{t:g}", f"{net_benefit_of_all(y.mean(), at)[0]:+.3f}"),
                f"{net_benefit(scores, y, at)[0]:+.3f}" if _probable(scores) else "",
                f"{net_benefit(scaled, y, at)[0]:+.3f}",
                *(f"{value:+.3f}" for value in readers),
                f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})",
            ]
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print the table and, of the gains over the majority, how many lie above and below 0."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--predictions", type=Path, nargs="+", required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--radiologists", type=Path, required=True)
    options = parser.parse_args(argv)
    truth = read_truth(options.truth, CHEXPERT_5)
    models = [m for path in options.predictions for m in read_predictions(path, truth)]
    readers = [read_decisions(path, truth) for path in sorted(options.radiologists.glob("*.csv"))]
    names = [reader.name for reader in readers]
    rows = [["task", "model", "t", "all", "as it is", "recalibrated", *names, "majority", "gain"]]
    for label in CHEXPERT_5:
        y = truth.columns([label])[:, 0]
        votes = np.stack([reader.column(label) for reader in readers])
        for model in models:
            rows += rows_of(model, votes, y, truth.groups, label)
    print(aligned_table(rows))
    limits = [row[-1].partition("(")[2].rstrip(")").split(" to ") for row in rows[1:]]
    above = sum(float(low) > 0 for low, _ in limits)
    below = sum(float(high) < 0 for _, high in limits)
    print(f"gain over the majority: above 0 in {above} of {len(limits)}, below 0 in {below}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
