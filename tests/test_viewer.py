"""What the viewer is given: greys, distances, the body; and the size of its scripts."""

from __future__ import annotations

import base64
import gzip
import io
import re

import numpy as np
import pytest
from PIL import Image

import cft
from cft.film.body import body
from cft.page import picture, render, server
from cft.page.picture import Picture
from tests.films import dataset, dicom, phantom


def shown(html: str, attribute: str) -> np.ndarray:
    address = re.search(rf'{attribute}="data:image/png;base64,([^"]+)"', html)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address))))


@pytest.fixture(scope="module")
def classifier(model_folder):
    return cft.load(model_folder, "cpu")


def test_the_two_planes_of_a_film_of_12_bits_are_its_greys():
    film = cft.read_radiograph(dicom(dataset(phantom(12, 96, 80))))
    seen = Picture.of(film, alone=True)
    deep = seen.upper.astype(int) * 256 + seen.lower
    assert np.abs(deep - 65535 * film.pixels.astype(float)).max() < 0.51
    assert len(np.unique(deep)) > 256


def test_a_film_of_8_bits_is_one_plane():
    film = cft.Radiograph.from_array(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    seen = Picture.of(film, alone=True)
    assert seen.lower is None
    assert (seen.upper == np.round(255 * film.pixels)).all()


def test_one_of_several_films_is_smaller_and_has_8_bits():
    pixels = np.random.default_rng(0).random((64, 1500), np.float32)
    seen = Picture.of(cft.Radiograph(pixels), alone=False)
    assert (seen.upper.shape, seen.lower) == ((44, 1024), None)


def test_a_film_over_the_limit_is_made_smaller_and_its_spacing_larger(monkeypatch):
    monkeypatch.setattr(picture, "ALONE", 40)
    seen = Picture.of(cft.Radiograph(np.zeros((80, 60), np.float32), spacing=(0.1, 0.2)), True)
    assert seen.upper.shape == (40, 30)
    assert seen.spacing == pytest.approx((0.2, 0.4))
    assert seen.reduction == 2


def test_a_film_comes_with_its_depth_and_its_spacing(classifier):
    pixels = phantom(12, 96, 80)
    data = dicom(dataset(pixels, PixelSpacing=[0.25, 0.5]))
    html = server.show(classifier, [("film.dcm", data)])
    assert 'data-spacing="0.25 0.5"' in html
    film = cft.read_radiograph(data)
    deep = shown(html, "<img src").astype(int) * 256 + shown(html, "data-lower")
    assert np.abs(deep - 65535 * film.pixels.astype(float)).max() < 0.51


def test_of_several_films_none_is_at_full_depth(classifier):
    data = dicom(dataset(phantom(12, 96, 80)))
    html = server.show(classifier, [("a", data), ("b", data)])
    assert html.count('data-lower=""') == 2


def test_the_body_is_what_lies_between_bright_parts_without_the_air_and_the_specks():
    film = np.zeros((96, 96), np.float32)
    film[20:90, 20:76] = 0.8
    film[30:80, 30:42] = film[30:80, 54:66] = 0.02  # lungs
    film[5, 5] = 1.0  # a speck
    found = body(film, (96, 96))
    expected = np.zeros((96, 96), bool)
    expected[20:90, 20:76] = True
    assert (found == expected).all()


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_a_film_without_contrast_is_all_body(grey):
    assert body(np.full((64, 64), grey, np.float32), (32, 32)).all()


def test_no_heat_map_is_drawn_on_the_air(classifier):
    film = np.zeros((96, 96), np.uint8)
    film[24:80, 24:72] = np.random.default_rng(3).integers(90, 255, (56, 48))
    html = server.show(classifier, [("film.png", film)])
    where = body(film / np.float32(255), (96, 96))
    assert not where.all()
    for address in re.findall(r'data-shares="data:image/png;base64,([^"]+)"', html):
        shares = np.asarray(Image.open(io.BytesIO(base64.b64decode(address))))
        assert shares.max() == 255
        assert not shares[~where].any()


def test_the_scripts_of_the_page_are_at_most_20_kb_when_compressed():
    assert len(gzip.compress(render.script().encode(), mtime=0)) <= 20_000
