"""One film of many -> its row in the page's matrix of films by findings.

The browser keeps the files, sends each one by itself and puts the rows together, so that the server
holds one film at a time however many were dropped. It sends no file name with them, either: names
are put into the tables where they are shown, see ``batch.js``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

import cft
from cft import heatmap, results
from cft.film.read import as_radiograph
from cft.film.resize import resize
from cft.film.study import study_hash
from cft.model.study import Study
from cft.page.render import points_of
from cft.page.text import data_address
from cft.page.uploads import Refused

if TYPE_CHECKING:
    from cft.results import Model

__all__ = ["row"]

# Longest side in pixels of a film in the matrix, where it is half as large on most screens.
_SIDE = 112

_LONGEST_SALT = 64


def row(classifier: Model, film: Any, salt: Any = "") -> dict[str, Any]:
    """What the matrix says of one film, at each choice of operating points.

    Parameters
    ----------
    classifier
        The model that is used.
    film
        Anything that `cft.Classifier.predict` takes.
    salt
        A text of the visitor's own, drawn by the browser and kept by it alone: films of one DICOM
        study have the same hash with the same salt. Without one no study is told.

    Returns
    -------
    dict
        ``thumbnail``: a PNG as a ``data:`` address, None if the film cannot be read; ``header``:
        the first line of the CSV table; ``study``: a hash of the DICOM study, or None;
        ``left_out``: why the film does not count in a study, see `cft.model.study.Study`, or empty;
        ``points``: for each choice of operating points, the model's own first, ``document``, see
        `cft.results.document`, and ``line`` of the table. The film has no name in them.

    Raises
    ------
    Refused
        If the salt is no text, or a long one.
    """
    study = _study(film, salt)
    thumbnail, found = None, _read(film)
    if not isinstance(found, cft.RadiographError):
        thumbnail = _thumbnail(found)
        found = next(iter(classifier.stream([found])))
    header, *_ = _csv(classifier, ())
    return {
        "thumbnail": thumbnail,
        "header": header,
        "study": study,
        "left_out": Study.of([("", found)]).left_out.get(0, ""),
        "points": _points(classifier, found),
    }


def _study(film: Any, salt: Any) -> str | None:
    """The hash of the film's DICOM study under a salt, which nothing here keeps."""
    if not isinstance(salt, str) or len(salt) > _LONGEST_SALT:
        raise Refused(f"The salt is a text of at most {_LONGEST_SALT} characters. None was read.")
    key = hashlib.blake2b(salt.encode("utf-8", "replace"), digest_size=32).digest()
    return study_hash(film, key) if salt else None


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
    grey = resize(film.pixels, *shape, "bilinear")
    return data_address(heatmap.encode_png(np.round(255 * grey).astype(np.uint8)), "image/png")
