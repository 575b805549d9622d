"""What has changed from a prior film or study to the current one, finding by finding.

The change is the difference of the logits of both probabilities, so that exchanging the two only
changes its sign. Two films of a patient in whom nothing has changed differ, too: the model folder
says by how much (`Repeatability`), and only what goes beyond that is called more or less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cft.model.odds import logit

if TYPE_CHECKING:
    from cft.model.fields import Fields

__all__ = ["Change", "Repeatability", "change_sentence", "changes", "read_repeatability"]

_FARTHEST = 100.0  # between two logits: their own range is 34


@dataclass(frozen=True)
class Repeatability:
    """By how much the logits of two films of one patient with the same labels differ.

    Attributes
    ----------
    limit
        The repeatability coefficient: of such pairs, a share of `level` differ by no more.
    low, high
        Its 95 % interval, patients drawn anew; None if that is not stated.
    level
        In (0, 1).
    pairs, patients
        What it rests on; None if that is not stated.
    """

    limit: float
    level: float
    low: float | None = None
    high: float | None = None
    pairs: int | None = None
    patients: int | None = None


@dataclass(frozen=True)
class Change:
    """The change of one finding.

    Attributes
    ----------
    label
        The finding.
    prior, current
        Calibrated probabilities, in [0, 1].
    difference
        Logit of `current` minus logit of `prior`.
    repeatability
        What it is compared with; None where the model folder has no such figures.
    evidence
        "none" where no test shows that the model ranks films better than chance; see `Findings`.
    """

    label: str
    prior: float
    current: float
    difference: float
    repeatability: Repeatability | None = None
    evidence: str | None = None

    @property
    def verdict(self) -> str | None:
        """ "more", "less" or "none": none beyond what two films of the same state differ by.

        None where the model folder does not say what that is, and for findings without evidence.
        """
        if self.repeatability is None or self.evidence is not None:
            return None
        if abs(self.difference) <= self.repeatability.limit:
            return "none"
        return "more" if self.difference > 0 else "less"

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types, with the verdict."""
        return {**asdict(self), "verdict": self.verdict}


def changes(
    prior: Mapping[str, float],
    current: Mapping[str, float],
    repeatability: Mapping[str, Repeatability | None],
    evidence: Mapping[str, str | None],
) -> dict[str, Change]:
    """Label -> the change from prior to current probabilities, in the order of the current ones."""
    return {
        label: Change(
            label,
            prior[label],
            after,
            float(logit(np.float64(after)) - logit(np.float64(prior[label]))),
            repeatability[label],
            evidence[label],
        )
        for label, after in current.items()
    }


def change_sentence(found: Mapping[str, Change]) -> str:
    """What has become more and less, in one sentence without a full stop."""
    if not found:
        return "Not compared: a study has no film that can be scored"
    if all(change.repeatability is None for change in found.values()):
        return "The model folder does not say what two films of the same state differ by"
    said = [
        f"{word} {', '.join(label.replace('_', ' ') for label in labels)}"
        for word in ("more", "less")
        if (labels := [x.label for x in _by_size(found) if x.verdict == word])
    ]
    beyond = "beyond what two films of the same state differ by"
    return f"Evidence of {'; '.join(said)}, {beyond}" if said else f"No change {beyond}"


def _by_size(found: Mapping[str, Change]) -> list[Change]:
    """The largest change first."""
    return sorted(found.values(), key=lambda change: -abs(change.difference))


def read_repeatability(stored: Fields | None) -> Repeatability | None:
    """A category's entry ``repeatability`` in ``config.json``.

    Raises
    ------
    ModelFolderError
        If it is not of the right kind.
    """
    if stored is None:
        return None
    return Repeatability(
        limit=stored.needed("limit", 0, _FARTHEST),
        level=stored.needed("level", 0, 1),
        low=stored.number("low", 0, _FARTHEST),
        high=stored.number("high", 0, _FARTHEST),
        pairs=stored.whole("pairs"),
        patients=stored.whole("patients"),
    )
