"""Fine-tuning by gradient: the logistic regressions' own loss on known labels, full batch.

The gradient variant of the published method: Adam on weights and bias of each category, one step
an epoch over all its known training films, the best epoch by validation kept, the trained
regression included. The loss is binary cross-entropy (the ICONIP paper) or the asymmetric loss
(the authors' public code). The regressions share nothing, so those of all categories that are
given descend side by side, each with an end of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from train.losses import Loss
from train.metrics.ranking import METRICS
from train.precision import full_precision

__all__ = ["Descent", "descend"]


@dataclass(frozen=True)
class Descent:
    """What was found for C categories.

    Attributes
    ----------
    weights, biases
        (C, D) and (C,) float32: of each category's best epoch by validation.
    validation
        (C,) float64: the metric there.
    epochs
        (C,) that epoch; 0 is the trained regression.
    """

    weights: Tensor
    biases: Tensor
    validation: Tensor
    epochs: Tensor


def descend(
    z: Tensor,
    y: Tensor,
    weights: Tensor,
    biases: Tensor,
    *,
    z_valid: Tensor,
    y_valid: Tensor,
    loss: Loss,
    lr: float = 1e-4,
    epochs: int = 5000,
    patience: int = 300,
    metric: str = "auroc",
    watch: Callable[[float], bool] | None = None,
) -> Descent:
    """Fit known labels by Adam until validation has not improved for a while.

    Parameters
    ----------
    z, y
        (N, D) features and (N, C) labels in {1, 0, NaN} of the training films; NaN contributes
        nothing.
    weights, biases
        (C, D) and (C,): the trained regressions, where the descent begins.
    z_valid, y_valid
        (M, D) and (M, C): the films that choose. A category that the metric is not defined for
        keeps its trained regression.
    loss
        From `train.losses`.
    lr, epochs, patience
        Of Adam; the most epochs; the epochs without a strictly better validation metric after
        which a category ends.
    metric
        "auroc" or "ap".
    watch
        Called after each epoch with the best mean validation metric so far; ends the descent by
        returning True.
    """
    known = ~y.isnan().all(dim=1)
    z, y = (z, y) if bool(known.all()) else (z[known], y[known])
    counts = (~y.isnan()).sum(dim=0).clamp(min=1)
    weights, biases = weights.clone().requires_grad_(), biases.clone().requires_grad_()
    adam = torch.optim.Adam([weights, biases], lr=lr)
    labels = y_valid.T.contiguous()

    def measured() -> Tensor:
        scores = z_valid @ weights.detach().T + biases.detach()
        return METRICS[metric](scores.T.contiguous(), labels)

    with full_precision():
        validation = measured()
        best = Descent(
            *(weights.detach().clone(), biases.detach().clone(), validation),
            torch.zeros(len(biases), dtype=torch.long, device=z.device),
        )
        for epoch in range(1, epochs + 1):
            # The mean over a category's known films: Adam's step does not depend on the scale, but
            # its epsilon does.
            (loss(z @ weights.T + biases, y) / counts).sum().backward()
            adam.step()
            adam.zero_grad()
            validation = measured()
            live = epoch - best.epochs <= patience
            better = live & (validation > best.validation)  # never where it is NaN
            best.weights[better] = weights.detach()[better]
            best.biases[better] = biases.detach()[better]
            best.validation[better] = validation[better]
            best.epochs[better] = epoch
            if not bool((epoch - best.epochs < patience).any()):
                break
            if watch is not None and watch(float(best.validation.nanmean())):
                break
    return best
