"""What a model says about a film."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cft.film.gate import PASS, Gate
from cft.heatmap import spread
from cft.model.config import Category, point_names
from cft.model.fields import shown

#: Note on a lateral film, unless lateral films trained the model.
LATERAL = "a lateral film: the model knows frontal ones only, so these numbers mean nothing"


@dataclass(frozen=True, eq=False)
class Findings:
    """What a model says about one film.

    Attributes
    ----------
    scores
        Label -> logit, in the model's label order.
    probabilities
        Label -> calibrated probability in [0, 1], in the model's label order.
    operating_points
        Label -> threshold on the probability, or None where validation could not give one.
    point
        Name of these operating points, such as "specific"; None if the model has only one of each.
    view, notes
        What the reader knows about the film, see `cft.Radiograph`.
    shape
        (H, W) of the film in pixels.
    gate
        Whether the film may be answered, and why not: a `cft.film.gate.Gate`. The numbers are here
        even where it is refused.
    """

    scores: dict[str, float]
    probabilities: dict[str, float]
    operating_points: dict[str, float | None]
    view: str | None
    notes: tuple[str, ...]
    shape: tuple[int, int]
    _categories: dict[str, Category] = field(repr=False)
    _region: tuple[float, float, float, float] = field(repr=False)
    _maps: np.ndarray | None = field(repr=False)  # (K, h, w) local scores
    point: str | None = None
    gate: Gate = PASS

    @property
    def evidence(self) -> dict[str, str | None]:
        """Label -> "none" where no test shows that the model ranks films better than chance.

        None: a test does, or the model folder says nothing.
        """
        return {label: category.evidence for label, category in self._categories.items()}

    def at(self, point: str | None) -> Findings:
        """The same findings at other operating points of the model.

        Parameters
        ----------
        point
            A name, such as "specific", "balanced" or "sensitive"; None for the model's own choice.

        Raises
        ------
        ValueError
            If the model has none of that name.
        """
        return replace(self, **thresholds(self._categories, point))

    @property
    def positives(self) -> list[str]:
        """The labels whose probability reaches the operating point, most probable first."""
        found = [
            label
            for label, threshold in self.operating_points.items()
            if threshold is not None and self.probabilities[label] >= threshold
        ]
        return sorted(found, key=lambda label: -self.probabilities[label])

    def heatmap(self, label: str, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Where in the film the score of a finding comes from.

        The class activation map (Zhou et al., CVPR 2016): the logistic regression of the category
        applied to each position of the last feature map instead of to their mean. The mean of the
        map's scores over the positions is the film's score. The scores are spread over the film
        and calibrated like it, so that the same colour means the same in every film.

        Parameters
        ----------
        label
            One of the model's labels.
        shape
            (H, W) of the map; None for the film's own size.

        Returns
        -------
        numpy.ndarray
            (H, W) float32 in [0, 1]; 0 outside the part that the network saw.

        Raises
        ------
        KeyError
            If the model has no such label.
        ValueError
            If the network's head is not global average pooling and one linear layer.
        """
        if label not in self.scores:
            raise KeyError(f"no finding {label!r}; the model has {', '.join(self.scores)}")
        if self._maps is None:
            raise ValueError("this network has no class activation maps: its head is not linear")
        local = self._maps[list(self.scores).index(label)]
        shape = shape or self.shape
        down, across = shape[0] / self.shape[0], shape[1] / self.shape[1]
        top, left, bottom, right = self._region
        region = (top * down, left * across, bottom * down, right * across)
        return spread(local, region, shape, self._categories[label].probability)

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain JSON types, most probable first."""
        order = sorted(self.probabilities, key=lambda label: -self.probabilities[label])
        positives = set(self.positives)
        return {
            "findings": [
                {
                    "label": label,
                    "probability": self.probabilities[label],
                    "score": self.scores[label],
                    "operating_point": self.operating_points[label],
                    "positive": None
                    if self.operating_points[label] is None
                    else label in positives,
                    "operating_points": {
                        name: x and x.threshold
                        for name, x in self._categories[label].operating_points.items()
                    },
                    "evidence": self.evidence[label],
                }
                for label in order
            ],
            "gate": self.gate.to_dict(),
            "operating_point": self.point,
            "view": self.view,
            "notes": list(self.notes),
            "height": self.shape[0],
            "width": self.shape[1],
        }


def origin(reference: str | None, commit: str | None) -> str:
    """`` (org/name@revision, commit 0123456789ab)`` for a model of the Hub, else nothing."""
    return f" ({reference}, commit {commit[:12]})" if commit else ""


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
