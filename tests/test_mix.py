"""Mixing of films: the rules for labels, case by case, and the shares."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from train.stage1.mix import FOLLOWERS, draw_shares, logical_or, mix_films, mix_targets

NAN = torch.nan

# LogicMix's rule for two films: arXiv 2405.15860, and `logic_mix_target` of mlcpl 0.1.7.
OR = {
    (0, 0): 0, (0, NAN): NAN, (0, 1): 1,
    (NAN, 0): NAN, (NAN, NAN): NAN, (NAN, 1): 1,
    (1, 0): 1, (1, NAN): 1, (1, 1): 1,
}  # fmt: skip


def same(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), equal_nan=True, rtol=0, atol=0)


def shares_of(kind, n, seed=0):
    return draw_shares(kind, n, torch.Generator().manual_seed(seed))


# --- Labels -------------------------------------------------------------------------------------


def test_the_labels_of_two_films_are_mixed_by_the_published_table():
    first, second = torch.tensor(list(OR)).T
    same(logical_or(first, second), [float(value) for value in OR.values()])


def test_the_labels_of_three_films_are_mixed_as_kleenes_logic_says():
    """There unknown lies between absent and present, and OR is the largest."""
    cases = list(product([0.0, 0.5, 1.0], repeat=3))
    expected = [NAN if max(case) == 0.5 else max(case) for case in cases]
    for case, value in zip(cases, expected, strict=True):
        labels = torch.tensor(case)[:, None]
        labels[labels == 0.5] = NAN
        third = torch.full((3, 3), 1 / 3)
        same(mix_targets("logic", labels, third)[0], [value])


def test_a_film_that_is_not_mixed_keeps_its_labels():
    labels = torch.tensor([[0.0, NAN, 0.7], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    alone = torch.tensor([[1.0, 0, 0]]).expand(3, 3)
    same(mix_targets("logic", labels, alone), labels.tolist())


def test_a_follower_without_a_share_has_no_say():
    labels = torch.tensor([[0.0], [0.0], [1.0]])
    halves = torch.tensor([[0.5, 0.5, 0]]).expand(3, 3)
    same(mix_targets("logic", labels, halves), [[0.0], [1.0], [1.0]])


def test_soft_labels_are_those_of_unrelated_films():
    found = logical_or(torch.tensor([0.6, 0.6, 0.6, 0.6]), torch.tensor([0.5, 0, 1, NAN]))
    torch.testing.assert_close(found, torch.tensor([0.8, 0.6, 1, NAN]), equal_nan=True)


@pytest.mark.parametrize(
    ("own", "follower", "expected"),
    [
        (1, 1, 1), (1, 0, 0.8), (1, NAN, 0.9),
        (0, 1, 0.2), (0, 0, 0), (0, NAN, 0.1),
        (NAN, 1, NAN), (NAN, 0, NAN), (NAN, NAN, NAN),
        (0.5, 0.75, 0.55),
    ],
)  # fmt: skip
def test_mixup_takes_the_mean_and_keeps_what_is_unknown_of_the_film_itself(own, follower, expected):
    """`mixup_pme_with_batch` of mlcpl 0.1.7, worked by hand for a share of 0.8."""
    labels, shares = torch.tensor([[own], [follower]]), torch.tensor([[0.8, 0.2], [0.8, 0.2]])
    found = mix_targets("mixup", labels.float(), shares)[0]
    torch.testing.assert_close(found, torch.tensor([float(expected)]), equal_nan=True)


# --- Films --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixup", "logic"])
def test_a_mixed_film_is_the_weighted_mean(kind):
    films = torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    n = 9 - FOLLOWERS[kind]
    shares = shares_of(kind, n)
    for i, film in enumerate(mix_films(films, shares)):
        parts = [share * films[i + k] for k, share in enumerate(shares[i].tolist())]
        torch.testing.assert_close(film, torch.stack(parts).sum(0))


def test_every_second_film_is_mixed_with_one_film_or_with_two_by_logicmix():
    shares = shares_of("logic", 4000)
    kinds = torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]])
    which = (shares[:, None] == kinds).all(2)
    assert which.any(1).all()
    torch.testing.assert_close(
        which.float().mean(0), torch.tensor([0.5, 0.25, 0.25]), atol=0.03, rtol=0
    )


def test_a_film_has_three_quarters_or_more_of_its_mixup():
    own = shares_of("mixup", 4000)[:, 0]
    assert 0.75 <= own.min() < 0.76
    assert 0.99 < own.max() <= 1
    torch.testing.assert_close(own.mean(), torch.tensor(0.875), atol=0.005, rtol=0)


@pytest.mark.parametrize("kind", ["mixup", "logic"])
def test_the_shares_of_a_film_sum_to_one_and_follow_from_the_seed(kind):
    shares = shares_of(kind, 50)
    torch.testing.assert_close(shares.sum(1), torch.ones(50))
    assert torch.equal(shares, shares_of(kind, 50))
    assert not torch.equal(shares, shares_of(kind, 50, seed=1))
