"""An older model folder -> what newer ones say as well: ``python -m train.complete FOLDER``

A folder that this version's training writes says how frequent each finding was among its training
films, from which probability on validation films rule it in or out, how both did on test films,
by how much its evidence differs between two films of one patient with the same labels,
and what the model says of the packaged example film. This command adds all that to a folder made
before, and to any folder the controls: what view, sex and age alone say of the test films, and
what the recipe learns from shuffled labels; and, with ``--boxes``, whether its heat maps point to
what radiologists framed on the test films. Weights, calibration, operating points and the figures
that are there stay as they are.

The films are those of the model's own run: its ``splits.csv`` if the folder has one, else the
splits that its ``config.json`` says how to draw.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cft.errors import ModelFolderError
from cft.files import atomic_write
from cft.model.folder import CARD, CONFIG, parse_config, read_config
from cft.model.load import load
from train.command import add_options, exit_code, options_of
from train.datasets import DataOptions, read_dataset, table_of
from train.datasets.labels import LabelTable
from train.datasets.splits import check_splits, read_splits
from train.errors import ERRORS, EvaluationError, TrainingError
from train.evaluation.boxes import Boxes, film_id, read_boxes
from train.evaluation.controls import METADATA, metadata_chances, shuffled_runs
from train.evaluation.inference import FilmScores, readable, run
from train.evaluation.localise import localisation
from train.evaluation.of_run import (
    band_of,
    band_points,
    with_band,
    with_repeatability,
    with_training,
)
from train.evaluation.scores import evaluate_scores
from train.publishing.card import model_card
from train.publishing.export import rounded, usable
from train.run_folder import place_of_data

logger = logging.getLogger("train.complete")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 failed; wrong usage exits with 2)."""
    parser = _parser()
    args = parser.parse_args(argv)
    return exit_code(
        "train.complete",
        lambda: _work_through(args),
        *ERRORS,
        *(EvaluationError, ModelFolderError),
        interrupted="the folder is as it was",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.complete",
        description="Add to an older model folder what this version's training writes: shares of "
        "positive training films, limits for ruling in and out with their figures on test films, "
        "how far follow-up films with the same labels lie apart, and the example film's figures. "
        "Options of the data are those of the model's run.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the model folder; it changes")
    parser.add_argument(
        "--also-test",
        metavar="NAME",
        help="reader of further labels of the test films (default: the run's)",
    )
    parser.add_argument(
        "--shuffled",
        action="append",
        default=[],
        metavar="RUN",
        help="a run of the same recipe with --shuffle-labels, as a control in the card",
    )
    parser.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="what radiologists framed on the test films, as train.evaluate takes it",
    )
    parser.add_argument(
        "--box-side",
        type=float,
        default=1024,
        metavar="SIDE",
        help="width and height of a film in the unit of its boxes (default: 1024, NIH's)",
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU if there is one)")
    add_options(parser.add_argument_group("data"), DataOptions)
    return parser


def _work_through(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = read_config(args.folder)
    provenance = config.get("cft", {}).get("provenance", {})
    ran = provenance.get("stage_1", provenance).get("arguments", {})
    sides, others = _films_of_the_run(args, ran, parse_config(config, args.folder).label_names)
    boxes = read_boxes(args.boxes, args.box_side) if args.boxes else None
    model = load(args.folder, args.device)
    scores = run(model, [sides["valid"], sides["test"]], boxes=boxes)
    sides |= {side: readable(sides[side], [scores]) for side in ("valid", "test")}
    _check_counts(args.folder, provenance.get("splits", {}), sides)
    tests = [sides["test"], *(_among(other, sides["test"]) for other in others)]
    config = completed(config, sides["train"], sides["valid"], tests, scores)
    shuffled = _scores_of_shuffled(args.shuffled, tests, args.device)
    for table in tests:
        if len(table):
            there = config["cft"]["metrics"][table.dataset]
            found = rounded(controls(sides["train"], table, shuffled))
            there["controls"] = {**there.get("controls", {}), **found}
    if boxes is not None:
        metrics = config["cft"]["metrics"]
        metrics[sides["test"].dataset] = rounded(
            pointing(metrics.get(sides["test"].dataset, {}), sides["test"], scores, boxes)
        )
    parse_config(config, args.folder)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    atomic_write(args.folder / CARD, model_card(config))
    atomic_write(args.folder / CONFIG, text)
    usable(args.folder)
    print(f"completed the model folder {args.folder}")


def completed(
    config: Mapping[str, Any],
    train: LabelTable,
    valid: LabelTable,
    tests: Sequence[LabelTable],
    scores: FilmScores,
) -> dict[str, Any]:
    """The configuration of a model with what it lacks.

    Parameters
    ----------
    config
        What ``config.json`` says.
    train, valid, tests
        The films of the model's run, with its categories; `tests` one for each kind of labels.
    scores
        What the model says of the validation and test films.
    """
    result: dict[str, Any] = copy.deepcopy(dict(config))
    ours = result.setdefault("cft", {})
    names, labels = list(config["label_names"]), valid.label_names
    chances = _chances(scores, valid, names)
    stored = {label: ours.get("categories", {}).get(label) or {} for label in labels}
    categories = {
        label: {**stored[label], "band": band_of(chances[:, names.index(label)], valid.y[:, c])}
        for c, label in enumerate(labels)
    }
    own = chances[:, [names.index(label) for label in labels]]
    categories = with_repeatability(categories, own, valid)
    ours["categories"] = {
        **ours.get("categories", {}),
        **with_training(categories, labels, train.y),
    }
    limits = band_points({label: row["band"] for label, row in categories.items()})
    points: dict[str, dict[str, float | None]] = {}
    for label, row in categories.items():
        for name, point in (row.get("operating_points") or {}).items():
            points.setdefault(name, {})[label] = point and point["threshold"]
    in_use = {
        label: (row.get("operating_point") or {}).get("threshold")
        for label, row in categories.items()
    }
    for table in tests:
        if not len(table):
            continue
        columns = [names.index(label) for label in table.label_names]
        found = with_band(
            evaluate_scores(
                _chances(scores, table, names)[:, columns],
                *(table.y, table.patients, table.label_names),
                operating_points=in_use,
                named_points={**points, **limits},
            )
        )
        there = ours.setdefault("metrics", {}).setdefault(table.dataset, found)
        ours["metrics"][table.dataset] = rounded(
            {**there, "band": found["band"], "points": there.get("points") or found["points"]}
        )
    return result


# What of a comparison with boxes is kept: the films, and the pointing game beside its floor.
_HITS = tuple(f"{share}{end}" for share in ("hit", "floor_hit") for end in ("", "_low", "_high"))


def pointing(
    metrics: Mapping[str, Any], test: LabelTable, scores: FilmScores, boxes: Boxes
) -> dict[str, Any]:
    """A test set's figures with ``localisation``, of each category and of all together.

    Parameters
    ----------
    metrics
        The figures of the test films, with ``categories``.
    test
        The test films.
    scores
        What the model says of them, with the maps of the findings that have a box.
    boxes
        What radiologists framed; boxes of other films help to choose the fixed point alone.

    Raises
    ------
    EvaluationError
        If no test film has a box of a category of which the model draws a map.
    """
    patients = dict(zip(map(film_id, test.names), map(str, test.patients), strict=True))
    maps = {key: heat for key, heat in scores.maps.items() if key[0] in patients}
    found = localisation(maps, boxes, patients)
    if not found["micro"]:
        raise EvaluationError(
            f"{boxes.name} frames no finding on a test film of which the model draws a heat map"
        )
    rows = {
        label: {**row, "localisation": _kept(found["categories"].get(label))}
        for label, row in metrics["categories"].items()
    }
    return {**metrics, "categories": rows, "localisation": _kept(found["micro"])}


def _kept(figures: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if figures is None else {key: figures[key] for key in ("n", "patients", *_HITS)}


def _scores_of_shuffled(
    references: Sequence[str], tables: Sequence[LabelTable], device: str | None
) -> dict[str, tuple[tuple[str, ...], FilmScores]]:
    """Control -> categories and scores of a run with ``--shuffle-labels``, on all tables' films."""
    found = {}
    for reference in shuffled_runs(references, ()):
        model = load(reference, device)
        name = f"shuffled labels ({model.name})" if len(references) > 1 else "shuffled labels"
        found[name] = (model.label_names, run(model, tables))
    return found


def controls(
    train: LabelTable,
    table: LabelTable,
    shuffled: Mapping[str, tuple[Sequence[str], FilmScores]],
) -> dict[str, dict[str, Any]]:
    """What a model should be far above, on the same films.

    Parameters
    ----------
    train
        The films that the model has learnt from.
    table
        Films that it is tested on.
    shuffled
        Control -> categories and scores of a run with ``--shuffle-labels``.

    Returns
    -------
    dict
        Control -> ``auroc``, ``ci_low`` and ``ci_high``: the mean over the categories, with its
        bootstrap interval by patient. View, sex and age are left out where nothing is said of them.

    Raises
    ------
    EvaluationError
        If a run lacks a category.
    """
    labels = [label for label in table.label_names if label in train.label_names]
    shown = table.with_labels(labels)
    chances = {}
    with contextlib.suppress(EvaluationError):
        chances[METADATA] = metadata_chances(train, shown)
    for name, (theirs, scores) in shuffled.items():
        if missing := [label for label in labels if label not in theirs]:
            raise EvaluationError(f"the run for {name!r} has no category {missing[0]!r}")
        columns = [theirs.index(label) for label in labels]
        chances[name] = _chances(scores, shown, theirs)[:, columns]
    means = {
        name: evaluate_scores(columns, shown.y, shown.patients, labels)["subsets"]["all"]
        for name, columns in chances.items()
    }
    return {
        name: {key: mean[key] for key in ("auroc", "ci_low", "ci_high")}
        for name, mean in means.items()
    }


def _chances(scores: FilmScores, table: LabelTable, names: Sequence[str]) -> np.ndarray:
    """(N, K) probabilities of a table's films, in the order of the model's labels."""
    rows = [scores.probabilities[film] for film in table.names.tolist()]
    return np.stack(rows) if rows else np.empty((0, len(names)))


def _films_of_the_run(
    args: argparse.Namespace, ran: Mapping[str, Any], labels: Sequence[str]
) -> tuple[dict[str, LabelTable], list[LabelTable]]:
    """Split -> the films that took part in the run; and the tables of further labels."""
    given = vars(args)
    place = None if "data" in given else place_of_data(args.folder)
    data = options_of(DataOptions, ran, {"data": place}, given)
    drawn = {"valid", "test", "shared_patients"} & given.keys()
    splits = None if drawn else read_splits(args.folder)
    table = table_of(data, ran.get("seed", 0), splits=splits)
    check_splits(table)
    shared = [label for label in labels if label in table.label_names]
    if not shared:
        raise TrainingError(f"{table.dataset} has labels of none of the model's categories")
    table = table.with_labels(shared)
    for note in table.notes:
        logger.info("%s", note)
    judged = np.ones(len(table), bool)
    if ran.get("judge_width"):
        if "width" not in table.attributes:
            raise TrainingError(f"{table.dataset} does not say how wide films are")
        judged = table.attributes["width"] >= ran["judge_width"]
    sides = {
        side: table.subset((table.split == side) & (judged | (side == "train")))
        for side in ("train", "valid", "test")
    }
    also = args.also_test or ran.get("also_test")
    others = [read_dataset(also, data.data)] if also else []
    kept = [[label for label in shared if label in other.label_names] for other in others]
    return sides, [other.with_labels(of) for other, of in zip(others, kept, strict=True) if of]


def _among(other: LabelTable, films: LabelTable) -> LabelTable:
    """The films of a table that are among others."""
    return other.subset(np.isin(other.names, films.names))


def _check_counts(
    folder: Path, recorded: Mapping[str, Any], sides: Mapping[str, LabelTable]
) -> None:
    """Refuse films that are not those of the model's run: its training films would judge it."""
    for side in ("valid", "test"):
        expected = recorded.get(side, {}).get("films")
        if expected is not None and expected != len(sides[side]):
            raise TrainingError(
                f"{folder} was made with {expected:,} films of the split {side!r}, and here are "
                f"{len(sides[side]):,}: name the same data with the same options"
            )
        if not len(sides[side]) and side == "valid":
            raise TrainingError("there are no validation films, so there can be no limits")


if __name__ == "__main__":
    sys.exit(main())
