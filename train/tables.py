"""Figures -> cells, and cells -> tables of Markdown or plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PLURALS = {
    "patient": "patients",
    "study": "studies",
    "film": "films",
    "category": "categories",
    "epoch": "epochs",
    "finding": "findings",
}


def counted(n: int, thing: str) -> str:
    return f"{n:,} {thing if n == 1 else PLURALS[thing]}"


def figure_cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def p_cell(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def range_cell(low: float | None, high: float | None, signed: bool = False) -> str:
    if low is None or high is None:
        return ""
    return f"{low:+.4f} to {high:+.4f}" if signed else f"{low:.4f} to {high:.4f}"


def interval_cell(row: Mapping[str, Any], metric: str, prefix: str) -> str:
    """``0.9123 (0.9000 to 0.9250)``; empty if undefined."""
    if row[metric] is None:
        return ""
    limits = range_cell(row.get(f"{prefix}_low"), row.get(f"{prefix}_high"))
    return f"{row[metric]:.4f}" + (f" ({limits})" if limits else "")


def without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    return [[row[i] for i in kept] for row in rows]


@dataclass(frozen=True)
class Table:
    """A table of a report, before anyone has decided how it looks; as text it is Markdown.

    Attributes
    ----------
    rows
        Cells; the first row is the header.
    detail
        Few need it: where there is no room for all, it may be folded away.
    """

    rows: list[list[str]]
    detail: bool = False

    def __str__(self) -> str:
        return markdown_table(self.rows)

    def is_number(self, column: int) -> bool:
        """Whether the cells of a column are figures."""
        return _numeric([row[column] for row in self.rows[1:]])


def markdown_table(rows: list[list[str]]) -> str:
    """Rows (the first is the header) as a Markdown table."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    columns = zip(*rows[1:], strict=True)
    lines.insert(1, ["---:" if _numeric(column) else "---" for column in columns])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _numeric(column: Sequence[str]) -> bool:
    """Whether the cells of a column are figures, which are aligned at their right."""
    return all(cell[:1] in "+-<0123456789" or cell.startswith("undefined") for cell in column)


def aligned_table(rows: list[list[str]]) -> str:
    """Rows as columns of plain text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def difference_cell(row: Mapping[str, Any]) -> str:
    """``difference`` with its sign and its interval ``low`` to ``high``; "" where undefined."""
    if row["difference"] is None:
        return ""
    limits = range_cell(row["low"], row["high"], signed=True)
    return f"{row['difference']:+.4f}" + (f" ({limits})" if limits else "")
