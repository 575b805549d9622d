"""JSON of unknown origin -> values of the right type, or one sentence on the first that is not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cft.errors import ModelFolderError

__all__ = ["Fields", "can_be_shown", "check_values", "shown"]

_DEEPEST = 48
_LARGEST = 2**63  # of a whole number: beyond it arithmetic in floats can overflow
_LONGEST_SHOWN = 60

# Halves of characters, which cannot be written, and what a terminal would obey; lines may end.
_NOT_SHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def shown(value: Any) -> str:
    """A value as a message can show it, however large it is."""
    if isinstance(value, (dict, list, tuple)):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number of far too many digits"
    text = repr(value[: 2 * _LONGEST_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def can_be_shown(text: str) -> bool:
    """Whether a text can be written, and makes no terminal do something."""
    return not _NOT_SHOWN.search(text)


def check_values(value: Any, where: str, depth: int = 0) -> None:
    """Refuse JSON with NaN, infinity, absurd numbers or texts, or that is nested absurdly deep.

    Raises
    ------
    ModelFolderError
        If it does.
    """
    if depth > _DEEPEST:
        raise ModelFolderError(f"{where} is nested deeper than {_DEEPEST} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            check_values(key, where, depth + 1)
            check_values(item, where, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_values(item, where, depth + 1)
    elif isinstance(value, str):
        if not can_be_shown(value):
            raise ModelFolderError(
                f"{where} holds a text with characters that cannot be shown: {shown(value)}"
            )
    elif isinstance(value, float) and not math.isfinite(value):
        raise ModelFolderError(f"{where} holds {value}, which is no number")
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise ModelFolderError(f"{where} holds a whole number of {value.bit_length():,} bits")


class Fields:
    """The entries of a JSON object, read with their types.

    Parameters
    ----------
    entries
        The object.
    name
        What it is called, such as ``cft.categories``; "" for the whole document.
    where
        The file, for messages.

    Raises
    ------
    ModelFolderError
        From every method, if the entry is of another type than asked for; it says which and where.
    """

    def __init__(self, entries: Any, name: str, where: str):
        self.name, self.where = name, where
        if not isinstance(entries, Mapping):
            raise self.refuse(None, "an object", entries)
        self.entries: Mapping[str, Any] = entries

    def path(self, key: str | None) -> str:
        """The name of an entry from the document's root."""
        return ".".join(part for part in (self.name, key) if part)

    def refuse(self, key: str | None, expected: str, value: Any) -> ModelFolderError:
        """``"cft.format" in config.json must be ..., not ...``, to be raised."""
        name = self.path(key)
        what = f'"{name[:100]}" in {self.where}' if name else self.where
        return ModelFolderError(f"{what} must be {expected}, not {shown(value)}")

    def object(self, key: str) -> Fields | None:
        """An object; None if it is absent."""
        if key not in self.entries:
            return None
        return Fields(self.entries[key], self.path(key), self.where)

    def optional_object(self, key: str) -> Fields | None:
        """An object; None if it is absent or null."""
        return None if self.entries.get(key) is None else self.object(key)

    def objects(self) -> Iterator[tuple[str, Fields | None]]:
        """Every entry as an object, or None where it is null."""
        for key in self.entries:
            yield str(key), self.optional_object(key)

    def text(self, key: str, expected: str = "text") -> str | None:
        """A text; None if it is absent or null."""
        value = self.entries.get(key)
        if value is not None and not isinstance(value, str):
            raise self.refuse(key, expected, value)
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str | None:
        """One of some texts; None if it is absent or null."""
        value = self.entries.get(key)
        if value is not None and value not in choices:
            raise self.refuse(key, " or ".join(map(repr, choices)), value)
        return value

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A finite number from low to high; None if it is absent or null."""
        value = self.entries.get(key)
        if value is None:
            return None
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or not low <= value <= high:
            bounds = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
            raise self.refuse(key, f"a number{bounds}", value)
        return float(value)

    def needed(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A number as of `number` that has to be there."""
        value = self.number(key, low, high)
        if value is None:
            raise self.refuse(key, "a number", None)
        return value

    def whole(self, key: str, low: int = 0, high: int = _LARGEST) -> int | None:
        """A whole number from low to high; None if it is absent or null."""
        value = self.entries.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.refuse(key, f"a whole number of at least {low}", value)
        return value
