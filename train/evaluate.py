"""Stage 3: everything that is claimed about a model, in one command: python -m train.evaluate.

Either runs models on a dataset (--model, --dataset, --data) or scores tables of predictions
(--predictions, --truth). Writes one folder: report.html for people, report.json for programs, both
as report.md, predictions.csv and plots.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cft.errors import ModelFolderError
from cft.labels import CHEXPERT_5
from cft.model.calibration import RULES
from cft.model.folder import WEIGHTS
from train.command import (
    ABOVE_ZERO,
    BETWEEN_ZERO_AND_ONE,
    POSITIVE,
    WHOLE,
    add_options,
    exit_code,
    options_of,
)
from train.datasets import DataOptions, DatasetError
from train.errors import EvaluationError, StudyError, TableError
from train.evaluation import report
from train.evaluation.combine import SPACES
from train.evaluation.explained import KINDS
from train.evaluation.predictions import STUDY_RULES
from train.evaluation.protocol import Settings
from train.evaluation.report_folder import results_of, write_report
from train.evaluation.run_models import run_models
from train.evaluation.score_tables import score_tables
from train.evaluation.scored import Evaluated
from train.evaluation.scores import named_subsets
from train.publishing.ensemble import SAVED_AS, save_ensemble

__all__ = ["main"]


# --- Command line -------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 failed; wrong usage exits with 2)."""
    parser = _parser()
    args = parser.parse_args(arguments)
    _check_usage(parser, args)
    args.given = set(vars(args))  # the options of the data, and the seed, are there if typed
    args.seed = getattr(args, "seed", 0)
    settings = Settings(
        replicates=args.replicates,
        seed=args.seed,
        level=args.level,
        subsets=dict(args.subset),
        optimistic_thresholds=args.optimistic_thresholds,
        threshold_rule=args.threshold_rule or "youden",
    )
    errors = EvaluationError, TableError, StudyError, DatasetError, ModelFolderError
    return exit_code(
        *("train.evaluate", lambda: _work_through(args, settings), *errors),
        interrupted="run the same command again",
    )


def _work_through(args: argparse.Namespace, settings: Settings) -> None:
    _check_places(args)
    data = options_of(DataOptions, vars(args))
    run_ = run_models(args, data) if args.model else score_tables(args)
    _check_subsets(settings, run_)
    results = results_of(run_, settings)
    write_report(args, results, run_)
    if args.save_ensemble:
        save_ensemble(args, results, run_)
    print(report.summary(results))
    print(f"written to {args.out}; for people: {args.out / 'report.html'}")


def _check_places(args: argparse.Namespace) -> None:
    """Refuse, before any work, what could not be written or would overwrite something else."""
    for folder in filter(None, (args.out, args.save_ensemble)):
        for place in (folder, *folder.parents):
            if place.exists() and not place.is_dir():
                raise EvaluationError(f"{place} is a file, so no folder can be made there")
    if args.save_ensemble and (args.save_ensemble / WEIGHTS).exists():
        raise EvaluationError(
            f"{args.save_ensemble} holds another model; give --save-ensemble a folder of its own"
        )


def _check_subsets(settings: Settings, run_: Evaluated) -> None:
    known = {label for model in run_.scored[0].models for label in model.label_names}
    for name, members in settings.subsets.items():
        missing = [label for label in members if label not in known]
        if missing:
            raise EvaluationError(f"subset {name!r} names {missing[0]!r}, which no model predicts")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description="Score models with intervals, compare them, and write one report.",
    )
    models = parser.add_argument_group("models")
    models.add_argument("--model", nargs="+", metavar="REF", help="model folders to run")
    models.add_argument(
        "--split",
        choices=("test", "valid", "train", "all"),
        help="films to score (default: test; of a table that names no split all films, unless "
        "the run of a model drew splits of it: then the test films of that run)",
    )
    models.add_argument(
        "--films",
        choices=STUDY_RULES,
        default="max",
        help="how the films of a study are combined (default: max, CheXpert's rule)",
    )
    models.add_argument(
        "--batch-size", type=POSITIVE, default=32, help="films at a time (default: 32)"
    )
    add_options(parser.add_argument_group("data"), DataOptions)
    tables = parser.add_argument_group("tables of predictions")
    tables.add_argument(
        "--predictions",
        nargs="+",
        type=Path,
        metavar="CSV",
        help="scores: a row per film or study, a column per category; a file per model, or a "
        "column 'model'",
    )
    tables.add_argument("--truth", type=Path, metavar="CSV", help="labels 1, 0, blank (unknown)")
    tables.add_argument(
        "--key",
        metavar="COLUMN",
        help="column to join by (default: Study; where that is not in all tables, the column of "
        "films: image, file, path, ...)",
    )
    tables.add_argument(
        "--validation-predictions",
        nargs="+",
        type=Path,
        metavar="CSV",
        help="the same models on validation films: operating points and weights come from these",
    )
    tables.add_argument(
        "--validation-truth", type=Path, metavar="CSV", help="labels of the validation films"
    )
    shift = parser.add_argument_group("a second data set")
    shift.add_argument(
        "--shift",
        nargs="+",
        type=Path,
        default=[],
        metavar="DATA",
        help="score the models on these as well: what differs, the ranking or the calibration?",
    )
    shift.add_argument(
        "--shift-predictions",
        nargs="+",
        type=Path,
        metavar="CSV",
        help="the same of tables: the models' scores on a second data set, in the same order",
    )
    shift.add_argument(
        "--shift-truth", type=Path, metavar="CSV", help="labels of the second data set"
    )
    shift.add_argument(
        "--shift-map",
        nargs="+",
        type=_pair_of_names,
        default=[],
        metavar="NAME=NAME",
        help="what a category is called in the second data set, such as "
        '"Effusion=Pleural Effusion"',
    )
    readers = parser.add_argument_group("radiologists")
    readers.add_argument(
        "--radiologists", type=Path, metavar="DIR", help="one CSV of decisions for each reader"
    )
    ensemble = parser.add_argument_group("ensemble")
    ensemble.add_argument("--ensemble", choices=SPACES, help="add the models' combination")
    ensemble.add_argument(
        "--save-ensemble", type=Path, metavar="DIR", help="write it as a model folder"
    )
    ensemble.add_argument(
        "--ensemble-weights",
        choices=("equal", "greedy"),
        default="equal",
        help="greedy: forward selection on validation films",
    )
    figures = parser.add_argument_group("figures")
    figures.add_argument(
        "--subset",
        action="append",
        type=_named_subset,
        default=[],
        metavar="NAME=LABEL,LABEL",
        help="a further mean over categories",
    )
    figures.add_argument(
        "--controls",
        action="store_true",
        help="add what view, sex and age alone say of the films, learnt from the training films "
        "or, without any, from the other patients that are scored; and runs with --shuffle-labels "
        "in folders beside the models'",
    )
    figures.add_argument(
        "--shuffled",
        nargs="+",
        default=[],
        metavar="REF",
        help="add these runs with --shuffle-labels as controls",
    )
    figures.add_argument(
        "--group-column",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="further columns to group films by, such as the machine or the source",
    )
    figures.add_argument(
        "--group-table",
        type=Path,
        metavar="CSV",
        help="the table that has them (default: --truth, or the table of labels in --data)",
    )
    figures.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="radiologists' boxes, as NIH's BBox_List_2017.csv (film, finding, x, y, width, "
        "height), or masks, as CheXlocalize's gt_segmentations_test.json",
    )
    figures.add_argument(
        "--maps",
        type=_kinds_of_maps,
        default=(),
        metavar="KIND,KIND",
        help=f"compare kinds of maps on these boxes: {', '.join(KINDS)} (the report always has "
        "the one that the page draws)",
    )
    figures.add_argument(
        "--box-side",
        type=ABOVE_ZERO,
        default=1024,
        metavar="PIXELS",
        help="width and height of a film in the unit of its boxes (default: 1024, NIH's)",
    )
    figures.add_argument(
        "--unit",
        choices=("patient", "study"),
        default="patient",
        help="what the bootstrap draws (default: patient)",
    )
    figures.add_argument(
        "--replicates", type=POSITIVE, default=1000, help="of the bootstrap (default: 1000)"
    )
    figures.add_argument(
        "--seed",
        type=WHOLE,
        default=argparse.SUPPRESS,
        help="of the bootstrap and of drawn splits (default: 0)",
    )
    figures.add_argument(
        "--level", type=BETWEEN_ZERO_AND_ONE, default=0.95, help="of intervals (default: 0.95)"
    )
    figures.add_argument(
        "--threshold-rule",
        choices=RULES,
        help="of operating points, the model folder's or those chosen here: the largest "
        "sensitivity + specificity, the best F1, or 95 %% specificity or sensitivity (default: "
        "those that the model folder has in use; of tables, youden)",
    )
    figures.add_argument(
        "--optimistic-thresholds",
        action="store_true",
        help="choose operating points on the films that are scored; the report marks them",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the report"
    )
    return parser


def _check_usage(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options that do not go together; of several faults the first is said."""
    tables, pairs = bool(args.predictions), args.shift_map
    greedy = args.ensemble_weights == "greedy"
    faults = (
        (
            bool(args.model) == tables,
            "give either --model with --data, or --predictions with --truth",
        ),
        (tables != bool(args.truth), "--predictions and --truth go together"),
        (
            tables and {"data", "dataset"} & vars(args).keys(),
            "--data and --dataset go with --model; tables of predictions have --truth",
        ),
        (len(dict(args.subset)) < len(args.subset), "two of --subset have the same name"),
        (
            args.save_ensemble and args.optimistic_thresholds,
            "--save-ensemble writes figures into a model card, so it does not go with "
            "--optimistic-thresholds",
        ),
        (
            args.boxes and not args.model,
            "--boxes goes with --model: a table of predictions holds no maps",
        ),
        (
            args.shuffled and not args.model,
            "--shuffled goes with --model: the runs are scored on the same films",
        ),
        (args.group_table and not args.group_column, "--group-table goes with --group-column"),
        (
            args.maps and not args.boxes,
            "--maps goes with --boxes: kinds of maps are compared on framed findings",
        ),
        (
            args.model and args.validation_truth,
            "--validation-truth goes with --predictions; models have a split 'valid'",
        ),
        (
            bool(args.validation_predictions) != bool(args.validation_truth),
            "--validation-predictions and --validation-truth go together",
        ),
        (
            args.shift and not args.model,
            "--shift goes with --model; tables have --shift-predictions and --shift-truth",
        ),
        (
            args.shift_truth and not tables,
            "--shift-truth goes with --predictions; models have --shift",
        ),
        (
            pairs and not (args.shift or args.shift_truth),
            "--shift-map goes with --shift or --shift-truth",
        ),
        (
            any(len(set(side)) < len(pairs) for side in zip(*pairs, strict=True)),
            "--shift-map names a category twice",
        ),
        (
            bool(args.shift_predictions) != bool(args.shift_truth),
            "--shift-predictions and --shift-truth go together",
        ),
        (
            args.save_ensemble and not (args.model and args.ensemble in SAVED_AS),
            "--save-ensemble needs --model with --ensemble mean or logits",
        ),
        (greedy and not args.ensemble, "--ensemble-weights greedy needs --ensemble"),
        (
            greedy and tables and not args.validation_truth,
            "--ensemble-weights greedy needs --validation-predictions: weights are never chosen on "
            "the films that are scored",
        ),
    )
    for is_wrong, sentence in faults:
        if is_wrong:
            parser.error(sentence)


def _named_subset(text: str) -> tuple[str, list[str]]:
    name, _, members = text.partition("=")
    labels = [label.strip() for label in members.split(",") if label.strip()]
    if not name or not labels:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=LABEL,LABEL")
    if name in named_subsets(CHEXPERT_5):
        raise argparse.ArgumentTypeError(f"{name!r} is a subset that every report has already")
    if len(set(labels)) < len(labels):
        raise argparse.ArgumentTypeError(f"{text!r} names a category twice")
    return name, labels


def _pair_of_names(text: str) -> tuple[str, str]:
    here, _, there = (part.strip() for part in text.partition("="))
    if not here or not there:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=NAME")
    return here, there


def _kinds_of_maps(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(x.strip() for x in text.split(",") if x.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise argparse.ArgumentTypeError(
            f"{unknown[0] if unknown else text!r} is no kind of maps; there are {', '.join(KINDS)}"
        )
    return kinds


if __name__ == "__main__":
    sys.exit(main())
