"""``python -m tests.licences``: write docs/licences.md, the licence of every dependency.

Of the versions in requirements-tested.txt, from what each states of itself (`importlib.metadata`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "licences.md"

# What states no licence in its metadata.
READ_BY_HAND = {"cuda-toolkit": "none: an empty package that names those of NVIDIA"}

_HEAD = """# Licences of the dependencies

Each package of [requirements-tested.txt](../requirements-tested.txt), with the licence that it
states. Using a model or the page needs fewer of them. `python -m tests.licences` writes this table,
and a test compares it with what is installed. The packages of NVIDIA come with the CUDA build of
PyTorch alone.

| Package | Licence |
| --- | --- |
"""


def tested() -> dict[str, str]:
    """Package -> its version in requirements-tested.txt."""
    text = (ROOT / "requirements-tested.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^ ]+)", text, re.MULTILINE))


def stated(facts: PackageMetadata) -> str:
    """The licence that a package states of itself, as one line; "" if it states none."""
    if expression := facts.get("License-Expression"):
        return expression
    classifiers = [c for c in facts.get_all("Classifier", []) if c.startswith("License ::")]
    names = [c.rpartition(":: ")[2] for c in classifiers if c.count("::") > 1]
    short = (facts.get("License") or "").strip().splitlines()[:1]
    return ", ".join(names) or "".join(short)[:60]


def rows() -> Iterator[tuple[str, str]]:
    """(package, licence) of each dependency that is installed in its tested version, or by hand."""
    for name, version in tested().items():
        if name in READ_BY_HAND:
            yield name, READ_BY_HAND[name]
            continue
        try:
            facts = metadata(name)
        except PackageNotFoundError:
            continue
        if facts["Version"] == version:
            yield name, stated(facts)


def table() -> dict[str, str]:
    """Package -> its licence, as docs/licences.md states it."""
    return dict(re.findall(r"^\| ([\w.-]+) \| (.+) \|$", TABLE.read_text(), re.MULTILINE)[2:])


if __name__ == "__main__":
    found = dict(rows())
    missing = sorted(set(tested()) - {name for name, licence in found.items() if licence})
    if missing:
        raise SystemExit(f"no licence is known of {', '.join(missing)}: install or read them")
    TABLE.write_text(_HEAD + "".join(f"| {n} | {x} |\n" for n, x in sorted(found.items())))
