"""A finished run of stage 1 -> model folder: calibration, figures, provenance, card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

import cft
from cft.calibration import apply_platt, fit_platt, operating_point
from cft.labels import DESCRIPTIONS
from cft.model_folder import write_model_folder
from cft.preprocess import Preprocess
from train.labels import LabelTable
from train.report import evaluate_scores, licence_of, model_card

# A network that starts from random weights needs about this many films to be more than a start.
_MANY = 20_000
_FEW = " (few: this is a demonstration model)"

# Decimals of figures in config.json: far below the width of any interval.
_DECIMALS = 6


def export(
    folder: Path,
    network: nn.Module,
    preprocess: Preprocess,
    label_names: Sequence[str],
    categories: Mapping[str, Any],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Path:
    """Write the model folder of a network with one input channel.

    Parameters
    ----------
    folder
        Where.
    network
        The timm network.
    preprocess
        How its input is made.
    label_names
        The categories, in the order of the outputs.
    categories
        From `calibrate`.
    metrics
        Name of a test set -> what `train.report.evaluate_scores` found.
    provenance
        Where the model comes from; see `provenance_of`.
    """
    known = {label: DESCRIPTIONS[label] for label in label_names if label in DESCRIPTIONS}
    own = network.pretrained_cfg
    config = {
        "architecture": own["architecture"],
        "num_classes": len(label_names),
        "num_features": network.num_features,
        "global_pool": _pooling(network),
        "model_args": {"in_chans": preprocess.input_size[0]},
        "label_names": list(label_names),
        "label_descriptions": known,
        "problem_type": "multi_label_classification",
        "pretrained_cfg": {
            **preprocess.to_config(),
            "num_classes": len(label_names),
            "first_conv": own["first_conv"],
            "classifier": own["classifier"],
            "license": licence_of(provenance),
        },
        "cft": {
            "categories": dict(categories),
            "provenance": dict(provenance),
            "metrics": rounded(dict(metrics)),
        },
    }
    state = network.state_dict()
    return write_model_folder(folder, state_dict=state, config=config, card=model_card(config))


def calibrate(scores: np.ndarray, table: LabelTable) -> dict[str, dict[str, Any]]:
    """Platt scaling and operating point of each category, from (N, C) logits on validation films.

    Returns
    -------
    dict
        Label -> ``platt`` (scale, bias), ``operating_point`` (Youden's) and ``best_f1`` (another
        one), each None where there are too few cases; thresholds are in units of the calibrated
        probability.
    """
    categories = {}
    for c, label in enumerate(table.label_names):
        platt = fit_platt(scores[:, c], table.y[:, c])
        chances = apply_platt(scores[:, c].astype(np.float64), *(platt or (1.0, 0.0)))
        categories[label] = {
            "platt": platt and {"scale": platt[0], "bias": platt[1]},
            "operating_point": operating_point(chances, table.y[:, c]),
            "best_f1": operating_point(chances, table.y[:, c], "f1"),
        }
    return categories


def evaluate(
    scores: np.ndarray, table: LabelTable, categories: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """`train.report.evaluate_scores` of (N, C) logits as calibrated probabilities."""
    chances = np.empty(scores.shape, np.float64)
    thresholds = {}
    for c, label in enumerate(table.label_names):
        platt, point = categories[label]["platt"], categories[label]["operating_point"]
        scale, bias = (platt["scale"], platt["bias"]) if platt else (1.0, 0.0)
        chances[:, c] = apply_platt(scores[:, c].astype(np.float64), scale, bias)
        thresholds[label] = point and point["threshold"]
    return evaluate_scores(
        chances, table.y, table.patients, table.label_names, operating_points=thresholds
    )


def test_tables(
    tested: LabelTable, others: Sequence[LabelTable]
) -> Iterator[tuple[LabelTable, list[int]]]:
    """The test films' tables of labels: their own and, where they have some, each other one.

    Yields
    ------
    (table, rows)
        The films of a table that are among the test films, and each film's row among these.
    """
    place = {name: row for row, name in enumerate(tested.names.tolist())}
    for table in (tested, *others):
        table = table.subset(np.array([name in place for name in table.names.tolist()], bool))
        if len(table):
            yield table, [place[name] for name in table.names.tolist()]


def provenance_of(table: LabelTable, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What data and what code make the model; `rows` are those used of each split."""
    counts = {
        split: {"films": len(used), "patients": len(np.unique(table.patients[used]))}
        for split, used in rows.items()
    }
    trained = counts["train"]
    views = table.attributes["view"][rows["train"]] if "view" in table.attributes else []
    return {
        "trained_on": f"{trained['films']:,} films of {trained['patients']:,} patients of the data "
        f"set {table.dataset!r}" + (_FEW if trained["films"] < _MANY else ""),
        "stage": "negative",
        "dataset": table.dataset,
        "splits": counts,
        "views": {view or "unknown": n for view, n in Counter(map(str, views)).items()},
        "notes": list(table.notes),
        "parent": None,
        "versions": {"cft": cft.__version__, "torch": torch.__version__, "timm": timm.__version__},
        "date": date.today().isoformat(),
    }


def _pooling(network: nn.Module) -> str:
    """Name of the network's pooling, as `timm.create_model` takes it."""
    for module in (network, getattr(network, "head", None)):
        pool = getattr(module, "global_pool", None)
        if pool is not None:
            return pool if isinstance(pool, str) else pool.pool_type
    return "avg"


def rounded(value: Any) -> Any:
    """The same JSON with every float rounded for config.json."""
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(x) for x in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value
