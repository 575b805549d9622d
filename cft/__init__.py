"""Use a chest X-ray classifier: read a film, predict findings, see where the evidence lies.

>>> import cft
>>> findings = cft.load().predict("film.dcm")           # doctest: +SKIP
>>> findings.probabilities["Cardiomegaly"]              # doctest: +SKIP
0.34

Research software, not a medical device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "NOT_A_MEDICAL_DEVICE",
    "Classifier",
    "Ensemble",
    "Findings",
    "ModelFolderError",
    "Radiograph",
    "RadiographError",
    "load",
    "read_radiograph",
]

#: The sentence that page, command line and model card all show.
NOT_A_MEDICAL_DEVICE = (
    "Not a medical device. Research software for study and demonstration: "
    "never use it to diagnose, triage or treat."
)

# Public name -> module. Resolved on first use (PEP 562), so that `import cft` stays light:
# torch and timm are imported only when a model is.
_HOMES = {
    "Classifier": "cft.model.classifier",
    "Ensemble": "cft.model.ensemble",
    "Findings": "cft.model.findings",
    "load": "cft.model.load",
    "ModelFolderError": "cft.errors",
    "Radiograph": "cft.film.radiograph",
    "RadiographError": "cft.errors",
    "read_radiograph": "cft.film.read",
}

if TYPE_CHECKING:
    from cft.errors import ModelFolderError, RadiographError
    from cft.film.radiograph import Radiograph
    from cft.film.read import read_radiograph
    from cft.model.classifier import Classifier
    from cft.model.ensemble import Ensemble
    from cft.model.findings import Findings
    from cft.model.load import load


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'cft' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
