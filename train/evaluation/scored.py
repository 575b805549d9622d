"""Models that have been scored, and their ensemble."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from train.errors import EvaluationError
from train.evaluation.boxes import Boxes
from train.evaluation.combine import combine, greedy_weights
from train.evaluation.cross_fit import cross_fitted_points
from train.evaluation.of_run import band_of
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.protocol import choose_points

#: What the combination of the models is called among the models.
ENSEMBLE = "ensemble"


@dataclasses.dataclass(frozen=True)
class Scored:
    """Some models' scores for one truth."""

    truth: Truth
    models: list[Predictions]


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """All that is scored: the truth first asked for, and further ones for the same models."""

    scored: list[Scored]
    readers: list[Predictions]
    weights: dict[str, float]  # of the ensemble's members, where they were chosen
    boxes: Boxes | None = None
    configs: Sequence[Mapping[str, Any]] = ()  # of the models' folders
    patients: dict[str, str] = dataclasses.field(default_factory=dict)  # of films with boxes
    shifts: Sequence[Scored] = ()  # the same models on further data sets


# --- Ensembles ----------------------------------------------------------------------------------


def with_ensemble(
    scored: list[Scored], validation: Scored | None, args: argparse.Namespace
) -> tuple[list[Scored], Scored | None, dict[str, float]]:
    """Add the ensemble to every list of models; also says the weights if they were chosen."""
    if args.ensemble is None:
        return scored, validation, {}
    models = scored[0].models
    if any(model.name == ENSEMBLE for model in models):
        raise EvaluationError(f"a model is named {ENSEMBLE!r}, as the ensemble would be; rename it")
    weights = None
    if args.ensemble_weights == "greedy" and validation is not None:
        weights = _greedy(validation, args.ensemble)

    def add(to: Scored) -> Scored:
        return Scored(to.truth, [*to.models, _ensemble(to.models, args.ensemble, weights)])

    named = {} if weights is None else dict(zip([m.name for m in models], weights, strict=True))
    return [add(one) for one in scored], validation and add(validation), named


def _greedy(validation: Scored, space: str) -> list[float]:
    shared = _shared_labels(validation.models)
    scores = [model.columns(shared) for model in validation.models]
    try:
        return greedy_weights(scores, validation.truth.columns(shared), space).tolist()
    except ValueError as error:
        raise EvaluationError(f"the ensemble's weights cannot be chosen: {error}") from error


def _ensemble(
    models: Sequence[Predictions], space: str, weights: Sequence[float] | None
) -> Predictions:
    """The models' combination over the categories that all of them predict."""
    shared = _shared_labels(models)
    scores = [model.columns(shared) for model in models]
    notes = []
    if space == "mean":
        odd = [m.name for m, s in zip(models, scores, strict=True) if s.min() < 0 or s.max() > 1]
        if odd:
            notes.append(
                f"the ensemble averages scores as they are, but those of {', '.join(odd)} are no "
                "probabilities; --ensemble ranks needs no common scale"
            )
    try:
        combined = combine(scores, space, weights)
    except ValueError as error:
        raise EvaluationError(f"the ensemble cannot be made: {error}") from error
    return Predictions(
        ENSEMBLE, shared, combined, probabilities=space != "ranks", notes=tuple(notes)
    )


def _shared_labels(models: Sequence[Predictions]) -> tuple[str, ...]:
    shared = tuple(
        label for label in models[0].label_names if all(label in m.label_names for m in models)
    )
    if not shared:
        raise EvaluationError("the models share no category, so they make no ensemble")
    return shared


def with_points(scored: Scored, validation: Scored, rule: str) -> Scored:
    """Models without operating points of their own get those of the validation films."""
    models = []
    for model, fitted in zip(scored.models, validation.models, strict=True):
        if not model.source:
            labels = [x for x in fitted.label_names if x in validation.truth.label_names]
            points = choose_points(
                fitted.columns(labels), validation.truth.columns(labels), labels, rule
            )
            source = f"the validation films ({rule})"
            named = {
                label: cross_fitted_points(
                    *(fitted.column(label), validation.truth.columns([label])[:, 0]),
                    validation.truth.groups,
                )
                for label in labels
            }
            bands = {
                label: band_of(fitted.column(label), validation.truth.columns([label])[:, 0])
                for label in labels
            }
            model = dataclasses.replace(
                model, operating_points=points, named_points=named, bands=bands, source=source
            )
        models.append(model)
    return Scored(scored.truth, models)


def with_notes(scored: Scored, notes: tuple[str, ...]) -> Scored:
    """The same with notes on the last model, the ensemble."""
    *models, last = scored.models
    last = dataclasses.replace(last, notes=(*last.notes, *notes))
    return Scored(scored.truth, [*models, last])


def without_ranks(scored: Scored, args: argparse.Namespace) -> Scored:
    """An ensemble of ranks has no operating point: a rank among other films is another number."""
    if args.ensemble != "ranks":
        return scored
    *models, last = scored.models
    return Scored(
        scored.truth,
        [
            *models,
            dataclasses.replace(last, operating_points={}, named_points={}, bands={}, source=""),
        ],
    )
