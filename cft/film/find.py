"""Files and folders -> the films that they name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["find_films"]

# Which files of a *folder* are taken for films; files named one by one are always read, and the
# bytes decide what they are. DICOM files often have no suffix at all.
_SUFFIXES = {"", ".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".bmp", ".webp"}


def find_films(arguments: Iterable[Path]) -> Iterator[Path]:
    """Files as they are; folders searched, in order of name, for files that may be films."""
    for argument in arguments:
        if not argument.is_dir():
            yield argument
            continue
        for path in sorted(argument.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(argument).parts)
            if path.is_file() and not hidden and path.suffix.lower() in _SUFFIXES:
                yield path
