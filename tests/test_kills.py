"""Runs that are killed at any write: resumed, they end with the bytes, the log and no file more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import kill_runs
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

# A process that trains once whole, and again and again killed at its n-th write and then resumed.
# It forks before anything is computed: a fork afterwards would hang in OpenMP's locks.
KILLER = """
import os, signal, sys
import sklearn.linear_model, torch._dynamo  # else each child would import them by itself
from train import cft, negative

which, out, *words = sys.argv[1:]
main = {"negative": negative.main, "cft": cft.main}[which]

def run(folder, more=(), die_at=None):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.dup2(os.open(os.path.join(out, "output.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    left, replace = [die_at], os.replace
    def write(*names):  # all is on disk but under a temporary name
        if left[0] is not None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return replace(*names)
    os.replace = write
    cache = os.path.join(out, folder + "-cache")
    os._exit(main([*words, "--out", os.path.join(out, folder), "--cache", cache, *more]))

assert run("whole") == 0
for n in range(1, 1000):
    folder = f"killed-{n}"
    code = run(folder, die_at=n)
    if code == 0:  # there is no n-th write
        break
    assert code == -signal.SIGKILL, code
    assert run(folder, ["--resume"]) == 0, n
print(n - 1)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A CSV of 60 films of noise, some brighter, with the labels to go with them."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    lines = ["image,split,Bright,Odd"]
    for number in range(60):
        bright, odd = generator.random(2) < 0.5
        film = generator.normal(100 + 60 * bright, 30, (32, 32)).clip(0, 255)
        Image.fromarray(film.astype(np.uint8)).save(folder / f"{number}.png")
        side = ("train", "train", "valid", "test")[number % 4]
        lines.append(f"{number}.png,{side},{bright:d},{odd:d}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


SHARED = ["--device", "cpu", "--threads", "1", "--workers", "1"]


def stage_1(data: Path) -> list[str]:
    words = f"--data {data} --arch test_resnet --image-size 32 --epochs 2 --batch-size 15"
    return [*words.split(), *SHARED]


def killed_at_every_write(stage: str, out: Path, words: list[str]) -> int:
    """The number of writes; the results are in the folders ``whole`` and ``killed-N``."""
    command = [sys.executable, "-c", KILLER, stage, str(out), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    output = out / "output.txt"
    assert done.returncode == 0, done.stderr + (
        output.read_text()[-2000:] if output.exists() else ""
    )
    return int(done.stdout.split()[-1])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_as_whole(out: Path, writes: int) -> None:
    """Each killed and resumed run has the files of the whole one, times and dates apart."""
    whole = files_of(out / "whole")
    for n in range(1, writes + 1):
        found = files_of(out / f"killed-{n}")
        assert set(found) == set(whole), n
        same = [name for name in whole if name.endswith((".safetensors", "splits.csv", "run.json"))]
        for name in (x for x in same if "checkpoint" not in x):
            assert found[name] == whole[name], (n, name)
        left = [p.name for p in out.glob(f"killed-{n}-cache/**/*.part")]
        assert not left, n


def test_stage_1_killed_at_any_write_ends_as_if_it_had_not_been(data, tmp_path):
    writes = killed_at_every_write("negative", tmp_path, stage_1(data))
    assert writes >= 2 + 2 * 2 + 1 + 3  # run and splits, last and log, best, the model's
    assert_as_whole(tmp_path, writes)
    for n in range(1, writes + 1):
        log = (tmp_path / f"killed-{n}" / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in log] == [1, 2], n


def test_stage_2_killed_at_any_write_ends_as_if_it_had_not_been(data, tmp_path):
    from train import negative

    model = tmp_path / "model"
    assert negative.main([*stage_1(data), "--out", str(model)]) == 0
    words = ["--model", str(model), "--data", str(data), *SHARED]
    writes = killed_at_every_write("cft", tmp_path, words)
    assert writes >= 2 + 2 + 3 + 1  # run and splits, two categories, the model, the report
    assert_as_whole(tmp_path, writes)


def test_a_run_killed_at_a_random_moment_by_the_long_form_of_these_tests():
    command = [sys.executable, "-m", "tests.kill_runs", "1", "--runs", "stage 1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("runs differ from the undisturbed ones")


def test_what_is_missing_left_behind_or_different_after_a_kill_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "splits.csv").write_text("a")
    (tmp_path / "run" / ".log.1-x.part").write_text("")
    found = kill_runs.result(tmp_path)
    whole = {"run/splits.csv": b"b", "run/log.jsonl": b""}
    expected = ["log.jsonl is missing", ".log.1-x.part was left behind", "splits.csv differs"]
    assert kill_runs.check(whole, found) == [f"run/{line}" for line in expected]
    assert kill_runs.check(found, found) == []
