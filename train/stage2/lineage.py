"""One category's part of the genetic search: its individuals, their fitness, what they found."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.metrics.ranking import METRICS
from train.stage2.pulls import pulls_of

__all__ = ["Genetic", "Lineage"]

# Of the default's directions: two scores count as close, and their order as one that a step can
# change, within this share of the scores' standard deviation.
_CLOSE = 0.5

# The default's steps along a direction are spread over this factor below the longest.
_STEPS = 30.0

# Scores that children are made of at once: what is between stays in a processor's cache.
_BLOCK = 2048


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


class Lineage:
    """The individuals of one category.

    `train.stage2.genetic.Evolution` makes them, multiplies the features for all categories at once
    and tells each category what came of it.

    Parameters
    ----------
    y
        (n,) labels in {1, 0} of the category's known training films.
    weights, scores
        (D,) the trained logistic regression, and (n,) its scores of these films.
    validation
        Its metric on validation films.
    settings, metric, seed
        See `train.stage2.genetic`.

    Attributes
    ----------
    population, scores, fitness_of
        (P, D) the individuals, their (P, n) scores and their (P,) fitness.
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
    """

    def __init__(
        self,
        y: Tensor,
        weights: Tensor,
        scores: Tensor,
        validation: float,
        settings: Genetic,
        metric: str,
        seed: int,
    ):
        self._y, self._settings, self._metric, self._seed = y, settings, metric, seed
        self._random = torch.Generator(y.device).manual_seed(seed % 2**63)
        self.population = weights.expand(settings.population, -1).clone()
        self.scores = scores.expand(settings.population, -1).clone()
        self.measure()
        self.weights, self.fitness = weights.clone(), float(self.fitness_of[0])
        self.validation, self.generation, self._since = validation, 0, 0
        self.history: list[dict[str, float]] = []
        self.path: list[Tensor] = []
        if settings.guided:
            spread = scores.std()
            self._unit = torch.where(spread > 0, spread, 1.0)  # of a constant regression: any
            self._step = torch.tensor(settings.step).to(scores)

    @property
    def done(self) -> bool:
        """Whether the search has ended."""
        ended = self.generation >= self._settings.generations
        return ended or self._since >= self._settings.patience

    @property
    def fittest(self) -> Tensor:
        """(D,) the individual of the highest fitness."""
        return self.population[int(self.fitness_of.argmax())]

    def measure(self) -> None:
        """Take the fitness of the scores that are there."""
        self.fitness_of = METRICS[self._metric](self.scores, self._y)

    def judge(self, validation: float) -> None:
        """End a generation, whose fittest has this metric on validation films."""
        fittest, fitness = self.fittest, float(self.fitness_of.max())
        mean = float(self.fitness_of.mean())
        self.history.append({"best": fitness, "mean": mean, "validation": validation})
        self.generation += 1
        self._since += 1
        if validation > self.validation:
            self.weights, self.fitness = fittest.clone(), fitness
            self.validation, self._since = validation, 0
        if self._settings.guided:
            self.path.append(fittest.clone())

    def history_array(self) -> np.ndarray:
        """(G, 3) float64: best and mean fitness of each generation, and validation of the best."""
        rows = [[row["best"], row["mean"], row["validation"]] for row in self.history]
        return np.array(rows, np.float64).reshape(-1, 3)

    def state(self) -> dict[str, Tensor]:
        """All that `resume` needs to go on exactly as this search would."""
        numbers = [self.fitness, self.validation, self.generation, self._since]
        found = {
            "of": torch.tensor(self._identity()),
            "population": self.population,
            "scores": self.scores,
            "fitness": self.fitness_of,
            "random": self._random.get_state(),
            "weights": self.weights,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "history": torch.from_numpy(self.history_array()),
        }
        if self._settings.guided:
            path = torch.stack(self.path) if self.path else self.population[:0]
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
        device = self._y.device
        self.population, self.weights = (state[x].to(device) for x in ("population", "weights"))
        self.scores = state["scores"].to(device, copy=True)  # the next ones take their place
        self.fitness_of = state["fitness"].to(device)
        self._random.set_state(state["random"])
        self.fitness, self.validation = state["numbers"][:2].tolist()
        self.generation, self._since = (int(x) for x in state["numbers"][2:].tolist())
        names = ("best", "mean", "validation")
        self.history = [dict(zip(names, row, strict=True)) for row in state["history"].tolist()]
        if self._settings.guided:
            self._step = state["step"].to(device)
            self.path = list(state["path"].to(device))

    def _identity(self) -> int:
        shape = (len(self._y), self.population.shape[1])
        facts = self._settings, self._metric, self._seed, shape
        return zlib.crc32(repr(facts).encode())

    # --- The published operators --------------------------------------------------------------

    def breed(self) -> None:
        """Roulette, uniform crossover, mutation of every gene of a child, elitism.

        The scores are still those of the parents.
        """
        how, population = self._settings, self.population
        parents = [self._roulette(), self._roulette()]
        first = self._uniform(population.shape) < how.crossover
        children = torch.where(first, population[parents[0]], population[parents[1]])
        changes = (2 * self._uniform(population.shape) - 1) * how.spread
        mutates = self._uniform((len(population), 1)) < how.mutation
        children += torch.where(mutates, changes, 0.0)
        children[: how.elites] = population[self.fitness_of.topk(how.elites).indices]
        self.population = children

    def _roulette(self) -> Tensor:
        """(P,) individuals, drawn with replacement in proportion to their fitness."""
        count, fitness = self._settings.population, self.fitness_of
        if not fitness.any():  # all rank every pair wrongly: nobody is preferred
            fitness = torch.ones_like(fitness)
        return torch.multinomial(fitness, count, replacement=True, generator=self._random)

    # --- Operators that look where they go ----------------------------------------------------

    def pulls(self) -> Tensor:
        """(K, n): how the metric of K parents grows with each film's score, over a random half of
        the films each.
        """
        scores = self.scores[self._tournament(self._settings.directions)]
        halves = self._uniform(scores.shape) < 0.5
        width = _CLOSE * scores.std(dim=1, keepdim=True)
        return pulls_of(scores, self._y, width, self._metric, halves)

    def move(self, directions: Tensor, along: Tensor) -> None:
        """Tournaments, line crossover, steps along directions, elitism.

        Parameters
        ----------
        directions, along
            (K, D) of any length, and how the (K, n) scores change along them.
        """
        how, count = self._settings, self._settings.population
        spread = along.std(dim=1, keepdim=True).clamp(min=1e-12)
        first, second = self._tournament(count), self._tournament(count)
        share = 1.5 * self._uniform((count, 1)) - 0.25
        chosen = self._integers(how.directions, count)
        lengths = self._step * self._unit * _STEPS ** -self._uniform((count, 1))
        elite = self.fitness_of.topk(how.elites).indices

        def next_of(values: Tensor, steps: Tensor) -> Tensor:
            steps = steps / spread
            children = torch.lerp(values[first], values[second], share)
            children += lengths * steps[chosen]
            children[: how.elites] = values[elite]
            return children

        block = _BLOCK if self.scores.device.type == "cpu" else len(self._y)
        for start in range(0, len(self._y), block):
            films = slice(start, start + block)
            self.scores[:, films] = next_of(self.scores[:, films], along[:, films])
        self.population = next_of(self.population, directions)

    def adapt(self, best: Tensor) -> None:
        """Longer steps while they pay, shorter ones at the top; `best` is the former fitness."""
        longest = self._settings.step
        grown = self.fitness_of.max() > best
        self._step = torch.where(grown, self._step * 1.5, self._step / 2)
        self._step.clamp_(longest * 1e-3, longest)

    def _tournament(self, count: int) -> Tensor:
        """(count,) individuals, each the fittest of some that were drawn."""
        drawn = self._integers(self._settings.population, (count, self._settings.tournament))
        winner = self.fitness_of[drawn].argmax(dim=1, keepdim=True)
        return drawn.gather(1, winner).squeeze(1)

    # --- Chance -------------------------------------------------------------------------------

    def _uniform(self, shape: Any) -> Tensor:
        return torch.rand(shape, generator=self._random, device=self._y.device)

    def _integers(self, below: int, shape: Any) -> Tensor:
        shape = (shape,) if isinstance(shape, int) else shape
        return torch.randint(below, shape, generator=self._random, device=self._y.device)
