"""Modules that are imported when something of them is used, not where it is written."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

__all__ = ["later"]


class _Later(ModuleType):
    """Stands for a module, which is imported when anything of it is wanted that is not here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def later(name: str, **given: Any) -> Iterator[None]:
    """Inside, ``import name`` imports nothing yet; a module that is there already stays.

    Parameters
    ----------
    name
        Of the module.
    **given
        What it has at once, so that asking for it imports nothing.
    """
    if name in sys.modules:
        yield
        return
    module = _Later(name)
    vars(module).update(given)
    sys.modules[name] = module
    try:
        yield
    finally:
        if sys.modules.get(name) is module:
            del sys.modules[name]
