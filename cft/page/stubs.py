"""Gradio without what it makes at each start and nobody uses: stubs, and applications."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

__all__ = ["no_applications", "no_stubs"]


@contextlib.contextmanager
def no_stubs() -> Iterator[None]:
    """Inside, Gradio's components have no source file, for which it would write a stub.

    For each of some eighty components Gradio parses its source and the stub beside it, which takes
    a third of the time of its import, and writes into its own installed folder. It passes over
    components of which `inspect.getfile` raises OSError, such as those of a notebook.
    """
    getfile = inspect.getfile

    def of_others(thing: Any) -> str:
        if inspect.isclass(thing) and thing.__module__.partition(".")[0] == "gradio":
            raise OSError("a component of Gradio, which needs no stub here")
        return getfile(thing)

    setattr(inspect, "getfile", of_others)  # noqa: B010, a function of another type
    try:
        yield
    finally:
        setattr(inspect, "getfile", getfile)  # noqa: B010


@contextlib.contextmanager
def no_applications(kind: type) -> Iterator[None]:
    """Inside, Gradio makes no web application of a page.

    It makes one when a page is begun, one at its end and one when it gets a queue, of some eighty
    routes each. The one that serves is made by `launch`.

    Parameters
    ----------
    kind
        Gradio's ``App``.
    """
    create = kind.__dict__["create_app"]
    setattr(kind, "create_app", staticmethod(lambda *_, **__: None))  # noqa: B010
    try:
        yield
    finally:
        setattr(kind, "create_app", create)  # noqa: B010
