"""A model reference -> a local model folder, fetched from the Hugging Face Hub if need be.

A revision (a branch, a tag) is resolved to its commit once, and that commit is what is fetched,
loaded and named in results. Only the files of the model folder's format are fetched, each is
checked against the size and hash under which the Hub lists it (see `cft.model.hub_files`), and the
cache learns a revision's commit only when all its files are there: an interrupted or damaged pull
never changes what is loaded offline.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cft.errors import ModelFolderError
from cft.files import atomic_write
from cft.model.bundled import BUNDLED
from cft.model.folder import CONFIG, MAX_BYTES, WEIGHTS
from cft.model.hub_errors import explain, is_known, is_transient, patiently
from cft.model.hub_files import DIGEST, TIMEOUT, RemoteFile, fetch_file, is_sound, storage

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

logger = logging.getLogger(__name__)

#: Environment variable that names the model to use where no reference is given.
ENVIRONMENT_VARIABLE = "CFT_MODEL"

#: Most bytes of an ensemble with its members.
MAX_TOTAL = 8 * 2**30

_PREFIX = "hf-hub:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MEMBER = re.compile(r"members/[A-Za-z0-9][\w.-]*", re.ASCII)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes
    ----------
    path
        The model folder.
    reference
        What names it for others: ``org/name@revision`` of the Hub; None for a local folder.
    commit
        The 40 hexadecimal digits of the commit on the Hub; None for a local folder.
    """

    path: Path
    reference: str | None = None
    commit: str | None = None


def resolve(reference: str | os.PathLike | None = None) -> Source:
    """Find the model folder that a reference names, fetching it if need be.

    Parameters
    ----------
    reference
        A folder; ``hf-hub:org/name``, ``hf-hub:org/name@revision`` or the same without the prefix
        where no such folder exists; None for what the environment variable ``CFT_MODEL`` names,
        and without it the model bundled with the project.

    Returns
    -------
    Source
        An existing folder (its content is checked by `cft.model.folder.read_model_folder`).

    Raises
    ------
    ModelFolderError
        If there is no such folder, or the model cannot be had from the Hub.
    """
    named_by = ""
    if reference is None:
        reference = os.environ.get(ENVIRONMENT_VARIABLE) or BUNDLED
        named_by = f" (named by {ENVIRONMENT_VARIABLE})" if reference != BUNDLED else ""
    folder = Path(reference)
    if isinstance(reference, str) and not folder.is_dir():
        parsed = parse_reference(reference)
        if parsed:
            return _from_hub(*parsed)
    if not folder.is_dir():
        raise ModelFolderError(f"there is no model folder at {folder}{named_by}")
    return Source(folder)


def parse_reference(reference: str) -> tuple[str, str] | None:
    """``[hf-hub:]org/name[@revision]`` -> (repository, revision); None if it has another form.

    Raises
    ------
    ModelFolderError
        If it begins with ``hf-hub:`` and what follows is no name of a repository or revision.
    """
    repository, _, revision = reference.removeprefix(_PREFIX).partition("@")
    revision = revision or "main"
    fits = (
        _REPOSITORY.fullmatch(repository)
        and _REVISION.fullmatch(revision)
        and ".." not in repository + revision
        and len(repository) <= 96
        and not reference.endswith("@")
    )
    if fits:
        return repository, revision
    if reference.startswith(_PREFIX):
        raise ModelFolderError(
            f"{reference!r} is no reference to a model on the Hub; write hf-hub:org/name or "
            "hf-hub:org/name@revision"
        )
    return None


def pull(reference: str) -> int:
    """Fetch a model of the Hub into the cache ahead of its use.

    Prints the reference with its commit and the model folder; what went wrong goes to standard
    error, in one line.

    Parameters
    ----------
    reference
        ``org/name`` or ``org/name@revision``, with or without ``hf-hub:`` before it.

    Returns
    -------
    int
        The exit status: 0 if it is there, 1 if not, 2 if that is no reference, 130 if interrupted.
    """
    status = 2
    try:
        parsed = parse_reference(reference)
        if not parsed:
            raise ModelFolderError(
                f"{reference!r} is no reference to a model on the Hub (org/name)"
            )
        status = 1
        source = _from_hub(*parsed)
    except ModelFolderError as error:
        print(f"cft pull: {error}", file=sys.stderr)
        return status
    except KeyboardInterrupt:
        print("cft pull: interrupted; nothing incomplete is kept", file=sys.stderr)
        return 130
    print(f"{parsed[0]}@{source.commit}")
    print(source.path)
    return 0


# ---------------------------------------------------------------------------------- fetching


def _from_hub(repository: str, revision: str) -> Source:
    # The client takes a while to import, and most uses of this package never need it.
    from huggingface_hub import constants

    reference = f"{repository}@{revision}"
    cached = _cached(repository, revision)
    if cached and (cached.commit == revision or constants.is_offline_mode()):
        return cached
    if constants.is_offline_mode():
        raise ModelFolderError(
            f"{reference} is not in the cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE is "
            f"set; run `cft pull {reference}` once with a network"
        )
    try:
        return _fetch(repository, revision, quick=cached is not None)
    except Exception as error:
        if isinstance(error, ModelFolderError) or not is_known(error):
            raise
        if cached and is_transient(error):
            logger.warning(
                "%s; going on with commit %s of %s, which is in the cache",
                *(explain(error, reference), cached.commit, repository),
            )
            return cached
        advice = ""
        if is_transient(error):
            advice = f"; `cft pull {reference}`, run with a network, fetches it ahead"
        raise ModelFolderError(explain(error, reference) + advice) from error


def _fetch(repository: str, revision: str, quick: bool) -> Source:
    """Resolve the revision, fetch its files, and tell the cache when all are there."""
    from huggingface_hub import HfApi

    info = patiently(
        lambda: HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=TIMEOUT
        ),
        reconnect=not quick,
    )
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise ModelFolderError(f"the Hub names no commit for {repository}@{revision}")
    listed = {file.rfilename: file for file in info.siblings or ()}
    _check_offer(repository, listed)
    own = [_offered(repository, listed[name]) for name in MAX_BYTES if name in listed]
    config = fetch_file(repository, commit, own[0])
    members = [f"{folder}/{name}" for folder in _members(config) for name in MAX_BYTES]
    inside = [_offered(repository, listed[name]) for name in members if name in listed]
    total = sum(file.size for file in (*own, *inside))
    if total > MAX_TOTAL:
        raise ModelFolderError(
            f"{repository} on the Hub has {total / 2**30:,.2f} GiB with all its members, more than "
            f"the {MAX_TOTAL / 2**30:,.2f} GiB that are fetched"
        )
    for file in (*own[1:], *inside):
        fetch_file(repository, commit, file)
    _remember(repository, revision, commit)
    return Source(config.parent, f"{repository}@{revision}", commit)


def _check_offer(repository: str, names: Iterable[str]) -> None:
    """Whether the repository holds a model folder at all, before anything is fetched."""
    if CONFIG not in names:
        raise ModelFolderError(f"{repository} on the Hub has no {CONFIG}, so it holds no model")
    if not any(Path(name).name == WEIGHTS for name in names):
        pickles = sorted(name for name in names if name.endswith(_PICKLES))
        reason = f"has no {WEIGHTS}, so it holds no model"
        if pickles:
            reason = (
                f"has its weights only as {pickles[0]}, a pickle, which can run code when it is "
                f"read; it needs a {WEIGHTS}"
            )
        raise ModelFolderError(f"{repository} on the Hub {reason}")


def _offered(repository: str, listed: RepoSibling) -> RemoteFile:
    """A file as the Hub lists it, if it is one that is fetched at all."""
    name, size = listed.rfilename, listed.size
    digest = str(listed.lfs.sha256 if listed.lfs else listed.blob_id)
    if type(size) is not int or size < 0 or not DIGEST.fullmatch(digest):
        raise ModelFolderError(f"the Hub gives no size and hash of {name} of {repository}")
    most = MAX_BYTES[name.rpartition("/")[2]]
    if size > most:
        raise ModelFolderError(
            f"{name} of {repository} on the Hub has {size / 2**30:,.2f} GiB, more than the "
            f"{most / 2**30:,.2f} GiB that are fetched"
        )
    return RemoteFile(name, size, digest)


def _members(config: Path) -> list[str]:
    """The folders of an ensemble's members; none for a single model, or if they are not sound."""
    try:
        members = json.loads(config.read_bytes())["cft"]["members"]
        folders = [member["folder"] for member in members]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []  # no ensemble; what is wrong with it is said when the folder is read
    return list(dict.fromkeys(f for f in folders if is_member_folder(f)))


def is_member_folder(name: object) -> bool:
    """Whether an ensemble on the Hub may have a member in this folder of its own."""
    return isinstance(name, str) and bool(_MEMBER.fullmatch(name)) and ".." not in name


# ------------------------------------------------------------------------------------- cache


def _remember(repository: str, revision: str, commit: str) -> None:
    """Note in the cache which commit a branch or tag is, as the client itself does."""
    if revision == commit:
        return
    place = storage(repository) / "refs" / revision
    place.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(place, commit)


def _cached(repository: str, revision: str) -> Source | None:
    """The revision in the cache, if all its files are there and undamaged."""
    home, commit = storage(repository), revision
    if not _COMMIT.fullmatch(revision):
        try:
            commit = (home / "refs" / revision).read_text().strip()
        except OSError:
            return None
    folder = home / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not (folder / CONFIG).is_file():
        return None
    members = _members(folder / CONFIG)
    needed = [f"{member}/{name}" for member in members for name in (CONFIG, WEIGHTS)] or [WEIGHTS]
    if not all(is_sound(folder / name) for name in (CONFIG, *needed)):
        return None
    return Source(folder, f"{repository}@{revision}", commit)
