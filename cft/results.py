"""Findings of many films -> the JSON document, the CSV table and the text that users get.

The command line and the page's API answer with the same document, made here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cft import NOT_A_MEDICAL_DEVICE
from cft.errors import RadiographError
from cft.model.change import change_sentence
from cft.model.classifier import Classifier
from cft.model.findings import Findings
from cft.model.study import Study

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

# Columns of the table that say what the numbers come to at the operating points in use.
_WORDS = ("operating_point", "above", "unsure", "sentence")
# What is known besides: of the film, of the model, and why a film has no numbers.
_FACTS = ("view", "notes", "no_evidence", "gate", "thresholds", "weights_sha256", "error")
# What follows from stated prevalences; only where some are.
_VALUES = ("prevalence", "ppv", "npv")


def document(
    classifier: Model, results: Iterable[tuple[str, Result]], gate: str = "refuse"
) -> dict[str, Any]:
    """Everything about some films as one JSON document.

    Parameters
    ----------
    classifier
        The model that was used.
    results
        (name, findings or error) per film.
    gate
        One of `GATES`: what becomes of the findings of a film that the gate refuses.

    Returns
    -------
    dict
        ``model`` (architecture, weights_sha256, reference and commit on the Hub or None,
        trained_on), ``films`` and ``disclaimer``. An
        entry of ``films`` has ``file`` and either ``error`` (one sentence) or what
        `Findings.to_dict` gives: ``sentence`` (what is found), ``gate`` (``verdict``,
        ``reasons``), ``findings`` (see below), most evidence first, ``operating_point`` (which ones
        these are), ``view``, ``notes``, ``height``, ``width``. ``findings`` is empty if they are
        withheld.

        A finding has ``label``, ``probability`` in [0, 1], ``score``, ``operating_point``,
        ``distance`` (of the probability above it, in logits), ``positive`` (None where nothing
        decides), ``ruled`` ("in", "out", "unsure" or None), ``operating_points`` by name,
        ``evidence``, ``test`` (what test films say at this point: ``test_set``, ``positives``,
        ``negatives``, ``level``, and ``sensitivity``, ``specificity`` and ``auroc`` each with
        ``_low`` and ``_high``; or None), ``predictive_values`` at the ``prevalence`` that was
        stated, else the training films' (``ppv``, ``npv``, each with ``_low`` and ``_high``; or
        None), and ``members`` (an ensemble's members' probabilities; None for a single network).
    """
    return {
        "model": _model(classifier),
        "films": [_film(name, result, gate) for name, result in results],
        "disclaimer": NOT_A_MEDICAL_DEVICE,
    }


def studies(
    classifier: Model, named: Iterable[tuple[str, Study]], gate: str = "refuse"
) -> dict[str, Any]:
    """Everything about some studies as one JSON document.

    Parameters
    ----------
    classifier
        The model that was used.
    named
        (name, study) each.
    gate
        One of `GATES`, for the films; a study was made with one.

    Returns
    -------
    dict
        ``model`` and ``disclaimer`` as of `document`, and ``studies``. An entry has ``study`` (its
        name), ``sentence``, ``operating_point``, ``scored`` (files), ``not_scored`` (``file``,
        ``reason``), ``findings`` as of a film, each with the ``file`` that shows most of it, and
        ``films`` as of `document`.
    """
    return {
        "model": _model(classifier),
        "studies": [_study(name, study, gate) for name, study in named],
        "disclaimer": NOT_A_MEDICAL_DEVICE,
    }


def comparison(
    classifier: Model, prior: Study, current: Study, gate: str = "refuse"
) -> dict[str, Any]:
    """A prior and a current study as one JSON document.

    Returns
    -------
    dict
        ``model`` and ``disclaimer`` as of `document`; ``prior`` and ``current`` as of `studies`;
        ``sentence``; and ``changes``, largest first, empty where either study has no film that
        counts. A change has ``label``, ``prior`` and ``current`` (probabilities), ``difference``
        (of their logits), ``repeatability`` (what two films of the same state differ by: ``limit``
        and its ``level``, ``low``, ``high``, ``pairs``, ``patients``; or None), ``evidence``, and
        ``verdict``: "more", "less", "none" (no change beyond that), or None where nothing decides.
    """
    found = current.changes(prior)
    largest = sorted(found.values(), key=lambda change: -abs(change.difference))
    return {
        "model": _model(classifier),
        "prior": _study("prior", prior, gate),
        "current": _study("current", current, gate),
        "sentence": change_sentence(found),
        "changes": [change.to_dict() for change in largest],
        "disclaimer": NOT_A_MEDICAL_DEVICE,
    }


def _model(classifier: Model) -> dict[str, Any]:
    return {
        "architecture": classifier.facts.architecture,
        "weights_sha256": classifier.weights_sha256,
        "reference": classifier.reference,
        "commit": classifier.commit,
        "trained_on": trained_on(classifier),
    }


def _film(name: str, result: Result, gate: str) -> dict[str, Any]:
    if isinstance(result, RadiographError):
        return {"file": name, "error": str(result)}
    return {"file": name, **_entry(result, gate)}


def _study(name: str, study: Study, gate: str) -> dict[str, Any]:
    films = [_film(file, result, gate) for file, result in study.films]
    return {"study": name, **study.to_dict(), "films": films}


#: What may become of a film that the gate refuses: its numbers are withheld, or shown with the
#: reasons; "off" says nothing about the gate where there is a choice.
GATES = ("refuse", "warn", "off")


def withheld(findings: Findings, gate: str) -> bool:
    """Whether the numbers of a film are not to be shown; `gate` is one of `GATES`."""
    return gate == "refuse" and findings.gate.verdict == "refuse"


def _entry(findings: Findings, gate: str) -> dict[str, Any]:
    entry = {**findings.to_dict(), "sentence": _sentence(findings, gate)}
    return {**entry, "findings": []} if withheld(findings, gate) else entry


def _sentence(findings: Findings, gate: str) -> str:
    """What stands first; `gate` is one of `GATES`."""
    return findings.sentence if gate == "refuse" else findings.sentence_of_numbers


def gate_lines(findings: Findings) -> list[str]:
    """What a reader is told before the numbers, or in their place; nothing of a film that passes.

    The first line says what it means, the others why.
    """
    if findings.gate.verdict == "pass":
        return []
    head = "Not answered." if findings.gate.verdict == "refuse" else "Read with caution."
    return [head, *findings.gate.reasons]


def trained_on(classifier: Model) -> str | None:
    """One sentence on the training data, from the model folder's provenance; None if unknown."""
    return classifier.facts.trained_on


def csv_rows(
    label_names: Iterable[str],
    results: Iterable[tuple[str, Result]],
    gate: str = "refuse",
    weights: str = "",
    prevalences: Mapping[str, float] | None = None,
) -> Iterator[str]:
    """The lines of a CSV table, header first: one row a film, one column of probabilities a label.

    ``operating_point`` names the points in use, ``above`` the labels above theirs, ``unsure`` those
    neither ruled in nor ruled out, ``sentence`` says it in words, and ``no_evidence`` names the
    labels that no test shows to be better than chance. The column ``gate`` has the verdict and,
    after a colon, the reasons; the numbers of a film that is refused are blank, unless `gate`, one
    of `GATES`, is another than "refuse". ``thresholds`` has the operating points in use as numbers,
    ``weights_sha256`` is `weights`. Where `prevalences` are stated, label -> share, the columns
    ``prevalence``, ``ppv`` and ``npv`` follow ``sentence``, with a number for each label that is
    named; the results have to be `Findings.among` them. A film that could not be read has empty
    cells and its reason in the column ``error``. Text that a spreadsheet would take for a formula
    gets an apostrophe in front.
    """
    labels = list(label_names)
    worth = _VALUES if prevalences else ()
    yield _csv_line(["file", *labels, *_WORDS, *worth, *_FACTS])
    for name, result in results:
        if isinstance(result, RadiographError):
            empty = [""] * (len(labels) + len(_WORDS) + len(worth) + len(_FACTS) - 1)
            yield _csv_line([name, *empty, str(result)])
        else:
            hidden = withheld(result, gate)
            numbers = ["" if hidden else repr(result.probabilities[label]) for label in labels]
            unproven = "; ".join(label for label in labels if result.evidence[label])
            notes = "; ".join(result.notes)
            words = _in_words(result, gate)
            thresholds = "; ".join(
                f"{label} {point:.6g}"
                for label, point in result.operating_points.items()
                if point is not None
            )
            facts = [result.view or "", notes, unproven, gate_cell(result), thresholds, weights, ""]
            values = _values(result, hidden) if worth else []
            yield _csv_line([name, *numbers, *words, *values, *facts])


def gate_cell(findings: Findings) -> str:
    """The gate in one cell of a table: the verdict and, after a colon, the reasons."""
    return ": ".join(filter(None, [findings.gate.verdict, " ".join(findings.gate.reasons)]))


def _in_words(findings: Findings, gate: str) -> list[str]:
    """The cells of the columns `_WORDS`; of a film that is refused, the sentence alone."""
    sentence = _sentence(findings, gate)
    if withheld(findings, gate):
        return ["", "", "", sentence]
    above, unsure = ("; ".join(labels) for labels in (findings.positives, findings.unsure))
    return [findings.point or "", above, unsure, sentence]


def prevalence_cell(prevalences: Mapping[str, float]) -> str:
    """Stated prevalences in one cell of a table: the label and the share."""
    return "; ".join(f"{label} {share:.6g}" for label, share in prevalences.items())


def _values(findings: Findings, hidden: bool) -> list[str]:
    """The cells of the columns `_VALUES`."""
    worth = {label: findings.predictive_values(label) for label in findings.prevalences}
    ppv, npv = (
        "; ".join(f"{label} {value:.6g}" for label, value in values if value is not None)
        for values in (
            [(label, x and x.ppv) for label, x in worth.items()],
            [(label, x and x.npv) for label, x in worth.items()],
        )
    )
    cell = prevalence_cell(findings.prevalences)
    return [cell, "", ""] if hidden else [cell, ppv, npv]


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


def table(name: str, findings: Findings, gate: str = "refuse") -> str:
    """A readable table of one film's findings: what is found, then all of them by evidence.

    `gate` is one of `GATES`.
    """
    facts = [f for f in (findings.view, *findings.notes) if f]
    lines = [name + (f"  ({'; '.join(facts)})" if facts else "")]
    if gate != "off":
        lines += [f"  {line}" for line in gate_lines(findings)]
    if withheld(findings, gate):
        return "\n".join(lines) + "\n"
    lines.append(f"{_sentence(findings, gate)}.")
    rows = findings.to_dict()["findings"]
    width = max(len(label) for label in findings.probabilities)
    tested = [row["test"] for row in rows if row["test"]]
    if tested:
        lines.append(f"  {'':<{width + 52}}{_TESTED}")
    for row in rows:
        point = row["operating_point"]
        words = "" if point is None else f"{'above' if row['positive'] else 'below'} {point:.3f}"
        if row["evidence"]:
            words = NO_EVIDENCE
        elif row["ruled"] == "unsure":
            words += " unsure"
        lines.append(
            f"  {row['label']:<{width}}  {row['probability']:.4f}  {_bar(row['distance'])}"
            f"  {words:<20}  {_measured(row['test'])}"
        )
    lines += [f"  {line}" for line in _worth_lines(findings)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _worth_lines(findings: Findings) -> Iterator[str]:
    """A line for each finding of stated prevalence: how often a result of it is right."""
    for label, share in findings.prevalences.items():
        values = findings.predictive_values(label)
        if findings.evidence[label]:
            worth = NO_EVIDENCE
        elif values is None:
            worth = "unknown, no test films say how often the model is right"
        else:
            above = _in_a_hundred(values.ppv, values.ppv_low, values.ppv_high)
            below = _in_a_hundred(values.npv, values.npv_low, values.npv_high)
            worth = f"of 100 films above the point {above} have it, of 100 below {below} do not"
        yield f"{label} where {100 * share:.3g} of 100 have it: {worth}"


def _in_a_hundred(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    ends = "" if low is None or high is None else f" ({100 * low:.1f}-{100 * high:.1f})"
    return f"{100 * value:.1f}{ends}"


def study_table(name: str, study: Study) -> str:
    """A readable table of a study's findings, below its films and why some do not count."""
    lines = [f"{name}: {len(study.films)} film{'s' if len(study.films) > 1 else ''}"]
    for place, (file, _) in enumerate(study.films):
        reason = study.left_out.get(place)
        lines.append(f"  {file}" + (f"  not scored: {reason}" if reason else ""))
    if study.findings is None:
        return "\n".join([*lines, f"{study.sentence}."]) + "\n"
    return "\n".join(lines) + "\n" + table("The study", study.findings, "off")


#: Evidence beyond this many logits fills the bar: odds twenty times those of the operating point.
FULL_BAR = 3.0

_HALF = 10  # characters on each side of the operating point
_TESTED = "sensitivity        specificity        AUROC, on test films"


def _bar(distance: float | None) -> str:
    """The distance from the operating point, which is the stroke in the middle."""
    if distance is None:
        return " " * (2 * _HALF + 1)
    length = round(_HALF * min(1.0, abs(distance) / FULL_BAR))
    left, right = ("", "█" * length) if distance >= 0 else ("░" * length, "")
    return f"{left:>{_HALF}}|{right:<{_HALF}}"


def _measured(tested: dict[str, Any] | None) -> str:
    if tested is None:
        return ""
    names = ("sensitivity", "specificity", "auroc")
    return "".join(f"{_interval(tested, name):<19}" for name in names).rstrip()


def _interval(tested: dict[str, Any], name: str) -> str:
    """``.44 (.31-.57)``."""
    value, low, high = (tested[name + end] for end in ("", "_low", "_high"))
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if low is None or high is None else f" ({low:.2f}-{high:.2f})")


def plain(findings: Findings) -> str:
    """``Name: 0.1234``, one line a finding, in the model's label order, with what it is worth."""
    marks = {label: f" ({NO_EVIDENCE})" if x else "" for label, x in findings.evidence.items()}
    return "".join(
        f"{label}: {p:.4f}{marks[label]}\n" for label, p in findings.probabilities.items()
    )
