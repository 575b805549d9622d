"""A genetic algorithm that maximises the metric itself, for the categories' logistic regressions.

A chromosome is the regression's weights; the bias is not in it, as no ranking depends on a bias.
Fitness is the exact metric of the training films whose label is *known*. The fittest individual of
each generation is scored on validation films, and the best by validation is kept, the trained
regression included. The guided search also keeps the fittest of every generation, so that all
categories can choose a generation together (`train.stage2.choice.choose`).

Two settings:

- `Genetic.paper()` is the published search, step for step as in its authors' public code
  (github.com/maxium0526/category-wise-fine-tuning and the package mlcpl): a population of copies,
  roulette selection, uniform crossover, mutation of all genes by U(-0.001, 0.001).
- The default has the same skeleton with operators that look where they go. Children differ from
  their parents along directions in which the metric itself grows, so a generation gains what
  random steps in a thousand dimensions gain in hundreds. And as scores are linear in the weights,
  children are scored from their parents' scores and those of a few directions: a generation costs
  sixteen products of a vector with the features instead of one for each individual.

Categories are searched side by side, each with draws of its own, so that the result of one does
not depend on which others there are. What they have in common is the features: a generation reads
them twice, however many categories there are. For that the directions of a category are multiplied
with films whose label it does not know, too. On a CPU that costs no more than reading the known
ones of each category by itself, since products of a few vectors wait for memory, and on a GPU
nothing. What ranks films works on the known ones alone (`train.stage2.lineage`). The published
search scores every individual anew and is bound by arithmetic: there unknown films are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from train.metrics.ranking import METRICS
from train.precision import full_precision
from train.stage2.lineage import Genetic, Lineage
from train.stage2.refit import basis_of

__all__ = ["Evolution", "Genetic"]

# Scores of children are sums of their parents'; after this many generations all are taken anew.
_RESCORE = 25

# Films whose features are gathered at once, to score all individuals of one category.
_BLOCK = 4096


class Evolution:
    """The search for the weights of some categories, side by side.

    Parameters
    ----------
    z
        (N, D) float32 features of the training films, on the device to compute on.
    y
        (N, C) labels in {1, 0, NaN}; of each category, films with NaN take no part.
    weights
        (C, D) float32: the trained logistic regressions.
    z_valid, y_valid
        (M, D) and (M, C): the films that choose.
    settings
        See `Genetic`.
    metric
        "auroc" or "ap".
    seeds
        C numbers. Same seed, same search of a category, but for the rounding of products, whatever
        other categories there are.
    basis
        From `train.stage2.refit.basis_of`, of all training films; None: of those with a known
        label.

    Attributes
    ----------
    lineages
        C, each of one category: what was found.
    done
        Whether the searches of all categories have ended.

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
        seeds: Sequence[int],
        settings: Genetic | None = None,
        metric: str = "auroc",
        basis: Tensor | None = None,
    ):
        if metric not in METRICS:
            raise ValueError(f"there is no metric {metric!r}; choose from {', '.join(METRICS)}")
        for labels, side in ((y, "training"), (y_valid, "validation")):
            _check_classes(labels, side)
        self.settings = settings or Genetic()
        self._metric = metric
        known = ~y.isnan()
        of_any = known.any(dim=1)
        if not bool(of_any.all()):
            z, y, known = z[of_any], y[of_any], known[of_any]
        self._z, self._z_valid, self._y_valid = z, z_valid, y_valid.T.contiguous()
        # Of each category the numbers of its known films among these; None: all of them.
        self._known = [None if bool(own.all()) else own.nonzero().squeeze(1) for own in known.T]
        with full_precision():
            scores = weights @ z.T  # (C, N)
        self.lineages = [
            Lineage(
                self._of_known(y[:, c], c),
                weights[c],
                self._of_known(scores[c], c),
                validation,
                self.settings,
                metric,
                seed,
            )
            for c, (validation, seed) in enumerate(
                zip(self._validate(range(len(seeds)), weights), seeds, strict=True)
            )
        ]
        if self.settings.guided:
            self._basis = basis_of(z - z.mean(0)) if basis is None else basis

    @property
    def done(self) -> bool:
        return all(lineage.done for lineage in self.lineages)

    def step(self) -> None:
        """Judge the generation that is there and bring forth the next one.

        Categories whose search has ended stay as they are.
        """
        live = [c for c, lineage in enumerate(self.lineages) if not lineage.done]
        if not live:
            return
        fittest = torch.stack([self.lineages[c].fittest for c in live])
        for c, validation in zip(live, self._validate(live, fittest), strict=True):
            self.lineages[c].judge(validation)
        if self.settings.guided:
            self._guided_generation(live)
        else:
            for c in live:
                self.lineages[c].breed()
                self._score(c)
                self.lineages[c].measure()

    def _guided_generation(self, live: Sequence[int]) -> None:
        """Every category's directions, from one pass over the features, and their scores, from
        another.

        Directions are those of `pulls_of` in the metric that `train.stage2.refit` measures
        distances in.
        """
        count = self.settings.directions
        pulls = self._z.new_zeros(len(live), count, len(self._z))
        for row, c in zip(pulls, live, strict=True):
            own = self.lineages[c].pulls()
            if (known := self._known[c]) is None:
                row.copy_(own)
            else:
                row.index_copy_(1, known, own)
        with full_precision():
            directions = ((pulls.flatten(0, 1) @ self._z) @ self._basis) @ self._basis.T
            along = torch.mm(directions, self._z.T, out=pulls.flatten(0, 1))
        directions, along = (x.unflatten(0, (-1, count)) for x in (directions, along))
        for c, ways, changes in zip(live, directions, along, strict=True):
            lineage = self.lineages[c]
            best = lineage.fitness_of.max()
            lineage.move(ways, self._of_known(changes, c))
            if lineage.generation % _RESCORE == 0:
                self._score(c)
            lineage.measure()
            lineage.adapt(best)

    def _score(self, c: int) -> None:
        """Score all individuals of a category on its known films."""
        lineage, known = self.lineages[c], self._known[c]
        with full_precision():
            if known is None:
                lineage.scores = lineage.population @ self._z.T
                return
            for start in range(0, len(known), _BLOCK):
                films = slice(start, start + _BLOCK)
                lineage.scores[:, films] = lineage.population @ self._z[known[films]].T

    def _validate(self, columns: Sequence[int], weights: Tensor) -> list[float]:
        """The metric on validation films of one regression (D,) of each of some categories."""
        with full_precision():
            scores = (self._z_valid @ weights.T).T.contiguous()
        return METRICS[self._metric](scores, self._y_valid[list(columns)]).tolist()

    def _of_known(self, values: Tensor, c: int) -> Tensor:
        """(..., N) -> (..., n) of a category's known films."""
        known = self._known[c]
        return values if known is None else values.index_select(-1, known)


def _check_classes(y: Tensor, side: str) -> None:
    """Refuse labels of which a category knows one class alone."""
    for value, kind in ((1, "positive"), (0, "negative")):
        if not bool((y == value).any(dim=0).all()):
            raise ValueError(f"no known {kind} {side} film")
