"""Do the limits of a model's repeatability hold on test films, and what do they leave to see?

    python -m benchmarks.follow_up --data NIH [--model weights]

A model folder says by how much the logits of two films of one patient with equal labels differ,
from its validation films. Of the test films of its run, each and the patient's next: how often
pairs with equal labels stay within the limit; and where a label changed, how often the evidence
went that way, and how often so far that it is called "more" or "less". Intervals are 95 %,
patients drawn anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import cft
from cft.model.folder import read_config
from cft.model.odds import logit
from train.command import options_of
from train.datasets import DataOptions, table_of
from train.datasets.labels import LabelTable
from train.evaluation.follow_up import follow_up_pairs
from train.evaluation.inference import readable, run
from train.metrics.bootstrap import draw_groups, percentiles


def main(argv: list[str] | None = None) -> int:
    """Print four lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the data of the model's run")
    parser.add_argument("--model", type=Path, default=Path("weights"), help="model folder")
    options = parser.parse_args(argv)
    model = cft.load(options.model, "cpu")
    rows = [model.categories[label].repeatability for label in model.label_names]
    limits = np.array([np.nan if row is None else row.limit for row in rows])
    if np.isnan(limits).any():
        parser.error(f"{options.model} has no such limits: python -m train.complete adds them")
    provenance = read_config(options.model)["cft"]["provenance"]
    ran = provenance.get("stage_1", provenance)["arguments"]
    table = table_of(options_of(DataOptions, ran, {"data": options.data}), ran["seed"])
    table = table.with_labels(model.label_names).subset(table.split == "test")
    table = table.subset(np.unique(follow_up_pairs(table, equal=False)))  # films that have another
    scores = run(model, [table])
    table = readable(table, [scores])
    chances = np.array([scores.probabilities[name] for name in table.names.tolist()])
    for line in lines(logit(chances), table, limits):
        print(line)
    return 0


def lines(logits: np.ndarray, table: LabelTable, limits: np.ndarray) -> list[str]:
    """What is printed of (N, C) logits of a table's films, and of (C,) limits."""
    pairs = follow_up_pairs(table, equal=False)
    groups = table.patients[pairs[:, 0]]
    difference = logits[pairs[:, 1]] - logits[pairs[:, 0]]
    step = table.y[pairs[:, 1]] - table.y[pairs[:, 0]]  # 1: the finding is there now
    equal = (step == 0).all(axis=1)
    inside = (np.abs(difference) <= limits).mean(axis=1)  # of the findings of a pair
    changed, toward = step != 0, difference * np.sign(step)
    shares = {
        f"{int(equal.sum())} pairs with equal labels: findings within their limits": (
            np.where(equal, inside, 0),
            equal,
        ),
        f"{int(changed.sum())} changed labels: the evidence went the same way": (
            (changed & (toward > 0)).sum(axis=1),
            changed.sum(axis=1),
        ),
        "beyond the limit, the same way": (
            (changed & (toward > limits)).sum(axis=1),
            changed.sum(axis=1),
        ),
        "beyond the limit, the other way": (
            (changed & (toward < -limits)).sum(axis=1),
            changed.sum(axis=1),
        ),
    }
    return [
        f"{what} {_share(hits.astype(float), of.astype(float), groups)}"
        for what, (hits, of) in shares.items()
    ]


def _share(hits: np.ndarray, of: np.ndarray, groups: np.ndarray) -> str:
    """A share of totals over (P,) pairs, with its interval by patient."""
    names, member = np.unique(groups, return_inverse=True)
    totals = np.zeros((2, len(names)))
    np.add.at(totals.T, member, np.stack([hits, of], axis=1))
    (counts,) = draw_groups(len(names), 2000, 0, 2000)
    drawn = totals @ counts
    with np.errstate(invalid="ignore"):
        low, high = percentiles(drawn[0] / drawn[1], 0.95)
    return f"{totals[0].sum() / totals[1].sum():.3f} ({float(low):.3f} to {float(high):.3f})"


if __name__ == "__main__":
    raise SystemExit(main())
