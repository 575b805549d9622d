"""Where the model is that comes with the project."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "weights"

#: The bundled model folder: inside an installed package; in a checkout and a Space beside it.
BUNDLED = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "weights"
