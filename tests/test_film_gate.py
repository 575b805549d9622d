"""What the file and the plain picture say for and against a frontal chest film."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cft
from cft.film.gate import Gate, is_example, of_dicom, of_notes, of_pixels
from cft.film.turn import OFFERS, turned

EXAMPLE = Path(cft.__file__).parent / "page" / "example.png"


def header(**said: str) -> Gate:
    values = dict.fromkeys(("modality", "body_part", "view_position", "age"), "")
    image_type = said.pop("image_type", "").split("\\")
    return of_dicom(**{**values, **said}, image_type=image_type)


def test_both_gates_together_have_the_graver_verdict_and_its_reasons_first():
    warned, refused = Gate("warn", ("a",), "mirror"), Gate("refuse", ("b", "a"))
    assert warned & refused == refused & warned == Gate("refuse", ("b", "a"), "mirror")
    assert Gate() & warned == warned
    assert Gate() & Gate() == Gate()


def test_it_becomes_plain_json():
    assert Gate("warn", ("a",), "mirror").to_dict() == {"verdict": "warn", "reasons": ["a"]}


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ({}, "pass"),
        ({"modality": "DX", "body_part": "CHEST", "view_position": "PA", "age": "045Y"}, "pass"),
        ({"modality": "cr", "body_part": "PORT CHEST"}, "pass"),
        ({"body_part": "Thorax"}, "pass"),
        ({"image_type": "DERIVED\\PRIMARY"}, "pass"),
        ({"age": "018Y"}, "pass"),
        ({"age": "nonsense"}, "pass"),
        ({"age": "²Y"}, "pass"),
        ({"modality": "CT"}, "refuse"),
        ({"modality": "ZZ"}, "warn"),
        ({"body_part": "HAND"}, "refuse"),
        ({"body_part": "CSPINE"}, "refuse"),
        ({"body_part": "UNHEARD OF"}, "warn"),
        ({"view_position": "RAO"}, "warn"),
        ({"view_position": "LLD"}, "warn"),
        ({"age": "017Y"}, "warn"),
        ({"age": "215M"}, "warn"),
        ({"age": "010D"}, "warn"),
        ({"image_type": "ORIGINAL\\PRIMARY\\LOCALIZER"}, "refuse"),
        ({"image_type": "DERIVED\\SECONDARY\\SCREEN SAVE"}, "warn"),
    ],
)
def test_the_header_of_a_dicom_file_speaks(said, verdict):
    gate = header(**said)
    assert gate.verdict == verdict
    assert (verdict == "pass") == (not gate.reasons)
    for reason in gate.reasons:
        assert reason[0].isupper()
        assert reason.endswith(".")


def test_no_text_of_the_file_is_in_a_reason():
    secret = "DOE^JANE"
    gate = header(modality=secret, body_part=secret, view_position=secret, image_type=secret)
    assert gate.reasons
    assert not any("DOE" in reason or "JANE" in reason for reason in gate.reasons)


def grey(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("pixels", "verdict"),
    [
        (grey((100, 100)), "pass"),
        (grey((100, 165)), "pass"),
        (grey((100, 180)), "warn"),
        (grey((260, 100)), "refuse"),
        (np.zeros((64, 64), np.float32), "refuse"),
        (np.full((64, 64), 0.7, np.float32), "refuse"),
        (np.round(grey((64, 64)) * 3) / 3, "refuse"),
        (grey((3000, 2500)), "pass"),
    ],
)
def test_the_plain_picture_speaks(pixels, verdict):
    assert of_pixels(pixels).verdict == verdict


def test_a_picture_in_colour_is_refused_and_a_little_colour_is_warned_of():
    rgb = np.repeat(np.random.default_rng(0).integers(0, 256, (64, 64, 1), np.uint8), 3, axis=2)
    assert cft.Radiograph.from_array(rgb).gate == Gate()
    rgb[:16, :8, 0], rgb[:16, :8, 1:] = 255, 0
    assert cft.Radiograph.from_array(rgb).gate.verdict == "warn"
    rgb[..., 0], rgb[..., 1:] = 255, 0
    assert cft.Radiograph.from_array(rgb).gate.verdict == "refuse"
    assert of_notes(()) == Gate()


def test_the_example_film_is_known_by_its_bytes_alone(tmp_path):
    copy = tmp_path / "patient.png"
    copy.write_bytes(EXAMPLE.read_bytes())
    film = cft.read_radiograph(copy)
    assert film.synthetic
    assert film.gate.verdict == "warn"
    assert "synthetic" in film.gate.reasons[0]
    other = bytearray(EXAMPLE.read_bytes())
    other[-20] ^= 1
    assert not is_example(bytes(other))
    assert not cft.Radiograph.from_array(film.pixels).synthetic


@pytest.mark.parametrize("turn", OFFERS)
def test_a_turn_is_undone_by_its_opposite(turn):
    back = {"turn right": "turn left", "turn left": "turn right"}.get(turn, turn)
    film = cft.Radiograph(grey((40, 50)))
    other = turned(film, turn)
    assert not np.array_equal(other.pixels, film.pixels)
    np.testing.assert_allclose(turned(other, back).pixels, film.pixels, atol=1e-6)
    assert other.notes
    assert film.notes == ()


@pytest.mark.parametrize(("turn", "spacing"), [("turn left", (0.1, 0.2)), ("mirror", (0.2, 0.1))])
def test_the_distance_between_pixels_is_turned_along(turn, spacing):
    film = cft.Radiograph(np.zeros((40, 50), np.float32), spacing=(0.2, 0.1))
    assert turned(film, turn).spacing == spacing


def test_turning_right_moves_the_top_to_the_right():
    pixels = np.zeros((40, 50), np.float32)
    pixels[0] = 1
    assert (turned(cft.Radiograph(pixels), "turn right").pixels[:, -1] == 1).all()
