"""``cft gate-fit FOLDER FILMS...``: let the gate of a model folder learn from films."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cft
from cft import NOT_A_MEDICAL_DEVICE

if TYPE_CHECKING:
    import numpy as np

    from cft.model.preprocess import Preprocess


def main(arguments: Sequence[str]) -> int:
    """Fit the gate and store it in the folder's ``config.json``; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="cft gate-fit",
        description="Let the gate of a model folder learn what upright frontal chest films look "
        "like to its network, and store that in the folder. It needs films alone, no labels. "
        "@FILE stands for the paths in a text file, one a line.",
        epilog=NOT_A_MEDICAL_DEVICE,
        fromfile_prefix_chars="@",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the model folder")
    parser.add_argument(
        "films",
        metavar="FILMS",
        type=Path,
        nargs="*",
        help="films and folders of films: upright, frontal, and of nobody who is tested later; "
        "none: the folder keeps its gate, and --others correct it",
    )
    parser.add_argument(
        "--check",
        metavar="FILMS",
        type=Path,
        nargs="+",
        default=[],
        help="films of other patients, which choose the limits (default: every fifth of FILMS)",
    )
    parser.add_argument(
        "--others",
        metavar="FILMS",
        type=Path,
        nargs="+",
        default=[],
        help="films of other hospitals than those of FILMS: they correct what the gate takes for "
        "mirrored",
    )
    parser.add_argument(
        "--others-check",
        metavar="FILMS",
        type=Path,
        nargs="+",
        default=[],
        help="films of other patients of theirs, which choose with those of --check when a film "
        "is called mirrored (default: every fifth of OTHERS)",
    )
    parser.add_argument(
        "--credit",
        metavar="TEXT",
        help="whose films those of --others are and under which licence, for the model card",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU if there is one)")
    options = parser.parse_args(arguments)
    if not options.films and not options.others:
        parser.error("give FILMS to learn from, or --others to correct the gate with")
    try:
        return _fit(options)
    except cft.ModelFolderError as error:
        return _said(f"cft gate-fit: {error}", 2)
    except ValueError as error:
        return _said(f"cft gate-fit: {error}", 1)
    except OSError as error:
        return _said(f"cannot write {error.filename or options.folder} ({error.strerror})", 1)


def _said(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


def _fit(options: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from cft.model.folder import read_model_folder
    from cft.model.gate_adapt import adapt_gate, pictures_to_adapt
    from cft.model.gate_fit import fit_gate, pictures_needed
    from cft.model.gate_folder import store_gate
    from cft.model.network import build_network

    folder = read_model_folder(options.folder)
    if folder.facts.members:
        raise cft.ModelFolderError(
            f"{options.folder} is an ensemble; fit the gates of the folders inside it"
        )
    if not options.films and folder.facts.gate is None:
        raise cft.ModelFolderError(f"{options.folder} has no gate to correct; give FILMS, too")
    network = build_network(folder)
    network.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    preprocess = folder.facts.preprocess
    films, checks = _films(options.films, options.check, preprocess)
    others, others_checks = _films(options.others, options.others_check, preprocess)
    needed = pictures_needed(len(films), len(checks)) if options.films else 0
    if others:
        needed += pictures_to_adapt(len(others), len(checks) + len(others_checks))
    statistics = folder.facts.gate
    with tqdm(total=needed, unit="picture", leave=False, disable=not sys.stderr.isatty()) as bar:
        if options.films:
            statistics = fit_gate(
                network, preprocess, films, checks, seed=options.seed, progress=bar.update
            )
        assert statistics is not None
        if options.others:
            every = [*checks, *others_checks]
            statistics = adapt_gate(
                network, preprocess, statistics, others, every, progress=bar.update
            )
            statistics = replace(statistics, credit=options.credit or "")
    store_gate(folder, statistics)
    corrected = f", corrected by {statistics.others:,} of other hospitals" * bool(statistics.others)
    print(
        f"{options.folder}: the gate has learnt from {statistics.fitted:,} films{corrected}; "
        f"{statistics.checked:,} others chose its limits"
    )
    return 0


def _films(
    films: Sequence[Path], checks: Sequence[Path], preprocess: Preprocess
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Films to learn from and to check with, by default every fifth of the first."""
    from cft.film.find import find_films

    paths, others = list(find_films(films)), list(find_films(checks))
    if not checks:
        paths, others = [p for i, p in enumerate(paths) if i % 5], paths[::5]
    return list(_read(paths, preprocess)), list(_read(others, preprocess))


def _read(paths: Iterable[Path], preprocess: Preprocess) -> Iterator[np.ndarray]:
    """Films as uint8 of the size of the input; those that cannot be read are named."""
    import numpy as np
    from tqdm import tqdm

    for path in tqdm(list(paths), unit="film", leave=False, disable=not sys.stderr.isatty()):
        try:
            grey = preprocess.geometry(cft.read_radiograph(path).pixels)
        except cft.RadiographError as error:
            tqdm.write(f"{path}: {error}", file=sys.stderr)
            continue
        yield (grey * 255).round().astype(np.uint8)
