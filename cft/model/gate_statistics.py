"""What a model folder stores for the gate, under ``cft.gate``: arrays as base64 of float16."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import numpy as np

from cft.errors import ModelFolderError
from cft.model.depths import GRID
from cft.model.fields import Fields

__all__ = ["LOOKS", "DepthStatistics", "GateStatistics", "as_stored"]

#: What a picture looks like: the outputs of the gate's regression, in their order.
LOOKS = ("upright", "left", "upside down", "right", "inverted", "other")

#: Most characters that the statistics may have in ``config.json``.
MAX_CHARACTERS = 300_000

_FIELDS = GRID * GRID
_MOST_DEPTHS, _MOST_CHANNELS = 8, 65_536


def as_stored(array: np.ndarray) -> np.ndarray:
    """Numbers with the precision that a folder keeps."""
    return array.astype(np.float16).astype(np.float32)


@dataclass(frozen=True)
class DepthStatistics:
    """What the features of films are like at one depth.

    Attributes
    ----------
    module, channels
        As of `cft.model.depths.Depth`.
    mean
        (C,) of all fields of all films.
    components
        (R, C): (feature - mean) times them has mean 0 and variance 1 over the fields of films.
    scale
        (R,) standard deviations along the components before that.
    centre, spread
        (GRID * GRID, R) mean and standard deviation of each field's components over films.
    away, rest
        Mean and standard deviation over films of the logarithm of the mean squared distance of the
        components from their centre, and of what the components leave over.
    """

    module: str
    channels: int
    mean: np.ndarray
    components: np.ndarray
    scale: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    away: tuple[float, float]
    rest: tuple[float, float]

    @property
    def rank(self) -> int:
        """R, how many components there are."""
        return len(self.components)


@dataclass(frozen=True)
class GateStatistics:
    """What the gate of a model has learnt from films; see `cft.model.gate`.

    Attributes
    ----------
    depths
        Where it listens, and what films are like there.
    weights, bias
        (K, D) and (K,) of a multinomial regression, a row for each of `LOOKS`, on the components
        of all fields of all depths, then two distances for each depth. A mirrored film counts as
        upright.
    side
        (D',) weights of the differences between a field's components and those of the field on the
        other side: their sum is above 0 if the film looks mirrored.
    passes
        Least probability of "upright" of a film that passes.
    certain
        Least probability that a film is turned or inverted, or is not upright, for a refusal.
    mirrored
        Least such sum of a film that is called mirrored.
    again
        From which sum on a film is looked at a second time, mirrored; half the difference of the
        two sums then stands for the first. None: no film is.
    far
        Largest distance of a film that passes.
    fitted, checked
        How many films it was fitted on, and how many others chose the limits.
    others
        How many films of other hospitals corrected `side`, see `cft.model.gate_adapt`.
    credit
        Whose films these were, and under which licence; empty if nobody said.
    """

    depths: tuple[DepthStatistics, ...]
    weights: np.ndarray
    bias: np.ndarray
    side: np.ndarray
    passes: float
    certain: float
    mirrored: float
    far: float
    fitted: int
    checked: int
    others: int = 0
    credit: str = ""
    again: float | None = None

    def to_config(self) -> dict[str, Any]:
        """The entry ``cft.gate`` of ``config.json``."""
        return {
            "grid": GRID,
            "looks": list(LOOKS),
            "depths": [
                {
                    "module": depth.module,
                    "channels": depth.channels,
                    "rank": depth.rank,
                    **{name: _encoded(getattr(depth, name)) for name in _ARRAYS},
                    "away": [round(x, 6) for x in depth.away],
                    "rest": [round(x, 6) for x in depth.rest],
                }
                for depth in self.depths
            ],
            "weights": _encoded(self.weights),
            "bias": [round(x, 6) for x in self.bias.tolist()],
            "side": _encoded(self.side),
            "passes": round(self.passes, 6),
            "certain": round(self.certain, 6),
            "mirrored": round(self.mirrored, 6),
            **({} if self.again is None else {"again": round(self.again, 6)}),
            "far": round(self.far, 6),
            "fitted": self.fitted,
            "checked": self.checked,
            **({"others": self.others} if self.others else {}),
            **({"credit": self.credit} if self.credit else {}),
        }

    @classmethod
    def read(cls, stored: Fields | None) -> GateStatistics | None:
        """The entry ``cft.gate`` of a ``config.json``; None if there is none.

        Raises
        ------
        ModelFolderError
            If it is not what `to_config` writes; it says what is wrong and where.
        """
        if stored is None:
            return None
        if stored.whole("grid") != GRID:
            raise stored.refuse("grid", str(GRID), stored.entries.get("grid"))
        if stored.entries.get("looks") != list(LOOKS):
            raise stored.refuse("looks", ", ".join(LOOKS), stored.entries.get("looks"))
        _check_size(stored)
        depths = tuple(_depth(fields) for fields in _list(stored, "depths"))
        if len({depth.module for depth in depths}) != len(depths):
            raise stored.refuse("depths", "of modules that are named once", list(depths))
        width = sum(_FIELDS * depth.rank + 2 for depth in depths)
        return cls(
            depths=depths,
            weights=_array(stored, "weights", (len(LOOKS), width)),
            bias=_numbers(stored, "bias", len(LOOKS)),
            side=_array(stored, "side", (sum(_FIELDS // 2 * depth.rank for depth in depths),)),
            passes=stored.needed("passes", 0, 1),
            certain=stored.needed("certain", 0, 1),
            mirrored=stored.needed("mirrored", -1e9, 1e9),
            again=stored.number("again", -1e9, 1e9),
            far=stored.needed("far", 0, 1e9),
            fitted=stored.whole("fitted") or 0,
            checked=stored.whole("checked") or 0,
            others=stored.whole("others") or 0,
            credit=stored.text("credit") or "",
        )


_ARRAYS = ("mean", "components", "scale", "centre", "spread")


def _depth(fields: Fields) -> DepthStatistics:
    module, channels = fields.text("module"), fields.whole("channels", 1, _MOST_CHANNELS)
    rank = fields.whole("rank", 1, _MOST_CHANNELS)
    if module is None or channels is None or rank is None:
        missing = "module" if module is None else "channels" if channels is None else "rank"
        raise fields.refuse(missing, "stated", None)
    spread = _array(fields, "spread", (_FIELDS, rank))
    if spread.min() <= 0:
        raise fields.refuse("spread", "above 0", float(spread.min()))
    return DepthStatistics(
        module=module,
        channels=channels,
        mean=_array(fields, "mean", (channels,)),
        components=_array(fields, "components", (rank, channels)),
        scale=_array(fields, "scale", (rank,)),
        centre=_array(fields, "centre", (_FIELDS, rank)),
        spread=spread,
        away=_mean_and_spread(fields, "away"),
        rest=_mean_and_spread(fields, "rest"),
    )


def _mean_and_spread(fields: Fields, key: str) -> tuple[float, float]:
    mean, spread = _numbers(fields, key, 2).tolist()
    if spread <= 0:
        raise fields.refuse(key, "a mean and a spread above 0", spread)
    return mean, spread


def _list(stored: Fields, key: str) -> list[Fields]:
    value = stored.entries.get(key)
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_DEPTHS:
        raise stored.refuse(key, f"a list of 1 to {_MOST_DEPTHS} objects", value)
    return [Fields(x, f"{stored.path(key)}[{i}]", stored.where) for i, x in enumerate(value)]


def _numbers(stored: Fields, key: str, count: int) -> np.ndarray:
    value = stored.entries.get(key)
    numbers = isinstance(value, list) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < 1e6 for x in value
    )
    if not numbers or len(value) != count:  # type: ignore[arg-type]  # it is a list
        raise stored.refuse(key, f"a list of {count} numbers", value)
    return np.array(value, np.float32)


def _encoded(array: np.ndarray) -> str:
    limit = float(np.finfo(np.float16).max)
    return base64.b64encode(np.clip(array, -limit, limit).astype("<f2").tobytes()).decode()


def _array(stored: Fields, key: str, shape: tuple[int, ...]) -> np.ndarray:
    expected = f"base64 of {' x '.join(map(str, shape))} finite float16 numbers"
    text = stored.text(key, expected)
    try:
        data = base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        raise stored.refuse(key, expected, text) from None
    if len(data) != 2 * int(np.prod(shape)):
        raise stored.refuse(key, expected, text)
    array = np.frombuffer(data, "<f2").astype(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise stored.refuse(key, expected, text)
    return array


def _check_size(stored: Fields) -> None:
    """Refuse statistics that are far larger than any that are written."""

    def length(value: Any) -> int:
        if isinstance(value, dict):
            return sum(map(length, value.values()))
        if isinstance(value, list):
            return sum(map(length, value))
        return len(value) if isinstance(value, str) else 1

    if length(dict(stored.entries)) > MAX_CHARACTERS:
        raise ModelFolderError(
            f'"{stored.name}" in {stored.where} has more than {MAX_CHARACTERS:,} characters'
        )
