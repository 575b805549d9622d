"""Findings of one film -> the rows of its table, and what is said about the finding that is chosen.

What depends on the operating points is there once for each choice of them, and the page shows one:
see `cft.page.render.style`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

import cft
from cft import heatmap, results
from cft.labels import DATASETS, DESCRIPTIONS
from cft.model.conformal import Band
from cft.model.measured import AtPoint, Pointing, Share, Tested, TestSet
from cft.model.odds import logit
from cft.page.text import data_address, plain_label, short_percent

if TYPE_CHECKING:
    from cft.results import Model

__all__ = ["finding_rows", "place", "pointing_sentence"]

_ROWS = {"film": "films", "study": "studies"}


def finding_rows(
    classifier: Model, views: Sequence[cft.Findings], body: np.ndarray | None
) -> Iterator[dict[str, Any]]:
    """The rows of a film's table, in the order of the first of the views.

    Parameters
    ----------
    classifier
        The model that was used.
    views
        The findings of the film at each choice of operating points, see `cft.Findings.at`.
    body
        (h, w) bool: where a heat map may be drawn, of the heat map's size; None for no heat maps.
    """
    first = views[0]
    descriptions = classifier.facts.label_descriptions
    orders = [view.order for view in views]
    chosen = (first.positives or orders[0])[0]
    for number, label in enumerate(orders[0], start=1):
        category = classifier.categories[label]
        yield {
            "number": number,
            "label": label,
            "name": plain_label(label),
            "description": descriptions.get(label) or DESCRIPTIONS.get(label, ""),
            "probability": first.probabilities[label],
            "chosen": label == chosen,
            "unproven": results.NO_EVIDENCE if category.evidence else "",
            "places": " ".join(str(order.index(label)) for order in orders),
            "auroc": _auroc(first.tested(label)),
            "pointing": pointing_sentence(classifier.facts.test_sets, label),
            "band": _band(category.band, first.tested(label)) if not category.evidence else None,
            "prevalence": category.prevalence,
            "views": [_view(classifier, view, label) for view in views],
            "heatmaps": None
            if body is None or not classifier.has_heatmaps
            else _heatmaps(views, label, body),
            "members": first.members(label),
        }


def _view(classifier: Model, findings: cft.Findings, label: str) -> dict[str, Any]:
    """What a row says at one choice of operating points."""
    category, point = classifier.categories[label], findings.operating_points[label]
    distance, tested = findings.distances[label], findings.tested(label)
    decided = point is not None and category.evidence is None
    known = category.prevalence is not None
    values = findings.predictive_values(label) if known else None
    return {
        "point": point,
        "positive": decided and label in findings.positives,
        "decided": decided,
        "unsure": findings.ruled[label] == "unsure",
        "bar": None if distance is None else _bar(distance),
        "zone": None if point is None or category.evidence else _zone(category.band, point),
        "spread": None if point is None else _spread(findings.members(label), point),
        "rates": _rates(tested),
        "tests": [_test(each) for each in category.tested(findings.point)],
        "worth": values and asdict(values),
        "sensitivity": _ends(tested.sensitivity if tested else None),
        "specificity": _ends(tested.specificity if tested else None),
    }


def place(distance: float, full: float = results.FULL_BAR) -> float:
    """Where a distance in logits lies on a bar, 0 being in its middle, in percent of its length."""
    return 50 + 50 * max(-1.0, min(1.0, distance / full))


def _bar(distance: float) -> dict[str, float]:
    """The bar from the operating point, in the middle, to the film."""
    end = place(distance)
    return {"left": min(50.0, end), "width": abs(end - 50)}


def _zone(band: Band | None, point: float) -> dict[str, float] | None:
    """The part of the bar in which the finding is neither ruled in nor ruled out."""
    if band is None:
        return None
    ends = [
        edge if limit is None else place(_distance(limit, point))
        for limit, edge in ((band.rule_out, 0.0), (band.rule_in, 100.0))
    ]
    return {"left": min(ends), "width": max(ends) - min(ends)}


def _spread(members: Sequence[float], point: float) -> dict[str, float] | None:
    """The part of the bar between the members of an ensemble that say least and most."""
    if not members:
        return None
    ends = [place(_distance(limit, point)) for limit in (min(members), max(members))]
    return {"left": ends[0], "width": ends[1] - ends[0]}


def _distance(probability: float, point: float) -> float:
    return float(logit(np.float64(probability)) - logit(np.float64(point)))


def _heatmaps(views: Sequence[cft.Findings], label: str, body: np.ndarray) -> dict[str, Any]:
    """A finding's layer for each choice of operating points, which its colours depend on; and the
    evidence as shares of its maximum, for the viewer's outlines.
    """
    heat = views[0].heatmap(label, (body.shape[0], body.shape[1])) * body
    layers = (heatmap.layer(heat, view.operating_points[label]) for view in views)
    smooth = _smooth(heat, body)
    shares = np.round(255 * smooth / max(float(smooth.max()), 1e-12)).astype(np.uint8)
    return {"layers": [_address(layer) for layer in layers], "shares": _address(shares)}


def _smooth(heat: np.ndarray, body: np.ndarray) -> np.ndarray:
    """A heat map without the kinks of its interpolation, that fades towards the edge of the body.

    Otherwise an outline would follow the grid of the last feature map and the steps of the mask.
    """
    both = np.stack([heat, body]).astype(np.float32)
    for _ in range(2):
        both = _mean_around(_mean_around(both).swapaxes(1, 2)).swapaxes(1, 2)
    return both[0] * both[1] * body


def _mean_around(values: np.ndarray) -> np.ndarray:
    """The mean over the rows nearby; at the edges over those there are."""
    length = values.shape[1]
    sums = np.zeros((len(values), length + 1, values.shape[2]), np.float64)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    places = np.arange(length)
    start, end = np.maximum(places - _BLUR, 0), np.minimum(places + _BLUR + 1, length)
    return ((sums[:, end] - sums[:, start]) / (end - start)[:, None]).astype(np.float32)


# Pixels of the map to each side over which a mean is taken, twice.
_BLUR = 4


def _address(picture: np.ndarray) -> str:
    return data_address(heatmap.encode_png(picture), "image/png")


# --------------------------------------------------------------------------- of test films


def _auroc(tested: Tested | None) -> dict[str, str] | None:
    if tested is None or tested.figures.auroc is None:
        return None
    share = Share(tested.figures.auroc, tested.figures.low, tested.figures.high)
    return {"value": f"{share.value:.2f}", "interval": _interval(share, "{:.2f}".format)}


def _rates(tested: Tested | None) -> dict[str, dict[str, str]] | None:
    """Sensitivity and specificity for the table, with their intervals for who points at them."""
    if tested is None or tested.sensitivity is None or tested.specificity is None:
        return None
    return {
        name: {
            "value": "–" if share.value is None else f"{100 * share.value:.0f}",
            "interval": _interval(share, short_percent),
        }
        for name, share in (
            ("sensitivity", tested.sensitivity),
            ("specificity", tested.specificity),
        )
    }


def _test(tested: Tested) -> dict[str, Any]:
    """What one test set says, for the text about a finding."""
    figures, test_set = tested.figures, tested.test_set
    rates = [
        {
            "kind": kind,
            "number": number,
            "share": short_percent(share.value),
            "interval": _interval(share, short_percent),
        }
        for kind, number, share in (
            ("with", figures.positives, tested.sensitivity),
            ("without", figures.negatives, _rest(tested.specificity)),
        )
        if share is not None and share.value is not None
    ]
    rows = _ROWS.get(test_set.row, "rows")
    number = "" if test_set.rows is None else f"{test_set.rows:,} "
    return {
        "name": f"{number}test {rows} ({DATASETS.get(test_set.name, test_set.name)})",
        "rates": rates,
        "auroc": _auroc(tested),
        "level": "" if test_set.level is None else f"{short_percent(test_set.level)} ",
    }


def pointing_sentence(test_sets: Iterable[TestSet], label: str) -> str:
    """Whether the heat maps of a finding point to what radiologists framed on test films.

    Where they framed it on none, it says so of all findings together.
    """
    framed = next((each for each in test_sets if each.pointing), None)
    if framed is None or framed.pointing is None:
        return "Whether the map points to what a radiologist would frame has not been measured."
    figures = framed.categories.get(label)
    own, every = figures and figures.pointing, framed.pointing
    first = (
        f"Of {_films(own.films)} on which radiologists framed this finding"
        if own
        else "Radiologists framed this finding on no test film. Of "
        f"{every.films} findings that they framed"
    )
    more = " and ".join(map(str, _inside(every)))
    inside, fixed = _inside(own or every)
    return (
        f"{first}, the map is strongest inside the frame on {inside}, and a point that never "
        f"moves lies inside on {fixed}"
        + (f"; of all {every.films} framed findings on {more}." if own else ".")
    )


def _inside(pointing: Pointing) -> tuple[int, int]:
    """On how many films the map points into the frame, and on how many the fixed point lies in."""
    hit, fixed = (pointing.films * (x.value or 0) for x in (pointing.hit, pointing.fixed))
    return round(hit), round(fixed)


def _films(number: int) -> str:
    return f"{number} test film{'s' if number > 1 else ''}"


def _rest(share: Share | None) -> Share | None:
    """What is left of a share: of the specificity the films that are above by mistake."""
    if share is None:
        return None
    value, low, high = (None if x is None else 1 - x for x in (share.value, share.high, share.low))
    return Share(value, low, high)


def _interval(share: Share, write: Any) -> str:
    if share.low is None or share.high is None:
        return ""
    return f"{write(share.low)} to {write(share.high)}"


def _ends(share: Share | None) -> str:
    """A share and the ends of its interval, for page.js; empty if it is not known."""
    if share is None or share.value is None:
        return ""
    ends = (share.value if x is None else x for x in (share.low, share.high))
    return " ".join(f"{x:.6f}" for x in (share.value, *ends))


def _band(band: Band | None, tested: Tested | None) -> dict[str, Any] | None:
    """Where a finding is ruled in and out, and how often that was wrong on test films."""
    if band is None:
        return None
    figures = tested.figures if tested else None
    return {
        "band": band,
        "wrong": [
            {"what": what, "share": short_percent(1 - share.value), "number": number}
            for what, share, number in (
                ("ruled out", _of(figures and figures.band, "rule_out"), figures.positives),
                ("ruled in", _of(figures and figures.band, "rule_in"), figures.negatives),
            )
            if share is not None and share.value is not None
        ]
        if figures
        else [],
    }


def _of(band: Any, limit: str) -> Share | None:
    """The share of films that a limit was right about."""
    at: AtPoint | None = band.get(limit) if band else None
    if at is None:
        return None
    return at.sensitivity if limit == "rule_out" else at.specificity
