"""What a model says about a film, and what it knows about its categories."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cft.errors import ModelFolderError
from cft.heatmap import spread
from cft.model.calibration import apply_platt
from cft.model.folder import CONFIG, ModelFolder

#: Note on a lateral film, unless lateral films trained the model.
LATERAL = "a lateral film: the model knows frontal ones only, so these numbers mean nothing"


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
        {"threshold", "sensitivity", "specificity", "rule"} with the threshold in units of
        probability, chosen on validation data; None if there were too few cases to choose one.
    best_f1
        The same with the threshold of the best F1. Nothing but an evaluation uses it.
    """

    label: str
    platt: tuple[float, float] | None = None
    operating_point: dict[str, Any] | None = None
    best_f1: dict[str, Any] | None = None

    @property
    def threshold(self) -> float | None:
        """The operating point's threshold; None where there is none."""
        return None if self.operating_point is None else self.operating_point["threshold"]

    def probability(self, score: np.ndarray) -> np.ndarray:
        """Score (logit), any shape -> calibrated probability in [0, 1]."""
        scale, bias = self.platt or (1.0, 0.0)
        return apply_platt(score, scale, bias)


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
    view, notes
        What the reader knows about the film, see `cft.Radiograph`.
    shape
        (H, W) of the film in pixels.
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
                }
                for label in order
            ],
            "view": self.view,
            "notes": list(self.notes),
            "height": self.shape[0],
            "width": self.shape[1],
        }


def origin(reference: str | None, commit: str | None) -> str:
    """`` (org/name@revision, commit 0123456789ab)`` for a model of the Hub, else nothing."""
    return f" ({reference}, commit {commit[:12]})" if commit else ""


def categories_of(folder: ModelFolder) -> dict[str, Category]:
    stored = folder.config.get("cft", {}).get("categories", {})
    unknown = set(stored) - set(folder.label_names)
    if unknown:
        raise ModelFolderError(
            f"{folder.path / CONFIG} calibrates {sorted(unknown)[0]!r}, which is not a label"
        )
    try:
        return {label: _category(label, stored.get(label) or {}) for label in folder.label_names}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f'"cft.categories" in {folder.path / CONFIG} is not readable ({error!r})'
        ) from error


def _category(label: str, stored: dict[str, Any]) -> Category:
    platt = stored.get("platt")
    if platt is not None:
        platt = (float(platt["scale"]), float(platt["bias"]))
        if not (platt[0] > 0 and math.isfinite(platt[0]) and math.isfinite(platt[1])):
            raise ValueError(f"impossible Platt scaling of {label}: {platt}")
    points = stored.get("operating_point"), stored.get("best_f1")
    for point in points:
        if point is not None and not 0 <= float(point["threshold"]) <= 1:
            raise ValueError(f"impossible operating point of {label}: {point['threshold']}")
    return Category(label, platt, *points)
