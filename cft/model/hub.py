"""A model reference -> a local model folder, fetched from the Hugging Face Hub if need be.

``python -m cft.hub pull REF`` fetches a model ahead of its use.

A revision (a branch, a tag) is resolved to its commit once, and that commit is what is fetched,
loaded and named in results. Only the files of the model folder's format are fetched, each is
checked against the hash under which the Hub keeps it, and the cache learns a revision's commit only
when all its files are there: an interrupted or damaged pull never changes what is loaded offline.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from cft.errors import ModelFolderError
from cft.files import atomic_file, atomic_write
from cft.model.bundled import BUNDLED
from cft.model.folder import CARD, CONFIG, WEIGHTS

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling
    from huggingface_hub.utils import tqdm


logger = logging.getLogger(__name__)

#: Environment variable that names the model to use where no reference is given.
ENVIRONMENT_VARIABLE = "CFT_MODEL"

#: Largest files that are fetched, in bytes. The largest network of timm stays below 10 GB; those
#: that anyone reads films with, far below 4.
MAX_BYTES = {CONFIG: 4 * 2**20, CARD: 4 * 2**20, WEIGHTS: 4 * 2**30}

#: Most bytes of an ensemble with its members.
MAX_TOTAL = 8 * 2**30
_PREFIX = "hf-hub:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MEMBER = re.compile(r"members/[A-Za-z0-9][\w.-]*", re.ASCII)
_TOLD_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})\b")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

# Answers that may be different a little later, how often to ask, and the longest wait between, in
# seconds: the Hub counts requests in windows of five minutes.
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_TRIES = 5
_LONGEST_WAIT = 300.0
_LONG_WAIT = 5.0  # from here on the user is told
_TIMEOUT = 20.0  # for the next bytes of an answer

# Bytes from which on a transfer shows its progress, and seconds after which a part is nobody's.
_LARGE = 10 * 2**20
_ABANDONED = 3600.0
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


@dataclass(frozen=True)
class _File:
    """A file of a commit, as the Hub lists it.

    Attributes
    ----------
    name, size
        Its place in the repository, and its bytes.
    digest
        The SHA-256 (64 digits) of a large file, git's hash (40 digits) of any other.
    """

    name: str
    size: int
    digest: str


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
    listed = {file.rfilename: file for file in info.siblings or ()}
    _check_offer(repository, listed)
    own = [_offered(repository, listed[name]) for name in MAX_BYTES if name in listed]
    config = _fetch_file(repository, info.sha, own[0])
    members = [f"{folder}/{name}" for folder in _members(config) for name in MAX_BYTES]
    inside = [_offered(repository, listed[name]) for name in members if name in listed]
    total = sum(file.size for file in (*own, *inside))
    if total > MAX_TOTAL:
        raise ModelFolderError(
            f"{repository} on the Hub has {total / 2**30:,.2f} GiB with all its members, more than "
            f"the {MAX_TOTAL / 2**30:,.2f} GiB that are fetched"
        )
    for file in (*own[1:], *inside):
        _fetch_file(repository, info.sha, file)
    _remember(repository, revision, info.sha)
    return Source(config.parent, f"{repository}@{revision}", info.sha)


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


def _offered(repository: str, listed: RepoSibling) -> _File:
    """A file as the Hub lists it, if it is one that is fetched at all."""
    name, size = listed.rfilename, listed.size
    digest = listed.lfs.sha256 if listed.lfs else listed.blob_id
    if type(size) is not int or size < 0 or not _DIGEST.fullmatch(str(digest)):
        raise ModelFolderError(f"the Hub gives no size and hash of {name} of {repository}")
    most = MAX_BYTES[name.rpartition("/")[2]]
    if size > most:
        raise ModelFolderError(
            f"{name} of {repository} on the Hub has {size / 2**30:,.2f} GiB, more than the "
            f"{most / 2**30:,.2f} GiB that are fetched"
        )
    return _File(name, size, digest)


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


def _fetch_file(repository: str, commit: str, file: _File) -> Path:
    """One file of a commit, from the cache or the Hub; its content has the hash that is listed.

    The cache is the client's own and laid out as by it, but the file is asked for here: the
    client's `hf_hub_download` names files in the cache by what a header says, which could lead out
    of it, does not look at the content, and repeats by rules of its own.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import WeakFileLock

    storage = _storage(repository)
    place, blob = storage / "snapshots" / commit / file.name, storage / "blobs" / file.digest
    if _holds(place, file.digest):
        return place
    lock = storage.parent / ".locks" / storage.name / f"{file.digest}.lock"
    for folder in (place.parent, blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(repository, file.name, revision=commit, endpoint=constants.ENDPOINT)
    with WeakFileLock(lock):  # so that of two processes only one fetches
        if not _holds(blob, file.digest):
            _download(url, repository, file, blob)
        _link(blob, place)
    return place


def _download(url: str, repository: str, file: _File, blob: Path) -> None:
    """Fetch a file into the cache; it is there whole and with the right hash, or not at all."""
    for part in blob.parent.glob(f".{blob.name}.*"):
        # What a killed process left: one that lives writes to its part all the time.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink()
    with atomic_file(blob) as part:
        for _ in range(2):
            part.seek(0)
            part.truncate()
            _receive(url, repository, file, part)
            if _digest(part, file.digest) == file.digest:
                return
        raise ModelFolderError(
            f"{file.name} of {repository} arrived damaged twice, so it was not kept; try again "
            "later"
        )


def _receive(url: str, repository: str, file: _File, part: BinaryIO) -> None:
    """Write a file's bytes, going on after a cut as long as each series of tries brings some."""
    from huggingface_hub.utils import tqdm

    with tqdm(
        total=file.size, desc=file.name, unit="B", unit_scale=True, disable=file.size < _LARGE
    ) as bar:
        while True:
            before = part.tell()
            try:
                return patiently(lambda: _receive_rest(url, repository, file, part, bar))
            except Exception as error:
                if not _is_transient(error) or part.tell() <= before:
                    raise


def _receive_rest(url: str, repository: str, file: _File, part: BinaryIO, bar: tqdm) -> None:
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    start = part.tell()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={start}-"} if start else {}
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            part.seek(0)
            part.truncate()
        for piece in response.iter_raw():
            if part.tell() + len(piece) > file.size:
                raise ModelFolderError(
                    f"the Hub sends more of {file.name} of {repository} than the {file.size:,} "
                    "bytes that it lists, so it was not kept"
                )
            part.write(piece)
            bar.update(part.tell() - bar.n)
    if part.tell() < file.size:
        raise ConnectionError(f"the answer ended after {part.tell()} of {file.size} bytes")


def _link(blob: Path, place: Path) -> None:
    """Give a file of the cache its name in a commit: a link, or a copy where there are none."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.symlink(os.path.relpath(blob, place.parent), temporary)
    except OSError:
        shutil.copyfile(blob, temporary)
    os.replace(temporary, place)


def _digest(file: BinaryIO, like: str) -> str:
    """The hash of an open file: of 64 digits its SHA-256, of 40 git's (see `git_hash`)."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    state = hashlib.sha256() if len(like) == 64 else _git_state(length)
    while piece := file.read(2**20):
        state.update(piece)
    return state.hexdigest()


def _holds(path: Path, digest: str) -> bool:
    """Whether there is a file with this hash."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _digest(file, digest) == digest


def git_hash(data: bytes) -> str:
    """The hash under which git, and so the Hub, keeps a file."""
    state = _git_state(len(data))
    state.update(data)
    return state.hexdigest()


def _git_state(length: int) -> hashlib._Hash:
    return hashlib.sha1(b"blob %d\0" % length, usedforsecurity=False)


def _is_sound(path: Path) -> bool:
    """Whether a cached file has the hash that it is kept under.

    The cache links a file to a blob named by its hash. Where the file system has no links nothing
    can be said here; ``cft.weights_sha256`` is checked anyway.
    """
    if not path.is_symlink():
        return True
    name = Path(os.readlink(path)).name
    return bool(_DIGEST.fullmatch(name)) and _holds(path, name)


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
        False where there is something to go on with: do not try again if the Hub cannot be reached
        at all, and do not wait for long.
    """
    longest = _LONGEST_WAIT if reconnect else _LONG_WAIT
    for number in range(1, _TRIES + 1):
        try:
            return call()
        except Exception as error:
            status, asked = _status(error), _asked_wait(error)
            wait = 2.0 ** (number - 1) if asked is None else asked
            hopeless = not _is_transient(error) or (status is None and not reconnect)
            if number == _TRIES or hopeless or wait > longest:
                raise
            level = logging.INFO if wait < _LONG_WAIT else logging.WARNING
            reason = f"error {status}" if status else "no answer"
            logger.log(level, "the Hub: %s; trying again in %g s", reason, wait)
        time.sleep(wait)
    raise AssertionError("unreachable")


def _asked_wait(error: BaseException) -> float | None:
    """Seconds that the server asks to wait: the usual header, or the Hub's own on its limits."""
    response = getattr(_origin(error), "response", None)
    headers = {} if response is None else response.headers
    limit = re.search(r";\s*r=0\s*;\s*t=(\d+)", headers.get("RateLimit", ""))
    asked = limit[1] if limit else headers.get("Retry-After", "").strip()
    return float(asked) if asked.isascii() and asked.isdigit() else None


def _origin(error: BaseException) -> BaseException:
    """What happened on the line: the client wraps such errors into others."""
    from huggingface_hub.errors import HTTPError

    while error.__cause__ is not None and not isinstance(error, HTTPError):
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    """The status of the answer that an error is about; None if there was no answer."""
    cause = _origin(error)
    status = getattr(getattr(cause, "response", None), "status_code", None)
    # What the client transfers by `hf_xet` fails with a text alone.
    told = isinstance(cause, ConnectionError) and _TOLD_STATUS.search(str(cause))
    return int(told[1]) if told else status


def _is_transient(error: Exception) -> bool:
    from huggingface_hub.errors import HTTPError

    status = _status(error)
    if status is not None:
        return status in _TRANSIENT
    return isinstance(_origin(error), (HTTPError, ConnectionError, TimeoutError))


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
    asked = _asked_wait(error)
    later = "later" if asked is None else f"in {asked:g} s"
    by_status = {
        401: f"the Hub does not accept the login for {what}; run `hf auth login` again",
        403: f"this account may not do that with {what}; its token needs the right to",
        404: f"the Hub has no {what}",
        409: f"{what} was changed by someone else meanwhile; look at it and try again",
        412: f"{what} was changed by someone else meanwhile; look at it and try again",
        429: f"the Hub asks for patience (too many requests) with {what}; try again {later}",
    }
    if status is not None:
        plain = f"the Hub answers {what} with error {status}; try again {later}"
        return by_status.get(status, plain)
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
    except KeyboardInterrupt:
        print("python -m cft.hub: interrupted; nothing incomplete is kept", file=sys.stderr)
        return 130
    print(f"{parsed[0]}@{source.commit}")
    print(source.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
