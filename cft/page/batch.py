"""One film of many -> its row in the page's matrix of films by findings.

The browser keeps the files, sends each one by itself and puts the rows together, so that the server
holds one film at a time however many were dropped. It sends no file name with them, either: names
are put into the tables where they are shown, see ``batch.js``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import cft
from cft import heatmap, results
from cft.film.read import as_radiograph
from cft.film.resize import resize
from cft.page.render import points_of
from cft.page.text import data_address

if TYPE_CHECKING:
    from cft.results import Model

__all__ = ["row"]

# Longest side in pixels of a film in the matrix, where it is half as large on most screens.
_SIDE = 112


def row(classifier: Model, film: Any) -> dict[str, Any]:
    """What the matrix says of one film, at each choice of operating points.

    Parameters
    ----------
    classifier
        The model that is used.
    film
        Anything that `cft.Classifier.predict` takes.

    Returns
    -------
    dict
        ``thumbnail``: a PNG as a ``data:`` address, None if the film cannot be read; ``header``:
        the first line of the CSV table; ``points``: for each choice of operating points, the
        model's own first, ``document``, see `cft.results.document`, and ``line`` of the table. The
        film has no name in them.
    """
    thumbnail, found = None, _read(film)
    if not isinstance(found, cft.RadiographError):
        thumbnail = _thumbnail(found)
        found = next(iter(classifier.stream([found])))
    header, *_ = _csv(classifier, ())
    return {"thumbnail": thumbnail, "header": header, "points": _points(classifier, found)}


def _read(film: Any) -> Any:
    try:
        return as_radiograph(film)
    except cft.RadiographError as error:
        return error


def _points(classifier: Model, found: results.Result) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    for point in points_of(classifier):
        at = found if isinstance(found, cft.RadiographError) else found.at(point)
        _, line = _csv(classifier, [("", at)])
        answers.append({"document": results.document(classifier, [("", at)]), "line": line})
    return answers


def _csv(classifier: Model, named: Any) -> list[str]:
    return list(results.csv_rows(classifier.label_names, named, weights=classifier.weights_sha256))


def _thumbnail(film: cft.Radiograph) -> str:
    shape = heatmap.shape_within(film.pixels.shape, _SIDE)
    grey = resize(torch.from_numpy(film.pixels), *shape, "bilinear").numpy()
    return data_address(heatmap.encode_png(np.round(255 * grey).astype(np.uint8)), "image/png")
