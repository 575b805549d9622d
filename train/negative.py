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

import copy
import dataclasses
import json
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cft.model_folder import CARD, CONFIG, WEIGHTS, ModelFolderError, atomic_write
from cft.preprocess import Preprocess
from train.augment import Augmentation, augment
from train.checkpoint import CheckpointError, load_checkpoint, read_facts, save_checkpoint
from train.command import Stopped, exit_code
from train.datasets import dataset_from_arguments, read_dataset
from train.distributed import Processes, processes, share_batch_statistics
from train.export import calibrate, evaluate, export, provenance_of, test_tables
from train.labels import DatasetError, LabelTable, policy_from_arguments
from train.losses import loss_named
from train.network import build, optimizer_for, preprocess_of, use_bfloat16
from train.pixels import Pixels, pack, resized
from train.push import PUSH_OPTIONS, PushError, check_login, push_from_arguments
from train.ranking import auroc, average_precision
from train.schedule import learning_rate
from train.settings import Settings, TrainingError, Work, parse
from train.track import tracker

logger = logging.getLogger("train.negative")

# How often, in steps, the loss is read from the device and the processes ask each other whether to
# stop; in between the device is not waited for.
_LOOK_EVERY = 16

# Seeds of different purposes are kept apart by their own streams.
_ORDER, _AUGMENTATION, _NETWORK = range(3)

_RUN, _LOG = "run.json", "log.jsonl"

# Key of a run's file under which its data's place is; the model folder does not hold it.
_PLACE = "data"

#: What either stage may say to the user and end with.
ERRORS = DatasetError, TrainingError, CheckpointError, ModelFolderError, PushError, Stopped


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
            atomic_write(self.work.out / _LOG, lines)
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


class Stop:
    """Remembers that SIGINT or SIGTERM came; the loop looks at `asked` between two steps."""

    def __init__(self):
        self.asked = False

    def __enter__(self) -> Stop:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.asked:  # the second time the user means it
            raise KeyboardInterrupt
        self.asked = True
        print("stopping; once more: at once, without saving", file=sys.stderr)


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


def rows_of_splits(table: LabelTable, pixels: Pixels, judge_width: int) -> dict[str, np.ndarray]:
    """Split -> the rows that take part: readable, and wide enough to judge a model by."""
    usable = np.ones(len(table), bool)
    usable[list(pixels.unreadable)] = False
    wide = np.ones(len(table), bool)
    if judge_width:
        if "width" not in table.attributes:
            raise TrainingError(f"--judge-width: {table.dataset} does not say how wide films are")
        wide = table.attributes["width"] >= judge_width
    return {
        split: np.flatnonzero((table.split == split) & usable & (wide | (split == "train")))
        for split in ("train", "valid", "test")
    }


def films_of(table: LabelTable, preprocess: Preprocess, work: Work, here: Processes) -> Pixels:
    """The table's films at the network's size; the main process packs them, the others wait."""
    if table.pixels is not None:
        return resized(table.pixels, preprocess)
    cache = work.cache or work.out.parent / "pixels"
    if not here.is_main:
        here.barrier()
    try:
        pixels = pack(table.images, preprocess, cache, work.workers, progress=here.is_main)
    except ValueError as error:
        raise TrainingError(str(error)) from None
    if here.is_main:
        here.barrier()
        for row, reason in list(pixels.unreadable.items())[:5]:
            logger.warning("skipped: %s: %s", table.images[row], reason)
        if pixels.unreadable:
            logger.warning("%d films cannot be read and are skipped", len(pixels.unreadable))
    return pixels


def warn_of_missing_positives(table: LabelTable, y: np.ndarray) -> None:
    """Say which categories cannot be learnt; the others can."""
    positives = (y >= 0.5).sum(0)
    without = [label for label, n in zip(table.label_names, positives, strict=True) if n == 0]
    if without:
        logger.warning(
            "no training film is positive for %s: that output will mean nothing", ", ".join(without)
        )


def finish(run: Run, facts: dict[str, Any], others: Sequence[LabelTable]) -> None:
    """Calibrate and test the best epoch's average and write the model folder.

    The scores are computed in float32, as they are when the model is used.

    Parameters
    ----------
    run
        A run that has been trained.
    facts
        Command, arguments and label policy, for the provenance.
    others
        Tables of further labels of the same films to test on.
    """
    load_checkpoint(run.work.best, {"average": run.average})
    valid = run.table.subset(run.valid_rows)
    categories = calibrate(run.scores(run.valid_rows, "float32"), valid)
    tested = run.table.subset(run.rows["test"])
    scores = run.scores(run.rows["test"], "float32")
    metrics = {
        table.dataset: evaluate(scores[rows], table, categories)
        for table, rows in test_tables(tested, others)
    }
    if run.here.is_main:
        provenance = {**provenance_of(run.table, run.rows), **facts, "best_epoch": run.best_epoch}
        names = run.table.label_names
        export(run.work.out, run.average, run.preprocess, names, categories, metrics, provenance)
        logger.info("wrote the model folder %s", run.work.out)
        for name, result in metrics.items():
            mean = result["subsets"]["all"]
            logger.info(
                "test AUROC, labels of %s, %d films: mean %.4f (%.4f to %.4f)",
                *(name, result["films"], mean["auroc"], mean["ci_low"], mean["ci_high"]),
            )


def prepare_folder(work: Work, arguments: dict[str, Any], data: Path | None) -> None:
    """Make the run's folder; a run is gone on with only by the arguments that began it.

    Where the data is, is noted for stage 2, but may change.
    """
    work.out.mkdir(parents=True, exist_ok=True)
    there = work.last.exists()
    if not (work.out / _RUN).exists():
        theirs = [name for name in (CONFIG, WEIGHTS, CARD) if (work.out / name).exists()]
        if theirs:
            raise TrainingError(
                f"{work.out} holds {' and '.join(theirs)} that no run made; choose another --out"
            )
    if there and not work.resume:
        raise TrainingError(
            f"{work.out} already holds a run; add --resume to go on with it, or choose another "
            "--out"
        )
    if there:
        begun = json.loads((work.out / _RUN).read_text())
        begun.pop(_PLACE, None)
        changed = [key for key in begun if begun[key] != arguments.get(key, begun[key])]
        if changed:
            key = changed[0]
            raise TrainingError(
                f"the run in {work.out} began with {key} = {begun[key]!r}, not "
                f"{arguments[key]!r}; resume it with the arguments that began it"
            )
    place = {_PLACE: str(data.resolve())} if data else {}
    atomic_write(work.out / _RUN, json.dumps({**arguments, **place}, indent=2) + "\n")


def place_of_data(folder: Path) -> Path | None:
    """Where the data of the run in a folder is, if it was on this machine and still is."""
    try:
        place = Path(json.loads((folder / _RUN).read_text())[_PLACE])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return place if place.exists() else None


def work_through(argv: Sequence[str] | None) -> None:
    """The whole of ``python -m train.negative``."""
    options, settings, work = parse(argv)
    check_login(options)
    if work.threads:
        torch.set_num_threads(work.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with processes(work.device) as here, logging_redirect_tqdm():
        logging.getLogger().setLevel(logging.INFO if here.is_main else logging.ERROR)
        table = dataset_from_arguments(options, settings.seed)
        others = [read_dataset(settings.also_test, options.data)] if settings.also_test else []
        policy = policy_from_arguments(options)
        y = policy.apply(table, settings.seed)
        for note in table.notes:
            logger.info("%s", note)
        warn_of_missing_positives(table, y[table.split == "train"])
        arguments = {**dataclasses.asdict(settings), **data_arguments(options)}
        if here.is_main:
            prepare_folder(work, arguments, options.data)
        here.barrier()
        films = films_of(table, preprocess_of(settings), work, here)
        run = Run(settings, work, table, y, films, here)
        if work.resume and work.last.exists():
            run.resume()
            logger.info("going on at step %d of %d", run.step, run.steps)
        with Stop() as stop:
            run.train(stop)
        facts = {
            "command": options.command,
            "arguments": arguments,
            "seed": settings.seed,
            "label_policy": policy.to_dict(),
        }
        finish(run, facts, others)
        if here.is_main:
            push_from_arguments(options, work.out)


def data_arguments(options: Any) -> dict[str, Any]:
    """The options of data set and labels, as JSON; the folder's place is not what it holds."""
    fields = {f.name for kind in (Settings, Work) for f in dataclasses.fields(kind)}
    return {
        name: value if isinstance(value, (int, float, list, type(None))) else str(value)
        for name, value in sorted(vars(options).items())
        if name not in fields | {"data", "preset", "command", *PUSH_OPTIONS}
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 failed; wrong usage exits with 2)."""
    return exit_code(
        *("train.negative", lambda: work_through(argv), *ERRORS),
        interrupted="add --resume to go on",
    )


if __name__ == "__main__":
    sys.exit(main())
