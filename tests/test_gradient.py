"""Fine-tuning by gradient, against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from train.losses import loss_named
from train.stage2.gradient import descend

D, C = 6, 3


def films(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, D) features and (n, C) labels, a third of them unknown."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn((n, D), generator=generator)
    signal = torch.stack([torch.linspace(-1, 1, D).roll(c) for c in range(C)])
    y = (z @ signal.T + torch.randn((n, C), generator=generator) > 0.5).float()
    y[torch.rand((n, C), generator=generator) < 1 / 3] = torch.nan
    return z, y


def run(columns=(0, 1, 2), loss="bce", z=None, **changes):
    own_z, y = films(300, 1)
    z_valid, y_valid = films(120, 2)
    columns = list(columns)
    facts = {"y": y[:, columns], "y_valid": y_valid[:, columns], "lr": 1e-2, "epochs": 60}
    facts |= changes
    return descend(
        own_z if z is None else z,
        facts.pop("y"),
        torch.zeros(C, D)[columns] + 0.1,
        torch.zeros(C)[columns],
        z_valid=z_valid,
        loss=loss_named(loss),
        **facts,
    )


def plain_adam(c: int, lr: float, epochs: int) -> tuple[np.ndarray, float, int]:
    """One category by NumPy: Adam (Kingma and Ba, ICLR 2015, algorithm 1) on the mean BCE."""
    (z, y), (z_valid, y_valid) = ((a.double().numpy() for a in films(n, s)) for n, s in SIDES)
    known, known_valid = ~np.isnan(y[:, c]), ~np.isnan(y_valid[:, c])
    z, y = np.c_[z, np.ones(len(z))][known], y[known, c]
    z_valid = np.c_[z_valid, np.ones(len(z_valid))][known_valid]
    y_valid = y_valid[known_valid, c]
    w = np.r_[np.full(D, 0.1), 0.0]
    m, v = np.zeros(D + 1), np.zeros(D + 1)
    best = (roc_auc_score(y_valid, z_valid @ w), w, 0)
    for t in range(1, epochs + 1):
        gradient = z.T @ (1 / (1 + np.exp(-z @ w)) - y) / len(y)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        found = roc_auc_score(y_valid, z_valid @ w)
        if found > best[0]:
            best = (found, w, t)
    return best[1], best[0], best[2]


SIDES = ((300, 1), (120, 2))


@pytest.mark.parametrize("c", range(C))
def test_it_is_full_batch_adam_with_the_best_epoch_kept(c):
    weights, validation, epoch = plain_adam(c, lr=1e-2, epochs=60)
    found = run()
    np.testing.assert_allclose(found.weights[c], weights[:-1], atol=2e-5)
    assert found.biases[c] == pytest.approx(weights[-1], abs=2e-5)
    assert found.validation[c] == pytest.approx(validation, abs=1e-9)
    assert found.epochs[c] == epoch


def test_categories_share_nothing():
    together = run()
    for c in range(C):
        alone = run([c])
        torch.testing.assert_close(alone.weights[0], together.weights[c], rtol=1e-5, atol=1e-6)
        assert alone.epochs[0] == together.epochs[c]


def test_films_of_unknown_label_take_no_part():
    z, y = films(300, 1)
    others = torch.where(y[:, [1]].isnan(), 100.0, z)
    found = [run([1], z=features).weights for features in (z, others)]
    torch.testing.assert_close(*found)


def test_a_category_whose_validation_is_undefined_keeps_its_regression():
    y_valid = films(120, 2)[1]
    y_valid[:, 2] = torch.nan
    found = run(y_valid=y_valid)
    assert found.epochs[2] == 0
    assert torch.equal(found.weights[2], torch.full((D,), 0.1))
    assert found.epochs[0] > 0


def test_patience_ends_a_category():
    # Known to be best at a late epoch: with less patience than its first pause it stays early.
    late = run([0], patience=60)
    early = run([0], patience=1)
    assert early.epochs[0] < late.epochs[0]


def test_whoever_watches_can_end_it():
    seen = []
    found = run(watch=lambda validation: seen.append(validation) or len(seen) == 4)
    assert len(seen) == 4
    assert found.epochs.max() <= 4
    assert seen[-1] == pytest.approx(float(found.validation.mean()))


def test_the_asymmetric_loss_of_the_public_code_descends_too():
    found = run(loss="asl")
    assert (found.epochs > 0).any()
    assert found.weights.isfinite().all()
    assert not torch.allclose(found.weights, run().weights)
