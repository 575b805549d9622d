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
    "Classifier": "cft.classifier",
    "Ensemble": "cft.ensemble",
    "Findings": "cft.classifier",
    "load": "cft.classifier",
    "ModelFolderError": "cft.model_folder",
    "Radiograph": "cft.radiograph",
    "RadiographError": "cft.radiograph",
    "read_radiograph": "cft.radiograph",
}

if TYPE_CHECKING:
    from cft.classifier import Classifier, Findings, load
    from cft.ensemble import Ensemble
    from cft.model_folder import ModelFolderError
    from cft.radiograph import Radiograph, RadiographError, read_radiograph


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'cft' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
