"""Networks that timm does not have, registered with it: importing this package is enough.

>>> import timm
>>> import cft.architectures
>>> [timm.is_model(name) for name in ("ctranscnn", "chexnet_hybrid", "joined")]
[True, True, True]

``import cft`` alone does not import it, because that stays light; `cft.load` and training do.
"""

from cft.architectures import ctranscnn, joined

__all__ = ["ctranscnn", "joined"]
