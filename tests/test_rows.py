"""Features that are read some rows at a time: the same numbers, and never all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from train.frozen import design, lbfgs, logistic
from train.frozen import rows as rows_module
from train.frozen.rows import Rows, Stacked
from train.stage1.frozen import Recipe
from train.stage2.methods import method_of
from train.stage2.task import Films, Head, Task, Tuned

N, D = 600, 10


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


class Guard:
    """An array of which no more than a block of rows may be read at once."""

    def __init__(self, array: np.ndarray):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        assert len(rows) <= rows_module.BLOCK
        return self._array[rows]


@pytest.mark.parametrize("rows", [slice(None), slice(3, 7), np.array([4, 0, 4]), np.array([], int)])
def test_rows_are_those_of_the_array(array, rows):
    chosen = np.array([9, 2, 2, 40, 7, 8, 1])
    some = Rows(array, chosen)
    assert some.shape == (7, 3)
    np.testing.assert_array_equal(some[rows], array[chosen][rows])
    np.testing.assert_array_equal(np.asarray(some), array[chosen])


@pytest.mark.parametrize("rows", [slice(None), slice(8, 15), np.array([54, 3, 10, 9, 0])])
def test_stacked_parts_are_one_array(array, rows):
    parts = [array[:10], Rows(array, np.arange(50)[::-1]), array[:0]]
    whole = np.concatenate([array[:10], array[::-1]])
    assert Stacked(parts).shape == (60, 3)
    np.testing.assert_array_equal(Stacked(parts)[rows], whole[rows])


def test_places_cover_all_rows_once(monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK", 4)
    parts = list(rows_module.places(10))
    assert [(part.start, part.stop) for part in parts] == [(0, 4), (4, 8), (8, 10)]
    assert list(rows_module.places(0)) == []


def tuned(z) -> Tuned:
    """Stage 2 on a frozen network's features, whose training films choose too."""
    draw = np.random.default_rng(1)
    values = np.asarray(z._array if isinstance(z, Guard) else z)
    truth = draw.normal(size=(3, D)).astype(np.float32)
    y = (draw.random((N, 3)) < expit(values @ truth.T - 1)).astype(np.float32)
    y[draw.random(y.shape) < 0.3] = np.nan
    rows = np.arange(N)
    train, valid = rows[: N // 2], rows[N // 2 :]
    targets = np.nan_to_num(y[train]) * (values[train, :1] < 0)  # wrong where the first is high
    recipe = Recipe(logistic.Films([z], train), targets, 1.0)
    weights, biases = recipe(np.ones((len(train), 1), bool))
    head = Head(weights[0], biases[0], ("One", "Two", "Three"))
    films = [Films(Rows(z, part), y[part], part // 2) for part in (train, valid)]
    task = Task(*films, head, recipe=recipe)
    return method_of(task.settings).tune(task)


@pytest.mark.slow
def test_both_stages_read_blocks_and_find_what_they_find_in_memory(monkeypatch):
    z = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32) * np.geomspace(3, 0.1, D)
    z = (z + 2).astype(np.float32)
    expected = tuned(z)
    assert expected.methods == ["auto"] * 3
    monkeypatch.setattr(rows_module, "BLOCK", 64)
    monkeypatch.setattr(design, "_KEPT_BYTES", 0)
    monkeypatch.setattr(design, "_TURNED", 0)
    monkeypatch.setattr(lbfgs, "LOGITS", 2 * N)
    found = tuned(Guard(z))
    assert found.methods == expected.methods
    assert found.notes["chosen"] == expected.notes["chosen"]
    logits = [one.head.logits(z) for one in (found, expected)]
    np.testing.assert_allclose(*logits, atol=2e-3)
    np.testing.assert_allclose(found.valid_scores, expected.valid_scores, atol=2e-3)
