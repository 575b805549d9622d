"""``python -m train.datasets DATA``: what a reader makes of a folder or a file, before training.

Needs no images; with ``--check-images`` it looks for them. Exit status: 0 if the data can be used,
1 if it cannot or images are missing, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from train.command import WHOLE, add_options, exit_code, options_of
from train.datasets import DataOptions, missing_images, table_of
from train.datasets.labels import SPLITS, LabelTable
from train.datasets.reading import note_names
from train.errors import DatasetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.datasets",
        description="Show what a reader makes of a data set: rows, films, patients, studies, "
        "splits, and the labels of each category.",
    )
    add_options(parser.add_argument_group("data"), DataOptions, positional=["data"])
    parser.add_argument("--seed", type=WHOLE, default=0, help="of drawn splits (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--check-images", action="store_true", help="look for every image")
    options = parser.parse_args(arguments)
    return exit_code(
        *("train.datasets", lambda: _work_through(options), DatasetError),
        interrupted="nothing was changed",
    )


def _work_through(options: argparse.Namespace) -> int:
    data = options_of(DataOptions, vars(options))
    table = table_of(data, options.seed, check_images=False)
    facts = summary(table)
    missing = table.names[missing_images(table)].tolist() if options.check_images else []
    if options.check_images:
        facts["missing_images"] = len(missing)
        facts["notes"] += note_names("{} {} not there", missing, "image is", "images are")
    print(json.dumps(facts, indent=2, ensure_ascii=False) if options.json else as_text(facts))
    return 1 if missing else 0


def summary(table: LabelTable) -> dict[str, Any]:
    """What there is to know of a table, for JSON."""
    splits = {}
    for side in SPLITS:
        here = table.split == side
        if here.any():
            splits[side] = {
                "films": int(here.sum()),
                "patients": len(np.unique(table.patients[here])),
            }
    return {
        "dataset": table.dataset,
        "files": table.source["files"],
        "rows": table.source["rows"],
        "films": len(table),
        "patients": len(np.unique(table.patients)),
        "studies": len(np.unique(table.studies)),
        "listed": table.source["listed"],
        "splits": splits,
        "categories": table.counts(),
        "notes": list(table.notes),
    }


def as_text(facts: dict[str, Any]) -> str:
    """The summary as a page of text."""
    lines = [f"{facts['dataset']}: {', '.join(facts['files']) or 'drawn by code'}", ""]
    lines += [f"{name:10}{facts[name]:>12,}" for name in ("rows", "films", "patients", "studies")]
    if facts["listed"]:
        listed = ", ".join(f"{side} {films:,}" for side, films in facts["listed"].items())
        lines += ["", f"split of the source: {listed}"]
    lines += ["", f"{'split':10}{'films':>12}{'patients':>12}"]
    for side, counts in facts["splits"].items():
        lines.append(f"{side:10}{counts['films']:>12,}{counts['patients']:>12,}")
    width = max(len(name) for name in facts["categories"]) + 2
    lines += ["", f"{'category':{width}}{'1':>10}{'0':>10}{'uncertain':>11}{'blank':>10}"]
    for name, counts in facts["categories"].items():
        one, zero, uncertain, blank = counts.values()
        lines.append(f"{name:{width}}{one:>10,}{zero:>10,}{uncertain:>11,}{blank:>10,}")
    lines += ["", *facts["notes"]] if facts["notes"] else []
    return "\n".join(lines)


if __name__ == "__main__":
    # A reader that goes away early (`| head`) ends the program quietly, as for any filter.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
