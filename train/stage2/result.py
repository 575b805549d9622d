"""What stage 2 found -> figures of both stages, and the tensors of the new model."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cft.model.folder import ModelFolder
from train.datasets.labels import LabelTable
from train.evaluation.of_run import calibrate, evaluate, test_tables, with_evidence, with_training
from train.evaluation.scores import compare_scores
from train.frozen.features import linear_head
from train.frozen.rows import Matrix
from train.metrics.bootstrap import bootstrap_auroc
from train.metrics.decisions import finite_or_none
from train.stage2.task import Head, Task, Tuned

if TYPE_CHECKING:
    from cft.model.network import Network


@dataclass(frozen=True)
class Outcome:
    """What stage 2 found, measured on the test films.

    Attributes
    ----------
    categories
        The calibration of each category, for ``config.json``.
    metrics
        Name of a test set -> what `both_stages` gives.
    results
        What ``report.json`` holds.
    """

    categories: dict[str, Any]
    metrics: dict[str, Any]
    results: dict[str, Any]


def outcome_of(
    task: Task,
    tuned: Tuned,
    valid: LabelTable,
    test: LabelTable,
    z_test: Matrix,
    others: Sequence[LabelTable] = (),
) -> Outcome:
    """Calibrate both stages on validation films and measure them on test films.

    Parameters
    ----------
    task, tuned
        What stage 2 was given and what it found.
    valid, test
        The tables of the validation films and of the test films.
    z_test
        (n, D) features of the test films.
    others
        Tables of further labels of the test films.
    """
    before, first = calibrate(task.trained_scores, valid), task.head.logits(z_test)
    after, second = before, None
    if not _left_as_it_was(task, tuned):
        after, second = calibrate(tuned.valid_scores, valid), tuned.head.logits(z_test)
    metrics = {
        table.dataset: both_stages(
            *(first[rows], None if second is None else second[rows], table, before, after)
        )
        for table, rows in test_tables(test, others)
    }
    results = {
        "method": task.settings.method,
        "fitness": task.settings.fitness,
        **tuned.notes,
        "categories": categories_of(task, tuned),
        "metrics": metrics,
    }
    categories = with_evidence(after, metrics)
    categories = with_training(categories, task.head.label_names, task.train.y)
    return Outcome(categories, metrics, results)


def _left_as_it_was(task: Task, tuned: Tuned) -> bool:
    """Whether every trained regression, and every score to calibrate by, is the same to the bit."""
    before = task.head.weights, task.head.biases, task.trained_scores
    after = tuned.head.weights, tuned.head.biases, tuned.valid_scores
    return all(x.tobytes() == y.tobytes() for x, y in zip(before, after, strict=True))


def search_csv(history: Mapping[str, np.ndarray]) -> str:
    """A line for each category and generation of the genetic algorithm; 0 is the beginning."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["category", "generation", "best", "mean", "validation"])
    for label, rows in history.items():
        table.writerows([label, g, *(f"{x:.6f}" for x in row)] for g, row in enumerate(rows))
    return text.getvalue()


def both_stages(
    first: np.ndarray,
    second: np.ndarray | None,
    table: LabelTable,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> dict[str, Any]:
    """Figures of stage 2 with those of stage 1 beside them.

    Parameters
    ----------
    first, second
        (N, C) logits of the two stages on test films; None: the second's are the first's, and
        nothing is measured twice.
    table
        The N films.
    before, after
        Calibrations of the two stages, from `train.evaluation.of_run.calibrate`.

    Returns
    -------
    dict
        The figures of stage 2 (see `train.evaluation.scores.evaluate_scores`), and in it
        ``stage_1`` (the same of stage 1, shorter) and ``change`` (paired, see
        `train.evaluation.scores.compare_scores`).
    """
    labels, groups = table.y.astype(np.float64), table.patients
    draws, stage_1 = [bootstrap_auroc(first, labels, groups)], evaluate(first, table, before)
    if second is None:
        second, stage_2 = first, stage_1
    else:
        draws, stage_2 = (
            [*draws, bootstrap_auroc(second, labels, groups)],
            evaluate(second, table, after),
        )
    kept = ("auroc", "ci_low", "ci_high", "ap", "brier", "ece")
    return {
        **stage_2,
        "stage_1": {
            "subsets": stage_1["subsets"],
            "categories": {
                label: {key: row[key] for key in kept}
                for label, row in stage_1["categories"].items()
            },
        },
        "change": compare_scores(
            ("stage 2", second, draws[-1]),
            ("stage 1", first, draws[0]),
            *(labels, groups, table.label_names),
        ),
    }


def categories_of(task: Task, tuned: Tuned) -> dict[str, Any]:
    """Category -> known labels, the metric on validation before and after, and what was done."""
    before, after = (task.validation(x) for x in (task.trained_scores, tuned.valid_scores))
    rows = {}
    for c, label in enumerate(task.head.label_names):
        y, y_valid = task.train.y[:, c], task.valid.y[:, c]
        rows[label] = {
            "positives": int((y == 1).sum()),
            "negatives": int((y == 0).sum()),
            "valid_positives": int((y_valid == 1).sum()),
            "valid_negatives": int((y_valid == 0).sum()),
            "valid_before": finite_or_none(before[c]),
            "valid_after": finite_or_none(after[c]),
            "method": tuned.methods[c],
            "skipped": task.skipped.get(label),
        }
    return rows


def with_head(parent: ModelFolder, network: Network, head: Head) -> dict[str, torch.Tensor]:
    """The parent's tensors, of which the network was built, with other logistic regressions."""
    layer = linear_head(network)
    name = next(name for name, module in network.named_modules() if module is layer)
    before = parent.state_dict[f"{name}.weight"]
    weights, biases = torch.from_numpy(head.weights), torch.from_numpy(head.biases)
    return {
        **parent.state_dict,
        f"{name}.weight": weights.to(before).reshape(before.shape),
        f"{name}.bias": biases.to(before),
    }
