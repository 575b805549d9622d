"""``config.json`` -> what it says, with types: the one place where it is read.

A folder may come from anybody. What is read here is checked once, and nothing else has to ask again
whether an entry is there or of which kind it is. The entries of timm that mean nothing to this
project are let through unread, so that what is written again still has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cft.errors import ModelFolderError
from cft.model.averaging import AVERAGES
from cft.model.category import Category, read_categories
from cft.model.fields import Fields, can_be_shown, check_values, shown
from cft.model.gate_statistics import GateStatistics
from cft.model.measured import TestSet, read_test_sets
from cft.model.preprocess import Preprocess

__all__ = ["Member", "ModelConfig", "Reference", "fault_in_labels"]

#: Version of the ``"cft"`` block that this code writes, and the newest that it reads.
FORMAT = 1
MAX_MEMBERS = 64
_MAX_LABELS = 10_000
_LONGEST_LABEL = 200
_HEAVIEST = 1e9  # of a member of an ensemble

# Entries of the provenance that others look into, by kind.
_TEXTS = ("trained_on", "dataset", "stage", "command", "parent", "date")
_OBJECTS = (
    *("splits", "views", "versions", "arguments", "label_policy"),
    *("methods", "stage_1", "history"),
)


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
            categories=read_categories(ours, labels, test_sets),
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
    if fault := fault_in_labels(names):
        raise ModelFolderError(f"{root.where} {fault}")
    stated = root.whole("num_classes")
    stated = pretrained.whole("num_classes") if stated is None else stated
    if stated is not None and stated != len(names):
        raise ModelFolderError(f"{root.where} names {len(names)} labels for {stated} outputs")
    return tuple(names)


def fault_in_labels(names: Sequence[str]) -> str:
    """Why no model folder may have these labels, such as "names a label twice"; empty if it may."""
    if len(names) > _MAX_LABELS:
        return f"names more than {_MAX_LABELS:,} labels"
    long = next((name for name in names if len(name) > _LONGEST_LABEL), None)
    if long:
        return f"has a label of {len(long):,} characters, more than {_LONGEST_LABEL}"
    strange = next((name for name in names if not can_be_shown(name)), None)
    if strange:
        return f"has a label with characters that cannot be shown: {shown(strange)}"
    return "names a label twice" if len(set(names)) != len(names) else ""


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
