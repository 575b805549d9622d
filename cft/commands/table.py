"""The CSV table of ``cft --csv``: written at once in the end, or row by row and taken up again."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cft.errors import RadiographError
from cft.files import atomic_file, atomic_write

if TYPE_CHECKING:
    from cft.results import Result

__all__ = ["TableError", "Unfinished", "write_whole"]

# What a cell begins with that a spreadsheet would take for a formula.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")

# Largest difference of a probability from the one in the table, for another engine or batch.
_SAME = 1e-3


class TableError(ValueError):
    """A table cannot be gone on with; the message is one sentence for the user."""


def write_whole(path: str, lines: Iterable[str]) -> None:
    """Write a table once all is read, so that nobody sees a part of it; "-" is stdout.

    A run that is interrupted keeps the rows that are finished.
    """
    if path == "-":
        for line in lines:
            sys.stdout.write(line)
        return
    done: list[str] = []
    try:
        done.extend(lines)
    finally:
        atomic_write(path, "".join(done))
        say(len(done) - 1, path)


def say(rows: int, path: str | Path) -> None:
    """How many films are in a table, on stderr."""
    print(f"{max(0, rows)} films: {path}", file=sys.stderr)


class Unfinished:
    """A table that an earlier run may have begun.

    Parameters
    ----------
    path
        Where it lies, or will.
    header
        The cells of the first line that this run would write.
    labels
        Those of them that are names of findings.

    Attributes
    ----------
    names
        The films in it, as the table has them.
    failed
        How many of them could not be read, or have no numbers since the gate refused them.

    Raises
    ------
    TableError
        If the file is another kind of table.
    """

    def __init__(self, path: str | Path, header: list[str], labels: Iterable[str]):
        self.path, self.header, self.labels = Path(path), header, list(labels)
        self.names: set[str] = set()
        self.failed = 0
        self._last: dict[str, str] | None = None  # the last film with numbers
        if self.path.exists() and self.path.stat().st_size:
            self._take_up()

    def _take_up(self) -> None:
        """Read it, and leave out a last row that was not written to its end."""
        try:
            with (
                open(self.path, encoding="utf-8", newline="") as old,
                atomic_file(self.path) as kept,
            ):
                expected = _text(self.header)
                start = old.read(len(expected))  # less of it, if a run was killed at once
                if not expected.startswith(start):
                    raise TableError(f"{self.path} is no table of this model: its columns differ")
                kept.write(expected.encode())
                for row in _whole_rows(old, len(self.header)):
                    self._count(row)
                    kept.write(_text(row).encode())
        except (UnicodeDecodeError, csv.Error) as error:
            raise TableError(f"{self.path} is no table of cft ({error})") from None

    def _count(self, row: list[str]) -> None:
        cells = dict(zip(self.header, row, strict=False))
        if len(row) != len(self.header):
            raise TableError(f"{self.path} is no table of cft: a row has too few or many cells")
        self.names.add(_name(cells["file"]))
        if any(cells[label] for label in self.labels):
            self._last = cells
        else:
            self.failed += 1

    def check(self, predict: Callable[[str], Result]) -> None:
        """Read the last film with numbers again: the same model says the same of it.

        Raises
        ------
        TableError
            If it does not. A film that is no longer there says nothing.
        """
        if self._last is None:
            return
        found = predict(_name(self._last["file"]))
        if isinstance(found, RadiographError):
            return
        from cft.results import prevalence_cell  # heavy: a film was read

        for label in self.labels:
            try:
                number = float(self._last[label] or "nan")
            except ValueError:
                raise TableError(f"{self.path} is no table of cft: {label} is no number") from None
            if abs(number - found.probabilities[label]) > _SAME:
                raise TableError(
                    f"{self.path} is the table of another model: it says {number:.3f} for {label} "
                    f"where this one says {found.probabilities[label]:.3f}"
                )
        stated, point = self._last["operating_point"], found.point or ""
        if stated != point:
            raise TableError(
                f"{self.path} has the operating points {stated[:20] or 'without a name'}, not "
                f"{point or 'without a name'}: its rows would not go together with new ones"
            )
        among, asked = self._last.get("prevalence", ""), prevalence_cell(found.prevalences)
        if among != asked:
            raise TableError(
                f"{self.path} has the prevalences {among[:80]}, not {asked}: its rows would not "
                "go together with new ones"
            )

    def go_on(self, lines: Iterable[str]) -> None:
        """Write the other rows as they come; a killed run keeps those before."""
        rows = len(self.names)
        try:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                if not file.tell():  # there was no file
                    file.write(_text(self.header))
                for line in lines:
                    file.write(line)
                    file.flush()
                    rows += 1
        finally:
            say(rows, self.path)


def _whole_rows(file: Iterable[str], cells: int) -> Iterator[list[str]]:
    """The rows of a CSV file; not the last one if it was not written to its end."""
    ended = True

    def lines() -> Iterator[str]:
        nonlocal ended
        for line in file:
            ended = line.endswith("\n")
            yield line

    held: list[str] | None = None
    for row in csv.reader(lines()):
        if held is not None:
            yield held
        held = row
    if held is not None and ended and len(held) == cells:
        yield held


def _text(row: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(row)
    return line.getvalue()


def _name(cell: str) -> str:
    """The film's name without the apostrophe that `cft.results.csv_rows` put in front of it."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] in _FORMULAS else cell
