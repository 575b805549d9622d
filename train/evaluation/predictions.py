"""What is scored: the truth about studies or films, and the predictions of models."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from train.evaluation.keys import STUDY

__all__ = ["MODEL_COLUMN", "STUDY_RULES", "Predictions", "Truth", "predictions_csv"]

#: Column that names the model in a table that holds several, as `predictions_csv` writes it.
MODEL_COLUMN = "model"

#: How the films of a study become one row; "separate" keeps the films.
STUDY_RULES = ("max", "mean", "separate")


@dataclass(frozen=True)
class Truth:
    """What is known about a set of studies (or of single films).

    Attributes
    ----------
    name
        What the report calls it.
    keys
        (N,) study or film of each row.
    label_names
        The C categories.
    labels
        (N, C) in {1, 0, NaN}.
    groups, unit
        (N,) what the bootstrap draws, and its name: "patient", or that of a row.
    attributes
        Name ("sex", "age", "view", and what else films are grouped by) -> (N,) strings; "" where
        unknown.
    row
        What a row is: "study" or "film".
    notes
        What the reader has to say, as sentences.
    key
        Name of the column that holds the keys.
    films
        How many films the rows are of; None if a row is a study and nothing says.
    """

    name: str
    keys: tuple[str, ...]
    label_names: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    unit: str
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    row: str = "study"
    notes: tuple[str, ...] = ()
    key: str = STUDY
    films: int | None = None

    def without(self, keys: Collection[str], note: str) -> Truth:
        """The same without the rows of some keys, and with a note on it."""
        rows = [i for i, key in enumerate(self.keys) if key not in keys]
        return replace(
            self,
            keys=tuple(self.keys[i] for i in rows),
            labels=self.labels[rows],
            groups=self.groups[rows],
            attributes={name: values[rows] for name, values in self.attributes.items()},
            notes=(*self.notes, note),
            films=None if self.films is None else len(rows),
        )

    def columns(self, labels: Sequence[str]) -> np.ndarray:
        """(N, len(labels)) labels of some categories, in the order asked for."""
        return self.labels[:, [self.label_names.index(label) for label in labels]]


@dataclass(frozen=True)
class Predictions:
    """One model's scores for the rows of a `Truth`, in its order.

    Attributes
    ----------
    name
        What the report calls the model.
    label_names
        The K categories that it predicts.
    scores
        (N, K) float64; any real numbers.
    logits
        (N, K) the same before calibration, for a model that was run here; else None.
    probabilities
        False: the scores are no probabilities, even where they lie in [0, 1].
    operating_points
        Category -> threshold in units of `scores`, or None.
    named_points
        Category -> name -> an operating point as a model folder holds it, or None; empty for a
        model that has no choice of them.
    bands
        Category -> what `cft.model.conformal.conformal_band` gives; empty for a model without.
    source
        Where the operating points come from; "" without any.
    notes
        What the reader has to say, as sentences.
    maps
        (film, finding) -> (H, W) map, for the films with boxes; None of a model without maps.
    other_maps
        Kind -> maps of that kind, where several are compared.
    """

    name: str
    label_names: tuple[str, ...]
    scores: np.ndarray
    logits: np.ndarray | None = None
    probabilities: bool = True
    operating_points: dict[str, float | None] = field(default_factory=dict)
    named_points: Mapping[str, Mapping[str, Mapping[str, Any] | None]] = field(default_factory=dict)
    bands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()
    maps: Mapping[tuple[str, str], np.ndarray] | None = None
    other_maps: Mapping[str, Mapping[tuple[str, str], np.ndarray]] = field(default_factory=dict)

    def column(self, label: str) -> np.ndarray:
        """(N,) scores of one category."""
        return self.scores[:, self.label_names.index(label)]

    def columns(self, labels: Sequence[str]) -> np.ndarray:
        """(N, len(labels)) scores of some categories, in the order asked for."""
        return self.scores[:, [self.label_names.index(label) for label in labels]]


def predictions_csv(truth: Truth, models: Sequence[Predictions]) -> str:
    """The scores of several models as one CSV table, which `read_tables` reads back."""
    names = [name for name in truth.label_names if any(name in m.label_names for m in models)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([MODEL_COLUMN, truth.key, *names])
    for model in models:
        columns = {name: model.column(name) for name in names if name in model.label_names}
        for i, row_key in enumerate(truth.keys):
            cells = (repr(float(columns[name][i])) if name in columns else "" for name in names)
            writer.writerow([model.name, row_key, *cells])
    return text.getvalue()
