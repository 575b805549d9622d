"""Run models on the films of a data set, for every truth that the films have."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cft
from train.datasets import DataOptions, table_of
from train.datasets.labels import LabelTable
from train.errors import EvaluationError, UsageError
from train.evaluation.score_tables import read_readers
from train.evaluation.scored import (
    Evaluated,
    Scored,
    with_ensemble,
    with_notes,
    with_points,
    without_ranks,
)
from train.evaluation.seen import (
    Origin,
    Splits,
    origins_of,
    seen_in_validation,
    with_warnings,
)

# --- Models -------------------------------------------------------------------------------------

# Data set -> (reader of other labels for some of its films, the file that holds them).
_OTHER_LABELS = {"nih": ("nih-experts", "expert_labels.csv")}


def run_models(args: argparse.Namespace, data: DataOptions) -> Evaluated:
    """Run the models on the data set, for every truth that its films have."""
    # Tables of predictions are scored without waiting for the import of networks.
    from train.evaluation.inference import predictions_of, readable, run, truth_of

    names = model_names(args.model)
    classifiers = {name: cft.load(ref) for name, ref in zip(names, args.model, strict=True)}
    origins = {
        name: origins_of(model, ref)
        for (name, model), ref in zip(classifiers.items(), args.model, strict=True)
    }
    if data.data is None and data.dataset is None:
        _check_phantoms(origins)
    table = table_of(data, args.seed)
    tested = table.subset(table.split == args.split)
    if not len(tested):
        raise EvaluationError(
            f"the data set {table.dataset!r} has no films in split {args.split!r}"
        )
    tables = [tested, *_other_labels(args, data, table)]
    held_out = _validation_films(args, table)
    _check_labels(classifiers, table)
    everything = [*tables, *held_out]
    films = {name: run(model, everything, args.batch_size) for name, model in classifiers.items()}
    splits = Splits(data, table.dataset)

    def score(one: LabelTable) -> Scored:
        one = readable(one, list(films.values()))
        models = [
            predictions_of(
                *(name, classifiers[name], films[name], one, args.films, args.threshold_rule)
            )
            for name in names
        ]
        models = [with_warnings(m, origins[m.name], one, splits, args.split) for m in models]
        return Scored(truth_of(one, args.films, args.unit), models)

    validation = score(held_out[0]) if held_out else None
    scored, validation, weights = with_ensemble([score(one) for one in tables], validation, args)
    if held_out:
        notes = seen_in_validation(origins, held_out[0], splits)
        scored = [with_notes(one, notes) for one in scored]
    if validation:
        scored = [
            without_ranks(with_points(one, validation, args.threshold_rule), args) for one in scored
        ]
    return Evaluated(scored, read_readers(args.radiologists, scored[0].truth, args.key), weights)


def _other_labels(
    args: argparse.Namespace, data: DataOptions, table: LabelTable
) -> list[LabelTable]:
    """Further truths for the films, where the data set comes with them."""
    reader, file = _OTHER_LABELS.get(table.dataset, ("", ""))
    if args.split != "test" or not reader or not data.data:
        return []
    folder = data.data if data.data.is_dir() else data.data.parent
    if not (folder / file).exists():
        return []
    return [table_of(replace(data, dataset=reader), args.seed)]


def _validation_films(args: argparse.Namespace, table: LabelTable) -> list[LabelTable]:
    """The split that an ensemble's weights and operating points are chosen on; [] if not needed."""
    films = table.subset(table.split == "valid")
    usable = len(films) > 0 and args.split != "valid"
    if args.ensemble_weights == "greedy" and not usable:
        raise EvaluationError(
            "greedy weights are chosen on the split 'valid', which must have films and cannot be "
            "the split that is scored"
        )
    return [films] if args.ensemble and usable else []


def model_names(references: Sequence[str]) -> list[str]:
    """The folders' own names; the whole references where these are not distinct."""
    names = [Path(reference).resolve().name for reference in references]
    names = names if len(set(names)) == len(names) else list(references)
    if len(set(names)) < len(names):
        raise EvaluationError("a model is named twice after --model")
    return names


def _check_phantoms(origins: Mapping[str, Sequence[Origin]]) -> None:
    """Phantoms are the films of a model that was trained on them; others must be asked for."""
    for name, those in origins.items():
        if "phantoms" not in [origin.dataset for origin in those]:
            raise UsageError(
                f"{name} was not trained on phantoms: name the films to score with --data, or "
                "phantoms with --dataset phantoms"
            )


def _check_labels(classifiers: Mapping[str, cft.Classifier], table: LabelTable) -> None:
    for name, classifier in classifiers.items():
        if not set(classifier.label_names) & set(table.label_names):
            raise EvaluationError(
                f"{name} predicts no category of the data set {table.dataset!r}, which has "
                f"{', '.join(table.label_names)}"
            )
