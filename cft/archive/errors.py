"""What can be wrong with an archive."""

from __future__ import annotations

__all__ = ["ArchiveError"]


class ArchiveError(ValueError):
    """An archive cannot be scored as it was asked for; the message is one sentence."""
