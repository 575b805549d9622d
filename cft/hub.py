"""A model reference -> a local model folder."""

from __future__ import annotations

import os
from pathlib import Path

from cft.model_folder import ModelFolderError

#: Environment variable that names the model to use where no reference is given.
ENVIRONMENT_VARIABLE = "CFT_MODEL"

_BUNDLED = Path(__file__).resolve().parent.parent / "weights"


def resolve(reference: str | os.PathLike | None = None) -> Path:
    """Find the model folder that a reference names.

    Parameters
    ----------
    reference
        A folder; or None for the one that the environment variable ``CFT_MODEL`` names, and
        without it the model bundled with the project.

    Returns
    -------
    Path
        An existing folder (its content is checked by `cft.model_folder.read_model_folder`).

    Raises
    ------
    ModelFolderError
        If there is no such folder.
    """
    named_by = ""
    if reference is None:
        reference = os.environ.get(ENVIRONMENT_VARIABLE) or _BUNDLED
        named_by = f" (named by {ENVIRONMENT_VARIABLE})" if reference != _BUNDLED else ""
    folder = Path(reference)
    if not folder.is_dir():
        raise ModelFolderError(f"there is no model folder at {folder}{named_by}")
    return folder
