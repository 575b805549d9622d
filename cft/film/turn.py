"""A film that lies wrongly -> the film upright, as a person has asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cft.film.gate import Turn
from cft.film.radiograph import Radiograph

__all__ = ["OFFERS", "turned"]

#: Turn -> what is offered to a person, and the note on a film that has been turned.
OFFERS: dict[Turn, tuple[str, str]] = {
    "turn right": ("turn it to the right", "turned by 90 degrees to the right"),
    "turn left": ("turn it to the left", "turned by 90 degrees to the left"),
    "turn around": ("turn it the other way up", "turned by 180 degrees"),
    "mirror": ("mirror it", "mirrored"),
    "invert": ("invert it", "inverted"),
}

_HOW: dict[Turn, Callable[[np.ndarray], np.ndarray]] = {
    "turn right": lambda x: np.rot90(x, -1),
    "turn left": lambda x: np.rot90(x, 1),
    "turn around": lambda x: np.rot90(x, 2),
    "mirror": lambda x: x[:, ::-1],
    "invert": lambda x: 1 - x,
}


def turned(film: Radiograph, turn: Turn) -> Radiograph:
    """The film turned, mirrored or inverted, with a note that says so."""
    pixels = np.ascontiguousarray(_HOW[turn](film.pixels))
    notes = (*film.notes, f"{OFFERS[turn][1]} as was offered")
    spacing = film.spacing
    if spacing and turn in ("turn right", "turn left"):
        spacing = spacing[::-1]
    return replace(film, pixels=pixels, notes=notes, spacing=spacing)
