"""Where a network is listened to: the depths whose features a gate knows."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GRID", "Depth"]

#: A film is divided into so many fields a side; the features of a field are their mean over it.
GRID = 4


@dataclass(frozen=True)
class Depth:
    """One place in a network, as timm's ``feature_info`` names it.

    Attributes
    ----------
    module
        Name of the module whose output it is.
    channels
        How many features each position has.
    """

    module: str
    channels: int
