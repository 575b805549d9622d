"""The calls of the page and of its API, as Gradio hands them on: uploads in, answers out.

The docstrings of the documented ones are what programs are told about them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cft.page import api, batch
from cft.page import study as studies
from cft.page.answers import check_gate, check_point, example_film, predict, show, show_together
from cft.page.line import Line
from cft.page.uploads import Film, Refused, Uploads

if TYPE_CHECKING:
    from cft.results import Model

__all__ = ["Calls"]


class Calls:
    """What visitors and programs may ask of one model; each raises `Refused` with a sentence."""

    def __init__(self, classifier: Model, uploads: Uploads, line: Line):
        self._classifier, self._uploads, self._line = classifier, uploads, line

    def predict_uploads(self, files: list, point: str = "", gate: str = "refuse") -> dict:
        """Findings of chest X-rays. Research software, not a medical device.

        Takes up to 20 uploaded films (PNG, JPEG, TIFF, BMP, WebP or DICOM, up to 50 MB each) and
        gives a JSON object: "model" (architecture, weights_sha256, trained_on), "disclaimer" and
        "films". Each film has "file" and either "error", a sentence, or "sentence" (what is found),
        "gate" (verdict: "pass", "warn" or "refuse"; reasons: sentences), "findings", most evidence
        first (label, probability in 0 to 1, score, operating_point, distance from it, positive,
        ruled in or out, figures of test films), "view", "notes", "height" and "width". The findings
        of a film that is refused are left out, unless gate is "off". The point is specific,
        balanced or sensitive, which operating points decide; empty for the model's own choice.
        """
        with self._answering(files) as films:
            check_gate(gate)
            check_point(self._classifier, point)
            return predict(self._classifier, films, point or None, gate)

    def predict_study(
        self, files: list, study: str = "one", point: str = "", gate: str = "refuse"
    ) -> dict:
        """Findings of studies, each of several films of one patient. Research software.

        Takes up to 20 uploaded films. study says which belong together: "one" (all are one study),
        "auto" (by DICOM study, else by name), "dicom", "name", or a list with a text for each film,
        equal for films of a study. Gives a JSON object: "model", "disclaimer" and
        "studies". Each has "study" (its name), "sentence", "scored" and "not_scored" (with
        reasons: lateral films, films that are refused or cannot be read), "findings" as of a film,
        each the maximum over the films that are scored, with the "file" that it comes from, and
        "films" as /predict gives them.
        """
        with self._answering(files) as films:
            check_gate(gate)
            check_point(self._classifier, point)
            return studies.predict_study(self._classifier, films, study, point or None, gate)

    def compare(self, prior: list, current: list, point: str = "", gate: str = "refuse") -> dict:
        """What has changed from a prior study to the current one. Research software.

        Takes the uploaded films of both, up to 20 together, and gives a JSON object: "model",
        "disclaimer", "prior" and "current" as /predict_study gives a study, and "changes", largest
        first. Each has "label", "prior" and "current" (probabilities), "difference" (of their
        logits), "repeatability" (what two films of the same state differ by: "limit", its "level"
        and interval, "pairs", "patients"; or null) and "verdict": "more", "less", "none" (no change
        beyond that), or null where nothing decides.
        """
        with self._answering([*(prior or ()), *(current or ())]) as films:
            check_gate(gate)
            check_point(self._classifier, point)
            first = len(prior or ())
            both = films[:first], films[first:]
            return studies.compare(self._classifier, *both, point or None, gate)

    def heat_map(self, files: list, label: str, gate: str = "refuse") -> str:
        """Where in a film the score of a finding comes from. Research software.

        Takes one uploaded film and one of the model's labels, and gives a PNG of the film with the
        heat map over it, as a data: address. Unless gate is "off" or "warn", a film that the gate
        refuses has none.
        """
        with self._answering(files) as films:
            check_gate(gate)
            return api.heat_map(self._classifier, films, label, gate)

    def gate_uploads(self, files: list) -> list:
        """Whether films would be answered. Research software, not a medical device.

        Takes up to 20 uploaded films and gives a list: of each "file" and either "error", a
        sentence, or "verdict" ("pass", "warn" or "refuse") and "reasons", sentences.
        """
        with self._answering(files) as films:
            return api.gates(self._classifier, films)

    def models(self) -> list:
        """The models that answer here: what they are, their labels and operating points."""
        return [api.model(self._classifier)]

    @contextlib.contextmanager
    def _answering(self, files: list) -> Iterator[list[Film]]:
        with self._uploads.reading(files) as films, self._line.timed(len(films)):
            yield films

    def show_uploads(self, files: list) -> str:
        with self._answering(files) as films:
            return show(self._classifier, films)

    def row_of_upload(self, files: list, salt: str = "") -> dict:
        with self._answering(files) as films:
            if len(films) != 1:
                raise Refused("A row is of one film.")
            return batch.row(self._classifier, films[0][1], salt)

    def show_both(self, current: list, prior: list) -> str:
        current, prior = current or [], prior or []
        with self._answering([*current, *prior]) as films:
            return show_together(self._classifier, films[: len(current)], films[len(current) :])

    def show_example(self) -> str:
        with self._line.timed(1):
            return show(self._classifier, [example_film()])
