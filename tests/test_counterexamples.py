"""What the gate learns not to pass: a film that was photographed from a screen."""

from __future__ import annotations

import numpy as np
import torch

from cft.model.counterexamples import _homography, photographed

CORNERS = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])


def project(h, points):
    x, y = points.T
    depth = h[6] * x + h[7] * y + 1
    return np.stack([(h[0] * x + h[1] * y + h[2]) / depth, (h[3] * x + h[4] * y + h[5]) / depth], 1)


def test_a_homography_takes_four_points_to_four_and_lines_to_lines():
    seen = np.array([(-0.7, -0.8), (0.9, -0.6), (0.8, 0.7), (-0.6, 0.9)])
    h = _homography(seen, CORNERS)
    np.testing.assert_allclose(project(h, seen), CORNERS, atol=1e-12)
    a, b, c = project(h, np.array([(-0.2, 0.1), (0.1, 0.2), (0.4, 0.3)]))
    across = (b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]
    assert abs(across) < 1e-12


def test_a_photograph_shows_the_film_and_what_is_around_it():
    film = torch.zeros(96, 96)
    film[24:72, 24:72] = 1.0
    made = [photographed(film, np.random.default_rng(seed)) for seed in range(20)]
    for picture in made:
        assert picture.shape == film.shape
        assert torch.isfinite(picture).all()
        assert picture[48, 48] > 0.4  # the film's middle is still there
        assert not torch.allclose(picture[0], film[0], atol=0.01)  # the room, not the film's edge
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[3], photographed(film, np.random.default_rng(3)))
