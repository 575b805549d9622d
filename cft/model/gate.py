"""The gate's view of a picture: a network's own features at several depths -> `Gate`.

A film is divided into fields; the mean features of each field, at each depth, are compared with
those of the films that a model knows. Three kinds of evidence come of it: how far the features of
each depth are from those of films (the Mahalanobis distance of the fields' components, and what the
components leave over); what a regression on all of it says that the picture looks like: an upright
film, one that is turned or inverted, or something else; and whether it is mirrored, by a regression
on the differences between left and right alone. All are taken from the pass that gives the scores.
Where left and right leave a doubt, the network looks at the film a second time, mirrored: what it
takes for a side in both counts for neither.

One distance at one depth finds little, see arXiv 2309.01488 and 2603.11269; that turned copies
teach what is no film of the kind, is from Hendrycks et al., NeurIPS 2019 (arXiv 1906.12340).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from cft.errors import ModelFolderError
from cft.film.gate import Gate, Turn
from cft.model.bundled import BUNDLED
from cft.model.depths import GRID, Depth
from cft.model.engine import Engine
from cft.model.engines import FolderNetwork
from cft.model.folder import ModelFolder, open_model_folder
from cft.model.gate_statistics import LOOKS, DepthStatistics, GateStatistics
from cft.model.heads import with_one_head
from cft.model.preprocess import Preprocess

__all__ = ["Gatekeeper", "depths_in", "evidence", "probabilities", "side_of", "verdicts"]

# What a look is called, and what makes the film upright again.
_TURNED: dict[str, tuple[str, Turn]] = {
    "left": ("turned by 90 degrees to the left", "turn right"),
    "upside down": ("upside down", "turn around"),
    "right": ("turned by 90 degrees to the right", "turn left"),
    "inverted": ("inverted: bone is dark and air is bright", "invert"),
}

_NO_CHEST = "This does not look like a frontal chest film."
_DOUBTFUL = "This may be no whole, upright frontal chest film."
_MIRRORED = Gate("warn", ("The film looks mirrored: left is where right should be.",), "mirror")
_FAR = "The film is unlike those that the model was trained on; its numbers may not hold."


class Gatekeeper:
    """Judges what a network sees.

    Parameters
    ----------
    statistics
        From the network's folder.
    preprocess
        How the network's input is made.
    engine
        What runs the network, listening at `depths_in` these statistics.
    """

    def __init__(self, statistics: GateStatistics, preprocess: Preprocess, engine: Engine):
        self.statistics, self.preprocess, self.engine = statistics, preprocess, engine

    def judge(self, batch: np.ndarray, fields: Mapping[str, np.ndarray]) -> list[Gate]:
        """A gate for each film.

        Parameters
        ----------
        batch
            (N, C, H, W) inputs of this network.
        fields
            Those of its `cft.model.engine.Pass` over them.
        """

        def mirrored(rows: np.ndarray) -> Mapping[str, np.ndarray]:
            return self.engine(np.ascontiguousarray(batch[rows, ..., ::-1])).fields

        return verdicts(self.statistics, fields, mirrored)

    def look(self, batch: np.ndarray) -> list[Gate]:
        """(N, C, H, W) inputs of this network -> a gate each, by a pass of its own."""
        return self.judge(batch, self.engine(batch).fields)


def depths_in(statistics: GateStatistics | None) -> tuple[Depth, ...]:
    """Where a gate listens; nowhere if there is none."""
    depths = () if statistics is None else statistics.depths
    return tuple(Depth(depth.module, depth.channels) for depth in depths)


@functools.lru_cache(maxsize=2)
def bundled_gatekeeper(device: str, wanted: str) -> Gatekeeper | None:
    """The gate of the bundled model, for models that have none; None if it has none itself.

    Parameters
    ----------
    device, wanted
        As of `cft.model.engines.make_engine`.
    """
    try:
        folder = with_one_head(open_model_folder(BUNDLED))
    except ModelFolderError:  # a Space with a model of its own comes without
        return None
    statistics, preprocess = folder.facts.gate, folder.facts.preprocess
    if statistics is None:
        return None
    engine = FolderNetwork(folder, device, wanted, depths_in(statistics)).engine
    return Gatekeeper(statistics, preprocess, engine)


def gatekeeper_of(
    folder: ModelFolder, engine: Engine, device: str, wanted: str
) -> Gatekeeper | None:
    """The gate of a model: its own, else the bundled one's; None if there is neither.

    Parameters
    ----------
    folder
        The model.
    engine
        What runs it, listening where its own gate does.
    device, wanted
        As of `cft.model.engines.make_engine`.
    """
    statistics = folder.facts.gate
    if statistics is not None:
        return Gatekeeper(statistics, folder.facts.preprocess, engine)
    return bundled_gatekeeper(device, "torch" if wanted == "torch" else "auto")


# ----------------------------------------------------------------------------- evidence


def evidence(
    depths: tuple[DepthStatistics, ...], features: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What the regression sees, and how far from films a picture is.

    Parameters
    ----------
    depths
        What films are like.
    features
        Module -> (N, GRID * GRID, C).

    Returns
    -------
    tuple of numpy.ndarray
        (N, D) float32: the components of all fields of all depths, then the distances. And (N,):
        the largest of them, in standard deviations of films.
    """
    tables, distances = [], []
    for depth in depths:
        centred = features[depth.module].astype(np.float32) - depth.mean
        z = centred @ depth.components.T  # (N, fields, R)
        for number, usual in zip(
            distances_at(depth, centred, z), (depth.away, depth.rest), strict=True
        ):
            distances.append((number - usual[0]) / usual[1])
        tables.append(np.clip(z, -_FAR_OUT, _FAR_OUT).reshape(len(z), -1))
    numbers = np.clip(np.stack(distances, 1), -_FAR_OUT, _FAR_OUT).astype(np.float32)
    return np.concatenate([*tables, numbers], 1), numbers.max(1)


def distances_at(
    depth: DepthStatistics, centred: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of two distances from films, (N,) each, see `DepthStatistics`.

    Parameters
    ----------
    centred
        (N, fields, C) features less their mean.
    z
        (N, fields, R) their components.
    """
    away = ((z - depth.centre) / depth.spread) ** 2
    over = (centred**2).sum(2) - ((z * depth.scale) ** 2).sum(2)
    return np.log(away.mean((1, 2)) + _TINY), np.log(np.maximum(over, 0).mean(1) + _TINY)


_TINY = 1e-9

# So many standard deviations are as bad as any more: a sum of them stays a number.
_FAR_OUT = 30.0


def probabilities(statistics: GateStatistics, table: np.ndarray) -> np.ndarray:
    """(N, D) of `evidence` -> (N, K) probabilities of `LOOKS`."""
    logits = table.astype(np.float64) @ statistics.weights.T + statistics.bias
    logits -= logits.max(1, keepdims=True)
    chances = np.exp(logits)
    return chances / chances.sum(1, keepdims=True)


def differences(depths: tuple[DepthStatistics, ...], table: np.ndarray) -> np.ndarray:
    """What tells a mirrored film: each field's components less those of the field opposite.

    Parameters
    ----------
    table
        (N, D) of `evidence`.

    Returns
    -------
    numpy.ndarray
        (N, D'), of which a mirrored film has about the negative.
    """
    parts, at = [], 0
    for depth in depths:
        width = GRID * GRID * depth.rank
        z = table[:, at : at + width].reshape(-1, GRID, GRID, depth.rank)
        parts.append((z - z[:, :, ::-1])[:, :, : GRID // 2].reshape(len(table), -1))
        at += width
    return np.concatenate(parts, 1)


def side_of(statistics: GateStatistics, table: np.ndarray) -> np.ndarray:
    """(N, D) of `evidence` -> (N,) sums, above 0 where a film looks mirrored."""
    return differences(statistics.depths, table) @ statistics.side


def verdicts(
    statistics: GateStatistics,
    features: Mapping[str, np.ndarray],
    mirrored: Callable[[np.ndarray], Mapping[str, np.ndarray]],
) -> list[Gate]:
    """A gate for each picture.

    Parameters
    ----------
    statistics
        What the gate has learnt.
    features
        Module -> (N, GRID * GRID, C).
    mirrored
        Gives the features of some of the pictures, mirrored, by their numbers.
    """
    table, distance = evidence(statistics.depths, features)
    looks, sides = probabilities(statistics, table), side_of(statistics, table)
    if statistics.again is not None:
        upright = looks[:, LOOKS.index("upright")] >= statistics.passes
        doubtful = np.flatnonzero(upright & (sides >= statistics.again))
        if len(doubtful):
            other, _ = evidence(statistics.depths, mirrored(doubtful))
            sides[doubtful] = (sides[doubtful] - side_of(statistics, other)) / 2
    return [
        verdict(statistics, dict(zip(LOOKS, row, strict=True)), side, far)
        for row, side, far in zip(looks.tolist(), sides.tolist(), distance.tolist(), strict=True)
    ]


def verdict(
    statistics: GateStatistics, looks: Mapping[str, float], side: float, distance: float
) -> Gate:
    """The gate of a picture that looks so, of such a side, and so far from films."""
    if looks["upright"] >= statistics.passes:
        gate = Gate() if distance <= statistics.far else Gate("warn", (_FAR,))
        # Never refused: a heart may be on the right.
        return gate & _MIRRORED if side >= statistics.mirrored else gate
    likely = max((name for name in LOOKS if name != "upright"), key=lambda name: looks[name])
    if likely in _TURNED:
        what, turn = _TURNED[likely]
        if looks[likely] >= statistics.certain:
            return Gate("refuse", (f"The film looks {what}.",), turn)
        return Gate("warn", (f"The film may be {what}.",))
    if looks["upright"] <= 1 - statistics.certain:
        return Gate("refuse", (_NO_CHEST,))
    return Gate("warn", (_DOUBTFUL,))
