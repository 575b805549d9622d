"""What every command of `train` shares: the numbers that options take, and how it ends.

It ends with an exit code, and one sentence if something went wrong.
"""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from train.errors import UsageError

__all__ = [
    "ABOVE_ZERO",
    "BETWEEN_ZERO_AND_ONE",
    "FROM_ZERO",
    "POSITIVE",
    "SHARE",
    "WHOLE",
    "Number",
    "exit_code",
]


@dataclass(frozen=True)
class Number:
    """A type of `argparse`: a number in a range. What is no number, or infinite, is refused.

    Attributes
    ----------
    kind
        int or float.
    holds
        Whether a number is in the range; false of NaN.
    words
        What it must be, for the user.

    Examples
    --------
    >>> POSITIVE("3"), SHARE("0")
    (3, 0.0)
    """

    kind: type[int] | type[float]
    holds: Callable[[float], bool]
    words: str

    def __call__(self, text: str) -> int | float:
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if not self.holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {self.words}")
        return value


POSITIVE = Number(int, lambda x: x >= 1, "a whole number of at least 1")
WHOLE = Number(int, lambda x: x >= 0, "a whole number of at least 0")
ABOVE_ZERO = Number(float, lambda x: 0 < x < math.inf, "a number above 0")
FROM_ZERO = Number(float, lambda x: 0 <= x < math.inf, "a number of at least 0")
SHARE = Number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
BETWEEN_ZERO_AND_ONE = Number(float, lambda x: 0 < x < 1, "a number between 0 and 1")


# What requirements-train.txt installs and a command imports late.
_LIBRARIES = ("sklearn", "matplotlib")


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
    missing = [library for library in _LIBRARIES if find_spec(library) is None]
    if missing:  # said before hours of training, not after them
        print(
            f"{name}: {' and '.join(missing)} cannot be imported; run "
            "`pip install -r requirements-train.txt` in the project's folder",
            file=sys.stderr,
        )
        return 1
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


class Stop:
    """Remembers that SIGINT or SIGTERM came; the loop looks at `asked` between two steps."""

    def __init__(self):
        self.asked = False

    def __enter__(self) -> Stop:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.asked:  # the second time the user means it
            raise KeyboardInterrupt
        self.asked = True
        print("stopping; once more: at once, without saving", file=sys.stderr)


def option(default: Any, text: str, **argument: Any) -> Any:
    return field(default=default, metadata={"help": text, **argument})


def command_of(
    program: str,
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    left_out: Collection[str],
    preset: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> str:
    """The command that repeats a run elsewhere, without what belongs to one machine.

    Parameters
    ----------
    program
        Such as ``python -m train.negative``.
    parser, options
        What was asked for; options at their defaults are not named.
    left_out
        Options that belong to one machine: folders, device and the like.
    preset, values
        The preset's name, and the arguments that it stands for.
    """
    words = [program]
    words += [f"--preset {preset}"] if preset else []
    words += ["--data DATA"] if options.data else []
    for key, value in sorted(vars(options).items()):
        default = (values or {}).get(key, parser.get_default(key))
        if key not in {*left_out, "preset", "data"} and value != default:
            given = value if isinstance(value, list) else [value]
            words += [f"--{key.replace('_', '-')}", *(shlex.quote(str(x)) for x in given)]
    return " ".join(words)
