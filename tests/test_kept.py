"""What is computed of frozen features alone is kept beside them; what stage 2 has, in its file."""

import tracemalloc

import numpy as np
import pytest
import torch

from cft.files import from_json
from train.errors import CheckpointError
from train.frozen.kept import computed_on, kept_tensors, place_of
from train.frozen.logistic import Films, fit
from train.stage2.finished import Finished
from train.stage2.refit import Refitter

CPU = torch.device("cpu")


def never() -> dict[str, torch.Tensor]:
    raise AssertionError("it was computed, though it was there")


def test_what_is_kept_lies_in_memory_as_it_did(tmp_path):
    """By columns, by rows, and not at all in a row: products are rounded as they were."""
    square = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    wide = square.clone().repeat(1, 2)
    before = {
        "rows": square,
        "columns": square.clone().mT,
        "every": wide[:, ::2],
        "one": square[0].clone(),
    }
    file = tmp_path / "kept"
    first = kept_tensors(file, lambda: before, CPU)
    again = kept_tensors(file, never, CPU)
    assert first is before
    assert again.keys() == before.keys()
    for name, x in again.items():
        assert torch.equal(x, before[name])
        assert name == "every" or x.stride() == before[name].stride()


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"no tensors at all" * 9])
def test_a_damaged_file_is_computed_again(tmp_path, content):
    file = tmp_path / "kept"
    file.write_bytes(content)
    wanted = {"mean": torch.ones(3)}
    assert kept_tensors(file, lambda: wanted, CPU) is wanted
    assert torch.equal(kept_tensors(file, never, CPU)["mean"], wanted["mean"])


def test_without_a_file_nothing_is_kept(tmp_path):
    assert kept_tensors(None, lambda: {"mean": torch.ones(1)}, CPU)["mean"] == 1
    assert not list(tmp_path.iterdir())


def test_other_films_views_and_threads_have_another_file(tmp_path):
    facts = [(np.arange(3), "a"), (np.arange(4), "a"), (np.arange(3), "b"), (np.arange(3), "ab")]
    names = {place_of(tmp_path, "directions", *each) for each in facts}
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        other = computed_on(CPU)
    finally:
        torch.set_num_threads(threads)
    assert len(names) == len(facts)
    assert other != computed_on(CPU)


@pytest.fixture
def films() -> tuple[np.ndarray, np.ndarray]:
    """(150, 12) features and (150, 2) labels."""
    draw = np.random.default_rng(3)
    z = draw.standard_normal((150, 12), dtype=np.float32) @ draw.standard_normal((12, 12))
    z = z.astype(np.float32)
    return z, (z[:, :2] + draw.standard_normal((150, 2)) > 0).astype(np.float32)


def test_stage_1_fits_the_same_bits_on_what_was_kept(films, tmp_path, monkeypatch):
    z, y = films
    rows, file = np.arange(0, 150, 2), tmp_path / "kept"
    first, again, plain = (Films([z], rows, kept=f) for f in (file, file, None))
    fitted = [fit(x, y[rows], 10.0).folded(x) for x in (first, plain)]
    monkeypatch.setattr(Films, "_computed", never)
    fitted.append(fit(again, y[rows], 10.0).folded(again))
    for weights, biases in fitted[1:]:
        np.testing.assert_array_equal(weights, fitted[0][0])
        np.testing.assert_array_equal(biases, fitted[0][1])


def test_directions_of_few_films_are_kept_and_those_of_an_older_version_are_not(
    films, tmp_path, monkeypatch
):
    z, y = films
    rows, file = np.arange(0, 150, 15), tmp_path / "kept"  # 10 films, 12 features
    with monkeypatch.context() as older:
        older.setattr(Films, "_span", Films._curvature)
        older.setattr(Films, "_usable", lambda *_: True)
        assert Films([z], rows, kept=file).basis.shape == (12, 12)
    first, again, plain = (Films([z], rows, kept=f) for f in (file, file, None))
    assert first.basis.shape == (12, 9)
    fitted = [fit(x, y[rows], 10.0).folded(x) for x in (first, plain)]
    monkeypatch.setattr(Films, "_computed", never)
    fitted.append(fit(again, y[rows], 10.0).folded(again))
    for weights, biases in fitted[1:]:
        np.testing.assert_array_equal(weights, fitted[0][0])
        np.testing.assert_array_equal(biases, fitted[0][1])


def test_stage_2_refits_the_same_bits_on_what_was_kept(films, tmp_path, monkeypatch):
    z, y = films
    given = z[:100], z[100:], np.arange(50), np.zeros((2, 12), np.float32), np.zeros(2, np.float32)
    labels = [0, 1], y[:100], y[100:]
    file = tmp_path / "kept"
    found = [Refitter(*given, kept=f).paths(*labels) for f in (file, None)]
    monkeypatch.setattr(Refitter, "_metric", lambda *_: never())
    found.append(Refitter(*given, kept=file).paths(*labels))
    for paths in found[1:]:
        for path, first in zip(paths, found[0], strict=True):
            for name, array in vars(path).items():
                np.testing.assert_array_equal(array, vars(first)[name])


def test_finished_parts_lie_in_the_file_and_not_in_memory(tmp_path):
    size = 2**20
    finished = Finished(tmp_path / "kept", "films")
    tracemalloc.start()
    for part in range(3):
        finished.keep("auto", {f"{part}/scores": np.full(size, part, np.float64)})
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < size  # of 24 MiB
    for reader in (finished, Finished(tmp_path / "kept", "films")):
        for part in range(3):
            np.testing.assert_array_equal(reader.get(f"auto/{part}")["scores"], part)
    with pytest.raises(CheckpointError, match="other films"):
        Finished(tmp_path / "kept", "others")


def test_parts_take_the_place_of_others_while_these_are_in_use(tmp_path):
    """What was got before is still what it was, though its file is there no more."""
    finished = Finished(tmp_path / "kept")
    finished.keep("state", {"x": np.arange(5), "empty": np.zeros((0, 2), np.float32)})
    before = finished.get("state")
    finished.keep("result", {"x": np.arange(5) + 1}, instead_of="state")
    assert finished.get("state") is None
    np.testing.assert_array_equal(before["x"], np.arange(5))
    np.testing.assert_array_equal(finished.get("result")["x"], np.arange(5) + 1)
    header = (tmp_path / "kept").read_bytes()
    length = int.from_bytes(header[:8], "little")
    assert set(from_json(header[8 : 8 + length])) == {"__metadata__", "result/x"}
