"""What was measured of a model, as its card says it: metrics, calibration, operating points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cft.labels import DATASETS
from cft.model.calibration import GOAL
from train.evaluation.report import (
    calibration_table,
    category_table,
    decision_table,
    point_parts,
    shown_subsets,
)
from train.evaluation.stages import scaling_sentence, stages_sentence, stages_table
from train.tables import PLURALS, counted, figure_cell, interval_cell, markdown_table

__all__ = ["bands", "calibration", "measured", "operating_points"]


def measured(categories: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    """The figures on each test set; ``categories`` and ``metrics`` are those of `model_card`."""
    yield "## Metrics"
    if not metrics:
        yield "Not measured."
    unproven = [label for label, row in categories.items() if (row or {}).get("evidence")]
    if unproven:
        yield (
            f"**No evidence for {', '.join(unproven)}**: on no test set does the interval of the "
            "AUROC lie above 0.5, so what the model says of these may be chance."
        )
    for name, result in metrics.items():
        mean, unit = result["subsets"]["all"], result.get("unit", "patient")
        yield f"### {DATASETS.get(name, name)}"
        yield (
            f"{counted(result['films'], result.get('row', 'film'))} of "
            f"{counted(result['groups'], unit)}. Mean AUROC over "
            f"{len(mean['defined'])} categories: **{interval_cell(mean, 'auroc', 'ci')}**; "
            f"mean AP: {interval_cell(mean, 'ap', 'ap')}. "
            f"Intervals: {100 * result['level']:g} %, bootstrap over {PLURALS[unit]} "
            f"({result['replicates']:,} replicates)."
        )
        if result.get("controls"):
            yield "Controls on the same films, mean AUROC: " + "; ".join(
                f"{name} {interval_cell(control, 'auroc', 'ci')}"
                for name, control in result["controls"].items()
            ) + "."  # fmt: skip
        if "stage_1" in result:
            yield f"Before and after category-wise fine-tuning: {stages_sentence(result)}"
            if any(row["difference"] for row in result["change"]["categories"].values()):
                yield stages_table(result)
        if "uncalibrated" in result:
            yield f"Before and after Platt scaling: {scaling_sentence(result)}"
            yield str(calibration_table(result))
        yield str(category_table(result["categories"]))
        yield (
            "AP: average precision. Brier: mean squared error of the probability. ECE: expected "
            "calibration error. DeLong: its 95 % interval of the AUROC."
            + (" Slope: of the labels on the logits; 1 is right." if _has_slopes(result) else "")
        )
        decisions = decision_table(result["categories"], shown_subsets(result))
        if decisions:
            yield "At the operating points, which were chosen on validation films:"
            yield str(decisions)
            yield from map(str, point_parts(result))
        if result["notes"]:
            yield "\n".join(f"- {note}" for note in result["notes"])


def calibration(
    config: Mapping[str, Any], categories: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Iterator[str]:
    """How probabilities were scaled, and how well they hold on test films."""
    yield "## Calibration"
    label_names = config["label_names"]
    fitted = [label for label in label_names if (categories.get(label) or {}).get("platt")]
    if config["architecture"] == "ensemble":
        yield "Each member is calibrated as its own card says; their mean is not, again."
        return
    if not fitted and not any(_not_scaled(row) for row in categories.values()):
        yield "The scores are not calibrated: read them as a ranking, not as probabilities."
        return
    text = (
        f"The probabilities of {len(fitted)} of {len(label_names)} findings are Platt-scaled on "
        "validation films"
    )
    good = [label for label in label_names if _not_scaled(categories.get(label))]
    if good:
        text += f"; scaling does not help {', '.join(good)} (cross-fitted log loss)"
    few = [label for label in label_names if label not in fitted and label not in good]
    if few:
        text += f"; too few cases for {', '.join(few)}"
    yield text + (", whose probabilities are as trained." if good or few else ".")
    rows = [["Test films", "Mean Brier score", "Mean calibration error"]]
    for name, result in metrics.items():
        mean = result["subsets"]["all"]
        rows.append(
            [DATASETS.get(name, name), figure_cell(mean["brier"]), figure_cell(mean["ece"])]
        )
    if len(rows) > 1:
        yield markdown_table(rows)


def _not_scaled(category: Mapping[str, Any] | None) -> bool:
    """Whether a scaling was tried on validation films and did not help."""
    tried = (category or {}).get("calibration") or {"scaled": True}
    return not tried["scaled"]


def _has_slopes(result: Mapping[str, Any]) -> bool:
    return any(row.get("slope") is not None for row in result.get("uncalibrated", {}).values())


def operating_points(categories: Mapping[str, Any]) -> Iterator[str]:
    """The named operating points with their figures on validation films, where there are any."""
    stored = {x: row["operating_points"] for x, row in categories.items() if _has_points(row)}
    if not stored:
        return
    in_use: Mapping[str, Any] = next(
        (row for x in stored if (row := categories[x]["operating_point"])), {}
    )
    default = in_use.get("name") or f"chosen by another rule ({in_use.get('rule')})"
    names = list(next(iter(stored.values())))
    points = [p for of in stored.values() for p in of.values() if p]
    yield "## Operating points"
    yield (
        f"Three for each finding: *specific* leaves {100 * GOAL:.0f} % of the films without the "
        "finding quiet, *balanced* has the largest sensitivity + specificity, *sensitive* finds "
        f"{100 * GOAL:.0f} % of the films with it. The one in use, if none is asked for, is "
        f"{default}. Figures below: {points[0]['data']}; those on test films are above."
    )
    for name in names:
        rows = [[f"*{name}*", "Threshold", "Sensitivity", "Specificity"]]
        for label, of in stored.items():
            if of[name]:
                figures = (figure_cell(of[name][x]) for x in ("sensitivity", "specificity"))
                rows.append([label, f"{of[name]['threshold']:.4g}", *figures])
        yield markdown_table(rows)


def bands(categories: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    """Where findings are ruled in and out, and how often that was wrong on test films."""
    stored = {label: row["band"] for label, row in categories.items() if (row or {}).get("band")}
    if not stored:
        return
    first = next(iter(stored.values()))
    yield "## Ruled in, ruled out, unsure"
    yield (
        "Limits on the probability by class-conditional split-conformal prediction on validation "
        f"films: of films with a finding at most {100 * first['rule_out_error']:g} % are to be "
        f"ruled out, of those without at most {100 * first['rule_in_error']:g} % ruled in; between "
        "the limits the finding is unsure. That holds for films that are exchangeable with those; "
        "the last columns say how often it was wrong on test films."
    )
    tested = {name: result["band"] for name, result in metrics.items() if "band" in result}
    rows = [["Finding", "Ruled out below", "Ruled in from"]]
    for name in tested:
        title = DATASETS.get(name, name)
        rows[0] += [f"{title}: wrongly out", f"{title}: wrongly in"]
    for label, band in stored.items():
        limits = [band["rule_out"], band["rule_in"]]
        row = [label, *("never" if x is None else f"{x:.4g}" for x in limits)]
        for result in tested.values():
            for limit, rate in (("rule_out", "sensitivity"), ("rule_in", "specificity")):
                right = result[limit]["categories"].get(label, {}).get(rate)
                row.append(figure_cell(None if right is None else 1 - right))
        rows.append(row)
    yield markdown_table(rows)


def _has_points(category: Mapping[str, Any] | None) -> bool:
    return any((((category or {}).get("operating_points")) or {}).values())
