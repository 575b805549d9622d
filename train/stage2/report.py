"""The table that stage 2 prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.evaluation.stages import change_cell, scaling_sentence, stages_sentence
from train.tables import aligned_table, figure_cell, without_empty_columns

__all__ = ["fine_tuning"]


def fine_tuning(results: Mapping[str, Any]) -> str:
    """The table that stage 2 prints: one line a category, from its ``report.json``."""
    test = next(iter(results["metrics"].items()), None)
    header = ["category", "known +", "known -", "before", "after", "change", "regression"]
    rows = [header]
    for label, row in results["categories"].items():
        before, after, change = row["valid_before"], row["valid_after"], ""
        if test:
            before = test[1]["stage_1"]["categories"][label]["auroc"]
            after, change = test[1]["categories"][label]["auroc"], change_cell(test[1], label)
        counts = (f"{row['positives']:,}", f"{row['negatives']:,}")
        method = row["method"] + (f" ({row['skipped']})" if row["skipped"] else "")
        rows.append([label, *counts, figure_cell(before), figure_cell(after), change, method])
    lead = "Validation, cross-validated where it was fitted:"
    parts = []
    if test:
        lead = f"Test AUROC, labels of {test[0]} (change: 95 % DeLong interval, by patient):"
        parts = [
            f"{name}: {stages_sentence(result)}\n"
            f"Before and after Platt scaling: {scaling_sentence(result)}"
            for name, result in results["metrics"].items()
        ]
    if "chosen" in results:
        what = {
            "penalty": "Strength of the penalty, chosen by cross-validation",
            "generation": "Generation, chosen on validation films",
        }[results["chosen_among"]]
        over = _over(results)
        parts.append(
            f"{what}{over}: {results['chosen']:g}; share of the way gone: {results['share']:.2f}."
            if results["share"]
            else f"Validation{over} shows no gain beyond its error, so every trained regression "
            "stays."
        )
    return "\n\n".join([f"{lead}\n{aligned_table(without_empty_columns(rows))}", *parts])


def _over(results: Mapping[str, Any]) -> str:
    """Which films chose, if not the validation films alone."""
    if results.get("judges", "validation") == "validation":
        return ""
    return f" over {results['judging_films']:,} films of {results['judges']}"
