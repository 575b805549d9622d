"""Files, folders and lists of paths -> the films of an archive, in a fixed order."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cft.archive.errors import ArchiveError
from cft.film.find import find_films
from cft.names import written

__all__ = ["COLUMNS", "Film", "films_of"]

#: Names of the column of paths in a list, in the order in which they are looked for.
COLUMNS = ("file", "path", "filepath", "file_path", "filename", "image_path")

# Rows of a Parquet list that are in memory at once.
_ROWS = 10_000


class Film(NamedTuple):
    """One film of an archive.

    Attributes
    ----------
    name
        What stands in the column ``file``: the path as the source has it. Bytes of it that are no
        text are written ``\\xff``.
    path
        The absolute path, as bytes: a file system may hold names that are no text.
    """

    name: str
    path: bytes


def films_of(sources: Iterable[Path], column: str | None = None) -> Iterator[Film]:
    """The films of some sources, one after the other.

    Parameters
    ----------
    sources
        Films; folders, searched as `cft.film.find.find_films` does; and lists, which are files
        whose names end in ``.csv`` or ``.parquet``. A relative path in a list begins at the
        list's folder.
    column
        The column of paths in the lists; None: their only one, or the first of `COLUMNS` that
        there is, in any case.

    Raises
    ------
    ArchiveError
        If there is no such source, or a list is not one.
    """
    for source in sources:
        kind = source.suffix.lower()
        if not source.exists():
            raise ArchiveError(f"there is no file or folder {source}")
        if kind in (".csv", ".parquet") and source.is_file():
            rows = _of_csv if kind == ".csv" else _of_parquet
            for place, name in rows(source, column):
                if not name:
                    raise ArchiveError(f"{source}, {place}: the cell with the path is empty")
                yield _film(name, source.parent / name)
        else:
            for path in find_films([source]):
                yield _film(str(path), path)


def _film(name: str, path: Path) -> Film:
    return Film(written(name), os.fsencode(os.path.abspath(path)))


def _of_csv(source: Path, wanted: str | None) -> Iterator[tuple[str, str]]:
    """(where, path) for each row of a CSV file with a header."""
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            at = header.index(_column(source, header, wanted))
            for row in rows:
                if not row:
                    continue  # an empty line
                if len(row) != len(header):
                    raise ArchiveError(
                        f"{source}, line {rows.line_num}: {len(row)} cells, but "
                        f"{len(header)} columns"
                    )
                yield f"line {rows.line_num}", row[at]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError(f"{source} is no CSV file in UTF-8 ({error})") from None
    except OSError as error:
        raise ArchiveError(f"{source} cannot be read ({error.strerror})") from None


def _of_parquet(source: Path, wanted: str | None) -> Iterator[tuple[str, str]]:
    """(where, path) for each row of a Parquet file."""
    try:
        with pq.ParquetFile(source) as file:
            column = _column(source, file.schema_arrow.names, wanted)
            row = 0
            for batch in file.iter_batches(_ROWS, columns=[column]):
                for name in batch.column(0).cast(pa.string()).to_pylist():
                    row += 1
                    yield f"row {row}", name or ""
    except (pa.ArrowException, OSError) as error:
        first = str(error).strip().splitlines()[:1]
        raise ArchiveError(f"{source} is no Parquet list of paths ({''.join(first)})") from None


def _column(source: Path, names: Sequence[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in names:
            raise ArchiveError(f"{source} has no column {wanted!r}; it has {_few(names)}")
        return wanted
    if len(names) == 1:
        return names[0]
    lower = {name.lower(): name for name in reversed(names)}
    for usual in COLUMNS:
        if usual in lower:
            return lower[usual]
    raise ArchiveError(
        f"{source}: which column has the paths? it has {_few(names)}; name one with --column"
    )


def _few(names: Sequence[str]) -> str:
    """The first names of a table that may have thousands."""
    shown = ", ".join(name[:40] for name in names[:10]) or "none"
    return shown + (", ..." if len(names) > 10 else "")
