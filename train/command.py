"""How every command of `train` ends: an exit code, and one sentence if something went wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable

from train.labels import UsageError

__all__ = ["Stopped", "exit_code"]


class Stopped(Exception):
    """The user asked for the end (SIGINT or SIGTERM), and what is finished is kept."""

    def __str__(self) -> str:
        return "stopped; what is finished is kept: add --resume to go on"


def exit_code(
    name: str, work: Callable[[], int | None], *expected: type[Exception], interrupted: str
) -> int:
    """Do the work of a command.

    Parameters
    ----------
    name
        Of the command, such as "train.cft"; the sentence begins with it.
    work
        What to do; it returns an exit code, or None if all went well.
    expected
        What may go wrong; the text of such an error is a sentence for the user. An `OSError` is
        always expected, and its file is named.
    interrupted
        What is true after a Ctrl-C.

    Returns
    -------
    int
        Of `work`; 1 after a sentence on stderr, 2 if that is a `UsageError`.
    """
    try:
        return work() or 0
    except KeyboardInterrupt:
        sentence = f"interrupted; {interrupted}"
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except expected as error:
        sentence = str(error)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        sentence = f"{error.strerror or error}{where}"
    print(f"{name}: {sentence}", file=sys.stderr)
    return 1
