"""Models and readers against one truth: every figure of an evaluation as one dict.

What can be compared with what, and which figures belong together, is decided here: operating
points, radiologists, pairs of models, subgroups. The figures are computed by
`train.evaluation.scores`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cft.labels import CHEXPERT_5
from cft.model.calibration import operating_point
from cft.model.odds import sigmoid
from train.evaluation import competition
from train.evaluation.against_readers import beside_readers
from train.evaluation.boxes import Boxes
from train.evaluation.coverage import band_coverage
from train.evaluation.essentials import essentials
from train.evaluation.localise import compare_maps, floor_of_boxes, localisation
from train.evaluation.precision_of_films import add_detectable, films_needed
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.scores import compare_scores, evaluate_scores, named_subsets
from train.evaluation.subgroup_gaps import add_in_the_large, subgroup_gaps
from train.evaluation.subgroups import each_subgroup, few_in_subgroups, subgroups_of
from train.metrics.bootstrap import Bootstrap, bootstrap_auroc
from train.metrics.calibration import calibration_figures
from train.metrics.decisions import finite_or_none
from train.metrics.net_benefit import THRESHOLDS, net_benefit_of_rates

__all__ = ["Settings", "choose_points", "evaluate_models", "truth_facts"]

NamedPoints = Mapping[str, Mapping[str, float | None]]

#: What the readers' vote is called among the readers.
MAJORITY = "majority"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How figures are computed.

    Attributes
    ----------
    replicates, seed, level
        Of the bootstrap.
    subsets
        Further named subsets of categories to average over.
    optimistic_thresholds
        Choose operating points on the films that are scored; the report says so.
    threshold_rule
        One of `cft.model.calibration.RULES`, for operating points that are chosen here.
    """

    replicates: int = 1000
    seed: int = 0
    level: float = 0.95
    subsets: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    optimistic_thresholds: bool = False
    threshold_rule: str = "youden"

    @property
    def bootstrap(self) -> dict[str, Any]:
        return {"replicates": self.replicates, "seed": self.seed, "level": self.level}


def evaluate_models(
    truth: Truth,
    models: Sequence[Predictions],
    readers: Sequence[Predictions] = (),
    settings: Settings | None = None,
    framed: tuple[Boxes, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Everything about some models on one set of studies.

    Parameters
    ----------
    truth
        Labels, groups and attributes.
    models
        Scores in the truth's order.
    readers
        Radiologists' decisions in the truth's order.
    framed
        Boxes, and the patient of each film, for models with maps.

    Returns
    -------
    dict
        ``truth``, ``models`` (name -> what `train.evaluation.scores.evaluate_scores` gives, with
        ``operating_points``, ``uncalibrated``, ``localisation``, ``maps``,
        ``radiologists_below``, ``leaderboard``, ``beside_readers``, ``subgroups``, ``gaps`` and
        ``coverage`` where they apply), ``radiologists``,
        ``reader_net_benefit`` (reader -> label -> a list of [threshold, net benefit]),
        ``comparisons``, ``boxes``.
    """
    settings = settings or Settings()
    rates, draws = _reader_rates(truth, readers), settings.bootstrap
    return {
        "truth": truth_facts(truth),
        "boxes": framed
        and {
            "name": framed[0].name,
            "kind": framed[0].kind,
            "floor": floor_of_boxes(*framed),
        },
        "models": {
            m.name: _evaluate(truth, m, rates, settings, framed)
            | ({"beside_readers": beside_readers(truth, m, readers, **draws)} if readers else {})
            for m in models
        },
        "radiologists": {
            reader: {
                label: {"sensitivity": finite_or_none(x), "false_positive_rate": finite_or_none(y)}
                for label, (x, y) in by_label.items()
            }
            for reader, by_label in rates.items()
        },
        "reader_net_benefit": _reader_benefit(truth, rates),
        "comparisons": _comparisons(truth, models, settings),
    }


def truth_facts(truth: Truth) -> dict[str, Any]:
    """What a report says of a set of films."""
    return {
        "name": truth.name,
        "rows": len(truth.keys),
        "row": truth.row,
        "films": truth.films,
        "groups": len(np.unique(truth.groups)),
        "unit": truth.unit,
        "notes": list(truth.notes),
    }


def _evaluate(
    truth: Truth,
    model: Predictions,
    rates: dict[str, dict[str, tuple[float, float]]],
    settings: Settings,
    framed: tuple[Boxes, Mapping[str, str]] | None,
) -> dict[str, Any]:
    """Everything about one model."""
    labels, names = truth.columns(model.label_names), model.label_names
    points, source = model.operating_points, model.source
    named = _named(model)
    optimistic = []
    if settings.optimistic_thresholds:
        points = choose_points(model.scores, labels, names, settings.threshold_rule)
        source, named = "the films that are scored", {}
        optimistic = [f"optimistic: operating points were chosen on {source}"]

    def figures(rows: np.ndarray, named: NamedPoints | None = None) -> dict[str, Any]:
        return evaluate_scores(
            model.scores[rows],
            labels[rows],
            truth.groups[rows],
            names,
            subsets=_subsets(names, settings),
            operating_points=points,
            named_points=named,
            probabilities=model.probabilities,
            **settings.bootstrap,
        )

    result = figures(np.arange(len(labels)), named)
    further = essentials(
        *(model.scores, labels, truth.groups, names),
        probabilities=model.probabilities,
        **settings.bootstrap,
    )
    for label, row in result["categories"].items():
        row.update(further[label])
    missing = _missing_subsets(names, settings)
    result["notes"] = [*optimistic, *model.notes, *missing, *result["notes"]]
    result["operating_points"] = {
        "source": source or None,
        "optimistic": settings.optimistic_thresholds,
        "rule": settings.threshold_rule if settings.optimistic_thresholds else None,
    }
    if model.logits is not None:
        result["uncalibrated"] = {
            label: calibration_figures(sigmoid(model.logits[:, c].astype(np.float64)), labels[:, c])
            for c, label in enumerate(names)
        }
    for row in result["categories"].values():
        row["localisation"] = None
        row["films_needed"] = films_needed(row, settings.level)
    if framed:
        _add_localisation(result, model, settings, framed)
    if rates:
        _against_readers(result, truth, model, labels, rates)
    subgroups = subgroups_of(truth)
    if subgroups:
        result["subgroups"] = {
            attribute: {value: figures(rows) for value, rows in values.items()}
            for attribute, values in subgroups.items()
        }
        _compare_subgroups(result, truth, model, points, settings)
    if any(model.bands.get(label) for label in names):
        result["coverage"] = band_coverage(
            *(model.scores, labels, truth.groups, names, model.bands, subgroups),
            **settings.bootstrap,
        )
        if truth.row == "study" and truth.films != len(truth.keys):
            result["notes"].append(_BANDS_OF_FILMS)
    return result


def _compare_subgroups(
    result: dict[str, Any],
    truth: Truth,
    model: Predictions,
    points: Mapping[str, float | None],
    settings: Settings,
) -> None:
    """Add each subgroup's calibration, the gaps between them, and a note on small ones."""
    labels, names, subgroups = (
        truth.columns(model.label_names),
        model.label_names,
        subgroups_of(truth),
    )
    for attribute, value, rows in each_subgroup(subgroups):
        add_in_the_large(
            result["subgroups"][attribute][value]["categories"],
            *(model.scores[rows], labels[rows], truth.groups[rows]),
            **settings.bootstrap,
        )
    result["gaps"] = subgroup_gaps(
        *(model.scores, labels, truth.groups, names, subgroups),
        [points.get(label) for label in names],
        [result["categories"][label]["brier"] is not None for label in names],
        **settings.bootstrap,
    )
    result["notes"] += few_in_subgroups(result["subgroups"], truth.unit)


_BANDS_OF_FILMS = (
    "the bands were set on single films and are asked here about studies, for which they promise "
    "nothing; --films separate counts films"
)


def _add_localisation(
    result: dict[str, Any],
    model: Predictions,
    settings: Settings,
    framed: tuple[Boxes, Mapping[str, str]],
) -> None:
    """Add ``localisation``, of each category and micro; None for a model without maps."""
    found = localisation(model.maps or {}, *framed, **settings.bootstrap)
    for label, row in result["categories"].items():
        row["localisation"] = found["categories"].get(label)
    result["localisation"] = found["micro"]
    if model.other_maps:
        result["maps"] = compare_maps(model.other_maps, *framed, **settings.bootstrap)
    if model.maps is None:
        result["notes"].append("it has no maps, so nothing is said of where it looks")


def _named(model: Predictions) -> NamedPoints:
    """Name of the operating points -> category -> threshold."""
    names = dict.fromkeys(name for row in model.named_points.values() for name in row)
    rows = model.named_points.items()
    return {
        name: {label: p["threshold"] if (p := row.get(name)) else None for label, row in rows}
        for name in names
    }


def _comparisons(
    truth: Truth, models: Sequence[Predictions], settings: Settings
) -> list[dict[str, Any]]:
    """Every pair of models, over the categories that both predict."""

    @functools.cache  # a model is resampled once for all its pairs over the same categories
    def resampled(i: int, shared: tuple[str, ...]) -> Bootstrap:
        scores, labels = models[i].columns(shared), truth.columns(shared)
        return bootstrap_auroc(scores, labels, truth.groups, **settings.bootstrap)

    comparisons = []
    for i, j in itertools.combinations(range(len(models)), 2):
        shared = tuple(x for x in models[i].label_names if x in models[j].label_names)
        if shared:
            first, second = (
                (models[k].name, models[k].columns(shared), resampled(k, shared)) for k in (i, j)
            )
            labels = truth.columns(shared)
            comparisons.append(compare_scores(first, second, labels, truth.groups, shared))
            add_detectable(comparisons[-1], settings.level)
    return comparisons


def _subsets(label_names: Sequence[str], settings: Settings) -> dict[str, list[str]]:
    """The named subsets that a model has all categories of."""
    subsets = {**named_subsets(label_names), **settings.subsets}
    return {name: members for name, members in subsets.items() if set(members) <= set(label_names)}


def _missing_subsets(label_names: Sequence[str], settings: Settings) -> list[str]:
    """Sentences on the subsets asked for that a model cannot be averaged over."""
    return [
        f"no mean over {name!r}, because the model has no {sorted(missing)[0]!r}"
        for name, members in settings.subsets.items()
        if (missing := set(members) - set(label_names))
    ]


def choose_points(
    scores: np.ndarray, labels: np.ndarray, label_names: Sequence[str], rule: str
) -> dict[str, float | None]:
    """Operating points from (N, C) scores of some films; None for a category with too few cases."""
    points = {
        label: operating_point(scores[:, c], labels[:, c], rule=rule)
        for c, label in enumerate(label_names)
    }
    return {
        label: None if point is None else float(point["threshold"])
        for label, point in points.items()
    }


# --- Radiologists -------------------------------------------------------------------------------


def _reader_rates(
    truth: Truth, readers: Sequence[Predictions]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Reader -> category -> (sensitivity, false-positive rate), and the readers' majority."""
    rates: dict[str, dict[str, tuple[float, float]]] = {
        reader.name: {
            label: competition.reader_rates(reader.column(label), truth.labels[:, c])
            for c, label in enumerate(truth.label_names)
            if label in reader.label_names
        }
        for reader in readers
    }
    if len(readers) > 2:
        rates[MAJORITY] = {}
        for c, label in enumerate(truth.label_names):
            columns = [r.column(label) for r in readers if label in r.label_names]
            if len(columns) == len(readers):
                share = np.mean(columns, axis=0)
                vote = np.where(share == 0.5, np.nan, share > 0.5)
                vote[np.isnan(share)] = np.nan
                rates[MAJORITY][label] = competition.reader_rates(vote, truth.labels[:, c])
    return rates


def _reader_benefit(
    truth: Truth, rates: Mapping[str, Mapping[str, tuple[float, float]]]
) -> dict[str, dict[str, list[list[float]]]]:
    """Net benefit of each reader's decisions at every threshold, where it is defined."""
    return {
        reader: {
            label: np.stack(
                [
                    THRESHOLDS,
                    net_benefit_of_rates(*pair, float(np.nanmean(truth.columns([label])))),
                ],
                axis=1,
            ).tolist()
            for label, pair in by_label.items()
            if not np.isnan(pair).any()
        }
        for reader, by_label in rates.items()
    }


def _against_readers(
    result: dict[str, Any],
    truth: Truth,
    model: Predictions,
    labels: np.ndarray,
    rates: dict[str, dict[str, tuple[float, float]]],
) -> None:
    """Add ``radiologists_below`` (and the leaderboard's place) to a model's results."""
    below: dict[str, Any] = {}
    for c, label in enumerate(model.label_names):
        of_label = {
            reader: by_label[label]
            for reader, by_label in rates.items()
            if reader != MAJORITY and label in by_label and not np.isnan(by_label[label]).any()
        }
        if of_label and result["categories"][label]["auroc"] is not None:
            below[label] = competition.readers_below(model.scores[:, c], labels[:, c], of_label)[
                "count"
            ]
    if not below:
        return
    tasks = [label for label in CHEXPERT_5 if label in below]
    tasks = tasks if len(tasks) == len(CHEXPERT_5) else list(below)
    mean = sum(below[label] for label in tasks) / len(tasks)
    result["radiologists_below"] = {**below, "mean": mean}
    if competition.is_test_set(truth.keys) and set(CHEXPERT_5) <= set(below):
        auroc = result["subsets"]["chexpert_5"]["auroc"]
        result["leaderboard"] = competition.leaderboard_place(auroc, mean)
