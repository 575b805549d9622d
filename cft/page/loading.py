"""The page's model: loaded, and tried with the example film."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import cft
from cft.model.bundled import BUNDLED
from cft.model.selftest import SelfTest, self_test
from cft.threads import limit_threads

if TYPE_CHECKING:
    from cft.results import Model

__all__ = ["load_model", "self_tested"]


def load_model() -> tuple[Model, str]:
    """The model that ``CFT_MODEL`` names, else the bundled one.

    With ``CFT_FALLBACK=bundled`` in the environment also where the named one cannot be had; the
    reason is then the second value, for the page to show, and otherwise it is empty.
    """
    limit_threads()  # an engine takes as many as torch when a model is loaded
    try:
        return cft.load(), ""
    except cft.ModelFolderError as error:
        if os.environ.get("CFT_FALLBACK") != "bundled":
            raise
        print(f"The bundled model is used instead: {error}", file=sys.stderr)
        return cft.load(BUNDLED), str(error)


def self_tested(classifier: Model) -> SelfTest:
    """Whether the model gives its reference figures here; it says so loudly if it does not."""
    try:
        result = self_test(classifier)
    except cft.RadiographError as error:
        result = SelfTest(False, f"the example film has no figures ({error})")
    if result.passed is False:
        print(f"THE SELF-TEST FAILED: {result.sentence}.", file=sys.stderr, flush=True)
    return result
