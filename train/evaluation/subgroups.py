"""Which films belong to which subgroup: sex, age band, view, and what else a table says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from train.evaluation.predictions import Truth
from train.evaluation.scores import FEW
from train.tables import counted

__all__ = ["AGE_BANDS", "each_subgroup", "few_in_subgroups", "subgroups_of", "years_of"]

#: Age bands of the subgroups, in years: [low, high).
AGE_BANDS = ((0, 40), (40, 60), (60, 80), (80, 200))


def subgroups_of(truth: Truth) -> dict[str, dict[str, np.ndarray]]:
    """Attribute -> value -> rows; only attributes with at least two values."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for attribute, values in truth.attributes.items():
        named = _age_bands(values) if attribute == "age" else np.array([str(v) for v in values])
        groups = {str(value): np.flatnonzero(named == value) for value in np.unique(named) if value}
        if len(groups) > 1:
            found[attribute] = groups
    return found


def each_subgroup(
    subgroups: Mapping[str, Mapping[str, np.ndarray]],
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(attribute, value, rows) of every subgroup."""
    for attribute, values in subgroups.items():
        for value, rows in values.items():
            yield attribute, value, rows


def few_in_subgroups(subgroups: dict[str, dict[str, Any]], unit: str) -> list[str]:
    """Sentences on the subgroups whose intervals say little."""
    return [
        f"{attribute} {value}: {counted(figures['groups'], unit)} are too few for an interval "
        "that can be trusted"
        for attribute, values in subgroups.items()
        for value, figures in values.items()
        if figures["groups"] < FEW
    ]


def _age_bands(ages: np.ndarray) -> np.ndarray:
    """(N,) ages in years (strings or numbers) -> names of bands, "" where unknown."""
    years = years_of(ages)
    names = np.full(len(years), "", dtype="<U8")
    for low, high in AGE_BANDS:
        name = f"{low}-{high - 1}" if high < 200 else f"{low}+"
        names[(years >= low) & (years < high)] = name
    return names


def years_of(ages: Sequence[Any] | np.ndarray) -> np.ndarray:
    """(N,) ages in years, as numbers or as a table spells them; NaN where that is no number."""

    def number(age: Any) -> float:
        try:
            return float(age)
        except ValueError:
            return np.nan

    return np.array([number(age) for age in ages], np.float64)
