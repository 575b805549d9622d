"""Hand many damaged model folders to `cft.load` and count what becomes of them.

    python -m tests.fuzz_folders --count 1000 --seed 0

A small model is trained on phantoms, so that its folder has all that a folder may hold; ``--model``
names another. Entries of its configuration, of the header of its weights, and numbers in them are
damaged, and mostly the hash of the weights is right again.

Every folder must be refused with a `ModelFolderError` of one sentence, or load. What loads must
also answer a film, with finite probabilities or a `RadiographError`, and give strict JSON and the
page's text about the model. All that in less than 2 s of CPU time and with less than 1000 MB above
the idle process; otherwise the exit code is 1. It needs Linux.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import torch

import cft
from cft import results
from cft.errors import LONGEST
from cft.model.gate import bundled_gatekeeper
from cft.page.about import about_html
from tests.films import every_film
from tests.fuzz_radiograph import Tally, table
from tests.fuzzing import folders
from tests.fuzzing.worker import Meter, Worker, answer
from train import negative

_TRAINING = [
    "--phantoms", "400", "--phantom-size", "64", "--arch", "test_resnet", "--image-size", "64",
    "--batch-size", "16", "--lr", "0.01", "--epochs", "1", "--device", "cpu", "--threads", "1",
]  # fmt: skip


def judge(folder: Path) -> tuple[str, str]:
    """Outcome and detail for one folder; runs in a worker."""
    try:
        classifier = cft.load(folder, "cpu")
    except cft.ModelFolderError as error:
        text = str(error)
        plain = text.isprintable() and 0 < len(text) <= LONGEST
        return ("refused" if plain else "broke a rule"), text
    except Exception as error:
        return "escaped", f"load: {error!r}"[:500]
    try:
        film = every_film()["PNG grey 8"].data
        found = next(iter(classifier.stream([film])))
        document = results.document(classifier, [("film", found)], "off")
        json.dumps(document, allow_nan=False).encode()
        about_html(classifier).encode()
    except Exception as error:
        return "escaped", f"use: {error!r}"[:500]
    if isinstance(found, cft.RadiographError):
        return "read", ""
    right = all(math.isfinite(p) and 0 <= p <= 1 for p in found.probabilities.values())
    return ("read" if right else "broke a rule"), ""


class FolderMeter(Meter):
    """Loads and uses model folders, given by their paths; the first one is good."""

    def __init__(self, good: str):
        outcome, detail = judge(Path(good))
        if outcome != "read":
            raise SystemExit(f"the folder is not good before it is damaged: {detail}")
        bundled_gatekeeper(torch.device("cpu"), "auto")  # for folders that have lost their own gate
        super().__init__()

    def judge(self, data: bytes) -> tuple[str, str]:
        return judge(Path(data.decode()))


def load_folders(pipe: Connection, good: str) -> None:
    """Answer a `Verdict` to each path of a folder, until the pipe closes."""
    answer(pipe, lambda: FolderMeter(good))


def fuzz(model: Path, count: int, seed: int, keep: Path | None = None) -> dict[str, Tally]:
    """Kind of damage -> what became of such folders.

    Parameters
    ----------
    model
        The good folder.
    count, seed
        How many are damaged; each follows from the seed and its number alone.
    keep
        Folder for those that fail.
    """
    tallies: dict[str, Tally] = {}
    good = folders.read(model)
    worker = Worker(str(model), load_folders)
    try:
        with tempfile.TemporaryDirectory() as place:
            for index in range(count):
                kind, files = folders.mutate(good, Random(f"{seed}-{index}"))
                folders.write(files, Path(place, "model"))
                verdict = worker.read(str(Path(place, "model")).encode())
                if tallies.setdefault(kind, Tally()).add(verdict) and keep is not None:
                    folders.write(files, keep / f"{seed}-{index}")
                    (keep / f"{seed}-{index}" / "fault.txt").write_text(f"{verdict.fault}\n")
    finally:
        worker.stop()
    return dict(sorted(tallies.items()))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz_folders", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--count", type=int, default=200, help="(default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the folders that fail")
    parser.add_argument("--model", type=Path, help="the good folder (default: a small one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model = options.model
        if model is None:
            model = Path(place, "model")
            if code := negative.main([*_TRAINING, "--out", str(model)]):
                return code
        tallies = fuzz(model, options.count, options.seed, options.keep)
    print(table(tallies))
    faults = [f"{name}: {line}" for name, tally in tallies.items() for line in tally.faults]
    print("\n".join(faults[:50]) if faults else "no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
