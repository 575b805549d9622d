"""CLAIM 2024 and TRIPOD+AI as a table: where a report or a model folder answers each item.

An answer is a figure or a place. What nothing here says is "not reported", and what no software
can know is left to the authors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cft.labels import DATASETS
from train.evaluation.checklist_items import ITEMS, PEOPLE
from train.tables import Table, counted, interval_cell

__all__ = [
    "checklist_parts",
    "checklist_rows",
    "facts_of_config",
    "facts_of_results",
    "facts_of_source",
]

_MISSING, _AUTHORS = "not reported", "for the authors to say"


def checklist_rows(facts: Mapping[str, str]) -> list[list[str]]:
    """Rows [guideline, item, what it asks for, answer]."""
    return [
        [guideline, number, text, _AUTHORS if fact == PEOPLE else facts.get(fact) or _MISSING]
        for guideline, items in ITEMS.items()
        for number, text, fact in items
    ]


def checklist_parts(rows: list[list[str]]) -> list[str | Table]:
    """A sentence that counts the answers, and a table for each guideline."""
    software = [row for row in rows if row[3] != _AUTHORS]
    answered = sum(row[3] != _MISSING for row in software)
    parts: list[str | Table] = [
        f"{answered} of the {len(software)} items that software can answer are answered; "
        f"{len(rows) - len(software)} more are for the authors of a study."
    ]
    for guideline in ITEMS:
        header = [guideline, "Asked", "Answer"]
        parts.append(Table([header, *(row[1:] for row in rows if row[0] == guideline)]))
    return parts


def facts_of_config(config: Mapping[str, Any]) -> dict[str, str]:
    """What a model folder's ``config.json`` says, by the names of `ITEMS`."""
    ours = config.get("cft", {})
    provenance, metrics = ours.get("provenance", {}), ours.get("metrics", {})
    facts = {
        "use": "research and teaching only, no medical device; see Intended use and limits",
        "goal": f"probabilities of {len(config['label_names'])} findings in a frontal chest film",
        "preprocessing": _preprocessing(config),
        "predictors": "the film alone, no other fact of the patient",
        "model": f"{config['architecture']}, `config.json` and `model.safetensors`",
        "explanation": "class activation maps; they show what the score was computed from",
        "input": "a film that cannot be read is refused; the page marks what looks like no frontal "
        "chest film",
        "availability": "the weights are in the model folder, under the licence named in its card",
        "limits": "see Intended use and limits",
        "users": "nothing is entered but the film; to read the results takes someone who reads "
        "chest films",
        "updating": "none after training",
    }
    if any((row or {}).get("operating_point") for row in ours.get("categories", {}).values()):
        facts["thresholds"] = "operating points chosen on validation films, in `config.json`"
    members = ours.get("members")
    facts["ensemble"] = f"{len(members)} members" if members else "none: a single network"
    facts |= {**_facts_of_data(provenance), **_facts_of_training(provenance)}
    if metrics:
        facts |= _facts_of_figures(metrics)
    if len(metrics) > 1:
        facts["robustness"] = "figures against other labels of the same films"
    return {**facts, **facts_of_source(config, metrics)}


def _facts_of_data(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What is known of the films that trained a model, and of their labels."""
    facts = {}
    dataset = provenance.get("dataset")
    if dataset:
        facts["sources"] = f"{DATASETS.get(dataset, dataset)}; see Training data"
    if provenance.get("notes"):
        facts["eligibility"] = " ".join(provenance["notes"])
    splits = provenance.get("splits")
    if splits:
        parts = (f"{name} {counted(of['films'], 'film')}" for name, of in splits.items())
        facts["partitions"] = ", ".join(parts)
        facts["disjoint"] = "patients, unless a note says that a published split is kept"
        films = sum(of["films"] for of in splits.values())
        facts["flow"] = " ".join([f"Used {counted(films, 'film')}.", *provenance.get("notes", ())])
    if provenance.get("views"):
        facts["views"] = ", ".join(f"{n:,} {view}" for view, n in provenance["views"].items())
    policy = provenance.get("label_policy") or {}
    if policy.get("unknown"):
        facts["missing"] = f"unknown labels in training: {policy['unknown']}; in tests: not counted"
    return facts


def _facts_of_training(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What a model began from, and how it was trained."""
    facts = {}
    if provenance.get("versions"):
        facts["software"] = ", ".join(f"{k} {v}" for k, v in provenance["versions"].items())
        facts["code"] = f"the software is published; this model is of {facts['software']}"
    if provenance.get("start"):
        weights = str(provenance["start"].get("weights_sha256") or "random")[:12]
        facts["start"] = f"{provenance['start'].get('init')} (weights {weights})"
    elif (provenance.get("arguments") or {}).get("init") == "random":
        facts["start"] = "random"
    if (provenance.get("arguments") or {}).get("loss"):
        facts["imbalance"] = f"loss {provenance['arguments']['loss']}, no resampling"
    if provenance.get("command"):
        facts["training"] = f"`{provenance['command']}`, seed {provenance.get('seed')}"
        facts["protocol"] = "the command and its arguments, in `config.json`"
    if provenance.get("best_epoch") is not None:
        facts["choice"] = f"epoch {provenance['best_epoch']}, the best on validation films"
    return facts


def facts_of_source(config: Mapping[str, Any], tests: Collection[str]) -> dict[str, str]:
    """Whether a model's test films, by the names of `DATASETS`, come from where it was trained.

    A fact that is not known is empty.
    """
    dataset = config.get("cft", {}).get("provenance", {}).get("dataset")
    facts = dict.fromkeys(("external", "differences", "clusters"), "")
    if not dataset or not tests:
        return facts
    here = [name for name in tests if name == dataset or name.startswith(f"{dataset}-")]
    others = [DATASETS.get(name, name) for name in tests if name not in here]
    one = DATASETS.get(dataset, dataset)
    if others:
        facts["external"] = ", ".join(others)
    else:
        facts["external"] = f"none: all test films are of {one}, as those of training are"
        facts["differences"] = f"none in setting or films: both are of {one}"
        if len(here) > 1:
            facts["differences"] += "; the tests have further labels of the same films"
        facts["clusters"] = f"not examined: all films are of {one}"
    return facts


def _preprocessing(config: Mapping[str, Any]) -> str:
    cfg = config.get("pretrained_cfg", {})
    size = cfg.get("input_size")
    if size is None:
        return "that of each member"
    return (
        f"grey levels by the film's own rendering, {size[1]} x {size[2]} pixels, mean "
        f"{cfg.get('mean')}, std {cfg.get('std')}"
    )


def _facts_of_figures(tests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What one or more test sets' figures say; each as `evaluate_scores` gives it."""
    names = [DATASETS.get(name, name).replace(",", ":") for name in tests]
    first = next(iter(tests.values()))
    rows = first["categories"].values()
    events = [row["positives"] for row in rows]
    decided = any(row.get("threshold") is not None for row in rows)
    decisions = "sensitivity, specificity and PPV at operating points, with intervals"
    return {
        "metrics": "AUROC, AP, calibration, Brier score; rates at operating points",
        "uncertainty": f"{100 * first['level']:g} % intervals, bootstrap by patient "
        f"({first['replicates']:,} replicates)",
        "internal": ", ".join(names),
        "reference": f"the labels of {', '.join(names)}",
        "performance": "; ".join(
            f"{name}: mean AUROC {interval_cell(of['subsets']['all'], 'auroc', 'ci')}"
            for name, of in zip(names, tests.values(), strict=True)
        ),
        "decisions": decisions if decided else "",
        "size": f"{first['films']:,} rows of {first['groups']:,} patients; {min(events)} to "
        f"{max(events)} positives a finding",
    }


def facts_of_results(results: Mapping[str, Any]) -> dict[str, str]:
    """What a report says, by the names of `ITEMS`; it has the last word over a model folder."""
    truth = results["truth"]
    model = next(iter(results["models"].values()))
    facts = _facts_of_figures({truth["name"]: model})
    findings = counted(len(model["categories"]), "finding")
    facts["goal"] = f"{findings} in chest films, by {_models(results)}"
    stated = [row for row in model["categories"].values() if row["brier"] is not None]
    facts["metrics"] = ", ".join(
        [
            "AUROC, AP",
            *(_OF_PROBABILITIES if stated else ()),
            *(("rates at operating points",) if facts["decisions"] else ()),
        ]
    )
    facts["performance"] = "; ".join(
        f"{name}: mean AUROC {interval_cell(of['subsets']['all'], 'auroc', 'ci')}"
        for name, of in results["models"].items()
    )
    if "gaps" in model:
        facts["performance"] += "; subgroups: see Gaps"
    facts["missing"] = "unknown labels are not counted"
    if truth["notes"] or any(of["notes"] for of in results["models"].values()):
        facts["limits"] = "see Notes"
    if truth["notes"]:
        facts["flow"] = f"{truth['rows']:,} {truth['row']} rows; {' '.join(truth['notes'])}"
        facts["eligibility"] = " ".join(truth["notes"])
    if results["references"]:
        facts["robustness"] = f"other labels of these films: {', '.join(results['references'])}"
    if "subgroups" in model:
        facts = {**_facts_of_subgroups(model["subgroups"]), **facts}
    if results["radiologists"]:
        facts["readers"] = f"{_readers(results)} against the truth; see Radiologists"
    if model.get("localisation"):
        facts["explanation"] = (
            f"maps against {model['localisation']['n']} framed findings: hit rate "
            f"{interval_cell(model['localisation'], 'hit', 'hit')}, floor "
            f"{model['localisation']['floor_hit']:.4f}"
        )
    if model["operating_points"]["source"]:
        facts["thresholds"] = f"operating points of {model['operating_points']['source']}"
    if any(row.get("films_needed") for row in model["categories"].values()):
        facts["size"] += "; see Positives for a narrower interval"
    failures = _failures(model["categories"])
    if failures:
        facts["failures"] = failures
    if results.get("shift"):
        facts["external"] = ", ".join(results["shift"]) + "; see Shift"
        facts["differences"] = "other films and labels; see Shift"
        facts["compared"] = "positives and prevalence on both data sets; see Shift"
    facts["protocol"] = "the settings, in `report.json`"
    return facts


def _facts_of_subgroups(subgroups: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What a report says of the groups of one model's films."""
    attributes = ", ".join(subgroups)
    facts = {
        "fairness": f"gaps by {attributes}, with intervals and Holm's correction; nothing was done "
        "to narrow them",
        "robustness": f"AUROC in each subgroup by {attributes}",
        "characteristics": "; ".join(
            f"{name}: " + ", ".join(f"{value} {of['films']:,}" for value, of in values.items())
            for name, values in subgroups.items()
        ),
    }
    further = [name for name in subgroups if name not in _OF_PATIENTS]
    if further:
        facts["clusters"] = f"AUROC in each subgroup by {', '.join(further)}"
    return facts


# What is computed of probabilities, and not of other scores.
_OF_PROBABILITIES = (
    "calibration intercept, slope, curve and ICI",
    "Brier score and skill",
    "net benefit",
)

# Attributes that make subgroups of patients or films, and not clusters such as hospitals.
_OF_PATIENTS = ("sex", "age", "view")


def _failures(categories: Mapping[str, Any]) -> str | None:
    """What is decided wrongly at the operating points, over all findings; None without any."""
    decided = [row for row in categories.values() if row["threshold"] is not None]
    if not decided:
        return None
    missed, found, alarms, absent = 0, 0, 0, 0
    for row in decided:
        found += row["positives"]
        absent += row["negatives"]
        missed += round(row["positives"] * (1 - (row["sensitivity"] or 0)))
        alarms += round(row["negatives"] * (1 - (row["specificity"] or 0)))
    return (
        f"at the operating points {missed:,} of {found:,} findings are missed and {alarms:,} of "
        f"{absent:,} absent ones called; each film's scores are in `predictions.csv`"
    )


def _readers(results: Mapping[str, Any]) -> str:
    number = sum(name != "majority" for name in results["radiologists"])
    return f"{number} radiologists" if number != 1 else "1 radiologist"


def _models(results: Mapping[str, Any]) -> str:
    return "; ".join(results["models"])
