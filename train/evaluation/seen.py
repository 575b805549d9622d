"""Whether a model has been trained on the films that it is scored on."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.command import as_json, flag_of, options_of, words_of
from train.datasets import DataOptions, DatasetError, table_of
from train.datasets.labels import LabelTable
from train.datasets.options import of_splits
from train.datasets.splits import SPLITS_FILE, read_splits
from train.evaluation.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a model, or a member of an ensemble, says that it comes from.

    Attributes
    ----------
    provenance
        Of its ``config.json``; empty if there is none.
    folder
        The model folder; None if it is not on this machine.
    """

    provenance: Mapping[str, Any]
    folder: Path | None

    @property
    def dataset(self) -> str | None:
        """Name of the data set that trained it."""
        return self.provenance.get("dataset")

    @property
    def seed(self) -> int | None:
        """What its splits were drawn with; stage 2 keeps those of stage 1."""
        return self.provenance.get("stage_1", self.provenance).get("seed")

    @property
    def arguments(self) -> Mapping[str, Any] | None:
        """The options of its run by name; None if it does not say."""
        return self.provenance.get("arguments")


def origins_of(model: Any, reference: str) -> list[Origin]:
    """Where a model comes from, or each member of an ensemble."""
    place = Path(reference)
    folder = place if place.is_dir() else None
    if not hasattr(model, "members"):
        return [Origin(_provenance_in(model), folder)]
    places = [member["folder"] for member in model.config["cft"]["members"]]
    return [
        Origin(_provenance_in(member), folder and folder / place)
        for member, place in zip(model.members, places, strict=True)
    ]


def _provenance_in(model: Any) -> Mapping[str, Any]:
    return model.config.get("cft", {}).get("provenance", {})


# --- Films that a model has seen ----------------------------------------------------------------


class Splits:
    """How the models' own runs split the films of a data set, each found out once.

    Parameters
    ----------
    data
        The data set as it is scored; where it lies is taken from here.
    dataset
        Its name.
    """

    def __init__(self, data: DataOptions, dataset: str):
        self._data, self._dataset = data, dataset
        self._drawn: dict[str, dict[str, str] | None] = {}  # options as text -> film -> split

    def of(self, origin: Origin) -> Mapping[str, str] | None:
        """Film -> split of a model's own run; {} if it had other data, None if it does not say."""
        if origin.dataset != self._dataset:
            return {}
        recorded = read_splits(origin.folder) if origin.folder else None
        if recorded is not None:
            return recorded
        if origin.arguments is None or origin.seed is None:
            return None
        return self._draw(of_splits(origin.arguments), origin.seed)

    def seen(self, origins: Sequence[Origin], films: Sequence[str], splits: Sequence[str]) -> str:
        """A phrase on the films among some that a model has seen in these splits; "" if none."""
        phrases = (self._seen_by(origin, films, splits) for origin in origins)
        return "; ".join(dict.fromkeys(phrase for phrase in phrases if phrase))

    def _seen_by(self, origin: Origin, films: Sequence[str], splits: Sequence[str]) -> str:
        own = self.of(origin)
        if own is None:
            return "the model does not say how its films were drawn, so these may be among them"
        count = sum(own.get(film) in splits for film in films)
        if not count:
            return ""
        lead = f"the model has been trained on {count:,} of the {len(films):,} films; "
        if origin.folder and (origin.folder / SPLITS_FILE).exists():
            return f"{lead}the splits of its own run are in {SPLITS_FILE} of its folder"
        options = of_splits(as_json(options_of(DataOptions, origin.arguments or {})))
        words = [flag_of("seed"), str(origin.seed), *words_of(options, as_json(DataOptions()))]
        return f"{lead}the splits of its own run are those of {shlex.join(words)}"

    def _draw(self, chosen: Mapping[str, Any], seed: int) -> dict[str, str] | None:
        """Film -> split as a run drew them; None if this data set cannot be drawn so."""
        name = json.dumps([chosen, seed], sort_keys=True)
        if name not in self._drawn:
            place = {"data": self._data.data, "dataset": self._dataset}
            try:
                table = table_of(options_of(DataOptions, chosen, place), seed, check_images=False)
                drawn = dict(zip(table.names.tolist(), table.split.tolist(), strict=True))
            except DatasetError:
                drawn = None
            self._drawn[name] = drawn
        return self._drawn[name]


def with_warnings(
    model: Predictions,
    origins: Sequence[Origin],
    table: LabelTable,
    splits: Splits,
    scored: str,
) -> Predictions:
    """The model with notes where it has seen, or may have seen, the films that are scored."""
    notes = list(model.notes)
    if scored not in ("test", "all"):
        notes.append(f"scored on the split {scored!r}, which the model has been fitted to")
    elif seen := splits.seen(origins, table.names.tolist(), ("train", "valid")):
        notes.append(f"these figures may be too good: {seen}")
    return dataclasses.replace(model, notes=tuple(notes))


def seen_in_validation(
    origins: Mapping[str, Sequence[Origin]], table: LabelTable, splits: Splits
) -> tuple[str, ...]:
    """Notes on members that were trained on the films that weights and points are chosen on."""
    films = table.names.tolist()
    seen = {name: splits.seen(those, films, ("train",)) for name, those in origins.items()}
    return tuple(
        f"the validation films may say too much for {name}: {phrase}"
        for name, phrase in seen.items()
        if phrase
    )
