"""Many films on all processors: several batches are worked on at once, each in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from cft.threads import processors, set_threads

if TYPE_CHECKING:
    from cft.errors import RadiographError
    from cft.model.findings import Findings

__all__ = ["share_processors", "stream"]


class _Streams(Protocol):
    """A classifier or an ensemble."""

    def stream(
        self, films: Iterable[Any], batch_size: int
    ) -> Iterator[Findings | RadiographError]: ...


def share_processors(jobs: int | None, pieces: int) -> int:
    """How many pieces of work are done at once; each gets its share of the processors.

    Parameters
    ----------
    jobs
        What was asked for; None: as many as there are processors.
    pieces
        How many there are.
    """
    jobs = min(jobs or processors(), max(1, pieces))
    if jobs > 1:  # a model that is loaded from now on takes as many
        set_threads(max(1, processors() // jobs))
    return jobs


def stream(
    model: _Streams, films: Iterable[Any], batch_size: int = 16, jobs: int = 1
) -> Iterator[Findings | RadiographError]:
    """Predict film by film, in order, as `Classifier.stream` does, with several batches at once.

    Decoders and networks run without Python's lock, so that threads suffice. Before the model is
    loaded, `share_processors` gives each thread its share.

    Parameters
    ----------
    model
        The classifier or ensemble.
    films
        Read as they are needed: at most ``jobs + 1`` batches are in memory.
    batch_size
        How many films go through the network at once.
    jobs
        How many batches are worked on at once; 1 for no thread at all.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    if jobs == 1:
        yield from model.stream(films, batch_size)
        return
    films = iter(films)
    waiting: deque[Future[list[Findings | RadiographError]]] = deque()

    def work(batch: list[Any]) -> list[Findings | RadiographError]:
        return list(model.stream(batch, batch_size))

    pool = ThreadPoolExecutor(jobs)
    try:
        while True:
            while len(waiting) <= jobs and (batch := list(islice(films, batch_size))):
                waiting.append(pool.submit(work, batch))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:  # nobody waits for films that nobody asks for any more
        pool.shutdown(cancel_futures=True)
