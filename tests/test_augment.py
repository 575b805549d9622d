"""Augmentation: what each change does, and that films are independent of how a batch is divided."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from train.stage1.augment import Augmentation, augment

OFF = Augmentation(**{f.name: 0.0 for f in dataclasses.fields(Augmentation)})


def films(n=6, size=64, seed=0):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


def smooth_films(n=6, size=64):
    """Films without detail, on which resampling changes next to nothing."""
    axis = torch.linspace(0, 3, size)
    return (0.5 + 0.3 * torch.sin(axis[:, None] + axis[None, :] * 2)).expand(n, 1, size, size)


def changed(batch, augmentation, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return augment(batch, augmentation.draw(len(batch), generator))


def test_everything_off_changes_nothing():
    batch = films().clamp(1e-4, 1)
    torch.testing.assert_close(changed(batch, OFF), batch, atol=1e-5, rtol=0)


def test_a_certain_flip_mirrors_left_and_right():
    batch = films().clamp(1e-4, 1)
    flipped = changed(batch, dataclasses.replace(OFF, flip=1.0))
    torch.testing.assert_close(flipped, batch.flip(-1), atol=1e-5, rtol=0)


def test_everything_on_stays_in_range_and_differs_between_films():
    batch = films(1).expand(6, 1, 64, 64)
    result = changed(batch, Augmentation(flip=0.5, blur=0.5, erase=0.5, noise=0.1))
    assert result.shape == batch.shape
    assert 0 <= result.min() <= result.max() <= 1
    assert all(not torch.equal(result[0], other) for other in result[1:])


def test_a_part_of_a_batch_is_changed_as_in_the_whole_batch():
    batch = films(8)
    changes = Augmentation(flip=0.5, blur=0.5, erase=0.5, noise=0.1).draw(
        8, torch.Generator().manual_seed(3)
    )
    whole = augment(batch, changes)
    for part in (slice(0, 3), slice(3, 8)):
        rows = {name: values[part] for name, values in changes.items()}
        torch.testing.assert_close(augment(batch[part], rows), whole[part])


def test_the_same_seed_gives_the_same_films():
    assert torch.equal(changed(films(), Augmentation()), changed(films(), Augmentation()))
    assert not torch.equal(changed(films(), Augmentation()), changed(films(), Augmentation(), 1))


def test_one_strength_changed_leaves_the_other_changes_as_they_were():
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    plain = Augmentation().draw(5, generators[0])
    flipping = Augmentation(erase=0.9, contrast=0.0).draw(5, generators[1])
    assert torch.equal(plain["theta"], flipping["theta"])
    assert torch.equal(plain["gamma"], flipping["gamma"])


def test_rotation_is_a_rotation_by_at_most_the_strength():
    draw = dataclasses.replace(OFF, rotate=30.0).draw(200, torch.Generator().manual_seed(0))
    matrix = draw["theta"][:, :, :2]
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(2).expand(200, 2, 2))
    degrees = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
    assert 25 < degrees.abs().max() <= 30
    assert degrees.min() < -20


@pytest.mark.parametrize("name", ["rotate", "zoom", "stretch"])
def test_geometry_keeps_the_centre_and_the_aspect_ratio_of_the_grid(name):
    strength = {"rotate": 30.0, "zoom": 0.3, "stretch": 0.3}[name]
    draw = dataclasses.replace(OFF, **{name: strength}).draw(50, torch.Generator().manual_seed(0))
    theta = draw["theta"]
    assert (theta[:, :, 2] == 0).all()  # the centre stays
    area = torch.linalg.det(theta[:, :, :2])
    limit = 1.3**2 if name == "zoom" else 1.0
    assert area.max() <= limit + 1e-5
    assert area.min() >= 1 / limit - 1e-5


def test_the_film_is_sampled_where_pytorch_would():
    """On a film that is no square, with every change of geometry."""
    batch = torch.rand(5, 1, 40, 64, generator=torch.Generator().manual_seed(1)).clamp(1e-4, 1)
    strengths = {"rotate": 10.0, "translate": 0.06, "zoom": 0.15, "stretch": 0.08, "flip": 0.5}
    changes = dataclasses.replace(OFF, **strengths).draw(5, torch.Generator().manual_seed(2))
    grid = F.affine_grid(changes["theta"], [5, 1, 40, 64], align_corners=False)
    expected = F.grid_sample(batch, grid, mode="bilinear", align_corners=False).clamp(1e-4, 1)
    torch.testing.assert_close(augment(batch, changes), expected, atol=1e-5, rtol=0)


def test_blur_removes_detail_but_not_brightness():
    blurred = changed(films(size=128), dataclasses.replace(OFF, blur=1.0))
    assert blurred.std() < 0.6 * films(size=128).std()
    torch.testing.assert_close(blurred.mean(), films(size=128).mean(), atol=0.01, rtol=0)
    smooth = smooth_films(size=128)
    torch.testing.assert_close(
        changed(smooth, dataclasses.replace(OFF, blur=1.0)), smooth, atol=0.02, rtol=0
    )


def test_erasing_makes_two_to_twenty_percent_grey():
    black = torch.full((200, 1, 64, 64), 1e-4)
    erased = (changed(black, dataclasses.replace(OFF, erase=1.0)) == 0.5).float().mean((1, 2, 3))
    assert erased.max() <= 0.22
    assert erased.mean() > 0.03  # part of a rectangle may lie outside the film


def test_intensity_follows_the_formula():
    draw = dataclasses.replace(OFF, contrast=0.5, brightness=0.2, gamma=0.5).draw(
        4, torch.Generator().manual_seed(0)
    )
    batch = films(4).clamp(1e-4, 1)
    for film, result, c, b, g in zip(
        batch, augment(batch, draw), draw["contrast"], draw["brightness"], draw["gamma"],
        strict=True,
    ):  # fmt: skip
        expected = ((film - 0.5) * c + 0.5 + b).clamp(1e-4, 1) ** g
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


def test_strengths_are_named():
    assert Augmentation.named("flip=0.5,rotate=5") == Augmentation(flip=0.5, rotate=5.0)
    assert Augmentation.named("") == Augmentation()
    assert Augmentation.named("none") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shear=1", "there is no augmentation 'shear'; there are rotate, "),
        ("flip=often", "'flip': 'often' is no number"),
        ("zoom=-1", "'zoom': '-1' is no number of at least 0"),
        ("zoom=inf", "'zoom': 'inf' is no number of at least 0"),
    ],
)
def test_a_wrong_strength_is_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        Augmentation.named(text)


def test_noise_is_white_and_its_spread_is_drawn_up_to_the_strength():
    grey = torch.full((200, 1, 64, 64), 0.5)
    noise = changed(grey, dataclasses.replace(OFF, noise=0.02)) - grey
    spread = noise.flatten(1).std(1)
    assert 0.019 < spread.max() < 0.0205
    assert abs(spread.mean() - 0.01) < 0.001  # uniform from 0 to the strength
    assert noise.mean().abs() < 1e-4
    unit = noise / spread[:, None, None, None]
    assert abs((unit[..., 1:] * unit[..., :-1]).mean()) < 0.01  # neighbours are independent
    assert abs((unit[0] * unit[1]).mean()) < 0.05  # and so are films


def test_noise_leaves_the_other_changes_of_its_batch_as_they_were():
    plain, noisy = (
        Augmentation(noise=noise).draw(5, torch.Generator().manual_seed(0)) for noise in (0.0, 0.1)
    )
    assert noisy.keys() - plain.keys() == {"noise", "grain"}
    assert all(torch.equal(plain[name], noisy[name]) for name in plain)
