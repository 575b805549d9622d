"""Runs that are killed at any write: resumed, they end with the bytes, the log and no file more."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests import kill_runs
from tests.forks import Fork
from train import cft, negative

pytestmark = pytest.mark.slow


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


def killed_at_every_write(
    main: Callable[[Sequence[str]], int], out: Path, words: list[str], monkeypatch
) -> int:
    """The number of writes; the results are in the folders ``whole/run`` and ``killed-N/run``.

    What a kill leaves is what is on disk at that moment. So one run is copied before each write,
    when all is there but under a temporary name, and the copies are resumed.
    """
    replace, writes = os.replace, []

    def write(*names):
        writes.append(names)
        shutil.copytree(out / "whole", out / f"killed-{len(writes)}")
        return replace(*names)

    def run(folder: Path, *more: str) -> int:
        places = ["--out", str(folder / "run"), "--cache", str(folder / "cache")]
        return main([*words, *places, *more])

    (out / "whole").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", write)
        assert run(out / "whole") == 0
    for n in range(1, len(writes) + 1):
        assert run(out / f"killed-{n}", "--resume") == 0, n
    return len(writes)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_as_whole(out: Path, writes: int) -> None:
    """Each killed and resumed run has the files of the whole one, times and dates apart."""
    whole = files_of(out / "whole" / "run")
    for n in range(1, writes + 1):
        found = files_of(out / f"killed-{n}" / "run")
        assert set(found) == set(whole), n
        same = [name for name in whole if name.endswith((".safetensors", "splits.csv", "run.json"))]
        for name in (x for x in same if "checkpoint" not in x):
            assert found[name] == whole[name], (n, name)
        left = [p.name for p in (out / f"killed-{n}" / "cache").rglob("*.part")]
        assert not left, n


def test_stage_1_killed_at_any_write_ends_as_if_it_had_not_been(data, tmp_path, monkeypatch):
    writes = killed_at_every_write(negative.main, tmp_path, stage_1(data), monkeypatch)
    assert writes >= 2 + 2 * 2 + 1 + 3  # run and splits, last and log, best, the model's
    assert_as_whole(tmp_path, writes)
    for n in range(1, writes + 1):
        log = (tmp_path / f"killed-{n}" / "run" / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in log] == [1, 2], n


def test_stage_2_killed_at_any_write_ends_as_if_it_had_not_been(data, tmp_path, monkeypatch):
    model = tmp_path / "model"
    assert negative.main([*stage_1(data), "--out", str(model)]) == 0
    words = ["--model", str(model), "--data", str(data), *SHARED]
    writes = killed_at_every_write(cft.main, tmp_path, words, monkeypatch)
    assert writes >= 2 + 2 + 3 + 1  # run and splits, two categories, the model, the report
    assert_as_whole(tmp_path, writes)


def test_a_run_killed_at_a_random_moment_by_the_long_form_of_these_tests():
    """Here a process is killed."""
    process = Fork(kill_runs.main, ["1", "--runs", "stage 1"])
    assert process.wait() == 0, process.said
    assert process.said.splitlines()[-1].endswith("runs differ from the undisturbed ones")


def test_what_is_missing_left_behind_or_different_after_a_kill_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "splits.csv").write_text("a")
    (tmp_path / "run" / ".log.1-x.part").write_text("")
    found = kill_runs.result(tmp_path)
    whole = {"run/splits.csv": b"b", "run/log.jsonl": b""}
    expected = ["log.jsonl is missing", ".log.1-x.part was left behind", "splits.csv differs"]
    assert kill_runs.check(whole, found) == [f"run/{line}" for line in expected]
    assert kill_runs.check(found, found) == []
