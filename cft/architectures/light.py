"""timm, imported without PyTorch's compiler, whose import takes as long as PyTorch's own.

``import timm`` imports torchvision, and both ask for parts of the compiler that nothing needs
before something is compiled: torchvision for a question that it asks when regions are pooled, timm
to leave a function of one network out of what is compiled. While timm is imported, both are given
the same later: the question is passed on when it is asked, and the function is left out by
PyTorch's own means for that, which wait until it is called. ``torch.compile`` works as ever.

Whoever imports timm before this module gets what it gives by itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.compiler

from cft.later import later

__all__ = ["timm"]

_UTILS = "torch._dynamo.utils"


@contextmanager
def _compiler_later() -> Iterator[None]:
    """What asks for the compiler inside is given it when it is used."""
    lazily: Callable[..., Any] | None = getattr(torch, "_disable_dynamo", None)
    if lazily is None or _UTILS in sys.modules:  # another PyTorch, or the compiler is there
        yield
        return
    disable = lazily

    def disable_later(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
        return disable(fn, recursive)

    def is_compile_supported(device_type: str) -> bool:
        return importlib.import_module(_UTILS).is_compile_supported(device_type)

    at_once = torch.compiler.disable
    torch.compiler.disable = disable_later
    try:
        with later(_UTILS, is_compile_supported=is_compile_supported):
            yield
    finally:
        torch.compiler.disable = at_once


with _compiler_later():
    import timm
