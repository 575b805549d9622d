"""Running models over the films of a table, and from films to studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cft.errors import RadiographError
from cft.model.category import Category, OperatingPoint
from cft.model.classifier import Classifier
from cft.model.ensemble import Ensemble
from train.datasets.labels import LabelTable
from train.errors import StudyError
from train.evaluation.boxes import Boxes, film_id
from train.evaluation.explained import explained
from train.evaluation.keys import STUDY
from train.evaluation.localise import MAP_SIDE
from train.evaluation.predictions import STUDY_RULES, Predictions, Truth

__all__ = [
    "FilmScores",
    "combined",
    "predictions_of",
    "readable",
    "rows_of",
    "run",
    "truth_of",
]


@dataclass(frozen=True)
class FilmScores:
    """What a model says about each film, by the film's name.

    Attributes
    ----------
    probabilities, logits
        Film -> (K,) float64.
    unreadable
        Film -> why it could not be read.
    maps
        (film as of `train.evaluation.boxes.film_id`, finding) -> its map, where boxes asked for
        one.
    other_maps
        Kind -> maps of that kind of the same films, where they were asked for.
    """

    probabilities: dict[str, np.ndarray]
    logits: dict[str, np.ndarray]
    unreadable: dict[str, str]
    maps: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    other_maps: dict[str, dict[tuple[str, str], np.ndarray]] = field(default_factory=dict)


def run(
    classifier: Classifier | Ensemble,
    tables: Sequence[LabelTable],
    batch_size: int = 32,
    boxes: Boxes | None = None,
    kinds: Sequence[str] = (),
) -> FilmScores:
    """Predict every film of some tables, each film once; with maps of the findings with boxes.

    `kinds`: further kinds of maps, see `train.evaluation.explained.KINDS`.
    """
    framed: dict[str, list[str]] = {}
    for film, finding in boxes.of if boxes is not None and classifier.has_heatmaps else ():
        if finding in classifier.label_names:
            framed.setdefault(film, []).append(finding)
    sources: dict[str, Path | np.ndarray] = {}
    for table in tables:
        films = table.images if table.pixels is None else table.pixels
        for name, film in zip(table.names.tolist(), films, strict=True):
            sources.setdefault(name, film)
    scores = FilmScores({}, {}, {})
    results = classifier.stream(sources.values(), batch_size)
    for name, result in zip(tqdm(sources, desc=classifier.name, leave=False), results, strict=True):
        if isinstance(result, RadiographError):
            scores.unreadable[name] = str(result)
        else:
            scores.probabilities[name] = np.array(list(result.probabilities.values()))
            scores.logits[name] = np.array(list(result.scores.values()))
            film = film_id(name)
            labels = framed.get(film, [])
            for finding in labels:
                scores.maps[film, finding] = result.heatmap(finding, (MAP_SIDE, MAP_SIDE))
            for kind in kinds if labels else ():
                found = explained(classifier, sources[name], labels, kind, MAP_SIDE)
                of_kind = scores.other_maps.setdefault(kind, {})
                of_kind.update({(film, x): heat for x, heat in found.items()})
    return scores


def truth_of(
    table: LabelTable, rule: str, unit: str = "patient", groups: Sequence[str] = ()
) -> Truth:
    """The truth of a table's films, or of their studies.

    Parameters
    ----------
    table
        Films to be scored; uncertain marks are unknown.
    rule
        One of `STUDY_RULES`.
    unit
        "patient" or "study".
    groups
        Further attributes of the table to group films by, besides sex, age and view.

    Raises
    ------
    StudyError
        If the films of a study have different labels.
    """
    keys, first, member = rows_of(table, rule)
    labels = table.y[first].astype(np.float64)
    same = (labels[member] == table.y) | (np.isnan(labels[member]) & np.isnan(table.y))
    if not same.all():
        film, column = np.argwhere(~same)[0]
        raise StudyError(
            f"the films of study {str(keys[member[film]])!r} have different labels for "
            f"{table.label_names[column]!r}; score them with --films separate"
        )
    # Where nothing tells studies, each film is one of its own.
    row = "film" if rule == "separate" or (table.studies == table.names).all() else "study"
    if table.dataset == "chexpert" and row == "study":  # as CheXpert's own tables name studies
        keys = np.array(
            [f"CheXpert-v1.0/{table.split[i]}/{key}" for i, key in zip(first, keys, strict=True)]
        )
    return Truth(
        name=table.dataset,
        keys=tuple(keys.tolist()),
        label_names=table.label_names,
        labels=labels,
        groups=table.patients[first] if unit == "patient" else keys,
        unit="patient" if unit == "patient" else row,
        attributes={
            name: _common(table.attributes[name], first, member)
            for name in dict.fromkeys(("sex", "age", "view", *groups))
            if name in table.attributes
        },
        row=row,
        notes=table.notes,
        key=STUDY if row == "study" else "image",
        films=len(table),
    )


def predictions_of(
    name: str,
    classifier: Classifier | Ensemble,
    scores: FilmScores,
    table: LabelTable,
    rule: str,
    threshold_rule: str | None = None,
) -> Predictions:
    """A model's scores for the rows of `truth_of` of the same table and rule.

    Operating points are those of the model folder, which were chosen on its validation films: those
    in use or, for a `threshold_rule` of `cft.model.calibration.RULES`, those chosen by that rule.
    """
    _, _, member = rows_of(table, rule)
    shared = [label for label in classifier.label_names if label in table.label_names]
    columns = [classifier.label_names.index(label) for label in shared]
    films = table.names.tolist()
    calibrated = any(category.platt for category in classifier.categories.values())
    points = {label: _point(classifier.categories[label], threshold_rule) for label in shared}
    unlabelled = [label for label in classifier.label_names if label not in shared]
    missing = [label for label in table.label_names if label not in shared]
    own = {film_id(film) for film in films}
    maps = {key: heat for key, heat in scores.maps.items() if key[0] in own}
    others = {
        kind: {key: heat for key, heat in of.items() if key[0] in own}
        for kind, of in scores.other_maps.items()
    }
    notes = []
    if unlabelled:
        notes.append(f"{table.dataset!r} has no labels of {', '.join(unlabelled)}")
    if missing:
        notes.append(f"the model does not predict {', '.join(missing)}")
    return Predictions(
        name=name,
        label_names=tuple(shared),
        scores=combined(scores.probabilities, films, member, rule)[:, columns],
        logits=combined(scores.logits, films, member, rule)[:, columns] if calibrated else None,
        operating_points={label: None if p is None else p.threshold for label, p in points.items()},
        named_points={
            label: {
                name: None if p is None else asdict(p) for name, p in row.operating_points.items()
            }
            for label, row in classifier.categories.items()
            if label in shared
        },
        bands={
            label: asdict(row.band)
            for label, row in classifier.categories.items()
            if row.band is not None and label in shared
        },
        source="the model folder, chosen on its validation films" if any(points.values()) else "",
        notes=tuple(notes),
        maps=maps if classifier.has_heatmaps else None,
        other_maps=others,
    )


def _point(category: Category, rule: str | None) -> OperatingPoint | None:
    """The operating point in use, or the one that was chosen by a rule, where there is one."""
    if rule is None:
        return category.operating_point
    points = [category.operating_point, *category.operating_points.values(), category.best_f1]
    return next((p for p in points if p is not None and p.rule == rule), None)


def readable(table: LabelTable, scores: Sequence[FilmScores]) -> LabelTable:
    """The table without the films that a model could not read, with a note that names them."""
    bad = {name: why for s in scores for name, why in s.unreadable.items()}
    lost = np.isin(table.names, list(bad))
    if not lost.any():
        return table
    first = str(table.names[lost][0])
    note = f"{int(lost.sum()):,} films could not be read and are left out, first {bad[first]}"
    return replace(table.subset(~lost), notes=(*table.notes, note))


def rows_of(table: LabelTable, rule: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(keys of the rows, first film of each row, row of each film), rows in order of the films."""
    if rule not in STUDY_RULES:
        raise StudyError(f"no rule {rule!r} for studies; there are {', '.join(STUDY_RULES)}")
    names = table.names if rule == "separate" else table.studies
    keys, first, member = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return keys[order], first[order], place[member]


def combined(
    by_film: Mapping[str, np.ndarray], films: Sequence[str], member: np.ndarray, rule: str
) -> np.ndarray:
    """(rows, K) maximum or mean over the films of each row."""
    values = np.stack([by_film[film] for film in films])
    rows = int(member.max()) + 1
    if rule == "mean":
        result = np.zeros((rows, values.shape[1]))
        np.add.at(result, member, values)
        return result / np.bincount(member, minlength=rows)[:, None]
    result = np.full((rows, values.shape[1]), -np.inf)
    np.maximum.at(result, member, values)
    return result


def _common(values: np.ndarray, first: np.ndarray, member: np.ndarray) -> np.ndarray:
    """(rows,) what all films of a row have in common, as text; "" where they differ."""
    text = np.array(["" if str(value) == "nan" else str(value) for value in values])
    result = text[first]
    result[np.unique(member[text != result[member]])] = ""
    return result
