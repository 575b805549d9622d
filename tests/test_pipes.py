"""A pipe in the place of a file that a run has written: whoever opens one waits for a writer."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forks import Fork
from train.datasets.splits import SPLITS_FILE, read_splits
from train.errors import CheckpointError, TrainingError
from train.evaluation.epoch_scores import FOLDER, read_epochs
from train.evaluation.training_curves import training_curves
from train.frozen.features import _open as open_features
from train.publishing.gate import _found as found_gate
from train.publishing.normal_maps import _found as found_maps
from train.run_folder import _begun, place_of_data
from train.stage1.checkpoint import load_checkpoint, read_facts
from train.stage2.finished import Finished

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes"),
]

# Name of the file -> what reads it; these refuse what is no file.
REFUSING: dict[str, Callable[[Path], object]] = {
    "run.json": _begun,
    SPLITS_FILE: lambda path: read_splits(path.parent),
    "last.safetensors": read_facts,
    "best.safetensors": lambda path: load_checkpoint(path, {}),
    "finished.safetensors": Finished,
    "index.json": lambda path: open_features(path.parent, {"shape": (1, 1)}),
    "log.jsonl": lambda path: training_curves(path, path.parent, "curves", "Training"),
}
# And these do without it.
PASSING: dict[str, Callable[[Path], object]] = {
    "run.json": lambda path: place_of_data(path.parent),
    f"{FOLDER}/epoch-0001.safetensors": lambda path: read_epochs(path.parent.parent),
    "gate.json": found_gate,
    "normal_maps.npy": found_maps,
}


def say_what_reading_gives(readers: str, folder: str) -> None:
    """Read each pipe of a folder in a process of its own, which ends if it waits."""
    signal.alarm(60)
    for name, read in globals()[readers].items():
        try:
            print(name, "|", read(Path(folder, name)), flush=True)
        except (OSError, CheckpointError, TrainingError) as error:
            print(name, "|", error, flush=True)


def what_reading_gives(readers: str, folder: Path) -> dict[str, str]:
    """Name of a pipe in a folder -> what comes of reading it."""
    for name in globals()[readers]:
        (folder / name).parent.mkdir(exist_ok=True)
        os.mkfifo(folder / name)
    process = Fork(say_what_reading_gives, readers, str(folder))
    assert process.wait() == 0, process.said
    lines = [line.split(" | ") for line in process.said.splitlines()]
    assert [name for name, _ in lines] == list(globals()[readers])
    return dict(lines)


def test_a_pipe_in_the_place_of_a_runs_file_is_refused_without_waiting(tmp_path):
    for name, sentence in what_reading_gives("REFUSING", tmp_path).items():
        assert "Not a regular file" in sentence, name
        assert str(tmp_path / name) in sentence, name


def test_what_a_run_can_do_without_is_passed_over_where_it_is_a_pipe(tmp_path):
    assert set(what_reading_gives("PASSING", tmp_path).values()) == {"None"}
