"""Ruled in, ruled out, unsure: the error rates hold, by counting and by another library."""

from __future__ import annotations

import numpy as np
import pytest

from cft.model.conformal import Band, conformal_band


def band_of(probabilities, labels, *errors) -> Band:
    return Band(**conformal_band(np.array(probabilities), np.array(labels), *errors))


def films(seed: int, n: int = 60, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < 0.4).astype(float)
    chances = 1 / (1 + np.exp(-generator.normal(2 * labels - 1, 1.2)))
    return (np.round(chances, 1) if ties else chances), labels


@pytest.mark.parametrize("error", [0, 1, -0.1, 1.5, np.nan])
def test_an_error_rate_that_is_none_is_refused(error):
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_band(np.array([0.5]), np.array([1.0]), error, 0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_band(np.array([0.5]), np.array([1.0]), 0.1, error)


def test_too_few_films_of_a_class_rule_nothing_out_or_in():
    band = band_of([0.9] * 8 + [0.1] * 9, [1.0] * 8 + [0.0] * 9)  # 10 % of 9 films is none
    assert band.rule_out is None
    assert (band.rule_in, band.negatives, band.positives) == (np.nextafter(0.1, 1), 9, 8)
    assert band.verdict(0.0) is None
    assert band.verdict(0.2) == "in"
    assert band_of([], []).verdict(0.5) is None


def test_the_limits_are_those_worked_by_hand():
    # 19 films each: 10 % of 20 is two, so the second smallest and the second largest decide.
    positives, negatives = np.arange(50, 69) / 100, np.arange(30, 49) / 100
    band = band_of([*positives, *negatives], [1.0] * 19 + [0.0] * 19)
    assert band.rule_out == 0.51
    assert band.rule_in == np.nextafter(0.47, 1)
    assert [band.verdict(p) for p in (0.47, 0.52, 0.49)] == ["out", "in", "unsure"]  # they cross


def test_unknown_labels_have_no_part():
    chances, labels = films(0)
    with_unknown = conformal_band(np.append(chances, 0.0), np.append(labels, np.nan))
    assert with_unknown == conformal_band(chances, labels)


def test_a_probability_of_one_among_the_negatives_leaves_nothing_to_rule_in():
    band = band_of([1.0] * 30, [0.0] * 30)
    assert band.rule_in is None
    assert band.verdict(1.0) is None


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("error", [0.05, 0.1, 0.2, 0.5])
def test_of_n_plus_one_films_no_larger_share_is_decided_wrongly(error, ties):
    """Exchangeability worked out: each film in turn is the new one, the others calibrate."""
    for seed in range(5):
        chances, labels = films(seed, ties=ties)
        for value, wrong in ((1, "out"), (0, "in")):
            of_class = np.flatnonzero(labels == value)
            missed = 0
            for film in of_class:
                rest = np.arange(len(labels)) != film
                band = band_of(chances[rest], labels[rest], error, error)
                # Where both limits claim a film it is called unsure, which is no error either.
                other = Band(**{**vars(band), "rule_out" if wrong == "in" else "rule_in": None})
                missed += other.verdict(chances[film]) == wrong
            assert missed <= error * len(of_class)
            if not ties:  # and no smaller share than the next whole film
                assert missed == int(error * len(of_class) + 1e-9)


def test_the_verdicts_are_those_of_crepes():
    crepes = pytest.importorskip("crepes")
    chances, labels = films(1, n=400)
    new = np.linspace(0, 1, 401)
    for error in (0.05, 0.1, 0.2):
        band = band_of(chances, labels, error, error)
        # crepes: how strange a film is as one of a class; calibrated within each class.
        strange = np.where(labels == 1, 1 - chances, chances)
        fitted = crepes.ConformalClassifier().fit(strange, bins=labels.astype(int))
        kept = np.empty((len(new), 2), bool)
        for value, scores in ((0, new), (1, 1 - new)):
            both = np.repeat(scores[:, None], 2, axis=1)
            of_class = np.full(len(new), value)
            p = fitted.predict_p(both, bins=of_class, all_classes=True, smoothing=False)[:, value]
            kept[:, value] = p > error
        expected = np.where(kept[:, 1] == kept[:, 0], "unsure", np.where(kept[:, 1], "in", "out"))
        assert [band.verdict(p) for p in new] == expected.tolist()
