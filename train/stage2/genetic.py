"""A genetic algorithm that maximises the metric itself, for one category's logistic regression.

A chromosome is the regression's weights; the bias is not in it, as no ranking depends on a bias.
Fitness is the exact metric of the training films whose label is *known*. The fittest individual of
each generation is scored on validation films, and the best by validation is kept, the trained
regression included. The guided search also keeps the fittest of every generation, so that all
categories can choose a generation together (`train.stage2.refit.choose`).

Two settings:

- `Genetic.paper()` is the published search, step for step as in its authors' public code
  (github.com/maxium0526/category-wise-fine-tuning and the package mlcpl): a population of copies,
  roulette selection, uniform crossover, mutation of all genes by U(-0.001, 0.001).
- The default has the same skeleton with operators that look where they go. Children differ from
  their parents along directions in which the metric itself grows, so a generation gains what
  random steps in a thousand dimensions gain in hundreds. And as scores are linear in the weights,
  children are scored from their parents' scores and those of a few directions: a generation costs
  sixteen products of a vector with the features instead of one for each individual.

Each category is a search of its own, because each has its own known films: a tensor over all
categories at once would score the unknown ones too, three quarters of CheXpert's.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.metrics.ranking import METRICS
from train.precision import full_precision
from train.stage2.refit import basis_of

__all__ = ["Evolution", "Genetic", "pulls_of"]

# Of the default's directions: two scores count as close, and their order as one that a step can
# change, within this share of the scores' standard deviation.
_CLOSE = 0.5

# The default's steps along a direction are spread over this factor below the longest.
_STEPS = 30.0

# Scores of children are sums of their parents'; after this many generations all are taken anew.
_RESCORE = 25


@dataclass(frozen=True)
class Genetic:
    """What shapes a search.

    Attributes
    ----------
    population
        Individuals of a generation.
    generations
        At most so many.
    patience
        Generations without a strictly better validation score after which the search ends.
    elites
        The fittest so many go on as they are.
    guided
        True: tournaments choose parents, children lie on the line through them and move along
        directions of growing fitness. False: the published operators.
    tournament
        Guided: the fittest of so many is a parent.
    directions
        Guided: so many in each generation, each from one parent and half of the films.
    step
        Guided: the longest step, in standard deviations of the trained logits. It is short on
        purpose: validation can only choose among the places that a search passes.
    crossover
        Published: probability of a gene of the first parent instead of the second's.
    mutation
        Published: share of the children that mutate.
    spread
        Published: a gene mutates by U(-spread, spread).
    """

    population: int = 50
    generations: int = 40
    patience: int = 40
    elites: int = 2
    guided: bool = True
    tournament: int = 3
    directions: int = 8
    step: float = 0.05
    crossover: float = 0.2
    mutation: float = 0.5
    spread: float = 1e-3

    @classmethod
    def paper(cls) -> Genetic:
        """The published search, by the defaults of its authors' public code."""
        return cls(generations=5000, patience=300, elites=1, guided=False)


class Evolution:
    """The search for one category's weights.

    Parameters
    ----------
    z
        (N, D) float32 features of the training films, on the device to compute on.
    y
        (N,) labels in {1, 0, NaN}; films with NaN take no part.
    weights
        (D,) float32: the trained logistic regression.
    z_valid, y_valid
        (M, D) and (M,): the films that choose.
    settings
        See `Genetic`.
    metric
        "auroc" or "ap".
    seed
        Same seed, same search, whatever other categories do.
    basis
        From `train.stage2.refit.basis_of`, of all training films; None: of the known ones.

    Attributes
    ----------
    weights
        (D,) the best by validation so far.
    fitness, validation
        The metric of these on training and on validation films.
    history
        A dict for each generation: ``best`` and ``mean`` fitness, ``validation`` of the fittest.
    path
        Guided: the fittest of each generation, (D,) each; the first is the trained regression.
    generation
        Generations so far.
    done
        Whether the search has ended.

    Raises
    ------
    ValueError
        If a class has no known film in training or in validation, or the metric is unknown.

    Notes
    -----
    Scores are float32 products of full precision: TensorFloat-32 errs by as much as the published
    mutation.
    """

    def __init__(
        self,
        z: Tensor,
        y: Tensor,
        weights: Tensor,
        *,
        z_valid: Tensor,
        y_valid: Tensor,
        settings: Genetic | None = None,
        metric: str = "auroc",
        seed: int = 0,
        basis: Tensor | None = None,
    ):
        if metric not in METRICS:
            raise ValueError(f"there is no metric {metric!r}; choose from {', '.join(METRICS)}")
        self.settings = settings or Genetic()
        self._metric, self._seed = metric, seed
        self._z, self._y = _known(z, y, "training")
        self._z_valid, self._y_valid = _known(z_valid, y_valid, "validation")
        self._random = torch.Generator(z.device).manual_seed(seed % 2**63)
        self._population = weights.expand(self.settings.population, -1).clone()
        self._scores = self._score(self._population)
        self._fitness = self._measure(self._scores, self._y)
        self.weights, self.fitness = weights.clone(), float(self._fitness[0])
        self.validation = self._validate(weights)
        self.generation, self._since = 0, 0
        self.history: list[dict[str, float]] = []
        self.path: list[Tensor] = []
        if self.settings.guided:
            spread = self._scores[0].std()
            self._unit = torch.where(spread > 0, spread, 1.0)  # of a constant regression: any
            self._step = torch.tensor(self.settings.step).to(z)
            self._basis = basis_of(self._z - self._z.mean(0)) if basis is None else basis

    @property
    def done(self) -> bool:
        ended = self.generation >= self.settings.generations
        return ended or self._since >= self.settings.patience

    def step(self) -> None:
        """Judge the generation that is there and bring forth the next one."""
        best = int(self._fitness.argmax())
        fittest, fitness = self._population[best], float(self._fitness[best])
        validation = self._validate(fittest)
        self.history.append(
            {"best": fitness, "mean": float(self._fitness.mean()), "validation": validation}
        )
        self.generation += 1
        self._since += 1
        if validation > self.validation:
            self.weights, self.fitness = fittest.clone(), fitness
            self.validation, self._since = validation, 0
        if self.settings.guided:
            self.path.append(fittest.clone())
            self._guided_generation()
        else:
            self._published_generation()

    def history_array(self) -> np.ndarray:
        """(G, 3) float64: best and mean fitness of each generation, and validation of the best."""
        rows = [[row["best"], row["mean"], row["validation"]] for row in self.history]
        return np.array(rows, np.float64).reshape(-1, 3)

    def state(self) -> dict[str, Tensor]:
        """All that `resume` needs to go on exactly as this search would."""
        numbers = [self.fitness, self.validation, self.generation, self._since]
        found = {
            "of": torch.tensor(self._identity()),
            "population": self._population,
            "scores": self._scores,
            "fitness": self._fitness,
            "random": self._random.get_state(),
            "weights": self.weights,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "history": torch.from_numpy(self.history_array()),
        }
        if self.settings.guided:
            path = torch.stack(self.path) if self.path else self._population[:0]
            found |= {"step": self._step, "path": path}
        return {name: value.detach().cpu().clone() for name, value in found.items()}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state` of the same search.

        Raises
        ------
        ValueError
            If the state is of other settings, films or seed.
        """
        if int(state["of"]) != self._identity():
            raise ValueError("the state of the search is of other settings, films or seed")
        device = self._z.device
        self._population = state["population"].to(device)
        self._scores, self._fitness = state["scores"].to(device), state["fitness"].to(device)
        self.weights = state["weights"].to(device)
        self._random.set_state(state["random"])
        self.fitness, self.validation = state["numbers"][:2].tolist()
        self.generation, self._since = (int(x) for x in state["numbers"][2:].tolist())
        names = ("best", "mean", "validation")
        self.history = [dict(zip(names, row, strict=True)) for row in state["history"].tolist()]
        if self.settings.guided:
            self._step = state["step"].to(device)
            self.path = list(state["path"].to(device))

    def _identity(self) -> int:
        facts = self.settings, self._metric, self._seed, tuple(self._z.shape)
        return zlib.crc32(repr(facts).encode())

    # --- Judging ------------------------------------------------------------------------------

    def _score(self, population: Tensor) -> Tensor:
        """(P, n) scores of the known training films."""
        with full_precision():
            return population @ self._z.T

    def _measure(self, scores: Tensor, y: Tensor) -> Tensor:
        return METRICS[self._metric](scores, y)

    def _validate(self, weights: Tensor) -> float:
        with full_precision():
            return float(self._measure(self._z_valid @ weights, self._y_valid))

    # --- The published operators --------------------------------------------------------------

    def _published_generation(self) -> None:
        """Roulette, uniform crossover, mutation of every gene of a child, elitism."""
        how, population = self.settings, self._population
        parents = [self._roulette(), self._roulette()]
        first = self._uniform(population.shape) < how.crossover
        children = torch.where(first, population[parents[0]], population[parents[1]])
        changes = (2 * self._uniform(population.shape) - 1) * how.spread
        mutates = self._uniform((len(population), 1)) < how.mutation
        children += torch.where(mutates, changes, 0.0)
        children[: how.elites] = population[self._fitness.topk(how.elites).indices]
        self._population = children
        self._scores = self._score(children)
        self._fitness = self._measure(self._scores, self._y)

    def _roulette(self) -> Tensor:
        """(P,) individuals, drawn with replacement in proportion to their fitness."""
        count, fitness = self.settings.population, self._fitness
        if not fitness.any():  # all rank every pair wrongly: nobody is preferred
            fitness = torch.ones_like(fitness)
        return torch.multinomial(fitness, count, replacement=True, generator=self._random)

    # --- Operators that look where they go ----------------------------------------------------

    def _guided_generation(self) -> None:
        """Tournaments, line crossover, steps along directions of growing fitness, elitism."""
        how, count = self.settings, self.settings.population
        directions, along = self._directions()
        first, second = self._tournament(count), self._tournament(count)
        share = 1.5 * self._uniform((count, 1)) - 0.25
        chosen = self._integers(how.directions, count)
        lengths = self._step * self._unit * _STEPS ** -self._uniform((count, 1))
        elite = self._fitness.topk(how.elites).indices

        def next_of(values: Tensor, steps: Tensor) -> Tensor:
            children = torch.lerp(values[first], values[second], share)
            children += lengths * steps[chosen]
            children[: how.elites] = values[elite]
            return children

        best = self._fitness.max()
        self._scores = next_of(self._scores, along)
        self._population = next_of(self._population, directions)
        if self.generation % _RESCORE == 0:
            self._scores = self._score(self._population)
        self._fitness = self._measure(self._scores, self._y)
        # Longer steps while they pay, shorter ones at the top.
        grown = self._fitness.max() > best
        self._step = torch.where(grown, self._step * 1.5, self._step / 2)
        self._step.clamp_(how.step * 1e-3, how.step)

    def _tournament(self, count: int) -> Tensor:
        """(count,) individuals, each the fittest of some that were drawn."""
        drawn = self._integers(self.settings.population, (count, self.settings.tournament))
        winner = self._fitness[drawn].argmax(dim=1, keepdim=True)
        return drawn.gather(1, winner).squeeze(1)

    def _directions(self) -> tuple[Tensor, Tensor]:
        """(K, D) directions of unit spread in which the metric of K parents grows, and (K, n)
        how the scores change along them.

        Directions are those of `pulls_of` over a random half of the films each, in the metric that
        `train.stage2.refit` measures distances in.
        """
        scores = self._scores[self._tournament(self.settings.directions)]
        pulls = torch.zeros_like(scores)
        for row, own in zip(pulls, scores, strict=True):
            half = self._uniform(own.shape) < 0.5
            row[half] = pulls_of(own[half], self._y[half], _CLOSE * own.std(), self._metric)
        with full_precision():
            directions = ((pulls @ self._z) @ self._basis) @ self._basis.T
            along = directions @ self._z.T
        spread = along.std(dim=1, keepdim=True).clamp(min=1e-12)
        return directions / spread, along / spread

    # --- Chance -------------------------------------------------------------------------------

    def _uniform(self, shape: Any) -> Tensor:
        return torch.rand(shape, generator=self._random, device=self._z.device)

    def _integers(self, below: int, shape: Any) -> Tensor:
        shape = (shape,) if isinstance(shape, int) else shape
        return torch.randint(below, shape, generator=self._random, device=self._z.device)


def _known(z: Tensor, y: Tensor, side: str) -> tuple[Tensor, Tensor]:
    """The films whose label is known."""
    known = ~y.isnan()
    z, y = (z, y) if bool(known.all()) else (z[known], y[known])
    for value, kind in ((1, "positive"), (0, "negative")):
        if not bool((y == value).any()):
            raise ValueError(f"no known {kind} {side} film")
    return z, y


def pulls_of(scores: Tensor, y: Tensor, width: Tensor, metric: str = "auroc") -> Tensor:
    """How the metric grows with each film's score, where comparisons are ramps.

    The gradient of the share of pairs that are in order, each pair counting not as 0 or 1 but by a
    ramp from 0 to 1 between score differences of ``-width`` and ``width``; in O(n log n). For
    average precision the pairs of a positive weigh what one negative less above it would give it.

    Parameters
    ----------
    scores, y
        (n,) of both classes, {1, 0}.
    width
        Half of the ramp.
    metric
        "auroc" or "ap".

    Returns
    -------
    Tensor
        (n,), scaled to a sum of absolute values of one; zero if no pair is close.
    """
    positives, negatives = y == 1, y == 0
    up, order = scores[positives].sort()
    down, place = scores[negatives].sort()
    weights = torch.ones_like(up)
    if metric == "ap":
        # A positive of precision t / (t + f) gains t / (t + f)^2 by one negative less above it.
        true = torch.arange(len(up), 0, -1, device=up.device)
        weights = true / (true + len(down) - torch.searchsorted(down, up)).square()
    total = torch.nn.functional.pad(weights.cumsum(0), (1, 0))
    close_to_positive = torch.empty_like(up)
    close_to_positive[order] = weights * _within(down, up, width).to(up)
    close_to_negative = torch.empty_like(down)
    close_to_negative[place] = (
        total[torch.searchsorted(up, down + width, right=True)]
        - total[torch.searchsorted(up, down - width)]
    )
    pulls = torch.zeros_like(scores)
    pulls[positives], pulls[negatives] = close_to_positive, -close_to_negative
    return pulls / pulls.abs().sum().clamp(min=1e-12)


def _within(values: Tensor, points: Tensor, width: Tensor) -> Tensor:
    """How many of the sorted `values` lie within `width` of each point."""
    not_above = torch.searchsorted(values, points + width, right=True)
    return not_above - torch.searchsorted(values, points - width)
