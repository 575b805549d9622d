"""Losses against plain per-element formulas in float64, values and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from train.losses import asymmetric, bce, focal, loss_named

NAN = float("nan")


def reference_bce(x, t):
    p = 1 / (1 + math.exp(-x))
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


def reference_focal(x, t, alpha=0.25, gamma=2.0):
    p = 1 / (1 + math.exp(-x))
    positive = -alpha * (1 - p) ** gamma * math.log(p)
    negative = -(1 - alpha) * p**gamma * math.log(1 - p)
    return t * positive + (1 - t) * negative


def reference_asl(x, t, weights_at=None, gamma_negative=4.0, gamma_positive=1.0, clip=0.05):
    """`weights_at`: the logit at which the focusing weights are held while `x` moves."""
    p = 1 / (1 + math.exp(-x))
    q = 1 / (1 + math.exp(-(x if weights_at is None else weights_at)))
    m, held = max(p - clip, 0), max(q - clip, 0)
    positive = -((1 - q) ** gamma_positive) * math.log(p)
    negative = -(held**gamma_negative) * math.log(1 - m)
    return t * positive + (1 - t) * negative


CASES = {
    "bce": (bce, reference_bce),
    "focal": (lambda x, t: focal(x, t, alpha=0.25, gamma=2.0), reference_focal),
    "asl": (lambda x, t: asymmetric(x, t, 4.0, 1.0, 0.05), reference_asl),
}


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 5, generator=generator, dtype=torch.float64) * 4
    t = torch.rand(8, 5, generator=generator, dtype=torch.float64)
    hard = torch.rand(8, 5, generator=generator) < 0.7
    t = torch.where(hard, t.round(), t)  # most targets are 0 or 1, some are soft
    t[torch.rand(8, 5, generator=generator) < 0.3] = NAN
    return x, t


@pytest.mark.parametrize("name", CASES)
def test_values_equal_the_formula_and_unknown_is_zero(name):
    loss, reference = CASES[name]
    x, t = batch()
    expected = [
        [0.0 if math.isnan(b) else reference(a, b) for a, b in zip(row, targets, strict=True)]
        for row, targets in zip(x.tolist(), t.tolist(), strict=True)
    ]
    np.testing.assert_allclose(loss(x, t).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_finite_differences_and_unknown_is_zero(name):
    loss, reference = CASES[name]
    x, t = batch(seed=1)
    x.requires_grad_()
    loss(x, t).sum().backward()
    step = 1e-6
    for a, b, gradient in zip(x.flatten().tolist(), t.flatten().tolist(), x.grad.flatten(),
                              strict=True):  # fmt: skip
        if math.isnan(b):
            assert gradient == 0
            continue
        held = {"weights_at": a} if name == "asl" else {}
        slope = (reference(a + step, b, **held) - reference(a - step, b, **held)) / (2 * step)
        assert gradient.item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_large_logits_give_finite_values_and_gradients(name, logit):
    x = torch.full((1, 3), logit, requires_grad=True)
    value = CASES[name][0](x, torch.tensor([[0.0, 1.0, NAN]]))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(x.grad).all()


def test_a_batch_without_known_labels_has_no_loss():
    x = torch.zeros(2, 3, requires_grad=True)
    bce(x, torch.full((2, 3), NAN)).sum().backward()
    assert (x.grad == 0).all()


def test_focal_without_focus_and_asl_without_asymmetry_are_bce():
    x, t = batch()
    torch.testing.assert_close(focal(x, t, gamma=0.0), bce(x, t))
    torch.testing.assert_close(asymmetric(x, t, 0.0, 0.0, 0.0), bce(x, t))


def test_a_loss_is_named_with_its_parameters():
    x, t = batch()
    torch.testing.assert_close(
        loss_named("asl:gamma_negative=2,clip=0.1")(x, t), asymmetric(x, t, 2.0, 0.0, 0.1)
    )
    torch.testing.assert_close(loss_named("bce")(x, t), bce(x, t))


def test_several_losses_are_their_mean_and_a_head_more_is_a_row_more():
    """Targets are the same for every head."""
    x, t = batch()
    both = loss_named("asl:clip=0.1,gamma_negative=2e+0+focal:alpha=0.25,gamma=2")
    expected = (asymmetric(x, t, 2.0, 0.0, 0.1) + focal(x, t, 0.25, 2.0)) / 2
    torch.testing.assert_close(both(x, t), expected)
    heads = both(torch.stack([x, -x]), t)
    torch.testing.assert_close(heads[0], expected)
    torch.testing.assert_close(heads[1], both(-x, t))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bce+hinge", "there is no loss 'hinge'"),
        ("hinge", "there is no loss 'hinge'; choose from bce, focal, asl"),
        ("bce:gamma=1", r"'bce' has no parameter 'gamma' \(it has: none\)"),
        ("focal:gamma=two", "gamma of the loss 'focal' is no number: 'two'"),
    ],
)
def test_a_wrong_loss_is_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        loss_named(text)
