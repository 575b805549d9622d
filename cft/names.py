"""Names of files, which need be no text, as tables and documents have them."""

from __future__ import annotations

import os

__all__ = ["written"]


def written(path: str | os.PathLike[str]) -> str:
    """A path as text: bytes of it that are none are written ``\\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
