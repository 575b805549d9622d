"""The loop of stage 1, from a batch to the next checkpoint, in one function: `train`."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cft.files import atomic_write
from train.command import Stop
from train.datasets.labels import LabelTable
from train.errors import Stopped, TrainingError
from train.evaluation.epoch_scores import keep_epoch
from train.losses import loss_named
from train.metrics.ranking import auroc, average_precision
from train.run_folder import LOG
from train.stage1.checkpoint import save_checkpoint
from train.stage1.layers import choose_trained, rest_frozen, set_rates
from train.stage1.run import NETWORK, Batch, Run, State
from train.stage1.schedule import learning_rate
from train.stage1.teacher import answers_of

# How often, in steps, the loss is read from the device and the processes ask each other whether to
# stop; in between the device is not waited for.
_LOOK_EVERY = 16


def train(run: Run, state: State, stop: Stop) -> Iterator[dict[str, Any]]:
    """Train to the end from wherever the state is; yields the record of each epoch.

    When a record is yielded, the checkpoint, ``log.jsonl`` and the epoch's validation scores are on
    disk.

    Parameters
    ----------
    run
        Settings and data.
    state
        Where the run is; moved in place.
    stop
        Says whether the user asked for the end.

    Raises
    ------
    Stopped
        After saving the state, if the user asked for it.
    TrainingError
        If the loss is no longer a number, or validation is undefined.
    """
    settings, here = run.settings, run.here
    # The same tensors with other machinery around them.
    network: nn.Module = state.network
    if run.work.compile:  # a module again, which the types of torch.compile do not say
        network = cast(nn.Module, torch.compile(network))
    compute: nn.Module | None = None

    while state.step < run.steps and not out_of_patience(run, state):
        epoch, first = divmod(state.step, run.steps_per_epoch)
        began = saved = time.monotonic()
        if choose_trained(state.network, state.optimizer, settings, epoch) or compute is None:
            compute = here.wrap(network)  # again: what exchanges gradients has to know which
        compute.train()
        rest_frozen(state.network)
        for _ in steps(run, state, compute, epoch, first):
            if state.step % _LOOK_EVERY == 0:
                _check_loss(run, state)
                if here.any(stop.asked):
                    state.save(run)
                    raise Stopped
                if time.monotonic() - saved > 60 * run.work.checkpoint_minutes:
                    state.save(run)
                    saved = time.monotonic()

        _check_loss(run, state)
        seconds, made = time.monotonic() - began, run.steps_per_epoch - first
        scores = run.scores(state.average, "valid", settings.precision)
        record = {
            "epoch": epoch + 1,
            "step": state.step,
            "loss": here.sum_(state.loss_sum.clone()).item() / run.steps_per_epoch,
            "lr": max(group["lr"] for group in state.optimizer.param_groups),
            "valid": figures_of(scores, run.table.subset(run.rows["valid"])),
            "seconds": round(seconds, 2),
            "films_per_second": round(made * settings.batch_size / seconds, 1),
        }
        state.loss_sum.zero_()
        state.history.append(record)
        _keep(run, state, scores)
        yield record
        if here.any(stop.asked) and state.step < run.steps:
            raise Stopped


def steps(run: Run, state: State, compute: nn.Module, epoch: int, first: int = 0) -> Iterator[None]:
    """Make the optimiser steps of an epoch, each when it is asked for.

    Parameters
    ----------
    run
        Settings and data.
    state
        Where the run is; moved in place.
    compute
        The state's network, with what compiles it or exchanges gradients around it.
    epoch, first
        From 0: which epoch, and its first step that is still to be made.
    """
    settings, here = run.settings, run.here
    loss_of = loss_named(settings.loss)
    means, values = state.averaged()
    for batch in _with_progress(run, epoch, first):
        set_rates(state.optimizer, _learning_rate(run, state))

        torch.manual_seed(run.seed(NETWORK, state.step, here.rank))  # for dropout
        total = torch.zeros((), device=here.device)
        for number, part in enumerate(batch.parts, start=1):
            films = part.augmented()
            with _exchange(compute, last=number == len(batch.parts)):
                logits = run.logits_of_heads(compute, films, settings.precision)
                losses = loss_of(logits, part.targets)
                if run.teachers:
                    answers = answers_of(run.teachers, films, settings.precision)
                    taught = loss_of(logits, answers)
                    losses = torch.lerp(losses, taught, settings.teacher_weight)
                loss = losses.mean(0).sum() / batch.known
                (loss * here.world).backward()  # between processes gradients are averaged
            total += loss.detach()
        state.loss_sum += total

        if settings.clip:
            nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1

        # Early on the average would remember the start, so its memory is short at first.
        decay = min(settings.ema, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            torch._foreach_lerp_(means, values, 1 - decay)
        yield


def _with_progress(run: Run, epoch: int, first: int) -> Iterator[Batch]:
    """The batches of an epoch from a step on, with a progress bar."""
    return tqdm(
        run.batches(epoch, first),
        desc=f"epoch {epoch + 1}/{run.settings.epochs}",
        initial=first,
        total=run.steps_per_epoch,
        disable=not run.here.is_main,
        leave=False,
    )


def _learning_rate(run: Run, state: State) -> float:
    settings, scores = run.settings, state.validation_scores(run.settings.metric)
    return learning_rate(
        *(settings.schedule, settings.lr, state.step, run.steps, settings.warmup, scores),
        settings.final_rate,
    )


def _exchange(compute: nn.Module, last: bool) -> contextlib.AbstractContextManager:
    """Gradients travel between processes once a batch, with its last part."""
    if last or not isinstance(compute, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return compute.no_sync()


def _check_loss(run: Run, state: State) -> None:
    if not math.isfinite(run.here.sum_(state.loss_sum.clone()).item()):
        epoch = (state.step - 1) // run.steps_per_epoch + 1
        raise TrainingError(
            f"the loss is no longer a number at step {state.step} (epoch {epoch}); the last good "
            f"checkpoint is kept in {run.work.last.parent}: start again with a smaller --lr than "
            f"{run.settings.lr:g}, or with --precision float32"
        )


def _keep(run: Run, state: State, scores: np.ndarray) -> None:
    """Write the validation scores, the state, the log and, if this epoch is the best so far, its
    average. The scores come first: an epoch that the state knows has them.
    """
    if run.here.is_main:
        table = run.table.subset(run.rows["valid"])
        keep_epoch(run.work.out, len(state.history), scores, table.y, table.label_names)
    if run.here.is_main and state.best_epoch(run.settings.metric) == len(state.history):
        facts = {key: state.history[-1][key] for key in ("epoch", "valid")}
        save_checkpoint(run.work.best, facts, {"average": state.average})
    state.save(run)
    write_log(run, state)


def write_log(run: Run, state: State) -> None:
    """Write ``log.jsonl`` from the state, whose history is what the checkpoint holds."""
    if run.here.is_main:
        lines = "".join(json.dumps(record) + "\n" for record in state.history)
        atomic_write(run.work.out / LOG, lines)


def out_of_patience(run: Run, state: State) -> bool:
    """Whether so many epochs in a row brought no new best that the run ends early."""
    waited = len(state.history) - state.best_epoch(run.settings.metric)
    return bool(run.settings.patience) and waited >= run.settings.patience


def figures_of(scores: np.ndarray, table: LabelTable) -> dict[str, Any]:
    """Mean AUROC and average precision over the categories that have known labels of both kinds.

    Parameters
    ----------
    scores
        (N, C) logits of the table's films.

    Raises
    ------
    TrainingError
        If there is no such category.
    """
    columns = torch.from_numpy(scores).T.contiguous(), torch.from_numpy(table.y).T.contiguous()
    areas, precisions = auroc(*columns).numpy(), average_precision(*columns).numpy()
    defined = ~np.isnan(areas)
    if not defined.any():
        raise TrainingError(
            "no category has both a positive and a negative validation film, so no epoch can be "
            "called the best"
        )
    return {
        "auroc": float(areas[defined].mean()),
        "map": float(precisions[defined].mean()),
        "categories": {
            label: float(areas[c]) for c, label in enumerate(table.label_names) if defined[c]
        },
    }
