"""Files that are written whole or not at all, and what is left of those that were not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cft import files
from cft.files import atomic_file, atomic_write, remove_leftovers, reserve
from tests.conftest import ROOT

KILLED = """
import os, signal, sys
from cft.files import atomic_write
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
atomic_write(sys.argv[1], "never whole")
"""


def killed_while_writing(path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "mine").write_text("whole")
    (tmp_path / ".mine.settings").write_text("somebody's own hidden file")
    killed_while_writing(tmp_path / "mine")
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine.settings", "mine"]
    assert (tmp_path / "mine").read_text() == "whole"


def test_what_a_living_process_is_writing_stays(tmp_path):
    code = "import sys; from cft.files import atomic_file\nwith atomic_file(sys.argv[1]) as f:\n"
    code += "    f.write(b'slowly'); print('writing', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(tmp_path / "file")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "writing\n"
        remove_leftovers(tmp_path)
        process.communicate("")
    assert process.returncode == 0
    assert (tmp_path / "file").read_bytes() == b"slowly"


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path):
    remove_leftovers(tmp_path / "nowhere")


def test_an_error_while_writing_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    atomic_write(tmp_path / "file", "old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "file") as file:
        file.write(b"new" * (1 // 0))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_reserved_file_has_its_size_and_its_place_on_the_disk(tmp_path):
    (tmp_path / "file").write_bytes(b"before")
    reserve(tmp_path / "file", 100_000)
    facts = (tmp_path / "file").stat()
    assert facts.st_size == 100_000
    assert facts.st_blocks * 512 >= 100_000
    assert (tmp_path / "file").read_bytes() == bytes(100_000)


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    free = files.LEFT_FREE + 99_999
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(OSError, match=r"No space left on device: 0\.00 GiB are needed") as caught:
        reserve(tmp_path / "file", 100_000)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    reserve(tmp_path / "file", 99_999)


def test_a_reservation_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    def half(handle, start, size):
        os.write(handle, bytes(size // 2))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "posix_fallocate", half)
    with pytest.raises(OSError, match="No space left"):
        reserve(tmp_path / "file", 100_000)
    assert list(tmp_path.iterdir()) == []
