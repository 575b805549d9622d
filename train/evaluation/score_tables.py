"""Read tables of predictions and of the truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from train.errors import EvaluationError
from train.evaluation.predictions import (
    Predictions,
    Truth,
    column_names,
    read_decisions,
    read_predictions,
    read_truth,
)
from train.evaluation.scored import Evaluated, Scored, with_ensemble, with_points, without_ranks

# --- Tables of predictions ----------------------------------------------------------------------


def score_tables(args: argparse.Namespace) -> Evaluated:
    truth = _read_truth(args.truth, args.predictions, args)
    scored = [Scored(truth, _read_models(args.predictions, truth, args.key))]
    validation = None
    if args.validation_truth:
        held_out = _read_truth(args.validation_truth, args.validation_predictions, args)
        _check_disjoint(held_out, truth)
        models = _read_models(args.validation_predictions, held_out, args.key)
        if len(models) != len(scored[0].models):
            raise EvaluationError(
                f"{len(models)} models are predicted for validation and {len(scored[0].models)} "
                "for the films to be scored; give one table for each, in the same order"
            )
        validation = Scored(held_out, models)
    scored, validation, weights = with_ensemble(scored, validation, args)
    if validation:
        scored = [
            without_ranks(with_points(one, validation, args.threshold_rule), args) for one in scored
        ]
    return Evaluated(scored, read_readers(args.radiologists, truth, args.key), weights)


def _read_truth(path: Path, predictions: Sequence[Path], args: argparse.Namespace) -> Truth:
    predicted = {column for table in predictions for column in column_names(table, args.key)}
    return read_truth(path, predicted, args.key, args.unit)


def _check_disjoint(held_out: Truth, truth: Truth) -> None:
    same = set(held_out.keys) & set(truth.keys)
    if same:
        raise EvaluationError(
            f"validation and test tables share {len(same)} rows (first {min(same)!r}); operating "
            "points and weights are never chosen on the films that are scored"
        )


def _read_models(paths: Sequence[Path], truth: Truth, key: str) -> list[Predictions]:
    models = [model for path in paths for model in read_predictions(path, truth, key)]
    names = [model.name for model in models]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise EvaluationError(f"two models are named {twice[0]!r}; rename one of their files")
    return models


def read_readers(folder: Path | None, truth: Truth, key: str) -> list[Predictions]:
    if folder is None:
        return []
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise EvaluationError(f"there are no CSV tables of radiologists' decisions in {folder}")
    return [read_decisions(path, truth, key) for path in files]
