"""The folder that is written: which films make which part, and which parts are finished.

    _run.json        the model and the options, the number of films and their hash
    _films.parquet   the films in order; the row group k holds those of part k
    part-00000.parquet ...

A part is a file that is written whole or not at all, always of the same films. So whatever is
killed, and whoever writes a part twice, each film has one row in the end. Names that begin with an
underscore are passed over by what reads a folder of Parquet files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cft.archive.errors import ArchiveError
from cft.archive.sources import Film
from cft.files import atomic_file, atomic_write, from_json, remove_leftovers

__all__ = ["Done", "Plan", "begin"]

#: Changes when folders of an older version cannot be gone on with.
FORMAT = 1

_RUN, _FILMS = "_run.json", "_films.parquet"
_FILM_SCHEMA = pa.schema([("file", pa.string()), ("path", pa.binary())])

# Where a part says what it is.
_KEY = b"cft"


@dataclass(frozen=True)
class Done:
    """A finished part.

    Attributes
    ----------
    part
        Its number.
    films
        How many rows it has.
    failed
        How many of them have no numbers: the film could not be read, or the gate refused it.
    """

    part: int
    films: int
    failed: int


@dataclass(frozen=True)
class Plan:
    """What is to be done in a folder; make it with `begin`.

    Attributes
    ----------
    folder
        The folder, which all machines see under this path.
    run
        A hash of all that decides the rows.
    films, part_size
        How many films there are, and in a part; the last part may have fewer.
    """

    folder: Path
    run: str
    films: int
    part_size: int

    @property
    def parts(self) -> range:
        """The numbers of all parts."""
        return range(-(-self.films // self.part_size))

    def films_of(self, part: int) -> list[Film]:
        """The films of one part."""
        with pq.ParquetFile(self.folder / _FILMS) as file:
            columns = file.read_row_group(part).to_pydict()
        return [Film(*row) for row in zip(columns["file"], columns["path"], strict=True)]

    def done(self, part: int) -> Done | None:
        """The part if it is finished; None if it is not there, or not of this run."""
        try:
            facts = pq.read_schema(self._path(part)).metadata or {}
            stated = from_json(facts.get(_KEY, b"{}"))
        except (OSError, pa.ArrowException, ValueError):  # damaged: it is written anew
            return None
        if (stated.get("run"), stated.get("part")) != (self.run, part):
            return None
        return Done(part, stated["films"], stated["failed"])

    def write(self, part: int, table: pa.Table, failed: int) -> Done:
        """Write a part; a reader sees all of it or nothing."""
        done = Done(part, table.num_rows, failed)
        facts = {"run": self.run, "part": part, "films": done.films, "failed": failed}
        table = table.replace_schema_metadata({_KEY: json.dumps(facts)})
        with atomic_file(self._path(part)) as file:
            pq.write_table(table, file, compression="zstd")
        return done

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.parquet"


def begin(folder: Path, films: Iterable[Film], facts: Mapping[str, Any], part_size: int) -> Plan:
    """The plan of a folder: a new one, or that of the run which began it.

    Parameters
    ----------
    folder
        Made if absent.
    films
        Read once, and never all in memory.
    facts
        What decides the rows beside the films, such as the weights' hash; for JSON.
    part_size
        Films in a part.

    Raises
    ------
    ArchiveError
        If there are no films, or the folder was begun with others, or otherwise.
    OSError
        If the folder cannot be written.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    before = _begun(folder)
    if before is None and any(folder.glob("*.parquet")):
        raise ArchiveError(f"{folder} holds Parquet files that are not of cft score")
    # The list goes to a file of its own first, since it may be the one that the folder has.
    listed = folder / f".{_FILMS}.new"
    try:
        count, digest = _write_list(listed, films, part_size)
        now = {"format": FORMAT, **facts, "part_size": part_size, "films": count, "list": digest}
        if before is None:
            listed.replace(folder / _FILMS)
            atomic_write(folder / _RUN, json.dumps(now, indent=2, ensure_ascii=False) + "\n")
        elif changed := [key for key in now if now[key] != before.get(key)]:
            raise ArchiveError(_other_run(folder, changed[0], before, now))
    finally:
        listed.unlink(missing_ok=True)
    run = hashlib.sha256(json.dumps(now, sort_keys=True).encode()).hexdigest()
    return Plan(folder, run, count, part_size)


def _begun(folder: Path) -> dict[str, Any] | None:
    """What an earlier run says of itself; None if there was none."""
    try:
        found = from_json((folder / _RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not (folder / _FILMS).exists():
        raise ArchiveError(f"{folder / _RUN} is no file of cft score: choose another folder")
    return found


def _other_run(folder: Path, key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why a folder cannot be gone on with."""
    if key in ("films", "list"):
        return (
            f"{folder} was begun with {before.get('films')} films, not with these {now['films']}: "
            "choose another folder"
        )
    was, is_now = (json.dumps(facts.get(key), ensure_ascii=False)[:70] for facts in (before, now))
    return f"{folder} was begun with {key} {was}, not {is_now}: choose another folder"


def _write_list(path: Path, films: Iterable[Film], part_size: int) -> tuple[int, str]:
    """Write the films, a row group a part; how many there are, and their hash."""
    count, digest = 0, hashlib.sha256()
    with pq.ParquetWriter(path, _FILM_SCHEMA, compression="zstd") as writer:
        for group in _groups(films, part_size):
            for film in group:
                name = film.name.encode()
                digest.update(b"%d %d %b%b" % (len(name), len(film.path), name, film.path))
            columns = [list(column) for column in zip(*group, strict=True)]
            writer.write_table(pa.table(columns, schema=_FILM_SCHEMA), row_group_size=part_size)
            count += len(group)
    if not count:
        raise ArchiveError("there are no films in the sources")
    return count, digest.hexdigest()


def _groups(films: Iterable[Film], size: int) -> Iterator[list[Film]]:
    films = iter(films)
    while group := list(islice(films, size)):
        yield group
