"""What a model folder says was measured on test films."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cft.model.fields import Fields

__all__ = ["Figures", "TestSet", "read_test_sets"]


@dataclass(frozen=True)
class Figures:
    """A line of a table of measured figures: AUROC with its interval, and the positives."""

    auroc: float | None
    low: float | None
    high: float | None
    positives: int | None


@dataclass(frozen=True)
class TestSet:
    """What was measured on one test set: label -> figures, their mean, and on how many rows."""

    name: str
    categories: dict[str, Figures]
    mean: Figures | None
    rows: int | None
    row: str
    level: float | None


def read_test_sets(metrics: Fields | None, name: str = "") -> Iterator[TestSet]:
    """Every result of an evaluation among a model folder's metrics, however they are nested."""
    if metrics is None:
        return
    if isinstance(metrics.entries.get("categories"), Mapping):
        yield _test_set(metrics, name)
        return
    for key, value in metrics.entries.items():
        if isinstance(value, Mapping):
            inside = Fields(value, metrics.path(key), metrics.where)
            yield from read_test_sets(inside, f"{name}, {key}" if name else str(key))


def _test_set(stored: Fields, name: str) -> TestSet:
    rows = stored.object("categories")
    subsets = stored.optional_object("subsets")
    mean = subsets.optional_object("all") if subsets else None
    return TestSet(
        name=name,
        categories={label: _figures(row) for label, row in rows.objects() if row} if rows else {},
        mean=_figures(mean) if mean else None,
        rows=stored.whole("films"),
        row=stored.text("row") or "film",
        level=stored.number("level", 0, 1),
    )


def _figures(row: Fields) -> Figures:
    auroc, low, high = (row.number(key, 0, 1) for key in ("auroc", "ci_low", "ci_high"))
    return Figures(auroc, low, high, row.whole("positives"))
