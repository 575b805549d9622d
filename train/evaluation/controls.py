"""What a data set's habits give for free: the findings guessed without the film.

Sick patients are filmed lying down, men and the old have other findings than women and the young. A
model that scores little more than these facts alone may have learnt no more than them.
"""

from __future__ import annotations

import numpy as np

from train.datasets.labels import LabelTable
from train.errors import EvaluationError
from train.evaluation.inference import combined, rows_of
from train.evaluation.predictions import Predictions

__all__ = ["METADATA", "metadata_chances", "metadata_control"]

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
