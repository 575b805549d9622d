"""An archive on this machine: several batches at once, as by ``cft --jobs``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cft.archive.plan import Done, Plan
from cft.archive.rows import Answers, write_part
from cft.model.parallel import stream

if TYPE_CHECKING:
    from cft.model.classifier import Classifier
    from cft.model.ensemble import Ensemble

__all__ = ["score"]


def score(
    plan: Plan,
    parts: Sequence[int],
    model: Classifier | Ensemble,
    answers: Answers,
    jobs: int,
) -> Iterator[Done]:
    """Write parts, one after the other; gives each when it is written.

    The next part is begun while the last films of one are at work.

    Parameters
    ----------
    plan, parts
        What to do.
    model
        Loaded after `cft.model.parallel.share_processors`.
    answers
        How.
    jobs
        How many batches are worked on at once.
    """
    films = (os.fsdecode(film.path) for part in parts for film in plan.films_of(part))
    results = stream(model, films, answers.batch_size, jobs)
    for part in parts:
        yield write_part(plan, part, results, model, answers)
