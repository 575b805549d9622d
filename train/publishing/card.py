"""``config.json`` -> the model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cft import NOT_A_MEDICAL_DEVICE
from cft.architectures import is_ours
from cft.labels import DATASETS
from cft.model.calibration import GOAL
from train.datasets.labels import SMOOTH
from train.evaluation.checklist import checklist_parts, checklist_rows, facts_of_config
from train.evaluation.report import (
    calibration_table,
    category_table,
    decision_table,
    point_parts,
    shown_subsets,
)
from train.evaluation.stages import scaling_sentence, stages_sentence, stages_table
from train.publishing.sources import ACKNOWLEDGEMENTS, CITED, CITED_DATA, licence_of
from train.tables import PLURALS, counted, figure_cell, interval_cell, markdown_table

__all__ = ["model_card"]

#: Where the card's examples name the model; a push puts the repository there.
PLACEHOLDER = "path/to/this/folder"

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
        *_use_and_limits(config),
        *_training(provenance),
        *_gate(config),
        *_recipe(provenance),
        *_measured(ours.get("categories", {}), metrics),
        *_calibration(config, ours.get("categories", {}), metrics),
        *_operating_points(ours.get("categories", {})),
        *_bands(ours.get("categories", {}), metrics),
        *_how_to_use(config),
        *_citation(provenance),
        *_environment(provenance),
        "## Checklist",
        *map(str, checklist_parts(checklist_rows(facts_of_config(config)))),
    ]
    return "\n\n".join(parts) + "\n"


def _card_name(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    stages = {"negative": " in Negative mode", "cft": " with CFT"}
    stage = stages.get(provenance.get("stage", ""), "")
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
    how = _STAGES.get(provenance.get("stage", ""), "trained on partially labelled films")
    yield "## What it is"
    yield (
        f"{what} a probability for each of {len(labels)} findings in a frontal chest radiograph, "
        f"{how}. The findings are independent of each other: several may be present, or none."
    )
    descriptions = config.get("label_descriptions", {})
    yield markdown_table(
        [["Finding", "Meaning"], *([label, descriptions.get(label, "")] for label in labels)]
    )


def _use_and_limits(config: Mapping[str, Any]) -> Iterator[str]:
    yield "## Intended use and limits"
    yield (
        "For research on partial labels and for teaching. Not a medical device, and not cleared "
        "by any authority: never use it to diagnose, triage or treat."
    )
    answers = "- It always answers, also for a lateral film, a child or a photograph of a screen."
    if config.get("cft", {}).get("gate"):
        answers = (
            "- The network answers for any picture. A gate beside it withholds or warns of what "
            "does not look like one upright frontal chest film; it misses some, such as "
            "photographs of a screen and children whose age the file does not say."
        )
    yield "\n".join(
        (
            "- It was measured on the films named below. On films of another hospital, machine, "
            "view or age group expect worse figures and probabilities that do not hold.",
            answers,
            "- A probability below the operating point does not exclude a finding, and findings "
            "outside the list are not seen at all.",
            "- Heat maps show what the score was computed from, not the outline of a lesion.",
        )
    )


def _training(provenance: Mapping[str, Any]) -> Iterator[str]:
    yield "## Training data"
    trained_on, dataset = provenance.get("trained_on"), provenance.get("dataset", "")
    yield f"Trained on {trained_on}." if trained_on else "The training data are not recorded."
    if provenance.get("splits"):
        rows = [["Split", "Films", "Patients"]]
        for split, counts in provenance["splits"].items():
            rows.append([split, f"{counts['films']:,}", f"{counts['patients']:,}"])
        yield markdown_table(rows)
    known = ["nih", "nih-experts"] if dataset == "nih" else [dataset]
    if dataset in ACKNOWLEDGEMENTS:
        yield " ".join(ACKNOWLEDGEMENTS[name] for name in known)
    else:
        yield (
            "What licence these data have and whom to acknowledge is not recorded here: ask "
            "their source before you use the model."
        )
    if provenance.get("notes"):
        yield "\n".join(f"- {note}" for note in provenance["notes"])


def _gate(config: Mapping[str, Any]) -> Iterator[str]:
    """Whose films the gate has learnt from."""
    gate = config.get("cft", {}).get("gate")
    if not gate:
        return
    sentence = f"Its gate has learnt from {gate.get('fitted') or 0:,} films, without labels"
    if gate.get("others"):
        sentence += f", and {gate['others']:,} of other hospitals taught it left and right"
    sentence += f"; {gate.get('checked') or 0:,} others chose its limits."
    yield sentence + (f" Films of {gate['credit']}." if gate.get("credit") else "")


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
    teachers = [
        f"`TEACHER` is a {x['architecture']} with weights of the SHA-256 `{x['weights_sha256']}`."
        for x in provenance.get("teachers", [])
    ]
    if teachers:
        yield " ".join(["Their answers are a part of the targets:", *teachers])
    made = (provenance.get("start") or {}).get("made", {})
    if made.get("command"):
        yield f"Its start is a model of this project, made by\n\n```bash\n{made['command']}\n```"
        yield from _members(made)
    yield from _members(provenance)
    facts = {"best epoch": provenance.get("best_epoch"), "seed": provenance.get("seed")}
    facts["strength of the penalty"] = provenance.get("frozen", {}).get("strength")
    idle = ("seed",) if teachers else ("seed", "teacher_weight")
    facts |= {f"`{k}`": v for k, v in provenance.get("arguments", {}).items() if k not in idle}
    given = {name: value for name, value in facts.items() if value not in (None, "", [], {})}
    if given:
        yield markdown_table([["Setting", "Value"], *([k, str(v)] for k, v in given.items())])


def _members(provenance: Mapping[str, Any]) -> Iterator[str]:
    """What a network was joined of, if it was."""
    if members := provenance.get("joined"):
        yield _joined(members)


def _joined(records: Sequence[Mapping[str, Any]]) -> str:
    """What was joined, from the records of `train.stage1.join.JoinRun`."""
    *members, whole = records
    seeds = [f"seed {x['seed']}: {x['valid']['auroc']:.4f}" for x in members]
    return (
        f"It is the networks of {len(members)} runs side by side; a logit is the mean of theirs. "
        f"Mean AUROC on the validation films: {whole['valid']['auroc']:.4f}; of the runs alone: "
        f"{', '.join(seeds)}. Their weights have the SHA-256 "
        + ", ".join(f"`{x['weights_sha256']}`" for x in members)
        + "."
    )


def _measured(categories: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
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


def _calibration(
    config: Mapping[str, Any], categories: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Iterator[str]:
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


def _operating_points(categories: Mapping[str, Any]) -> Iterator[str]:
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


def _bands(categories: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    """Where findings are ruled in and out, and how often that was wrong on test films."""
    bands = {label: row["band"] for label, row in categories.items() if (row or {}).get("band")}
    if not bands:
        return
    first = next(iter(bands.values()))
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
    for label, band in bands.items():
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


def _how_to_use(config: Mapping[str, Any]) -> Iterator[str]:
    yield "## How to use"
    yield "With the project's own package, which reads DICOM, PNG and JPEG and calibrates:"
    yield (
        '```python\nimport cft\n\nfindings = cft.load("' + PLACEHOLDER + '")'
        '.predict("film.dcm")\nprint(findings.probabilities, findings.positives)\n```'
    )
    if config["architecture"] != "ensemble":
        ours = is_ours(config["architecture"])
        by = "timm, which knows this network from the project's package" if ours else "timm alone"
        yield f"With {by} (the logits are not calibrated, and preprocessing is up to you):"
        yield (
            "```python\nimport timm\n" + "import cft.architectures\n" * ours + "\n"
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
    yield CITED
    if provenance.get("dataset") in CITED_DATA:
        yield "The training data:"
        yield CITED_DATA[provenance["dataset"]]


def _environment(provenance: Mapping[str, Any]) -> Iterator[str]:
    """With which versions each stage ran, and when."""
    first = provenance.get("stage_1")
    stages: dict[str, Mapping[str, Any]] = {"Training": provenance}
    if first is not None:
        stages = {"Stage 1": first, "Stage 2": provenance}
    stages = {name: of for name, of in stages.items() if of.get("versions")}
    if not stages:
        return
    names = list(dict.fromkeys(x for of in stages.values() for x in of["versions"]))
    rows = [["", *stages]]
    rows += [[name, *(of["versions"].get(name, "") for of in stages.values())] for name in names]
    rows.append(["date", *(of.get("date", "") for of in stages.values())])
    yield "## Environment"
    yield markdown_table([row for row in rows if any(row[1:])])
