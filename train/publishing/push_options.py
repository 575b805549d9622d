"""``--push`` and what goes with it, for the commands that make a model folder."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cft.model.hub import parse_reference
from train.errors import PushError
from train.publishing.check import check_folder, default_name, with_reference
from train.publishing.hub import check_name, login, publish

#: The options of `add_push_arguments`, as attributes: none belongs into a model's provenance.
PUSH_OPTIONS = ("push", "private", "revision", "tag", "dry_run")
_KINDS = {"revision": "branch", "tag": "tag"}


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--push [REPO]`` and what goes with it to a command that makes a model folder."""
    group = parser.add_argument_group("the Hub")
    group.add_argument(
        "--push",
        nargs="?",
        const="",
        metavar="REPO",
        help="publish the model on the Hub as org/name (default: <user>/cft-<arch>-<dataset>)",
    )
    add_push_details(group)


def push_from_arguments(options: argparse.Namespace, folder: Path) -> None:
    """Publish a model folder if ``--push`` was given; prints its address and commit.

    Raises
    ------
    PushError
        If it cannot be published.
    """
    if options.push is None:
        return
    try:
        push_folder(options, folder)
    except PushError as error:
        raise PushError(
            f"{error} (the model is whole in {folder}: `python -m train.push` sends it)"
        ) from None


def check_login(options: argparse.Namespace) -> None:
    """Before a long run that ends with ``--push``: is somebody logged in, are the names possible?

    Raises
    ------
    PushError
        If not.
    SystemExit
        If there is no ``--push`` for what goes with it.
    """
    if options.push is None:
        given = [name for name in PUSH_OPTIONS if getattr(options, name)]
        if given:
            print(f"--{given[0].replace('_', '-')} goes with --push", file=sys.stderr)
            sys.exit(2)
        return
    for client in ("httpx", "httpx2"):  # which would log each request among the run's own lines
        logging.getLogger(client).setLevel(logging.WARNING)
    check_names(options, options.push or "user/name")
    if not (options.dry_run and options.push):
        login()


def push_folder(options: argparse.Namespace, folder: Path) -> None:
    files = check_folder(folder)
    repo = options.push
    if not repo:
        repo = default_name(folder, login())
    elif not options.dry_run:
        check_names(options, repo)
        login()
    branch = f"@{options.revision}" if options.revision else ""
    publish_and_print(options, repo, with_reference(files, repo + branch), "model")


def add_push_details(group: Any) -> None:
    group.add_argument("--private", action="store_true", help="make the repository private")
    group.add_argument("--revision", metavar="BRANCH", help="branch to push to (default: main)")
    group.add_argument("--tag", help="name for the commit, such as v1")
    group.add_argument(
        "--dry-run", action="store_true", help="show what a push would send, and send nothing"
    )


def check_names(options: argparse.Namespace, repo: str) -> None:
    check_name(repo)
    for kind in ("revision", "tag"):
        name = getattr(options, kind)
        if name is not None and not parse_reference(f"user/name@{name}"):
            raise PushError(f"{name!r} cannot be the name of a {_KINDS[kind]}")


# ------------------------------------------------------------------------------ command line


def publish_and_print(
    options: argparse.Namespace,
    repo: str,
    files: Mapping[str, bytes | Path],
    kind: str,
) -> None:
    check_names(options, repo)
    if options.dry_run:
        print(f"Would send to {kind} {repo} ({'private' if options.private else 'public'}):")
        for name, content in files.items():
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            print(f"  {size:>12,} bytes  {name}")
        return
    done = publish(
        repo,
        files,
        kind=kind,
        private=options.private,
        revision=options.revision,
        tag=options.tag,
    )
    print(f"{'Published' if done.changed else 'Already there'}: {done.url}")
    print(f"Commit to pin: {repo}@{done.commit}")
