"""Gradio without what it makes at each start and nobody uses."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import jinja2

from cft.later import later

__all__ = ["no_applications", "no_commands", "no_stubs", "no_templates"]

_TEMPLATE = jinja2.Template


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


class _Sentence:
    """Stands for ``jinja2.Template``; a text that only names a component is not compiled."""

    def __init__(self, text: str):
        self._text = text

    def render(self, **values: Any) -> str:
        if values.keys() == {"component"}:
            filled = self._text.replace("{{ component }}", values["component"])
            if "{" not in filled:
                return filled
        return _TEMPLATE(self._text).render(**values)


@contextlib.contextmanager
def no_templates() -> Iterator[None]:
    """Inside, Gradio compiles no templates for the docstrings of its events.

    It compiles one for each event of each component, which takes a quarter of the time of its
    import. The docstrings are the same without.
    """
    setattr(jinja2, "Template", _Sentence)  # noqa: B010, another type
    try:
        yield
    finally:
        setattr(jinja2, "Template", _TEMPLATE)  # noqa: B010


@contextlib.contextmanager
def no_commands() -> Iterator[None]:
    """Inside, Gradio imports neither its command line nor pandas, of which the page uses nothing.

    Both are imported if something of them is used after all.
    """

    def deploy(*arguments: Any, **options: Any) -> Any:
        return importlib.import_module("gradio.cli").deploy(*arguments, **options)

    with later("pandas"), later("gradio.cli", deploy=deploy):
        yield


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
