"""One file of a commit of the Hub -> the cache of the Hub's client, checked before it is there.

The client fetches the file into a folder of its own; what has the listed hash is moved on into the
cache, which is laid out as by the client. The client's `snapshot_download`, straight into the
cache, cannot be held to what is promised here. Measured with huggingface_hub 2.4.0 and a server on
loopback:

- An ``ETag`` of ``../../../../evil``, or of an absolute path, writes the server's bytes to that
  place outside the cache; an answer 404 with such an ``X-Repo-Commit`` leaves an empty file there.
  Into a folder (``local_dir``) nothing was written elsewhere.
- Other bytes of the right length are kept and returned, and those of a killed pull stay for ever.
- A body that does not end is written on and on (1 GB in 4 s), and ``Retry-After: 86400`` is obeyed.
- It works in threads that Ctrl-C waits for (11 s at a server that stalls), and if its listing fails
  it returns a folder that lacks files, without an error.

So files are fetched one by one, by `hf_hub_download`, under `_fence` and `_counting_bar`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cft.errors import ModelFolderError
from cft.model.hub_errors import TRANSIENT, patiently

if TYPE_CHECKING:
    from huggingface_hub.errors import Response
    from huggingface_hub.utils import tqdm

#: How the Hub's hashes are written: git's SHA-1 or, for large files, SHA-256.
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

#: Seconds to wait for an answer to begin.
TIMEOUT = 20.0

_LARGE = 10 * 2**20  # bytes from which on a transfer shows its progress


@dataclass(frozen=True)
class RemoteFile:
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


def storage(repository: str) -> Path:
    """Where the cache keeps a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, "models--" + repository.replace("/", "--"))


def fetch_file(repository: str, commit: str, file: RemoteFile) -> Path:
    """One file of a commit, from the cache or the Hub; its content has the hash that is listed.

    After a cut the client goes on at the last 10 MiB, and after a broken connection from the start.

    Parameters
    ----------
    repository, commit
        ``org/name``, and 40 hexadecimal digits.
    file
        What is listed of it; its name and digest have been checked.

    Returns
    -------
    Path
        The file in the cache, where it is whole and undamaged, or not at all.

    Raises
    ------
    ModelFolderError
        If more bytes come than are listed, or damaged ones twice.
    Exception
        What `cft.model.hub_errors.explain` explains, of the line, the Hub or the disk.
    """
    from huggingface_hub.utils import WeakFileLock

    home = storage(repository)
    place, blob = home / "snapshots" / commit / file.name, home / "blobs" / file.digest
    lock = home.parent / ".locks" / home.name / f"{file.digest}.lock"
    if holds(place, file.digest):
        return place
    for folder in (place.parent, blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):  # so that of two processes only one fetches
        if not holds(blob, file.digest):
            folder = blob.with_name(f".{blob.name}")
            shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
            try:
                os.replace(_download(repository, commit, file, folder), blob)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        _link(blob, place)
    return place


def _download(repository: str, commit: str, file: RemoteFile, folder: Path) -> Path:
    """Fetch a file into a folder, and once more if it is damaged."""
    from huggingface_hub import hf_hub_download

    def attempt() -> str:
        with _fence(commit, file):
            return hf_hub_download(
                repository,
                file.name,
                revision=commit,
                local_dir=folder,
                etag_timeout=TIMEOUT,
                force_download=True,  # or it asks again after a fault, by rules of its own
                headers={"Accept-Encoding": "identity"},
                tqdm_class=_counting_bar(repository, file),
            )

    for _ in range(2):
        part = Path(patiently(attempt))
        if holds(part, file.digest):
            return part
    raise ModelFolderError(
        f"{file.name} of {repository} arrived damaged twice, so it was not kept; try again later"
    )


@contextlib.contextmanager
def _fence(commit: str, file: RemoteFile) -> Iterator[None]:
    """Check what this thread's answers tell the client while it fetches a file.

    It names and measures files by headers: they are made to say what is listed. It sleeps for as
    long as it is asked to: an answer that may pass ends the call, and `patiently` decides. It would
    go on by xet, and unpack what is packed: the limits here hold for plain bytes.
    """
    from huggingface_hub.utils import get_session

    thread, hooks = threading.get_ident(), get_session().event_hooks["response"]
    listed = {"ETag": file.digest, "X-Linked-Etag": file.digest, "X-Linked-Size": str(file.size)}

    def check(response: Response) -> None:
        if threading.get_ident() != thread:
            return
        if response.status_code in TRANSIENT:
            response.raise_for_status()
        response.headers.update({**listed, "X-Repo-Commit": commit})
        moved = response.has_redirect_location
        for name in ("X-Xet-Hash", "Content-Encoding", *(() if moved else ("Location",))):
            response.headers.pop(name, None)

    hooks.append(check)
    try:
        yield
    finally:
        hooks.remove(check)


def _counting_bar(repository: str, file: RemoteFile) -> type[tqdm]:
    """A progress bar, seen for large files, that ends a transfer of more bytes than are listed."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        received = 0.0

        def __init__(self, *args: object, **options: object):
            hidden = options.get("disable") or file.size < _LARGE
            super().__init__(*args, **{**options, "desc": file.name, "disable": hidden})

        def update(self, n: float | None = 1) -> bool | None:
            self.received += n or 0
            if self.received > file.size:
                raise ModelFolderError(
                    f"the Hub sends more of {file.name} of {repository} than the {file.size:,} "
                    "bytes that it lists, so it was not kept"
                )
            return super().update(n)

    return Bar


def _link(blob: Path, place: Path) -> None:
    """Give a file of the cache its name in a commit: a link, or a copy where there are none."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.symlink(os.path.relpath(blob, place.parent), temporary)
    except OSError:
        shutil.copyfile(blob, temporary)
    os.replace(temporary, place)


# ---------------------------------------------------------------------------------- hashes


def git_hash(data: bytes) -> str:
    """The hash under which git, and so the Hub, keeps a file."""
    state = _git_state(len(data))
    state.update(data)
    return state.hexdigest()


def holds(path: Path, digest: str) -> bool:
    """Whether there is a file with this hash: of 64 digits its SHA-256, of 40 git's."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        state = hashlib.sha256() if len(digest) == 64 else _git_state(path.stat().st_size)
        while piece := file.read(2**20):
            state.update(piece)
    return state.hexdigest() == digest


def _git_state(length: int) -> hashlib._Hash:
    return hashlib.sha1(b"blob %d\0" % length, usedforsecurity=False)


def is_sound(path: Path) -> bool:
    """Whether a cached file is there and has the hash that it is kept under.

    The cache links a file to a blob named by its hash. Where the file system has no links nothing
    can be said of its content here; ``cft.weights_sha256`` is checked anyway.
    """
    if not path.is_symlink():
        return path.is_file()
    name = Path(os.readlink(path)).name
    return bool(DIGEST.fullmatch(name)) and holds(path, name)
