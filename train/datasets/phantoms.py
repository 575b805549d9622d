"""Chest films drawn by code, with known findings: a rehearsal of everything, without any data.

Patients have one to three films. What is on a film is known; with ``--missing reports``, the
default, the labels of training films are then hidden as in CheXpert, where reports mention what is
there and seldom what is not. Validation and test labels stay whole, as experts would give them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from train.datasets import reading
from train.datasets.labels import LabelTable, Paths, stable_uniform
from train.datasets.options import Request
from train.datasets.phantom_drawing import PHANTOM_FINDINGS, draw_phantom
from train.errors import DatasetError

_FILMS, _SIZE = 1500, 64
_SHARE = {
    "Cardiomegaly": 0.25,
    "Consolidation": 0.20,
    "Mass": 0.15,
    "Nodule": 0.20,
    "Pleural Effusion": 0.30,
    "Pneumothorax": 0.15,
    "Support Devices": 0.35,
}

# CheXpert's training films labelled 1, 0, uncertain and blank; masses and nodules are its "Lung
# Lesion".
_CHEXPERT = {
    "Cardiomegaly": (27000, 11116, 8087, 177211),
    "Consolidation": (14783, 28097, 27742, 152792),
    "Mass": (9186, 1270, 1488, 211470),
    "Nodule": (9186, 1270, 1488, 211470),
    "Pleural Effusion": (86187, 35396, 11628, 90203),
    "Pneumothorax": (19448, 56341, 3145, 144480),
    "Support Devices": (116001, 6137, 1079, 100197),
}
# How many findings a report leaves out cannot be told from those counts; this is assumed.
_LEFT_OUT = 0.1


def read(options: Request) -> LabelTable:
    """Draw the films; "phantoms", "phantom_size" and "missing" of the options say which."""
    films = _FILMS if options.phantoms is None else options.phantoms
    size = _SIZE if options.phantom_size is None else options.phantom_size
    missing = options.missing or "reports"
    if films < 1 or size < 16:
        raise DatasetError(
            f"{films} films of {size} pixels cannot be drawn; ask for at least 1, of at least 16"
        )
    names = [f"phantom-{number:06}" for number in range(films)]
    draws = stable_uniform(options.seed, "phantom", names, PHANTOM_FINDINGS)
    present = draws < [_SHARE[finding] for finding in PHANTOM_FINDINGS]
    patients = _patients(options.seed, names)
    table = reading.build_table(
        "phantoms",
        options,
        names=names,
        images=Paths(names),
        y=present.astype(np.float32),
        uncertain=np.zeros(present.shape, bool),
        label_names=PHANTOM_FINDINGS,
        patients=patients,
        studies=names,
        split=[""] * films,
        attributes={"view": np.full(films, "PA")},
        notes=["These are phantoms drawn by code, not films of patients."],
    )
    pixels = np.stack(
        [_draw(row, number, size, options.seed) for number, row in enumerate(present)]
    )
    table = replace(table, pixels=pixels)
    return _hide_as_reports_do(table, options.seed) if missing == "reports" else table


def _patients(seed: int, names: list[str]) -> list[str]:
    """Two films in five are another one of the patient before, who has three at most."""
    again = stable_uniform(seed, "phantom patients", names, [""])[:, 0] < 0.4
    patient, films, patients = -1, 3, []
    for same in again:
        if same and films < 3:
            films += 1
        else:
            patient, films = patient + 1, 1
        patients.append(f"patient-{patient:06}")
    return patients


def _draw(present: np.ndarray, number: int, size: int, seed: int) -> np.ndarray:
    findings = [name for name, there in zip(PHANTOM_FINDINGS, present, strict=True) if there]
    return draw_phantom(findings, size, np.random.default_rng([seed, number]))


def _hide_as_reports_do(table: LabelTable, seed: int) -> LabelTable:
    """Training labels as a report miner would give them: 1, 0, uncertain or nothing."""
    draws = stable_uniform(seed, "phantom reports", table.names.tolist(), table.label_names)
    training = table.split == "train"
    y, uncertain = table.y.copy(), table.uncertain.copy()
    for column, name in enumerate(table.label_names):
        positive, negative, doubtful, blank = _CHEXPERT[name]
        # Half of the uncertain marks are taken to stand on films with the finding.
        doubt_if_present = 0.5 * doubtful / (positive + 0.5 * doubtful)
        doubt_if_absent = 0.5 * doubtful / (negative + blank)
        there = table.y[:, column] == 1
        draw = draws[:, column]
        doubt = np.where(there, doubt_if_present, doubt_if_absent)
        hidden = np.where(there, _LEFT_OUT, blank / (negative + blank))
        uncertain[:, column] = training & (draw < doubt)
        unknown = training & (draw < doubt + (1 - doubt) * hidden)
        y[unknown, column] = np.nan
    note = "Hid training labels as CheXpert's reports do (--missing none: hide none)."
    return replace(table, y=y, uncertain=uncertain, notes=(*table.notes, note))
