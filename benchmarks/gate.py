"""What does the gate let pass, of films and of all that is none?

    python -m benchmarks.gate --model weights --shared SHARED
    python -m benchmarks.gate --model weights --shared SHARED --most 60    # of each kind, as a look
    python -m benchmarks.gate --shared SHARED --lists LISTS    # films to fit a gate with, see below

A row for each kind of picture: how many, and the shares that pass, that are warned of and that are
refused, each with its 95 % interval (Wilson). Then what is asked of the kind, and what the gate
takes beyond the prediction.

SHARED holds ``nih`` (the compact ChestX-ray14) and, as far as they are there, the folders of
``ood`` with their ``sources.csv``. Of NIH, only patients of the test side take part, one film each.
Of ``ood/frontal_other`` only films of the test part do (see `benchmarks.other_hospitals`). Nothing
of ``ood`` that takes part chose anything of the gate. ``--pictures`` names a folder of
photographs and other pictures, such as the data folder of scikit-image, which is used by itself if
it is installed.

``--lists`` writes train.txt and valid.txt, the films of NIH and, behind ``--others`` and
``--others-check``, of other hospitals that `cft gate-fit` may learn from and check with: those of
no test patient, and no patient in both.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from tqdm import tqdm

import cft
from benchmarks.other_hospitals import CREDIT, by, other_films
from cft.film.turn import turned
from cft.model.counterexamples import photographed
from cft.model.drawings import drawn
from train.datasets import read_dataset
from train.tables import aligned_table

Film = Path | cft.Radiograph | np.ndarray

# What is asked: the least share that passes, or that does not.
_ASKED = {
    "NIH": (0.98, "pass"),
    "other hospitals": (0.95, "pass"),
    "other body parts": (0.99, "caught"),
    "other medical": (0.99, "caught"),
    "pictures": (0.99, "caught"),
    "drawn": (0.99, "caught"),
    "upside down": (0.97, "caught"),
    "left": (0.97, "caught"),
    "right": (0.97, "caught"),
    "inverted": (0.97, "caught"),
    "mirrored": (0.90, "caught"),
}


def _as_it_is(film: cft.Radiograph) -> cft.Radiograph:
    return film


@dataclass(frozen=True)
class Kind:
    """Pictures of one kind; a part of another where `part` is given."""

    name: str
    films: list[Film]
    change: Callable[[cft.Radiograph], cft.Radiograph] = _as_it_is
    part: str = ""


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="weights", help="model folder or hf-hub: name")
    parser.add_argument("--shared", type=Path, required=True, help="folder with nih and ood")
    parser.add_argument("--pictures", type=Path, help="folder of pictures that are no films")
    parser.add_argument("--most", type=int, default=10**9, help="pictures of a kind, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the choice among them")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="only these, such as NIH")
    parser.add_argument("--lists", type=Path, help="write lists of films to fit with, and end")
    options = parser.parse_args(argv)
    if options.lists:
        return _write_lists(options.shared, options.lists)
    model = cft.load(options.model)
    random = np.random.default_rng(options.seed)
    rows = [["kind", "part", "n", "pass", "warned", "refused", "asked", "reason given most"]]
    nih: list[Film] = []
    known: dict[str, tuple[str, str]] = {}  # of films as they are, some of which are parts
    for kind in _kinds(options, random):
        if options.kinds and kind.name not in options.kinds:
            continue
        chosen = _some(kind.films, options.most, random)
        names = [str(film) for film in chosen if isinstance(film, Path)]
        unchanged = kind.change is _as_it_is and len(names) == len(chosen)
        if unchanged and known.keys() >= set(names):
            gates = [known[name] for name in names]
        else:
            gates = list(_gates(model, kind, chosen))
        if unchanged:
            known.update(zip(names, gates, strict=True))
        rows.append(_row(kind, Counter(gates)))
        if kind.name == "NIH" and not kind.part:
            nih = chosen
    print(aligned_table(rows))
    print(_time(options.model, nih[:20]))
    return 0


def _write_lists(shared: Path, folder: Path) -> int:
    table = read_dataset("nih", shared / "nih")
    others = other_films(shared / "ood" / "frontal_other")
    folder.mkdir(parents=True, exist_ok=True)
    for side, option in (("train", "--others"), ("valid", "--others-check")):
        paths = [str(table.images[row]) for row in np.flatnonzero(table.split == side)]
        elsewhere = [str(film.path) for film in others if film.side == side]
        words = [*paths, option, *elsewhere] if elsewhere else paths
        words += ["--credit", CREDIT] if elsewhere and side == "train" else []
        (folder / f"{side}.txt").write_text("\n".join(words) + "\n")
        print(
            f"{folder / f'{side}.txt'}: {len(paths):,} films, {len(elsewhere):,} of other hospitals"
        )
    return 0


def _kinds(options: argparse.Namespace, random: np.random.Generator) -> Iterator[Kind]:
    test, small = _nih(options.shared / "nih")
    views = sorted({view for _, view in test})
    yield Kind("NIH", [path for path, _ in test])
    for view in views:
        yield Kind("NIH", [path for path, v in test if v == view], part=view)
    yield Kind("NIH, 64 px copies", [path for path, _ in small])
    ood = options.shared / "ood"
    others = [film for film in other_films(ood / "frontal_other") if film.side == "test"]
    other: list[Film] = [film.path for film in others]
    yield Kind("other hospitals", other)
    for part, some in by(others, lambda film: film.view or "view unknown"):
        yield Kind("other hospitals", some, part=part)
    for part, some in by(others, lambda film: film.repository):
        yield Kind("other hospitals", some, part=part)
    for folder, name in (("other_xray", "other body parts"), ("other_medical", "other medical")):
        for part, films in _listed(ood / folder).items():
            yield Kind(name, films, part=part)
    yield Kind("pictures", _pictures(options.pictures))
    yield Kind("drawn", [drawn((320, 320), random).numpy() for _ in range(200)], part="as learnt")
    films = [path for path, _ in test]
    for name, change in _TURNS.items():
        yield Kind(name, films, change, "NIH")
        if other:
            yield Kind(name, other, change, "other hospitals")
    for share in (0.9, 0.75, 0.6, 0.4):
        yield Kind("middle cut out", films, _cut(share), f"{share:.0%} of each side")
    yield Kind("two films side by side", films, _twice, "NIH")
    yield Kind("photograph of a screen", films, _on_a_screen(random), "made from NIH")
    yield Kind("lateral by its tag", films, lambda film: replace(film, view="lateral"), "NIH")


def _nih(folder: Path) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
    """Film and view of one film of each test patient; and of each other patient's 64 px films.

    The second are of patients that no training or validation film is of.
    """
    random = np.random.default_rng(0)
    table = read_dataset("nih", folder)
    views = table.attributes["view"].astype(str)
    test: dict[str, tuple[Path, str]] = {}
    for row in random.permutation(np.flatnonzero(table.split == "test")):
        test[str(table.patients[row])] = (Path(table.images[row]), views[row])
    seen = set(table.patients[table.split != "test"].astype(str).tolist())
    small: dict[str, tuple[Path, str]] = {}
    with open(folder / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["width"]) < 224 and row["patient_id"] not in seen:
                small[row["patient_id"]] = (folder / "images" / row["image"], row["view"])
    return list(test.values()), list(small.values())


def _listed(folder: Path) -> dict[str, list[Film]]:
    """What is shown -> pictures, by the folder's ``sources.csv``; empty if there is none."""
    found: dict[str, list[Film]] = defaultdict(list)
    if (folder / "sources.csv").exists():
        with open(folder / "sources.csv", newline="") as file:
            for row in csv.DictReader(file):
                found[row["view"]].append(folder / "images" / row["image"])
    return dict(sorted(found.items()))


def _pictures(folder: Path | None) -> list[Film]:
    """Photographs, pages and drawings: PNG and JPEG files of a folder, else scikit-image's."""
    if folder is None:
        package = importlib.util.find_spec("skimage")
        if package is None or package.origin is None:
            return []
        folder = Path(package.origin).parent / "data"
    return sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))


_TURNS: dict[str, Callable[[cft.Radiograph], cft.Radiograph]] = {
    "upside down": lambda film: turned(film, "turn around"),
    "left": lambda film: turned(film, "turn left"),
    "right": lambda film: turned(film, "turn right"),
    "inverted": lambda film: turned(film, "invert"),
    "mirrored": lambda film: turned(film, "mirror"),
}


def _cut(share: float) -> Callable[[cft.Radiograph], cft.Radiograph]:
    def cut(film: cft.Radiograph) -> cft.Radiograph:
        sides = [
            slice(round(n * (1 - share) / 2), round(n * (1 + share) / 2)) for n in film.pixels.shape
        ]
        return replace(film, pixels=np.ascontiguousarray(film.pixels[sides[0], sides[1]]))

    return cut


def _twice(film: cft.Radiograph) -> cft.Radiograph:
    return replace(film, pixels=np.concatenate([film.pixels, film.pixels], 1))


def _on_a_screen(random: np.random.Generator) -> Callable[[cft.Radiograph], cft.Radiograph]:
    """As in learning, since there are no real ones at hand."""

    def photograph(film: cft.Radiograph) -> cft.Radiograph:
        made = photographed(torch.from_numpy(film.pixels), random)
        return replace(film, pixels=made.clamp(0, 1).numpy())

    return photograph


def _some(films: list[Film], most: int, random: np.random.Generator) -> list[Film]:
    if len(films) <= most:
        return films
    return [films[i] for i in np.sort(random.permutation(len(films))[:most])]


def _gates(model: cft.Classifier, kind: Kind, films: list[Film]) -> Iterator[tuple[str, str]]:
    """Verdict and first reason for each picture; one that cannot be read does not pass."""

    def read() -> Iterator[cft.Radiograph | bytes]:
        for film in films:
            try:
                is_array = isinstance(film, np.ndarray)
                made = cft.Radiograph.from_array(film) if is_array else cft.read_radiograph(film)
                yield kind.change(made)
            except cft.RadiographError:
                yield b""  # which cannot be read either

    name = f"{kind.name} {kind.part}"
    for answer in tqdm(model.stream(read()), name, len(films), leave=False, disable=None):
        if isinstance(answer, cft.RadiographError):
            yield "refuse", "not readable as a film"
        else:
            yield answer.gate.verdict, (*answer.gate.reasons, "")[0]


def _row(kind: Kind, gates: Counter[tuple[str, str]]) -> list[str]:
    n = gates.total()
    if not n:
        return [kind.name, kind.part, "0", "", "", "", "", "not there"]
    verdicts = Counter[str]()
    for (verdict, _), count in gates.items():
        verdicts[verdict] += count
    shares = [_share(verdicts[verdict], n) for verdict in ("pass", "warn", "refuse")]
    least, what = _ASKED.get(kind.name, (None, ""))
    asked = "" if least is None else f"{least:.0%} {what}"
    reasons = [(reason, count) for (_, reason), count in gates.most_common() if reason]
    most = f"{reasons[0][0]} ({reasons[0][1]})" if reasons else ""
    return [kind.name, kind.part, str(n), *shares, asked, most]


def _share(count: int, n: int) -> str:
    """A share with its 95 % interval: Wilson, JASA 22 (1927) 209-212."""
    z, p = 1.959964, count / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return f"{p:.3f} ({max(0, middle - half):.3f} to {min(1, middle + half):.3f})"


def _time(reference: str, films: list[Film]) -> str:
    """Median CPU time of a prediction with and without the gate, one film at a time."""
    gated = cft.load(reference)
    with mock.patch.dict(os.environ, CFT_GATE="off"):
        plain = cft.load(reference)
    if not films or not isinstance(gated, cft.Classifier) or gated.gatekeeper is None:
        return "the model has no gate of features"
    read = [cft.read_radiograph(film) for film in films]  # type: ignore[arg-type]  # they are paths
    times = []
    for film in [*read[:3], *read, *read]:
        pair = []
        for model in (gated, plain):
            began = time.process_time()
            model.predict(film)
            pair.append(1000 * (time.process_time() - began))
        times.append(pair)
    with_gate, without = np.median(times[3:], axis=0)
    more = np.median(np.subtract(*np.transpose(times[3:])))
    own = "in the same pass" if gated.gatekeeper.engine is gated.engine else "the bundled model's"
    return (
        f"CPU time of a film, {torch.get_num_threads()} threads: {with_gate:.1f} ms with the gate "
        f"({own}), {without:.1f} ms without; {more:+.1f} ms (median of {len(times) - 3} pairs)"
    )


if __name__ == "__main__":
    sys.exit(main())
