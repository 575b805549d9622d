"""A model folder -> the Hugging Face Hub, in one commit. ``python -m train.push FOLDER [REPO]``

Everything is checked before anything is sent, and what is sent becomes visible in one commit or not
at all. What is there already is not sent again. ``--space`` publishes the page instead of a model;
see `train.space`.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import (
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from cft.classifier import build_network
from cft.hub import explain, git_hash, is_member_folder, parse_reference, patiently
from cft.model_folder import CARD, CONFIG, WEIGHTS, ModelFolderError, read_config, read_model_folder
from train.command import exit_code
from train.report import PLACEHOLDER

#: The options of `add_push_arguments`, as attributes: none belongs into a model's provenance.
PUSH_OPTIONS = ("push", "private", "revision", "tag", "dry_run")

_KINDS = {"revision": "branch", "tag": "tag"}

# Seconds to wait for an answer to begin or to go on.
_TIMEOUT = 60.0

# Of what is there from an earlier push: what a reader might take for part of this one.
_OWN = {"model": (WEIGHTS, "members/"), "space": ("cft/", "weights/")}

# What goes along with the model folder's own files where it is there.
_REPORT = ("report.json", "report.md")
_PLOTS = ("*.png", "plots/*.png")

# How the client begins what the Hub has against a card.
_CARD_REFUSED = "Invalid metadata in README.md"

_BINARY = (".safetensors", ".png")

# Sections without which a card does not say what has to be said.
_SECTIONS = ("Intended use and limits", "Training data", "Metrics", "How to use", "Citation")


T = TypeVar("T")


class PushError(RuntimeError):
    """Nothing was published; the message is one sentence for the user."""


@dataclass(frozen=True)
class Published:
    """What is on the Hub after a push.

    Attributes
    ----------
    url, commit
        Where, and the commit to pin.
    changed
        False if everything was there already.
    """

    url: str
    commit: str
    changed: bool


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
    _add_details(group)


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
        _push(options, folder)
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
    _check_names(options, options.push or "user/name")
    if not (options.dry_run and options.push):
        login()


def _push(options: argparse.Namespace, folder: Path) -> None:
    files = check_folder(folder)
    repo = options.push
    if not repo:
        repo = default_name(folder, login())
    elif not options.dry_run:
        _check_names(options, repo)
        login()
    branch = f"@{options.revision}" if options.revision else ""
    _publish_and_print(options, repo, with_reference(files, repo + branch), "model")


def _add_details(group: Any) -> None:
    group.add_argument("--private", action="store_true", help="make the repository private")
    group.add_argument("--revision", metavar="BRANCH", help="branch to push to (default: main)")
    group.add_argument("--tag", help="name for the commit, such as v1")
    group.add_argument(
        "--dry-run", action="store_true", help="show what a push would send, and send nothing"
    )


# ---------------------------------------------------------------------------------- checks


def check_name(repo: str) -> None:
    """Refuse what cannot be the name of a repository."""
    parsed = "@" not in repo and ":" not in repo and parse_reference(repo)
    if not parsed or repo.endswith((".git", ".ipynb", ".", "-")) or "--" in repo:
        raise PushError(f"{repo!r} cannot be the name of a repository; write org/name")


def _check_names(options: argparse.Namespace, repo: str) -> None:
    check_name(repo)
    for kind in ("revision", "tag"):
        name = getattr(options, kind)
        if name is not None and not parse_reference(f"user/name@{name}"):
            raise PushError(f"{name!r} cannot be the name of a {_KINDS[kind]}")


def login() -> str:
    """The account that is logged in."""
    try:
        return _ask(lambda: HfApi().whoami())["name"]
    except LocalTokenNotFoundError:
        raise PushError(
            "nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN to a token with "
            "the right to write"
        ) from None
    except Exception as error:
        raise _failure(error, "your account") from None


def default_name(folder: Path, user: str) -> str:
    """``<user>/cft-<architecture>-<dataset>``."""
    config = read_config(Path(folder))
    dataset = config.get("cft", {}).get("provenance", {}).get("dataset")
    words = ["cft", config["architecture"], *([dataset] if dataset else [])]
    plain = re.sub(r"[^a-z0-9_]+", "-", "-".join(words).lower()).strip("-")
    return f"{user}/{plain}"


def check_folder(folder: Path) -> dict[str, bytes | Path]:
    """Whether a model folder may be published: valid, strictly loadable, labelled, described.

    Returns
    -------
    dict
        Name in the repository -> file: what a push sends.

    Raises
    ------
    PushError
        If the folder is not fit to be published.
    """
    folder = Path(folder)
    try:
        config = read_config(folder)
        members = [member["folder"] for member in config.get("cft", {}).get("members", ())]
        if members:
            from cft.ensemble import Ensemble

            Ensemble(folder, "cpu")
            _check_members(members, folder)
        for place in [folder / member for member in members] or [folder]:
            build_network(read_model_folder(place))
            _check_format(place / WEIGHTS)
    except ModelFolderError as error:
        raise PushError(f"not published: {error}") from None
    _check_labels(config, folder)
    _check_card(folder / CARD)
    own = [CONFIG, CARD] if members else [CONFIG, WEIGHTS, CARD]
    names = [*own, *(f"{m}/{name}" for m in members for name in (CONFIG, WEIGHTS, CARD))]
    names += [name for name in _REPORT if (folder / name).is_file()]
    for pattern in _PLOTS:
        names += [str(file.relative_to(folder)) for file in sorted(folder.glob(pattern))]
    return {name: folder / name for name in names if (folder / name).is_file()}


def _check_members(members: Sequence[str], folder: Path) -> None:
    odd = [member for member in members if not is_member_folder(member)]
    if odd:
        raise PushError(
            f"the ensemble {folder} has a member in {odd[0]!r}; on the Hub members have to be "
            "folders in members/, as train.evaluate --save-ensemble writes them"
        )


def _check_format(weights: Path) -> None:
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        if (file.metadata() or {}).get("format") != "pt":
            raise PushError(
                f'{weights} lacks the metadata {{"format": "pt"}} by which others know how to read '
                "it; write the folder again with this package"
            )


def _check_labels(config: Mapping[str, Any], folder: Path) -> None:
    names = config["label_names"]
    names = list(names.values()) if isinstance(names, dict) else names
    unnamed = [x for x in names if not x.strip() or re.fullmatch(r"(LABEL_|class_?)?\d+", x)]
    if unnamed:
        raise PushError(
            f"{folder / CONFIG} names a label {unnamed[0]!r}, which says nothing; name the findings"
        )


def _check_card(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
        card = ModelCard(text)
    except (OSError, UnicodeDecodeError):
        raise PushError(f"there is no readable model card {path}") from None
    except Exception as error:  # whatever YAML and the Hub's own classes make of the front matter
        raise PushError(
            f"the front matter of {path} is not valid ({str(error).splitlines()[0]})"
        ) from None
    missing = [x for x in ("license", "library_name", "pipeline_tag") if not card.data.get(x)]
    missing += [f"## {x}" for x in _SECTIONS if f"\n## {x}\n" not in text]
    if missing:
        raise PushError(f"the model card {path} is not complete: it lacks {', '.join(missing)}")


def with_reference(files: Mapping[str, bytes | Path], name: str) -> dict[str, bytes | Path]:
    """The same files, the card's examples naming ``org/name[@branch]`` instead of a folder."""
    text = Path(files[CARD]).read_text(encoding="utf-8")
    text = text.replace(f"local-dir:{PLACEHOLDER}", f"hf-hub:{name}")
    return {**files, CARD: text.replace(PLACEHOLDER, f"hf-hub:{name}").encode()}


# ---------------------------------------------------------------------------------- publish


def publish(
    repo: str,
    files: Mapping[str, bytes | Path],
    *,
    kind: str = "model",
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
) -> Published:
    """Send files to a repository of the Hub, in one commit.

    Parameters
    ----------
    repo
        ``org/name``; made if absent.
    files
        Name in the repository -> its content, or a file that has it.
    kind
        "model" or "space".
    private
        Whether a new repository is private.
    revision, tag
        Branch (made if absent), and name for the commit.

    Raises
    ------
    PushError
        If it could not be published; the repository is then as it was.
    """
    api, branch = HfApi(), revision or "main"
    check_name(repo)
    try:
        there = _look(api, repo, kind, None)
        if there is not None and private and not there.private:
            raise PushError(
                f"{repo} is there and public; make it private on its page first, or push to another"
            )
        if there is None:
            space = {"space_sdk": "gradio"} if kind == "space" else {}
            _ask(
                lambda: api.create_repo(
                    repo, repo_type=kind, private=private, exist_ok=True, **space
                )
            )
        elif revision:
            there = _look(api, repo, kind, revision)
        if revision and there is None:
            _ask(lambda: api.create_branch(repo, branch=revision, repo_type=kind, exist_ok=True))
        head = _look(api, repo, kind, branch)
        tagged = _look(api, repo, kind, tag) if tag else None
        changes = _changes(files, head, kind)
        if tagged and (changes or tagged.sha != head.sha):
            raise PushError(f"{repo} has a tag {tag} already; choose another name for this commit")
        commit = head.sha if head else None
        if changes:
            commit = _commit(api, repo, kind, branch, files, commit)
        if tag and not tagged:
            _tag(api, repo, kind, tag, commit)
    except PushError:
        raise
    except Exception as error:
        raise _failure(error, repo) from None
    place = "spaces/" if kind == "space" else ""
    return Published(f"{api.endpoint}/{place}{repo}", commit, bool(changes))


def _ask(call: Callable[[], T]) -> T:
    """`patiently`, with a bound on each wait for an answer: the client itself has none."""

    def bounded() -> T:
        get_session().timeout = _TIMEOUT
        return call()

    return patiently(bounded)


def _look(api: HfApi, repo: str, kind: str, revision: str | None) -> Any:
    """What the Hub says of a revision and its files; None if there is no such thing."""
    try:
        return _ask(
            lambda: api.repo_info(
                repo, repo_type=kind, revision=revision, files_metadata=True, timeout=_TIMEOUT
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None


def _changes(
    files: Mapping[str, bytes | Path], head: Any, kind: str
) -> dict[str, bytes | Path | None]:
    """What a commit has to change: name -> new content, or None for what has to go.

    What others added to the repository stays; of what an earlier push put there, weights and code
    that do not belong to this one go.
    """
    there = {}
    for file in (head.siblings or ()) if head else ():
        there[file.rfilename] = file.lfs.sha256 if file.lfs else file.blob_id
    changes: dict[str, bytes | Path | None] = {}
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        if there.get(name) not in (hashlib.sha256(data).hexdigest(), git_hash(data)):
            changes[name] = content
    return changes | {x: None for x in there if x.startswith(_OWN[kind]) and x not in files}


def _commit(
    api: HfApi,
    repo: str,
    kind: str,
    branch: str,
    files: Mapping[str, bytes | Path],
    parent: str | None,
) -> str:
    """Make the commit; its identifier.

    Repeated after a passing fault: what was sent before is not sent again, and a commit that was
    made although its answer was lost is recognised, because nothing is left to change.
    """

    def attempt() -> str:
        head = _look(api, repo, kind, branch)
        changes = _changes(files, head, kind)
        if head and not changes:
            return head.sha
        operations = [
            CommitOperationDelete(name)
            if data is None
            else CommitOperationAdd(name, data if isinstance(data, bytes) else str(data))
            for name, data in changes.items()
        ]
        for operation in operations:
            # One by one: several at a time go through threads, which Ctrl-C would wait for.
            if operation.path_in_repo.endswith(_BINARY) and changes[operation.path_in_repo]:
                api.preupload_lfs_files(
                    repo, [operation], repo_type=kind, revision=branch, free_memory=False
                )
        names = ", ".join(changes) if len(changes) <= 5 else f"{len(changes)} files"
        return api.create_commit(
            repo,
            operations,
            commit_message=f"Upload {names}",
            repo_type=kind,
            revision=branch,
            parent_commit=parent,
        ).oid

    return _ask(attempt)


def _tag(api: HfApi, repo: str, kind: str, tag: str, commit: str) -> None:
    """Name a commit; a name that was given although its answer was lost is recognised."""

    def attempt() -> None:
        there = _look(api, repo, kind, tag)
        if there is None:
            api.create_tag(repo, tag=tag, revision=commit, repo_type=kind)
        elif there.sha != commit:
            raise PushError(
                f"{commit} is published, but its tag {tag} was given to another commit meanwhile"
            )

    _ask(attempt)


def _failure(error: Exception, what: str) -> PushError:
    """The sentence for the user; errors that are no fault of line or Hub are raised as they are."""
    known = (HTTPError, OSError, ValueError, RuntimeError, KeyError)
    if not isinstance(error, known):
        raise error
    if isinstance(error, ValueError) and _CARD_REFUSED in str(error):
        reasons = " ".join(str(error).partition(_CARD_REFUSED)[2].split()).strip(". -")
        return PushError(f"not published: the Hub does not accept the model card ({reasons})")
    return PushError(f"not published: {explain(error, what)}")


# ------------------------------------------------------------------------------ command line


def _publish_and_print(
    options: argparse.Namespace,
    repo: str,
    files: Mapping[str, bytes | Path],
    kind: str,
) -> None:
    _check_names(options, repo)
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
    _add_details(parser)
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
        _push(options, options.folder)
        return
    from train.space import build_space

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
        _check_names(options, options.space)
        if not options.dry_run:
            login()
        _publish_and_print(options, options.space, files, "space")


if __name__ == "__main__":
    sys.exit(main())
