"""Drawn films: the findings asked for show, and nothing else changes."""

import numpy as np
import pytest

from cft.labels import DESCRIPTIONS
from train.datasets import DatasetError, missing_images, read_dataset
from train.datasets.phantom_drawing import PHANTOM_FINDINGS, draw_phantom


def draw(*findings: str, size: int = 128, seed: int = 0) -> np.ndarray:
    return draw_phantom(findings, size, np.random.default_rng(seed)).astype(np.float32)


def blocks(film: np.ndarray, size: int) -> np.ndarray:
    """(size, size) means of square blocks: the independent way to a smaller film."""
    factor = len(film) // size
    return film.reshape(size, factor, size, factor).mean((1, 3))


@pytest.mark.parametrize(
    ("findings", "size", "message"),
    [(["Edema"], 64, "cannot draw 'Edema'; choose from"), ([], 15, "15 pixels is too small")],
)
def test_what_cannot_be_drawn_is_refused(findings, size, message):
    with pytest.raises(ValueError, match=message):
        draw_phantom(findings, size, np.random.default_rng(0))


@pytest.mark.parametrize(
    "options",
    [{"phantoms": 0}, {"phantom_size": 15}, {"missing": "some"}, {"min_width": 10}],
)
def test_phantoms_that_cannot_be_are_refused(options):
    with pytest.raises(DatasetError):
        read_dataset(None, None, **options)


@pytest.mark.parametrize("size", [32, 64, 100])
def test_a_film_has_black_corners_dark_lungs_and_a_white_spine(size):
    film = draw(size=size) / 255
    assert draw_phantom((), size, np.random.default_rng(0)).dtype == np.uint8
    assert film.shape == (size, size)

    def around(x: float, y: float) -> float:
        row, column = round((y + 1) / 2 * (size - 1)), round((x + 1) / 2 * (size - 1))
        return film[row : row + 2, column : column + 2].mean()

    assert around(-0.97, -0.97) < 0.1
    assert around(-0.45, 0.0) < 0.55 < 0.7 < around(0.0, 0.4)
    assert around(0.45, -0.2) < 0.6


@pytest.mark.parametrize("finding", PHANTOM_FINDINGS)
def test_each_finding_shows_above_the_grain_at_the_smallest_training_size(finding):
    for seed in range(12):
        change = np.abs(draw(finding, size=64, seed=seed) - draw(size=64, seed=seed))
        assert (change > 12).sum() >= 3  # levels of 255; the grain is the same in both films
        assert (change > 12).mean() < 0.4


def test_the_same_patient_is_drawn_with_and_without_a_finding():
    whole, ill = draw(), draw("Nodule", "Pleural Effusion")
    np.testing.assert_array_equal(whole[:30], ill[:30])  # neck and shoulders
    assert (whole[64:] != ill[64:]).any()


def test_cardiomegaly_is_a_heart_more_than_half_as_wide_as_the_chest():
    def heart_to_chest(film: np.ndarray) -> float:
        """Widths on the rows of the heart's middle: not lung, within the lungs' outer borders."""
        rows = film[148:164].mean(0)
        dark = np.flatnonzero(rows < 150)
        inside = dark[(dark > 25) & (dark < 231)]
        return np.diff(inside).max() / (inside[-1] - inside[0])

    for seed in range(8):
        assert heart_to_chest(draw(size=256, seed=seed)) < 0.5
        assert heart_to_chest(draw("Cardiomegaly", size=256, seed=seed)) > 0.5


@pytest.mark.parametrize("findings", [(), PHANTOM_FINDINGS])
def test_a_small_film_is_the_large_one_seen_from_afar(findings):
    small, large = draw(*findings, size=64), draw(*findings, size=512)
    difference = np.abs(blocks(large, 32) - blocks(small, 32))
    assert np.median(difference) < 2
    assert difference.mean() < 5


def test_the_same_seed_draws_the_same_films_and_another_one_others():
    first, again, other = (read_dataset(None, None, seed=s, phantoms=20) for s in (1, 1, 2))
    for part in ("pixels", "y", "uncertain", "split", "patients"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
    assert (first.pixels != other.pixels).any(axis=(1, 2)).all()


def test_phantoms_are_the_data_when_none_is_named():
    table = read_dataset(None, None, phantoms=30, phantom_size=32)
    assert table.dataset == "phantoms"
    assert table.pixels.shape == (30, 32, 32)
    assert table.label_names == PHANTOM_FINDINGS
    assert set(PHANTOM_FINDINGS) <= set(DESCRIPTIONS)
    assert "phantoms drawn by code" in table.notes[0]
    assert not missing_images(table).any()
    part = table.subset(table.split == "train")
    np.testing.assert_array_equal(part.pixels, table.pixels[table.split == "train"])


@pytest.mark.slow
def test_training_labels_are_hidden_as_reports_do_and_the_others_are_whole():
    shown = read_dataset(None, None, phantoms=400, phantom_size=16, missing="none")
    hidden = read_dataset(None, None, phantoms=400, phantom_size=16)
    training = shown.split == "train"
    assert not np.isnan(shown.y).any()
    np.testing.assert_array_equal(shown.pixels, hidden.pixels)
    np.testing.assert_array_equal(shown.y[~training], hidden.y[~training])
    known = ~np.isnan(hidden.y)
    np.testing.assert_array_equal(hidden.y[known], shown.y[known])
    told = {side: known[training & (shown.y[:, 0] == side), 0].mean() for side in (0, 1)}
    # CheXpert's cardiomegaly: 11,116 of 188,327 films without the mark or the finding are
    # labelled 0; nine findings in ten that are not doubted are told.
    assert abs(told[0] - 0.059) < 0.05
    assert abs(told[1] - 0.9 * 27000 / (27000 + 8087 / 2)) < 0.16
    assert 0 < hidden.uncertain[training].mean() < 0.1
    assert not hidden.uncertain[~training].any()


def test_patients_have_one_to_three_films_and_are_on_one_side_of_the_split():
    table = read_dataset(None, None, phantoms=150, phantom_size=16)
    films = np.unique(table.patients, return_counts=True)[1]
    assert set(films.tolist()) == {1, 2, 3}
    assert len(set(zip(table.patients.tolist(), table.split.tolist(), strict=True))) == len(films)
    assert set(table.split.tolist()) == {"train", "valid", "test"}
