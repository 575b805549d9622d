"""What programs ask of the page, as plain functions: films in, JSON types out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import cft
from cft import heatmap, results
from cft.film.read import as_radiograph
from cft.film.resize import resize
from cft.page.text import data_address
from cft.page.uploads import Film, Refused

if TYPE_CHECKING:
    from cft.results import Model

__all__ = ["gates", "heat_map", "model"]

# Longest side in pixels of a heat map over its film.
_SIDE = 1024


def heat_map(classifier: Model, films: Iterable[Film], label: Any, gate: str = "refuse") -> str:
    """The heat map of one finding over the one film, as the ``data:`` address of a PNG.

    Raises
    ------
    Refused
        If the model has no such finding or no heat maps, if there are several films, if the film
        cannot be read, or if it is not to be answered (see `cft.results.GATES`).
    """
    if label not in classifier.label_names:
        raise Refused(f"The model has no finding of that name; {_has(classifier)}.")
    if not classifier.has_heatmaps:
        raise Refused("This model has no heat maps.")
    films = list(films)
    if len(films) != 1:
        raise Refused("A heat map is drawn of one film at a time.")
    try:
        film = as_radiograph(films[0][1])
    except cft.RadiographError as error:
        raise Refused(f"The film could not be read: {error}.") from None
    findings = next(iter(classifier.stream([film])))
    if isinstance(findings, cft.RadiographError):
        raise Refused(f"The film could not be read: {findings}.")
    if results.withheld(findings, gate):
        raise Refused(" ".join(["Not answered.", *findings.gate.reasons]))
    shape = heatmap.shape_within(film.pixels.shape, _SIDE)
    pixels = resize(film.pixels, *shape, "bilinear")
    point = findings.operating_points[label]
    picture = heatmap.overlay(pixels, findings.heatmap(label, shape), point)
    return data_address(heatmap.encode_png(picture), "image/png")


def gates(classifier: Model, films: Iterable[Film]) -> list[dict[str, Any]]:
    """``file`` and either ``error`` or ``verdict`` and ``reasons`` of each film."""
    answers: list[dict[str, Any]] = []
    for name, film in films:
        (found,) = classifier.stream([film])
        if isinstance(found, cft.RadiographError):
            answers.append({"file": name, "error": str(found)})
        else:
            answers.append({"file": name, **found.gate.to_dict()})
    return answers


def model(classifier: Model) -> dict[str, Any]:
    """What the document of `cft.results.document` says of the model, and its findings."""
    return {
        **results.document(classifier, [])["model"],
        "heat_maps": classifier.has_heatmaps,
        "heat_map_kind": classifier.heatmap_kind,
        "findings": [
            {
                "label": label,
                "operating_points": {
                    name or "default": point and point.threshold
                    for name, point in classifier.categories[label].operating_points.items()
                },
            }
            for label in classifier.label_names
        ],
    }


def _has(classifier: Model) -> str:
    return f"it has {', '.join(classifier.label_names)}"
