"""May a film be answered? `Gate`, and what the file and the plain picture say about it.

The question is whether the picture is one frontal chest radiograph of an adult, upright, neither
mirrored nor inverted, whole, and no photograph of a screen. What the model's own features say is
`cft.model.gate`'s part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = [
    "COLOUR",
    "MOSTLY_COLOUR",
    "OTHER_MODALITIES",
    "PASS",
    "SYNTHETIC",
    "VERDICTS",
    "Gate",
    "Turn",
    "Verdict",
    "is_example",
    "of_dicom",
    "of_notes",
    "of_pixels",
]

Verdict = Literal["pass", "warn", "refuse"]
#: What makes a film upright that lies in another way; see `cft.film.turn`.
Turn = Literal["turn right", "turn left", "turn around", "mirror", "invert"]

#: From the best to the gravest.
VERDICTS: tuple[Verdict, ...] = ("pass", "warn", "refuse")


@dataclass(frozen=True)
class Gate:
    """Whether a film may be answered.

    Attributes
    ----------
    verdict
        "pass": nothing speaks against it. "warn": the findings may be wrong, for the reasons given.
        "refuse": the picture is not one that the model was made for.
    reasons
        One sentence each, the gravest first; none if the verdict is "pass". Never anything of the
        patient's.
    turn
        What would make the film upright, where that is certain; None otherwise. It is for a person
        to do it.
    """

    verdict: Verdict = "pass"
    reasons: tuple[str, ...] = ()
    turn: Turn | None = None

    def __and__(self, other: Gate) -> Gate:
        """Both together: the graver verdict, and all reasons, those of the graver first."""
        first, second = self, other
        if VERDICTS.index(other.verdict) > VERDICTS.index(self.verdict):
            first, second = other, self
        reasons = tuple(dict.fromkeys(first.reasons + second.reasons))
        return Gate(first.verdict, reasons, first.turn or second.turn)

    def to_dict(self) -> dict[str, object]:
        """As plain JSON types."""
        return {"verdict": self.verdict, "reasons": list(self.reasons)}


#: Nothing speaks against the film.
PASS = Gate()


def _warn(reason: str) -> Gate:
    return Gate("warn", (reason,))


def _refuse(reason: str) -> Gate:
    return Gate("refuse", (reason,))


# ---------------------------------------------------------------------- the example film

# Size in bytes and SHA-256 of the film that comes with the package, `cft/page/example.png`.
_EXAMPLE = (134721, "aeb4af997b00e56a07c783616a9fa9b9d6f129fd233d74fc7eec8105e1356808")
#: The gate of that film. It is no radiograph, and yet it is there to be answered.
SYNTHETIC = _warn(
    "This is the synthetic example film, drawn by a program: it shows no patient, and findings in "
    "it mean nothing."
)


def is_example(data: bytes) -> bool:
    """Whether the bytes of a file are those of the example film."""
    return len(data) == _EXAMPLE[0] and hashlib.sha256(data).hexdigest() == _EXAMPLE[1]


# ------------------------------------------------------------------- what the file says

# Modality (PS3.3 C.7.3.1.1.1): radiographs, and what says nothing.
_RADIOGRAPHS = {"", "CR", "DX", "RG", "RF", "OT", "SC"}
OTHER_MODALITIES = {
    "CT": "computed tomography",
    "MR": "magnetic resonance",
    "US": "ultrasound",
    "NM": "nuclear medicine",
    "PT": "positron emission tomography",
    "MG": "mammography",
    "XA": "angiography",
    "IO": "a picture of teeth",
    "PX": "a panoramic picture of the jaws",
    "BMD": "a measurement of bone density",
    "ES": "endoscopy",
    "GM": "microscopy",
    "SM": "microscopy",
    "OP": "a photograph of an eye",
    "XC": "a photograph",
}

# Body Part Examined (PS3.16 annex L), by what its text holds; longer ones before those in them.
_CHEST = ("CHEST", "THORAX", "LUNG", "THORAC", "RIB", "STERNUM", "HEART", "TORSO")
_OTHER_PARTS = {
    "ABD": "an abdomen",
    "ANKLE": "an ankle",
    "ARM": "an arm",
    "BREAST": "a breast",
    "SPINE": "a spine",
    "CLAVICLE": "a clavicle",
    "ELBOW": "an elbow",
    "EXTREMITY": "a limb",
    "FEMUR": "a thigh",
    "FINGER": "a finger",
    "FOOT": "a foot",
    "FOREARM": "a forearm",
    "HAND": "a hand",
    "HEAD": "a head",
    "HIP": "a hip",
    "HUMERUS": "an upper arm",
    "JAW": "a jaw",
    "KNEE": "a knee",
    "LEG": "a leg",
    "NECK": "a neck",
    "PELVIS": "a pelvis",
    "SHOULDER": "a shoulder",
    "SINUS": "sinuses",
    "SKULL": "a skull",
    "WRIST": "a wrist",
}

# View Position (PS3.3 C.8.1.1.1, C.8.11.5): views that are neither frontal nor a plain lateral one.
_OBLIQUE = {"RAO", "LAO", "RPO", "LPO", "RLO", "LLO", "OBLIQUE"}
_DECUBITUS = {"RLD", "LLD"}

_ADULT = 18
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1}


def of_dicom(
    modality: str, body_part: str, view_position: str, age: str, image_type: Collection[str]
) -> Gate:
    """What the header of a DICOM file says; empty texts say nothing.

    Parameters
    ----------
    modality, body_part, view_position, age, image_type
        Values of Modality, BodyPartExamined, ViewPosition, PatientAge and ImageType.

    Returns
    -------
    Gate
        It holds no text of the file.
    """
    return (
        _of_modality(modality.upper())
        & _of_body_part(body_part.upper())
        & _of_view(view_position.upper())
        & _of_age(age.upper())
        & _of_image_type({value.upper() for value in image_type})
    )


def _of_modality(modality: str) -> Gate:
    if modality in _RADIOGRAPHS:
        return Gate()
    if name := OTHER_MODALITIES.get(modality):
        return _refuse(f"The file says that this is {name}, not a radiograph.")
    return _warn("The file does not say that this is a radiograph but something else.")


def _of_body_part(part: str) -> Gate:
    if not part or any(word in part for word in _CHEST):
        return Gate()
    longest = sorted(_OTHER_PARTS, key=len, reverse=True)
    if word := next((word for word in longest if word in part), None):
        return _refuse(f"The file says that this shows {_OTHER_PARTS[word]}, not a chest.")
    return _warn("The file names another part of the body than the chest.")


def _of_view(view: str) -> Gate:
    if view in _OBLIQUE:
        return _warn("The file says that this is an oblique view; the model knows frontal ones.")
    if view in _DECUBITUS:
        return _warn("The file says that the patient lay on one side; few such films are known.")
    return Gate()


def _of_age(age: str) -> Gate:
    """An age string is such as 018M or 045Y (PS3.5 6.2)."""
    number, unit = age[:-1], age[-1:]
    if not number.isascii() or not number.isdigit() or unit not in _YEARS:
        return Gate()
    if int(number) * _YEARS[unit] < _ADULT:
        return _warn("The file says that the patient is a child; the model knows mostly adults.")
    return Gate()


def _of_image_type(values: set[str]) -> Gate:
    if "LOCALIZER" in values:
        return _refuse("The file says that this is a localizer, not a radiograph.")
    if values & {"SCREEN SAVE", "SCREENSHOT", "SCREEN"}:
        return _warn("The file says that this is a copy of a screen.")
    return Gate()


# ---------------------------------------------------------------- what the picture says

#: Notes of the reader on colour, see `cft.film.grey`.
COLOUR, MOSTLY_COLOUR = "colour turned into grey", "much of it is in colour"


def of_notes(notes: Collection[str]) -> Gate:
    """What the notes of the reader of a picture say."""
    if MOSTLY_COLOUR in notes:
        return _refuse("The picture is in colour, so it is no radiograph.")
    if COLOUR in notes:
        return _warn("A part of the picture is in colour, which no film is.")
    return Gate()


# Longer side by shorter side. Detectors have up to 1.25; films that are cut, more.
_LONG, _VERY_LONG = 1.7, 2.5
# Of grey levels. Films have over a hundred; drawings, pages and masks a few.
_LEVELS, _FEW_LEVELS = 256, 24
# Greys from the 1st to the 99th percentile that a picture needs to show anything.
_FLAT = 0.05
# Pixels a side that are looked at, so that a film of 64 megapixels takes no longer.
_LOOKED_AT = 256


def of_pixels(pixels: np.ndarray) -> Gate:
    """What the plain picture says.

    Parameters
    ----------
    pixels
        (H, W) float32 in [0, 1].
    """
    height, width = pixels.shape
    ratio = max(height, width) / min(height, width)
    if ratio > _VERY_LONG:
        return _refuse(f"One side of the picture is {ratio:.1f} times the other; no chest is so.")
    shape = Gate()
    if ratio > _LONG:
        shape = _warn(f"One side of the picture is {ratio:.1f} times the other; is it cut?")
    down, across = (max(1, side // _LOOKED_AT) for side in (height, width))
    sample = pixels[::down, ::across]
    low, high = np.percentile(sample, (1, 99))
    if high - low < _FLAT:
        return _refuse("The picture is blank.")
    levels = np.count_nonzero(np.bincount((sample * (_LEVELS - 1)).astype(np.intp).ravel()))
    if levels < _FEW_LEVELS:
        return _refuse(f"The picture has no more than {levels} greys, as drawings and text have.")
    return shape
