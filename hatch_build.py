"""For the build: the package's dependencies, read from the requirements files that state them."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

_FILES = (
    "requirements.txt",
    "requirements-convert.txt",
    "requirements-score.txt",
    "requirements-train.txt",
    "requirements-dev.txt",
)


class RequirementsHook(MetadataHookInterface):
    """Sets ``dependencies`` and ``optional-dependencies``."""

    def update(self, metadata: dict) -> None:
        """Called by hatchling with the table ``[project]``."""
        groups = read_groups([Path(self.root) / name for name in _FILES])
        metadata["dependencies"] = groups.pop("")
        groups["dev"].insert(0, f"{metadata['name']}[{','.join(g for g in groups if g != 'dev')}]")
        metadata["optional-dependencies"] = groups


def read_groups(files: list[Path]) -> dict[str, list[str]]:
    """Extra -> its requirements; those of the package itself have the name "".

    A comment ``# [name]`` opens an extra, up to the next or the end of the file.
    """
    groups: dict[str, list[str]] = {}
    for file in files:
        name = ""
        for line in file.read_text(encoding="utf-8").splitlines():
            if opens := re.match(r"# \[([a-z]+)\]", line):
                name = opens[1]
            requirement = re.sub(r"(^|\s)#.*", "", line).strip()
            if requirement and not requirement.startswith("-"):
                groups.setdefault(name, []).append(requirement)
    return groups
