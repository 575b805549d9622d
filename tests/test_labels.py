"""The label table, hidden labels, and the policies for unknown and uncertain labels."""

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from train.command import add_options, options_of
from train.datasets.labels import (
    LabelPolicy,
    LabelTable,
    hide_labels,
    shuffle_rows,
    stable_uniform,
    targets,
)
from train.datasets.options import PolicyOptions
from train.errors import DatasetError

NAN = np.nan


def table(films: int = 6, seed: int = 0, **changes) -> LabelTable:
    """Random labels: a third each of 1, 0 and NaN, and half of the NaN uncertain."""
    generator = np.random.default_rng(seed)
    y = generator.choice(np.array([1, 0, NAN], np.float32), (films, 2))
    names = np.array([f"film-{i}" for i in range(films)])
    parts = {
        "images": [Path(f"{name}.png") for name in names],
        "y": y,
        "uncertain": np.isnan(y) & (generator.random(y.shape) < 0.5),
        "label_names": ("Edema", "Atelectasis"),
        "patients": np.array([f"p{i // 2}" for i in range(films)]),
        "studies": names,
        "split": np.array(["train", "train", "valid", "test"] * films)[:films],
        "attributes": {"age": np.arange(films, dtype=np.float32)},
        "names": names,
    }
    return LabelTable(**{**parts, **changes})


def policy(*words: str) -> LabelPolicy:
    parser = argparse.ArgumentParser()
    add_options(parser, PolicyOptions)
    return options_of(PolicyOptions, vars(parser.parse_args(words))).policy


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.zeros((6, 3), np.float32)}, r"y has shape \(6, 3\); it must be \(6, 2\)"),
        ({"patients": np.array(["p"])}, "patients has shape"),
        ({"attributes": {"age": np.zeros(5)}}, "age has shape"),
        ({"pixels": np.zeros((5, 8, 8), np.uint8)}, "pixels have shape"),
        ({"y": np.full((6, 2), 0.5, np.float32)}, "other than 1, 0 and NaN"),
        (
            {"y": np.zeros((6, 2), np.float32), "uncertain": np.ones((6, 2), bool)},
            "uncertain and given",
        ),
        ({"label_names": ("Edema", "Edema")}, "a category is there twice"),
        # What no model folder may have, which would be seen when all is trained.
        ({"label_names": ("Edema", "x" * 201)}, "has a label of 201 characters, more than 200"),
        ({"label_names": ("Edema", "\x1b[2J")}, "has a label with characters that cannot be shown"),
        ({"split": np.array(["train"] * 5 + ["dev"])}, "unknown split 'dev'"),
        ({"names": np.array(["same"] * 6)}, "two films have the same name"),
    ],
)
def test_a_table_whose_parts_do_not_fit_is_refused(changes, message):
    with pytest.raises(DatasetError, match=message):
        table(**changes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--unknown", "smooth-positive"], "unknown labels cannot be 'smooth-positive'"),
        (["--uncertain", "Edema=maybe"], "uncertain labels cannot be 'maybe'"),
        (["--uncertain", "positive", "negative"], "two policies for all: positive and negative"),
        (["--unknown", "ignore", "--unknown", "negative"], "two policies for all"),
    ],
)
def test_a_policy_that_does_not_exist_is_refused(words, message):
    with pytest.raises(DatasetError, match=message):
        policy(*words)


def test_an_exception_for_a_category_that_is_not_there_is_refused():
    with pytest.raises(DatasetError, match="names the category 'Edemma'; there are Edema"):
        policy("--uncertain", "Edemma=positive").apply(table())


@pytest.mark.parametrize("known", [0, -0.1, 1.1, NAN])
def test_an_impossible_share_of_known_labels_is_refused(known):
    with pytest.raises(DatasetError, match=r"must be in \(0, 1\]"):
        hide_labels(table(), known, 0)


# --- The table ----------------------------------------------------------------------------------


def test_a_subset_keeps_every_part_of_its_films():
    whole = table(pixels=np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2))
    for which in (np.array([4, 1]), np.isin(np.arange(6), [1, 4])):
        part = whole.subset(which)
        rows = [4, 1] if which.dtype != bool else [1, 4]
        assert len(part) == 2
        assert list(part.images) == [whole.images[row] for row in rows]
        for name in ("y", "uncertain", "patients", "studies", "split", "names", "pixels"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])
        np.testing.assert_array_equal(part.attributes["age"], whole.attributes["age"][rows])


def test_counts_agree_with_counting_one_by_one():
    films = table(60)
    for column, name in enumerate(films.label_names):
        cells = list(zip(films.y[:, column], films.uncertain[:, column], strict=True))
        assert films.counts()[name] == {
            "positive": sum(y == 1 for y, _ in cells),
            "negative": sum(y == 0 for y, _ in cells),
            "uncertain": sum(bool(mark) for _, mark in cells),
            "blank": sum(np.isnan(y) and not mark for y, mark in cells),
        }


def test_categories_are_chosen_by_name_in_the_order_asked_for():
    films = table()
    swapped = films.with_labels(["Atelectasis", "Edema"])
    np.testing.assert_array_equal(swapped.y, films.y[:, ::-1])
    with pytest.raises(DatasetError, match=r"no category 'Hernia' .* it has Edema, Atelectasis"):
        films.with_labels(["Hernia"])
    for dataset, named in (("mine", "mine"), ("", "this table")):
        with pytest.raises(DatasetError, match=rf"^no category 'Hernia' in {named}; it has"):
            replace(films, dataset=dataset).with_labels(["Hernia"])


# --- Seeded draws -------------------------------------------------------------------------------


def test_draws_are_uniform_and_independent_between_rows_columns_seeds_and_purposes():
    names, columns = [f"film {i}" for i in range(20_000)], ["a", "b"]
    draws = stable_uniform(0, "test", names, columns)
    others = [
        draws[:, 1],
        np.roll(draws[:, 0], 1),
        stable_uniform(1, "test", names, columns)[:, 0],
        stable_uniform(0, "else", names, columns)[:, 0],
    ]
    assert draws.min() >= 0
    assert draws.max() < 1
    deciles = np.histogram(draws[:, 0], 10, (0, 1))[0]
    assert abs(deciles - 2000).max() < 5 * np.sqrt(2000 * 0.9)
    for other in others:
        assert abs(np.corrcoef(draws[:, 0], other)[0, 1]) < 5 / np.sqrt(20_000)


def test_draws_are_those_of_their_definition():
    """Splits that were drawn once are drawn again: the hash is written anew here, cell by cell."""

    def hashed(purpose: str, text: str) -> int:
        whole = f"7/split/{purpose}/{text}".encode()
        return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "little")

    def split_mix(x: int) -> int:  # the finaliser of SplitMix64, in whole numbers
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    names, columns = ["a", "patient 2", "ü"], ["", "Edema"]
    expected = [
        [(split_mix(hashed("row", n) ^ hashed("column", c)) >> 11) / 2**53 for c in columns]
        for n in names
    ]
    np.testing.assert_array_equal(stable_uniform(7, "split", names, columns), expected)


def test_a_draw_does_not_depend_on_other_rows_or_columns():
    names, columns = [f"film {i}" for i in range(50)], ["a", "b", "c"]
    draws = stable_uniform(3, "test", names, columns)
    np.testing.assert_array_equal(
        stable_uniform(3, "test", names[40:10:-1], ["c", "a"]), draws[40:10:-1][:, [2, 0]]
    )


def test_hiding_keeps_the_share_asked_for_in_training_and_everything_elsewhere():
    films = table(8000)
    hidden = hide_labels(films, 0.3, 0)
    given, kept = (~np.isnan(t.y) | t.uncertain for t in (films, hidden))
    training = films.split == "train"
    share = kept[training].sum() / given[training].sum()
    assert abs(share - 0.3) < 5 * np.sqrt(0.21 / given[training].sum())
    np.testing.assert_array_equal(hidden.y[~training], films.y[~training])
    np.testing.assert_array_equal(hidden.uncertain[~training], films.uncertain[~training])
    np.testing.assert_array_equal(hidden.y[kept], films.y[kept])
    assert f"{(given & ~kept).sum():,} of {given[training].sum():,}" in hidden.notes[-1]


def test_labels_known_at_a_small_share_are_known_at_a_larger_one():
    known = [~np.isnan(hide_labels(table(500), share, 0).y) for share in (0.2, 0.5, 1)]
    assert known[0].sum() < known[1].sum() < known[2].sum()
    assert (known[0] <= known[1]).all()
    assert (known[1] <= known[2]).all()


# --- Policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", ["negative", "ignore", "positive"])
@pytest.mark.parametrize("uncertain", ["ignore", "negative", "positive"])
def test_policies_agree_with_deciding_cell_by_cell(unknown, uncertain):
    films = table(40)
    meaning = {"negative": 0.0, "ignore": NAN, "positive": 1.0}
    expected = [
        [
            meaning[uncertain] if mark else meaning[unknown] if np.isnan(y) else y
            for y, mark in zip(row, marks, strict=True)
        ]
        for row, marks in zip(films.y.tolist(), films.uncertain.tolist(), strict=True)
    ]
    result = targets(films, unknown, uncertain)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array(expected, np.float32))


def test_negative_mode_that_ignores_the_uncertain_is_the_default():
    films = table(40)
    np.testing.assert_array_equal(policy().apply(films), targets(films, "negative", "ignore"))


@pytest.mark.parametrize(
    ("uncertain", "low", "high"), [("smooth-positive", 0.55, 0.85), ("smooth-negative", 0, 0.3)]
)
def test_smooth_labels_are_uniform_in_their_range(uncertain, low, high):
    films = table(9000)
    draws = targets(films, uncertain=uncertain)[films.uncertain]
    assert len(draws) > 2000
    assert low <= draws.min() < low + 0.01
    assert high - 0.01 < draws.max() <= high
    assert abs(draws.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * len(draws))


def test_a_smooth_label_does_not_depend_on_the_other_films():
    films = table(100)
    whole = targets(films, uncertain="smooth-positive", seed=4)
    rows = np.arange(90, 20, -1)
    part = targets(films.subset(rows), uncertain="smooth-positive", seed=4)
    np.testing.assert_array_equal(part, whole[rows])
    assert (targets(films, uncertain="smooth-positive", seed=5) != whole)[films.uncertain].all()


def test_exceptions_hold_for_their_category_and_flag_alone():
    films = table(40)
    words = ["--unknown", "ignore", "Edema=negative", "--uncertain", "Atelectasis=positive"]
    result = policy(*words, "--uncertain", "negative").apply(films)
    blank = np.isnan(films.y) & ~films.uncertain
    assert (result[blank[:, 0], 0] == 0).all()
    assert np.isnan(result[blank[:, 1], 1]).all()
    assert (result[films.uncertain[:, 0], 0] == 0).all()
    assert (result[films.uncertain[:, 1], 1] == 1).all()


def test_a_category_whose_name_has_an_equals_sign_can_be_excepted():
    films = table().with_labels(["Edema"])
    odd = LabelTable(**{**vars(films), "label_names": ("a=b",)})
    result = policy("--unknown", "a=b=positive").apply(odd)
    assert (result[np.isnan(odd.y) & ~odd.uncertain] == 1).all()


def test_a_policy_survives_the_model_folder():
    given = policy("--unknown", "ignore", "--uncertain", "smooth-negative", "Edema=positive")
    stored = json.loads(json.dumps(given.to_dict()))
    assert stored == {
        "unknown": "ignore",
        "uncertain": "smooth-negative",
        "overrides": {"uncertain": {"Edema": "positive"}},
    }
    films = table(40)
    np.testing.assert_array_equal(LabelPolicy(**stored).apply(films), given.apply(films))


def test_shuffled_rows_are_the_same_rows_in_other_places():
    y = np.arange(60, dtype=np.float32).reshape(20, 3)
    rows = np.arange(0, 20, 2)
    shuffled = shuffle_rows(y, rows, seed=1)
    assert (shuffled[1::2] == y[1::2]).all()
    assert (shuffled[rows] != y[rows]).any(1).sum() > 5
    assert sorted(map(tuple, shuffled[rows])) == sorted(map(tuple, y[rows]))
    assert (shuffle_rows(y, rows, seed=1) == shuffled).all()
    assert (shuffle_rows(y, rows, seed=2) != shuffled).any()
