"""What can go wrong in a command; the message of each error is one sentence for the user."""

from __future__ import annotations

from cft.errors import ModelFolderError


class DatasetError(ValueError):
    """A data set that cannot be used as it is; the message says what, where and what to do."""


class UsageError(DatasetError):
    """Options that are wrong whatever the data: a command exits with 2."""


class TrainingError(RuntimeError):
    """The run cannot go on; the message is one sentence for the user."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one sentence for the user."""


class TableError(DatasetError):
    """A table cannot be used; the message says in which row and column, and what to do."""


class StudyError(ValueError):
    """Films cannot be combined into studies; the message is one sentence for the user."""


class EvaluationError(ValueError):
    """The evaluation cannot be done as asked; the message is one sentence for the user."""


class PushError(RuntimeError):
    """Nothing was published; the message is one sentence for the user."""


class Stopped(Exception):
    """The user asked for the end (SIGINT or SIGTERM), and what is finished is kept."""

    def __str__(self) -> str:
        return "stopped; what is finished is kept: add --resume to go on"


#: What either stage may say to the user and end with.
ERRORS = DatasetError, TrainingError, CheckpointError, ModelFolderError, PushError, Stopped
