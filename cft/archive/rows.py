"""Findings of films -> the rows of a part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cft.archive.errors import ArchiveError
from cft.archive.plan import Done, Plan
from cft.errors import RadiographError
from cft.results import Result, gate_cell, withheld

if TYPE_CHECKING:
    from cft.model.classifier import Classifier
    from cft.model.ensemble import Ensemble

__all__ = ["Answers", "row", "schema", "write_part"]


def schema(label_names: Sequence[str]) -> pa.Schema:
    """The columns of every part.

    ``file``; a column of probabilities for each label, float64, null where there are none;
    ``gate``, the verdict and after a colon its reasons, as in the CSV table; ``positives``, the
    labels at or above their operating points, most evidence first; ``weights_sha256``; ``error``,
    null for a film that was read.

    Raises
    ------
    ArchiveError
        If a label has the name of another column.
    """
    around = ("file", "gate", "positives", "weights_sha256", "error")
    for label in label_names:
        if label in around:
            raise ArchiveError(f"the model has a label {label!r}, which is a column of the table")
    return pa.schema(
        [
            pa.field("file", pa.string(), nullable=False),
            *(pa.field(label, pa.float64()) for label in label_names),
            pa.field("gate", pa.string()),
            pa.field("positives", pa.list_(pa.string())),
            pa.field("weights_sha256", pa.string(), nullable=False),
            pa.field("error", pa.string()),
        ]
    )


@dataclass(frozen=True)
class Answers:
    """How the films of an archive are answered.

    Attributes
    ----------
    point
        Name of the operating points; None for the model's own choice.
    gate
        One of `cft.results.GATES`.
    batch_size
        How many films go through the network at once.
    """

    point: str | None = None
    gate: str = "refuse"
    batch_size: int = 16


def row(name: str, result: Result, weights_sha256: str, gate: str) -> dict[str, Any]:
    """One film's row; what is missing in it is null. `gate` is one of `cft.results.GATES`."""
    facts = {"file": name, "weights_sha256": weights_sha256}
    if isinstance(result, RadiographError):
        return {**facts, "error": str(result)}
    facts["gate"] = gate_cell(result)
    if withheld(result, gate):
        return facts
    return {**facts, **result.probabilities, "positives": result.positives}


def write_part(
    plan: Plan,
    part: int,
    results: Iterable[Result],
    model: Classifier | Ensemble,
    answers: Answers,
) -> Done:
    """Write the rows of one part, once all its results are there.

    Parameters
    ----------
    plan, part
        Which part it is.
    results
        What the model's ``stream`` gives of each film of it, in order; taken one by one.
    model, answers
        What answered, and how.
    """
    films = plan.films_of(part)
    labels, sha256 = model.label_names, model.weights_sha256
    rows = []
    for film, result in zip(films, islice(results, len(films)), strict=True):
        if not isinstance(result, RadiographError):
            result = result.at(answers.point)
        rows.append(row(film.name, result, sha256, answers.gate))
    failed = sum("positives" not in cells for cells in rows)
    return plan.write(part, pa.Table.from_pylist(rows, schema(labels)), failed)
