"""What the page says of its model, and of how programs ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cft import results
from cft.labels import DATASETS
from cft.model.category import point_names
from cft.model.measured import Figures, TestSet
from cft.page.template import HERE, fill
from cft.page.text import data_address, plain_label

if TYPE_CHECKING:
    from cft.results import Model

__all__ = ["about_html", "api_html"]

# Title of a program that asks the page -> its file in the folder `snippets`.
_SNIPPETS = {
    "Python (pip install gradio_client)": "python.txt",
    "curl": "curl.txt",
    "JavaScript (Node.js)": "javascript.txt",
    "A study and its prior, in Python": "study_python.txt",
    "A study, with curl": "study_curl.txt",
    "A study, in JavaScript": "study_javascript.txt",
}


def about_html(classifier: Model) -> str:
    """What the model is, how good it was found to be, and how to read what it says."""
    channels, height, width = classifier.preprocess.input_size
    facts = {
        "Network": f"{classifier.facts.architecture}, input {width} × {height} pixels, "
        + ("one channel" if channels == 1 else f"{channels} channels"),
        "Weights": f"SHA-256 {classifier.weights_sha256}",
        "Trained on": results.trained_on(classifier) or "not stated",
    }
    if classifier.commit:
        facts["Hub"] = f"{classifier.reference}, commit {classifier.commit}"
    unproven = {label for label, row in classifier.categories.items() if row.evidence}
    test_sets = [_test_set(tested, unproven) for tested in classifier.facts.test_sets]
    return fill(
        "about",
        facts=facts,
        test_sets=test_sets,
        points=point_names(classifier.categories),
        unproven=[plain_label(label) for label in classifier.label_names if label in unproven],
    )


def api_html(max_films: int) -> str:
    """How programs ask the page."""
    snippets = [
        (title, (HERE / "snippets" / name).read_text(encoding="utf-8"))
        for title, name in _SNIPPETS.items()
    ]
    schema = data_address((HERE / "schema.json").read_bytes(), "application/schema+json")
    return fill("api", snippets=snippets, schema=schema, max_films=max_films)


def _test_set(tested: TestSet, unproven: set[str]) -> dict[str, Any]:
    """One table of ``about.html``."""
    rows = [
        (plain_label(label), row, label in unproven) for label, row in tested.categories.items()
    ]
    if tested.mean:
        rows.append(("Mean", tested.mean, False))
    rows_of = {"film": "films", "study": "studies"}.get(tested.row, "rows")
    return {
        "name": DATASETS.get(tested.name, tested.name)
        + ("" if tested.rows is None else f": {tested.rows} {rows_of}"),
        "level": "" if tested.level is None else f"{100 * tested.level:g} % ",
        "rows": [
            {
                "name": name,
                "positives": "" if row.positives is None else str(row.positives),
                "unproven": mark,
                **_auroc(row),
            }
            for name, row, mark in rows
        ],
    }


def _auroc(row: Figures) -> dict[str, str]:
    if row.auroc is None:
        return {"auroc": "not defined", "interval": ""}
    known = row.low is not None and row.high is not None
    interval = f"{row.low:.2f} to {row.high:.2f}" if known else ""
    return {"auroc": f"{row.auroc:.3f}", "interval": interval}
