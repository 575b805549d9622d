"""What can be wrong with a film or a model; each message is one sentence for the user."""

from __future__ import annotations


class RadiographError(ValueError):
    """A file cannot be read as a radiograph; the message is one sentence for the user."""


class ModelFolderError(ValueError):
    """A model folder cannot be used; the message is one sentence for the user."""


class ConversionError(ValueError):
    """A checkpoint of another project cannot be converted; the message is one sentence."""
