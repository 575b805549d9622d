"""What a Hugging Face Space of the page needs, in one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from cft.hub import ENVIRONMENT_VARIABLE, parse_reference, resolve
from cft.model_folder import CARD, CONFIG, WEIGHTS, ModelFolderError

_ROOT = Path(__file__).resolve().parent.parent
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
    pinned = _pinned(reference) if reference else None
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copyfile(_ROOT / name, folder / name)
    for source in sorted((_ROOT / "cft").rglob("*")):
        if source.suffix in (".py", ".css"):
            target = folder / source.relative_to(_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    if pinned is None:
        (folder / _WEIGHTS).mkdir()
        for name in (CONFIG, WEIGHTS, CARD):
            shutil.copyfile(_ROOT / _WEIGHTS / name, folder / _WEIGHTS / name)
    else:
        _set_model(folder / "app.py", pinned)
    (folder / "README.md").write_text(_readme(pinned), encoding="utf-8")
    return folder


def _pinned(reference: str) -> str:
    """``org/name@<commit>``; the model is fetched, so that a Space never names one that is not."""
    if not parse_reference(reference):
        raise ModelFolderError(f"{reference!r} is no reference to a model on the Hub (org/name)")
    source = resolve(f"hf-hub:{reference.removeprefix('hf-hub:')}")
    return f"{source.reference.partition('@')[0]}@{source.commit}"


def _set_model(app: Path, pinned: str) -> None:
    """Let the page take this model where the Space's settings name no other."""
    text = app.read_text(encoding="utf-8")
    setting = f'os.environ.setdefault("{ENVIRONMENT_VARIABLE}", "hf-hub:{pinned}")\n'
    start = 'if __name__ == "__main__":\n'
    if text.count(start) != 1:
        raise ModelFolderError(f"{app} has no place for the name of the model")
    app.write_text(text.replace(start, f"{start}    {setting}"), encoding="utf-8")


def _readme(pinned: str | None) -> str:
    """The project's front matter with the model pinned, and a few words."""
    front = yaml.safe_load((_ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    model = "The model is part of this Space (`weights/`)."
    if pinned:
        repository, _, commit = pinned.partition("@")
        front["models"] = [repository]
        front["preload_from_hub"] = [f"{repository} {CONFIG},{WEIGHTS},{CARD} {commit}"]
        model = (
            f"The model is [{repository}](https://huggingface.co/{repository}/tree/{commit}) at "
            f"commit `{commit}`. The variable `{ENVIRONMENT_VARIABLE}` in this Space's settings "
            "names another."
        )
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return (
        f"---\n{text}---\n\n# {front['title']}\n\n{model}\n\nNot a medical device. Research "
        "software for study and demonstration: never use it to diagnose, triage or treat.\n"
    )
