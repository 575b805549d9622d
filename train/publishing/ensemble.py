"""The ensemble of an evaluation -> a model folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from cft.labels import DESCRIPTIONS
from cft.model.folder import read_config
from cft.model.hub import resolve
from train.evaluation.of_run import with_evidence
from train.evaluation.run_models import model_names
from train.evaluation.scored import ENSEMBLE, Evaluated
from train.publishing.card import model_card
from train.publishing.export import usable

# Combination -> what the members of a saved ensemble are averaged as. A rank among the films of a
# test set means nothing for one film, so an ensemble of ranks cannot be saved.
SAVED_AS = {"mean": "probabilities", "logits": "logits"}

# Figures of an evaluation that a model folder does not keep.
_LEFT_OUT = ("subgroups", "coverage")


def save_ensemble(args: argparse.Namespace, results: Mapping[str, Any], run_: Evaluated) -> None:
    """Write the ensemble as a model folder, with its figures and operating points."""
    from cft.model.ensemble import write_ensemble

    members = [
        (name, resolve(reference).path, run_.weights.get(name, 1.0))
        for name, reference in zip(model_names(args.model), args.model, strict=True)
    ]
    configs = [read_config(folder) for _, folder, _ in members]
    label_names = list(results["models"][ENSEMBLE]["categories"])
    ensemble = run_.scored[0].models[-1]
    points, named = ensemble.operating_points, ensemble.named_points
    metrics = {
        one["truth"]["name"]: {
            **{k: v for k, v in one["models"][ENSEMBLE].items() if k not in _LEFT_OUT},
            "row": one["truth"]["row"],
            "unit": one["truth"]["unit"],
        }
        for one in (results, *results["references"].values())
    }
    kept = [config for (_, _, weight), config in zip(members, configs, strict=True) if weight]
    rule = args.threshold_rule or "specificity"
    categories = {
        label: {
            "operating_point": _in_use(points.get(label), named.get(label, {}), rule),
            "operating_points": dict(named.get(label, {})),
            "band": ensemble.bands.get(label),
            "training": _same([_training(config, label) for config in kept]),
        }
        for label in label_names
    }
    config = {
        "architecture": "ensemble",
        "label_names": label_names,
        "label_descriptions": {x: DESCRIPTIONS[x] for x in label_names if x in DESCRIPTIONS},
        "pretrained_cfg": {**configs[0]["pretrained_cfg"], "num_classes": len(label_names)},
        "cft": {
            "categories": with_evidence(categories, metrics),
            "provenance": _ensemble_provenance(args, kept),
            "metrics": metrics,
        },
    }
    write_ensemble(
        args.save_ensemble,
        members,
        average=SAVED_AS[args.ensemble],
        config=config,
        card=model_card(config),
    )
    usable(args.save_ensemble)


def _in_use(
    threshold: float | None, named: Mapping[str, Mapping[str, Any] | None], rule: str
) -> Mapping[str, Any] | None:
    """The point that the ensemble uses: a named one, if the rule is that of one."""
    if threshold is None:
        return None
    same = (point for point in named.values() if point and point["rule"] == rule)
    return next(same, {"threshold": threshold, "rule": rule})


def _training(config: Mapping[str, Any], label: str) -> Any:
    """How many training films of a member have a finding."""
    return (config.get("cft", {}).get("categories", {}).get(label) or {}).get("training")


def _same(values: Sequence[Any]) -> Any:
    """What all values are; None where they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def _ensemble_provenance(
    args: argparse.Namespace, configs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the members have in common, and how they were put together."""
    parents = [config.get("cft", {}).get("provenance", {}) for config in configs]
    trained_on = dict.fromkeys(p["trained_on"] for p in parents if p.get("trained_on"))
    datasets = {p.get("dataset") for p in parents}
    return {
        "stage": "ensemble",
        "trained_on": "; ".join(trained_on) or None,
        "dataset": datasets.pop() if len(datasets) == 1 else None,
        "seed": args.seed,
        "arguments": {
            "members": len(configs),
            "average": SAVED_AS[args.ensemble],
            "weights": args.ensemble_weights,
        },
    }
