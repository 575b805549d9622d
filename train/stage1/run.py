"""One run of stage 1: the data, the networks and the loop."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cft.files import atomic_write
from train.command import Stop
from train.datasets.labels import LabelTable
from train.datasets.pixels import Pixels
from train.errors import Stopped, TrainingError
from train.losses import loss_named
from train.metrics.ranking import auroc, average_precision
from train.precision import use_bfloat16
from train.processes import Processes
from train.run_folder import LOG, Work, rows_of_splits
from train.stage1.augment import Augmentation, augment
from train.stage1.checkpoint import load_checkpoint, read_facts, save_checkpoint
from train.stage1.distributed import share_batch_statistics
from train.stage1.network import build, optimizer_for, preprocess_of
from train.stage1.schedule import learning_rate
from train.stage1.settings import Settings
from train.stage1.track import tracker

logger = logging.getLogger(__name__)

# How often, in steps, the loss is read from the device and the processes ask each other whether to
# stop; in between the device is not waited for.
_LOOK_EVERY = 16

# Seeds of different purposes are kept apart by their own streams.
_ORDER, _AUGMENTATION, _NETWORK = range(3)


class Run:
    """One training run: the data, the networks and the state between two steps.

    Parameters
    ----------
    settings, work
        What the run is, and how it is carried out.
    table
        The films, with their splits.
    y
        (N, C) float32 training targets; NaN contributes nothing.
    pixels
        The table's films, packed.
    here
        This process among the others.

    Attributes
    ----------
    network, average
        What is trained, and the exponential moving average of its tensors, which is what is
        validated and kept.
    step
        Optimiser steps made so far.
    history
        One record an epoch, as in ``log.jsonl``.
    """

    def __init__(
        self,
        settings: Settings,
        work: Work,
        table: LabelTable,
        y: np.ndarray,
        pixels: Pixels,
        here: Processes,
    ):
        self.settings, self.work, self.table, self.here = settings, work, table, here
        self.preprocess = preprocess_of(settings)
        self.films = pixels.loader(here.device, work.pixels)
        self.targets = torch.from_numpy(y).to(here.device)
        self.rows = rows_of_splits(table, pixels, settings.judge_width)
        self.train_rows, self.valid_rows = self.rows["train"], self.rows["valid"]
        self.steps_per_epoch = len(self.train_rows) // settings.batch_size
        self.steps = self.steps_per_epoch * settings.epochs
        self.augmentation = Augmentation.named(settings.augment)
        self.loss = loss_named(settings.loss)
        self._check_sizes()
        torch.manual_seed(_seed(settings.seed, _NETWORK))
        network = build(settings, table.label_names, y[self.train_rows])
        network.to(here.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.network = share_batch_statistics(network, here.device) if here.world > 1 else network
        self.optimizer = optimizer_for(self.network, settings)
        # What the loop calls: the same tensors with other machinery around them.
        self.compute = here.wrap(torch.compile(self.network) if work.compile else self.network)
        trained = self.network.state_dict()
        pairs = [(mean, trained[name]) for name, mean in self.average.state_dict().items()]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self.step = 0
        self.loss_sum = torch.zeros((), device=here.device)  # over this epoch's steps
        self.history: list[dict[str, Any]] = []
        self.track = tracker(work.track if here.is_main else "none", work.out, vars(settings))

    def train(self, stop: Stop) -> None:
        """Train to the end, or until a stop is asked for, from wherever the run is.

        Raises
        ------
        Stopped
            After saving the state.
        TrainingError
            If the loss is no longer a number.
        """
        while self.step < self.steps and not self._out_of_patience():
            self._epoch(stop)

    def _epoch(self, stop: Stop) -> None:
        """The rest of the epoch that the run is in, its validation and its checkpoint."""
        epoch, first = divmod(self.step, self.steps_per_epoch)
        order = self._order(epoch)
        films = self.films.batches(self._my_rows(order, first))
        started = saved = time.monotonic()
        self.compute.train()
        for position in tqdm(
            range(first, self.steps_per_epoch),
            desc=f"epoch {epoch + 1}/{self.settings.epochs}",
            initial=first,
            total=self.steps_per_epoch,
            disable=not self.here.is_main,
            leave=False,
        ):
            self._step(order[self._batch(position)], films)
            if self.step % _LOOK_EVERY == 0:
                self._check_loss()
                if self.here.any(stop.asked):
                    self._save_and_stop()
                if time.monotonic() - saved > 60 * self.work.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        self._check_loss()
        self._close_epoch(epoch, time.monotonic() - started, self.steps_per_epoch - first)
        if self.here.any(stop.asked) and self.step < self.steps:
            self._save_and_stop()

    def _step(self, rows: np.ndarray, films: Iterator[torch.Tensor]) -> None:
        """One optimiser step on one global batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.loss_sum += self._accumulate(rows, films)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        # Early on the average would remember the random start, so its memory is short at first.
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(*map(list, zip(*self._averaged, strict=True)), 1 - decay)

    def _accumulate(self, rows: np.ndarray, films: Iterator[torch.Tensor]) -> torch.Tensor:
        """Forward and backward of one global batch; returns the loss of this process's share."""
        settings, here = self.settings, self.here
        torch.manual_seed(_seed(settings.seed, _NETWORK, self.step, here.rank))  # for dropout
        generator = torch.Generator().manual_seed(_seed(settings.seed, _AUGMENTATION, self.step))
        changes = self.augmentation.draw(len(rows), generator) if self.augmentation else None
        targets = self.targets[torch.from_numpy(rows).to(here.device)]
        # Every process has all labels of the batch, so the divisor needs no communication.
        known = (~targets.isnan()).sum().clamp(min=1)
        total = torch.zeros((), device=here.device)
        for part in range(settings.accumulate):
            mine = self._share(part)
            batch = next(films).float() / 255
            if changes:
                batch = augment(batch, {k: v[mine].to(here.device) for k, v in changes.items()})
            with self._exchange(part == settings.accumulate - 1):
                logits = self._logits(self.compute, batch, settings.precision)
                loss = self.loss(logits, targets[mine]).sum() / known
                (loss * here.world).backward()  # between processes gradients are averaged
            total += loss.detach()
        return total

    def _logits(self, network: nn.Module, films: torch.Tensor, precision: str) -> torch.Tensor:
        """(n, 1, H, W) float32 in [0, 1] -> (n, C) float32."""
        batch = self.preprocess.normalize(films).contiguous(memory_format=torch.channels_last)
        low = use_bfloat16(precision, self.here.device)
        with torch.autocast(self.here.device.type, torch.bfloat16, enabled=low):
            return network(batch).float()

    @contextmanager
    def _exchange(self, now: bool) -> Iterator[None]:
        """Gradients travel between processes once a batch, with its last part."""
        if now or self.here.world == 1:
            yield
        else:
            with self.compute.no_sync():
                yield

    def _order(self, epoch: int) -> np.ndarray:
        """The training rows in the order of an epoch."""
        generator = torch.Generator().manual_seed(_seed(self.settings.seed, _ORDER, epoch))
        return self.train_rows[torch.randperm(len(self.train_rows), generator=generator).numpy()]

    def _batch(self, position: int) -> slice:
        """Where a step's global batch lies in the order; the last films may not fill a batch."""
        return slice(position * self.settings.batch_size, (position + 1) * self.settings.batch_size)

    def _share(self, part: int) -> slice:
        """Where a part of this process's share lies in the global batch."""
        size = self.settings.batch_size // (self.here.world * self.settings.accumulate)
        start = (part * self.here.world + self.here.rank) * size
        return slice(start, start + size)

    def _my_rows(self, order: np.ndarray, first: int) -> Iterator[np.ndarray]:
        """This process's rows of an epoch, part by part, from a step on."""
        for position in range(first, self.steps_per_epoch):
            for part in range(self.settings.accumulate):
                yield order[self._batch(position)][self._share(part)]

    def _learning_rate(self) -> float:
        s = self.settings
        scores = [record["valid"][s.metric] for record in self.history]
        return learning_rate(s.schedule, s.lr, self.step, self.steps, s.warmup, scores)

    def _close_epoch(self, epoch: int, seconds: float, steps: int) -> None:
        """Validate the average, write the record, the checkpoint and, if it is one, the best."""
        loss = self.here.sum_(self.loss_sum.clone()).item() / self.steps_per_epoch
        self.loss_sum.zero_()
        scores = self.scores(self.valid_rows, self.settings.precision)
        valid = validation(scores, self.table.subset(self.valid_rows))
        self.history.append(
            {
                "epoch": epoch + 1,
                "step": self.step,
                "loss": loss,
                "lr": self.optimizer.param_groups[0]["lr"],
                "valid": valid,
                "seconds": round(seconds, 2),
                "films_per_second": round(steps * self.settings.batch_size / seconds, 1),
            }
        )
        if self.here.is_main and self.best_epoch == epoch + 1:
            facts = {"epoch": epoch + 1, "valid": valid}
            save_checkpoint(self.work.best, facts, {"average": self.average})
        self.save()
        if self.here.is_main:
            lines = "".join(json.dumps(record) + "\n" for record in self.history)
            atomic_write(self.work.out / LOG, lines)
            self.track(self.history[-1])
            s, best = self.settings, max(r["valid"][self.settings.metric] for r in self.history)
            logger.info(
                "epoch %d/%d  loss %.4f  validation AUROC %.4f  mAP %.4f  (best %s %.4f, epoch %d)",
                *(epoch + 1, s.epochs, loss, valid["auroc"], valid["map"]),
                *(s.metric, best, self.best_epoch),
            )

    @torch.inference_mode()
    def scores(self, rows: np.ndarray, precision: str) -> np.ndarray:
        """Logits (n, C) of the average for some rows; each process computes its share of them."""
        mine = np.arange(self.here.rank, len(rows), self.here.world)
        size = 2 * self.settings.batch_size
        parts = [mine[start : start + size] for start in range(0, len(mine), size)]
        shape = (len(rows), len(self.table.label_names))
        result = torch.zeros(shape, device=self.here.device)
        films = self.films.batches(rows[part] for part in parts)
        for part, batch in zip(parts, films, strict=True):
            where = torch.from_numpy(part).to(self.here.device)
            result[where] = self._logits(self.average, batch.float() / 255, precision)
        return self.here.sum_(result).cpu().numpy()  # the others' rows are zero

    @property
    def best_epoch(self) -> int:
        """The epoch of the best validation so far; the first of equals; 0 before any."""
        scores = [record["valid"][self.settings.metric] for record in self.history]
        return int(np.argmax(scores)) + 1 if scores else 0

    def _out_of_patience(self) -> bool:
        waited = len(self.history) - self.best_epoch
        return bool(self.settings.patience) and waited >= self.settings.patience

    def save(self) -> None:
        """Write the state of the run; `resume` goes on from it exactly."""
        loss_sum = self.here.sum_(self.loss_sum.clone()).item()
        if self.here.is_main:
            facts = {"step": self.step, "loss_sum": loss_sum, "history": self.history}
            networks = {"network": self.network, "average": self.average}
            save_checkpoint(self.work.last, facts, networks, self.optimizer)

    def resume(self) -> None:
        """Go on from the last checkpoint.

        Raises
        ------
        CheckpointError
            If there is none, or it does not fit.
        """
        facts = read_facts(self.work.last)
        networks = {"network": self.network, "average": self.average}
        load_checkpoint(self.work.last, networks, self.optimizer)
        self.step, self.history = facts["step"], facts["history"]
        # The sum of all processes' losses is one number; the first process holds it.
        self.loss_sum.fill_(facts["loss_sum"] if self.here.is_main else 0.0)

    def _check_loss(self) -> None:
        if not math.isfinite(self.here.sum_(self.loss_sum.clone()).item()):
            epoch = (self.step - 1) // self.steps_per_epoch + 1
            raise TrainingError(
                f"the loss is no longer a number at step {self.step} (epoch {epoch}); the last "
                f"good checkpoint is kept in {self.work.last.parent}: start again with a smaller "
                f"--lr than {self.settings.lr:g}, or with --precision float32"
            )

    def _save_and_stop(self) -> None:
        self.save()
        raise Stopped

    def _check_sizes(self) -> None:
        s, parts = self.settings, self.here.world * self.settings.accumulate
        if s.batch_size % parts:
            raise TrainingError(
                f"--batch-size {s.batch_size} cannot be divided by {self.here.world} process(es) "
                f"times --accumulate {s.accumulate}"
            )
        if not self.steps_per_epoch:
            raise TrainingError(
                f"there are {len(self.train_rows)} training films, fewer than one batch of "
                f"{s.batch_size}; make --batch-size smaller"
            )
        if not len(self.valid_rows):
            raise TrainingError("there are no validation films, so no best epoch can be chosen")


def validation(scores: np.ndarray, table: LabelTable) -> dict[str, Any]:
    """Mean AUROC and average precision over the categories that have known labels of both kinds."""
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


def _seed(*numbers: int) -> int:
    """One seed from several numbers, such that neighbours do not share a stream."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
