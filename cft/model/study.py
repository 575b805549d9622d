"""Findings of several films of one study -> those of the study.

The rule is CheXpert's (Irvin et al., AAAI 2019, section 4): of each finding the maximum over the
films. Only frontal films count, unless lateral ones trained the model; a film that the gate refuses
does not count either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import and_
from typing import Any

import numpy as np

from cft.errors import RadiographError
from cft.model.category import no_such_finding
from cft.model.change import Change
from cft.model.findings import LATERAL, LATERAL_FILM, Findings

__all__ = ["Study", "StudyFindings"]

_NOTHING_SCORED = "Not answered: no film of the study can be scored"


@dataclass(frozen=True, eq=False)
class StudyFindings(Findings):
    """What a model says about a study: as `Findings`, each number from the film that shows most.

    ``view`` is None, ``notes`` are empty and ``shape`` is that of the first film that counts.

    Attributes
    ----------
    film_of
        Label -> place of the film with the largest probability among the study's films.
    """

    film_of: dict[str, int] = field(default_factory=dict)
    _films: dict[int, Findings] = field(repr=False, default_factory=dict)

    def heatmap(self, label: str, shape: tuple[int, int] | None = None) -> np.ndarray:
        """The heat map of the film that shows most of a finding; see `Findings.heatmap`."""
        if label not in self.scores:
            raise KeyError(no_such_finding(label, self.scores))
        return self._films[self.film_of[label]].heatmap(label, shape)

    def members(self, label: str) -> tuple[float, ...]:
        """The ensemble's members on the film that shows most; see `Findings.members`."""
        return self._films[self.film_of[label]].members(label)


@dataclass(frozen=True, eq=False)
class Study:
    """Several films of one study of a patient.

    Attributes
    ----------
    films
        (name, findings or error) of each film.
    findings
        What the model says of the study; None where no film counts.
    left_out
        Place of a film that does not count -> why, in a sentence.
    """

    films: tuple[tuple[str, Findings | RadiographError], ...]
    findings: StudyFindings | None
    left_out: dict[int, str]

    @classmethod
    def of(
        cls, films: Sequence[tuple[str, Findings | RadiographError]], gate: str = "refuse"
    ) -> Study:
        """The study of some films.

        Parameters
        ----------
        films
            (name, findings or error) of each, all of one model.
        gate
            One of `cft.results.GATES`: "warn" and "off" count films that the gate refuses, too.
        """
        counted: dict[int, Findings] = {}
        left_out: dict[int, str] = {}
        for place, (_, result) in enumerate(films):
            if reason := _why_not(result, gate):
                left_out[place] = reason
            else:
                assert isinstance(result, Findings)
                counted[place] = result
        return cls(tuple(films), _together(counted) if counted else None, left_out)

    def at(self, point: str | None) -> Study:
        """The same study at other operating points of the model; see `Findings.at`."""
        films = tuple(
            (name, r if isinstance(r, RadiographError) else r.at(point)) for name, r in self.films
        )
        found = self.findings and self.findings.at(point)
        assert found is None or isinstance(found, StudyFindings)
        return replace(self, films=films, findings=found)

    @property
    def sentence(self) -> str:
        """What is found in the study, in one sentence."""
        return _NOTHING_SCORED if self.findings is None else self.findings.sentence_of_numbers

    def changes(self, prior: Study) -> dict[str, Change]:
        """Label -> the change since a prior study; empty where either has no film that counts.

        Raises
        ------
        ValueError
            If the two are not of the same model.
        """
        if self.findings is None or prior.findings is None:
            return {}
        return self.findings.changes(prior.findings)

    def to_dict(self) -> dict[str, Any]:
        """The study as plain JSON types, without its films; see `cft.results.studies`."""
        names = [name for name, _ in self.films]
        rows: list[dict[str, Any]] = []
        if self.findings:
            film_of = self.findings.film_of
            rows = [
                {**row, "file": names[film_of[row["label"]]]}
                for row in self.findings.to_dict()["findings"]
            ]
        return {
            "sentence": self.sentence,
            "operating_point": self.findings.point if self.findings else None,
            "scored": [name for i, name in enumerate(names) if i not in self.left_out],
            "not_scored": [{"file": names[i], "reason": why} for i, why in self.left_out.items()],
            "findings": rows,
        }


def _why_not(result: Findings | RadiographError, gate: str) -> str:
    """Why a film does not count; empty if it does."""
    if isinstance(result, RadiographError):
        return f"It could not be read: {result}."
    if gate == "refuse" and result.gate.verdict == "refuse":
        return " ".join(result.gate.reasons)
    if LATERAL in result.notes:
        return f"It is {LATERAL_FILM}."
    return ""


def _together(films: dict[int, Findings]) -> StudyFindings:
    """The maximum over the films of each finding."""
    first = next(iter(films.values()))
    film_of = {
        label: max(films, key=lambda place: films[place].probabilities[label])
        for label in first.probabilities
    }
    return StudyFindings(
        scores={label: films[place].scores[label] for label, place in film_of.items()},
        probabilities={label: films[p].probabilities[label] for label, p in film_of.items()},
        operating_points=first.operating_points,
        view=None,
        notes=(),
        shape=first.shape,
        _categories=first._categories,
        _region=first._region,
        _maps=None,
        point=first.point,
        prevalences=first.prevalences,
        gate=reduce(and_, (film.gate for film in films.values())),
        film_of=film_of,
        _films=films,
    )
