"""Whether the hybrid networks' heat maps point at what was drawn, with and without their parts.

    python -m benchmarks.drawn_maps --work FOLDER [--figure STEM]

Films drawn by code can differ in one finding alone, so the place of each finding is known without
a radiologist. The networks of `benchmarks.architectures` that have convolutions are trained on
such films from random weights and asked about others, of other patients, each of which has one
finding. A map of what a network has not learnt says nothing: only findings are counted for which
every network has an AUROC of at least 0.8 on the test films of its run. The table has the share of
maps whose maximum lies where the two drawings differ, and the mean IoU of map and difference,
beside a fixed point and box that see no film; with ``--figure``, STEM.png shows the maps of a film.
Networks that are trained already in FOLDER are not trained again.

A drawing is far easier than a film. What fails here will not do better on films; what succeeds here
may still fail on them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

import cft
from benchmarks.architectures import VARIANTS, call
from cft.model.classifier import Classifier
from cft.model.folder import CONFIG
from train import negative
from train.command import POSITIVE, WHOLE
from train.datasets.phantom_drawing import PHANTOM_FINDINGS, draw_phantom
from train.evaluation.boxes import Boxes
from train.evaluation.figure import STYLE
from train.evaluation.localise import MAP_SIDE, localisation

_NETWORKS = ("densenet", "ctranscnn", "chexnet", "no-memsp", "no-ib", "no-iim")
#: Of a pixel's change, as a share of the film's largest, from which the finding lies there.
_THERE = 0.25
_LEARNT = 0.8  # AUROC
_ENDS = ("", "_low", "_high")
# Seeds of films that are asked about; those of training films are two numbers, of which the first
# is the run's seed.
_SEEDS = 1_000_000

Case = tuple[str, str]  # film, finding


def trained(name: str, options: argparse.Namespace) -> Classifier:
    """The network, trained where it is not there yet."""
    folder = options.work / f"{name}-{options.seed}"
    if not (folder / CONFIG).exists():
        variant = VARIANTS[name]
        words = [
            *("--phantoms", options.films, "--phantom-size", MAP_SIDE, "--missing", "none"),
            *("--image-size", MAP_SIDE, "--arch", variant.arch, "--epochs", options.epochs),
            *("--model-args", variant.model_args, "--lr", 1e-3, "--seed", options.seed),
            *("--threads", options.threads, "--out", folder, "--resume"),
        ]
        call(negative.main, words)
    return cft.load(folder, "cpu", engine="torch")


def learnt(folder: Path) -> set[str]:
    """The findings that the network of this folder tells from others, on the films of its test."""
    tested = json.loads((folder / CONFIG).read_text())["cft"]["metrics"]["phantoms"]["categories"]
    return {label for label, row in tested.items() if row["auroc"] >= _LEARNT}


def cases(count: int, findings: Sequence[str]) -> tuple[dict[Case, np.ndarray], Boxes]:
    """For each finding, films (H, W) uint8 that have it alone, and where on them it lies."""
    films: dict[Case, np.ndarray] = {}
    places: dict[Case, np.ndarray] = {}
    for finding in findings:
        for number in range(count):
            name = f"{number}_drawn"  # a patient for each number, as names of NIH's films say
            with_it, without = (
                draw_phantom(there, MAP_SIDE, np.random.default_rng([_SEEDS, number]))
                for there in ([finding], [])
            )
            change = np.abs(with_it.astype(int) - without)
            films[name, finding] = with_it
            places[name, finding] = change >= _THERE * change.max()
    return films, Boxes("drawn", places)


def maps_of(classifier: Classifier, films: dict[Case, np.ndarray]) -> dict[Case, np.ndarray]:
    """The map of the finding that each film has."""
    found = classifier.predict([Image.fromarray(film) for film in films.values()])
    cases_and_findings = zip(films, found, strict=True)
    return {case: of.heatmap(case[1]) for case, of in tqdm(cases_and_findings, desc="maps")}


def table(found: dict[str, dict]) -> list[str]:
    """For each finding the share of hits and the mean IoU, in Markdown."""
    any_result = next(iter(found.values()))["categories"]
    head = ["Network", *(f"{label}, {what}" for label in any_result for what in ("hits", "IoU"))]
    rows = [f"| {' | '.join(head)} |", f"| --- |{' --- |' * (len(head) - 1)}"]
    for name, result in found.items():
        rows.append(_row(VARIANTS[name].title, result["categories"], ""))
    return [*rows, _row("A fixed point or box", any_result, "floor_")]


def _row(title: str, categories: dict[str, dict], prefix: str) -> str:
    cells = [
        "{:.2f} ({:.2f} to {:.2f})".format(*(row[f"{prefix}{key}{end}"] for end in _ENDS))
        for row in categories.values()
        for key in ("hit", "iou")
    ]
    return f"| {title} | {' | '.join(cells)} |"


def draw(
    films: dict[Case, np.ndarray], places: Boxes, maps: dict[str, dict[Case, np.ndarray]]
) -> Figure:
    """One row a finding: the film with the finding's outline, and each network's map of it."""
    findings, columns = list(dict.fromkeys(label for _, label in films)), ["drawn", *maps]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        size = (1.25 * len(columns), 1.25 * len(findings) + 0.25)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(findings), len(columns), squeeze=False)
        for i, finding in enumerate(findings):
            case = next(case for case in films if case[1] == finding)
            for panel, column in zip(axes[i], columns, strict=True):
                panel.imshow(films[case], cmap="gray", vmin=0, vmax=255)
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
                if column != "drawn":
                    panel.imshow(maps[column][case], cmap="magma", alpha=0.55)
                panel.contour(places.of[case], levels=[0.5], colors="#56B4E9", linewidths=0.7)
                if i == 0:
                    panel.set_title(column, fontsize=7)
            axes[i, 0].set_ylabel(finding, fontsize=7)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not trained, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drawn_maps",
                                     description=__doc__.partition("\n")[0])  # fmt: skip
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained networks")
    parser.add_argument("--networks", nargs="+", choices=_NETWORKS, default=list(_NETWORKS))
    parser.add_argument("--films", type=POSITIVE, default=1500, help="drawn to train on")
    parser.add_argument("--asked", type=POSITIVE, default=50, help="films a finding to ask about")
    parser.add_argument("--epochs", type=POSITIVE, default=12)
    parser.add_argument("--seed", type=WHOLE, default=0)
    parser.add_argument("--threads", type=POSITIVE, default=1)
    parser.add_argument("--figure", type=Path, metavar="STEM", help="writes STEM.png")
    options = parser.parse_args(argv)
    with mock.patch.dict(os.environ, CFT_GATE="off"):  # drawings are none of its business
        classifiers = {name: trained(name, options) for name in options.networks}
        known = [learnt(options.work / f"{name}-{options.seed}") for name in classifiers]
        findings = [label for label in PHANTOM_FINDINGS if all(label in those for those in known)]
        if not findings:
            parser.exit(
                1, "No finding was learnt by every network; ask for more films or epochs.\n"
            )
        films, places = cases(options.asked, findings)
        maps = {name: maps_of(classifier, films) for name, classifier in classifiers.items()}
    found = {name: localisation(of, places, {}) for name, of in maps.items()}
    print("\n".join(["", f"{options.asked} films a finding", "", *table(found)]))
    if options.figure:
        picture = options.figure.with_suffix(".png")
        drawn = io.BytesIO()
        draw(films, places, maps).savefig(drawn, dpi=160)
        Image.open(drawn).convert("RGB").quantize(256).save(picture, optimize=True)
        print(f"wrote {picture}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
