"""Both stages read features that stay on disk into memory of their own, however many there are."""

import tracemalloc
from typing import ClassVar

import numpy as np
import pytest
import torch

from train.frozen import design, rows
from train.frozen.logistic import Films, fit
from train.frozen.rows import Reader, Rows, Stacked
from train.stage1.frozen import Recipe
from train.stage2 import task
from train.stage2.methods import method_of, refitted
from train.stage2.task import Head, Task

BLOCK, WIDTH, CATEGORIES = 64, 256, 2
NAMES = ("Mass", "Edema")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Features are read in small blocks, and none may stay in memory."""
    monkeypatch.setattr(rows, "BLOCK", BLOCK)
    monkeypatch.setattr(design, "_KEPT_BYTES", 0)


def problem(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, WIDTH) features and (count, CATEGORIES) labels, of which a fifth are unknown."""
    draw = np.random.default_rng(0)
    z = draw.standard_normal((count, WIDTH), dtype=np.float32)
    y = (draw.random((count, CATEGORIES)) < 1 / (1 + np.exp(1 - z[:, :CATEGORIES]))) * 1.0
    y[draw.random(y.shape) < 0.2] = np.nan
    return z, y.astype(np.float32)


class Watched(Rows):
    """Notes where in memory its rows are written, and refuses to make arrays of them."""

    places: ClassVar[set[int]] = set()

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        self.places.add(out.__array_interface__["data"][0] // (BLOCK * WIDTH * 4))
        super().read(rows, out)

    def __getitem__(self, rows):
        raise AssertionError("a block was allocated for features that were read")


def stage_2(count: int, kind: type[Rows] = Rows) -> Task:
    """What stage 2 is given of so many films, cross-fitted over all of them."""
    z, y = problem(count)
    train, valid = np.arange(count * 3 // 4), np.arange(count * 3 // 4, count)
    recipe = Recipe(Films([z], train), np.nan_to_num(y[train]), 30.0)
    head = Head(*(x[0] for x in recipe(np.ones((len(train), 1), bool))), NAMES)
    films = [task.Films(kind(z, some), y[some], some // 4) for some in (train, valid)]
    return Task(*films, head, recipe=recipe)


@pytest.mark.parametrize(
    "matrix",
    [
        np.arange(60.0).reshape(20, 3),
        np.arange(120.0).reshape(20, 6)[:, ::2],
        np.arange(60, dtype=">f4").reshape(20, 3),
        Rows(np.arange(90.0).reshape(30, 3), np.arange(29, 9, -1)),
        Stacked(
            [np.arange(24.0).reshape(8, 3), Rows(np.arange(90.0).reshape(30, 3), np.arange(12))]
        ),
    ],
    ids=["array", "every second column", "other byte order", "rows", "stacked"],
)
@pytest.mark.parametrize(
    "wanted", [[0, 1, 2], [19, 3, 3, 7], [7, 8], [9, 2, 12, 5], []], ids=lambda x: str(x)
)
def test_rows_that_are_read_are_those_of_the_matrix(matrix, wanted):
    wanted = np.array(wanted, int)
    np.testing.assert_array_equal(Reader()(matrix, wanted), np.asarray(matrix)[wanted])


def test_the_next_rows_take_the_memory_of_the_last():
    z, _ = problem(2 * BLOCK)
    read = Reader()
    first = read(z, slice(0, BLOCK))
    second = read(Rows(z, np.arange(len(z))), np.arange(BLOCK, BLOCK + 10))
    assert np.shares_memory(first, second)
    np.testing.assert_array_equal(second, z[BLOCK : BLOCK + 10])
    assert not np.shares_memory(first, z)  # what is read may be changed


def test_a_larger_block_and_another_type_get_memory_that_fits():
    z, _ = problem(3 * BLOCK)
    read = Reader()
    read(z, slice(0, 5))
    np.testing.assert_array_equal(read(z, slice(0, 3 * BLOCK)), z)
    np.testing.assert_array_equal(read(z.astype(np.float64)[:, :7], slice(2, 9)), z[2:9, :7])


def test_features_that_are_read_and_features_that_are_kept_give_the_same_fit(monkeypatch):
    z, y = problem(5 * BLOCK)
    read = fit(Films([z], np.arange(len(z))), y, 10.0)
    monkeypatch.setattr(design, "_KEPT_BYTES", 2**30)
    monkeypatch.setattr(design, "_TURNED", 0)
    kept = fit(Films([z], np.arange(len(z))), y, 10.0)
    torch.testing.assert_close(read.theta, kept.theta, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_stage_2_allocates_no_block_of_features_for_what_it_reads(monkeypatch):
    used = []
    for count in (8 * BLOCK, 16 * BLOCK):
        monkeypatch.setattr(Watched, "places", set())
        given = stage_2(count, Watched)
        method_of(given.settings).tune(given)
        used.append(len(Watched.places))
    assert used[1] <= used[0] + 2  # an allocator may lay a block elsewhere


@pytest.mark.slow
def test_memory_of_refits_grows_by_labels_and_scores_and_no_features():
    peaks, sizes = [], (8 * BLOCK, 16 * BLOCK, 48 * BLOCK)
    for count in sizes:
        given = stage_2(count)
        tracemalloc.start()
        refitted(given)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The first is for what is loaded once. Of a film there are scores at ten strengths, labels,
    # folds and patients, some of them twice; its features would be another kilobyte.
    a_film = (peaks[2] - peaks[1]) / (sizes[2] - sizes[1])
    assert 0 < a_film < WIDTH * 4 / 2
