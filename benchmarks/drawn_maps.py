"""Whether the hybrid networks' heat maps point at what was drawn, with and without their parts.

    python -m benchmarks.drawn_maps --work FOLDER [--figure STEM]

Films drawn by code can differ in one finding alone, so the place of each finding is known without
a radiologist. The networks of `benchmarks.architectures` that have convolutions are trained on
such films from random weights and asked about others, of other patients, each of which has one
finding. The table counts the maps whose maximum lies where the two drawings differ, beside a fixed
point that sees no film; with ``--figure``, STEM.png and STEM.svg show the maps of one film a
finding. Networks that are trained already in FOLDER are not trained again.

A drawing is far easier than a film. What fails here will not do better on films; what succeeds here
may still fail on them.
"""

from __future__ import annotations

import argparse
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
from train.evaluation.figure import STYLE, save_figure
from train.evaluation.localise import MAP_SIDE, localisation

_NETWORKS = ("densenet", "ctranscnn", "chexnet", "no-memsp", "no-ib", "no-iim")
#: Of a pixel's change, as a share of the film's largest, from which the finding lies there.
_THERE = 0.25
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


def cases(count: int) -> tuple[dict[Case, np.ndarray], Boxes]:
    """For each finding, films (H, W) uint8 that have it alone, and where on them it lies."""
    films: dict[Case, np.ndarray] = {}
    places: dict[Case, np.ndarray] = {}
    for finding in PHANTOM_FINDINGS:
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
    """Shares of films whose map's maximum lies in the finding, in Markdown."""
    head = ["Network", *PHANTOM_FINDINGS, "All"]
    rows = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for name, result in found.items():
        cells = [f"{result['categories'][label]['hit']:.2f}" for label in PHANTOM_FINDINGS]
        rows.append(_row(VARIANTS[name].title, cells, result["micro"], "hit"))
    any_result = next(iter(found.values()))
    cells = [f"{any_result['categories'][x]['floor_hit']:.2f}" for x in PHANTOM_FINDINGS]
    rows.append(_row("A fixed point", cells, any_result["micro"], "floor_hit"))
    return rows


def _row(title: str, cells: Sequence[str], micro: dict, key: str) -> str:
    every = "{:.3f} ({:.3f} to {:.3f})".format(
        *(micro[f"{key}{end}"] for end in ("", "_low", "_high"))
    )
    return f"| {title} | {' | '.join([*cells, every])} |"


def draw(
    films: dict[Case, np.ndarray], places: Boxes, maps: dict[str, dict[Case, np.ndarray]]
) -> Figure:
    """One row a finding: the film with the finding's outline, and each network's map of it."""
    columns = ["drawn", *maps]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        size = (1.25 * len(columns), 1.3 * len(PHANTOM_FINDINGS) + 0.3)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(PHANTOM_FINDINGS), len(columns), squeeze=False)
        for row, finding in zip(axes, PHANTOM_FINDINGS, strict=True):
            case = next(case for case in films if case[1] == finding)
            for panel, column in zip(row, columns, strict=True):
                panel.imshow(films[case], cmap="gray", vmin=0, vmax=255)
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
                if column == "drawn":
                    panel.set_ylabel(finding, fontsize=7)
                else:
                    heat = maps[column][case]
                    low, high = heat.min(), heat.max()
                    panel.imshow((heat - low) / max(high - low, 1e-9), cmap="magma", alpha=0.55)
                panel.contour(places.of[case], levels=[0.5], colors="#56B4E9", linewidths=0.7)
                if row is axes[0]:
                    panel.set_title(column, fontsize=7)
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
    parser.add_argument("--figure", type=Path, metavar="STEM", help="writes STEM.png and STEM.svg")
    options = parser.parse_args(argv)
    films, places = cases(options.asked)
    with mock.patch.dict(os.environ, CFT_GATE="off"):  # drawings are none of its business
        maps = {name: maps_of(trained(name, options), films) for name in options.networks}
    found = {name: localisation(of, places, {}) for name, of in maps.items()}
    print("\n".join(["", f"{options.asked} films a finding", "", *table(found)]))
    if options.figure:
        print(f"wrote {save_figure(draw(films, places, maps), options.figure)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
