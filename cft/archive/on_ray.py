"""An archive on a cluster, by Ray Data: the extra ``ray``.

A block of the data set is one part's number. Each actor holds one model; it reads the films of a
part, writes the part and gives back the counts. If an actor dies, Ray starts another one and gives
it the parts that the first had not answered for; what that had written already is not done again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cft.archive.errors import ArchiveError
from cft.archive.here import score as score_here
from cft.archive.plan import Done, Plan
from cft.archive.rows import Answers
from cft.threads import set_threads

__all__ = ["Model", "connect", "score"]

_log = logging.getLogger(__name__)

# How many actors may die over a part. Ray would try for ever, so that a film which ends the process
# of its decoder, or takes all memory, would hold up all others.
_TRIES = 3

# Ray gives a node that it starts half a minute, which is short on a busy machine.
_STARTS = 3

# Without clusters, Ray's processes listen on the loopback interface alone (see
# `ray._private.services.get_node_ip_address`; the variable's name is older than its meaning).
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@dataclass(frozen=True)
class Model:
    """How an actor loads the model, see `cft.load`; and the hash that its weights must have."""

    reference: str | None
    device: str | None
    engine: str
    weights_sha256: str


def connect() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, else start one on this machine.

    What is started here listens on the loopback interface alone, and Ray reports nothing to its
    makers unless ``RAY_USAGE_STATS_ENABLED`` says otherwise.

    Raises
    ------
    ArchiveError
        If there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    alone: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        os.environ[_CLUSTERS] = "0"
        alone = {"address": "local", "include_dashboard": False}
    import ray  # which reads the environment

    for left in reversed(range(_STARTS if alone else 1)):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **alone)
            return
        except Exception as error:  # plain ones as well
            ray.shutdown()
            if left:
                continue
            where = os.environ.get("RAY_ADDRESS") or "this machine"
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ArchiveError(f"Ray does not answer on {where} ({first})") from error


def score(
    plan: Plan, parts: Sequence[int], model: Model, answers: Answers, jobs: int | None
) -> Iterator[Done]:
    """Write parts, in any order; gives each when it is written.

    A part over which `_TRIES` actors died is left out.

    Parameters
    ----------
    plan, parts, answers
        What to do, and how.
    model
        Loaded by each actor; the folder has to be there on all machines.
    jobs
        How many actors; None: one for each GPU of the cluster if that is what the model runs on,
        else for each processor.

    Raises
    ------
    ArchiveError
        If the cluster is lost, or no actor can load the model; what is written stays.
    """
    import ray.data
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what matters is raised
    gpus = int(ray.cluster_resources().get("GPU", 0))
    on_gpu = bool(gpus) if model.device is None else model.device.startswith("cuda")
    actors = jobs or (gpus if on_gpu else int(ray.cluster_resources().get("CPU", 1)))
    for begun in plan.folder.glob(".part-*.tries"):  # of an earlier run
        begun.unlink(missing_ok=True)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    numbers = ray.data.from_items(
        [{"part": part} for part in parts], override_num_blocks=len(parts)
    )
    done = numbers.map_batches(
        _Scorer,
        fn_constructor_args=(plan, model, answers, 1 if not on_gpu else None),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=max(1, min(actors, len(parts)))),
        num_cpus=1,
        num_gpus=1 if on_gpu else 0,
    )
    try:
        for one in done.iter_rows():
            if one["reason"]:
                _log.warning("part %d was not written: %s", one["part"], one["reason"])
            else:
                yield Done(one["part"], one["films"], one["failed"])
    except RayError as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ArchiveError(f"Ray gave up: {last}") from error


class _Scorer:
    """One actor: a model, and the films of one part after another."""

    def __init__(self, plan: Plan, model: Model, answers: Answers, threads: int | None):
        import cft

        if threads is not None:
            set_threads(threads)
        self.plan, self.answers = plan, answers
        self.model = cft.load(model.reference, model.device, model.engine)
        if self.model.weights_sha256 != model.weights_sha256:
            raise ArchiveError("the model on this machine is not the one that was asked for")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """The number of one part -> what was done of it, or why it was not."""
        (part,) = (int(number) for number in batch["part"])
        try:
            done, reason = self._one(part), ""
        except (ArchiveError, OSError) as error:
            done, reason = Done(part, 0, 0), str(error)
        return {**{key: [x] for key, x in asdict(done).items()}, "reason": [reason]}

    def _one(self, part: int) -> Done:
        tries = self.plan.folder / f".part-{part:05d}.tries"
        if (done := self.plan.done(part)) is not None:  # an actor died after it had written it
            tries.unlink(missing_ok=True)
            return done
        with open(tries, "ab") as file:
            file.write(b".")
            if file.tell() > _TRIES:
                raise ArchiveError(f"{_TRIES} processes died over part {part}")
        done = next(score_here(self.plan, [part], self.model, self.answers, jobs=1))
        tries.unlink(missing_ok=True)
        return done
