"""Does a model still say of the packaged example film what it said when it was made?

A reference output tells a wrong decoder, library or processor from a bad film: users who get other
numbers than the authors cannot see which of the two they have.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft.errors import ModelFolderError, RadiographError
from cft.files import atomic_write
from cft.film.read import read_radiograph
from cft.model.folder import CONFIG, parse_config, read_config

if TYPE_CHECKING:
    from cft.model.classifier import Classifier
    from cft.model.ensemble import Ensemble
    from cft.model.findings import Findings

    Model = Classifier | Ensemble

__all__ = [
    "EXAMPLE",
    "PROBABILITY_TOLERANCE",
    "SCORE_TOLERANCE",
    "SelfTest",
    "self_test",
    "write_reference",
]

#: A film drawn by code, which comes with the package.
EXAMPLE = Path(__file__).resolve().parents[1] / "page" / "example.png"

#: How far a score, in logits, and a probability may lie from the stored ones. Processors and
#: versions of PyTorch differ by some 1e-5 logits, a GPU's shorter floats by some 1e-3; a film that
#: is decoded or scaled in another way moves scores by tenths.
SCORE_TOLERANCE, PROBABILITY_TOLERANCE = 0.02, 0.005

# Decimals stored: far below the tolerances.
_DECIMALS = 4


@dataclass(frozen=True)
class SelfTest:
    """What a self-test came to.

    Attributes
    ----------
    passed
        None: there was nothing to compare with.
    sentence
        Why, in one sentence without a full stop.
    """

    passed: bool | None
    sentence: str


def self_test(model: Model) -> SelfTest:
    """Predict the example film and compare with the figures of the model folder.

    Raises
    ------
    RadiographError
        If the film cannot be read or predicted at all.
    """
    reference = model.facts.reference
    if reference is None:
        return SelfTest(None, "the model folder holds no reference figures")
    if reference.film_sha256 != _hash_of_example():
        return SelfTest(None, "the reference figures are of another example film than this one")
    found = _of_example(model)
    far = []
    for label in model.label_names:
        score = abs(found.scores[label] - reference.scores[label])
        probability = abs(found.probabilities[label] - reference.probabilities[label])
        if score > SCORE_TOLERANCE or probability > PROBABILITY_TOLERANCE:
            far.append((score, label))
    if not far:
        number = len(model.label_names)
        return SelfTest(True, f"all {number} figures are those of the model folder")
    _, label = max(far)
    return SelfTest(
        False,
        f"{len(far)} of {len(model.label_names)} figures of the example film are not those of the "
        f"model folder; {label} has the score {found.scores[label]:.4f} instead of "
        f"{reference.scores[label]:.4f} and the probability {found.probabilities[label]:.4f} "
        f"instead of {reference.probabilities[label]:.4f}",
    )


def write_reference(folder: str | os.PathLike, model: Model) -> None:
    """Store a model's figures of the example film in the ``config.json`` of its folder.

    Parameters
    ----------
    folder
        Where the model was loaded from.
    model
        The model, on the CPU.

    Raises
    ------
    RadiographError
        If it cannot predict the film.
    ModelFolderError
        If the folder cannot be written.
    """
    folder = Path(folder)
    found = _of_example(model)
    config = read_config(folder)
    config.setdefault("cft", {})["reference"] = {
        "film_sha256": _hash_of_example(),
        "scores": _rounded(found.scores),
        "probabilities": _rounded(found.probabilities),
    }
    parse_config(config, folder)
    try:
        atomic_write(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ModelFolderError(f"{folder / CONFIG} cannot be written ({error.strerror})") from error


def _of_example(model: Model) -> Findings:
    (result,) = model.stream([read_radiograph(EXAMPLE)])
    if isinstance(result, RadiographError):
        raise result
    return result


def _rounded(figures: dict[str, float]) -> dict[str, Any]:
    return {label: round(figure, _DECIMALS) for label, figure in figures.items()}


def _hash_of_example() -> str:
    return hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
