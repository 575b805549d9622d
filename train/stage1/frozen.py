"""Stage 1 without training: the network stays as it is, its regressions are fitted to features.

The features of every film, and of augmented copies of the training films, are computed once (see
`train.frozen.features`); the logistic regressions are fitted to the label policy's targets (see
`train.frozen.logistic`). The strength of the penalty is the same for all categories and chosen by
cross-fitting: five folds of training *patients*, every film scored by the fit without its patient,
the best mean of the metric over the categories. Nothing but the regressions has been fitted to the
training films, so they are honest judges here, and many more than the validation films, which stay
untouched for calibration and for stage 2.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from train.command import Stop, options_of
from train.datasets import PolicyOptions
from train.datasets.history import History
from train.datasets.labels import LabelTable
from train.datasets.pixels import Pixels
from train.datasets.splits import patient_folds
from train.errors import Stopped, TrainingError
from train.frozen.features import Features, Frozen, FrozenNetwork, features_of, linear_head
from train.frozen.kept import computed_on, place_of
from train.frozen.logistic import Films, Fitted, fit
from train.stage1.augment import Augmentation, augment
from train.stage1.loop import figures_of
from train.stage1.network import build
from train.stage1.run import Run
from train.stage1.settings import Settings

if TYPE_CHECKING:
    from cft.model.network import Network

#: Strengths of the penalty that are tried, strongest first; see `train.frozen.logistic.fit`.
STRENGTHS = (1e5, 3e4, 1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
_FOLDS = 5

# The path ends after so many strengths in a row that are no better than the best: weaker ones take
# ever more steps.
_PATIENCE = 2


# Films on which a model's regressions are compared with those fitted again, and how far the logits
# may be apart: rounding is far below.
_COMPARED, _SAME = 1024, 0.02


class Copy:
    """An augmented copy of every film: a `train.frozen.features.Change`.

    Each film's change depends on the copy's number, the film's row and how many films there are,
    and on no seed of a run, so that other runs find the features.
    """

    def __init__(self, augmentation: Augmentation, number: int, films: int):
        self._changes = augmentation.draw(films, torch.Generator().manual_seed(number))
        self.name = f"copy {number}: {asdict(augmentation)}"

    def __call__(self, films: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """See `train.frozen.features.Change`."""
        index = torch.from_numpy(rows)
        return augment(films, {k: v[index].to(films.device) for k, v in self._changes.items()})


@dataclass(frozen=True)
class Recipe:
    """What a run's regressions are fitted to, so that the same can be done without some films.

    Attributes
    ----------
    films
        Features of the n training films and of their copies.
    targets
        (n, C) float32 of the label policy.
    strength
        Of the penalty.
    """

    films: Films
    targets: np.ndarray
    strength: float

    def __call__(self, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit on several sets of films.

        Parameters
        ----------
        counted
            (n, F) bool: the films of each set.

        Returns
        -------
        weights, biases
            (F, C, D) and (F, C) float32.
        """
        return fit(self.films, self.targets, self.strength, counted).folded(self.films)


def recipe_of(
    frozen: Frozen,
    pixels: Pixels,
    cache: Path,
    plain: Features,
    rows: np.ndarray,
    targets: np.ndarray,
    settings: Settings,
    strength: float,
) -> Recipe:
    """The recipe of a run.

    Parameters
    ----------
    frozen, pixels, cache
        As for `features_of`.
    plain
        The features of the films as they are.
    rows
        (n,) rows of the training films.
    targets
        (n, C) their targets.
    settings
        How many copies, and how they are made.
    strength
        Of the penalty.
    """
    views, keys = [plain.z], ""
    augmentation = Augmentation.named(settings.augment)
    if augmentation:
        for number in range(settings.freeze_copies):
            copy = Copy(augmentation, number, len(pixels.array))
            copies = features_of(frozen, pixels, cache, rows, copy)
            views.append(copies.z)
            keys += copies.key
    file = place_of(cache / plain.key, "directions", rows, keys, computed_on(frozen.device))
    return Recipe(Films(views, rows, frozen.device, file), targets, strength)


def recipe_again(
    facts: Mapping[str, Any],
    frozen: Frozen,
    pixels: Pixels,
    cache: Path,
    plain: Features,
    table: LabelTable,
    rows: np.ndarray,
    history: History | None = None,
) -> Recipe:
    """The recipe of a run from what its model folder says.

    Parameters
    ----------
    facts
        The provenance that `train.negative` wrote.
    frozen, pixels, cache, plain
        See `recipe_of`.
    table
        The run's films, with its categories, splits and hidden labels.
    rows
        (n,) its training films.
    history
        The table of the run's ``--history``, if it had one.

    Raises
    ------
    TrainingError
        If it does not give the model's regressions: other films, or other labels; or if the table
        of ``--history`` is another.
    """
    settings = options_of(Settings, facts["arguments"])
    policy = options_of(PolicyOptions, facts["arguments"]).policy
    targets = policy.apply(table, settings.seed)
    if fitted_with := facts.get("history"):
        if history is None or history.sha256 != fitted_with["sha256"]:
            raise TrainingError(
                "the model was fitted with the labels of a patient's other films, and the table of "
                f"--history is not the one they were in (SHA-256 {fitted_with['sha256']})"
            )
        targets = history.apply(targets, table)
    targets = targets[rows]
    strength = float(facts["frozen"]["strength"])
    recipe = recipe_of(frozen, pixels, cache, plain, rows, targets, settings, strength)
    weights, biases = recipe(np.ones((len(rows), 1), bool))
    some = plain.z[rows[:_COMPARED]]
    expected = some @ plain.weights.T + plain.biases
    if not np.allclose(some @ weights[0].T + biases[0], expected, atol=_SAME, rtol=_SAME):
        raise TrainingError(
            "these films and labels do not give the model's regressions, so their fit cannot be "
            "cross-fitted; give the data that it was made from, or --choose-on valid"
        )
    return recipe


class FrozenRun:
    """A run of stage 1 whose network stays as it is.

    Parameters
    ----------
    run
        Settings and data.
    pixels
        The run's films.
    cache
        Folder of features.

    Attributes
    ----------
    network
        In evaluation mode, with the fitted regressions once `fit` has ended.
    plain
        Features of the films as they are.
    kept
        Their folder.
    recipe
        What the regressions are fitted to; its strength is the one asked for, or 0 until one has
        been chosen.
    facts
        What was chosen, for the provenance.

    Raises
    ------
    TrainingError
        If no category has a positive and a negative training film.
    ModelFolderError
        If the network does not end in one linear layer.
    """

    def __init__(self, run: Run, pixels: Pixels, cache: Path):
        self._run = run
        training = run.rows["train"]
        targets = run.targets[torch.from_numpy(training).to(run.here.device)].numpy(force=True)
        if not ((np.nansum(targets, 0) > 0) & (np.nansum(1 - targets, 0) > 0)).any():
            raise TrainingError(
                "no category has both a positive and a negative training film, so there is "
                "nothing to fit"
            )
        self.network: Network = build(run.settings, run.table.label_names, targets)
        self.network.eval().requires_grad_(False)
        linear_head(self.network)  # without one it is refused before anything is computed
        self.network.to(run.here.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack memory_format
        frozen = FrozenNetwork(self.network, run.preprocess, run.here.device)
        used = np.concatenate(list(run.rows.values()))
        self.plain = features_of(frozen, pixels, cache, used)
        self.kept = cache / self.plain.key
        self.recipe = recipe_of(
            *(frozen, pixels, cache, self.plain, training, targets, run.settings),
            strength=run.settings.freeze_strength or 0.0,
        )
        self.facts: dict[str, Any] = {}

    def fit(self, stop: Stop) -> Iterator[dict[str, Any]]:
        """Choose the strength, unless it is given, and fit; yields a record for each one tried."""
        records = []
        strength = self.recipe.strength
        if not strength:
            for record in self._cross_fitted():
                records.append(record)
                yield record
                if stop.asked:
                    raise Stopped
            metric = self._run.settings.metric
            best = max(records, key=lambda record: record["cross_fitted"][metric])
            strength = best["strength"]
            self.facts["cross_fitted"] = {k: best["cross_fitted"][k] for k in ("auroc", "map")}
        self.facts |= {"strength": strength, "copies": len(self.recipe.films.views) - 1}
        self.recipe = replace(self.recipe, strength=strength)
        weights, biases = self.recipe(np.ones((len(self.recipe.films), 1), bool))
        head = linear_head(self.network)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weights[0]))
            head.bias.copy_(torch.from_numpy(biases[0]))

    def _cross_fitted(self) -> Iterator[dict[str, Any]]:
        """A record for each strength, strongest first, until the metric falls."""
        run, recipe = self._run, self.recipe
        table = _judges(run.table.subset(run.rows["train"]), recipe.targets)
        fold = patient_folds(table.patients, _FOLDS, run.settings.seed)
        counted = fold[:, None] != np.arange(_FOLDS)
        fitted: Fitted | None = None
        best, waited = -np.inf, 0
        for number, strength in enumerate(STRENGTHS, start=1):
            began = time.monotonic()
            fitted = fit(recipe.films, recipe.targets, strength, counted, start=fitted)
            figures = figures_of(fitted.scores(recipe.films, fold), table)
            yield {
                "step": number,
                "strength": strength,
                "cross_fitted": figures,
                "steps": fitted.steps,
                "seconds": round(time.monotonic() - began, 2),
            }
            score = figures[run.settings.metric]
            best, waited = max(best, score), 0 if score > best else waited + 1
            if waited >= _PATIENCE:
                return

    def scores(self, split: str) -> np.ndarray:
        """(n, C) float32 logits of the films of a split, from their features."""
        head = linear_head(self.network)
        z = self.plain.z[self._run.rows[split]]
        return z @ head.weight.numpy(force=True).T + head.bias.numpy(force=True)


def _judges(table: LabelTable, targets: np.ndarray) -> LabelTable:
    """The training films with what the policy takes their labels for; soft ones by their half.

    So a 0 or 1 that a patient's other films have softened judges as the film's own label.
    """
    hard = np.where(np.isnan(targets), np.nan, targets >= 0.5).astype(np.float32)
    return replace(table, y=hard, uncertain=np.zeros(hard.shape, bool))
