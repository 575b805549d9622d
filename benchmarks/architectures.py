"""CTransCNN and CheXNet's hybrid network beside other networks, and without their parts.

    python -m benchmarks.architectures --data NIH --work FOLDER

Small variants at 64 pixels, for a CPU: all train from random weights on the same split, by the same
settings and for as many epochs, and then go through stage 2 by its default. Rows without a module
are the ablation. The table has the mean test AUROC against both sets of labels, before and after
stage 2, with 95 % bootstrap intervals by patient, and the change with its paired interval; with
several seeds also the means over them with a 95 % t interval.

What is finished is kept in FOLDER, so that the command may be stopped and started again: a run that
was stopped goes on at its last epoch. With ``--epochs`` or ``--image-size`` changed, take another
folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from safetensors import safe_open
from scipy.stats import t

from cft.model.folder import CONFIG, WEIGHTS
from train import cft, negative
from train.command import POSITIVE, WHOLE

_TRUTHS = {"nih": "NIH's labels", "nih-experts": "radiologists' labels"}
_HYBRID = "width=8,depth=6"


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes
    ----------
    title
        For people.
    arch, model_args
        As `train.negative` takes them.
    """

    title: str
    arch: str
    model_args: str


#: Name -> row; the names are those of ``--networks`` and of the folders.
VARIANTS = {
    "densenet": Variant("DenseNet-121, growth rate 8", "densenet121", "growth_rate=8"),
    "vit": Variant(
        "ViT, 6 layers of 96, patches of 8 px",
        "vit_tiny_patch16_224",
        "patch_size=8,embed_dim=96,depth=6,num_heads=3",
    ),
    "swin": Variant(
        "Swin-T, width 36, windows of 4",
        "swin_tiny_patch4_window7_224",
        "embed_dim=36,window_size=4",
    ),
    "ctranscnn": Variant("CTransCNN, width 8, 6 levels", "ctranscnn", _HYBRID),
    "chexnet": Variant("CheXNet's hybrid, width 8, 6 levels", "chexnet_hybrid", _HYBRID),
    "no-memsp": Variant("the same without MEMSP", "chexnet_hybrid", f"{_HYBRID},memsp=false"),
    "no-ib": Variant("the same without IB", "chexnet_hybrid", f"{_HYBRID},ib=false"),
    "no-iim": Variant("the same without IIM", "chexnet_hybrid", f"{_HYBRID},iim=false"),
}


def run(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both stages of one row and seed, or what is there of them; returns stage 2's report."""
    variant = VARIANTS[name]
    first, second = (options.work / f"{name}-{seed}{part}" for part in ("", "-cft"))
    machine = ["--cache", options.work / "cache", "--threads", options.threads, "--workers", 1]
    if not (first / CONFIG).exists():
        words = [
            *("--data", options.data, "--dataset", "nih", "--min-width", 224, "--valid", 0.15),
            *("--data-seed", 0, "--also-test", "nih-experts", "--image-size", options.image_size),
            *("--arch", variant.arch, "--model-args", variant.model_args, "--lr", 1e-3),
            *("--epochs", options.epochs, "--seed", seed, "--out", first, "--resume", *machine),
        ]
        call(negative.main, words)
    if not (second / "report.json").exists():
        words = ["--model", first, "--data", options.data, "--out", second, "--resume", *machine]
        call(cft.main, words)
    return json.loads((second / "report.json").read_text())


def call(main: Callable[[list[str]], int], words: Sequence[Any]) -> None:
    """Run a command of this project, and end with it where it fails."""
    code = main([str(word) for word in words])
    if code:
        sys.exit(code)


def figures(report: Mapping[str, Any], truth: str) -> list[dict[str, float]]:
    """Before stage 2, after it, and the paired change: each with "value", "low" and "high"."""
    result = report["metrics"][truth]
    stages = (result["stage_1"]["subsets"]["all"], result["subsets"]["all"])
    change = result["change"]["mean"]
    return [
        *({"value": x["auroc"], "low": x["ci_low"], "high": x["ci_high"]} for x in stages),
        {"value": change["difference"], "low": change["low"], "high": change["high"]},
    ]


def _cell(figure: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    return f"{value:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"


def mean_over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % t interval of one figure of several seeds."""
    x = np.array(values)
    half = t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return {"value": x.mean(), "low": x.mean() - half, "high": x.mean() + half}


def parameters(folder: Path) -> int:
    """Numbers in a model's tensors, those of batch statistics included."""
    with safe_open(folder / WEIGHTS, "pt") as tensors:
        return sum(int(np.prod(tensors.get_slice(k).get_shape())) for k in tensors.keys())  # noqa: SIM118


def table(reports: Mapping[tuple[str, int], Mapping[str, Any]], work: Path) -> list[str]:
    """The table, in Markdown."""
    head = ["Network", "Parameters", "Seed"]
    head += [f"{name}, {when}" for name in _TRUTHS.values() for when in ("before", "after")]
    head += [f"{name}, change" for name in _TRUTHS.values()]
    rows = [f"| {' | '.join(head)} |", f"| --- | ---: | ---: |{' --- |' * 6}"]
    for name in dict.fromkeys(name for name, _ in reports):
        mine = {seed: report for (n, seed), report in reports.items() if n == name}
        found = {s: {x: figures(report, x) for x in _TRUTHS} for s, report in mine.items()}
        count = f"{parameters(work / f'{name}-{min(mine)}') / 1e6:.2f} M"
        for seed, each in found.items():
            rows.append(_row([VARIANTS[name].title, count, str(seed)], each))
        if len(found) > 1:
            means = {
                truth: [
                    mean_over_seeds([each[truth][place]["value"] for each in found.values()])
                    for place in range(3)
                ]
                for truth in _TRUTHS
            }
            rows.append(_row([VARIANTS[name].title, count, "mean"], means))
    return rows


def _row(lead: list[str], each: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    cells = [_cell(figure) for truth in _TRUTHS for figure in each[truth][:2]]
    cells += [_cell(each[truth][2], "+") for truth in _TRUTHS]
    return f"| {' | '.join([*lead, *cells])} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not finished, and print the table of what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures",
                                     description=__doc__.partition("\n")[0])  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="NIH ChestX-ray14, compact layout")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is computed")
    parser.add_argument("--networks", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=WHOLE, default=[0])
    parser.add_argument("--epochs", type=POSITIVE, default=8)
    parser.add_argument("--image-size", type=POSITIVE, default=64)
    parser.add_argument("--threads", type=POSITIVE, default=1)
    options = parser.parse_args(argv)
    cells = [(name, seed) for seed in options.seeds for name in options.networks]
    with mock.patch.dict(os.environ, CFT_GATE="off"):  # a gate changes no figure, and takes minutes
        reports = {cell: run(*cell, options) for cell in cells}
    any_report = next(iter(reports.values()))
    for truth, name in _TRUTHS.items():
        found = any_report["metrics"][truth]
        print(f"{name}: {found['films']} test films, {found['groups']} patients")
    print("\n".join(["", *table(reports, options.work)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
