"""``cft score --on ray``: a cluster of two workers on this machine, started by the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cft.__main__ import main
from tests.conftest import ROOT
from tests.films import dataset, dicom, phantom

pytest.importorskip("pyarrow", reason="the extra `score` is not installed")
pytest.importorskip("ray.data", reason="the extra `ray` is not installed")

import pyarrow.parquet as pq

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc"),
    pytest.mark.skipif(
        "CFT_RAY" not in os.environ, reason="a cluster needs a quiet machine (set CFT_RAY=1)"
    ),
]

# More than any run takes; what hangs is ended.
_LONGEST = 400


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Sixty DICOM films, each another one, and a file that is none."""
    place = tmp_path_factory.mktemp("archive")
    for number in range(60):
        film = dataset(phantom(height=900, width=700) // (1 + number % 7))
        (place / f"{number:02d}.dcm").write_bytes(dicom(film))
    (place / "31b.dcm").write_bytes(b"no film")
    return place


def words(archive: Path, out: Path, model: Path) -> list[str]:
    parts = ["--part-size", "4", "--batch-size", "2", "--device", "cpu", "--gate", "off"]
    return ["score", str(archive), "--out", str(out), "--model", str(model), *parts]


@pytest.fixture(scope="module")
def here(archive, tiny_model_folder, tmp_path_factory) -> list[dict]:
    """The rows of the same films without Ray."""
    out = tmp_path_factory.mktemp("here")
    assert main([*words(archive, out, tiny_model_folder), "--jobs", "1"]) == 1
    return pq.read_table(out).to_pylist()


def start(archive: Path, out: Path, model: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "cft", *words(archive, out, model), "--on", "ray"]
    # Ray keeps sockets under TMPDIR, whose paths must be short.
    surroundings = {key: x for key, x in os.environ.items() if key not in ("TMPDIR", "RAY_ADDRESS")}
    return subprocess.Popen(
        [*command, "--jobs", "2"], cwd=ROOT, env=surroundings, stderr=subprocess.PIPE, text=True
    )


def descendants(number: int) -> dict[int, str]:
    """Process -> its command line, of all that a process started and they in turn."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text()
            lines[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            continue
        parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    found: dict[int, str] = {}
    new = {number}
    while new := {child for child, parent in parents.items() if parent in new} - found.keys():
        found |= {child: lines.get(child, "") for child in new}
    return found


def workers(number: int) -> list[int]:
    """The actors that score, of the cluster that a process started."""
    # Ray gives them names such as ray::MapWorker(MapBatches(_Scorer)).
    return [child for child, line in descendants(number).items() if "_Scorer" in line]


def wait_for(found, process: subprocess.Popen) -> None:
    """Until it is found, or the process ends."""
    until = time.monotonic() + _LONGEST
    while not found() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)


def written(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


@pytest.mark.parametrize("killed", ["a worker", "the command"])
def test_each_film_has_one_row_whatever_is_killed(
    archive, here, tiny_model_folder, tmp_path, killed
):
    """The rows are those without Ray: the same films, order and numbers."""
    process = start(archive, tmp_path, tiny_model_folder)
    try:
        wait_for(lambda: written(tmp_path) >= 2, process)
        pids = workers(process.pid)
        assert len(pids) == 2
        if killed == "a worker":
            os.kill(pids[0], signal.SIGKILL)
            assert written(tmp_path) < 16  # in the middle
        else:
            process.kill()
            process.communicate(timeout=_LONGEST)
            assert written(tmp_path) < 16
            process = start(archive, tmp_path, tiny_model_folder)
        _, said = process.communicate(timeout=_LONGEST)
    finally:
        process.kill()
        process.wait()
    assert said.splitlines()[-1] == f"61 films in 16 parts, 1 without numbers: {tmp_path}"
    assert process.returncode == 1
    assert pq.read_table(tmp_path).to_pylist() == here
    assert not list(tmp_path.glob(".*"))


def test_a_part_over_which_processes_die_holds_up_no_other(archive, tmp_path, monkeypatch):
    """As `cft.archive.on_ray` counts them; the actor is asked here, without a cluster."""
    from cft.archive import on_ray
    from cft.archive.errors import ArchiveError
    from cft.archive.plan import begin
    from cft.archive.rows import Answers
    from cft.archive.sources import films_of

    def die(*arguments, **more):
        raise SystemExit

    plan = begin(tmp_path, films_of([archive]), {}, part_size=8)
    monkeypatch.setattr(on_ray, "score_here", die)
    actor = on_ray._Scorer.__new__(on_ray._Scorer)
    actor.plan, actor.answers, actor.model = plan, Answers(), None
    for _ in range(3):
        with pytest.raises(SystemExit):
            actor._one(0)
    with pytest.raises(ArchiveError, match="3 processes died over part 0"):
        actor._one(0)
    assert actor({"part": [0]}) == {
        "part": [0], "films": [0], "failed": [0], "reason": ["3 processes died over part 0"],
    }  # fmt: skip
    with pytest.raises(SystemExit):
        actor._one(1)
