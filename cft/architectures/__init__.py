"""Networks that timm does not have, registered with it: importing this package is enough.

>>> import timm
>>> import cft.architectures
>>> [timm.is_model(name) for name in ("chexnet_hybrid", "joined", "spatial_pyramid")]
[True, True, True]

``import cft`` alone does not import it, because that stays light; `cft.load` and training do.
"""

import cft.architectures.light  # noqa: F401  # first: it is how timm is imported
from cft.architectures import ctranscnn, joined, keras_resnet, spatial_pyramid
from cft.architectures.light import timm

__all__ = ["ctranscnn", "is_ours", "joined", "keras_resnet", "spatial_pyramid"]


def is_ours(architecture: str) -> bool:
    """Whether timm knows an architecture from this package alone."""
    if not timm.is_model(architecture):
        return False
    return timm.model_entrypoint(architecture).__module__.startswith(f"{__name__}.")
