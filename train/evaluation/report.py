"""One dict of results -> the tables that people read: report.md, the printed summary.

Nothing is computed here: `train.evaluation.scores` makes the figures, this shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from train.evaluation.against_readers import reader_parts
from train.evaluation.captions import Plot, plots_beside
from train.evaluation.checklist import checklist_parts
from train.evaluation.coverage_tables import coverage_parts
from train.evaluation.essential_tables import essential_parts, reader_benefit_parts
from train.evaluation.localisation_tables import localisation_parts
from train.evaluation.precision_of_films import sample_parts
from train.evaluation.scores import RATES
from train.evaluation.shift_tables import shift_parts
from train.evaluation.subgroup_tables import gap_parts, rate_parts
from train.tables import (
    PLURALS,
    Table,
    aligned_table,
    counted,
    figure_cell,
    interval_cell,
    p_cell,
    range_cell,
    without_empty_columns,
)

__all__ = ["markdown", "report_parts", "summary"]

#: A heading, a paragraph or a list in Markdown; or a table; or a plot.
Part = str | Table | Plot


def summary(results: Mapping[str, Any]) -> str:
    """The table that the command prints: one line a model, then one line a category."""
    models = results["models"]
    rows = [["model", "mean over", "AUROC", "AP", "Brier", "readers below", "place"]]
    for name, result in models.items():
        for subset, mean in shown_subsets(result).items():
            rows.append(
                [
                    name,
                    f"{subset} ({len(mean['defined'])})",
                    interval_cell(mean, "auroc", "ci"),
                    figure_cell(mean["ap"]),
                    figure_cell(mean["brier"]),
                    *_against(result, subset),
                ]
            )
    size = _size(results["truth"])
    parts = [f"Means, {size}\n{aligned_table(without_empty_columns(rows))}"]
    labels = list(dict.fromkeys(x for result in models.values() for x in result["categories"]))
    show = interval_cell if len(models) <= 3 else lambda row, metric, _: figure_cell(row[metric])
    rows = [["AUROC", *models]]
    for label in labels:
        found = [result["categories"].get(label) for result in models.values()]
        rows.append([label, *("" if row is None else show(row, "auroc", "ci") for row in found)])
    parts.append(f"AUROC by category, {size}\n{aligned_table(rows)}")
    notes = [f"{name}: {note}" for name, result in models.items() for note in result["notes"]]
    notes = [*results["truth"]["notes"], *notes]
    if notes:
        parts.append("\n".join(f"note: {note}" for note in notes))
    for name, more in results.get("references", {}).items():
        parts.append(f"against {name}:\n\n{summary(more)}")
    return "\n\n".join(parts)


def markdown(results: Mapping[str, Any], images: Sequence[str] = ()) -> str:
    """The report as Markdown.

    Parameters
    ----------
    results
        What `train.evaluate` writes to ``report.json``.
    images
        Plots to show, relative to the report.
    """
    return "\n\n".join(map(str, report_parts(results, images))) + "\n"


def report_parts(results: Mapping[str, Any], images: Sequence[str] = ()) -> list[Part]:
    """Headings, paragraphs, lists (all Markdown), tables and plots of a report, in order."""
    plots = plots_beside(images)
    parts: list[Part] = ["# Evaluation", *_section(results, 2, plots.get("", ()))]
    for name, more in results.get("references", {}).items():
        parts += [f"## Against {name}", *_section(more, 3, plots.get(name, ()))]
    parts += shift_parts(results.get("shift", {}))
    if results.get("checklist"):
        parts += ["## Checklist", *checklist_parts(results["checklist"])]
    if "training" in plots:
        parts += ["## Training", *plots["training"]]
    return parts


def _section(results: Mapping[str, Any], level: int, plots: Sequence[Plot]) -> list[Part]:
    """Everything about one truth: models, categories, readers, comparisons, subgroups, notes."""
    heading, size = "#" * level, f"{_size(results['truth'])}."
    parts: list[Part] = [_protocol(results), f"{heading} Means", size, _means_table(results)]
    if plots:
        parts += [f"{heading} Figures", *plots]
    for i, (name, result) in enumerate(results["models"].items()):
        parts += [f"{heading} {name}", _identity(result), size]
        parts += _model_parts(result, results.get("boxes"), explain=i == 0)
    if results["radiologists"]:
        parts += [f"{heading} Radiologists", size, _reader_table(results)]
        parts += reader_benefit_parts(results.get("reader_net_benefit", {}))
    if results["comparisons"]:
        parts += [f"{heading} Comparisons", size]
        for comparison in results["comparisons"]:
            parts += _comparison_parts(comparison)
    notes = list(results["truth"]["notes"])
    notes += [f"{name}: {note}" for name, r in results["models"].items() for note in r["notes"]]
    if notes:
        parts += [f"{heading} Notes", "\n".join(f"- {note}" for note in notes)]
    return [part for part in parts if part != ""]


def _model_parts(
    result: Mapping[str, Any], boxes: Mapping[str, Any] | None, explain: bool
) -> list[Part]:
    """Everything about one model; the first of a report explains its columns."""
    parts: list[Part] = [category_table(result["categories"])]
    parts += _decision_parts(result)
    parts += essential_parts(result["categories"], explain=explain)
    parts += coverage_parts(result, explain=explain)
    parts += localisation_parts(result, boxes)
    if "uncalibrated" in result:
        parts += ["Before and after calibration:", calibration_table(result)]
    if "weights" in result:
        shares = (f"{member} {share:.2f}" for member, share in result["weights"].items())
        parts.append(f"Weights, chosen on validation: {', '.join(shares)}.")
    if "subgroups" in result:
        parts += ["Mean AUROC by subgroup:", _subgroup_table(result["subgroups"])]
        for attribute, values in result["subgroups"].items():
            parts += [f"AUROC by {attribute} (positives):", _by_value_table(values)]
        parts += rate_parts(result["subgroups"], explain=explain)
    parts += reader_parts(result, explain=explain)
    parts += gap_parts(result, explain=explain)
    parts += sample_parts(result, explain=explain)
    return parts


def _identity(result: Mapping[str, Any]) -> str:
    """Which network a model is, from its folder; "" for a table of predictions."""
    folder = result.get("folder")
    if not folder:
        return ""
    said = [f"Network: {folder['architecture']}" if folder["architecture"] else ""]
    said += [f"weights {folder['weights_sha256'][:12]}" if folder["weights_sha256"] else ""]
    said += [f"trained on {folder['trained_on']}" if folder["trained_on"] else ""]
    said += [f"made on {folder['date']}" if folder["date"] else ""]
    return f"{', '.join(filter(None, said))}."


def _protocol(results: Mapping[str, Any]) -> str:
    truth = results["truth"]
    result = next(iter(results["models"].values()))
    plural = PLURALS[truth["unit"]]
    return (
        f"Truth: {truth['name']}, {_size(truth)}. "
        f"Intervals: {100 * result['level']:g} %, percentile bootstrap over {plural} "
        f"({result['replicates']:,} replicates, seed {result['seed']}). Unknown labels are not "
        "counted."
    )


def _size(truth: Mapping[str, Any]) -> str:
    """``438 studies (438 films) of 266 patients``."""
    text = counted(truth["rows"], truth["row"])
    if truth["row"] == "study" and truth["films"]:
        text += f" ({counted(truth['films'], 'film')})"
    if truth["unit"] != truth["row"]:
        text += f" of {counted(truth['groups'], truth['unit'])}"
    return text


def _means_table(results: Mapping[str, Any]) -> Table:
    rows = [["Model", "Subset", "AUROC", "AP", "Brier", "ECE", "Readers below", "Place"]]
    for name, result in results["models"].items():
        for subset, mean in shown_subsets(result).items():
            rows.append(
                [
                    name,
                    f"{subset} ({len(mean['defined'])})",
                    interval_cell(mean, "auroc", "ci"),
                    interval_cell(mean, "ap", "ap"),
                    figure_cell(mean["brier"]),
                    figure_cell(mean["ece"]),
                    *_against(result, subset),
                ]
            )
    return Table(without_empty_columns(rows))


def shown_subsets(result: Mapping[str, Any]) -> dict[str, Any]:
    """The subsets without those that repeat another's categories under a second name."""
    shown: dict[frozenset, tuple[str, Any]] = {}
    for name, mean in result["subsets"].items():
        shown[frozenset(mean["categories"])] = (name, mean)  # the later name says more than "all"
    return dict(shown.values())


def _against(result: Mapping[str, Any], subset: str) -> list[str]:
    """Cells for readers below the curve and place, beside the subset that these figures are of."""
    shown = shown_subsets(result)
    if "radiologists_below" not in result or (subset != "chexpert_5" and "chexpert_5" in shown):
        return ["", ""]
    place = result.get("leaderboard")
    below = f"{result['radiologists_below']['mean']:.1f}"
    return [below, f"{place['place']} of {place['of']}" if place else ""]


def category_table(categories: Mapping[str, Any]) -> Table:
    rows = [["Category", "Positive", "Negative", "AUROC", "DeLong", "AP", "Brier", "ECE"]]
    for label, row in categories.items():
        rows.append(
            [
                label,
                f"{row['positives']:,}",
                f"{row['negatives']:,}",
                interval_cell(row, "auroc", "ci"),
                range_cell(row["delong_low"], row["delong_high"]),
                interval_cell(row, "ap", "ap"),
                figure_cell(row["brier"]),
                figure_cell(row["ece"]),
            ]
        )
    return Table(without_empty_columns(rows))


def _decision_parts(result: Mapping[str, Any]) -> list[Part]:
    """The table of decisions at the operating points, with where these come from."""
    table = decision_table(result["categories"], shown_subsets(result))
    if table is None:
        return []
    points = result["operating_points"]
    if points["optimistic"]:
        lead = (
            f"**Optimistic**: operating points (rule: {points['rule']}) were chosen on the very "
            "films that are scored, so these figures are better than on new films:"
        )
    else:
        lead = f"At the operating points of {points['source']}:"
    return [lead, table, *point_parts(result)]


def point_parts(result: Mapping[str, Any]) -> list[Part]:
    """What is decided at each of the named operating points, and on films without a finding."""
    if not any(point["decided"] for point in result.get("points", {}).values()):
        return []
    parts: list[Part] = []
    rows = [
        ["Operating point", "Films with none of the findings", "Findings a film", "Films quiet"]
    ]
    for name, point in result["points"].items():
        parts += [f"At the operating point *{name}*:", _point_table(point)]
        normal = point["normal"]
        share = "" if normal["quiet"] is None else f"{100 * normal['quiet']:.0f} %"
        found = "" if normal["findings"] is None else f"{normal['findings']:.2f}"
        rows.append([name, f"{normal['films']:,}", found, share])
    if any(point["normal"]["films"] for point in result["points"].values()):
        parts.append(Table(rows))
        parts.append(
            "Findings a film: how many findings a film is given that is known to have none of "
            "them. Films quiet: the share of such films that is given none."
        )
    return parts


def _point_table(point: Mapping[str, Any]) -> Table:
    rows = [["Category", "Threshold", "Sensitivity", "Specificity"]]
    for label in point["decided"]:
        row = point["categories"][label]
        figures = (interval_cell(row, metric, metric) for metric in RATES[:2])
        rows.append([label, f"{row['threshold']:.4g}", *figures])
    rows.append(
        [f"Mean ({len(point['decided'])})", "", *(figure_cell(point[x]) for x in RATES[:2])]
    )
    return Table(rows)


def decision_table(categories: Mapping[str, Any], subsets: Mapping[str, Any]) -> Table | None:
    rows = [["Category", "Threshold", "Sensitivity", "Specificity", "PPV", "F1", "MCC"]]
    for label, row in categories.items():
        if row["threshold"] is not None:
            figures = (interval_cell(row, metric, metric) for metric in RATES)
            rows.append([label, f"{row['threshold']:.4g}", *figures])
    if len(rows) == 1:
        return None
    for name, mean in subsets.items():
        if mean["decided"]:
            figures = (figure_cell(mean[metric]) for metric in RATES)
            rows.append([f"Mean of {name} ({len(mean['decided'])})", "", *figures])
    return Table(rows)


def calibration_table(result: Mapping[str, Any]) -> Table:
    """Brier score, calibration error and slope on the films, before and after the scaling."""
    measures = {"Brier": "brier", "ECE": "ece", "Slope": "slope"}
    rows = [["Category", *(f"{name} {when}" for name in measures for when in ("before", "after"))]]
    for label, before in result["uncalibrated"].items():
        after = result["categories"][label]
        pairs = (of.get(key) for key in measures.values() for of in (before, after))
        rows.append([label, *map(figure_cell, pairs)])
    return Table(without_empty_columns(rows))


def _subgroup_table(subgroups: Mapping[str, Any]) -> Table:
    rows = [["Attribute", "Value", "n", "Categories", "Mean AUROC", "Mean AP"]]
    for attribute, values in subgroups.items():
        for value, result in values.items():
            mean = result["subsets"]["all"]
            rows.append(
                [
                    attribute,
                    value,
                    f"{result['films']:,}",
                    str(len(mean["defined"])),
                    interval_cell(mean, "auroc", "ci"),
                    interval_cell(mean, "ap", "ap"),
                ]
            )
    return Table(rows)


def _by_value_table(values: Mapping[str, Any]) -> Table:
    """One line a category, one column a value of the attribute."""
    rows = [["Category", *(f"{value} (n = {r['films']:,})" for value, r in values.items())]]
    for label in next(iter(values.values()))["categories"]:
        of_values = [result["categories"][label] for result in values.values()]
        figures = [(interval_cell(row, "auroc", "ci"), row["positives"]) for row in of_values]
        rows.append([label, *(f"{figure or 'undefined'}, {n:,}" for figure, n in figures)])
    return Table(rows)


def _reader_table(results: Mapping[str, Any]) -> Table:
    readers = results["radiologists"]
    models = {n: r for n, r in results["models"].items() if "radiologists_below" in r}
    scored = {label for result in models.values() for label in result["radiologists_below"]}
    labels = list(dict.fromkeys(x for of in readers.values() for x in of if x in scored))
    header = [*(f"{reader}: sensitivity / FPR" for reader in readers)]
    rows = [["Category", *header, *(f"below {name}" for name in models)]]
    for label in labels:
        cells = [label]
        for by_label in readers.values():
            rate = by_label.get(label)
            pair = rate and (rate["sensitivity"], rate["false_positive_rate"])
            cells.append(" / ".join(map(figure_cell, pair)) if pair else "")
        counts = (result["radiologists_below"].get(label, "") for result in models.values())
        rows.append([*cells, *map(str, counts)])
    means = (f"{result['radiologists_below']['mean']:.1f}" for result in models.values())
    rows.append(["Mean", *[""] * len(readers), *means])
    return Table(rows)


def _comparison_parts(comparison: Mapping[str, Any]) -> list[Part]:
    lead = f"**{comparison['first']} minus {comparison['second']}**"
    means = [
        f"mean AUROC over {name} {mean['difference']:+.4f} "
        f"({range_cell(mean['low'], mean['high'], signed=True)}), p = {p_cell(mean['p'])}"
        for name, mean in shown_subsets(comparison).items()
        if mean["difference"] is not None
    ]
    if means:
        lead += f": {'; '.join(means)} (paired bootstrap)."
    if (least := comparison["mean"].get("detectable")) is not None:
        lead += (
            f" These films show a difference of the means of {least:.4f} in four of five studies."
        )
    columns = ["Category", "Difference", "DeLong", "p", "p (Holm)", "Bootstrap", "p", "p (Holm)"]
    rows = [[*columns, "Detectable"]]
    for label, row in comparison["categories"].items():
        difference = row["difference"]
        cells = [label, "" if difference is None else f"{difference:+.4f}"]
        for test in (row["delong"], row["bootstrap"]):
            cells += [range_cell(test["low"], test["high"], signed=True)]
            cells += [p_cell(test["p"]), p_cell(test["p_holm"])]
        rows.append([*cells, figure_cell(row.get("detectable"))])
    return [lead, Table(without_empty_columns(rows))]
