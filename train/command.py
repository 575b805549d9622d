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
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from train.errors import UsageError

__all__ = [
    "ABOVE_ZERO",
    "BETWEEN_ZERO_AND_ONE",
    "FACTOR",
    "FROM_ZERO",
    "POSITIVE",
    "SHARE",
    "UP_TO_ONE",
    "WHOLE",
    "Number",
    "Stop",
    "add_options",
    "as_json",
    "command_of",
    "exit_code",
    "flag_of",
    "option",
    "options_of",
    "words_of",
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
UP_TO_ONE = Number(float, lambda x: 0 < x <= 1, "a number above 0 and at most 1")
BETWEEN_ZERO_AND_ONE = Number(float, lambda x: 0 < x < 1, "a number between 0 and 1")
FACTOR = Number(float, lambda x: 0 < x <= 1, "a number above 0 and at most 1")


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
        self._before = {
            s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        if self.asked:  # the second time the user means it
            raise KeyboardInterrupt
        self.asked = True
        print(
            "stopping after this step; press Ctrl-C again to stop at once, without saving",
            file=sys.stderr,
        )


# --- Options ------------------------------------------------------------------------------------


def option(default: Any, text: str, *, machine: bool = False, **argument: Any) -> Any:
    """A field of a dataclass that is an option of a command line as well; see `add_options`.

    Parameters
    ----------
    default
        Its value if nobody says another.
    text
        Help for the user.
    machine
        It belongs to one machine, such as a folder or a device: it is neither in a model's
        provenance nor in the command that repeats a run. If what lies there decides the result,
        the provenance names that in another way.
    **argument
        For `argparse.ArgumentParser.add_argument`; by default the type is the field's.
    """
    return field(default=default, metadata={"help": text, "machine": machine, "of": argument})


def flag_of(name: str) -> str:
    """``--min-width`` for the field ``min_width``."""
    return "--" + name.replace("_", "-")


def add_options(parser: Any, kind: type, positional: Collection[str] = ()) -> None:
    """Give a parser, or a group of one, an option for each field of a dataclass.

    What the user does not say is not in the namespace at all: `options_of` knows the defaults.

    Parameters
    ----------
    parser
        A parser, or a group of one.
    kind
        A dataclass whose fields were made by `option`.
    positional
        Fields that are given without a flag; they may be left out.
    """
    types = get_type_hints(kind)
    for each in fields(kind):
        argument = {**_argument(types[each.name]), **each.metadata["of"]}
        argument["help"] = each.metadata["help"] + _default_text(each.default)
        if each.name in positional:
            parser.add_argument(each.name, nargs="?", **argument)
        else:
            parser.add_argument(flag_of(each.name), default=argparse.SUPPRESS, **argument)


def _argument(hint: Any) -> dict[str, Any]:
    """What a field's type says about its option."""
    if type(None) in get_args(hint):
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is tuple:
        return {"type": get_args(hint)[0], "nargs": "+", "action": "extend"}
    return {"type": hint}


def _default_text(default: Any) -> str:
    if default is None or default is False or default in ("", ()):
        return ""
    return f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"


def options_of(kind: type, *layers: Mapping[str, Any]) -> Any:
    """A dataclass of options from the values that are known, the last layer winning.

    Parameters
    ----------
    kind
        The dataclass; its own defaults stand for what no layer says.
    *layers
        Name -> value, such as a preset, a model's provenance, or what the user typed. Names that
        are no field are passed over, and None says nothing.
    """
    names = {each.name for each in fields(kind)}
    values = {}
    for layer in layers:
        for name, value in layer.items():
            if name in names and value is not None:
                values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def as_json(*options: Any) -> dict[str, Any]:
    """Dataclasses of options as one JSON object, without what belongs to one machine."""
    return {
        each.name: list(value) if isinstance(value, tuple) else value
        for one in options
        for each in fields(one)
        if not each.metadata["machine"]
        for value in [getattr(one, each.name)]
    }


def words_of(options: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """What to type for options, both as `as_json` gives them, that are not as usual."""
    words = []
    for name in sorted(options):
        value = options[name]
        if value == usual.get(name) or value is None:
            continue
        given = [] if value is True else value if isinstance(value, list) else [value]
        words += [flag_of(name), *map(str, given)]
    return words


def command_of(
    program: str,
    options: Mapping[str, Any],
    usual: Mapping[str, Any],
    data: Path | None,
    preset: str | None = None,
) -> str:
    """The command that repeats a run elsewhere, without what belongs to one machine.

    Parameters
    ----------
    program
        Such as ``python -m train.negative``.
    options, usual
        What was asked for and what would be without being asked for, as `as_json` gives them.
    data
        Where the data is; named as DATA.
    preset
        The preset's name; ``usual`` knows its values.
    """
    words = [program]
    words += [f"--preset {preset}"] if preset else []
    words += ["--data DATA"] if data else []
    return " ".join([*words, *map(shlex.quote, words_of(options, usual))])
