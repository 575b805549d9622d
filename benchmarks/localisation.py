"""Do the heat maps point to what radiologists boxed? Beside a point that sees no film.

    python -m benchmarks.localisation --model weights --boxes NIH/boxes.csv --data NIH

A table with a row for each finding and one for all: films with boxes, share of them in which the
map's maximum lies in a box, the same for one fixed point a finding (chosen on the other patients),
and the difference of the two with its 95 % interval (bootstrap over patients).

BOXES has the columns image, finding, x, y, w, h, or is NIH's own list (BBox_List_2017.csv, gzipped
or not), in pixels of a film that is ``--size`` wide and high (NIH's are of 1024). ``--floor`` names
further boxes that choose the fixed point: with few films it is a poor floor otherwise. Films that
the model has been trained on are left out, by the splits.csv in its folder; without one,
``--splits`` names the folder of the run, or "all" scores every film.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

import cft
from train.datasets import read_dataset
from train.datasets.splits import read_splits
from train.metrics.bootstrap import bootstrap_totals, percentiles
from train.metrics.localisation import fixed_point_hits, inside, peak
from train.tables import aligned_table

# NIH's list of boxes shortens one name.
_NAMES = {"Infiltrate": "Infiltration"}


def read_boxes(path: Path, size: float) -> dict[tuple[str, str], np.ndarray]:
    """(film, finding) -> (n, 4) boxes (x, y, width, height) as shares of the film's sides."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="") as file:
        rows = list(csv.reader(file))[1:]  # the header of NIH's list names three columns of seven
    found: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for film, finding, *corners in rows:
        box = np.array(corners[:4], float) / size
        found[Path(film).stem, _NAMES.get(finding, finding)].append(box)
    return {key: np.stack(boxes) for key, boxes in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="weights", help="model folder or hf-hub: name")
    parser.add_argument("--boxes", type=Path, required=True, help="CSV of boxes")
    parser.add_argument("--data", type=Path, required=True, help="the films, as for training")
    parser.add_argument("--dataset", default="nih", help="reader of the films (default: nih)")
    parser.add_argument("--floor", type=Path, help="further boxes, to choose the fixed point by")
    parser.add_argument("--size", type=float, default=1024, help="side the boxes are given in")
    parser.add_argument("--splits", help='folder with splits.csv, or "all" (default: the model\'s)')
    parser.add_argument("--sides", nargs="+", default=["test", "valid"], help="films to score")
    options = parser.parse_args(argv)
    model = cft.load(options.model)
    splits = None
    if options.splits != "all":
        splits = read_splits(Path(options.splits or options.model))
        if splits is None:
            parser.error("the model's folder has no splits.csv; give --splits")
    table = read_dataset(options.dataset, options.data)
    place = {path.stem: row for row, path in enumerate(table.images)}
    found = defaultdict(list)
    boxes = read_boxes(options.boxes, options.size)
    for (film, finding), those in tqdm(boxes.items(), leave=False):
        row = place.get(film)
        if row is None or finding not in model.label_names:
            continue
        if splits is not None and splits.get(table.names[row]) not in options.sides:
            continue
        heat = model.predict(table.images[row]).heatmap(finding)
        hit = bool(inside(np.array(peak(heat)), those).any())
        found[finding].append((str(table.patients[row]), those, hit))
    if not found:
        print("no film with boxes is among those to be scored", file=sys.stderr)
        return 1
    more = read_boxes(options.floor, options.size) if options.floor else {}
    print(aligned_table(_rows(found, {key: more[key] for key in more.keys() - boxes.keys()})))
    return 0


def _rows(
    found: dict[str, list[tuple[str, np.ndarray, bool]]], more: dict[tuple[str, str], np.ndarray]
) -> list[list[str]]:
    """A row for each finding, and one for all; `more` boxes choose the fixed points with them."""
    rows = [["finding", "films", "map", "fixed point", "difference"]]
    every = []
    for finding, films in sorted(found.items()):
        patients, boxes, hits = zip(*films, strict=True)
        others = {film: those for (film, name), those in more.items() if name == finding}
        owners = [film.split("_")[0].lstrip("0") for film in others]  # as NIH names its films
        floor = fixed_point_hits([*boxes, *others.values()], [*patients, *owners])[: len(boxes)]
        pairs = np.stack([np.array(hits), floor], 1).astype(float)
        every.append((np.array(patients), pairs))
        rows.append(_row(finding, np.array(patients), pairs))
    patients = np.concatenate([names for names, _ in every])
    return [*rows, _row("all", patients, np.concatenate([pairs for _, pairs in every]))]


def _row(name: str, patients: np.ndarray, pairs: np.ndarray) -> list[str]:
    values = np.column_stack([pairs, np.ones(len(pairs))])
    totals = bootstrap_totals(values, patients)
    low, high = percentiles((totals[:, 0] - totals[:, 1]) / totals[:, 2], 0.95)
    by_map, by_point = pairs.mean(0)
    difference = f"{by_map - by_point:+.3f} ({low:+.3f} to {high:+.3f})"
    return [name, str(len(pairs)), f"{by_map:.3f}", f"{by_point:.3f}", difference]


if __name__ == "__main__":
    sys.exit(main())
