"""Whether a model folder is fit to be published, and which files go along."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from cft.errors import ModelFolderError
from cft.model.folder import CARD, CONFIG, WEIGHTS, read_config, read_model_folder
from cft.model.hub import is_member_folder
from cft.model.network import build_network
from train.errors import PushError
from train.publishing.card import PLACEHOLDER

# What goes along with the model folder's own files where it is there.
_REPORT = ("report.json", "report.md")
_PLOTS = ("*.png", "plots/*.png")

# Sections without which a card does not say what has to be said.
_SECTIONS = ("Intended use and limits", "Training data", "Metrics", "How to use", "Citation")


def default_name(folder: Path, user: str) -> str:
    """``<user>/cft-<architecture>-<dataset>``."""
    config = read_config(Path(folder))
    dataset = config.get("cft", {}).get("provenance", {}).get("dataset")
    words = ["cft", config["architecture"], *([dataset] if dataset else [])]
    plain = re.sub(r"[^a-z0-9_]+", "-", "-".join(words).lower()).strip("-")
    return f"{user}/{plain}"


def check_folder(folder: Path) -> dict[str, Path]:
    """Whether a model folder may be published: valid, strictly loadable, labelled, described.

    Returns
    -------
    dict
        Name in the repository -> file: what a push sends.

    Raises
    ------
    PushError
        If the folder is not fit to be published.
    """
    folder = Path(folder)
    try:
        config = read_config(folder)
        members = [member["folder"] for member in config.get("cft", {}).get("members", ())]
        if members:
            from cft.model.ensemble import Ensemble

            Ensemble(folder, "cpu")
            _check_members(members, folder)
        for place in [folder / member for member in members] or [folder]:
            build_network(read_model_folder(place))
            _check_format(place / WEIGHTS)
    except ModelFolderError as error:
        raise PushError(f"not published: {error}") from None
    _check_labels(config, folder)
    _check_card(folder / CARD)
    own = [CONFIG, CARD] if members else [CONFIG, WEIGHTS, CARD]
    names = [*own, *(f"{m}/{name}" for m in members for name in (CONFIG, WEIGHTS, CARD))]
    names += [name for name in _REPORT if (folder / name).is_file()]
    for pattern in _PLOTS:
        names += [str(file.relative_to(folder)) for file in sorted(folder.glob(pattern))]
    return {name: folder / name for name in names if (folder / name).is_file()}


def _check_members(members: Sequence[str], folder: Path) -> None:
    odd = [member for member in members if not is_member_folder(member)]
    if odd:
        raise PushError(
            f"the ensemble {folder} has a member in {odd[0]!r}; on the Hub members have to be "
            "folders in members/, as train.evaluate --save-ensemble writes them"
        )


def _check_format(weights: Path) -> None:
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        if (file.metadata() or {}).get("format") != "pt":
            raise PushError(
                f'{weights} lacks the metadata {{"format": "pt"}} by which others know how to read '
                "it; write the folder again with this package"
            )


def _check_labels(config: Mapping[str, Any], folder: Path) -> None:
    names = config["label_names"]
    names = list(names.values()) if isinstance(names, dict) else names
    unnamed = [x for x in names if not x.strip() or re.fullmatch(r"(LABEL_|class_?)?\d+", x)]
    if unnamed:
        raise PushError(
            f"{folder / CONFIG} names a label {unnamed[0]!r}, which says nothing; name the findings"
        )


def _check_card(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        card = ModelCard(text)
    except (OSError, UnicodeDecodeError):
        raise PushError(f"there is no readable model card {path}") from None
    except Exception as error:  # whatever YAML and the Hub's own classes make of the front matter
        raise PushError(
            f"the front matter of {path} is not valid ({str(error).splitlines()[0]})"
        ) from None
    missing = [x for x in ("license", "library_name", "pipeline_tag") if not card.data.get(x)]
    missing += [f"## {x}" for x in _SECTIONS if f"\n## {x}\n" not in text]
    if missing:
        raise PushError(f"the model card {path} is not complete: it lacks {', '.join(missing)}")


def with_reference(files: Mapping[str, Path], name: str) -> dict[str, bytes | Path]:
    """The same files, the card's examples naming ``org/name[@branch]`` instead of a folder."""
    text = files[CARD].read_text(encoding="utf-8")
    text = text.replace(f"local-dir:{PLACEHOLDER}", f"hf-hub:{name}")
    return {**files, CARD: text.replace(PLACEHOLDER, f"hf-hub:{name}").encode()}
