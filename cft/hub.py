"""A model reference -> a local model folder, fetched from the Hugging Face Hub if need be.

``python -m cft.hub pull REF`` fetches a model ahead of its use.

A revision (a branch, a tag) is resolved to its commit once, and that commit is what is fetched,
loaded and named in results. Only the files of the model folder's format are fetched, each is
checked against the hash under which the Hub keeps it, and the cache learns a revision's commit only
when all its files are there: an interrupted or damaged pull never changes what is loaded offline.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cft.model_folder import CARD, CONFIG, WEIGHTS, ModelFolderError, atomic_write

logger = logging.getLogger(__name__)

#: Environment variable that names the model to use where no reference is given.
ENVIRONMENT_VARIABLE = "CFT_MODEL"

#: The model folder that comes with the project.
BUNDLED = Path(__file__).resolve().parent.parent / "weights"

#: Largest files that are fetched, in bytes. The largest network of timm stays below 10 GB; those
#: that anyone reads films with, far below 4.
MAX_BYTES = {CONFIG: 4 * 2**20, CARD: 4 * 2**20, WEIGHTS: 4 * 2**30}

_PREFIX = "hf-hub:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MEMBER = re.compile(r"members/[A-Za-z0-9][\w.-]*", re.ASCII)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

# Answers that may be different a little later, how often to ask, and the longest wait between.
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_TRIES = 5
_LONGEST_WAIT = 60.0
_TIMEOUT = 20.0

T = TypeVar("T")


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
        An existing folder (its content is checked by `cft.model_folder.read_model_folder`).

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
            f"set; run `python -m cft.hub pull {reference}` once with a network"
        )
    try:
        return _fetch(repository, revision, quick=cached is not None)
    except Exception as error:
        if isinstance(error, ModelFolderError) or not _is_known(error):
            raise
        if cached and _is_transient(error):
            logger.warning(
                "%s; going on with commit %s of %s, which is in the cache",
                *(explain(error, reference), cached.commit, repository),
            )
            return cached
        advice = ""
        if _is_transient(error):
            advice = f"; `python -m cft.hub pull {reference}`, run with a network, fetches it ahead"
        raise ModelFolderError(explain(error, reference) + advice) from error


def _fetch(repository: str, revision: str, quick: bool) -> Source:
    """Resolve the revision, fetch its files, and tell the cache when all are there."""
    from huggingface_hub import HfApi

    info = patiently(
        lambda: HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=_TIMEOUT
        ),
        reconnect=not quick,
    )
    if not _COMMIT.fullmatch(info.sha or ""):
        raise ModelFolderError(f"the Hub names no commit for {repository}@{revision}")
    sizes = {file.rfilename: file.size for file in info.siblings or ()}
    _check_offer(repository, sizes)
    config = _fetch_file(repository, info.sha, CONFIG)
    for folder in _members(config):
        _check_sizes(repository, sizes, f"{folder}/")
    for name in _wanted(config, sizes):
        _fetch_file(repository, info.sha, name)
    _remember(repository, revision, info.sha)
    return Source(config.parent, f"{repository}@{revision}", info.sha)


def _check_offer(repository: str, sizes: dict[str, int | None]) -> None:
    """Whether the repository holds a model folder at all, before anything is fetched."""
    if CONFIG not in sizes:
        raise ModelFolderError(f"{repository} on the Hub has no {CONFIG}, so it holds no model")
    if not any(Path(name).name == WEIGHTS for name in sizes):
        pickles = sorted(name for name in sizes if name.endswith(_PICKLES))
        reason = f"has no {WEIGHTS}, so it holds no model"
        if pickles:
            reason = (
                f"has its weights only as {pickles[0]}, a pickle, which can run code when it is "
                f"read; it needs a {WEIGHTS}"
            )
        raise ModelFolderError(f"{repository} on the Hub {reason}")
    _check_sizes(repository, sizes, "")


def _check_sizes(repository: str, sizes: dict[str, int | None], folder: str) -> None:
    for name, most in MAX_BYTES.items():
        size = sizes.get(folder + name) or 0
        if size > most:
            raise ModelFolderError(
                f"{folder}{name} of {repository} on the Hub has {size / 2**30:,.2f} GiB, more than "
                f"the {most / 2**30:,.2f} GiB that are fetched"
            )


def _wanted(config: Path, sizes: Iterable[str]) -> list[str]:
    """The files to fetch: the model folder's own, and those of an ensemble's members."""
    folders = ["", *(f"{member}/" for member in _members(config))]
    return [folder + name for folder in folders for name in MAX_BYTES if folder + name in sizes]


def _members(config: Path) -> list[str]:
    """The folders of an ensemble's members; none for a single model, or if they are not sound."""
    try:
        members = json.loads(config.read_bytes())["cft"]["members"]
        folders = [member["folder"] for member in members]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []  # no ensemble; what is wrong with it is said when the folder is read
    return [f for f in folders if isinstance(f, str) and _MEMBER.fullmatch(f) and ".." not in f]


def _fetch_file(repository: str, commit: str, name: str) -> Path:
    """One file of a commit, from the cache or the Hub, checked against its hash.

    The client checks a file's size, not its content, so a damaged transfer of the right length
    would stay in the cache for good.
    """
    from huggingface_hub import constants, hf_hub_download

    endpoint = constants.ENDPOINT
    for force in (False, True):
        path = Path(
            patiently(
                lambda force=force: hf_hub_download(
                    repository, name, revision=commit, force_download=force, endpoint=endpoint
                )
            )
        )
        if _is_sound(path):
            return path
        _forget(path)
    raise ModelFolderError(
        f"{name} of {repository} arrived damaged twice, so it was not kept; try again later"
    )


def _is_sound(path: Path) -> bool:
    """Whether a cached file has the hash that it is kept under.

    The cache links a file to a blob named by its SHA-256 (large files) or by its git hash. Where
    the file system has no links nothing can be said here; ``cft.weights_sha256`` is checked anyway.
    """
    if not path.is_symlink():
        return True
    name, data = Path(os.readlink(path)).name, path.read_bytes()
    if len(name) == 64:
        return hashlib.sha256(data).hexdigest() == name
    return len(name) != 40 or git_hash(data) == name


def git_hash(data: bytes) -> str:
    """The hash under which git, and so the Hub, keeps a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _forget(path: Path) -> None:
    """Remove a damaged file from the cache: the blob and its name."""
    blob = path.parent / os.readlink(path)
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------- cache


def _storage(repository: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, "models--" + repository.replace("/", "--"))


def _remember(repository: str, revision: str, commit: str) -> None:
    """Note in the cache which commit a branch or tag is, as the client itself does."""
    if revision == commit:
        return
    place = _storage(repository) / "refs" / revision
    place.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(place, commit)


def _cached(repository: str, revision: str) -> Source | None:
    """The revision in the cache, if all its files are there and undamaged."""
    storage, commit = _storage(repository), revision
    if not _COMMIT.fullmatch(revision):
        try:
            commit = (storage / "refs" / revision).read_text().strip()
        except OSError:
            return None
    folder = storage / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not (folder / CONFIG).is_file():
        return None
    members = _members(folder / CONFIG)
    needed = [f"{member}/{name}" for member in members for name in (CONFIG, WEIGHTS)] or [WEIGHTS]
    files = [folder / name for name in (CONFIG, *needed)]
    if not all(file.is_file() and _is_sound(file) for file in files):
        return None
    return Source(folder, f"{repository}@{revision}", commit)


# -------------------------------------------------------------------------------- patience


def patiently(call: Callable[[], T], reconnect: bool = True) -> T:
    """Call, and call again after a fault that may pass: a full or failing server, a cut line.

    Parameters
    ----------
    call
        Something that asks the Hub and may be repeated.
    reconnect
        False: do not try again if the Hub cannot be reached at all.
    """
    for number in range(1, _TRIES + 1):
        try:
            return call()
        except Exception as error:
            status = _status(error)
            hopeless = not _is_transient(error) or (status is None and not reconnect)
            if number == _TRIES or hopeless:
                raise
            wait = _wait(error, number)
            logger.info("the Hub: %s; trying again in %g s", status or "no answer", wait)
        time.sleep(wait)
    raise AssertionError("unreachable")


def _wait(error: Exception, number: int) -> float:
    """Seconds until the next try: what the server asks for, else twice as long each time."""
    response = getattr(_origin(error), "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return min(float(asked) if asked.isdigit() else 2.0 ** (number - 1), _LONGEST_WAIT)


def _origin(error: BaseException) -> BaseException:
    """What happened on the line: the client wraps such errors into others."""
    from huggingface_hub.errors import HTTPError

    while error.__cause__ is not None and not isinstance(error, HTTPError):
        error = error.__cause__
    return error


def _status_of(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _status(error: Exception) -> int | None:
    return _status_of(_origin(error))


def _is_transient(error: Exception) -> bool:
    from huggingface_hub.errors import HTTPError

    status = _status(error)
    if status is not None:
        return status in _TRANSIENT
    cause = _origin(error)
    # The client tells a body that ended early by a plain OSError, its error number unset.
    cut = type(cause) is OSError and cause.errno is None
    return cut or isinstance(cause, (HTTPError, ConnectionError, TimeoutError))


def _is_known(error: Exception) -> bool:
    """Whether an error is one of the line, the Hub or the disk, and not a mistake of ours."""
    from huggingface_hub.errors import HTTPError

    return isinstance(_origin(error), (HTTPError, OSError, ValueError, RuntimeError))


def explain(error: Exception, what: str) -> str:
    """One sentence for the user on an error of the Hub, of the line or of the disk.

    Parameters
    ----------
    error
        What `huggingface_hub` raised.
    what
        The repository, with its revision if there is one.
    """
    from huggingface_hub import constants, errors

    cause, status = _origin(error), _status(error)
    by_kind = (
        (errors.GatedRepoError, f"{what} is gated: accept its conditions on its page on the Hub"),
        (errors.RevisionNotFoundError, f"the Hub has no revision {what}"),
        (errors.DisabledRepoError, f"the Hub has disabled {what}"),
        (
            errors.RepositoryNotFoundError,
            f"the Hub has no {what}, or it is private and this account may not see it; check the "
            "name, or log in with `hf auth login`",
        ),
        (
            errors.OfflineModeIsEnabled,
            f"HF_HUB_OFFLINE is set, so {what} cannot be reached; unset it",
        ),
        (
            errors.LocalTokenNotFoundError,
            "nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN",
        ),
    )
    for kind, sentence in by_kind:
        if isinstance(cause, kind):
            return sentence
    by_status = {
        401: f"the Hub does not accept the login for {what}; run `hf auth login` again",
        403: f"this account may not do that with {what}; its token needs the right to",
        404: f"the Hub has no {what}",
        409: f"{what} was changed by someone else meanwhile; look at it and try again",
        412: f"{what} was changed by someone else meanwhile; look at it and try again",
        429: f"the Hub asks for patience (too many requests) with {what}; try again later",
    }
    if status is not None:
        return by_status.get(status, f"the Hub answers {what} with error {status}; try again later")
    if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
        return f"{what} cannot be kept in {constants.HF_HUB_CACHE} ({cause.strerror})"
    if _is_transient(error):
        return (
            f"the Hub ({constants.ENDPOINT}) cannot be reached, or the line was cut, for {what}; "
            "check the network and try again"
        )
    return f"the Hub's answer for {what} cannot be understood ({type(cause).__name__})"


# ------------------------------------------------------------------------------ command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cft.hub", description="Models on the Hub.")
    commands = parser.add_subparsers(required=True, dest="command")
    pull = commands.add_parser("pull", help="fetch a model into the cache ahead of its use")
    pull.add_argument("reference", metavar="REF", help="org/name or org/name@revision")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        parsed = parse_reference(options.reference)
    except ModelFolderError as error:
        parser.error(str(error))
    if not parsed:
        parser.error(f"{options.reference!r} is no reference to a model on the Hub (org/name)")
    try:
        source = _from_hub(*parsed)
    except ModelFolderError as error:
        print(f"python -m cft.hub: {error}", file=sys.stderr)
        return 1
    print(f"{parsed[0]}@{source.commit}")
    print(source.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
