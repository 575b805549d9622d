"""Losses of multi-label classification; a NaN target contributes nothing.

Each loss maps logits and targets to a loss per element, (N, C), which is zero, with zero gradient,
where the target is NaN. The training loop divides the sum by the number of known elements of the
whole global batch, so the scale of the gradient does not depend on how much is unknown. Targets may
be soft (in [0, 1]): the loss is then the mixture of the losses of 1 and 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy.

    Parameters
    ----------
    logits
        (N, C) of any finite value.
    targets
        (N, C) in [0, 1], or NaN where unknown.

    Returns
    -------
    torch.Tensor
        (N, C), zero where unknown.
    """
    return _mix(F.softplus(-logits), F.softplus(logits), targets)


def focal(
    logits: torch.Tensor, targets: torch.Tensor, alpha: float | None = None, gamma: float = 2.0
) -> torch.Tensor:
    """Focal loss (Lin et al., ICCV 2017, equation 5): easy cases count less.

    Parameters
    ----------
    logits, targets
        See `bce`.
    alpha
        Weight of the positives in [0, 1]; the negatives weigh ``1 - alpha``. None: all weigh 1.
    gamma
        A case of which the model is right with probability p counts ``(1 - p) ** gamma``; 0 is
        `bce`.
    """
    positive = torch.sigmoid(-logits) ** gamma * F.softplus(-logits)
    negative = torch.sigmoid(logits) ** gamma * F.softplus(logits)
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    return _mix(positive, negative, targets)


def asymmetric(
    logits: torch.Tensor,
    targets: torch.Tensor,
    gamma_negative: float = 4.0,
    gamma_positive: float = 0.0,
    clip: float = 0.05,
) -> torch.Tensor:
    """Asymmetric loss, ASL (Ridnik et al., ICCV 2021, equations 4 to 7).

    Parameters
    ----------
    logits, targets
        See `bce`.
    gamma_negative, gamma_positive
        Focusing exponents of negatives and positives. As in the authors' code, no gradient flows
        through the focusing weight.
    clip
        Probability margin: a negative whose probability is below it contributes nothing.
    """
    probability = torch.sigmoid(logits)
    shifted = (probability - clip).clamp(min=0)
    # log(1 - shifted) without the margin is -softplus(logits), which is exact for large logits.
    log_absent = torch.log1p(-shifted) if clip > 0 else -F.softplus(logits)
    weight_positive = (1 - probability).detach() ** gamma_positive
    weight_negative = shifted.detach() ** gamma_negative
    return _mix(weight_positive * F.softplus(-logits), -weight_negative * log_absent, targets)


_LOSSES: dict[str, Callable[..., torch.Tensor]] = {"bce": bce, "focal": focal, "asl": asymmetric}
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "bce": (),
    "focal": ("alpha", "gamma"),
    "asl": ("gamma_negative", "gamma_positive", "clip"),
}


# Between two losses; the plus of a number such as 1e+3 has a digit after it.
_PLUS = re.compile(r"\+(?=[a-z])")


def loss_named(text: str) -> Loss:
    """A loss from its name and parameters: "bce", "focal:gamma=2", "asl:gamma_negative=4,clip=0".

    Several with a plus between them, such as "asl:clip=0+focal:gamma=2", are their mean.

    Raises
    ------
    ValueError
        If there is no such loss or parameter, or a value is no number.
    """
    several = _PLUS.split(text)
    if len(several) > 1:
        losses = [loss_named(one) for one in several]
        return lambda logits, targets: torch.stack([f(logits, targets) for f in losses]).mean(0)
    name, _, rest = text.partition(":")
    if name not in _LOSSES:
        raise ValueError(f"there is no loss {name!r}; choose from {', '.join(_LOSSES)}")
    parameters: dict[str, float] = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        if key not in _PARAMETERS[name]:
            known = ", ".join(_PARAMETERS[name]) or "none"
            raise ValueError(f"the loss {name!r} has no parameter {key!r} (it has: {known})")
        try:
            parameters[key] = float(value)
        except ValueError:
            raise ValueError(f"{key} of the loss {name!r} is no number: {value!r}") from None
    return partial(_LOSSES[name], **parameters)


def _mix(positive: torch.Tensor, negative: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    known = ~targets.isnan()
    targets = torch.where(known, targets, 0)  # before multiplying: 0 * NaN is NaN
    mixed = targets * positive + (1 - targets) * negative
    return torch.where(known, mixed, 0)
