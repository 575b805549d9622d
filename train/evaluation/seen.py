"""Whether a model has been trained on the films that it is scored on."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from train.datasets import DatasetError, dataset_from_arguments
from train.datasets.labels import LabelTable
from train.evaluation.predictions import Predictions


def members_of(model: Any) -> Sequence[Any]:
    """An ensemble's members, or the model itself."""
    return getattr(model, "members", [model])


def provenance_in(model: Any) -> Mapping[str, Any]:
    return model.config.get("cft", {}).get("provenance", {})


# --- Films that a model has seen ----------------------------------------------------------------

# Options of a data set that decide which films there are, and in which split.
_OF_SPLITS = ("valid", "test", "min_width", "shared_patients", "view", "map")


_OF_SPLITS += ("phantoms", "phantom_size", "missing")


class Splits:
    """How the models' own runs drew the splits of a data set, each read once."""

    def __init__(self, args: argparse.Namespace, dataset: str):
        self._args, self._dataset = args, dataset
        self._drawn: dict[str, dict[str, str] | None] = {}  # options as text -> film -> split

    def seen(self, model: Any, films: Sequence[str], splits: Sequence[str]) -> str:
        """A phrase on the films among some that a model has seen in these splits; "" if none."""
        phrases = (self._seen_by(provenance_in(m), films, splits) for m in members_of(model))
        return "; ".join(dict.fromkeys(phrase for phrase in phrases if phrase))

    def _seen_by(
        self, provenance: Mapping[str, Any], films: Sequence[str], splits: Sequence[str]
    ) -> str:
        if provenance.get("dataset") != self._dataset:
            return ""
        own, chosen = None, {x: provenance.get("arguments", {}).get(x) for x in _OF_SPLITS}
        seed = provenance.get("stage_1", provenance).get("seed")  # stage 2 keeps the splits
        if "arguments" in provenance and seed is not None:
            own = self._read(chosen, seed)
        if own is None:
            return "the model does not say how its films were drawn, so these may be among them"
        count = sum(own.get(film) in splits for film in films)
        if not count:
            return ""
        words = []
        for option, value in {"seed": seed, **chosen}.items():
            if value not in (None, []):
                values = value if isinstance(value, list) else [value]
                words += [f"--{option.replace('_', '-')}", *map(str, values)]
        return (
            f"the model has been trained on {count:,} of the {len(films):,} films; the splits of "
            f"its own run are those of {shlex.join(words)}"
        )

    def _read(self, chosen: Mapping[str, Any], seed: int) -> dict[str, str] | None:
        """Film -> split as a run drew them; None if this data set cannot be drawn so."""
        name = json.dumps([chosen, seed], sort_keys=True)
        if name not in self._drawn:
            chosen = {**chosen, "map": chosen["map"] or []}
            chosen["shared_patients"] = chosen["shared_patients"] or self._args.shared_patients
            chosen["view"] = chosen["view"] or self._args.view
            options = argparse.Namespace(**{**vars(self._args), **chosen, "known": 1.0})
            try:
                table = dataset_from_arguments(options, seed, check_images=False)
                drawn = dict(zip(table.names.tolist(), table.split.tolist(), strict=True))
            except DatasetError:
                drawn = None
            self._drawn[name] = drawn
        return self._drawn[name]


def with_warnings(
    model: Predictions, classifier: Any, table: LabelTable, splits: Splits, scored: str
) -> Predictions:
    """The model with notes where it has seen, or may have seen, the films that are scored."""
    notes = list(model.notes)
    if scored != "test":
        notes.append(f"scored on the split {scored!r}, which the model has been fitted to")
    elif seen := splits.seen(classifier, table.names.tolist(), ("train", "valid")):
        notes.append(f"these figures may be too good: {seen}")
    return dataclasses.replace(model, notes=tuple(notes))


def seen_in_validation(
    classifiers: Mapping[str, Any], table: LabelTable, splits: Splits
) -> tuple[str, ...]:
    """Notes on members that were trained on the films that weights and points are chosen on."""
    films = table.names.tolist()
    seen = {name: splits.seen(model, films, ("train",)) for name, model in classifiers.items()}
    return tuple(
        f"the validation films may say too much for {name}: {phrase}"
        for name, phrase in seen.items()
        if phrase
    )
