"""What is installed: bounds, the versions that were tested with their hashes, licences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import licences
from tests.conftest import ROOT

TESTED = ROOT / "requirements-tested.txt"
FILES = [ROOT / f"requirements{part}.txt" for part in ("", "-train", "-convert", "-score", "-dev")]


def requirements() -> list[Requirement]:
    """All that the files of requirements ask for."""
    lines = (line.split("#")[0].strip() for file in FILES for line in file.read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def needed(name: str, extras: set[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """A package and all that it needs here, by what the installed ones state."""
    yield canonicalize_name(name)
    try:
        stated = [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:
        return
    for one in stated:
        wanted = one.marker is None or any(one.marker.evaluate({"extra": e}) for e in {"", *extras})
        key = (canonicalize_name(one.name), ",".join(sorted(one.extras)))
        if wanted and key not in seen:
            seen.add(key)
            yield from needed(one.name, one.extras, seen)


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_requirement_has_a_bound_above(requirement):
    assert {"==", "<", "<=", "~="} & {bound.operator for bound in requirement.specifier}


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_the_tested_version_is_one_that_is_asked_for(requirement):
    version = licences.tested()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


def test_all_that_is_needed_here_was_tested():
    found = {name for one in requirements() for name in needed(one.name, one.extras, set())}
    assert len(found) > 60
    assert found <= set(licences.tested())


def test_every_tested_file_has_its_hash():
    text = re.sub(r"^#.*\n", "", TESTED.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    lines = text.splitlines()
    assert len(lines) == len(licences.tested()) > 60
    pinned = re.compile(r"[\w.-]+(\[[\w, -]+\])?==\S+ (\s*--hash=sha256:[0-9a-f]{64})+")
    for line in lines:
        assert pinned.fullmatch(line), line[:80]


def test_the_table_of_licences_is_that_of_what_is_installed():
    table = licences.table()
    assert set(table) == set(licences.tested())
    found = dict(licences.rows())
    assert {name: table[name] for name in found} == found


def test_no_licence_forbids_what_this_project_may_do():
    """GPL and AGPL would bind the whole; LGPL, and MPL for its own files, do not."""
    assert not [n for n, licence in licences.table().items() if re.search(r"\bA?GPL", licence)]
