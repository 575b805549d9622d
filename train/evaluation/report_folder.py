"""Write the folder of a report: report.html, report.json, report.md, predictions.csv, plots."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cft.files import atomic_write, from_json, regular
from cft.model.folder import read_config
from train.errors import EvaluationError
from train.evaluation import epoch_curves, figure, plots, report, training_curves
from train.evaluation.checklist import (
    checklist_rows,
    facts_of_config,
    facts_of_results,
    facts_of_source,
)
from train.evaluation.predictions import predictions_csv
from train.evaluation.protocol import Settings, evaluate_models, truth_facts
from train.evaluation.report_page import report_page
from train.evaluation.run_models import model_names
from train.evaluation.scored import ENSEMBLE, Evaluated, Scored
from train.evaluation.shift import shift_of


def results_of(run_: Evaluated, settings: Settings) -> dict[str, Any]:
    """``report.json``: the first truth's figures at the root, the others' under references."""
    first, *more = run_.scored
    framed = None if run_.boxes is None else (run_.boxes, run_.patients)
    results = evaluate_models(first.truth, first.models, run_.readers, settings, framed)
    others = [evaluate_models(one.truth, one.models, [], settings) for one in more]
    results["references"] = {other["truth"]["name"]: other for other in others}
    for one in (results, *others):
        if run_.weights:
            one["models"][ENSEMBLE]["weights"] = run_.weights
    for model, config in zip(first.models, run_.configs, strict=False):
        results["models"][model.name]["folder"] = _folder(config)
    results["shift"] = shifts_of(first, run_.shifts, settings)
    facts = {}
    if run_.configs:
        tests = [results["truth"]["name"], *results["references"]]
        facts = facts_of_config(run_.configs[0]) | facts_of_source(run_.configs[0], tests)
    results["checklist"] = checklist_rows({**facts, **facts_of_results(results)})
    results["settings"] = dataclasses.asdict(settings)
    return results


def _folder(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Which network a model folder holds, as far as its ``config.json`` says."""
    ours = config.get("cft", {})
    provenance = ours.get("provenance") or {}
    members = ours.get("members")
    return {
        "architecture": f"ensemble of {len(members)}" if members else config.get("architecture"),
        "weights_sha256": ours.get("weights_sha256"),
        "trained_on": provenance.get("trained_on"),
        "date": provenance.get("date"),
    }


def shifts_of(first: Scored, shifts: Sequence[Scored], settings: Settings) -> dict[str, Any]:
    """Name of a further data set -> what `train.evaluation.shift.shift_of` says of each model."""
    found: dict[str, Any] = {}
    for second in shifts:
        if not set(first.truth.label_names) & set(second.truth.label_names):
            raise EvaluationError(
                f"{second.truth.name} has no category of {first.truth.name}, so nothing is compared"
            )
        there = {model.name: model for model in second.models}
        twice = len(set(first.truth.keys) & set(second.truth.keys))
        notes = [f"{twice:,} rows have the same name in both data sets"] if twice else []
        found[second.truth.name] = {
            "first": first.truth.name,
            "truth": truth_facts(second.truth),
            "notes": notes
            + [f"{model.name}: {note}" for model in second.models for note in model.notes],
            "models": {
                model.name: shift_of(
                    *((first.truth, model), (second.truth, there[model.name])),
                    **settings.bootstrap,
                )
                for model in first.models
                if model.name in there
            },
        }
    return found


# The files that are always written, and what the others may be called.
_ALWAYS = ("predictions.csv", "report.html", "report.json", "report.md")
# A list of numbers; a text of JSON holds no line break, so none can look like one.
_NUMBERS = re.compile(r"\[\n(?:\s*(?:-?[\d.]+(?:[eE][+-]?\d+)?|null),?\n)+\s*\]")

_PLOT = re.compile(r"plots/([\w-]+/)?[\w.-]+\.(png|svg)")


def write_report(args: argparse.Namespace, results: dict[str, Any], run_: Evaluated) -> None:
    """Write the report in its three forms, predictions.csv and plots, in place of earlier ones.

    ``files`` of report.json lists them. Plots that only the earlier report lists are removed.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    images = []
    for i, one in enumerate(run_.scored):
        folder = Path("plots", one.truth.name) if i else Path("plots")
        figures = results["references"][one.truth.name] if i else results
        drawn = plots.draw_all(args.out / folder, figures, one.truth, one.models)
        images += [str(folder / image) for image in drawn]
    images += training_plots(args)
    stems = [image.removesuffix(".png") for image in images]
    files = sorted(
        [*_ALWAYS, *(f"{stem}.{suffix}" for stem in stems for suffix in figure.SUFFIXES)]
    )
    _remove_plots(args.out, _files_of(args.out / "report.json") - set(files))
    results["files"] = files
    atomic_write(args.out / "report.json", _json(results))
    atomic_write(args.out / "report.md", report.markdown(results, images))
    atomic_write(args.out / "report.html", report_page(results, images, args.out))
    first = run_.scored[0]
    atomic_write(args.out / "predictions.csv", predictions_csv(first.truth, first.models))


def _json(results: Mapping[str, Any]) -> str:
    """JSON with a line for each entry, but lists of numbers on one line."""
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n"


def _files_of(earlier: Path) -> set[str]:
    """The files that an earlier report lists; none if it is absent or damaged."""
    try:
        files = from_json(regular(earlier).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    return {file for file in files if isinstance(file, str)} if isinstance(files, list) else set()


def _remove_plots(folder: Path, files: Iterable[str]) -> None:
    """Remove plots from a report's folder; names of anything else, or elsewhere, are passed by."""
    for file in files:
        if not _PLOT.fullmatch(file):
            continue
        plot = folder / file
        if plot.is_file() and plot.parent.resolve().is_relative_to(folder.resolve()):
            plot.unlink()


def training_plots(args: argparse.Namespace) -> list[str]:
    """Draw the training curves of the models whose folder holds a run's log."""
    drawn = []
    for reference, name in zip(args.model or (), model_names(args.model or ()), strict=True):
        log = Path(reference, "log.jsonl")
        if log.exists():
            file = "training-" + re.sub(r"[^\w.]+", "-", name).strip("-")
            title = f"Training of {name}{_trained_films(log.parent)}"
            image = training_curves.training_curves(log, args.out / "plots", file, title)
            drawn += [f"plots/{image}"] if image else []
            image = epoch_curves.epoch_curves(
                log.parent, args.out / "plots", f"{file}-roc", f"Training of {name}"
            )
            drawn += [f"plots/{image}"] if image else []
    return drawn


def _trained_films(folder: Path) -> str:
    """How many films a run's training and validation used, from its model folder; "" if unsaid."""
    splits = read_config(folder).get("cft", {}).get("provenance", {}).get("splits", {})
    counts = [splits.get(split, {}).get("films") for split in ("train", "valid")]
    return ", on {:,} films (validation: {:,})".format(*counts) if all(counts) else ""
