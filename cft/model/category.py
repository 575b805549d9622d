"""What a model folder says of each category: its scale, its thresholds, its figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cft.errors import ModelFolderError
from cft.model.calibration import apply_platt
from cft.model.change import Repeatability, read_repeatability
from cft.model.conformal import Band
from cft.model.fields import Fields, shown
from cft.model.measured import Tested, TestSet, tested_at

__all__ = [
    "Category",
    "OperatingPoint",
    "no_such_finding",
    "point_names",
    "read_categories",
    "thresholds",
]

# Largest scale and bias of a calibration: far beyond any that was fitted, far below an overflow.
_STEEPEST = 1e6
_WIDEST_MAP = 128  # positions of a feature map in a row: a film of 2,048 pixels at stride 16


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold of one category; a film at or above it has the finding.

    Attributes
    ----------
    threshold
        In units of the calibrated probability, in [0, 1].
    sensitivity, specificity
        In [0, 1], on the films of `data`; None if they are not stated.
    name
        What it is called among several, such as "specific"; None if it is the only one.
    rule
        How it was chosen, see `cft.model.calibration.RULES`.
    data
        On which films the two figures were measured; None if that is not stated.
    """

    threshold: float
    sensitivity: float | None = None
    specificity: float | None = None
    name: str | None = None
    rule: str | None = None
    data: str | None = None


@dataclass(frozen=True)
class Category:
    """What the model folder says about one category.

    Attributes
    ----------
    label
        Name of the finding.
    platt
        (scale, bias): probability = sigmoid(scale * score + bias); None if uncalibrated, which
        means (1, 0).
    operating_point
        The one in use, unless another is asked for; None if there were too few cases.
    operating_points
        Name -> the points to choose among; empty in a folder that has only one.
    best_f1
        The one of the best F1. Nothing but an evaluation uses it.
    evidence
        "none": no test shows that films with the finding are ranked above others. None: a test
        does, or there was no test.
    band
        Where the probability rules the finding in or out; None where the folder has no band.
    prevalence
        The share of the training films with the finding, in [0, 1]; None if that is not stated.
    normal_map
        h rows of w numbers: the mean local scores of films without findings, which heat maps are
        compared with; None if that is not stated.
    repeatability
        By how much two films of one patient with the same labels differ; None if that is not
        stated.
    test_sets
        What was measured of the model.
    """

    label: str
    platt: tuple[float, float] | None = None
    operating_point: OperatingPoint | None = None
    operating_points: Mapping[str, OperatingPoint | None] = field(default_factory=dict)
    best_f1: OperatingPoint | None = None
    evidence: str | None = None
    band: Band | None = None
    prevalence: float | None = None
    normal_map: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False)
    repeatability: Repeatability | None = None
    test_sets: tuple[TestSet, ...] = field(default=(), repr=False)

    def tested(self, name: str | None) -> list[Tested]:
        """What each test set says of the category at the operating point of that name."""
        point = self.at(name)
        threshold = None if point is None else point.threshold
        return tested_at(self.test_sets, self.label, threshold, name)

    @property
    def threshold(self) -> float | None:
        """The operating point's threshold; None where there is none."""
        return None if self.operating_point is None else self.operating_point.threshold

    def at(self, name: str | None) -> OperatingPoint | None:
        """The operating point of that name, or None; for no name the one in use."""
        return self.operating_point if name is None else self.operating_points.get(name)

    def probability(self, score: np.ndarray) -> np.ndarray:
        """Score (logit), any shape -> calibrated probability in [0, 1]."""
        scale, bias = self.platt or (1.0, 0.0)
        return apply_platt(score, scale, bias)


def point_names(categories: Mapping[str, Category]) -> list[str]:
    """The names of the operating points to choose among, the one in use first; may be empty."""
    points = [row.operating_point for row in categories.values()]
    default = [point.name for point in points if point is not None and point.name is not None]
    named = [name for row in categories.values() for name in row.operating_points]
    return list(dict.fromkeys([*(x for x in default if x in named), *named]))


def thresholds(categories: Mapping[str, Category], point: str | None) -> dict[str, Any]:
    """``operating_points`` and ``point`` of `Findings`; raises as `Findings.at` does."""
    names = point_names(categories)
    if point is not None and point not in names:
        has = (
            f"it has {', '.join(names)}" if names else "it has one of each finding, without a name"
        )
        raise ValueError(f"the model has no operating points {shown(point)}; {has}")
    points = {label: category.at(point) for label, category in categories.items()}
    in_use = {x.name for x in points.values() if x is not None} & set(names)
    return {
        "operating_points": {label: x and x.threshold for label, x in points.items()},
        "point": point or next((name for name in names if name in in_use), None),
    }


def no_such_finding(label: str, labels: Iterable[str]) -> str:
    """The sentence about a label that a model has not."""
    return f"no finding {shown(label)}; the model has {', '.join(labels)}"


# ---------------------------------------------------------------------------------- reading


def read_categories(
    ours: Fields, labels: tuple[str, ...], test_sets: tuple[TestSet, ...]
) -> dict[str, Category]:
    """Label -> what ``cft.categories`` says of it, for every label of the model.

    Raises
    ------
    ModelFolderError
        If an entry is not of the right kind, or of no label.
    """
    stored = ours.object("categories") or Fields({}, "cft.categories", ours.where)
    unknown = next((label for label in stored.entries if label not in labels), None)
    if unknown is not None:
        raise ModelFolderError(
            f"{ours.where} calibrates {shown(unknown)}, which is not a label of the model"
        )
    rows = dict(stored.objects())
    return {label: _category(label, rows.get(label), test_sets) for label in labels}


def _category(label: str, stored: Fields | None, test_sets: tuple[TestSet, ...]) -> Category:
    if stored is None:
        return Category(label, test_sets=test_sets)
    platt = stored.optional_object("platt")
    scaling = None
    if platt is not None:
        scaling = (
            platt.needed("scale", -_STEEPEST, _STEEPEST),
            platt.needed("bias", -_STEEPEST, _STEEPEST),
        )
        if scaling[0] <= 0:
            raise platt.refuse("scale", "above 0", scaling[0])
    points = stored.optional_object("operating_points")
    return Category(
        label,
        platt=scaling,
        operating_point=_point(stored.optional_object("operating_point")),
        operating_points={name: _point(x) for name, x in points.objects()} if points else {},
        best_f1=_point(stored.optional_object("best_f1")),
        evidence=stored.choice("evidence", ("none",)),
        band=_band(stored.optional_object("band")),
        prevalence=_prevalence(stored.optional_object("training")),
        normal_map=_normal_map(stored),
        repeatability=read_repeatability(stored.optional_object("repeatability")),
        test_sets=test_sets,
    )


def _normal_map(stored: Fields) -> tuple[tuple[float, ...], ...] | None:
    rows = stored.entries.get("normal_map")
    if rows is None:
        return None
    expected = f"rows of as many numbers each, at most {_WIDEST_MAP} x {_WIDEST_MAP}"
    fits = isinstance(rows, list) and 1 <= len(rows) <= _WIDEST_MAP
    if not fits or not all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows):
        raise stored.refuse("normal_map", expected, rows)
    flat = [value for row in rows for value in row]
    if not flat or len(rows[0]) > _WIDEST_MAP or not all(map(_is_score, flat)):
        raise stored.refuse("normal_map", expected, rows)
    return tuple(tuple(map(float, row)) for row in rows)


def _is_score(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= _STEEPEST  # false of NaN, too


def _band(stored: Fields | None) -> Band | None:
    if stored is None:
        return None
    return Band(
        rule_out=stored.number("rule_out", 0, 1),
        rule_in=stored.number("rule_in", 0, 1),
        rule_out_error=stored.needed("rule_out_error", 0, 1),
        rule_in_error=stored.needed("rule_in_error", 0, 1),
        positives=stored.whole("positives"),
        negatives=stored.whole("negatives"),
    )


def _prevalence(stored: Fields | None) -> float | None:
    """The share of positive films among those that trained the model, unknown ones included."""
    if stored is None:
        return None
    counts = [stored.whole(key) or 0 for key in ("positives", "negatives", "unknown")]
    return counts[0] / sum(counts) if sum(counts) else None


def _point(stored: Fields | None) -> OperatingPoint | None:
    if stored is None:
        return None
    return OperatingPoint(
        threshold=stored.needed("threshold", 0, 1),
        sensitivity=stored.number("sensitivity", 0, 1),
        specificity=stored.number("specificity", 0, 1),
        name=stored.text("name"),
        rule=stored.text("rule"),
        data=stored.text("data"),
    )
