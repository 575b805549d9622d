"""``config.json`` -> the model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cft import NOT_A_MEDICAL_DEVICE
from cft.architectures import is_ours
from cft.labels import DATASETS
from train.evaluation.checklist import checklist_parts, checklist_rows, facts_of_config
from train.publishing.card_figures import bands, calibration, measured, operating_points
from train.publishing.card_recipe import recipe
from train.publishing.sources import ACKNOWLEDGEMENTS, CITED, CITED_DATA, licence_of
from train.tables import markdown_table

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
        *recipe(provenance),
        *measured(ours.get("categories", {}), metrics),
        *calibration(config, ours.get("categories", {}), metrics),
        *operating_points(ours.get("categories", {})),
        *bands(ours.get("categories", {}), metrics),
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
