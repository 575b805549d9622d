"""``config.json`` -> what it says, with types: the one place where it is read.

A folder may come from anybody. What is read here is checked once, and nothing else has to ask again
whether an entry is there or of which kind it is. The entries of timm that mean nothing to this
project are let through unread, so that what is written again still has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from cft.errors import ModelFolderError
from cft.model.averaging import AVERAGES
from cft.model.calibration import apply_platt
from cft.model.change import Repeatability, read_repeatability
from cft.model.conformal import Band
from cft.model.fields import Fields, check_values, shown
from cft.model.gate_statistics import GateStatistics
from cft.model.measured import Tested, TestSet, read_test_sets, tested_at
from cft.model.preprocess import Preprocess

__all__ = [
    "Category",
    "Member",
    "ModelConfig",
    "OperatingPoint",
    "Reference",
    "point_names",
]

#: Version of the ``"cft"`` block that this code writes, and the newest that it reads.
FORMAT = 1
MAX_MEMBERS = 64
_MAX_LABELS = 10_000
_LONGEST_LABEL = 200
_HEAVIEST = 1e9  # of a member of an ensemble
# Largest scale and bias of a calibration: far beyond any that was fitted, far below an overflow.
_STEEPEST = 1e6
_WIDEST_MAP = 128  # positions of a feature map in a row: a film of 2,048 pixels at stride 16

# Entries of the provenance that others look into, by kind.
_TEXTS = ("trained_on", "dataset", "stage", "command", "parent", "date")
_OBJECTS = ("splits", "views", "versions", "arguments", "label_policy", "methods", "stage_1")


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


@dataclass(frozen=True)
class Member:
    """A member of an ensemble: its folder inside the ensemble's, its weight, its weights' hash."""

    folder: str
    weight: float
    weights_sha256: str | None


@dataclass(frozen=True)
class Reference:
    """The example film's figures when the model was made: label -> score, and probability."""

    film_sha256: str
    scores: dict[str, float]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class ModelConfig:
    """What a ``config.json`` says.

    Attributes
    ----------
    architecture
        Name of a timm network, or "ensemble".
    label_names
        The categories, in the order of the outputs.
    label_descriptions
        Label -> text.
    arguments
        Of timm's constructor: ``model_args`` and, if it is stated, ``global_pool``. What the values
        may be is checked where they are used, against the tensors.
    pretrained_cfg
        timm's entries on the input, for `preprocess`.
    categories
        Label -> `Category`, for every label.
    weights_sha256
        Hash of the weights that it was written for, if it is stated.
    trained_on
        One sentence on the training data, or None.
    views
        View of the films that trained the model -> how many, as far as it is stated.
    test_sets
        What was measured.
    reference
        What `cft.model.selftest` compares with, or None.
    members, average
        Of an ensemble; for a single network none, and None.
    gate
        What the gate has learnt of films; None if the folder does not say.
    """

    architecture: str
    label_names: tuple[str, ...]
    label_descriptions: dict[str, str]
    arguments: dict[str, Any]
    pretrained_cfg: Mapping[str, Any]
    categories: dict[str, Category]
    weights_sha256: str | None
    trained_on: str | None
    views: Mapping[str, Any]
    test_sets: tuple[TestSet, ...]
    reference: Reference | None = None
    members: tuple[Member, ...] = ()
    average: str | None = None
    gate: GateStatistics | None = None
    _where: str = ""

    @property
    def preprocess(self) -> Preprocess:
        """How a film becomes the input.

        Raises
        ------
        ModelFolderError
            If this version cannot make that input.
        """
        try:
            return Preprocess.from_config(dict(self.pretrained_cfg))
        except ValueError as error:
            raise ModelFolderError(f"{self._where}: {error}") from error

    @classmethod
    def read(cls, config: Any, where: str, *, named: bool = True) -> ModelConfig:
        """Read the parsed JSON of ``config.json``.

        Parameters
        ----------
        config
            The JSON.
        where
            What messages call the file.
        named
            Whether the outputs must have names; without, `label_names` is empty where they have
            none that fit.

        Raises
        ------
        ModelFolderError
            If something that is used is not of the right kind; it says what, in one sentence.
        """
        root = Fields(config, "", where)
        check_values(config, where)
        architecture = root.text("architecture")
        if architecture is None:
            raise ModelFolderError(f'{where} names no "architecture"')
        pretrained = root.optional_object("pretrained_cfg")
        if pretrained is None:
            raise ModelFolderError(f'{where} has no "pretrained_cfg", so the input size is unknown')
        ours = root.object("cft") or Fields({}, "cft", where)
        _check_format(ours)
        try:
            labels = _label_names(root, pretrained)
        except ModelFolderError:
            if named:
                raise
            labels = ()
        provenance = _provenance(ours)
        members = tuple(_members(ours))
        views = provenance.optional_object("views")
        test_sets = tuple(read_test_sets(ours.optional_object("metrics")))
        return cls(
            architecture=architecture,
            label_names=labels,
            label_descriptions=_descriptions(root),
            arguments=_arguments(root),
            pretrained_cfg=pretrained.entries,
            categories=_categories(ours, labels, test_sets),
            weights_sha256=ours.text("weights_sha256"),
            trained_on=provenance.text("trained_on"),
            views=views.entries if views else {},
            test_sets=test_sets,
            reference=_reference(ours.optional_object("reference"), labels),
            members=members,
            average=_average(ours) if members else None,
            gate=GateStatistics.read(ours.optional_object("gate")),
            _where=where,
        )


# ------------------------------------------------------------------------------- timm's keys


def _label_names(root: Fields, pretrained: Fields) -> tuple[str, ...]:
    """Names of the categories, in the order of the outputs, in either of timm's places."""
    names = root.entries.get("label_names", pretrained.entries.get("label_names"))
    if isinstance(names, dict):  # timm also allows {"0": name, ...}
        names = [names.get(str(i)) for i in range(min(len(names), _MAX_LABELS))]
    if not isinstance(names, list) or not names or not all(isinstance(x, str) for x in names):
        raise ModelFolderError(f'{root.where} has no "label_names", so its outputs have no meaning')
    if len(names) > _MAX_LABELS:
        raise ModelFolderError(f"{root.where} names more than {_MAX_LABELS:,} labels")
    long = next((name for name in names if len(name) > _LONGEST_LABEL), None)
    if long:
        raise ModelFolderError(f"{root.where} has a label of {len(long):,} characters")
    if len(set(names)) != len(names):
        raise ModelFolderError(f"{root.where} names a label twice")
    stated = root.whole("num_classes")
    stated = pretrained.whole("num_classes") if stated is None else stated
    if stated is not None and stated != len(names):
        raise ModelFolderError(f"{root.where} names {len(names)} labels for {stated} outputs")
    return tuple(names)


def _descriptions(root: Fields) -> dict[str, str]:
    stored = root.optional_object("label_descriptions")
    if stored is None:
        return {}
    return {label: stored.text(label) or "" for label in stored.entries}


def _arguments(root: Fields) -> dict[str, Any]:
    stored = root.object("model_args")
    arguments = dict(stored.entries) if stored else {}
    if "global_pool" in root.entries:
        arguments.setdefault("global_pool", root.text("global_pool"))
    return arguments


# ----------------------------------------------------------------------------- the cft block


def _check_format(ours: Fields) -> None:
    version = ours.whole("format")
    if version is not None and version > FORMAT:
        raise ModelFolderError(
            f"{ours.where} has format {version}, newer than {FORMAT}, the newest that this "
            "version reads; upgrade this package"
        )


def _provenance(ours: Fields) -> Fields:
    provenance = ours.object("provenance") or Fields({}, "cft.provenance", ours.where)
    for key in _TEXTS:
        provenance.text(key)
    for key in _OBJECTS:
        provenance.optional_object(key)
    return provenance


def _categories(
    ours: Fields, labels: tuple[str, ...], test_sets: tuple[TestSet, ...]
) -> dict[str, Category]:
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


def _reference(stored: Fields | None, labels: tuple[str, ...]) -> Reference | None:
    if stored is None:
        return None
    figures = []
    for key, low, high in (("scores", -math.inf, math.inf), ("probabilities", 0, 1)):
        of = stored.object(key) or Fields({}, stored.path(key), stored.where)
        figures.append({label: of.needed(label, low, high) for label in labels})
    return Reference(stored.text("film_sha256") or "", *figures)


# --------------------------------------------------------------------------------- ensembles


def _members(ours: Fields) -> Iterator[Member]:
    """The entries of ``cft.members``."""
    where = ours.where
    if "members" not in ours.entries:
        return
    members = ours.entries["members"]
    if not isinstance(members, list) or not 0 < len(members) <= MAX_MEMBERS:
        raise ModelFolderError(f'"cft.members" in {where} must list 1 to {MAX_MEMBERS} members')
    for entry in members:
        member = Fields(entry, "cft.members", where)
        folder = member.text("folder")
        if not folder:
            raise ModelFolderError(f'a member of {where} names no "folder"')
        path = PurePosixPath(folder)
        if path.is_absolute() or ".." in path.parts or "\\" in folder or "\0" in folder:
            raise ModelFolderError(
                f"{where} names the member {shown(folder)}, which is not inside its folder"
            )
        weight = member.needed("weight", 0, _HEAVIEST)
        if weight <= 0:
            raise member.refuse("weight", "above 0", weight)
        yield Member(folder, weight, member.text("weights_sha256"))


def _average(ours: Fields) -> str:
    average = ours.entries.get("average")
    if average not in AVERAGES:
        raise ModelFolderError(
            f"{ours.where} averages {shown(average)}; an ensemble averages {' or '.join(AVERAGES)}"
        )
    return average
