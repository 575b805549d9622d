"""Stage 2: category-wise fine-tuning. ``python -m train.cft``

The backbone of a trained model is frozen and the features of every film are computed once; then
the logistic regression of each category is re-fitted on *known labels only*, an uncertain mark
being as unknown as a blank. The result is a model folder whose other tensors are the parent's, byte
for byte.

Splits, hidden labels and categories are those of the parent's own run, which its ``config.json``
records; only where the data lies has to be said. Validation films choose and calibrate, test films
only measure. A run that is stopped keeps what is finished; ``--resume`` goes on with the rest.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cft.files import atomic_write
from cft.model.folder import ModelFolder, read_model_folder, write_model_folder
from cft.model.heads import with_one_head
from train.command import (
    POSITIVE,
    WHOLE,
    Stop,
    add_options,
    as_json,
    command_of,
    exit_code,
    option,
    options_of,
)
from train.datasets import DataOptions, HistoryOptions, read_dataset, table_of
from train.datasets.history import History
from train.datasets.labels import SPLITS, LabelTable
from train.datasets.splits import check_splits, read_splits, write_splits
from train.errors import ERRORS, TrainingError
from train.frozen.features import Features, FrozenNetwork, features_of, linear_head
from train.frozen.kept import computed_on, place_of
from train.frozen.rows import Rows
from train.losses import loss_named
from train.metrics.ranking import METRICS
from train.processes import processes
from train.publishing.card import model_card
from train.publishing.export import provenance_of, rounded, usable
from train.publishing.normal_maps import kept_normal_maps
from train.publishing.push_options import (
    add_push_arguments,
    check_login,
    push_from_arguments,
)
from train.run_folder import (
    HISTORY,
    Work,
    films_of,
    held_folder,
    place_of_data,
    rows_of_splits,
)
from train.stage1.frozen import recipe_again
from train.stage2.finished import Finished
from train.stage2.methods import METHODS, PRESETS, method_of
from train.stage2.report import fine_tuning
from train.stage2.result import Outcome, outcome_of, search_csv, with_head
from train.stage2.task import Films, Head, Task, Tuned, TuneSettings

if TYPE_CHECKING:
    from cft.model.network import Network

logger = logging.getLogger("train.cft")


@dataclass(frozen=True)
class Options:
    """The settings of stage 2, besides the data; each field is an option of the command."""

    model: Path = option(Path("runs/negative"), "model folder", machine=True)
    out: Path = option(Path("runs/cft"), "folder of the result", machine=True)
    method: str = option(
        "auto",
        "auto: one penalised refit for all, its strength chosen by cross-validation; ga: a search "
        "for the best metric, as far as all categories gain by it together; gradient: descent, "
        "per category the best epoch by validation; greedy: per category the best by validation "
        "of gradient, ga and the original",
        choices=METHODS,
    )
    preset: str | None = option(
        None, "paper: the published method, greedy with its GA", choices=list(PRESETS)
    )
    fitness: str = option("auroc", "metric", choices=list(METRICS))
    loss: str = option("bce", "of the gradient: bce, or asl:gamma_negative=,...")
    seed: int = option(0, "of folds and GA; the data keeps its own", type=WHOLE)
    choose_on: str = option(
        "auto",
        "films that choose the strength of --method auto: valid, or all (training films too, by "
        "cross-fitting, for a model of train.negative --freeze); auto: all where it can be",
        choices=("auto", "valid", "all"),
    )
    history: Path | None = option(
        None,
        "the table of --history that the model was fitted with, if training films choose (default: "
        "where it was)",
        machine=True,
        metavar="TABLE",
    )
    judge_width: int = option(
        0,
        "validate and test only on films stored at least this wide (default: the model's)",
        type=WHOLE,
        metavar="PIXELS",
    )
    also_test: str | None = option(
        None, "reader of further labels of the data to test on", metavar="NAME"
    )
    resume: bool = option(False, "go on with what is finished", machine=True)
    device: str | None = option(
        None, 'such as "cpu" or "cuda" (default: a GPU if there is one)', machine=True
    )
    cache: Path | None = option(
        None, "folder of packed films and features (default: the one of --out)", machine=True
    )
    workers: int | None = option(
        None, "processes that pack films (default: one a core)", machine=True, type=POSITIVE
    )
    threads: int | None = option(
        None, "CPU threads (default: PyTorch's choice)", machine=True, type=POSITIVE
    )


@dataclass(frozen=True)
class Asked:
    """What the command line asks for.

    Attributes
    ----------
    options, data
        The options; what is not given of the data is the parent's.
    parent
        The model to fine-tune.
    data_seed
        What the parent's splits were drawn with.
    as_split
        The splits are those that the parent's run wrote down, if it did.
    push
        The namespace that ``--push`` and what goes with it are in.
    arguments
        The options that decide the result, as JSON.
    command
        The command that repeats the run elsewhere.
    """

    options: Options
    data: DataOptions
    parent: ModelFolder
    data_seed: int
    as_split: bool
    push: argparse.Namespace
    arguments: dict[str, Any]
    command: str


def parse(argv: Sequence[str] | None) -> Asked:
    """The command line and the parent, whose own options of the data are the defaults."""
    parser = _parser()
    push = parser.parse_args(argv)
    given = vars(push)
    model = options_of(Options, given).model
    parent = with_one_head(read_model_folder(model))
    origin = parent.config.get("cft", {}).get("provenance", {})
    # The data's own seed is that of stage 1, also of a model that has been through stage 2.
    trained_with = origin.get("stage_1", origin).get("arguments", {})
    inherited = {name: trained_with.get(name) for name in ("judge_width", "also_test")}
    name = given.get("preset")
    preset = {"preset": name, "method": PRESETS[name].method} if name else {}
    options = options_of(Options, inherited, preset, given)
    try:
        loss_named(options.loss)
    except ValueError as error:
        parser.error(str(error))
    if options.out.resolve() == model.resolve():
        parser.error(f"--out {options.out} is the model itself; choose another folder")
    unasked = _choose_on(parser, replace(options, choose_on="auto"), origin)
    options = replace(options, choose_on=_choose_on(parser, options, origin))
    options = replace(options, history=_history(parser, options, origin))
    data = options_of(
        DataOptions, trained_with, {"data": _place(parser, given, model, origin)}, given
    )
    usual_options = replace(options_of(Options, inherited, preset), choose_on=unasked)
    usual = as_json(usual_options, options_of(DataOptions, trained_with))
    arguments = as_json(options, data)
    program = "python -m train.cft --model MODEL"
    command = command_of(program, arguments, usual, data.data, name)
    command += " --history TABLE" * bool(options.history)
    seed = trained_with.get("seed", 0)
    as_split = not {"valid", "test", "shared_patients"} & given.keys()
    return Asked(options, data, parent, seed, as_split, push, arguments, command)


def _choose_on(parser: argparse.ArgumentParser, options: Options, origin: Mapping[str, Any]) -> str:
    """Which films choose: "valid" or "all"."""
    frozen = "frozen" in (origin.get("stage_1") or origin)
    if options.choose_on != "all":
        able = frozen and options.method == "auto" and options.choose_on == "auto"
        return "all" if able else "valid"
    if not frozen:
        parser.error(
            f"--choose-on all: the network of {options.model} has been trained, so its training "
            "films can judge nothing; that is for a model of train.negative --freeze"
        )
    if options.method != "auto":
        parser.error(f"--choose-on all is for --method auto, not {options.method}")
    return "all"


def _history(
    parser: argparse.ArgumentParser, options: Options, origin: Mapping[str, Any]
) -> Path | None:
    """Where the table of the parent's ``--history`` is, if its fit is cross-fitted again."""
    if options.choose_on != "all" or not (origin.get("stage_1") or origin).get("history"):
        if options.history:
            parser.error(
                "--history is for a model that was fitted with one, where training films choose; "
                "stage 2 itself fits each film's own labels"
            )
        return None
    place = options.history or place_of_data(options.model, HISTORY)
    if place is None:
        parser.error(
            f"{options.model} was fitted with the labels of a patient's other films: give their "
            "table with --history, or choose on validation films with --choose-on valid"
        )
    return place


def _place(
    parser: argparse.ArgumentParser,
    given: Mapping[str, Any],
    model: Path,
    origin: Mapping[str, Any],
) -> Path | None:
    """Where the parent's data is if that was not given; None: it was, or they are phantoms."""
    trained_on = origin.get("dataset")
    if "data" in given or trained_on == "phantoms":
        return None
    place = place_of_data(model)
    if place is None and trained_on is None:
        parser.error(f"{model} does not say what it was trained on: name it with --data")
    if place is None:
        parser.error(f"{model} was trained on {trained_on}: give its folder or table with --data")
    return place


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.cft",
        description="Stage 2: fine-tune a model's logistic regressions category by category, on "
        "known labels only. Options of the data are those that the model was trained with; so is "
        "--data, its place, if the model is a run of stage 1 on this machine.",
    )
    add_options(parser, Options)
    add_options(parser.add_argument_group("data"), DataOptions)
    add_push_arguments(parser)
    return parser


def work_through(argv: Sequence[str] | None) -> None:
    """The whole of ``python -m train.cft``."""
    asked = parse(argv)
    options, data, parent = asked.options, asked.data, asked.parent
    refuse_fine_tuned(options.model, parent)
    check_login(asked.push)
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger().setLevel(logging.INFO)
    with processes(options.device) as here, logging_redirect_tqdm(), ExitStack() as held:
        table = the_parents_table(asked)
        others = [read_dataset(options.also_test, data.data)] if options.also_test else []
        others = [other.with_labels(table.label_names) for other in others]
        backbone = FrozenNetwork.of(parent, here.device)
        linear_head(backbone.network)  # a model without one is refused before its films are packed
        work = Work(
            out=options.out,
            resume=options.resume,
            cache=options.cache,
            workers=options.workers,
        )
        began = {**asked.arguments, "parent": parent.weights_sha256}
        held.enter_context(held_folder(work, began, data.data, options.history))
        write_splits(options.out, table)
        pixels = films_of(table, backbone.preprocess, work, here)
        rows = rows_of_splits(table, pixels, options.judge_width)
        warn_of_other_films(parent, len(rows["train"]))
        refuse_overlap(table, rows)
        folder, used = work.features, np.concatenate(list(rows.values()))
        features = features_of(backbone, pixels, folder, used)
        recipe = None
        if options.choose_on == "all":
            before = parent.config["cft"]["provenance"]
            before = before.get("stage_1") or before
            place = {"history": options.history}
            history = options_of(HistoryOptions, before["arguments"], place)
            recipe = recipe_again(
                *(before, backbone, pixels, folder, features, table, rows["train"]),
                History.of(history, data, table.label_names),
            )
        tables = {side: table.subset(r) for side, r in rows.items()}
        films = {
            side: Films(Rows(features.z, r), tables[side].y, tables[side].patients)
            for side, r in rows.items()
        }
        settings = TuneSettings(
            options.method, options.fitness, options.loss, options.seed, options.preset == "paper"
        )
        finished = Finished(work.last, made_from(parent, features, tables))
        with Stop() as stop:
            task = Task(
                films["train"],
                films["valid"],
                Head(features.weights, features.biases, table.label_names),
                settings,
                finished,
                stop,
                here.device,
                recipe,
                place_of(folder / features.key, "metric", rows["train"], computed_on(here.device)),
            )
            for label, reason in task.skipped.items():
                logger.info("%s keeps its trained regression: %s", label, reason)
            tuned = method_of(settings).tune(task)
        outcome = outcome_of(task, tuned, tables["valid"], tables["test"], films["test"].z, others)
        facts = provenance(asked, table, rows)
        write_folder(options.out, parent, backbone.network, tuned, outcome, facts)
    print(fine_tuning(outcome.results))
    print(f"wrote the model folder {options.out}")
    push_from_arguments(asked.push, options.out)


def write_folder(
    out: Path,
    parent: ModelFolder,
    network: Network,
    tuned: Tuned,
    outcome: Outcome,
    provenance: Mapping[str, Any],
) -> None:
    """Write the model folder, the report and the history of the searches."""
    methods = dict(zip(tuned.head.label_names, tuned.methods, strict=True))
    config = copy.deepcopy(parent.config)
    config["cft"] = {
        **config.get("cft", {}),
        "categories": kept_normal_maps(
            outcome.categories, config.get("cft", {}).get("categories", {}), methods
        ),
        "provenance": {**provenance, "methods": methods},
        "metrics": rounded(outcome.metrics),
    }
    state = with_head(parent, network, tuned.head)
    write_model_folder(out, state_dict=state, config=config, card=model_card(config))
    usable(out)
    results = {**outcome.results, "parent": parent.weights_sha256}
    atomic_write(out / "report.json", json.dumps(results, indent=2) + "\n")
    if tuned.history:
        atomic_write(out / "search.csv", search_csv(tuned.history))


def the_parents_table(asked: Asked) -> LabelTable:
    """The films that the parent was trained on, with its splits and its categories."""
    splits = read_splits(asked.options.model) if asked.as_split else None
    table = table_of(asked.data, asked.data_seed, splits=splits)
    for note in table.notes:
        logger.info("%s", note)
    check_splits(table)
    refuse_overlap(table, {side: np.flatnonzero(table.split == side) for side in SPLITS})
    return table.with_labels(asked.parent.label_names)


def refuse_fine_tuned(name: Path, parent: ModelFolder) -> None:
    """Raise if stage 2 has changed the parent already.

    It was fitted to, or chosen by, validation films; on these its scores are too good, and what
    they would choose and calibrate now would be wrong.
    """
    methods = parent.config.get("cft", {}).get("provenance", {}).get("methods", {})
    if set(methods.values()) - {"original"}:
        raise TrainingError(
            f"{name} has been through stage 2, so its validation films can judge nothing more; "
            "begin from the model of stage 1"
        )


def warn_of_other_films(parent: ModelFolder, films: int) -> None:
    """Say so if the parent was trained on another number of films."""
    splits = parent.config.get("cft", {}).get("provenance", {}).get("splits", {})
    trained = splits.get("train", {}).get("films", films)
    if trained != films:
        logger.warning(
            "%d training films are here, and the parent was trained on %d: unless it is the same "
            "data, films that trained it may test it",
            *(films, trained),
        )


def made_from(parent: ModelFolder, features: Features, tables: Mapping[str, LabelTable]) -> str:
    """Names what decides a fit: weights, pixels, and the films and labels that fit and choose."""
    digest = hashlib.sha256((parent.weights_sha256 + features.key).encode())
    for side in ("train", "valid"):
        table = tables[side]
        digest.update(np.nan_to_num(table.y, nan=-1).tobytes())
        digest.update(json.dumps([side, table.names.tolist(), table.patients.tolist()]).encode())
    return digest.hexdigest()[:16]


def refuse_overlap(table: LabelTable, rows: Mapping[str, np.ndarray]) -> None:
    """Raise if a patient's films are both chosen by and measured on, or nothing can choose."""
    if not len(rows["valid"]):
        raise TrainingError("there are no validation films, so nothing can be chosen or calibrated")
    people = {side: set(table.patients[r].tolist()) for side, r in rows.items()}
    for first, second in (("valid", "test"), ("train", "valid"), ("train", "test")):
        shared = people[first] & people[second]
        if shared:
            raise TrainingError(
                f"{len(shared)} patients have films in {first} and in {second}, so what is "
                "measured would be too good; leave --shared-patients at skip"
            )


def provenance(asked: Asked, table: LabelTable, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Where the model comes from: this stage, and in ``stage_1`` what stage 1 says of itself."""
    before = asked.parent.config.get("cft", {}).get("provenance", {})
    kept = [
        *("command", "label_policy", "seed", "best_epoch", "frozen", "arguments", "versions"),
        *("start", "teachers", "joined", "history", "date"),
    ]
    return {
        **provenance_of(table, rows),
        "stage": "cft",
        "parent": asked.parent.weights_sha256,
        "command": asked.command,
        "arguments": asked.arguments,
        "seed": asked.options.seed,
        "label_policy": {"unknown": "ignore", "uncertain": "ignore", "overrides": {}},
        # A parent that stage 2 left as it was says what its own parent was.
        "stage_1": before.get("stage_1") or {key: before[key] for key in kept if key in before},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 failed; wrong usage exits with 2)."""
    return exit_code(
        *("train.cft", lambda: work_through(argv), *ERRORS),
        interrupted="add --resume to go on",
    )


if __name__ == "__main__":
    sys.exit(main())
