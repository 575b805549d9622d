"""The command `cft`, also ``python -m cft``: the first word chooses what it does.

    cft FILE_OR_FOLDER...   findings of chest X-rays
    cft score SOURCE...     findings of an archive of films, as Parquet files
    cft serve               the page
    cft pull REF            fetch a model
    cft convert NAME ...    make a model folder of another project's checkpoint
    cft selftest [FOLDER]   compare a model with its reference figures
    cft gate-fit FOLDER FILMS...   let a model learn what no film is

Exit status: 0 if all went well, 1 if a film failed (each named with its reason on stderr) or the
work could not be done, 2 for wrong usage, 130 if interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from cft.threads import one_thread_in_numpy, wait_briefly

#: First word -> the module with its ``main``, and the line of the help.
COMMANDS = {
    "score": ("cft.commands.score", "findings of an archive of films, as Parquet files"),
    "serve": ("cft.commands.serve", "start the page"),
    "convert": ("cft.convert.__main__", "make a model folder of another project's checkpoint"),
    "pull": ("cft.commands.pull", "fetch a model of the Hugging Face Hub ahead of its use"),
    "selftest": ("cft.commands.selftest", "compare a model with its reference figures"),
    "gate-fit": ("cft.commands.gate_fit", "let a model folder learn from films what is no film"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wait_briefly()
    one_thread_in_numpy()
    try:
        status = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # A reader that goes away early (`| head`) ends the program quietly, as for any filter;
        # what is left to print must not meet the closed pipe again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _run(words: list[str]) -> int:
    if words and words[0] in COMMANDS:
        module, _ = COMMANDS[words[0]]
        return importlib.import_module(module).main(words[1:])
    from cft.commands import films

    return films.main(words, {name: line for name, (_, line) in COMMANDS.items()})


if __name__ == "__main__":
    sys.exit(main())
