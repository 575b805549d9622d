"""Scores from tables of predictions and of the truth -> what is evaluated."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from train.datasets.csv_core import Columns, read_csv
from train.errors import EvaluationError
from train.evaluation.group_columns import of_truth, table_of_groups
from train.evaluation.keys import key_for
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.read_tables import failures, read_decisions, read_predictions, read_truth
from train.evaluation.scored import Evaluated, Scored, with_ensemble, with_points, without_ranks
from train.evaluation.shift import named_as_here
from train.tables import counted


def score_tables(args: argparse.Namespace) -> Evaluated:
    """Score tables of predictions, for the films or studies of the truth."""
    tables = [read_csv(path) for path in args.predictions]
    truth = _read_truth(args.truth, tables, args)
    grouped = table_of_groups(args, args.truth)
    truth = of_truth(truth, grouped, args.group_column)
    scored = [Scored(truth, _read_models(tables, truth, args.key))]
    validation = None
    if args.validation_truth:
        tables = [read_csv(path) for path in args.validation_predictions]
        held_out = _read_truth(args.validation_truth, tables, args)
        _check_disjoint(held_out, truth)
        models = _read_models(tables, held_out, args.key)
        if len(models) != len(scored[0].models):
            raise EvaluationError(
                f"{len(models)} models are predicted for validation and {len(scored[0].models)} "
                "for the films to be scored; give one table for each, in the same order"
            )
        validation = Scored(held_out, models)
    shifts = []
    if args.shift_truth:
        tables = [read_csv(path) for path in args.shift_predictions]
        there = _read_truth(args.shift_truth, tables, args)
        models = _renamed(_read_models(tables, there, args.key), scored[0].models)
        shifts = [_named_as_here(Scored(there, models), dict(args.shift_map))]
    both, validation, weights = with_ensemble([*scored, *shifts], validation, args)
    scored, shifts = both[:1], both[1:]
    if validation:
        rule = args.threshold_rule or "youden"
        scored = [without_ranks(with_points(one, validation, rule), args) for one in scored]
    if args.controls:
        from train.evaluation.controls import cross_fitted_control

        predicted = [label for model in scored[0].models for label in model.label_names]
        control = cross_fitted_control(truth, predicted)
        scored = [replace(scored[0], models=[*scored[0].models, control])]
    readers = read_readers(args.radiologists, truth, args.key)
    return Evaluated(scored, readers, weights, shifts=shifts)


def _named_as_here(one: Scored, names: Mapping[str, str]) -> Scored:
    """The second data set with its categories called as in the first."""
    truth = named_as_here(one.truth.label_names, names, one.truth.name)
    back = dict(zip(one.truth.label_names, truth, strict=True))
    models = [
        replace(model, label_names=tuple(back.get(label, label) for label in model.label_names))
        for model in one.models
    ]
    return Scored(replace(one.truth, label_names=truth), models)


def _renamed(models: list[Predictions], as_: list[Predictions]) -> list[Predictions]:
    """The same models, named as those of the first films, in whose order they were given."""
    if len(models) != len(as_):
        raise EvaluationError(
            f"{len(models)} models are predicted for the second data set and {len(as_)} for the "
            "first; give one table for each, in the same order"
        )
    return [replace(model, name=one.name) for model, one in zip(models, as_, strict=True)]


def _read_truth(path: Path, predictions: Sequence[Columns], args: argparse.Namespace) -> Truth:
    """The truth, without the films that a model could not read."""
    table = read_csv(path)
    predicted = {column for other in predictions for column in other.cells}
    key = key_for(table, predictions, args.key)
    truth = read_truth(table, predicted, key, args.unit)
    for other in predictions:
        failed = failures(other, truth, args.key)
        if failed:
            first = next(iter(failed))
            note = (
                f"left out {counted(len(failed), 'film')} for which {other.path.name} has an error "
                f"instead of scores, first {first!r}: {failed[first]}"
            )
            truth = truth.without(failed, note)
    if not truth.keys:
        raise EvaluationError(f"no film of {path} has scores")
    return truth


def _check_disjoint(held_out: Truth, truth: Truth) -> None:
    same = set(held_out.keys) & set(truth.keys)
    if same:
        raise EvaluationError(
            f"validation and test tables share {len(same)} rows (first {min(same)!r}); operating "
            "points and weights are never chosen on the films that are scored"
        )


def _read_models(tables: Sequence[Columns], truth: Truth, key: str | None) -> list[Predictions]:
    models = [model for table in tables for model in read_predictions(table, truth, key)]
    names = [model.name for model in models]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise EvaluationError(f"two models are named {twice[0]!r}; rename one of their files")
    return models


def read_readers(folder: Path | None, truth: Truth, key: str | None) -> list[Predictions]:
    if folder is None:
        return []
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise EvaluationError(f"there are no CSV tables of radiologists' decisions in {folder}")
    return [read_decisions(path, truth, key) for path in files]
