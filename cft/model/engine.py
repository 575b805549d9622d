"""What runs a network, torch or ONNX Runtime: a batch of films -> logits, maps and fields.

The one place where a film passes a network. Both engines answer the same question with the same
numbers, but for rounding; what they answer becomes findings in `cft.model.classifier`. Films and
answers are arrays: a network that ONNX Runtime runs needs no PyTorch, see `cft.model.engines`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

__all__ = ["TOLERANCE", "Engine", "Pass", "as_pass", "output_names"]

#: Largest difference from torch's logits; of the largest of them, where that is above 1.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Pass:
    """What one pass of a network makes of N films, float32.

    Attributes
    ----------
    logits
        (N, K).
    maps
        (N, K, h, w): the head's logistic regressions applied to each place of the last feature map,
        whose mean over the places is the logit; None if the head is no such thing.
    fields
        Module -> (N, GRID * GRID, C) mean features of the film's fields, at each depth that was
        asked for; see `cft.model.depths.listening`.
    """

    logits: np.ndarray
    maps: np.ndarray | None = None
    fields: dict[str, np.ndarray] = field(default_factory=dict)

    def named(self) -> dict[str, np.ndarray]:
        """All of its arrays, by their `output_names`."""
        maps = {} if self.maps is None else {"maps": self.maps}
        fields = {_FIELDS + module: array for module, array in self.fields.items()}
        return {"logits": self.logits, **maps, **fields}


# What the name of such an output begins with; the module follows.
_FIELDS = "fields of "


class Engine(Protocol):
    """Runs one network."""

    @property
    def name(self) -> str:
        """ "torch" or "onnx"."""

    @property
    def has_maps(self) -> bool:
        """Whether a `Pass` has ``maps``."""

    def __call__(self, batch: np.ndarray) -> Pass:
        """(N, C, H, W) float32 -> what the network makes of it."""


def output_names(has_maps: bool, modules: Iterable[str]) -> tuple[str, ...]:
    """What a network gives in one pass, in order.

    Parameters
    ----------
    has_maps
        Whether a `Pass` has ``maps``.
    modules
        Where the network is listened to.
    """
    maps = ("maps",) if has_maps else ()
    return ("logits", *maps, *(_FIELDS + module for module in modules))


def as_pass(names: Sequence[str], arrays: Iterable[np.ndarray]) -> Pass:
    """What a network gave, by its `output_names`."""
    found = dict(zip(names, arrays, strict=True))
    logits, maps = found.pop("logits"), found.pop("maps", None)
    return Pass(logits, maps, {name.removeprefix(_FIELDS): x for name, x in found.items()})
