"""What the report of one film says: the data of ``report.html``, at one choice of operating points.

The report is a page of its own that fetches nothing, to print or to keep. It names no patient and
no file: who prints it types in what it needs. ``report.js`` puts the picture and the date in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cft
from cft import results

if TYPE_CHECKING:
    from cft.results import Model

__all__ = ["report"]

# What the names of operating points mean.
_POINTS = {
    "specific": "specific: on validation films, 95 % of those without the finding lie below",
    "balanced": "balanced: the largest sensitivity + specificity on validation films",
    "sensitive": "sensitive: on validation films, 95 % of those with the finding lie above",
}


def report(
    classifier: Model, entry: dict[str, Any], findings: cft.Findings, choice: int
) -> dict[str, Any]:
    """The data of the template.

    Parameters
    ----------
    classifier
        The model that was used.
    entry
        What the page shows of the film, see ``cft.page.render``.
    findings
        The findings at the operating points of the report.
    choice
        Which of the choices these are.
    """
    rows = {row["label"]: row for row in entry["findings"]}
    above = findings.positives
    model = {
        "Network": classifier.facts.architecture,
        "Weights": f"SHA-256 {classifier.weights_sha256}",
        "Trained on": results.trained_on(classifier) or "not stated",
        "Software": f"cft {cft.__version__}",
    }
    if classifier.commit:
        model["Hub"] = f"{classifier.reference}, commit {classifier.commit}"
    return {
        "sentence": findings.sentence,
        "refused": findings.gate.verdict == "refuse",
        "warning": entry["warning"],
        "facts": entry["facts"],
        "rows": [
            {
                **rows[label],
                "view": rows[label]["views"][choice],
                "mark": above.index(label) + 1 if label in above else None,
            }
            for label in findings.order
        ],
        "point": findings.point and _POINTS.get(findings.point, findings.point),
        "tests": _test_sets(rows, choice),
        "model": model,
    }


def _test_sets(rows: dict[str, dict[str, Any]], choice: int) -> str:
    """The test films that the rates of the table are of."""
    names = (row["views"][choice]["tests"][:1] for row in rows.values())
    return " and ".join(dict.fromkeys(test["name"] for tests in names for test in tests))
