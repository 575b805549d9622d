"""What `benchmarks.harm` measures stage 2 on: films with hidden labels, and planted features."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from cft.model.classifier import Classifier
from cft.model.folder import WEIGHTS, read_model_folder
from train import negative
from train.command import Stop
from train.datasets import read_dataset
from train.datasets.labels import (
    SPLITS,
    LabelTable,
    hide_labels,
    stable_uniform,
)
from train.evaluation.of_run import test_tables
from train.frozen.features import Features, features_of, linear_head
from train.metrics.ranking import auroc
from train.negative import parse
from train.processes import processes
from train.run_folder import films_of
from train.stage1.frozen import FrozenRun
from train.stage1.loop import train
from train.stage1.network import preprocess_of
from train.stage1.run import Run
from train.stage2.task import Films, Head, Recipe

_STAGE_1 = "--preset nih-demo --precision float32"

_VALID, _TEST = (
    0.15,
    0.15,
)  # shares of the patients whom no expert saw; those are "test" in any case

# Shares of the absent findings that CheXpert's reports state, negative / (negative + blank) of its
# 223,414 training rows. CheXpert has no emphysema, fibrosis, thickening or hernia: the median.
_STATED = {
    "Atelectasis": 0.0085,
    "Cardiomegaly": 0.0590,
    "Effusion": 0.2818,
    "Infiltration": 0.0588,  # its "Lung Opacity"
    "Mass": 0.0060,  # its "Lung Lesion"
    "Nodule": 0.0060,
    "Pneumonia": 0.0141,
    "Pneumothorax": 0.2806,
    "Consolidation": 0.1553,
    "Edema": 0.1310,
}
_STATED_MEDIAN = 0.0588
# Hidden factors, and features made of them.
_FACTORS, _FEATURES = 64, 1024

# Of stage 1 on features; the best one is kept.
_EPOCHS = 8

# Patients of CheXpert's validation set, whose films radiologists labelled.
_CHOOSERS = 200

_LEFT_OUT = 0.1  # share of the present findings that reports do not state; assumed


@dataclass(frozen=True)
class Problem:
    """What a method of stage 2 is given, and the truth that it is measured by.

    Attributes
    ----------
    head
        The trained logistic regressions.
    train, valid
        Films to fit and to choose by.
    truths
        Name -> ((n, D) test features, (n, C) labels).
    recipe
        How the regressions were fitted, if the network is frozen.
    """

    head: Head
    train: Films
    valid: Films
    truths: dict[str, tuple[np.ndarray, np.ndarray]]
    recipe: Recipe | None = None

    def measure(self, weights: np.ndarray) -> dict[str, list[float]]:
        """Truth -> AUROC of each category; a bias changes no ranking."""
        return {
            name: auroc(np.ascontiguousarray((z @ weights.T).T), np.ascontiguousarray(y.T)).tolist()
            for name, (z, y) in self.truths.items()
        }


# --- Films ------------------------------------------------------------------------------------


def films_cells(options: argparse.Namespace) -> Iterator[tuple[str, int, Callable[[], Problem]]]:
    """(cell, seed, what loads it) of NIH films with hidden labels."""
    whole = read_dataset("nih", options.data, min_width=0)
    experts = read_dataset("nih-experts", options.data)
    for seed in options.seeds:
        for pattern in options.patterns:
            yield pattern, seed, partial(films_problem, options, whole, experts, pattern, seed)


def films_problem(
    options: argparse.Namespace, whole: LabelTable, experts: LabelTable, pattern: str, seed: int
) -> Problem:
    """Stage 1 on films with hidden labels, and its features."""
    table = split_and_hide(whole, pattern, seed)
    run = stage_1(options, table, seed, options.work / f"{pattern}-{seed}")
    classifier = Classifier(read_model_folder(run.work.out), "cpu")
    pixels = films_of(table, run.preprocess, run.work, run.here)
    features = features_of(classifier, pixels, options.work / "features", progress=False)
    return problem_of(run, features, experts)


def problem_of(run: Run, features: Features, experts: LabelTable) -> Problem:
    """The films of a run, with the features and the regressions of its network."""
    table = run.table
    films = {
        side: Films(features.z[r], table.y[r], table.patients[r]) for side, r in run.rows.items()
    }
    truths = {
        other.dataset: (films["test"].z[rows], other.y)
        for other, rows in test_tables(table.subset(run.rows["test"]), [experts])
    }
    head = Head(features.weights, features.biases, table.label_names)
    return Problem(head, films["train"], films["valid"], truths)


def frozen_cells(options: argparse.Namespace) -> Iterator[tuple[str, int, Callable[[], Problem]]]:
    """(cell, seed, what loads it) of NIH films with hidden labels, for a frozen network."""
    whole = read_dataset("nih", options.data)
    experts = read_dataset("nih-experts", options.data)
    for seed in options.seeds:
        for pattern in options.patterns:
            yield pattern, seed, partial(frozen_problem, options, whole, experts, pattern, seed)


def frozen_problem(
    options: argparse.Namespace, whole: LabelTable, experts: LabelTable, pattern: str, seed: int
) -> Problem:
    """Regressions fitted in Negative mode to a frozen network's features; see `films_problem`."""
    table = split_and_hide(whole, pattern, seed)
    words = ["--freeze", "--freeze-copies", options.copies, "--init", options.init]
    words += ["--arch", options.arch, "--image-size", options.image_size, "--seed", seed]
    words += ["--data", options.data, "--cache", options.work, "--workers", 1]
    asked = parse([str(word) for word in words])
    with processes("cpu") as here:
        films = films_of(table, preprocess_of(asked.settings), asked.work, here)
        y = asked.labels.policy.apply(table, seed)
        run = Run.of(asked.settings, asked.work, table, y, films, here)
        frozen = FrozenRun(run, films, options.work / "features")
        with Stop() as stop:
            for _ in frozen.fit(stop):
                pass
    head = linear_head(frozen.network)
    weights, biases = head.weight.numpy(force=True), head.bias.numpy(force=True)
    features = replace(frozen.plain, weights=weights, biases=biases)
    return replace(problem_of(run, features, experts), recipe=frozen.recipe)


def split_and_hide(table: LabelTable, pattern: str, seed: int) -> LabelTable:
    """New sides for the patients whom no expert saw, then training labels hidden.

    Parameters
    ----------
    table
        Films with all their labels; its "test" films stay so.
    pattern
        "all", "random" (30 % of the training labels are kept) or "reports" (as CheXpert's reports
        state them).
    seed
        Of the split and of what is hidden.
    """
    people = np.unique(table.patients)
    draws = stable_uniform(seed, "harm split", people.tolist(), [""])[:, 0]
    draw = dict(zip(people.tolist(), draws, strict=True))
    side = np.array([draw[person] for person in table.patients.tolist()])
    split = np.where(side < _VALID, "valid", np.where(side < _VALID + _TEST, "test", "train"))
    table = table.with_split(np.where(table.split == "test", "test", split))
    if pattern == "reports":
        return _hide_as_reports_do(table, seed)
    return hide_labels(table, 0.3, seed) if pattern == "random" else table


def _hide_as_reports_do(table: LabelTable, seed: int) -> LabelTable:
    draws = stable_uniform(seed, "harm reports", table.names.tolist(), table.label_names)
    stated = np.array([_STATED.get(label, _STATED_MEDIAN) for label in table.label_names])
    kept = np.where(table.y == 1, 1 - _LEFT_OUT, stated)
    hidden = (draws >= kept) & (table.split == "train")[:, None]
    return replace(table, y=np.where(hidden, np.float32(np.nan), table.y))


def stage_1(options: argparse.Namespace, table: LabelTable, seed: int, out: Path) -> Run:
    """Train in Negative mode, or go on with what is there; the model folder is in ``out``."""
    words = [*_STAGE_1.split(), "--init", options.init, "--arch", options.arch]
    words += ["--image-size", options.image_size, "--epochs", options.epochs, "--lr", options.lr]
    words += ["--data", options.data, "--seed", seed, "--out", out, "--resume"]
    words += ["--cache", options.work, "--device", "cpu", "--workers", 1, "--threads", 1]
    asked = parse([str(word) for word in words])
    settings, how, policy = asked.settings, asked.work, asked.labels.policy
    with processes("cpu") as here:
        y = policy.apply(table, seed)
        films = films_of(table, preprocess_of(settings), how, here)
        run = Run.of(settings, how, table, y, films, here)
        if (out / WEIGHTS).exists():
            return run
        out.mkdir(parents=True, exist_ok=True)
        state = negative.begin(run)
        with Stop() as stop:
            for _ in train(run, state, stop):
                pass
        facts = {"seed": seed, "label_policy": policy.to_dict()}
        negative.finish(run, state, facts, [])
    return run


# --- Features with a planted signal -----------------------------------------------------------


def synthetic_cells(
    options: argparse.Namespace,
) -> Iterator[tuple[str, int, Callable[[], Problem]]]:
    """(cell, seed, what loads it) of features with a planted signal."""
    for share in options.shares:
        for seed in options.seeds:
            yield (
                f"{100 * share:g} % of CheXpert",
                seed,
                partial(synthetic_problem, options.data, share, seed),
            )


def planted(
    csv: Path, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...], np.ndarray]:
    """Features with a planted signal under the real labels of some of CheXpert's frontal films.

    A label that was given is true. One that was not given is positive with a third of the share
    that the finding has among all films, an uncertain one with probability one half: assumed.
    Hidden factors depend on the truth and, as strongly, on what reports *mention*,
    so that Negative mode, which learns "mentioned and present", learns something false.

    Parameters
    ----------
    csv
        CheXpert's ``train.csv``.
    share
        Of the patients.
    seed
        Of patients, truth and noise; the signal is always the same.

    Returns
    -------
    z, y, truth, label_names, patients
        (N, 1024) float32, (N, C) labels in {1, 0, NaN}, (N, C) in {1, 0}, C names, (N,).
    """
    table = read_dataset("chexpert", csv, view="frontal")
    generator = np.random.default_rng(seed)
    people, index = np.unique(table.patients, return_inverse=True)
    rows = np.flatnonzero((generator.permutation(len(people)) < share * len(people))[index])
    y, uncertain = table.y[rows], table.uncertain[rows]
    chance = np.where(uncertain, 0.5, (table.y == 1).mean(0) / 3)
    truth = np.where(np.isnan(y), generator.random(y.shape) < chance, y).astype(np.float32)
    mentioned = ~np.isnan(y) | uncertain
    signal = np.random.default_rng(7)
    of_truth, of_mention = (0.35 * signal.standard_normal((y.shape[1], _FACTORS)) for _ in range(2))
    mixing = signal.standard_normal((_FACTORS, _FEATURES)) / np.sqrt(_FACTORS)
    factors = (truth - truth.mean(0)) @ of_truth + (mentioned - mentioned.mean(0)) @ of_mention
    factors += 2 * generator.standard_normal(factors.shape)
    z = np.empty((len(y), _FEATURES), np.float32)
    for start in range(0, len(y), 8192):  # the noise of all films at once would fill the memory
        part = factors[start : start + 8192]
        noise = generator.standard_normal((len(part), _FEATURES), dtype=np.float32)
        z[start : start + 8192] = np.maximum(part @ mixing + noise + 0.3, 0)
    return z, y, truth, table.label_names, table.patients[rows]


def synthetic_problem(csv: Path, share: float, seed: int) -> Problem:
    """As CheXpert is: 200 patients whose films are labelled in full choose; the others are trained
    on as the reports label them, but for 30 % of them, on whom the truth measures.
    """
    z, y, truth, label_names, patients = planted(csv, share, seed)
    people, index = np.unique(patients, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(people))[index]
    tested = _CHOOSERS + 0.3 * (len(people) - _CHOOSERS)
    split = np.where(place < _CHOOSERS, "valid", np.where(place < tested, "test", "train"))
    labels = np.where((split == "train")[:, None], y, truth)
    films = {
        side: Films(*(array[split == side] for array in (z, labels, patients))) for side in SPLITS
    }
    head = negative_mode(films["train"], films["valid"], label_names, seed)
    test = films.pop("test")
    return Problem(head, **films, truths={"truth": (test.z, test.y)})


def negative_mode(train: Films, valid: Films, label_names: tuple[str, ...], seed: int) -> Head:
    """Logistic regressions trained in Negative mode by AdamW; the best epoch by validation."""
    z, y = torch.from_numpy(train.z), torch.from_numpy(np.nan_to_num(train.y))
    mean, spread = z.mean(0), z.std(0)
    torch.manual_seed(seed)
    head = torch.nn.Linear(z.shape[1], y.shape[1])
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    best = (-1.0, Head(np.zeros((0, 0)), np.zeros(0), label_names))
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(z)).split(256):
            loss = binary_cross_entropy_with_logits(head((z[rows] - mean) / spread), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights = (head.weight / spread).detach()
        biases = (head.bias - weights @ mean).detach().numpy()
        now = Head(weights.numpy(), biases, label_names)
        area = np.nanmean(auroc(now.logits(valid.z).T.copy(), valid.y.T.copy()).numpy())
        best = max(best, (area, now), key=lambda found: found[0])
    return best[1]
