"""What stage 2 found -> figures of both stages, and the model folder."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cft.files import atomic_write
from cft.model.classifier import Classifier
from cft.model.folder import ModelFolder, write_model_folder
from train.datasets.labels import LabelTable
from train.evaluation.of_run import calibrate, evaluate, test_tables
from train.evaluation.scores import compare_scores
from train.metrics.bootstrap import bootstrap_auroc
from train.metrics.decisions import calibration_figures, sigmoid
from train.publishing import card
from train.publishing.export import rounded
from train.stage2.tuner import Films, Tuned, Tuner

# --- The result -------------------------------------------------------------------------------


def finish(
    tuner: Tuner,
    tuned: Tuned,
    test: Films,
    others: Sequence[LabelTable],
    parent: ModelFolder,
    provenance: Mapping[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Calibrate, measure both stages on the test films, write model folder and report.

    Returns
    -------
    dict
        What ``report.json`` holds.
    """
    before = calibrate(tuner.trained_scores, tuner.valid.table)
    after = calibrate(tuned.valid_scores, tuner.valid.table)
    scores = test.logits(tuner.weights, tuner.biases), test.logits(tuned.weights, tuned.biases)
    metrics = {
        table.dataset: both_stages(scores[0][rows], scores[1][rows], table, before, after)
        for table, rows in test_tables(test.table, others)
    }
    methods = dict(zip(tuner.label_names, tuned.methods, strict=True))
    config = copy.deepcopy(parent.config)
    config["cft"] = {
        **config.get("cft", {}),
        "categories": after,
        "provenance": {**provenance, "methods": methods},
        "metrics": rounded(metrics),
    }
    write_model_folder(
        out,
        state_dict=with_head(parent, tuned.weights, tuned.biases),
        config=config,
        card=card.model_card(config),
    )
    results = {
        "method": tuner.options.method,
        "fitness": tuner.options.fitness,
        "parent": parent.weights_sha256,
        **tuned.notes,
        "categories": categories_of(tuner, tuned),
        "metrics": metrics,
    }
    atomic_write(out / "report.json", json.dumps(results, indent=2) + "\n")
    if tuner.history:
        atomic_write(out / "search.csv", search_csv(tuner.history))
    return results


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
    second: np.ndarray,
    table: LabelTable,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> dict[str, Any]:
    """Figures of stage 2 with those of stage 1 beside them.

    Parameters
    ----------
    first, second
        (N, C) logits of the two stages on test films.
    table
        The N films.
    before, after
        Calibrations of the two stages, from `train.export.calibrate`.

    Returns
    -------
    dict
        `train.report.evaluate_scores` of stage 2, and in it ``stage_1`` (the same of stage 1,
        shorter), ``change`` (paired, see `train.figures.compare_scores`) and ``uncalibrated``
        (Brier score and calibration error of stage 2 before Platt scaling).
    """
    labels, groups = table.y.astype(np.float64), table.patients
    draws = [bootstrap_auroc(scores, labels, groups) for scores in (second, first)]
    stage_1 = evaluate(first, table, before)
    kept = ("auroc", "ci_low", "ci_high", "ap", "brier", "ece")
    raw = sigmoid(second)
    return {
        **evaluate(second, table, after),
        "stage_1": {
            "subsets": stage_1["subsets"],
            "categories": {
                label: {key: row[key] for key in kept}
                for label, row in stage_1["categories"].items()
            },
        },
        "change": compare_scores(
            ("stage 2", second, draws[0]),
            ("stage 1", first, draws[1]),
            *(labels, groups, table.label_names),
        ),
        "uncalibrated": {
            label: calibration_figures(raw[:, c], labels[:, c])
            for c, label in enumerate(table.label_names)
        },
    }


def categories_of(tuner: Tuner, tuned: Tuned) -> dict[str, Any]:
    """Category -> known labels, the metric on validation before and after, and what was done."""
    scores = (tuner.trained_scores, tuned.valid_scores)
    before, after = (tuner.validation(x) for x in scores)
    rows = {}
    for c, label in enumerate(tuner.label_names):
        y, y_valid = tuner.train.table.y[:, c], tuner.valid.table.y[:, c]
        rows[label] = {
            "positives": int((y == 1).sum()),
            "negatives": int((y == 0).sum()),
            "valid_positives": int((y_valid == 1).sum()),
            "valid_negatives": int((y_valid == 0).sum()),
            "valid_before": _plain(before[c]),
            "valid_after": _plain(after[c]),
            "method": tuned.methods[c],
            "skipped": tuner.skipped.get(label),
        }
    return rows


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def with_head(
    parent: ModelFolder, weights: np.ndarray, biases: np.ndarray
) -> dict[str, torch.Tensor]:
    """The parent's tensors with other logistic regressions."""
    network = Classifier(parent, "cpu").network
    head = network.get_classifier()
    name = next(name for name, module in network.named_modules() if module is head)
    return {
        **parent.state_dict,
        f"{name}.weight": torch.from_numpy(weights).to(head.weight).reshape(head.weight.shape),
        f"{name}.bias": torch.from_numpy(biases).to(head.bias),
    }
