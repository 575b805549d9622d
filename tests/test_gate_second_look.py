"""Where left and right leave a doubt, the gate looks at the film a second time, mirrored."""

from dataclasses import replace

import numpy as np
import pytest

from cft.errors import ModelFolderError
from cft.model.engines import FolderNetwork
from cft.model.fields import Fields
from cft.model.folder import read_model_folder
from cft.model.gate import Gatekeeper, depths_in, evidence, side_of
from cft.model.gate_fit import limits_of_sides
from cft.model.gate_statistics import GateStatistics


class Counting:
    """An engine that keeps what it has seen."""

    def __init__(self, engine):
        self.engine, self.seen = engine, []

    def __call__(self, batch):
        self.seen.append(batch)
        return self.engine(batch)


@pytest.fixture
def keeper(gated_folder):
    folder = read_model_folder(gated_folder)
    gate, preprocess = folder.facts.gate, folder.facts.preprocess
    engine = FolderNetwork(folder, "cpu", "torch", depths_in(gate)).engine
    # All pictures look upright and near; the side alone is the question.
    return Gatekeeper(replace(gate, passes=0.0, far=1e9), preprocess, Counting(engine))


@pytest.fixture
def films(keeper, phantoms):
    batch = np.stack([keeper.preprocess(x.astype(np.float32) / 255) for x in phantoms[110:140]])
    return np.concatenate([batch, batch[..., ::-1]])


def mirrored(keeper, films, **change) -> np.ndarray:
    keeper.statistics = replace(keeper.statistics, **change)
    return np.array([gate.turn == "mirror" for gate in keeper.look(films)])


def sums(keeper, films) -> np.ndarray:
    """Of one look each."""
    statistics = keeper.statistics
    table, _ = evidence(statistics.depths, keeper.engine.engine(films).fields)
    return side_of(statistics, table)


@pytest.mark.parametrize("wrong", ["early", True, 1e10, float("nan")])
def test_a_folder_that_says_something_else_is_refused(keeper, wrong):
    config = {**keeper.statistics.to_config(), "again": wrong}
    with pytest.raises(ModelFolderError, match="again"):
        GateStatistics.read(Fields(config, "cft.gate", "config.json"))


def test_a_folder_that_does_not_know_of_it_looks_once(keeper, films):
    config = keeper.statistics.to_config()
    del config["again"]
    keeper.statistics = GateStatistics.read(Fields(config, "cft.gate", "config.json"))
    assert keeper.statistics.again is None
    keeper.look(films)
    assert len(keeper.engine.seen) == 1
    assert "again" not in keeper.statistics.to_config()


def test_only_a_film_in_doubt_is_looked_at_again(keeper, films):
    one = sums(keeper, films)
    again = float(np.median(one))
    keeper.engine.seen.clear()
    mirrored(keeper, films, again=again, mirrored=1e6)
    once, twice = keeper.engine.seen
    assert once.shape == films.shape
    np.testing.assert_array_equal(twice, films[one >= again][..., ::-1])
    keeper.engine.seen.clear()
    mirrored(keeper, films, again=again, passes=1.0)  # nothing looks upright: no side to doubt
    assert len(keeper.engine.seen) == 1


def test_half_the_difference_of_both_looks_decides(keeper, films):
    one = sums(keeper, films)
    n = len(films) // 2
    both = (one - np.concatenate([one[n:], one[:n]])) / 2
    for limit in np.quantile(both, [0.2, 0.5, 0.8]):
        called = mirrored(keeper, films, again=-1e9, mirrored=float(limit))
        clear = np.abs(both - limit) > 1e-3
        np.testing.assert_array_equal(called[clear], (both >= limit)[clear])
    called = mirrored(keeper, films, again=-1e9, mirrored=1e-6)
    assert not (called[:n] & called[n:]).any()  # of a film and its mirror image at most one


def test_the_limits_by_hand():
    random = np.random.default_rng(0)
    right, wrong = random.normal(-1, 1, 1000), random.normal(1, 1, 1000)
    limit, again = limits_of_sides(right, wrong, 0.9)
    halves = np.sort((right - wrong) / 2)
    assert limit == pytest.approx(max(0, np.quantile(halves, 0.99)), abs=1e-12)
    assert again == pytest.approx(min(limit, np.quantile(wrong, 0.01)))
    limit, again = limits_of_sides(right - 5, wrong + 5, 0.9)  # clear: as many as asked for
    assert (wrong - right + 10 >= 2 * limit).mean() == pytest.approx(0.9, abs=0.001)
    assert again <= limit
