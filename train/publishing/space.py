"""What a Hugging Face Space of the page needs, in one folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from cft.errors import ModelFolderError
from cft.model.folder import CARD, CONFIG, WEIGHTS
from cft.model.hub import ENVIRONMENT_VARIABLE, MAX_BYTES, parse_reference, resolve
from cft.model.load import load

_ROOT = Path(__file__).resolve().parents[2]
_FILES = ("app.py", "requirements.txt", "LICENSE")
_WEIGHTS = "weights"


def build_space(folder: Path, reference: str | None = None) -> Path:
    """Write the page as a Space: the page, the package that it uses, a README, a model.

    Parameters
    ----------
    folder
        Where; it must not exist, or be empty.
    reference
        ``org/name[@revision]`` of the model on the Hub. The Space is pinned to the commit that it
        is now, and the Hub fetches that commit when it builds the Space. None: the bundled model
        is part of the Space.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ModelFolderError
        If the model cannot be had.
    FileExistsError
        If the folder holds something.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(17, "the folder is not empty", str(folder))
    model = _pinned(reference) if reference else None
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copyfile(_ROOT / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(_ROOT / "cft", folder / "cft", ignore=ignored)
    if model is None:
        (folder / _WEIGHTS).mkdir()
        for name in (CONFIG, WEIGHTS, CARD):
            shutil.copyfile(_ROOT / _WEIGHTS / name, folder / _WEIGHTS / name)
    else:
        _set_model(folder / "app.py", f"{model.repository}@{model.commit}")
    (folder / "README.md").write_text(_readme(model), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class _Model:
    """A model of the Hub, pinned: the names of its files, as `preload_from_hub` takes them."""

    repository: str
    commit: str
    files: tuple[str, ...]


def _pinned(reference: str) -> _Model:
    """The commit that a reference is now; it is loaded, so that a Space never names a bad one."""
    if not parse_reference(reference):
        raise ModelFolderError(f"{reference!r} is no reference to a model on the Hub (org/name)")
    model = load(f"hf-hub:{reference.removeprefix('hf-hub:')}", "cpu")
    repository, commit = str(model.reference).partition("@")[0], str(model.commit)
    folder = resolve(f"{repository}@{commit}").path
    inside = (str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file())
    files = tuple(name for name in inside if Path(name).name in MAX_BYTES)
    return _Model(repository, commit, files)


def _set_model(app: Path, pinned: str) -> None:
    """Let the page take this model where the Space's settings name no other."""
    text = app.read_text(encoding="utf-8")
    setting = f'    os.environ.setdefault("{ENVIRONMENT_VARIABLE}", "hf-hub:{pinned}")\n'
    start, library = 'if __name__ == "__main__":\n', "import sys\n"
    if text.count(start) != 1 or text.count(library) != 1:
        raise ModelFolderError(f"{app} has no place for the name of the model")
    text = text.replace(library, f"import os\n{library}").replace(start, start + setting)
    app.write_text(text, encoding="utf-8")


def _readme(model: _Model | None) -> str:
    """The project's front matter with the model pinned, and a few words."""
    front = yaml.safe_load((_ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    words = "The model is part of this Space (`weights/`)."
    if model:
        name, commit = model.repository, model.commit
        front["models"] = [name]
        front["preload_from_hub"] = [f"{name} {','.join(model.files)} {commit}"]
        words = (
            f"The model is [{name}](https://huggingface.co/{name}/tree/{commit}) at commit "
            f"`{commit}`. The variable `{ENVIRONMENT_VARIABLE}` in this Space's settings names "
            "another."
        )
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return (
        f"---\n{text}---\n\n# {front['title']}\n\n{words}\n\nNot a medical device. Research "
        "software for study and demonstration: never use it to diagnose, triage or treat.\n"
    )
