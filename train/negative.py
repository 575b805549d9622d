"""Stage 1: train a network on partially labelled films. ``python -m train.negative``

In Negative mode, the default, what is unknown counts as negative; see ``--unknown`` and
``--uncertain`` for the other policies. The result is a model folder. Without ``--data`` the run is
a rehearsal on phantoms drawn by code.

One run is a pure function of its settings: the order of the films, their augmentation and dropout
are derived from (seed, step) and never from what happened before, so an interrupted run that is
resumed ends with the same bytes as one that was not. With ``torchrun --nproc-per-node N -m
train.negative ...`` each global batch is divided between N processes; the result is that of one
process, up to rounding.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cft.files import atomic_write
from train.command import Stop, add_options, as_json, command_of, exit_code, options_of
from train.datasets import DataOptions, HistoryOptions, PolicyOptions, read_dataset, table_of
from train.datasets.history import History
from train.datasets.labels import SHUFFLED, LabelTable, shuffle_rows
from train.datasets.pixels import Pixels
from train.datasets.splits import check_splits, write_splits
from train.errors import ERRORS, UsageError
from train.evaluation.of_run import calibrate, evaluate, test_tables, with_evidence, with_training
from train.evaluation.seen import Splits
from train.losses import loss_named
from train.processes import processes
from train.publishing.export import export, provenance_of, round_weights
from train.publishing.gate import gate_of_run
from train.publishing.normal_maps import normal_maps, with_normal_maps
from train.publishing.push_options import (
    add_push_arguments,
    check_login,
    push_from_arguments,
)
from train.run_folder import LOG, Work, films_of, held_folder
from train.stage1.augment import Augmentation
from train.stage1.checkpoint import load_checkpoint, save_checkpoint
from train.stage1.frozen import FrozenRun
from train.stage1.join import JoinRun, Member, check_films
from train.stage1.loop import train, write_log
from train.stage1.model_args import model_args_in
from train.stage1.network import preprocess_of
from train.stage1.presets import PRESETS
from train.stage1.run import Run, State
from train.stage1.settings import Settings
from train.stage1.start import check_architecture, origin_of
from train.stage1.teacher import Teacher, notes_on
from train.stage1.track import tracker

if TYPE_CHECKING:
    from cft.model.network import Network

logger = logging.getLogger("train.negative")


@dataclass(frozen=True)
class Asked:
    """What the command line asks for.

    Attributes
    ----------
    settings, work, data, labels, history
        The options.
    push
        The namespace that ``--push`` and what goes with it are in.
    arguments
        The options that decide the result, as JSON.
    command
        The command that repeats the run elsewhere.
    """

    settings: Settings
    work: Work
    data: DataOptions
    labels: PolicyOptions
    history: HistoryOptions
    push: argparse.Namespace
    arguments: dict[str, Any]
    command: str


def parse(argv: Sequence[str] | None) -> Asked:
    """The command line; a preset's values are defaults, so that an option given beside it wins."""
    parser = _parser()
    push = parser.parse_args(argv)
    given = vars(push)
    name = push.preset or (None if "data" in given else "rehearsal")
    preset = PRESETS[name] if name else {}
    kinds = (Settings, DataOptions, PolicyOptions, HistoryOptions)
    settings, data, labels, history = asked = [options_of(kind, preset, given) for kind in kinds]
    usual = as_json(*(options_of(kind, preset) for kind in kinds))
    trained = settings.freeze or settings.teacher or settings.shuffle_labels or history.history
    if settings.join and trained:
        parser.error(
            "--join trains nothing: leave out --freeze, --teacher, --shuffle-labels and --history"
        )
    check_freeze(settings, parser)
    if not history.history and {"history_share", "history_reach"} & given.keys():
        parser.error("--history-share and --history-reach are for --history")
    for check, text in (
        (check_architecture, settings.arch),
        (model_args_in, settings.model_args),
        (loss_named, settings.loss),
        (Augmentation.named, settings.augment),
    ):
        try:
            check(text)
        except ValueError as error:
            parser.error(str(error))
    if settings.freeze_below and settings.layer_decay == 1:
        parser.error("--freeze-below compares the factors of --layer-decay, which is not given")
    arguments = as_json(*asked)
    command = command_of("python -m train.negative", arguments, usual, data.data, name)
    command += " --history TABLE" * bool(history.history)
    command += " --teacher TEACHER" * len(settings.teacher)
    command += " --join" * bool(settings.join) + " RUN" * len(settings.join)
    work = options_of(Work, given)
    return Asked(settings, work, data, labels, history, push, arguments, command)


def check_freeze(settings: Settings, parser: argparse.ArgumentParser) -> None:
    """Refuse, as wrong usage, options that do not go with ``--freeze``, or not without it."""
    extra = settings.freeze_copies or settings.freeze_strength
    if extra and not settings.freeze:
        parser.error("--freeze-copies and --freeze-strength are for --freeze")
    if not settings.freeze:
        return
    if settings.init == "random":
        parser.error("--freeze needs --init: a network that is never trained has to know something")
    if settings.loss != "bce":
        parser.error(f"--freeze fits logistic regressions, whose loss is bce, not {settings.loss}")
    if settings.store != "float32":
        parser.error("--freeze keeps the network as it is: leave out --store")
    if settings.mix != "none" or settings.teacher:
        parser.error("--freeze fits films and labels as they are: leave out --mix and --teacher")
    if settings.freeze_copies and settings.augment == "none":
        parser.error("--freeze-copies: with --augment none a copy is the film itself")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.negative",
        description="Stage 1: train a network on partially labelled films; writes a model folder. "
        "Without --data: a rehearsal on phantoms drawn by code, in about a minute on two cores.",
    )
    parser.add_argument("--preset", choices=PRESETS, help="a recipe; see train/stage1/presets.py")
    for title, kind in (
        ("the run", Settings),
        ("the work", Work),
        ("data", DataOptions),
        ("label policy", PolicyOptions),
        ("other films of a patient", HistoryOptions),
    ):
        add_options(parser.add_argument_group(title), kind)
    add_push_arguments(parser)
    return parser


def warn_of_missing_positives(table: LabelTable, y: np.ndarray) -> None:
    """Say which categories cannot be learnt; the others can."""
    positives = (y >= 0.5).sum(0)
    without = [label for label, n in zip(table.label_names, positives, strict=True) if n == 0]
    if without:
        logger.warning(
            "no training film is positive for %s: that output will mean nothing", ", ".join(without)
        )


def finish(
    run: Run, state: State, facts: Mapping[str, Any], others: Sequence[LabelTable]
) -> dict[str, Any]:
    """Calibrate and test the best epoch's average and write the model folder.

    The scores are computed in float32, as they are when the model is used.

    Parameters
    ----------
    run, state
        A run that has been trained.
    facts
        Command, arguments and label policy, for the provenance.
    others
        Tables of further labels of the same films to test on.

    Returns
    -------
    dict
        Name of a test set -> its figures.
    """
    load_checkpoint(run.work.best, {"average": state.average})
    best = {"best_epoch": state.best_epoch(run.settings.metric)}
    return conclude(
        *(run, state.average, lambda split: run.scores(state.average, split)),
        *({**facts, **best}, others),
    )


def conclude(
    run: Run,
    network: Network,
    scores_of: Callable[[str], np.ndarray],
    facts: Mapping[str, Any],
    others: Sequence[LabelTable],
    kept: Path | None = None,
) -> dict[str, Any]:
    """Calibrate and test a network and write the model folder; returns as `finish` does.

    Parameters
    ----------
    run
        A run that has come to its end.
    network
        What it made.
    scores_of
        Split -> (n, C) logits of its films.
    facts, others
        See `finish`.
    kept
        The folder of the network's features, if it is frozen; see `train.frozen.kept`.
    """
    if run.settings.store == "float16":
        round_weights(network)
    valid, tested = (run.table.subset(run.rows[split]) for split in ("valid", "test"))
    categories = calibrate(scores_of("valid"), valid)
    scores = scores_of("test")
    metrics = {
        table.dataset: evaluate(scores[rows], table, categories)
        for table, rows in test_tables(tested, others)
    }
    categories = with_evidence(categories, metrics)
    trained = run.table.y[run.rows["train"]]
    categories = with_training(categories, run.table.label_names, trained)
    if run.here.is_main:
        provenance = {**provenance_of(run.table, run.rows), **facts}
        names = run.table.label_names
        categories = with_normal_maps(categories, normal_maps(run, network, kept))
        gate = gate_of_run(network, run.preprocess, run.films, run.rows, run.settings.seed, kept)
        export(
            *(run.work.out, network, run.preprocess, names, categories, metrics, provenance, gate),
            half=run.settings.store == "float16",
        )
    return metrics


def work_through(argv: Sequence[str] | None) -> None:
    """The whole of ``python -m train.negative``."""
    asked = parse(argv)
    settings, work, data = asked.settings, asked.work, asked.data
    check_login(asked.push)
    if work.threads:
        torch.set_num_threads(work.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with processes(work.device) as here, logging_redirect_tqdm(), ExitStack() as held:
        logging.getLogger().setLevel(logging.INFO if here.is_main else logging.ERROR)
        table = table_of(data, settings.seed)
        others = [read_dataset(settings.also_test, data.data)] if settings.also_test else []
        members = [Member.of(name, table.label_names) for name in settings.join]
        if members:  # its input is that of its members
            settings = members[0].settings(settings)
        policy, origin = asked.labels.policy, origin_of(settings)
        y = policy.apply(table, settings.seed)
        if history := History.of(asked.history, data, table.label_names):
            own, y = y, history.apply(y, table)
            table = replace(table, notes=(*table.notes, history.note(own, y)))
        if settings.shuffle_labels:
            y = shuffle_rows(y, np.flatnonzero(table.split == "train"), settings.seed)
            table = replace(table, notes=(*table.notes, SHUFFLED))
        teachers = [Teacher.of(name, table.label_names, here.device) for name in settings.teacher]
        table = replace(table, notes=(*table.notes, *notes_on(teachers, table, data)))
        for note in table.notes:
            logger.info("%s", note)
        check_splits(table)
        warn_of_missing_positives(table, y[table.split == "train"])
        if here.is_main:
            hashes = {
                "teachers": [teacher.facts["weights_sha256"] for teacher in teachers],
                "join": [member.facts["weights_sha256"] for member in members],
                "history": history and history.sha256,
            }
            began = {**asked.arguments, **hashes}
            held.enter_context(held_folder(work, began, data.data, asked.history.history))
            write_splits(work.out, table)
        here.barrier()
        films = films_of(table, preprocess_of(settings), work, here)
        run = Run.of(settings, work, table, y, films, here, teachers)
        track = tracker(work.track if here.is_main else "none", work.out, vars(settings))
        facts = {
            "command": asked.command,
            "arguments": asked.arguments,
            "seed": settings.seed,
            "label_policy": policy.to_dict(),
            "start": origin,
            "teachers": [teacher.facts for teacher in teachers],
            **({"history": history.facts} if history else {}),
        }
        if settings.freeze:
            metrics = fit_frozen(run, films, track, facts, others)
        elif settings.join:
            metrics = join_runs(run, members, Splits(data, table.dataset), facts, others)
        else:
            state = begin(run)
            with Stop() as stop:
                for record in train(run, state, stop):
                    track(record)
                    say_epoch(record, run, state)
            metrics = finish(run, state, facts, others)
        if here.is_main:
            say_result(metrics, work)
            push_from_arguments(asked.push, work.out)


def fit_frozen(
    run: Run,
    films: Pixels,
    track: Callable[[dict[str, Any]], None],
    facts: Mapping[str, Any],
    others: Sequence[LabelTable],
) -> dict[str, Any]:
    """The whole of ``--freeze`` once the films are packed; returns as `finish` does."""
    if run.here.world > 1:
        raise UsageError("--freeze computes in one process; start it without torchrun")
    # A Ctrl-C ends this at once; what has been computed is found again.
    frozen = FrozenRun(run, films, run.work.features)
    records = []
    with Stop() as stop:
        for record in frozen.fit(stop):
            records.append(record)
            track(record)
            say_strength(record)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    atomic_write(run.work.out / LOG, lines)
    metrics = conclude(
        *(run, frozen.network, frozen.scores, {**facts, "frozen": frozen.facts}, others),
        kept=frozen.kept,
    )
    # As after training: another run needs another folder, or says --resume.
    save_checkpoint(run.work.last, frozen.facts, {"network": frozen.network.get_classifier()})
    return metrics


def join_runs(
    run: Run,
    members: Sequence[Member],
    splits: Splits,
    facts: Mapping[str, Any],
    others: Sequence[LabelTable],
) -> dict[str, Any]:
    """The whole of ``--join`` once the films are packed; returns as `finish` does."""
    if run.here.world > 1:
        raise UsageError("--join computes in one process; start it without torchrun")
    check_films(members, run, splits)
    together = JoinRun(run, members)
    records = []
    for record in together.records():
        records.append(record)
        name = f"run {len(records)}" if len(records) <= len(members) else "joined"
        valid = record["valid"]
        logger.info("%s  validation AUROC %.4f  mAP %.4f", name, valid["auroc"], valid["map"])
    atomic_write(run.work.out / LOG, "".join(json.dumps(record) + "\n" for record in records))
    metrics = conclude(run, together.network, together.scores, {**facts, "joined": records}, others)
    # As after training: another run needs another folder, or says --resume.
    save_checkpoint(run.work.last, {}, {"network": together.network.get_classifier()})
    return metrics


def say_strength(record: Mapping[str, Any]) -> None:
    """One line for a strength of the penalty."""
    found = record["cross_fitted"]
    logger.info(
        "strength %g  cross-fitted AUROC %.4f  mAP %.4f  (%d steps, %.1f s)",
        *(record["strength"], found["auroc"], found["map"], record["steps"], record["seconds"]),
    )


def begin(run: Run) -> State:
    """The state to train from: the last checkpoint's if the run is resumed, else a new one."""
    if not (run.work.resume and run.work.last.exists()):
        return State.start(run)
    state = State.resumed(run)
    write_log(run, state)  # the run may have been killed after its checkpoint and before its log
    logger.info("going on at step %d of %d", state.step, run.steps)
    return state


def say_epoch(record: Mapping[str, Any], run: Run, state: State) -> None:
    """One line for an epoch."""
    metric, valid = run.settings.metric, record["valid"]
    logger.info(
        "epoch %d/%d  loss %.4f  validation AUROC %.4f  mAP %.4f  (best %s %.4f, epoch %d)",
        *(record["epoch"], run.settings.epochs, record["loss"], valid["auroc"], valid["map"]),
        *(metric, max(state.validation_scores(metric)), state.best_epoch(metric)),
    )


def say_result(metrics: Mapping[str, Any], work: Work) -> None:
    """Where the model is, and a line for each test set."""
    logger.info("wrote the model folder %s", work.out)
    for name, result in metrics.items():
        mean = result["subsets"]["all"]
        logger.info(
            "test AUROC, labels of %s, %d films: mean %.4f (%.4f to %.4f)",
            *(name, result["films"], mean["auroc"], mean["ci_low"], mean["ci_high"]),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 failed; wrong usage exits with 2)."""
    return exit_code(
        *("train.negative", lambda: work_through(argv), *ERRORS),
        interrupted="add --resume to go on",
    )


if __name__ == "__main__":
    sys.exit(main())
