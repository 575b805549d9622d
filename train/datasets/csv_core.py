"""One strict reader of CSV for everything here, and one meaning for each spelling of a label.

A table is UTF-8 text, plain or gzip-compressed, separated by comma, semicolon or tab, with a header
whose names differ, and as many cells in each row. What breaks this, or holds a value that is not
allowed, is refused with the row and the column where it stands; row 1 is the header.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from train.errors import TableError

#: Codes of label cells; -1 (uncertain) counts from the end of `_Y`.
BLANK, REFUSED, UNCERTAIN = 2, 3, -1
_Y = np.array([0, 1, np.nan, np.nan, np.nan], np.float32)
_WORDS = {
    **dict.fromkeys(("", "nan", "na", "n/a", "none", "null"), BLANK),
    **dict.fromkeys(("yes", "true"), 1),
    **dict.fromkeys(("no", "false"), 0),
}

# Fewer than the young objects that start Python's garbage collector (700), which would otherwise
# look at every row again and again: reading takes half the time.
_ROWS_AT_ONCE = 256

# Bytes read at once, and of the longest line that a table may have.
_BLOCK = 2**16
_LONGEST = 2**20

# A column with more values than this, such as that of ids, is not one of labels.
_SPELLINGS = 1000

# Problems of a table that are told one by one.
_MOST = 20


class Problems:
    """What is wrong with a table, found out as a whole and said at once.

    Parameters
    ----------
    path
        The table, or whatever names it.
    """

    def __init__(self, path: Path | str):
        self.path = path
        self.sentences: list[str] = []
        self.count = 0

    def add(self, sentence: str) -> None:
        """One problem more."""
        self.count += 1
        if self.count <= _MOST:
            self.sentences.append(sentence)

    def add_cells(self, table: Columns, name: str, rows: Iterable[int], expected: str) -> None:
        """A problem for each of some cells of a column."""
        for row in rows:
            self.add(table.sentence(name, row, expected))

    def check_values(
        self, table: Columns, name: str, allowed: Callable[[str], bool], expected: str
    ) -> bool:
        """Whether all values of a column are allowed; a problem for each that is not."""
        wrong = {value for value in set(table[name]) if not allowed(value)}
        rows = [row for row, value in enumerate(table[name]) if value in wrong] if wrong else []
        self.add_cells(table, name, rows, expected)
        return not wrong

    def check(self) -> None:
        """Raise if there are any."""
        if self.count == 1:
            raise TableError(f"{self.path}: {self.sentences[0]}")
        if self.count:
            more = self.count - len(self.sentences)
            lines = [*self.sentences, *([f"and {more:,} more"] if more else [])]
            text = "".join(f"\n  {line}" for line in lines)
            raise TableError(f"{self.path} has {self.count:,} problems:{text}")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, gzip-compressed if its name ends in ``.gz``."""
    return "".join(_lines(path))


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, read in blocks, so that little of it is in memory at once.

    Raises
    ------
    TableError
        If the file cannot be read, is no such text, or holds a line too long for any table.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    rest, place, number = b"", 0, 1
    try:
        with opener(path, "rb") as file:
            while block := file.read(_BLOCK):
                block = rest + block
                end = block.rfind(b"\n") + 1
                block, rest = block[:end], block[end:]
                yield from io.StringIO(_decoded(path, block, place))
                place, number = place + end, number + block.count(b"\n")
                if len(rest) > _LONGEST:
                    raise TableError(
                        f"{path}: line {number} is longer than {_LONGEST:,} bytes, so this is no "
                        "table"
                    )
            yield from io.StringIO(_decoded(path, rest, place))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TableError(f"{path} is not a whole gzip file ({error})") from error
    except OSError as error:
        raise TableError(f"cannot read {path} ({error.strerror})") from error


def _decoded(path: Path, block: bytes, place: int) -> str:
    """The text of some whole lines, whose first byte is at a place of the file."""
    try:
        return block.decode("utf-8" if place else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path} is not UTF-8 text (byte {place + error.start}); save it as such"
        ) from error


@dataclass(frozen=True)
class Columns:
    """A CSV table by column name; every column has one string per row."""

    path: Path
    cells: dict[str, list[str]]
    row_numbers: Sequence[int]  # of the file, the header being row 1
    titles: Mapping[str, str] = field(default_factory=dict)  # in the file, where not the same

    def __len__(self) -> int:
        return len(self.row_numbers)

    def __getitem__(self, name: str) -> list[str]:
        if name not in self.cells:
            raise TableError(
                f"{self.path} has no column {name!r}; its columns are {', '.join(self.cells)}"
            )
        return self.cells[name]

    def sentence(self, name: str, row: int, expected: str) -> str:
        """What is wrong with the cell in column ``name`` of the row at a position."""
        return (
            f"row {self.row_numbers[row]}, column {self.titles.get(name, name)!r}: "
            f"{self.cells[name][row]!r} is not allowed; expected {expected}"
        )

    def refuse(self, name: str, value: str, expected: str) -> TableError:
        """The error for the first row that holds ``value`` in column ``name``."""
        return TableError(
            f"{self.path}: {self.sentence(name, self.cells[name].index(value), expected)}"
        )


def read_header(path: Path) -> list[str]:
    """The column names of a CSV file, or [] if it is not one."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            line = file.readline(65536)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return []
    return next(csv.reader([line], delimiter=_delimiter(line)), [])


def read_csv(path: Path, problems: Problems | None = None) -> Columns:
    """Read a CSV file (or ``.csv.gz``), separated by comma, semicolon or tab, with a header.

    Parameters
    ----------
    path
        The file.
    problems
        Where rows with more or fewer cells than the header are noted, which are then left out;
        None: they are refused.

    Raises
    ------
    TableError
        If the file cannot be read, has no rows, or names a column twice.
    """
    found = problems or Problems(path)
    lines = _lines(path)
    first = next(lines, "")
    reader = csv.reader(itertools.chain([first], lines), delimiter=_delimiter(first))
    try:
        header = [name.strip() for name in next(reader, [])]
        columns: list[list[str]] = [[] for _ in header]
        spellings: list[dict[str, str]] = [{} for _ in header]  # equal cells are one string
        numbers: list[int] = []
        for start in itertools.count(2, _ROWS_AT_ONCE):
            rows = list(itertools.islice(reader, _ROWS_AT_ONCE))
            if not rows:
                break
            full: Sequence[int] = range(start, start + len(rows))
            if not all(rows):  # blank lines
                full = [number for number, row in zip(full, rows, strict=True) if row]
                rows = [row for row in rows if row]
            if set(map(len, rows)) - {len(header)}:
                rows, full = _of_width(rows, full, len(header), found)
            numbers += full
            cells_of_columns = zip(*rows, strict=True)
            for column, known, cells in zip(
                columns, spellings, cells_of_columns, strict=bool(rows)
            ):
                column += map(known.setdefault, cells, cells) if len(known) < _SPELLINGS else cells
    except csv.Error as error:
        raise TableError(f"{path} is not a CSV table ({error})") from error
    if problems is None:
        found.check()
    if not numbers and not found.count:
        raise TableError(f"{path} holds no rows")
    named = [name for name in header if name]
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise TableError(f"{path} has two columns named {twice!r}")
    by_name = {name: column for name, column in zip(header, columns, strict=True) if name}
    return Columns(path, by_name, numbers)


def _of_width(
    rows: list[list[str]], numbers: Sequence[int], width: int, problems: Problems
) -> tuple[list[list[str]], list[int]]:
    """The rows with as many cells as the header, and their numbers."""
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != width:
            problems.add(f"row {number} has {len(row)} cells, but the header has {width}")
    kept = [(n, row) for n, row in zip(numbers, rows, strict=True) if len(row) == width]
    return [row for _, row in kept], [number for number, _ in kept]


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


# --- Labels ---------------------------------------------------------------------------------------


def label_code(text: str) -> int:
    """1, 0, `UNCERTAIN` or `BLANK` for a cell of labels; `REFUSED` for anything else.

    >>> label_code("1.0"), label_code(" Yes "), label_code("NaN") == BLANK, label_code("-1")
    (1, 1, True, -1)
    """
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        number = float(word)
    except ValueError:
        return REFUSED
    return int(number) if number in (0, 1, UNCERTAIN) else REFUSED


def read_labels(
    table: Columns,
    columns: Iterable[str],
    problems: Problems | None = None,
    advice: Callable[[str], str] = lambda name: "",
) -> tuple[np.ndarray, np.ndarray]:
    """Columns of labels; see `label_code` for what may stand there.

    Parameters
    ----------
    table, columns
        A table, and the names of some of its columns.
    problems
        Where other values are noted, which then count as blank; None: they are refused.
    advice
        Column -> how the sentence ends that refuses a value of it.

    Returns
    -------
    y, uncertain
        (N, C) float32 in {1, 0, NaN} and (N, C) bool.
    """
    names = list(columns)
    codes = np.stack([_label_codes(table[name]) for name in names], axis=1)
    if (codes == REFUSED).any():
        found = problems or Problems(table.path)
        for column, name in enumerate(names):
            expected = f"1, 0, -1 (uncertain) or nothing (unknown){advice(name)}"
            found.add_cells(table, name, np.flatnonzero(codes[:, column] == REFUSED), expected)
        if problems is None:
            found.check()
    return _Y[codes], codes == UNCERTAIN


class _Codes(dict):
    """The code of each spelling of a label; a spelling is looked at when it first turns up."""

    def __missing__(self, value: str) -> int:
        self[value] = label_code(value)
        return self[value]


def _label_codes(column: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(_Codes().__getitem__, column), np.int8, len(column))
