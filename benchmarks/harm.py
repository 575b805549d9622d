"""Does stage 2 help, and can it harm? The default and the published method side by side.

    python -m benchmarks.harm films --data NIH --work FOLDER
    python -m benchmarks.harm frozen --data NIH --init MODEL --arch NAME --work FOLDER
    python -m benchmarks.harm synthetic --data CHEXPERT/train.csv --work FOLDER

``films``: for each pattern of hidden labels and each seed, patients are split anew, training labels
are hidden, a network is trained in Negative mode (stage 1), by default a small one from random
weights, and the methods of stage 2 fine-tune it on the labels left; test labels are those mined
from reports and those of experts.
``frozen``: the same, but the network stays as MODEL has it and only its regressions are fitted;
``crossfit`` is the default with training films that choose too.
``synthetic``: features with a planted signal under CheXpert's real labels, so the truth is known.

The table holds the change of the mean test AUROC over the categories with its 95 % t interval over
the seeds. What has been computed is kept in FOLDER, so a command may be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t

from benchmarks.problems import Problem, films_cells, frozen_cells, synthetic_cells
from cft.files import atomic_write
from train.stage2 import choice
from train.stage2.finished import Finished
from train.stage2.methods import method_of, refitted
from train.stage2.refit import Refitter
from train.stage2.task import Task, TuneSettings


def changes(before: dict[str, list[float]], after: dict[str, list[float]]) -> dict[str, dict]:
    """Truth -> change of the mean AUROC, and of each category."""
    found = {}
    for name in before:
        each = np.array(after[name]) - np.array(before[name])
        found[name] = {"mean": float(np.nanmean(each)), "categories": each.tolist()}
    return found


# --- The methods ------------------------------------------------------------------------------


def task_of(problem: Problem, seed: int, parts: Path, settings: TuneSettings) -> Task:
    """What a method of stage 2 is given; what it finishes is kept beside `parts`."""
    kind = "paper" if settings.published else "default"
    finished = Finished(parts.with_stem(f"{parts.stem}-{kind}"), "benchmark")
    return Task(problem.train, problem.valid, problem.head, replace(settings, seed=seed), finished)


def shipped(settings: TuneSettings) -> Callable[[Problem, int, Path], np.ndarray]:
    """A method of the command."""

    def run(problem: Problem, seed: int, parts: Path) -> np.ndarray:
        task = task_of(problem, seed, parts, settings)
        return method_of(settings).tune(task).head.weights

    return run


def crossfit(problem: Problem, seed: int, parts: Path) -> np.ndarray:
    """The default, its strength chosen by training and validation films."""
    task = task_of(problem, seed, parts.with_stem(f"{parts.stem}-crossfit"), TuneSettings("auto"))
    if problem.recipe is None:
        raise SystemExit("crossfit is for frozen networks")
    task = replace(task, recipe=problem.recipe)
    return method_of(task.settings).tune(task).head.weights


def variant(rule: str) -> Callable[[Problem, int, Path], np.ndarray]:
    """The default with another rule of choice, or fitted otherwise."""

    def run(problem: Problem, seed: int, parts: Path) -> np.ndarray:
        task = task_of(problem, seed, parts, TuneSettings())
        fit_valid = np.nan if rule == "training only" else 1.0
        if rule in ("plain distance", "features' metric", "training only"):
            power = {"plain distance": 0.0, "features' metric": 0.5}.get(rule, 0.25)
            refitter = Refitter(
                *(problem.train.z, problem.valid.z, problem.valid.groups),
                *(problem.head.weights, problem.head.biases, seed),
                power=power,
            )
            y, y_valid = problem.train.y, problem.valid.y * fit_valid
            paths = {c: refitter.path(c, y[:, c], y_valid[:, c]) for c in task.columns}
        else:
            paths, _ = refitted(task)
        return chosen(rule, paths, task)

    return run


def chosen(rule: str, paths: dict[int, choice.Path], task: Task) -> np.ndarray:
    """(C, D) weights by a rule of choice."""
    weights, valid = task.head.weights.copy(), task.valid
    facts = task.trained_scores, valid.y, valid.groups, "auroc", task.settings.seed
    together = choice.choose(paths, *facts)
    for c, path in paths.items():
        own = choice.choose({c: path}, *facts) if rule.endswith("per category") else together
        if rule.startswith("best"):
            own = replace(own, index=int(own.gains.argmax()))
        share = {"the whole way": 1.0, "half of the way": 0.5}.get(rule, own.share)
        if own.share > 0:
            weights[c] += share * (path.weights[own.index] - weights[c])
    return weights


METHODS: dict[str, Callable[[Problem, int, Path], np.ndarray]] = {
    "auto": shipped(TuneSettings("auto")),
    "crossfit": crossfit,
    "ga": shipped(TuneSettings("ga")),
    "paper (greedy)": shipped(TuneSettings("greedy", published=True)),
    "paper, GA": shipped(TuneSettings("ga", published=True)),
    "paper, gradient": shipped(TuneSettings("gradient", published=True)),
    **{
        rule: variant(rule)
        for rule in (
            "best for all",
            "best per category",
            "one error per category",
            "the whole way",
            "half of the way",
            "training only",
            "plain distance",
            "features' metric",
        )
    },
}


# The two that are shown category by category.
_COMPARED = ("auto", "paper (greedy)")

# The two whose paired difference is shown.
_PAIR = ("crossfit", "auto")


# --- The table --------------------------------------------------------------------------------


def tables(results: dict[str, list[dict]]) -> str:
    """Markdown, for each cell and truth: a line a method, then a line a category.

    Changes are in units of 0.0001.
    """
    parts = []
    for cell, runs in results.items():
        for truth in runs[0]["before"]:
            mean = np.mean([np.nanmean(run["before"][truth]) for run in runs])
            seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
            parts.append(f"{cell}, labels of {truth}: {mean:.4f} before, {seeds}\n")
            parts += [
                "| Method | Change | 95 % interval | Each seed |",
                "| --- | ---: | ---: | --- |",
            ]
            for name in (name for name in METHODS if name in runs[0]["change"]):
                each = np.array([1e4 * run["change"][name][truth]["mean"] for run in runs])
                seeds = " ".join(f"{x:+.0f}" for x in each)
                parts.append(f"| {name} | {' | '.join(interval(each))} | {seeds} |")
            names = runs[0]["change"]
            if "crossfit" in names and "auto" in names:
                pairs = [[1e4 * r["change"][n][truth]["mean"] for n in _PAIR] for r in runs]
                each = np.array(pairs) @ [1, -1]
                seeds = " ".join(f"{x:+.0f}" for x in each)
                parts.append(f"| {' less '.join(_PAIR)} | {' | '.join(interval(each))} | {seeds} |")
            parts.append(f"\n| Category | Before | {' | '.join(_COMPARED)} |")
            parts.append("| --- | ---: |" + " ---: |" * len(_COMPARED))
            for c, label in enumerate(runs[0]["label_names"]):
                cells = [f"{np.nanmean([run['before'][truth][c] for run in runs]):.4f}"]
                for name in _COMPARED:
                    found = [run["change"].get(name, {}).get(truth) for run in runs]
                    each = np.array([1e4 * x["categories"][c] for x in found if x])
                    change, limits = interval(each)
                    cells.append(f"{change} ({limits})" if limits else change)
                parts.append(f"| {label} | {' | '.join(cells)} |")
            parts.append("")
    return "\n".join(parts)


def interval(values: np.ndarray) -> tuple[str, str]:
    """Mean and 95 % t interval over the seeds, undefined ones left out."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return "".join(f"{x:+.0f}" for x in values), ""
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.0f}", f"{values.mean() - half:+.0f} to {values.mean() + half:+.0f}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="kind", required=True)
    films = commands.add_parser("films")
    films.add_argument("--data", type=Path, required=True, help="NIH films, compact layout")
    films.add_argument("--patterns", nargs="+", default=["random", "reports"])
    # By default from random weights, and small enough for some minutes on one core.
    films.add_argument("--init", default="random", help="the start, as train.negative takes it")
    films.add_argument("--arch", default="regnetx_002")
    films.add_argument("--image-size", type=int, default=64)
    films.add_argument("--epochs", type=int, default=30)
    films.add_argument("--lr", type=float, default=2e-3)
    frozen = commands.add_parser("frozen")
    frozen.add_argument("--data", type=Path, required=True, help="NIH films, compact layout")
    frozen.add_argument("--patterns", nargs="+", default=["random", "reports"])
    frozen.add_argument("--init", required=True, help="the network, as train.negative takes it")
    frozen.add_argument("--arch", required=True)
    frozen.add_argument("--image-size", type=int, default=224)
    frozen.add_argument("--copies", type=int, default=0)
    synthetic = commands.add_parser("synthetic")
    synthetic.add_argument("--data", type=Path, required=True, help="CheXpert's train.csv")
    synthetic.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    for command in (films, frozen, synthetic):
        command.add_argument("--work", type=Path, required=True, help="of what is computed")
        command.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
        usual = _PAIR[::-1] if command is frozen else [x for x in METHODS if x != "crossfit"]
        command.add_argument("--methods", nargs="+", default=list(usual), choices=METHODS)
        command.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    os.environ["CFT_GATE"] = "off"  # no model of these is shown a picture
    options.work.mkdir(parents=True, exist_ok=True)
    kinds = {"films": films_cells, "frozen": frozen_cells, "synthetic": synthetic_cells}
    cells = kinds[options.kind]
    results: dict[str, list[dict]] = {}
    for cell, seed, load in cells(options):
        path = options.work / f"{cell}-{seed}.json"
        done = json.loads(path.read_text()) if path.exists() else {"change": {}}
        todo = [name for name in options.methods if name not in done["change"]]
        if todo:
            problem = load()
            done["label_names"] = list(problem.head.label_names)
            done["before"] = problem.measure(problem.head.weights)
            parts = options.work / f"{cell}-{seed}.safetensors"
            for name in todo:
                started = time.monotonic()
                weights = METHODS[name](problem, seed, parts)
                done["change"][name] = changes(done["before"], problem.measure(weights))
                done.setdefault("seconds", {})[name] = time.monotonic() - started
                atomic_write(path, json.dumps(done, indent=1))
        results.setdefault(cell, []).append(done)
        for name, by_truth in done["change"].items():
            found = ", ".join(f"{k} {1e4 * v['mean']:+.0f}" for k, v in by_truth.items())
            print(f"{cell}, seed {seed}, {name}: {found}", file=sys.stderr, flush=True)
    print(tables(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
