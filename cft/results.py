"""Findings of many films -> the JSON document, the CSV table and the text that users get.

The command line and the page's API answer with the same document, made here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from cft import NOT_A_MEDICAL_DEVICE
from cft.errors import RadiographError
from cft.model.classifier import Classifier
from cft.model.findings import Findings

if TYPE_CHECKING:
    from cft.model.ensemble import Ensemble

    Model = Classifier | Ensemble

Result = Findings | RadiographError

#: What is shown beside a finding that no test shows to be better than chance.
NO_EVIDENCE = "no evidence"
#: What that means.
ABOUT_EVIDENCE = (
    "No evidence: on no test set did the model rank films with this finding above others better "
    "than chance may."
)


def document(classifier: Model, results: Iterable[tuple[str, Result]]) -> dict[str, Any]:
    """Everything about some films as one JSON document.

    Parameters
    ----------
    classifier
        The model that was used.
    results
        (name, findings or error) per film.

    Returns
    -------
    dict
        ``model`` (architecture, weights_sha256, reference and commit on the Hub or None,
        trained_on), ``films`` and ``disclaimer``. An
        entry of ``films`` has ``file`` and either ``error`` (one sentence) or what
        `Findings.to_dict` gives: ``findings`` (label, probability in [0, 1], score, operating
        point, positive, all operating points by name, evidence), most probable first,
        ``operating_point`` (which ones these are), ``view``, ``notes``, ``height``, ``width``.
    """
    return {
        "model": {
            "architecture": classifier.facts.architecture,
            "weights_sha256": classifier.weights_sha256,
            "reference": classifier.reference,
            "commit": classifier.commit,
            "trained_on": trained_on(classifier),
        },
        "films": [
            {"file": name, "error": str(result)}
            if isinstance(result, RadiographError)
            else {"file": name, **result.to_dict()}
            for name, result in results
        ],
        "disclaimer": NOT_A_MEDICAL_DEVICE,
    }


def trained_on(classifier: Model) -> str | None:
    """One sentence on the training data, from the model folder's provenance; None if unknown."""
    return classifier.facts.trained_on


def csv_rows(label_names: Iterable[str], results: Iterable[tuple[str, Result]]) -> Iterator[str]:
    """The lines of a CSV table, header first: one row a film, one column of probabilities a label.

    The column ``no_evidence`` names the labels that no test shows to be better than chance. A film
    that could not be read has empty cells and its reason in the column ``error``. Text that a
    spreadsheet would take for a formula gets an apostrophe in front.
    """
    labels = list(label_names)
    yield _csv_line(["file", *labels, "view", "notes", "no_evidence", "error"])
    for name, result in results:
        if isinstance(result, RadiographError):
            yield _csv_line([name, *[""] * len(labels), "", "", "", str(result)])
        else:
            numbers = [repr(result.probabilities[label]) for label in labels]
            unproven = "; ".join(label for label in labels if result.evidence[label])
            notes = "; ".join(result.notes)
            yield _csv_line([name, *numbers, result.view or "", notes, unproven, ""])


def _csv_line(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([_defused(cell) for cell in cells])
    return line.getvalue()


def _defused(cell: str) -> str:
    """A spreadsheet runs a cell that begins like a formula; after an apostrophe it is text.

    The rule is OWASP's against "CSV injection": a file name is anybody's. No number begins so,
    since probabilities are not negative.
    """
    return "'" + cell if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell


def table(name: str, findings: Findings) -> str:
    """A readable table of one film's findings, most probable first."""
    facts = [f for f in (findings.view, *findings.notes) if f]
    lines = [name + (f"  ({'; '.join(facts)})" if facts else "")]
    width = max(len(label) for label in findings.probabilities)
    for row in findings.to_dict()["findings"]:
        point, bar = row["operating_point"], "█" * round(20 * row["probability"])
        verdict = "" if point is None else f"{'above' if row['positive'] else 'below'} {point:.3f}"
        if row["evidence"]:
            verdict += f"  {NO_EVIDENCE}"
        lines.append(f"  {row['label']:<{width}}  {row['probability']:.4f}  {bar:<20}  {verdict}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def plain(findings: Findings) -> str:
    """``Name: 0.1234``, one line a finding, in the model's label order, with what it is worth."""
    marks = {label: f" ({NO_EVIDENCE})" if x else "" for label, x in findings.evidence.items()}
    return "".join(
        f"{label}: {p:.4f}{marks[label]}\n" for label, p in findings.probabilities.items()
    )
