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
from train.evaluation.cross_fit import FOLDS, deal
from train.evaluation.inference import combined, predictions_of, rows_of, run
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.subgroups import years_of
from train.tables import PLURALS, counted

__all__ = [
    "METADATA",
    "cross_fitted_control",
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
    if not len(trained):
        raise EvaluationError("a control learns from training films, and there are none")
    if not _facts(trained.attributes, trained.attributes, len(trained)).shape[1]:
        raise EvaluationError(f"{trained.dataset!r} says neither view nor sex nor age of its films")
    chances = np.full((len(table), len(table.label_names)), np.nan)
    shared = [label for label in table.label_names if label in trained.label_names]
    places = [table.label_names.index(label) for label in shared]
    y = trained.y[:, [trained.label_names.index(label) for label in shared]]
    chances[:, places] = _chances(trained.attributes, y, table.attributes, len(table))
    return chances


def cross_fitted_control(truth: Truth, label_names: Sequence[str]) -> Predictions:
    """The same "model", learnt from the films that are scored: each from the other patients'.

    For films of which none trained anything. The patients are dealt at random into
    `train.evaluation.cross_fit.FOLDS` folds.

    Parameters
    ----------
    truth
        What is scored; of its attributes view, sex and age are looked at.
    label_names
        Categories to guess; those that the truth lacks are left out.

    Raises
    ------
    EvaluationError
        If nothing is known of the films, or there are fewer patients than folds.
    """
    patients = len(np.unique(truth.groups))
    if patients < FOLDS:
        raise EvaluationError(
            f"a control learns from other patients in {FOLDS} folds, and {truth.name} has "
            f"{counted(patients, truth.unit)}"
        )
    if not _facts(truth.attributes, truth.attributes, len(truth.keys)).shape[1]:
        raise EvaluationError(
            f"{truth.name!r} says neither view nor sex nor age of its films, so --controls has "
            "nothing to learn from"
        )
    names = tuple(label for label in truth.label_names if label in label_names)
    y, folds = truth.columns(names), deal(np.zeros(len(truth.keys)), truth.groups)
    scores = np.full(y.shape, np.nan)
    for fold in range(FOLDS):
        own = folds == fold
        known, asked = (
            {name: values[rows] for name, values in truth.attributes.items()}
            for rows in (~own, own)
        )
        scores[own] = _chances(known, y[~own], asked, int(own.sum()))
    note = (
        f"a control: logistic regressions on the facts of the other {PLURALS[truth.unit]} that "
        f"are scored, in {FOLDS} folds"
    )
    return Predictions(METADATA, names, scores, notes=(note,))


def _chances(
    trained: Mapping[str, np.ndarray], y: np.ndarray, asked: Mapping[str, np.ndarray], n: int
) -> np.ndarray:
    """(n, C) probabilities of `n` films, learnt from others and their labels `y` (N, C)."""
    from sklearn.linear_model import LogisticRegression

    facts, theirs = _facts(trained, trained, len(y)), _facts(asked, trained, n)
    chances = np.empty((n, y.shape[1]))
    for c, column in enumerate(y.T):
        known = ~np.isnan(column)
        if len(np.unique(column[known])) < 2 or not facts.shape[1]:
            chances[:, c] = column[known].mean() if known.any() else 0.5
            continue
        fitted = LogisticRegression(max_iter=1000).fit(facts[known], column[known])
        chances[:, c] = fitted.predict_proba(theirs)[:, 1]
    return chances


def _facts(
    asked: Mapping[str, np.ndarray], trained: Mapping[str, np.ndarray], n: int
) -> np.ndarray:
    """(n, D): view, sex, age and its square, as far as the training films say them."""
    columns = []
    for name in ("view", "sex"):
        words = np.asarray(trained.get(name, []))
        for word in sorted(set(words.tolist()) - {""}):
            columns.append(np.asarray(asked[name]) == word)
    ages = years_of(trained.get("age", ()))
    if np.isfinite(ages).any():
        middle, spread = np.nanmean(ages), np.nanstd(ages) or 1.0
        age = (years_of(asked["age"]) - middle) / spread
        age = np.nan_to_num(age)  # not known: as the mean
        columns += [age, age**2]
    return np.stack(columns, 1).astype(np.float64) if columns else np.zeros((n, 0))
