"""What a model folder says was measured on test films."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cft.model.fields import Fields

__all__ = [
    "AtPoint",
    "Figures",
    "Pointing",
    "Share",
    "TestSet",
    "Tested",
    "read_test_sets",
    "tested_at",
]

# Metrics are stored with six decimals, thresholds with all.
_SAME_THRESHOLD = 1e-6


@dataclass(frozen=True)
class Share:
    """A measured share in [0, 1] with its interval; None where it is undefined or not stated."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class AtPoint:
    """Sensitivity and specificity of one category at the threshold of an operating point."""

    threshold: float
    sensitivity: Share
    specificity: Share


@dataclass(frozen=True)
class Pointing:
    """Whether heat maps point where a radiologist does (the pointing game).

    Attributes
    ----------
    films
        How many films with a box were looked at.
    hit
        The share of which the map's largest value lies in the box.
    fixed
        The share of which a point does that is the same on every film.
    """

    films: int
    hit: Share
    fixed: Share


@dataclass(frozen=True)
class Figures:
    """A line of a table of measured figures: AUROC with its interval, and the positives.

    Attributes
    ----------
    auroc, low, high
        In [0, 1].
    positives, negatives
        How many rows of the test set were known to be so.
    points
        Name of an operating point -> what was measured at it; "" for the one in use.
    band
        The same for the limits of `cft.model.conformal.Band`: "rule_out" and "rule_in".
    pointing
        Of the films on which a radiologist has framed the category; None if that is not known.
    """

    auroc: float | None
    low: float | None
    high: float | None
    positives: int | None
    negatives: int | None = None
    points: Mapping[str, AtPoint] = field(default_factory=dict)
    band: Mapping[str, AtPoint] = field(default_factory=dict)
    pointing: Pointing | None = None


@dataclass(frozen=True)
class TestSet:
    """What was measured on one test set: label -> figures, their mean, and on how many rows.

    `pointing`: of all categories with boxes together; None if that is not known.
    """

    name: str
    categories: dict[str, Figures]
    mean: Figures | None
    rows: int | None
    row: str
    level: float | None
    pointing: Pointing | None = None


@dataclass(frozen=True)
class Tested:
    """What one test set says of one category at one operating point.

    Attributes
    ----------
    test_set
        The test set.
    figures
        What was measured of the category on it.
    sensitivity, specificity
        At the operating point; None where they were not measured at that threshold.
    """

    test_set: TestSet
    figures: Figures
    sensitivity: Share | None = None
    specificity: Share | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        figures, nothing = self.figures, Share(None)
        rates = {
            "sensitivity": self.sensitivity or nothing,
            "specificity": self.specificity or nothing,
            "auroc": Share(figures.auroc, figures.low, figures.high),
        }
        return {
            "test_set": self.test_set.name,
            "positives": figures.positives,
            "negatives": figures.negatives,
            "level": self.test_set.level,
            **{
                f"{name}{end}": getattr(rate, part)
                for name, rate in rates.items()
                for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
            },
        }


def tested_at(
    test_sets: Iterable[TestSet], label: str, threshold: float | None, name: str | None
) -> list[Tested]:
    """What each test set with the category says of it, those first that say it of the point.

    Figures at another threshold than this one are not those of the point, whatever its name.
    """
    found = []
    for test_set in test_sets:
        figures = test_set.categories.get(label)
        if figures is None:
            continue
        at = _at(figures.points, threshold, name)
        rates = (at.sensitivity, at.specificity) if at else (None, None)
        found.append(Tested(test_set, figures, *rates))
    return sorted(found, key=lambda tested: tested.sensitivity is None)


def _at(points: Mapping[str, AtPoint], threshold: float | None, name: str | None) -> AtPoint | None:
    if threshold is None:
        return None
    for key in (name or "", ""):
        at = points.get(key)
        if at and math.isclose(at.threshold, threshold, rel_tol=0, abs_tol=_SAME_THRESHOLD):
            return at
    return None


def read_test_sets(metrics: Fields | None, name: str = "") -> Iterator[TestSet]:
    """Every result of an evaluation among a model folder's metrics, however they are nested."""
    if metrics is None:
        return
    if isinstance(metrics.entries.get("categories"), Mapping):
        yield _test_set(metrics, name)
        return
    for key, value in metrics.entries.items():
        if isinstance(value, Mapping):
            inside = Fields(value, metrics.path(key), metrics.where)
            yield from read_test_sets(inside, f"{name}, {key}" if name else str(key))


def _test_set(stored: Fields, name: str) -> TestSet:
    rows = stored.object("categories")
    subsets = stored.optional_object("subsets")
    mean = subsets.optional_object("all") if subsets else None
    points, band = (dict(_by_label(stored, key)) for key in ("points", "band"))
    return TestSet(
        name=name,
        categories={
            label: _figures(
                row,
                {"": _at_point(row), **{x: of.get(label) for x, of in points.items()}},
                {x: of.get(label) for x, of in band.items()},
            )
            for label, row in rows.objects()
            if row
        }
        if rows
        else {},
        mean=_figures(mean, {}, {}) if mean else None,
        rows=stored.whole("films"),
        row=stored.text("row") or "film",
        level=stored.number("level", 0, 1),
        pointing=_pointing(stored),
    )


def _by_label(stored: Fields, key: str) -> Iterator[tuple[str, dict[str, AtPoint | None]]]:
    """Name -> label -> figures, of an entry that holds ``categories`` under each name."""
    named = stored.optional_object(key)
    for name, of in named.objects() if named else ():
        rows = of.optional_object("categories") if of else None
        yield name, {label: _at_point(x) for label, x in rows.objects() if x} if rows else {}


def _at_point(row: Fields) -> AtPoint | None:
    threshold = row.number("threshold")
    if threshold is None:
        return None
    return AtPoint(threshold, _share(row, "sensitivity"), _share(row, "specificity"))


def _share(row: Fields, name: str) -> Share:
    return Share(*(row.number(key, 0, 1) for key in (name, f"{name}_low", f"{name}_high")))


def _figures(
    row: Fields, points: Mapping[str, AtPoint | None], band: Mapping[str, AtPoint | None]
) -> Figures:
    auroc, low, high = (row.number(key, 0, 1) for key in ("auroc", "ci_low", "ci_high"))
    return Figures(
        auroc,
        low,
        high,
        row.whole("positives"),
        row.whole("negatives"),
        {name: at for name, at in points.items() if at},
        {name: at for name, at in band.items() if at},
        _pointing(row),
    )


def _pointing(stored: Fields) -> Pointing | None:
    """Of the entry ``localisation``, which is that of ``report.json`` of ``train.evaluate``."""
    found = stored.optional_object("localisation")
    if found is None:
        return None
    films, hit, fixed = found.whole("n"), _share(found, "hit"), _share(found, "floor_hit")
    return Pointing(films, hit, fixed) if films and None not in (hit.value, fixed.value) else None
