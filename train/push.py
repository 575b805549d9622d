"""A model folder -> the Hugging Face Hub, in one commit. ``python -m train.push FOLDER [REPO]``

Everything is checked before anything is sent, and what is sent becomes visible in one commit or not
at all. What is there already is not sent again. ``--space`` publishes the page instead of a model;
see `train.space`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cft.errors import ModelFolderError
from train.command import exit_code
from train.errors import PushError
from train.publishing.hub import login
from train.publishing.push_options import (
    add_push_details,
    check_names,
    publish_and_print,
    push_folder,
)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m train.push",
        description="Publish a model folder on the Hugging Face Hub, or the page as a Space.",
    )
    parser.add_argument("folder", nargs="?", type=Path, help="model folder")
    parser.add_argument("repo", nargs="?", help="org/name (default: <user>/cft-<arch>-<dataset>)")
    parser.add_argument("--space", metavar="REPO", help="publish the page as this Space instead")
    parser.add_argument(
        "--model",
        metavar="REF",
        help="the Space's model, org/name@commit (default: the bundled one, sent along)",
    )
    parser.add_argument(
        "--build", metavar="DIR", type=Path, help="with --space: only write it here"
    )
    add_push_details(parser)
    options = parser.parse_args(arguments)
    if bool(options.space) == bool(options.folder):
        parser.error("name a model folder, or a Space with --space")
    if (options.model or options.build) and not options.space:
        parser.error("--model and --build go with --space")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse_arguments(arguments)
    return exit_code(
        *("train.push", lambda: _work_through(options), PushError, ModelFolderError),
        interrupted="a push is one commit, whole or not at all",
    )


def _work_through(options: argparse.Namespace) -> None:
    if not options.space:
        options.push = options.repo or ""
        push_folder(options, options.folder)
        return
    from train.publishing.space import build_space

    with tempfile.TemporaryDirectory() as scratch:
        folder = build_space(options.build or Path(scratch) / "space", options.model)
        if options.build:
            print(f"wrote the Space {folder}")
            return
        files = {
            str(file.relative_to(folder)): file
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        check_names(options, options.space)
        if not options.dry_run:
            login()
        publish_and_print(options, options.space, files, "space")


if __name__ == "__main__":
    sys.exit(main())
