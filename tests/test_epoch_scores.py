"""Validation scores of each epoch: kept small, read back, drawn."""

from __future__ import annotations

import numpy as np
import pytest

from train.evaluation.epoch_curves import epoch_curves
from train.evaluation.epoch_scores import FOLDER, keep_epoch, read_epochs


@pytest.fixture
def run(tmp_path):
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, (60, 2)).astype(np.float32)
    y[:5, 1] = np.nan
    kept = {}
    for epoch in (1, 2, 3):
        kept[epoch] = (epoch * np.nan_to_num(y) + generator.normal(size=y.shape)).astype(np.float32)
        keep_epoch(tmp_path, epoch, kept[epoch], y, ("Mass", "Nodule"))
    return tmp_path, kept, y


def test_scores_come_back_to_half_precision_and_labels_as_they_were(run):
    folder, kept, y = run
    scores, labels, names = read_epochs(folder)
    assert names == ["Mass", "Nodule"]
    assert np.array_equal(labels, y, equal_nan=True)
    assert list(scores) == [1, 2, 3]
    for epoch, of in scores.items():
        assert np.allclose(of, kept[epoch], rtol=1e-3)


def test_a_film_and_category_take_three_bytes(run):
    folder, _, y = run
    (size,) = {path.stat().st_size for path in (folder / FOLDER).iterdir()}
    assert size < 3 * y.size + 300


def test_an_epoch_that_is_run_again_takes_the_place_of_the_first(run):
    folder, kept, y = run
    keep_epoch(folder, 2, -kept[2], y, ("Mass", "Nodule"))
    scores, _, _ = read_epochs(folder)
    assert list(scores) == [1, 2, 3]
    assert np.allclose(scores[2], -kept[2], rtol=1e-3)


def test_a_score_too_large_for_half_precision_stays_the_largest(tmp_path):
    keep_epoch(tmp_path, 1, np.array([[1e6], [-1e6], [0]]), np.array([[1], [0], [0]]), ("A",))
    scores, _, _ = read_epochs(tmp_path)
    assert np.isfinite(scores[1]).all()
    assert np.argsort(scores[1][:, 0]).tolist() == [1, 2, 0]


def test_damaged_files_and_those_of_other_films_are_left_out(run):
    folder, kept, y = run
    (folder / FOLDER / "epoch-0001.safetensors").write_bytes(b"damaged")
    keep_epoch(folder, 2, kept[2], 1 - y, ("Mass", "Nodule"))
    (folder / FOLDER / "notes.safetensors").write_bytes(b"no epoch")
    scores, _, _ = read_epochs(folder)
    assert list(scores) == [3]


def test_a_run_without_epochs_has_nothing_to_read_or_to_draw(tmp_path):
    assert read_epochs(tmp_path) is None
    assert epoch_curves(tmp_path, tmp_path / "plots", "roc") is None


def test_a_curve_for_each_epoch_is_drawn(run):
    folder, _, _ = run
    assert epoch_curves(folder, folder / "plots", "training-a-roc", "Training of a") == (
        "training-a-roc.png"
    )
    text = (folder / "plots" / "training-a-roc.svg").read_text()
    for words in ("Mass", "Nodule", "after each epoch", "3 epochs", "epoch 1", "largest AUROC"):
        assert words in text


def test_a_category_of_one_kind_has_no_panel(tmp_path):
    y = np.array([[1, 1], [0, 1], [1, 1], [0, 1.0]])
    keep_epoch(tmp_path, 1, y, y, ("Mass", "Nodule"))
    epoch_curves(tmp_path, tmp_path, "roc")
    text = (tmp_path / "roc.svg").read_text()
    assert "Mass" in text
    assert "Nodule" not in text
