"""What can be wrong with a film or a model; each message is one sentence for the user."""

from __future__ import annotations

#: Most characters of what is said about a model folder, which may be anybody's.
LONGEST = 300


class RadiographError(ValueError):
    """A file cannot be read as a radiograph; the message is one sentence for the user."""


class ModelFolderError(ValueError):
    """A model folder cannot be used; the message is one sentence for the user.

    What is longer than `LONGEST` loses its middle, and line breaks and other characters that would
    not be seen are made plain: a part of it may come from the folder.
    """

    def __init__(self, message: object = ""):
        text = " ".join(str(message).split())
        text = "".join(c if c.isprintable() else "?" for c in text)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST - 105]} ... {text[-100:]}"
        super().__init__(text)


class EngineError(ModelFolderError):
    """The engine that was asked for cannot run a model here; the message is one sentence."""


class ConversionError(ValueError):
    """A checkpoint of another project cannot be converted; the message is one sentence."""
