"""The cache folder: what is kept in it, and what of it is trusted."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import pytest

from cft import cache
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """An empty cache folder for each test."""
    monkeypatch.setenv("CFT_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def put_fifo(path):
    os.mkfifo(path)


def put_device(path):
    path.symlink_to("/dev/zero")


def put_link(path):
    """To what would be the right file."""
    (path.parent / "elsewhere").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(path.parent / "elsewhere")


def put_huge(path):
    path.touch()
    os.truncate(path, 2**40)  # a file of holes


def put_folder(path):
    path.mkdir()


def put_for_everybody(path):
    path.chmod(0o666)


def put_of_another(path):
    os.chown(path, 4711, -1)


@pytest.mark.skipif(os.name == "nt", reason="files of another kind")
@pytest.mark.parametrize(
    "put", [put_fifo, put_device, put_link, put_huge, put_folder, put_for_everybody, put_of_another]
)
def test_only_a_file_that_nobody_else_could_write_is_fetched(kept, put):
    cache.keep("a.onnx", b"graph")
    assert cache.fetch("a.onnx") == b"graph"
    if put in (put_fifo, put_device, put_huge, put_folder):
        (kept / "a.onnx").unlink()
    try:
        put(kept / "a.onnx")
    except PermissionError:
        pytest.skip("only root gives files away")
    assert cache.fetch("a.onnx") is None
    cache.keep("a.onnx", b"graph")
    assert cache.fetch("a.onnx") == (None if put is put_folder else b"graph")


def test_what_root_has_kept_is_fetched(kept, monkeypatch):
    """Such as in an image that root builds and another user runs."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    cache.keep("a.onnx", b"graph")
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert cache.fetch("a.onnx") == b"graph"


def test_a_full_disk_leaves_nothing_in_the_cache(kept, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache.keep("a.onnx", b"graph")
    assert list(kept.iterdir()) == []


def test_what_a_killed_process_left_in_the_cache_goes(kept):
    code = (
        "import os, signal\nfrom cft import cache, files\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache.keep('a.onnx', b'graph')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert len(list(kept.iterdir())) == 1
    cache.keep("b.onnx", b"graph")
    assert [path.name for path in kept.iterdir()] == ["b.onnx"]


def test_the_cache_forgets_beside_what_it_cannot_remove(kept, monkeypatch):
    monkeypatch.setattr(cache, "MOST_FILES", 1)
    cache.keep("a.onnx", b"graph")
    (kept / "folder.onnx" / "full").mkdir(parents=True)
    (kept / "gone.onnx").symlink_to("nowhere")
    for place in ("folder.onnx", "a.onnx"):
        os.utime(kept / place, (0, 0))
    cache.keep("b.onnx", b"graph")
    assert cache.fetch("a.onnx") is None
    assert cache.fetch("b.onnx") == b"graph"


def test_many_that_keep_and_fetch_at_once_see_all_of_it_or_nothing(kept):
    contents = [bytes([number]) * 300_000 for number in range(4)]
    seen = set()

    def work(number: int) -> None:
        for _ in range(25):
            cache.keep("a.onnx", contents[number])
            seen.add(cache.fetch("a.onnx"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= {*contents}
    assert [path.name for path in kept.iterdir()] == ["a.onnx"]
