"""Maps of several kinds for one film, so that they can be compared on the same model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from cft.model.classifier import Classifier
    from cft.model.ensemble import Ensemble

__all__ = ["KINDS", "cannot", "explained"]

#: Class activation map as the page draws it; Grad-CAM; absolute gradient at the film's pixels.
KINDS = ("cam", "grad-cam", "gradient")


def cannot(model: Classifier | Ensemble, kind: str) -> str:
    """Why a model has no maps of a kind, as a phrase; "" if it has."""
    from cft.model.gradients import has_grad_cam

    for member, _ in _members(model):
        if kind == "cam" and member.heatmap_kind != "cam":
            return "its head is not average pooling and one linear layer"
        film = member.preprocess.grey_film()
        if kind == "grad-cam" and not has_grad_cam(member.network, film, str(member.device)):
            return "it shows no map of features"
    return ""


def explained(
    model: Classifier | Ensemble, film: Any, labels: Sequence[str], kind: str, side: int
) -> dict[str, np.ndarray]:
    """The maps of one film.

    Parameters
    ----------
    model
        A classifier, or an ensemble, whose map is the weighted mean of its members'.
    film
        As `cft.Classifier.predict` takes it.
    labels
        The findings.
    kind
        One of `KINDS`.
    side
        Width and height of the maps.

    Returns
    -------
    dict
        Label -> (side, side) float32 in [0, 1]. Maps by gradients are shares of their own maximum.
    """
    from cft.film.read import as_radiograph
    from cft.model.gradients import grad_cam, input_gradient

    radiograph = as_radiograph(film)
    by_gradient = {"grad-cam": grad_cam, "gradient": input_gradient}
    result = {label: np.zeros((side, side), np.float32) for label in labels}
    for member, weight in _members(model):
        if kind == "cam":
            findings = member.predict(radiograph)
            maps = {label: findings.heatmap(label, (side, side)) for label in labels}
        else:
            maps = _by_gradient(member, radiograph.pixels, labels, by_gradient[kind], side)
        for label, heat in maps.items():
            result[label] += np.float32(weight) * heat
    return result


def _members(model: Any) -> list[tuple[Any, float]]:
    """The classifiers of a model and their shares."""
    if hasattr(model, "members"):
        return list(zip(model.members, model.weights, strict=True))
    return [(model, 1.0)]


def _by_gradient(
    classifier: Classifier,
    pixels: np.ndarray,
    labels: Sequence[str],
    of: Callable[[Any, torch.Tensor], torch.Tensor],
    side: int,
) -> dict[str, np.ndarray]:
    import torch
    import torch.nn.functional as F

    from cft.heatmap import beside_peak, spread

    seen = torch.from_numpy(classifier.preprocess(pixels))[None].to(classifier.device)
    local = of(classifier.network, seen)
    if max(local.shape[1:]) > side:  # otherwise most of the pixels would be passed by
        local = F.adaptive_avg_pool2d(local[None], (side, side))[0]
    maps = local.cpu().numpy()
    top, left, bottom, right = classifier.preprocess.seen_region(*pixels.shape)
    down, across = side / pixels.shape[0], side / pixels.shape[1]
    region = (top * down, left * across, bottom * down, right * across)
    return {
        label: spread(
            beside_peak(maps[classifier.label_names.index(label)], 1.0),
            *(region, (side, side), lambda shares: shares),
        )
        for label in labels
    }
