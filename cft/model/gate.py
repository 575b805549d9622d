"""The gate's view of a picture: a network's own features at several depths -> `Gate`.

A film is divided into fields; the mean features of each field, at each depth, are compared with
those of the films that a model knows. Three kinds of evidence come of it: how far the features of
each depth are from those of films (the Mahalanobis distance of the fields' components, and what the
components leave over); what a regression on all of it says that the picture looks like: an upright
film, one that is turned or inverted, or something else; and whether it is mirrored, by a regression
on the differences between left and right alone. All are taken from the pass that gives the scores.

One distance at one depth finds little, see arXiv 2309.01488 and 2603.11269; that turned copies
teach what is no film of the kind, is from Hendrycks et al., NeurIPS 2019 (arXiv 1906.12340).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import torch

from cft.errors import ModelFolderError
from cft.film.gate import Gate, Turn
from cft.model.bundled import BUNDLED
from cft.model.depths import GRID, Depth, listening
from cft.model.folder import CONFIG, ModelFolder, read_model_folder
from cft.model.gate_statistics import LOOKS, DepthStatistics, GateStatistics
from cft.model.network import build_network
from cft.model.preprocess import Preprocess

if TYPE_CHECKING:
    from cft.model.network import Network

__all__ = ["Gatekeeper", "evidence", "probabilities", "verdicts"]

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
    network, preprocess
        The network, and how its input is made.
    statistics
        From its folder.
    where
        What messages call the folder's configuration.

    Raises
    ------
    ModelFolderError
        If the statistics are of another network.
    """

    def __init__(
        self, network: Network, preprocess: Preprocess, statistics: GateStatistics, where: str
    ):
        self.network, self.preprocess, self.statistics = network, preprocess, statistics
        self.depths = tuple(Depth(x.module, x.channels) for x in statistics.depths)
        modules = dict(network.named_modules())
        for depth in self.depths:
            if depth.module not in modules:
                raise ModelFolderError(
                    f'"cft.gate" in {where} is of another network: this one has no part '
                    f"{depth.module[:100]!r}"
                )

    def listening(self) -> AbstractContextManager[dict[str, torch.Tensor]]:
        """A context in which passes of the network are heard; see `cft.model.depths.listening`."""
        return listening(self.network, self.depths)

    def judge(self, heard: Mapping[str, torch.Tensor], count: int) -> list[Gate]:
        """What was heard of a pass over `count` pictures -> a gate each."""
        if set(heard) != {depth.module for depth in self.depths}:  # not maps, as was promised
            return [Gate()] * count
        features = {name: x.cpu().numpy() for name, x in heard.items()}
        return verdicts(self.statistics, features)

    @torch.inference_mode()
    def look(self, batch: torch.Tensor) -> list[Gate]:
        """(N, C, H, W) inputs of this network -> a gate each, by a pass of its own."""
        device = next(self.network.parameters()).device
        with self.listening() as heard:
            self.network.forward_features(
                batch.to(device, memory_format=torch.channels_last)  # as the classifier does
            )
        return self.judge(heard, len(batch))


@functools.lru_cache(maxsize=2)
def bundled_gatekeeper(device: torch.device) -> Gatekeeper | None:
    """The gate of the bundled model, for models that have none; None if it has none itself."""
    try:
        folder = read_model_folder(BUNDLED)
    except ModelFolderError:  # a Space with a model of its own comes without
        return None
    if folder.facts.gate is None:
        return None
    network = build_network(folder)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack memory_format
    return _gatekeeper(folder, network, folder.facts.gate)


def gatekeeper_of(folder: ModelFolder, network: Network, device: torch.device) -> Gatekeeper | None:
    """The gate of a model: its own, else the bundled one's; None if there is neither."""
    if folder.facts.gate is None:
        return bundled_gatekeeper(device)
    return _gatekeeper(folder, network, folder.facts.gate)


def _gatekeeper(folder: ModelFolder, network: Network, statistics: GateStatistics) -> Gatekeeper:
    where = str(folder.path / CONFIG)
    return Gatekeeper(network, folder.facts.preprocess, statistics, where)


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


def verdicts(statistics: GateStatistics, features: Mapping[str, np.ndarray]) -> list[Gate]:
    """Features, module -> (N, GRID * GRID, C), -> a gate for each picture."""
    table, distance = evidence(statistics.depths, features)
    sides = differences(statistics.depths, table) @ statistics.side
    return [
        verdict(statistics, dict(zip(LOOKS, row, strict=True)), side, far)
        for row, side, far in zip(
            *(x.tolist() for x in (probabilities(statistics, table), sides, distance)), strict=True
        )
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
