"""What a model says about a film."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cft.film.gate import PASS, Gate
from cft.heatmap import beside_normal, beside_peak, spread
from cft.model.category import Category, no_such_finding, thresholds
from cft.model.change import Change, changes
from cft.model.measured import Tested
from cft.model.odds import logit
from cft.model.predictive import PredictiveValues
from cft.model.sentence import first_sentence

if TYPE_CHECKING:
    from cft.model.gradients import GradCamMaps

#: Note on a lateral film, unless lateral films trained the model.
LATERAL = "a lateral film: the model knows frontal ones only, so these numbers mean nothing"
#: The reason why such a film has no answer.
LATERAL_FILM = "a lateral film, and the model knows frontal ones only"


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
    prevalences
        Label -> the share of such patients that has the finding, in [0, 1], where it was stated
        by `among`. Elsewhere predictive values are at the share of the training films.
    """

    scores: dict[str, float]
    probabilities: dict[str, float]
    operating_points: dict[str, float | None]
    view: str | None
    notes: tuple[str, ...]
    shape: tuple[int, int]
    _categories: dict[str, Category] = field(repr=False)
    _region: tuple[float, float, float, float] = field(repr=False)
    _maps: np.ndarray | GradCamMaps | None = field(repr=False)  # (K, h, w) local scores, or those
    point: str | None = None
    gate: Gate = PASS
    prevalences: Mapping[str, float] = field(default_factory=dict)

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

    def among(self, prevalences: Mapping[str, float]) -> Findings:
        """The same findings among patients of whom stated shares have them.

        Parameters
        ----------
        prevalences
            Label -> the share of such patients that has the finding, in [0, 1]; labels that are
            not named keep what they had.

        Raises
        ------
        ValueError
            If the model has no such label, or a share is not in [0, 1].
        """
        for label, share in prevalences.items():
            if label not in self._categories:
                raise ValueError(no_such_finding(label, self._categories))
            if not 0 <= share <= 1:
                raise ValueError(f"a prevalence of {label} must be between 0 and 1, not {share:g}")
        return replace(self, prevalences={**self.prevalences, **prevalences})

    @property
    def distances(self) -> dict[str, float | None]:
        """Label -> how far the probability lies above its operating point, in logits.

        Negative below it; None without an operating point. The same distance is the same evidence,
        however rare the finding is.
        """
        return {
            label: None
            if threshold is None
            else float(logit(np.float64(self.probabilities[label])) - logit(np.float64(threshold)))
            for label, threshold in self.operating_points.items()
        }

    @property
    def order(self) -> list[str]:
        """The labels, most evidence first: by the distance from their operating points.

        Then those without an operating point, and last those that the model is not known to rank
        better than chance, each by probability where there is no distance.
        """
        distances, evidence = self.distances, self.evidence

        def place(label: str) -> tuple[bool, bool, float]:
            distance = distances[label]
            by = self.probabilities[label] if distance is None else distance
            return evidence[label] is not None, distance is None, -by

        return sorted(self.probabilities, key=place)

    @property
    def positives(self) -> list[str]:
        """The labels whose probability reaches the operating point, most evidence first.

        Never one without evidence, see `evidence`.
        """
        return [label for label in self.order if self._positive(label)]

    def _positive(self, label: str) -> bool | None:
        """Whether a label is above its operating point; None where nothing decides."""
        threshold = self.operating_points[label]
        if threshold is None or self.evidence[label] is not None:
            return None
        return self.probabilities[label] >= threshold

    @property
    def ruled(self) -> dict[str, str | None]:
        """Label -> "in", "out" or "unsure", by the band of `cft.model.conformal`, at stated errors.

        None where the model folder has no band, and for findings without evidence.
        """
        return {
            label: None
            if category.band is None or category.evidence is not None
            else category.band.verdict(self.probabilities[label])
            for label, category in self._categories.items()
        }

    @property
    def unsure(self) -> list[str]:
        """The labels that are neither ruled in nor ruled out, most evidence first."""
        ruled = self.ruled
        return [label for label in self.order if ruled[label] == "unsure"]

    @property
    def sentence(self) -> str:
        """What is found, in one sentence: what is above the operating point, what is unsure.

        Of a film that the gate refuses, why it is not answered.
        """
        return self._sentence(self._refused)

    @property
    def sentence_of_numbers(self) -> str:
        """The same, of a film that the gate refuses as well."""
        return self._sentence("")

    def _sentence(self, refused: str) -> str:
        return first_sentence(
            self.positives,
            self.unsure,
            decided=any(self._positive(label) is not None for label in self.probabilities),
            refused=refused,
        )

    @property
    def _refused(self) -> str:
        """Why the numbers mean nothing; empty if they may mean something."""
        if self.gate.verdict == "refuse":
            return self.gate.reasons[0]
        return LATERAL_FILM if LATERAL in self.notes else ""

    def members(self, label: str) -> tuple[float, ...]:
        """The probabilities that an ensemble's members give a finding, in their order.

        Empty for a single network.

        Raises
        ------
        KeyError
            If the model has no such label.
        """
        if label not in self.scores:
            raise KeyError(no_such_finding(label, self.scores))
        return ()

    def changes(self, prior: Findings) -> dict[str, Change]:
        """Label -> the change since a prior film; see `cft.model.change.Change`.

        Raises
        ------
        ValueError
            If the two are not of the same model.
        """
        categories = self._categories
        if prior._categories is not categories and prior._categories != categories:
            raise ValueError("the prior and the current findings are of different models")
        repeatability = {label: category.repeatability for label, category in categories.items()}
        return changes(prior.probabilities, self.probabilities, repeatability, self.evidence)

    def tested(self, label: str) -> Tested | None:
        """What test films say of a finding at its operating point; None if it was not tested.

        Of several test sets the first that was measured at this operating point.

        Raises
        ------
        KeyError
            If the model has no such label.
        """
        return next(iter(self._categories[label].tested(self.point)), None)

    def predictive_values(
        self, label: str, prevalence: float | None = None
    ) -> PredictiveValues | None:
        """How often a result of this finding is right, above and below the operating point.

        Parameters
        ----------
        label
            One of the model's labels.
        prevalence
            The share of such patients that has the finding, in [0, 1]; None: what `among` stated,
            else that of the training films.

        Returns
        -------
        PredictiveValues or None
            None where no sensitivity and specificity were measured on test films.

        Raises
        ------
        KeyError
            If the model has no such label.
        ValueError
            If the prevalence is not in [0, 1], or is not given and the model folder has none.
        """
        if prevalence is None:
            prevalence = self._prevalence(label)
        if prevalence is None:
            raise ValueError(f"the model folder does not say how frequent {label} is: give it")
        return PredictiveValues.of(self.tested(label), prevalence)

    def _prevalence(self, label: str) -> float | None:
        """The share that predictive values are at: as stated, else that of the training films."""
        trained = self._categories[label].prevalence
        return self.prevalences.get(label, trained)

    @property
    def heatmap_kind(self) -> str | None:
        """What `heatmap` draws: "cam" (class activation map), "grad-cam", or None for nothing."""
        if self._maps is None:
            return None
        return "cam" if isinstance(self._maps, np.ndarray) else self._maps.kind

    def heatmap(self, label: str, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Where in the film the score of a finding comes from.

        The class activation map (Zhou et al., CVPR 2016): the logistic regression of the category
        applied to each position of the last feature map instead of to their mean. The mean of the
        map's scores over the positions is the film's score. Where the model folder knows what films
        without findings give in each place, the map shows the difference to that. The scores are
        spread over the film and calibrated like it, so that the same colour means the same in
        every film.

        Networks whose head is not average pooling and one linear layer have no such map. For these
        it is Grad-CAM (`cft.model.gradients`), which says how the score reacts to the last
        features, not what it adds up to: its values are shares of its own maximum, and the maximum
        is drawn as the film's probability. It takes one more pass of the network by PyTorch, at the
        first map of a film.

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
            If the network shows no map of features at all.
        """
        if label not in self.scores:
            raise KeyError(no_such_finding(label, self.scores))
        if self._maps is None or self.heatmap_kind is None:
            raise ValueError("this network has no heat maps: it shows no map of features")
        local = self._maps[list(self.scores).index(label)]
        shape = shape or self.shape
        down, across = shape[0] / self.shape[0], shape[1] / self.shape[1]
        top, left, bottom, right = self._region
        region = (top * down, left * across, bottom * down, right * across)
        if not isinstance(self._maps, np.ndarray):
            local = beside_peak(local, self.probabilities[label])
            return spread(local, region, shape, lambda shares: shares)
        local = beside_normal(local, self._categories[label].normal_map)
        return spread(local, region, shape, self._categories[label].probability)

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain JSON types, most evidence first; see `cft.results.document`."""
        return {
            "sentence": self.sentence,
            "gate": self.gate.to_dict(),
            "findings": [self._row(label) for label in self.order],
            "operating_point": self.point,
            "view": self.view,
            "notes": list(self.notes),
            "height": self.shape[0],
            "width": self.shape[1],
        }

    def _row(self, label: str) -> dict[str, Any]:
        category = self._categories[label]
        tested = self.tested(label)
        known = self._prevalence(label) is not None
        values = self.predictive_values(label) if known else None
        return {
            "label": label,
            "probability": self.probabilities[label],
            "score": self.scores[label],
            "operating_point": self.operating_points[label],
            "distance": self.distances[label],
            "positive": self._positive(label),
            "ruled": self.ruled[label],
            "operating_points": {
                name: x and x.threshold for name, x in category.operating_points.items()
            },
            "evidence": category.evidence,
            "test": tested and tested.to_dict(),
            "predictive_values": values and asdict(values),
            "members": list(self.members(label)) or None,
        }
