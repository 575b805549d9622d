"""Send files to the Hugging Face Hub, in one commit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from cft.model.folder import WEIGHTS
from cft.model.hub import parse_reference
from cft.model.hub_errors import explain, patiently
from cft.model.hub_files import git_hash
from train.errors import PushError

# Seconds to wait for an answer to begin or to go on.
_TIMEOUT = 60.0

# Of what is there from an earlier push: what a reader might take for part of this one.
_OWN = {"model": (WEIGHTS, "members/"), "space": ("cft/", "weights/")}

# How the client begins what the Hub has against a card.
_CARD_REFUSED = "Invalid metadata in README.md"
_BINARY = (".safetensors", ".png")
T = TypeVar("T")


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


# ---------------------------------------------------------------------------------- checks


def check_name(repo: str) -> None:
    """Refuse what cannot be the name of a repository."""
    parsed = "@" not in repo and ":" not in repo and parse_reference(repo)
    if not parsed or repo.endswith((".git", ".ipynb", ".", "-")) or "--" in repo:
        raise PushError(f"{repo!r} cannot be the name of a repository; write org/name")


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
            space_sdk = "gradio" if kind == "space" else None
            _ask(
                lambda: api.create_repo(
                    repo, repo_type=kind, private=private, exist_ok=True, space_sdk=space_sdk
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
        if changes:
            commit = _commit(api, repo, kind, branch, files, head.sha if head else None)
        else:
            commit = head.sha
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
        for added in operations:
            if not isinstance(added, CommitOperationAdd):
                continue
            # One by one: several at a time go through threads, which Ctrl-C would wait for.
            if added.path_in_repo.endswith(_BINARY):
                api.preupload_lfs_files(
                    repo, [added], repo_type=kind, revision=branch, free_memory=False
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
