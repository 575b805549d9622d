"""Modules that are imported when something of them is used."""

from __future__ import annotations

import sys

import pytest

from cft.later import later

NAME = "a_module_for_a_test"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that nothing has imported; it does not know what `given` says."""
    (tmp_path / f"{NAME}.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop(NAME, None)


@pytest.mark.usefixtures("module")
def test_a_module_is_imported_when_something_of_it_is_used():
    with later(NAME, given=2):
        import a_module_for_a_test as stand_in  # type: ignore[import-not-found]

        assert stand_in.given == 2
    assert NAME not in sys.modules
    with pytest.raises(AttributeError):
        stand_in.__path__  # noqa: B018, what the import system asks of a package
    assert NAME not in sys.modules
    assert stand_in.x == 1
    assert sys.modules[NAME].x == 1
    assert sys.modules[NAME] is not stand_in


@pytest.mark.usefixtures("module")
def test_what_uses_it_at_once_has_it_at_once():
    with later(NAME):
        from a_module_for_a_test import x  # type: ignore[import-not-found]

        real = sys.modules[NAME]
    assert x == 1
    assert sys.modules[NAME] is real  # stays, since it is the real one
    with later(NAME):
        assert sys.modules[NAME] is real


@pytest.mark.usefixtures("module")
def test_nothing_stands_there_after_a_failure():
    with pytest.raises(KeyError), later(NAME):
        raise KeyError
    assert NAME not in sys.modules


def test_a_module_that_there_is_not_is_missed_when_it_is_used():
    with later("there_is_no_such_module"):
        import there_is_no_such_module as absent  # type: ignore[import-not-found]
    with pytest.raises(ModuleNotFoundError):
        absent.anything  # noqa: B018
