"""By how much films of the same state differ: the limit, its interval, the pairs of films."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from cft.model.folder import parse_config
from tests.conftest import random_model_config
from train.complete import completed
from train.datasets.labels import LabelTable
from train.evaluation.follow_up import follow_up_pairs, repeatability_of
from train.evaluation.inference import FilmScores
from train.metrics.repeatability import repeatability


def test_the_limit_is_the_difference_of_the_rank_that_the_level_asks_for():
    sizes = np.random.default_rng(0).permutation(np.arange(1.0, 40.0))
    signs = np.random.default_rng(1).choice([-1, 1], 39)
    for level, rank in ((0.95, 38), (0.9, 36), (0.5, 20)):
        found = repeatability((sizes * signs)[:, None], np.arange(39), level)
        assert found.limit == [rank]
        assert found.low[0] <= rank <= found.high[0]
        assert (found.pairs, found.groups) == (39, 39)


def test_so_few_pairs_promise_no_limit():
    found = repeatability(np.ones((18, 2)), np.arange(18))
    assert np.isnan([found.limit, found.low, found.high]).all()
    assert (repeatability(np.ones((19, 2)), np.arange(19)).limit == 1).all()
    assert np.isnan(repeatability(np.ones((0, 2)), np.arange(0)).limit).all()


def test_the_order_of_prior_and_current_does_not_matter():
    differences = np.random.default_rng(2).normal(size=(50, 3))
    groups = np.arange(50) // 2
    one, other = repeatability(differences, groups), repeatability(-differences, groups)
    for key in ("limit", "low", "high"):
        assert (getattr(one, key) == getattr(other, key)).all()


def test_a_new_pair_goes_beyond_the_limit_as_seldom_as_promised():
    """Exchangeable pairs of heavy tails: 1 of 21 on average for 20 pairs and a level of 0.95."""
    generator, beyond = np.random.default_rng(3), 0
    for _ in range(30):
        values = generator.standard_t(2, size=(21, 200))
        limit = repeatability(values[:20], np.arange(20), replicates=1).limit
        beyond += int((np.abs(values[20]) > limit).sum())
    share = beyond / 6_000
    assert share == pytest.approx(1 / 21, abs=4 * math.sqrt(1 / 21 * 20 / 21 / 6_000))


def test_the_interval_is_wider_where_pairs_are_of_few_patients():
    values = np.repeat(np.random.default_rng(4).normal(size=(15, 1)), 4, axis=0)
    few = repeatability(values, np.repeat(np.arange(15), 4))
    many = repeatability(values, np.arange(60))
    assert few.limit == many.limit
    assert few.high - few.low > many.high - many.low


@pytest.mark.parametrize(
    ("differences", "groups", "level"),
    [
        (np.ones(5), np.arange(5), 0.95),
        (np.ones((5, 1)), np.arange(4), 0.95),
        (np.ones((5, 1)), np.arange(5), 1.0),
        (np.full((5, 1), np.nan), np.arange(5), 0.95),
    ],
)
def test_what_is_no_table_of_differences_is_refused(differences, groups, level):
    with pytest.raises(ValueError, match=r"must be|lies between|not finite"):
        repeatability(differences, groups, level)


# ------------------------------------------------------------------------------ follow-up


def table(films: list[tuple[str, str, str, tuple[float, ...]]]) -> LabelTable:
    """Films of (patient, study, view, labels)."""
    patients, studies, views, labels = zip(*films, strict=True)
    y = np.array(labels, np.float32)
    return LabelTable(
        images=[f"{patient}/{study}/{i}.png" for i, (patient, study, *_) in enumerate(films)],
        y=y,
        uncertain=np.zeros(y.shape, bool),
        label_names=("A", "B")[: y.shape[1]],
        patients=np.array(patients),
        studies=np.array([f"{p}/{s}" for p, s in zip(patients, studies, strict=True)]),
        split=np.full(len(films), "valid"),
        attributes={"view": np.array(views)},
    )


def test_a_pair_is_a_film_and_the_next_of_the_same_patient_with_equal_labels():
    nan = float("nan")
    films = table(
        [
            ("p1", "study10", "PA", (1, 0)),
            ("p1", "study2", "PA", (1, 0)),
            ("p1", "study2", "AP", (1, 0)),  # of the same study
            ("p1", "study11", "PA", (1, 1)),  # other labels
            ("p2", "study1", "lateral", (0, 0)),
            ("p2", "study1", "AP", (0, nan)),
            ("p2", "study3", "PA", (0, nan)),
            ("p3", "study1", "PA", (0, 0)),
        ]
    )
    assert follow_up_pairs(films).tolist() == [[1, 0], [5, 6]]
    assert follow_up_pairs(films, equal=False).tolist() == [[1, 0], [0, 3], [5, 6]]


def test_what_goes_into_the_folder_is_of_the_pairs_alone():
    generator = np.random.default_rng(5)
    films = table([(f"p{i:02}", f"study{s}", "PA", (0, 1)) for i in range(20) for s in (1, 2)])
    logits = generator.normal(size=(40, 2))
    found = repeatability_of(logits, films)
    assert list(found) == ["A", "B"]
    for c, row in enumerate(found.values()):
        sizes = np.sort(np.abs(logits[1::2, c] - logits[::2, c]))
        assert row["limit"] == sizes[19]  # of 20 pairs 95 % of 21
        assert (row["pairs"], row["patients"], row["level"]) == (20, 20, 0.95)
        assert row["low"] <= row["limit"] <= row["high"]


def test_too_few_patients_give_no_figure():
    films = table([("p1", f"study{s}", "PA", (0, 1)) for s in range(60)])
    assert repeatability_of(np.zeros((60, 2)), films) == {"A": None, "B": None}
    alone = table([(f"p{i}", "study1", "PA", (0, 1)) for i in range(60)])
    assert repeatability_of(np.zeros((60, 2)), alone) == {"A": None, "B": None}


def test_an_older_folder_gets_the_limits_of_its_validation_films():
    generator, config = np.random.default_rng(6), random_model_config()
    config.update(label_names=["A", "B"], num_classes=2)
    config["cft"]["categories"] = {"A": {"platt": None}}
    films = table([(f"p{i:02}", f"study{s}", "PA", (0, 1)) for i in range(20) for s in (1, 2)])
    names, chances = films.names.tolist(), generator.uniform(0.01, 0.99, (40, 2))
    scores = FilmScores(dict(zip(names, chances, strict=True)), {}, {})
    nothing = films.subset(np.zeros(40, bool))
    found = completed(config, films, films, [nothing], scores)
    categories = parse_config(found, Path("somewhere")).categories
    logits = np.log(chances / (1 - chances))
    for c, label in enumerate(("A", "B")):
        sizes = np.sort(np.abs(logits[1::2, c] - logits[::2, c]))
        assert categories[label].repeatability.limit == pytest.approx(sizes[19])
        assert categories[label].repeatability.patients == 20
