"""One dict of results -> the tables that people read: report.md, the printed summary, the card.

Nothing is computed here: `train.figures` makes the figures (`evaluate_scores`), this shows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cft import NOT_A_MEDICAL_DEVICE
from cft.labels import DATASETS
from train.figures import RATES, compare_scores, evaluate_scores, named_subsets
from train.labels import SMOOTH

__all__ = [
    "compare_scores",
    "evaluate_scores",
    "fine_tuning",
    "markdown",
    "model_card",
    "named_subsets",
    "summary",
]

_PLURALS = {"patient": "patients", "study": "studies", "film": "films"}


def summary(results: Mapping[str, Any]) -> str:
    """The table that the command prints: one line a model, then one line a category."""
    models = results["models"]
    rows = [["model", "mean over", "AUROC", "AP", "Brier", "readers below", "place"]]
    for name, result in models.items():
        for subset, mean in _shown_subsets(result).items():
            rows.append(
                [
                    name,
                    f"{subset} ({len(mean['defined'])})",
                    _interval(mean, "auroc", "ci"),
                    _figure(mean["ap"]),
                    _figure(mean["brier"]),
                    *_against(result, subset),
                ]
            )
    parts = [_aligned(_without_empty_columns(rows))]
    labels = list(dict.fromkeys(x for result in models.values() for x in result["categories"]))
    show = _interval if len(models) <= 3 else lambda row, metric, _: _figure(row[metric])
    rows = [["AUROC", *models]]
    for label in labels:
        found = [result["categories"].get(label) for result in models.values()]
        rows.append([label, *("" if row is None else show(row, "auroc", "ci") for row in found)])
    parts.append(_aligned(rows))
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
    parts = ["# Evaluation", *_section(results, level=2)]
    for name, more in results.get("references", {}).items():
        parts += [f"## Against {name}", *_section(more, level=3)]
    if images:
        parts.append("## Plots")
        parts += [
            f"![{image.rsplit('/', 1)[-1].removesuffix('.png')}]({image})" for image in images
        ]
    return "\n\n".join(parts) + "\n"


def fine_tuning(results: Mapping[str, Any]) -> str:
    """The table that stage 2 prints: one line a category, from its ``report.json``."""
    test = next(iter(results["metrics"].items()), None)
    header = ["category", "known +", "known -", "before", "after", "change", "regression"]
    rows = [header]
    for label, row in results["categories"].items():
        before, after, change = row["valid_before"], row["valid_after"], ""
        if test:
            before = test[1]["stage_1"]["categories"][label]["auroc"]
            after, change = test[1]["categories"][label]["auroc"], _change(test[1], label)
        counts = (f"{row['positives']:,}", f"{row['negatives']:,}")
        method = row["method"] + (f" ({row['skipped']})" if row["skipped"] else "")
        rows.append([label, *counts, _figure(before), _figure(after), change, method])
    lead = "Validation, cross-validated where it was fitted:"
    parts = []
    if test:
        lead = f"Test AUROC, labels of {test[0]} (change: 95 % DeLong interval, by patient):"
        parts = [
            f"{name}: {_stages(result)}\nBefore and after Platt scaling: {_scaling(result)}"
            for name, result in results["metrics"].items()
        ]
    if "chosen" in results:
        what = {
            "penalty": "Strength of the penalty, chosen by cross-validation",
            "generation": "Generation, chosen on validation films",
        }[results["chosen_among"]]
        parts.append(
            f"{what}: {results['chosen']:g}; share of the way gone: {results['share']:.2f}."
            if results["share"]
            else "Validation shows no gain beyond its error, so every trained regression stays."
        )
    return "\n\n".join([f"{lead}\n{_aligned(_without_empty_columns(rows))}", *parts])


def _change(result: Mapping[str, Any], label: str) -> str:
    """A category's change of AUROC from stage 1 to stage 2, with its interval."""
    row = result["change"]["categories"][label]
    if row["difference"] is None:
        return ""
    limits = _range(row["delong"]["low"], row["delong"]["high"], signed=True)
    return f"{row['difference']:+.4f}" + (f" ({limits})" if limits else "")


def _stages(result: Mapping[str, Any]) -> str:
    """One sentence on the means of both stages."""
    before, after = result["stage_1"]["subsets"]["all"], result["subsets"]["all"]
    mean = result["change"]["mean"]
    text = f"mean AUROC {_figure(before['auroc'])} after stage 1, "
    if not mean["difference"]:
        return text + "and the same after stage 2."
    text += f"{_figure(after['auroc'])} after stage 2 ({_p_text(mean)})"
    pairs = (before["brier"], after["brier"], before["ece"], after["ece"])
    if None not in pairs:
        brier, brier_after, ece, ece_after = map(_figure, pairs)
        text += f"; Brier score {brier} and {brier_after}, calibration error {ece} and {ece_after}"
    return text + "."


def _scaling(result: Mapping[str, Any]) -> str:
    """One sentence on the means over the categories before and after Platt scaling."""
    told = []
    for key, name in (("brier", "Brier score"), ("ece", "calibration error")):
        rows = [(before, result["categories"][x]) for x, before in result["uncalibrated"].items()]
        pairs = [(a[key], b[key]) for a, b in rows if None not in (a[key], b[key])]
        if pairs:
            before, after = (sum(x) / len(pairs) for x in zip(*pairs, strict=True))
            told.append(f"mean {name} {_figure(before)} and {_figure(after)}")
    return f"{', '.join(told) or 'not measured'}."


def _p_text(mean: Mapping[str, Any]) -> str:
    limits = _range(mean["low"], mean["high"], signed=True)
    return f"change {mean['difference']:+.4f}, {limits}, p = {_p(mean['p'])}, paired bootstrap"


def _section(results: Mapping[str, Any], level: int) -> list[str]:
    """Everything about one truth: models, categories, readers, comparisons, subgroups, notes."""
    heading = "#" * level
    parts = [_protocol(results), f"{heading} Means", _means_table(results)]
    for name, result in results["models"].items():
        parts += [f"{heading} {name}", _category_table(result["categories"])]
        parts += _decision_parts(result)
        if "uncalibrated" in result:
            parts += ["Before and after calibration:", _calibration_table(result)]
        if "weights" in result:
            shares = (f"{member} {share:.2f}" for member, share in result["weights"].items())
            parts.append(f"Weights, chosen on validation: {', '.join(shares)}.")
        if "subgroups" in result:
            parts += ["Mean AUROC by subgroup:", _subgroup_table(result["subgroups"])]
            for attribute, values in result["subgroups"].items():
                parts += [f"AUROC by {attribute} (positives):", _by_value_table(values)]
    if results["radiologists"]:
        parts += [f"{heading} Radiologists", _reader_table(results)]
    if results["comparisons"]:
        parts.append(f"{heading} Comparisons")
        for comparison in results["comparisons"]:
            parts += _comparison_parts(comparison)
    notes = list(results["truth"]["notes"])
    notes += [f"{name}: {note}" for name, r in results["models"].items() for note in r["notes"]]
    if notes:
        parts += [f"{heading} Notes", "\n".join(f"- {note}" for note in notes)]
    return parts


def _protocol(results: Mapping[str, Any]) -> str:
    truth = results["truth"]
    result = next(iter(results["models"].values()))
    plural = _PLURALS[truth["unit"]]
    return (
        f"Truth: {truth['name']}, {_count(truth['rows'], truth['row'])} of "
        f"{_count(truth['groups'], truth['unit'])}. "
        f"Intervals: {100 * result['level']:g} %, percentile bootstrap over {plural} "
        f"({result['replicates']:,} replicates, seed {result['seed']}). Unknown labels are not "
        "counted."
    )


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing if n == 1 else _PLURALS[thing]}"


def _means_table(results: Mapping[str, Any]) -> str:
    rows = [["Model", "Subset", "AUROC", "AP", "Brier", "ECE", "Readers below", "Place"]]
    for name, result in results["models"].items():
        for subset, mean in _shown_subsets(result).items():
            rows.append(
                [
                    name,
                    f"{subset} ({len(mean['defined'])})",
                    _interval(mean, "auroc", "ci"),
                    _interval(mean, "ap", "ap"),
                    _figure(mean["brier"]),
                    _figure(mean["ece"]),
                    *_against(result, subset),
                ]
            )
    return _table(_without_empty_columns(rows))


def _shown_subsets(result: Mapping[str, Any]) -> dict[str, Any]:
    """The subsets without those that repeat another's categories under a second name."""
    shown: dict[frozenset, tuple[str, Any]] = {}
    for name, mean in result["subsets"].items():
        shown[frozenset(mean["categories"])] = (name, mean)  # the later name says more than "all"
    return dict(shown.values())


def _against(result: Mapping[str, Any], subset: str) -> list[str]:
    """Cells for readers below the curve and place, beside the subset that these figures are of."""
    shown = _shown_subsets(result)
    if "radiologists_below" not in result or (subset != "chexpert_5" and "chexpert_5" in shown):
        return ["", ""]
    place = result.get("leaderboard")
    below = f"{result['radiologists_below']['mean']:.1f}"
    return [below, f"{place['place']} of {place['of']}" if place else ""]


def _category_table(categories: Mapping[str, Any]) -> str:
    rows = [["Category", "Positive", "Negative", "AUROC", "DeLong", "AP", "Brier", "ECE"]]
    for label, row in categories.items():
        rows.append(
            [
                label,
                f"{row['positives']:,}",
                f"{row['negatives']:,}",
                _interval(row, "auroc", "ci"),
                _range(row["delong_low"], row["delong_high"]),
                _interval(row, "ap", "ap"),
                _figure(row["brier"]),
                _figure(row["ece"]),
            ]
        )
    return _table(_without_empty_columns(rows))


def _decision_parts(result: Mapping[str, Any]) -> list[str]:
    """The table of decisions at the operating points, with where these come from."""
    table = _decision_table(result["categories"], _shown_subsets(result))
    if not table:
        return []
    points = result["operating_points"]
    if points["optimistic"]:
        lead = (
            f"**Optimistic**: operating points (rule: {points['rule']}) were chosen on the very "
            "films that are scored, so these figures are better than on new films:"
        )
    else:
        lead = f"At the operating points of {points['source']}:"
    return [lead, table]


def _decision_table(categories: Mapping[str, Any], subsets: Mapping[str, Any]) -> str:
    rows = [["Category", "Threshold", "Sensitivity", "Specificity", "PPV", "F1", "MCC"]]
    for label, row in categories.items():
        if row["threshold"] is not None:
            figures = (_interval(row, metric, metric) for metric in RATES)
            rows.append([label, f"{row['threshold']:.4g}", *figures])
    if len(rows) == 1:
        return ""
    for name, mean in subsets.items():
        if mean["decided"]:
            figures = (_figure(mean[metric]) for metric in RATES)
            rows.append([f"Mean of {name} ({len(mean['decided'])})", "", *figures])
    return _table(rows)


def _calibration_table(result: Mapping[str, Any]) -> str:
    rows = [["Category", "Brier before", "Brier after", "ECE before", "ECE after"]]
    for label, before in result["uncalibrated"].items():
        after = result["categories"][label]
        pairs = (before["brier"], after["brier"], before["ece"], after["ece"])
        rows.append([label, *map(_figure, pairs)])
    return _table(rows)


def _subgroup_table(subgroups: Mapping[str, Any]) -> str:
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
                    _interval(mean, "auroc", "ci"),
                    _interval(mean, "ap", "ap"),
                ]
            )
    return _table(rows)


def _by_value_table(values: Mapping[str, Any]) -> str:
    """One line a category, one column a value of the attribute."""
    rows = [["Category", *(f"{value} (n = {r['films']:,})" for value, r in values.items())]]
    for label in next(iter(values.values()))["categories"]:
        of_values = [result["categories"][label] for result in values.values()]
        figures = [(_interval(row, "auroc", "ci"), row["positives"]) for row in of_values]
        rows.append([label, *(f"{figure or 'undefined'}, {n:,}" for figure, n in figures)])
    return _table(rows)


def _reader_table(results: Mapping[str, Any]) -> str:
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
            cells.append(" / ".join(map(_figure, pair)) if pair else "")
        counts = (result["radiologists_below"].get(label, "") for result in models.values())
        rows.append([*cells, *map(str, counts)])
    means = (f"{result['radiologists_below']['mean']:.1f}" for result in models.values())
    rows.append(["Mean", *[""] * len(readers), *means])
    return _table(rows)


def _comparison_parts(comparison: Mapping[str, Any]) -> list[str]:
    lead = f"**{comparison['first']} minus {comparison['second']}**"
    means = [
        f"mean AUROC over {name} {mean['difference']:+.4f} "
        f"({_range(mean['low'], mean['high'], signed=True)}), p = {_p(mean['p'])}"
        for name, mean in _shown_subsets(comparison).items()
        if mean["difference"] is not None
    ]
    if means:
        lead += f": {'; '.join(means)} (paired bootstrap)."
    columns = ["Category", "Difference", "DeLong", "p", "p (Holm)", "Bootstrap", "p", "p (Holm)"]
    rows = [columns]
    for label, row in comparison["categories"].items():
        difference = row["difference"]
        cells = [label, "" if difference is None else f"{difference:+.4f}"]
        for test in (row["delong"], row["bootstrap"]):
            cells += [_range(test["low"], test["high"], signed=True)]
            cells += [_p(test["p"]), _p(test["p_holm"])]
        rows.append(cells)
    return [lead, _table(rows)]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _range(low: float | None, high: float | None, signed: bool = False) -> str:
    if low is None or high is None:
        return ""
    return f"{low:+.4f} to {high:+.4f}" if signed else f"{low:.4f} to {high:.4f}"


def _interval(row: Mapping[str, Any], metric: str, prefix: str) -> str:
    """``0.9123 (0.9000 to 0.9250)``; empty if undefined."""
    if row[metric] is None:
        return ""
    limits = _range(row.get(f"{prefix}_low"), row.get(f"{prefix}_high"))
    return f"{row[metric]:.4f}" + (f" ({limits})" if limits else "")


def _without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    return [[row[i] for i in kept] for row in rows]


def _table(rows: list[list[str]]) -> str:
    """Rows (the first is the header) as a Markdown table."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    columns = zip(*rows[1:], strict=True)
    lines.insert(1, ["---:" if _numeric(column) else "---" for column in columns])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _numeric(column: Sequence[str]) -> bool:
    """Whether the cells of a column are figures, which are aligned at their right."""
    return all(cell[:1] in "+-<0123456789" for cell in column)


def _aligned(rows: list[list[str]]) -> str:
    """Rows as columns of plain text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


# --- Model card ---------------------------------------------------------------------------------

_ACKNOWLEDGEMENTS = {
    "nih": (
        "The NIH Clinical Center provided the radiographs (Wang et al., CVPR 2017, "
        "https://nihcc.app.box.com/v/ChestXray-NIHCC); they may be used without restriction if "
        "that is said. Their labels were mined from reports by a program, so some are wrong."
    ),
    "nih-experts": (
        "The radiologists' labels of NIH films are those of Nabulsi et al., Scientific Reports "
        "2021 (arXiv 2010.11375)."
    ),
    "chexpert": (
        "The Stanford ML Group provided CheXpert (Irvin et al., AAAI 2019) under its research use "
        "agreement, which allows no commercial use; it holds for this model as well."
    ),
    "ranzcr": (
        "The labels are those of RANZCR CLiP (Tang et al., Scientific Data 2021) on radiographs "
        "provided by the NIH Clinical Center (Wang et al., CVPR 2017)."
    ),
    "phantoms": (
        "The phantoms are drawn by this project's code, so there is no patient in them, and what "
        "a model learnt from them means nothing for real films."
    ),
}

# Data that put no condition on the use of a model; any other data have the last word.
_FREE = ("nih", "nih-experts", "phantoms")

#: Where the card's examples name the model; a push puts the repository there.
PLACEHOLDER = "path/to/this/folder"

_CITED = """\
```bibtex
@inproceedings{chong2024cft,
  author    = {Chong, Chak Fong and Yang, Xu and Wang, Tenglong and Ke, Wei and Wang, Yapeng},
  title     = {Category-Wise Fine-Tuning for Image Multi-label Classification with Partial Labels},
  booktitle = {Neural Information Processing (ICONIP 2023)},
  publisher = {Springer},
  year      = {2024},
  doi       = {10.1007/978-981-99-8145-8_26}
}

@article{chong2024resisting,
  author  = {Chong, Chak Fong and Fang, Xinyi and Guo, Jielong and Wang, Yapeng and Ke, Wei and
             Lam, Chan-Tong and Im, Sio-Kei},
  title   = {Category-wise Fine-Tuning: Resisting Incorrect Pseudo-Labels in Multi-Label Image
             Classification with Partial Labels},
  journal = {arXiv:2401.16991},
  year    = {2024}
}
```"""

_CITED_DATA = {
    "nih": """\
```bibtex
@inproceedings{wang2017chestxray8,
  author    = {Wang, Xiaosong and Peng, Yifan and Lu, Le and Lu, Zhiyong and
               Bagheri, Mohammadhadi and Summers, Ronald M.},
  title     = {{ChestX-ray8}: Hospital-Scale Chest X-Ray Database and Benchmarks on
               Weakly-Supervised Classification and Localization of Common Thorax Diseases},
  booktitle = {Computer Vision and Pattern Recognition (CVPR)},
  year      = {2017}
}
```""",
    "chexpert": """\
```bibtex
@inproceedings{irvin2019chexpert,
  author    = {Irvin, Jeremy and Rajpurkar, Pranav and Ko, Michael and Yu, Yifan and others},
  title     = {{CheXpert}: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert
               Comparison},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2019}
}
```""",
}

_STAGES = {
    "negative": "trained on partially labelled films (stage 1)",
    "cft": "trained on partially labelled films and then fine-tuned category by category (CFT)",
    "ensemble": "each trained on partially labelled films",
}


def model_card(config: Mapping[str, Any]) -> str:
    """The model card: Markdown with the Hub's front matter, made from ``config.json`` alone.

    Parameters
    ----------
    config
        Of a model folder. Of its ``cft`` block: ``provenance`` (``trained_on``, ``dataset``,
        ``stage``, ``command``, ``arguments``, ``label_policy``, ``splits``, ``notes``, ``parent``,
        ``seed``, ``versions``; what is not there is left out), ``categories`` and ``metrics``
        (name of a test set -> what `evaluate_scores` gives).
    """
    ours = config.get("cft", {})
    provenance, metrics = ours.get("provenance", {}), ours.get("metrics", {})
    parts = [
        _front_matter(config, provenance, metrics),
        f"# {_card_name(config, provenance)}",
        f"**{NOT_A_MEDICAL_DEVICE}**",
        *_what_it_is(config, provenance),
        *_use_and_limits(),
        *_training(provenance),
        *_recipe(provenance),
        *_measured(metrics),
        *_calibration(config, ours.get("categories", {}), metrics),
        *_how_to_use(config),
        *_citation(provenance),
        *_environment(provenance),
    ]
    return "\n\n".join(parts) + "\n"


def _card_name(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    stage = {"negative": " in Negative mode", "cft": " with CFT"}.get(provenance.get("stage"), "")
    dataset = provenance.get("dataset")
    data = f" on {DATASETS.get(dataset, dataset)}" if dataset else ""
    return f"Chest X-ray findings: {config['architecture']}{data}{stage}"


def _front_matter(
    config: Mapping[str, Any], provenance: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    """The block that the Hub reads. Values are JSON, which is YAML, so nothing needs escaping."""
    lines = [
        f"license: {licence_of(provenance)}",
        *(["license_name: see-training-data"] if licence_of(provenance) == "other" else []),
        "library_name: timm",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("timm", "medical", "chest-x-ray", "multi-label", "cft")),
    ]
    results = [_index_entry(name, provenance, result) for name, result in metrics.items()]
    results = [entry for entry in results if entry["metrics"]]
    if results:
        index = [{"name": _card_name(config, provenance), "results": results}]
        lines.append(f"model-index: {json.dumps(index, ensure_ascii=False)}")
    return "\n".join(["---", *lines, "---"])


def licence_of(provenance: Mapping[str, Any]) -> str:
    """The model's licence as the Hub names it: this project's, unless the data may forbid that."""
    return "apache-2.0" if provenance.get("dataset") in _FREE else "other"


def _index_entry(
    name: str, provenance: Mapping[str, Any], result: Mapping[str, Any]
) -> dict[str, Any]:
    """A test set's means and categories in the form of the Hub's ``model-index``."""
    mean = result["subsets"]["all"]
    figures = [("roc_auc", "Mean AUROC", mean["auroc"]), ("map", "Mean AP", mean["ap"])]
    figures += [
        ("roc_auc", f"AUROC of {label}", row["auroc"])
        for label, row in result["categories"].items()
    ]
    return {
        "task": {"type": "image-classification", "name": "Multi-label chest X-ray classification"},
        "dataset": {
            "type": provenance.get("dataset") or "chest-x-ray",
            "name": DATASETS.get(name, name),
        },
        "metrics": [
            {"type": kind, "name": title, "value": round(value, 4)}
            for kind, title, value in figures
            if value is not None
        ],
    }


def _what_it_is(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> Iterator[str]:
    labels, size = config["label_names"], config["pretrained_cfg"]["input_size"]
    what = f"A {config['architecture']} ({size[1]} x {size[2]} pixels) that gives"
    if config["architecture"] == "ensemble":
        what = "An ensemble of networks that gives"
    how = _STAGES.get(provenance.get("stage"), "trained on partially labelled films")
    yield "## What it is"
    yield (
        f"{what} a probability for each of {len(labels)} findings in a frontal chest radiograph, "
        f"{how}. The findings are independent of each other: several may be present, or none."
    )
    descriptions = config.get("label_descriptions", {})
    yield _table(
        [["Finding", "Meaning"], *([label, descriptions.get(label, "")] for label in labels)]
    )


def _use_and_limits() -> Iterator[str]:
    yield "## Intended use and limits"
    yield (
        "For research on partial labels and for teaching. Not a medical device, and not cleared "
        "by any authority: never use it to diagnose, triage or treat."
    )
    yield "\n".join(
        (
            "- It was measured on the films named below. On films of another hospital, machine, "
            "view or age group expect worse figures and probabilities that do not hold.",
            "- It always answers, also for a lateral film, a child or a photograph of a screen.",
            "- A probability below the operating point does not exclude a finding, and findings "
            "outside the list are not seen at all.",
            "- Heat maps show what the score was computed from, not the outline of a lesion.",
        )
    )


def _training(provenance: Mapping[str, Any]) -> Iterator[str]:
    yield "## Training data"
    trained_on, dataset = provenance.get("trained_on"), provenance.get("dataset")
    yield f"Trained on {trained_on}." if trained_on else "The training data are not recorded."
    if provenance.get("splits"):
        rows = [["Split", "Films", "Patients"]]
        for split, counts in provenance["splits"].items():
            rows.append([split, f"{counts['films']:,}", f"{counts['patients']:,}"])
        yield _table(rows)
    known = ["nih", "nih-experts"] if dataset == "nih" else [dataset]
    if dataset in _ACKNOWLEDGEMENTS:
        yield " ".join(_ACKNOWLEDGEMENTS[name] for name in known)
    else:
        yield (
            "What licence these data have and whom to acknowledge is not recorded here: ask "
            "their source before you use the model."
        )
    if provenance.get("notes"):
        yield "\n".join(f"- {note}" for note in provenance["notes"])


_MEANINGS = {
    "negative": "count as negative",
    "positive": "count as positive",
    "ignore": "are left out",
    **{kind: "count as a draw between {:g} and {:g}".format(*SMOOTH[kind]) for kind in SMOOTH},
}


def _policy(policy: Mapping[str, Any]) -> str:
    """A label policy in one sentence; empty if none is recorded."""
    kinds = [kind for kind in ("unknown", "uncertain") if policy.get(kind)]
    overrides = policy.get("overrides") or {}
    if len({policy[kind] for kind in kinds}) == 1 and not overrides:
        return f"{' and '.join(kinds).capitalize()} labels {_MEANINGS[policy[kinds[0]]]}."
    parts = []
    for kind in kinds:
        some = ", ".join(f"{x}: {_MEANINGS[how]}" for x, how in overrides.get(kind, {}).items())
        rest = f" ({some})" if some else ""
        parts.append(f"{kind} labels {_MEANINGS[policy[kind]]}{rest}")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _recipe(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Both stages: the command that repeats each, its label policy, its settings."""
    yield "## Recipe"
    first = provenance.get("stage_1")
    if provenance.get("stage") == "ensemble":
        yield (
            "An ensemble: `config.json` lists its members with their shares and hashes under "
            "`cft.members`, and each is a whole model with its own card in `members/`."
        )
    if first is not None:
        yield "### Stage 1: training on all films"
        yield from _stage(first)
        yield "### Stage 2: category-wise fine-tuning"
        parent = provenance.get("parent")
        yield (
            "The network is frozen; the logistic regression of each category is fitted again on "
            "known labels only. `MODEL` is the model of stage 1"
            + (f", whose weights have the SHA-256 `{parent}`." if parent else ".")
        )
    yield from _stage(provenance)
    methods = provenance.get("methods", {})
    kept = [label for label, method in methods.items() if method == "original"]
    if kept:
        share = "Every category keeps" if len(kept) == len(methods) else f"{', '.join(kept)} keep"
        yield f"{share} the regression of stage 1."


def _stage(provenance: Mapping[str, Any]) -> Iterator[str]:
    if provenance.get("command"):
        yield f"```bash\n{provenance['command']}\n```"
    policy = _policy(provenance.get("label_policy", {}))
    if policy:
        yield policy
    facts = {"best epoch": provenance.get("best_epoch"), "seed": provenance.get("seed")}
    facts |= {f"`{k}`": v for k, v in provenance.get("arguments", {}).items() if k != "seed"}
    told = {name: value for name, value in facts.items() if value not in (None, "", [], {})}
    if told:
        yield _table([["Setting", "Value"], *([k, str(v)] for k, v in told.items())])


def _measured(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield "## Metrics"
    if not metrics:
        yield "Not measured."
    for name, result in metrics.items():
        mean, unit = result["subsets"]["all"], result.get("unit", "patient")
        yield f"### {DATASETS.get(name, name)}"
        yield (
            f"{_count(result['films'], result.get('row', 'film'))} of "
            f"{_count(result['groups'], unit)}. Mean AUROC over "
            f"{len(mean['defined'])} categories: **{_interval(mean, 'auroc', 'ci')}**; mean AP: "
            f"{_interval(mean, 'ap', 'ap')}. Intervals: {100 * result['level']:g} %, bootstrap "
            f"over {_PLURALS[unit]} ({result['replicates']:,} replicates)."
        )
        if "stage_1" in result:
            yield f"Before and after category-wise fine-tuning: {_stages(result)}"
            if any(row["difference"] for row in result["change"]["categories"].values()):
                yield _stages_table(result)
            yield f"Before and after Platt scaling: {_scaling(result)}"
            yield _calibration_table(result)
        yield _category_table(result["categories"])
        yield (
            "AP: average precision. Brier: mean squared error of the probability. ECE: expected "
            "calibration error. DeLong: its 95 % interval of the AUROC."
        )
        decisions = _decision_table(result["categories"], _shown_subsets(result))
        if decisions:
            yield "At the operating points, which were chosen on validation films:"
            yield decisions
        if result["notes"]:
            yield "\n".join(f"- {note}" for note in result["notes"])


def _stages_table(result: Mapping[str, Any]) -> str:
    """Per category the AUROC and the Brier score of both stages."""
    columns = ["Category", "AUROC, stage 1", "AUROC, stage 2", "Change (DeLong)"]
    rows = [[*columns, "Brier, stage 1", "Brier, stage 2"]]
    for label, row in result["categories"].items():
        before = result["stage_1"]["categories"][label]
        areas = (_figure(before["auroc"]), _figure(row["auroc"]), _change(result, label))
        rows.append([label, *areas, _figure(before["brier"]), _figure(row["brier"])])
    return _table(_without_empty_columns(rows))


def _calibration(
    config: Mapping[str, Any], categories: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Iterator[str]:
    yield "## Calibration"
    label_names = config["label_names"]
    fitted = [label for label in label_names if (categories.get(label) or {}).get("platt")]
    if config["architecture"] == "ensemble":
        yield "Each member is calibrated as its own card says; their mean is not, again."
        return
    if not fitted:
        yield "The scores are not calibrated: read them as a ranking, not as probabilities."
        return
    text = (
        f"The probabilities of {len(fitted)} of {len(label_names)} findings are Platt-scaled on "
        "validation films"
    )
    without = [label for label in label_names if label not in fitted]
    if without:
        text += f"; too few cases for {', '.join(without)}, whose probabilities are as trained"
    yield text + "."
    rows = [["Test films", "Mean Brier score", "Mean calibration error"]]
    for name, result in metrics.items():
        mean = result["subsets"]["all"]
        rows.append([DATASETS.get(name, name), _figure(mean["brier"]), _figure(mean["ece"])])
    if len(rows) > 1:
        yield _table(rows)


def _how_to_use(config: Mapping[str, Any]) -> Iterator[str]:
    yield "## How to use"
    yield "With the project's own package, which reads DICOM, PNG and JPEG and calibrates:"
    yield (
        '```python\nimport cft\n\nfindings = cft.load("' + PLACEHOLDER + '")'
        '.predict("film.dcm")\nprint(findings.probabilities, findings.positives)\n```'
    )
    if config["architecture"] != "ensemble":
        yield "With timm alone (the logits are not calibrated, and preprocessing is up to you):"
        yield (
            "```python\nimport timm\n\n"
            'model = timm.create_model("local-dir:' + PLACEHOLDER + '", pretrained=True)'
            ".eval()\n"
            "probabilities = model(batch).sigmoid()  # one per finding; no softmax\n```"
        )
    yield (
        "Over the page's API, once the page runs with this model "
        f"(`CFT_MODEL={PLACEHOLDER} python app.py` in the project's folder):"
    )
    yield (
        "```python\nfrom gradio_client import Client, handle_file\n\n"
        'answer = Client("http://127.0.0.1:7860").predict([handle_file("film.png")], '
        'api_name="/predict")\n```'
    )


def _citation(provenance: Mapping[str, Any]) -> Iterator[str]:
    yield "## Citation"
    yield "The method, category-wise fine-tuning:"
    yield _CITED
    if provenance.get("dataset") in _CITED_DATA:
        yield "The training data:"
        yield _CITED_DATA[provenance["dataset"]]


def _environment(provenance: Mapping[str, Any]) -> Iterator[str]:
    """With which versions each stage ran, and when."""
    stages = {"Stage 1": provenance.get("stage_1"), "Stage 2": provenance}
    if stages["Stage 1"] is None:
        stages = {"Training": provenance}
    stages = {name: of for name, of in stages.items() if of.get("versions")}
    if not stages:
        return
    names = list(dict.fromkeys(x for of in stages.values() for x in of["versions"]))
    rows = [["", *stages]]
    rows += [[name, *(of["versions"].get(name, "") for of in stages.values())] for name in names]
    rows.append(["date", *(of.get("date", "") for of in stages.values())])
    yield "## Environment"
    yield _table([row for row in rows if any(row[1:])])
