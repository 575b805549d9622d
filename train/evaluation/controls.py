"""What a data set's habits give for free: the findings guessed without the film.

Sick patients are filmed lying down, men and the old have other findings than women and the young. A
model that scores little more than these facts alone may have learnt no more than them. And a model
that was trained on shuffled labels should score what chance gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cft import load
from cft.errors import ModelFolderError
from cft.model.folder import CONFIG, read_config
from train.datasets.labels import LabelTable
from train.errors import EvaluationError
from train.evaluation.inference import combined, predictions_of, rows_of, run
from train.evaluation.predictions import Predictions

__all__ = [
    "METADATA",
    "metadata_chances",
    "metadata_control",
    "shuffled_control",
    "shuffled_runs",
]

#: The attributes of a film that are looked at, as the report calls such a model.
METADATA = "view, sex and age alone"


def metadata_control(trained: LabelTable, table: LabelTable, rule: str) -> Predictions:
    """A "model" that knows view, sex and age of each film and has not seen any.

    Parameters
    ----------
    trained
        Films whose labels it learns from.
    table
        Films to be scored, with the same categories; see
        `train.evaluation.inference.predictions_of`, also for `rule`.

    Raises
    ------
    EvaluationError
        If there are no training films, or nothing is known of them.
    """
    chances = metadata_chances(trained, table)
    _, _, member = rows_of(table, rule)
    films = table.names.tolist()
    scores = combined(dict(zip(films, chances, strict=True)), films, member, rule)
    learnt = [c for c, label in enumerate(table.label_names) if label in trained.label_names]
    return Predictions(
        METADATA,
        tuple(table.label_names[c] for c in learnt),
        scores[:, learnt],
        notes=(f"a control: logistic regressions on {len(trained):,} training films' facts",),
    )


def shuffled_runs(named: Sequence[str], beside: Sequence[str]) -> list[str]:
    """Model folders of runs with ``--shuffle-labels``.

    Parameters
    ----------
    named
        Those that the user named.
    beside
        Models in whose neighbouring folders more are looked for, of the same data set and
        architecture.

    Raises
    ------
    EvaluationError
        If a named folder is of no such run.
    """
    found = list(named)
    for reference in named:
        if not _is_shuffled(_config(Path(reference))):
            raise EvaluationError(f"{reference} is no run with --shuffle-labels, by its {CONFIG}")
    have = {Path(reference).resolve() for reference in (*named, *beside)}
    for reference in beside:
        own, place = _config(Path(reference)), Path(reference).resolve()
        neighbours = sorted(place.parent.glob(f"*/{CONFIG}")) if own else []
        for folder in (path.parent for path in neighbours):
            config = _config(folder)
            if folder not in have and _is_shuffled(config) and _same_kind(config, own):
                have.add(folder)
                found.append(str(folder))
    return found


def shuffled_control(
    reference: str, tables: Sequence[LabelTable], batch_size: int, rule: str
) -> list[Predictions]:
    """A model that learnt from labels of other films, for each of some tables of films."""
    model, name = load(reference), Path(reference).resolve().name
    films = run(model, tables, batch_size)
    return [
        replace(
            predictions_of(f"shuffled labels ({name})", model, films, table, rule),
            operating_points={},
            named_points={},
            bands={},
            source="",
            maps=None,
            notes=("a control: the training films had each other's labels",),
        )
        for table in tables
    ]


def _config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a model folder; empty if there is none to read."""
    try:
        return read_config(folder)
    except (ModelFolderError, OSError):
        return {}


def _is_shuffled(config: Mapping[str, Any]) -> bool:
    arguments = _provenance(config).get("arguments")
    return isinstance(arguments, Mapping) and arguments.get("shuffle_labels") is True


def _same_kind(config: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    datasets = {_provenance(x).get("dataset") for x in (config, own)}
    return len(datasets) == 1 and config.get("architecture") == own.get("architecture")


def _provenance(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("cft", {}).get("provenance", {})


def metadata_chances(trained: LabelTable, table: LabelTable) -> np.ndarray:
    """(N, C) probabilities of a table's films by logistic regression on view, sex and age.

    A category without known labels of both kinds gets its share; one that `trained` does not have,
    NaN.
    """
    from sklearn.linear_model import LogisticRegression

    if not len(trained):
        raise EvaluationError("a control learns from training films, and there are none")
    facts = _facts(trained, trained)
    if not facts.shape[1]:
        raise EvaluationError(f"{trained.dataset!r} says neither view nor sex nor age of its films")
    asked = _facts(table, trained)
    chances = np.full((len(table), len(table.label_names)), np.nan)
    for c, label in enumerate(table.label_names):
        if label not in trained.label_names:
            continue
        y = trained.y[:, trained.label_names.index(label)]
        known = ~np.isnan(y)
        if len(np.unique(y[known])) < 2:
            chances[:, c] = y[known].mean() if known.any() else 0.5
            continue
        fitted = LogisticRegression(max_iter=1000).fit(facts[known], y[known])
        chances[:, c] = fitted.predict_proba(asked)[:, 1]
    return chances


def _facts(table: LabelTable, trained: LabelTable) -> np.ndarray:
    """(N, D): view, sex, age and its square, as far as the training films say them."""
    columns = []
    for name in ("view", "sex"):
        words = np.asarray(trained.attributes.get(name, []))
        for word in sorted(set(words.tolist()) - {""}):
            columns.append(np.asarray(table.attributes[name]) == word)
    ages = np.asarray(trained.attributes.get("age", []), np.float64)
    if np.isfinite(ages).any():
        middle, spread = np.nanmean(ages), np.nanstd(ages) or 1.0
        age = (np.asarray(table.attributes["age"], np.float64) - middle) / spread
        age = np.nan_to_num(age)  # not known: as the mean
        columns += [age, age**2]
    return np.stack(columns, 1).astype(np.float64) if columns else np.zeros((len(table), 0))
