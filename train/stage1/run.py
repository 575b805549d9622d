"""What a run of stage 1 is made of: `Run`, which stays as it is, and `State`, which training moves.

Random numbers are derived from (seed, purpose, step) and never from what happened before, so that a
run that is resumed goes on exactly as it would have.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from cft.model.preprocess import Preprocess
from train.datasets.labels import LabelTable
from train.datasets.pixels import Loader, Pixels
from train.errors import TrainingError
from train.precision import use_bfloat16
from train.processes import Processes
from train.run_folder import Work, rows_of_splits
from train.stage1.augment import Augmentation, augment
from train.stage1.batch_norm import share_batch_statistics
from train.stage1.checkpoint import load_checkpoint, read_facts, save_checkpoint
from train.stage1.layers import optimizer_for
from train.stage1.mix import FOLLOWERS, draw_shares, mix_films, mix_targets
from train.stage1.network import build, preprocess_of
from train.stage1.settings import Settings
from train.stage1.teacher import Teacher

if TYPE_CHECKING:
    from cft.model.network import Network

# Purposes of random numbers; each has a stream of its own.
ORDER, AUGMENTATION, NETWORK, MIX = range(4)


@dataclass(frozen=True)
class Part:
    """What a process computes at once: some films of a batch, with what belongs to them.

    Attributes
    ----------
    films
        (n, 1, H, W) uint8, on the device; where films are mixed, those that follow as well.
    targets
        (n, C) float32 in [0, 1], mixed; NaN contributes nothing.
    changes
        The films' rows of what `Augmentation.draw` returned, on the device; None: no augmentation.
    shares
        Their n rows of what `draw_shares` returned, on the device; None: no mixing.
    """

    films: torch.Tensor
    targets: torch.Tensor
    changes: dict[str, torch.Tensor] | None
    shares: torch.Tensor | None

    def augmented(self) -> torch.Tensor:
        """(n, 1, H, W) float32 in [0, 1]: the films, changed and mixed."""
        films = self.films.float() / 255
        if self.changes:
            films = augment(films, self.changes)
        return films if self.shares is None else mix_films(films, self.shares)


@dataclass(frozen=True)
class Batch:
    """The global batch of one optimiser step, as one process sees it.

    Attributes
    ----------
    rows
        (B,) rows of the table, those of the other processes included.
    known
        Number of known targets among all B rows: the divisor of the loss. An unknown one of which
        teachers speak counts as their weight. Every process has all targets of the batch, so it
        needs no communication.
    parts
        This process's share, in the parts that it is computed in.
    """

    rows: np.ndarray
    known: torch.Tensor
    parts: list[Part]


@dataclass(frozen=True)
class Run:
    """One training run: its settings and its data.

    Attributes
    ----------
    settings, work
        What the run is, and how it is carried out.
    table
        N films, with their splits.
    targets
        (N, C) float32 training targets on the device; NaN contributes nothing.
    films
        The table's films, packed.
    rows
        Split -> the rows that take part.
    preprocess
        How a film becomes the input of the network.
    here
        This process among the others.
    teachers
        Models whose answers are a part of the targets.
    """

    settings: Settings
    work: Work
    table: LabelTable
    targets: torch.Tensor
    films: Loader
    rows: dict[str, np.ndarray]
    preprocess: Preprocess
    here: Processes
    teachers: Sequence[Teacher] = ()

    @classmethod
    def of(
        cls,
        settings: Settings,
        work: Work,
        table: LabelTable,
        y: np.ndarray,
        pixels: Pixels,
        here: Processes,
        teachers: Sequence[Teacher] = (),
    ) -> Run:
        """A run on packed films; `y` are the (N, C) targets.

        Raises
        ------
        TrainingError
            If the films cannot be divided as the settings say, or a split is empty.
        """
        run = cls(
            settings=settings,
            work=work,
            table=table,
            targets=torch.from_numpy(y).to(here.device),
            films=pixels.loader(here.device, work.pixels),
            rows=rows_of_splits(table, pixels, settings.judge_width),
            preprocess=preprocess_of(settings),
            here=here,
            teachers=teachers,
        )
        _check_sizes(run)
        return run

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of training films; the films that are left over wait for another epoch."""
        return len(self.rows["train"]) // self.settings.batch_size

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.settings.epochs

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on: rows, targets and films of each together."""
        size, augmentation = self.settings.batch_size, Augmentation.named(self.settings.augment)
        mix, device = self.settings.mix, self.here.device
        generator = torch.Generator().manual_seed(self.seed(ORDER, epoch))
        training = self.rows["train"]
        order = training[torch.randperm(len(training), generator=generator).numpy()]
        starts = range(first * size, self.steps_per_epoch * size, size)
        # A part's own films, and where films are mixed, those that follow them in the batch.
        places = [np.arange(p.start, p.stop + FOLLOWERS[mix]) % size for p in self._shares()]
        films = self.films.batches(
            order[start : start + size][np.concatenate(places)] for start in starts
        )
        for start, mine in zip(starts, films, strict=True):
            rows = order[start : start + size]
            targets = self.targets[torch.from_numpy(rows).to(device)]
            step = epoch * self.steps_per_epoch + start // size
            changes = shares = None
            if augmentation:
                generator = torch.Generator().manual_seed(self.seed(AUGMENTATION, step))
                changes = augmentation.draw(size, generator)
            if FOLLOWERS[mix]:
                generator = torch.Generator().manual_seed(self.seed(MIX, step))
                shares = draw_shares(mix, size, generator).to(device)
                targets = mix_targets(mix, targets, shares)
            yield Batch(
                rows=rows,
                known=self._known(targets),
                parts=[
                    Part(
                        films=some,
                        targets=targets[own],
                        changes=changes and {k: v[place].to(device) for k, v in changes.items()},
                        shares=None if shares is None else shares[own],
                    )
                    for some, own, place in zip(
                        mine.chunk(self.settings.accumulate), self._shares(), places, strict=True
                    )
                ],
            )

    def _known(self, targets: torch.Tensor) -> torch.Tensor:
        """`Batch.known` of the (B, C) targets of a global batch."""
        known = (~targets.isnan()).sum().clamp(min=1)
        if not self.teachers:
            return known
        return known + self.settings.teacher_weight * targets.isnan().sum()

    def _shares(self) -> list[slice]:
        """Where the parts of this process's share lie in a global batch."""
        here, parts = self.here, self.settings.accumulate
        size = self.settings.batch_size // (here.world * parts)
        starts = [(part * here.world + here.rank) * size for part in range(parts)]
        return [slice(start, start + size) for start in starts]

    def seed(self, *numbers: int) -> int:
        """A seed from the run's own and further numbers; neighbours do not share a stream."""
        state = np.random.SeedSequence((self.settings.seed, *numbers)).generate_state(1, np.uint64)
        return int(state[0] >> 1)

    def logits(self, network: nn.Module, films: torch.Tensor, precision: str) -> torch.Tensor:
        """(n, 1, H, W) float32 in [0, 1] -> (n, C) float32."""
        (logits,) = self.logits_of_heads(network, films, precision)
        return logits

    def logits_of_heads(
        self, network: nn.Module, films: torch.Tensor, precision: str
    ) -> torch.Tensor:
        """(n, 1, H, W) float32 in [0, 1] -> (H, n, C) float32.

        H is 1 but for networks that are trained with several heads, while they are trained.
        """
        batch = self.preprocess.normalize(films).contiguous(memory_format=torch.channels_last)
        low = use_bfloat16(precision, self.here.device)
        with torch.autocast(self.here.device.type, torch.bfloat16, enabled=low):
            answer = network(batch)
            heads = answer if isinstance(answer, tuple) else (answer,)
            return torch.stack([head.float() for head in heads])

    @torch.inference_mode()
    def scores(self, network: nn.Module, split: str, precision: str = "float32") -> np.ndarray:
        """Logits (n, C) of a network for the films of a split; each process computes its share."""
        rows, here = self.rows[split], self.here
        mine = np.arange(here.rank, len(rows), here.world)
        size = 2 * self.settings.batch_size
        parts = [mine[start : start + size] for start in range(0, len(mine), size)]
        result = torch.zeros((len(rows), len(self.table.label_names)), device=here.device)
        films = self.films.batches(rows[part] for part in parts)
        for part, batch in zip(parts, films, strict=True):
            where = torch.from_numpy(part).to(here.device)
            result[where] = self.logits(network, batch.float() / 255, precision)
        return here.sum_(result).cpu().numpy()  # the others' rows are zero


def _check_sizes(run: Run) -> None:
    settings, world = run.settings, run.here.world
    if settings.batch_size % (world * settings.accumulate):
        raise TrainingError(
            f"--batch-size {settings.batch_size} cannot be divided by {world} process(es) times "
            f"--accumulate {settings.accumulate}"
        )
    if settings.batch_size <= FOLLOWERS[settings.mix]:
        raise TrainingError(
            f"--mix {settings.mix} mixes up to {FOLLOWERS[settings.mix] + 1} films of a batch; "
            f"make --batch-size larger than {settings.batch_size}"
        )
    if settings.freeze and not len(run.rows["train"]):
        raise TrainingError("there are no training films")
    if not settings.freeze and not run.steps_per_epoch:
        raise TrainingError(
            f"there are {len(run.rows['train'])} training films, fewer than one batch of "
            f"{settings.batch_size}; make --batch-size smaller"
        )
    if not len(run.rows["valid"]):
        raise TrainingError("there are no validation films, so no best epoch can be chosen")


def _check_single_films(network: nn.Module, run: Run) -> None:
    """Refuse to train film by film where batch statistics need more; the network stays as it is."""
    settings = run.settings
    if settings.batch_size > settings.accumulate:
        return
    film = torch.zeros(1, *run.preprocess.input_size, device=run.here.device)
    with torch.random.fork_rng(), torch.no_grad():
        try:
            copy.deepcopy(network).train()(film)
        except ValueError as error:
            raise TrainingError(
                f"--batch-size {settings.batch_size} with --accumulate {settings.accumulate} is "
                f"one film at a time, on which {settings.arch} cannot be trained at --image-size "
                f"{settings.image_size} ({error}); make --batch-size larger"
            ) from None


@dataclass
class State:
    """What training moves; a checkpoint holds all of it.

    Attributes
    ----------
    network, average
        What is trained, and the exponential moving average of its tensors, which is what is
        validated and kept.
    optimizer
        Of the network.
    loss_sum
        Sum of the losses of this epoch's steps so far, on the device.
    step
        Optimiser steps made so far.
    history
        One record for each epoch, as in ``log.jsonl``.
    """

    network: Network
    average: Network
    optimizer: torch.optim.Optimizer
    loss_sum: torch.Tensor
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls, run: Run) -> State:
        """The state before the first step."""
        here = run.here
        torch.manual_seed(run.seed(NETWORK))
        known = run.targets[torch.from_numpy(run.rows["train"])].numpy(force=True)
        network = build(run.settings, run.table.label_names, known)
        network.to(here.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack memory_format
        _check_single_films(network, run)
        average = copy.deepcopy(network).eval().requires_grad_(False)
        trained = network
        if here.world > 1:
            trained = cast("Network", share_batch_statistics(network, here.device))
        optimizer = optimizer_for(trained, run.settings)
        return cls(trained, average, optimizer, torch.zeros((), device=here.device))

    @classmethod
    def resumed(cls, run: Run) -> State:
        """The state of the run's last checkpoint.

        Raises
        ------
        CheckpointError
            If there is none, or it does not fit.
        """
        state, path = cls.start(run), run.work.last
        facts = read_facts(path)
        load_checkpoint(path, {"network": state.network, "average": state.average}, state.optimizer)
        state.step, state.history = facts["step"], facts["history"]
        # The sum of all processes' losses is one number; the first process holds it.
        state.loss_sum.fill_(facts["loss_sum"] if run.here.is_main else 0.0)
        return state

    def averaged(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The tensors that are averaged: those of the average, and the network's beside them."""
        network = self.network.state_dict()
        pairs = [(mean, network[name]) for name, mean in self.average.state_dict().items()]
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        return [mean for mean, _ in averaged], [value for _, value in averaged]

    def save(self, run: Run) -> None:
        """Write the checkpoint that `resumed` goes on from."""
        loss_sum = run.here.sum_(self.loss_sum.clone()).item()
        if run.here.is_main:
            facts = {"step": self.step, "loss_sum": loss_sum, "history": self.history}
            networks = {"network": self.network, "average": self.average}
            save_checkpoint(run.work.last, facts, networks, self.optimizer)

    def validation_scores(self, metric: str) -> list[float]:
        """A validation metric of each epoch so far."""
        return [record["valid"][metric] for record in self.history]

    def best_epoch(self, metric: str) -> int:
        """The epoch of the best validation so far; the first of equals; 0 before any."""
        scores = self.validation_scores(metric)
        return int(np.argmax(scores)) + 1 if scores else 0
