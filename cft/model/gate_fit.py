"""Films -> `GateStatistics`: what a model's gate learns, with no labels and no other data.

From each film come copies that are turned, mirrored, inverted and spoilt; with pictures that a
program draws they are what is not to pass. Films that fitted nothing choose the limits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from cft.model.counterexamples import TURNS, disturbed, spoilt
from cft.model.depths import Depth
from cft.model.drawings import drawn
from cft.model.gate import differences, distances_at, evidence, probabilities, side_of
from cft.model.gate_statistics import LOOKS, DepthStatistics, GateStatistics, as_stored
from cft.model.listening import depths_of, listening
from cft.model.preprocess import Preprocess

if TYPE_CHECKING:
    from cft.model.network import Network

__all__ = ["FEWEST", "MOST_CHECKED", "MOST_FITTED", "fit_gate"]

#: Fewest films to fit and to check with, and how many more gain little. What mirrored films look
#: like is learnt from all that are fitted on, the rest from `_MOST_TURNED` of them: left and right
#: differ in less than all other looks do.
FEWEST, MOST_FITTED, MOST_CHECKED = 20, 2000, 300
_MOST_TURNED = 600

# Components at a depth, and numbers of their matrix: 32 kB of a folder's 300.
_MOST_COMPONENTS, _MOST_NUMBERS = 64, 2**14

# Of the films that checked, so many are let pass; less is left to chance and to other hospitals.
_PASSING = 0.99
# Of those that checked, so many are to be called mirrored if they are: more, and films of other
# hospitals were called so that are not.
_CAUGHT = 0.94
# Of the mirrored ones that checked, so many are looked at a second time.
_LOOKED_AT_AGAIN = 0.99
# Least chance of "upright" that a film needs, whatever the films that checked needed.
_LEAST, _MOST_NEEDED = 0.1, 0.5
_CERTAIN = 0.9
# How much farther than the farthest percent of the films that checked a film may be.
_MARGIN = 2.0
_BATCH = 16

Features = dict[str, np.ndarray]  # module -> (N, GRID * GRID, C)
Progress = Callable[[int], None]  # is told how many pictures more are done


def fit_gate(
    network: Network,
    preprocess: Preprocess,
    films: Sequence[np.ndarray] | np.ndarray,
    checks: Sequence[np.ndarray] | np.ndarray,
    *,
    seed: int = 0,
    progress: Progress = lambda count: None,
) -> GateStatistics:
    """Learn what upright frontal films look like to a network.

    Parameters
    ----------
    network, preprocess
        The network, in evaluation mode, and how its input is made.
    films, checks
        (N, H, W) uint8 of the size of the input: films to fit on, and films of other patients that
        choose the limits. Of more than `MOST_FITTED` and `MOST_CHECKED` some are drawn.
    seed
        Of all that is drawn.
    progress
        Is called after each batch with how many pictures were done.

    Raises
    ------
    ValueError
        If there are fewer than `FEWEST` of either, or the network shows no maps of features.
    """
    for name, given in (("fit", films), ("check", checks)):
        if len(given) < FEWEST:
            raise ValueError(f"{len(given)} films to {name} the gate with; it takes {FEWEST}")
    depths = depths_of(network)
    if not depths:
        raise ValueError("the network has no stages that timm knows, so it cannot be a gate")
    random = np.random.default_rng(seed)
    films, checks = (
        [given[i] for i in np.sort(random.permutation(len(given))[:most])]
        for given, most in ((films, MOST_FITTED), (checks, MOST_CHECKED))
    )
    turned = [films[i] for i in np.sort(random.permutation(len(films))[:_MOST_TURNED])]
    pictures = Pictures(network, preprocess, depths, progress)
    looks = learn(pictures, turned, random)
    sides = learn_sides(pictures, films, random)
    return statistics_of(depths, looks, sides, both_ways(pictures, checks))


class Pictures:
    """Pictures -> features of a network."""

    def __init__(
        self,
        network: Network,
        preprocess: Preprocess,
        depths: tuple[Depth, ...],
        progress: Progress = lambda count: None,
    ):
        self.network, self.preprocess, self.depths = network, preprocess, depths
        self.progress = progress

    @torch.inference_mode()
    def features(self, batches: Iterator[torch.Tensor]) -> Features:
        """(n, 1, H, W) batches in [0, 1] -> the features of all of them, as float16."""
        device = next(self.network.parameters()).device
        parts: dict[str, list[np.ndarray]] = {depth.module: [] for depth in self.depths}
        with listening(self.network, self.depths) as heard, _no_further(self.network, self.depths):
            for batch in batches:
                with contextlib.suppress(_EnoughError):
                    self.network.forward_features(self.preprocess.normalize(batch).to(device))
                if set(heard) != set(parts):
                    raise ValueError(
                        "the network shows no maps of features, so it cannot be a gate"
                    )
                for name, rows in parts.items():
                    rows.append(heard[name].cpu().numpy().astype(np.float16))
                self.progress(len(batch))
        return {name: np.concatenate(rows) for name, rows in parts.items()}


class _EnoughError(Exception):
    """Ends a pass through a network of which the rest is not needed."""


@contextlib.contextmanager
def _no_further(network: Network, depths: tuple[Depth, ...]) -> Iterator[None]:
    """Passes end behind the last depth: the rest of a joined network has no say in the gate."""

    def stop(module: Any, inputs: Any, output: Any) -> None:
        raise _EnoughError

    hook = network.get_submodule(depths[-1].module).register_forward_hook(stop)
    try:
        yield
    finally:
        hook.remove()


def _batches(films: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
    for at in range(0, len(films), _BATCH):
        yield torch.from_numpy(np.stack(films[at : at + _BATCH])).float()[:, None] / 255


def learn(
    pictures: Pictures, films: Sequence[np.ndarray], random: np.random.Generator
) -> dict[str, Features]:
    """The features of films and of what is made of them, by what it looks like."""
    shape = films[0].shape
    found: dict[str, Features] = {}
    for name, turn in TURNS.items():
        found[name] = pictures.features(turn(disturbed(x, random)) for x in _batches(films))
    plain = pictures.features(_batches(films))
    found["upright"] = _joined(found["upright"], plain)
    twice = (spoilt(disturbed(x, random), random) for _ in range(2) for x in _batches(films))
    nothing = (
        torch.stack([drawn((shape[0], shape[1]), random) for _ in x])[:, None]
        for x in _batches(films)
    )
    found["other"] = _joined(pictures.features(twice), pictures.features(nothing))
    return found


def learn_sides(
    pictures: Pictures, films: Sequence[np.ndarray], random: np.random.Generator
) -> tuple[Features, Features]:
    """The features of films as they are and mirrored, both also disturbed."""
    disturbance = int(random.integers(2**63))

    def batches() -> Iterator[torch.Tensor]:
        again = np.random.default_rng(disturbance)  # the same films the second time
        for batch in _batches(films):
            yield torch.cat([batch, disturbed(batch, again)])

    return _both_ways(pictures, batches)


def both_ways(
    pictures: Pictures, films: Sequence[np.ndarray] | np.ndarray
) -> tuple[Features, Features]:
    """The features of films as they are, and mirrored."""
    return _both_ways(pictures, lambda: _batches(list(films)))


def _both_ways(
    pictures: Pictures, batches: Callable[[], Iterator[torch.Tensor]]
) -> tuple[Features, Features]:
    mirror = TURNS["mirrored"]
    return pictures.features(batches()), pictures.features(mirror(x) for x in batches())


def pictures_needed(films: int, checks: int) -> int:
    """How many pictures `fit_gate` shows to the network."""
    turned = min(films, _MOST_TURNED) * (len(TURNS) + 4)
    return turned + 4 * min(films, MOST_FITTED) + 2 * min(checks, MOST_CHECKED)


def _joined(*several: Features) -> Features:
    return {name: np.concatenate([one[name] for one in several]) for name in several[0]}


# --------------------------------------------------------------------------- statistics


def statistics_of(
    depths: tuple[Depth, ...],
    looks: Mapping[str, Features],
    sides: tuple[Features, Features],
    checked: tuple[Features, Features],
) -> GateStatistics:
    """Features -> what a model folder stores.

    Parameters
    ----------
    depths
        Where the features come from.
    looks
        Look -> the features of pictures that look so, for each of `LOOKS` and "mirrored".
    sides
        The features of films as they are and mirrored.
    checked
        The same of films that fit nothing.
    """
    films = looks["upright"]
    found = tuple(_at_depth(depth, films[depth.module]) for depth in depths)
    tables = {name: evidence(found, features)[0] for name, features in looks.items()}
    ways = [differences(found, evidence(found, features)[0]) for features in sides]
    side_weights, _ = _regression(ways, _SIDE_STRENGTH)
    tables["upright"] = np.concatenate([tables["upright"], tables["mirrored"]])
    weights, bias = _regression([tables[name] for name in LOOKS], _STRENGTH)
    statistics = GateStatistics(
        depths=found,
        weights=as_stored(weights),
        bias=bias,
        side=as_stored(side_weights[1] - side_weights[0]),
        passes=_MOST_NEEDED,
        certain=_CERTAIN,
        mirrored=0.0,
        far=0.0,
        fitted=len(next(iter(sides[0].values()))) // 2,
        checked=len(next(iter(checked[0].values()))),
    )
    table, distance = evidence(found, checked[0])
    upright = probabilities(statistics, table)[:, LOOKS.index("upright")]
    right_way, wrong_way = (side_of(statistics, evidence(found, x)[0]) for x in checked)
    mirrored, again = limits_of_sides(right_way, wrong_way, _CAUGHT)
    return replace(
        statistics,
        passes=float(np.clip(np.quantile(upright, 1 - _PASSING), _LEAST, _MOST_NEEDED)),
        mirrored=mirrored,
        again=again,
        far=float(_MARGIN * max(1, np.quantile(distance, _PASSING))),
    )


def limits_of_sides(
    right_way: np.ndarray, wrong_way: np.ndarray, caught: float
) -> tuple[float, float]:
    """When a film is called mirrored, and when it is looked at a second time.

    Parameters
    ----------
    right_way, wrong_way
        (N,) sums of `cft.model.gate.side_of`, of films as they are and mirrored.
    caught
        Share of the mirrored ones that is to be called so, if `_PASSING` of the others are not.

    Returns
    -------
    tuple of float
        ``mirrored`` and ``again`` of `GateStatistics`.
    """
    both = (right_way - wrong_way) / 2  # of the films as they are; mirrored, the negative
    passing = max(float(np.quantile(both, _PASSING)), 0.0)
    limit = max(passing, float(np.quantile(-both, 1 - caught)))
    return limit, min(limit, float(np.quantile(wrong_way, 1 - _LOOKED_AT_AGAIN)))


def _at_depth(depth: Depth, films: np.ndarray) -> DepthStatistics:
    """What films are like at one depth; `films` (N, fields, C)."""
    flat = films.reshape(-1, depth.channels).astype(np.float64)
    mean = flat.mean(0)
    values, vectors = np.linalg.eigh(np.cov(flat - mean, rowvar=False).reshape(depth.channels, -1))
    rank = max(1, min(depth.channels, _MOST_COMPONENTS, _MOST_NUMBERS // depth.channels))
    order = np.argsort(-values)[:rank]
    order = order[values[order] > 1e-10 * values.max()]  # a channel may be dead
    scale = np.sqrt(values[order])
    components = (vectors[:, order] / scale).T
    # With the precision that a folder keeps, so that all that follows fits what is read again.
    mean, components, scale = map(as_stored, (mean, components, scale))
    centred = films.astype(np.float32) - mean
    z = centred @ components.T
    unscaled = DepthStatistics(
        module=depth.module,
        channels=depth.channels,
        mean=mean,
        components=components,
        scale=scale,
        centre=as_stored(z.mean(0)),
        spread=as_stored(np.maximum(z.std(0), 1e-3)),
        away=(0.0, 1.0),
        rest=(0.0, 1.0),
    )
    away, rest = distances_at(unscaled, centred, z)
    complete = len(components) == depth.channels  # nothing is left over but rounding
    return replace(
        unscaled, away=_usual(away), rest=(0.0, _UNINTERESTING) if complete else _usual(rest)
    )


# Of a number that is to have no say, however large it is.
_UNINTERESTING = 1e5


def _usual(numbers: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, rounded as they are stored."""
    return round(float(numbers.mean()), 6), round(max(float(numbers.std()), 0.02), 6)


# Of the penalty on the weights, relative to that on one picture; see `_regression`.
_STRENGTH, _SIDE_STRENGTH = 30.0, 300.0
_STEPS = 60


def _regression(tables: Sequence[np.ndarray], strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial regression of the class on its pictures: (K, D) weights and (K,) bias.

    Minimises the sum of cross-entropies, each class weighing as much as any other, plus
    strength / 2 times the squared weights.
    """
    x = torch.from_numpy(np.concatenate(tables))
    y = torch.cat([torch.full((len(table),), k) for k, table in enumerate(tables)])
    share = torch.tensor([len(x) / (len(tables) * len(table)) for table in tables])
    weights = torch.zeros(len(tables), x.shape[1], requires_grad=True)
    bias = torch.zeros(len(tables), requires_grad=True)
    solver = torch.optim.LBFGS([weights, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        fit = F.cross_entropy(x @ weights.T + bias, y, share, reduction="sum")
        total = (fit + strength / 2 * weights.square().sum()) / len(x)
        total.backward()
        return total

    solver.step(loss)
    if not math.isfinite(float(weights.abs().sum().detach())):
        raise ValueError("the gate could not be fitted: the network's features are not finite")
    return weights.detach().numpy(), bias.detach().numpy()
