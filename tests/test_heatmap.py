"""Heat maps over films."""

import numpy as np

from cft.heatmap import overlay, spread


def identity(x):
    return x


def test_a_map_is_spread_over_the_part_of_the_film_that_was_seen():
    heat = spread(np.ones((2, 2), np.float32), (10, 0, 30, 20), (40, 20), identity)
    assert heat.shape == (40, 20)
    assert np.allclose(heat[10:30], 1)
    assert not heat[:10].any()
    assert not heat[30:].any()


def test_a_map_that_reaches_beyond_the_film_is_cut_at_its_edge():
    local = np.array([[0.0, 1.0]], np.float32)
    heat = spread(local, (0, -20, 10, 20), (10, 20), identity)  # the film is the right half
    assert heat.shape == (10, 20)
    assert np.allclose(heat[:, -1], 1)
    assert 0.4 < heat[0, 0] < 0.6


def test_a_film_without_evidence_stays_grey():
    film = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    picture = overlay(film, np.full((8, 8), 0.01, np.float32), 0.3)
    assert (picture == np.round(255 * film).astype(np.uint8)[..., None]).all()


def test_the_colour_depends_on_the_evidence_and_the_operating_point_alone():
    """A fixed scale: the strongest point of a weak map is not drawn as if it were strong."""
    film = np.zeros((1, 3), np.float32)
    weak = overlay(film, np.array([[0.01, 0.3, 0.01]], np.float32), 0.3)
    strong = overlay(film, np.array([[0.01, 0.3, 0.99]], np.float32), 0.3)
    assert (weak[0, 1] == strong[0, 1]).all()
    assert strong[0, 2].sum() > strong[0, 1].sum() > 0
    assert not strong[0, 0].any()


def test_certain_and_impossible_evidence_are_drawn_without_a_fault():
    film = np.full((1, 2), 0.5, np.float32)
    for threshold in (0.0, 0.5, 1.0, None):
        picture = overlay(film, np.array([[0.0, 1.0]], np.float32), threshold)
        assert picture.dtype == np.uint8
        assert (picture[0, 0] == 128).all()
