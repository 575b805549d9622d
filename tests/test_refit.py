"""The default refit: nothing without evidence, a real gain where there is one, no leaks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from train.datasets.splits import patient_folds
from train.metrics.ranking import auroc
from train.stage2 import refit
from train.stage2.choice import Choice, Path, _cases, _most_cautious, choose
from train.stage2.refit import FOLDS, STRENGTHS, Refitter, Starts

pytestmark = pytest.mark.slow

D = 12


def films(n: int, seed: int) -> np.ndarray:
    """(n, D) float32 features of unequal spread, correlated, away from zero."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((D, D)) / 4 + np.eye(D)
    spread = np.geomspace(2, 0.1, D)
    return (generator.standard_normal((n, D)) * spread @ mixing + 1).astype(np.float32)


def labels(z: np.ndarray, weights: np.ndarray, known: float, seed: int) -> np.ndarray:
    """(n, C) float32 drawn from the weights' own probabilities; NaN where unknown."""
    generator = np.random.default_rng(seed)
    logits = z @ weights.T
    y = generator.random(logits.shape) < expit(logits - logits.mean(0))
    return np.where(generator.random(y.shape) < known, y, np.nan).astype(np.float32)


def draw_weights(c: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((c, D)).astype(np.float32)


def fit_all(z, y, z_valid, y_valid, patients, weights, biases=None, **more):
    biases = np.zeros(len(weights), np.float32) if biases is None else biases
    refitter = Refitter(z, z_valid, patients, weights, biases)
    paths = {c: refitter.path(c, y[:, c], y_valid[:, c]) for c in range(len(weights))}
    trained = z_valid @ weights.T + biases
    return paths, choose(paths, trained, y_valid, patients, **more)


def mean_auroc(z, weights, truth) -> float:
    return float(auroc((z @ weights.T).T.copy(), truth.T.copy()).mean())


# --- No evidence --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_labels_that_are_noise_leave_the_trained_regressions(seed):
    weights, z, z_valid = draw_weights(6), films(400, seed), films(200, seed + 50)
    generator = np.random.default_rng(seed)
    y, y_valid = (
        (generator.random((n, 6)) < 0.3).astype(np.float32) for n in (len(z), len(z_valid))
    )
    # The trained regressions rank these films as well as anything can: they fit the labels.
    y_valid[:] = labels(z_valid, 3 * weights, 1.0, seed)
    _, choice = fit_all(z, y, z_valid, y_valid, np.arange(200), weights)
    assert choice.index is None
    assert choice.gains[-1] < 0


def test_a_perfect_start_is_never_left_for_a_loss():
    """With the true weights as the start there is nothing to gain."""
    weights, z, z_valid, z_test = draw_weights(8), films(300, 1), films(150, 2), films(20_000, 3)
    y, y_valid, truth = (labels(a, weights, 1.0, i) for i, a in enumerate((z, z_valid, z_test)))
    paths, choice = fit_all(z, y, z_valid, y_valid, np.arange(150), weights)
    new = (
        weights
        if choice.index is None
        else np.stack([p.weights[choice.index] for p in paths.values()])
    )
    assert mean_auroc(z_test, new, truth) > mean_auroc(z_test, weights, truth) - 0.002


@pytest.mark.parametrize(
    ("gains", "errors", "expected"),
    [
        ([-0.01, -0.02, -0.03], [0.01, 0.01, 0.01], None),  # no gain at all
        ([0.001, 0.002, 0.001], [0.01, 0.01, 0.01], None),  # a gain within its error
        ([0.02, 0.03, 0.01], [0.001, 0.001, 0.001], 1),  # the best by more than an error
        ([0.0295, 0.03, 0.01], [0.001, 0.002, 0.001], 0),  # the stronger penalty is as good
    ],
)
def test_the_strongest_penalty_within_one_error_of_the_best_is_chosen(gains, errors, expected):
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((3, 5000)) * np.array(errors)[:, None]
    gains = np.array(gains)
    assert _most_cautious(gains, gains[:, None] + noise) == expected


@pytest.mark.parametrize(
    ("index", "gain", "share"), [(None, 9.0, 0), (0, -1.0, 0), (0, 1.0, 0), (0, 2.0, 0.75)]
)
def test_the_share_of_the_way_grows_with_the_evidence(index, gain, share):
    assert Choice(index, np.array([gain]), np.array([1.0])).share == share


def test_a_category_with_one_case_has_no_vote_and_goes_the_way_of_the_others():
    """A bootstrap sees no doubt in an area over one positive: it is perfect in every draw."""
    generator = np.random.default_rng(0)
    y = (generator.random((300, 2)) < 0.5).astype(np.float32)
    y[:, 1] = 0
    y[:2, 1] = 1
    trained = generator.standard_normal((300, 2)).astype(np.float32)
    worse = np.tile(trained[:, 0], (3, 1))
    better = np.tile(10 * y[:, 1] + trained[:, 1], (3, 1))
    paths = {c: Path(np.zeros((3, D)), np.zeros(3), s) for c, s in enumerate((worse, better))}
    two_patients, one_patient = np.arange(300), np.maximum(np.arange(300), 1)
    assert choose(paths, trained, y, two_patients).gains[0] > 0
    assert choose(paths, trained, y, one_patient).gains[0] == 0
    assert choose({1: paths[1]}, trained, y, one_patient).share == 0


@pytest.mark.parametrize("positives", [2, 3])
def test_the_error_is_right_however_few_cases_there_are(positives):
    """The mean of its square is the variance of the gain, over many sets of films."""
    generator = np.random.default_rng(positives)
    y = np.zeros((200, 1), np.float32)
    y[:positives] = 1
    gains, squares = [], []
    for seed in range(150):
        trained, other = generator.standard_normal((2, 200, 1)).astype(np.float32)
        path = Path(np.zeros((1, D)), np.zeros(1), other.T)
        choice = choose({0: path}, trained, y, np.arange(200), seed=seed)
        gains.append(choice.gains[0])
        squares.append(choice.errors[0] ** 2)
    assert 0.8 < np.mean(squares) / np.var(gains, ddof=1) < 1.6


# --- A gain -------------------------------------------------------------------------------------


def test_a_planted_gain_is_recovered_when_labels_are_plentiful():
    true = draw_weights(4)
    weights = true + np.random.default_rng(1).standard_normal(true.shape).astype(np.float32)
    z, z_valid, z_test = films(8000, 1), films(2000, 2), films(20_000, 3)
    y, y_valid, truth = (labels(a, true, 0.5, i) for i, a in enumerate((z, z_valid, z_test)))
    paths, choice = fit_all(z, y, z_valid, y_valid, np.arange(2000), weights)
    new = np.stack([paths[c].towards(choice, weights[c], 0.0, 0.0)[0] for c in range(4)])
    before, best = mean_auroc(z_test, weights, truth), mean_auroc(z_test, true, truth)
    assert best - before > 0.01
    assert mean_auroc(z_test, new, truth) > best - 0.1 * (best - before)


def test_the_path_is_that_of_the_stated_objective():
    """Against a general-purpose minimiser, over all parameters at once."""
    true, z, z_valid = draw_weights(1)[0], films(120, 1), films(60, 2)
    trained = true + np.random.default_rng(1).standard_normal(D).astype(np.float32)
    y, y_valid = labels(z, true[None], 0.8, 1)[:, 0], labels(z_valid, true[None], 0.8, 2)[:, 0]
    refitter = Refitter(z, z_valid, np.arange(60), trained[None], np.zeros(1))
    path = refitter.path(0, y, y_valid)
    x = np.concatenate([z, z_valid]).astype(np.float64)
    known = ~np.isnan(np.concatenate([y, y_valid]))
    x, target = x[known], np.concatenate([y, y_valid])[known]
    slope = refit._slope_and_bias(
        torch.from_numpy((x - z.mean(0)) @ trained), torch.from_numpy(target), torch.ones(len(x))
    )[0]
    variances, axes = np.linalg.eigh(np.cov(z.T.astype(np.float64), bias=True))
    metric = axes * np.sqrt(variances) @ axes.T  # S^(1/2)
    metric *= np.trace(np.linalg.inv(metric) @ np.cov(z.T, bias=True)) / D
    for s in (2, 5, 8, 9):

        def objective(p, strength=STRENGTHS[s]):
            change, bias = p[:D], p[D]
            logits = x @ (slope * trained + change) + bias
            loss = np.logaddexp(0, logits).sum() - target @ logits
            return loss + strength / 2 * change @ metric @ change

        found = minimize(objective, np.zeros(D + 1), options={"gtol": 1e-6}).x
        expected = trained + found[:D] / slope
        logits = (x @ expected, x @ path.weights[s])
        np.testing.assert_allclose(
            logits[1] - logits[1].mean(), logits[0] - logits[0].mean(), atol=0.05
        )


def newton(x: np.ndarray, y: np.ndarray, offset: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """(D + 1,) the minimum for one category by Newton's method with its whole Hessian, float64."""
    x = np.column_stack([x, np.ones(len(x))])
    theta = np.zeros(x.shape[1])
    for _ in range(60):
        p = expit(x @ theta + offset)
        gradient = x.T @ (p - y) + penalty @ theta
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + penalty, gradient)
        theta -= step
    assert abs(step).max() < 1e-10
    return theta


def test_the_minimum_is_newtons_to_a_millionth_of_a_logit(monkeypatch):
    """In float64, and brought to its end; as shipped a fit ends sooner, far below one film."""
    monkeypatch.setattr(refit, "_TOLERANCE", 1e-16)
    z, z_valid = (films(n, seed).astype(np.float64) for n, seed in ((150, 1), (70, 2)))
    true = draw_weights(2).astype(np.float64)
    weights = true + np.random.default_rng(1).standard_normal(true.shape)
    y, y_valid = labels(z, true, 0.8, 1), labels(z_valid, true, 0.8, 2)
    patients = np.arange(70)
    refitter = Refitter(z, z_valid, patients, weights, np.zeros(2))
    paths = refitter.paths([0, 1], y, y_valid)
    x, mean = np.concatenate([z, z_valid]), z.mean(0)
    variances, axes = np.linalg.eigh(np.cov(z.T, bias=True))
    metric = axes * np.sqrt(variances) @ axes.T  # S^(1/2)
    metric *= np.trace(np.linalg.inv(metric) @ np.cov(z.T, bias=True)) / D
    folds = np.concatenate([np.full(150, -2), patient_folds(patients, FOLDS, 0)])
    for c, path in enumerate(paths):
        labels_of = np.concatenate([y[:, c], y_valid[:, c]])
        trained = (x - mean) @ weights[c]
        for fold in (-1, 0, 3):
            used = ~np.isnan(labels_of) & (folds != fold)
            slope, _ = refit._slope_and_bias(
                *(torch.from_numpy(part) for part in (trained, labels_of, used))
            )
            for s in (1, 5, 9):
                penalty = np.zeros((D + 1, D + 1))
                penalty[:D, :D] = STRENGTHS[s] * metric
                found = newton((x - mean)[used], labels_of[used], slope * trained[used], penalty)
                expected = x @ weights[c] + (x - mean) @ found[:D] / slope
                if fold < 0:
                    logits = x @ path.weights[s] + path.biases[s]
                else:
                    judged = folds[150:] == fold
                    logits, expected = path.scores[s][judged], expected[150:][judged]
                np.testing.assert_allclose(logits, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("folded", [False, True], ids=["trained", "without each fold"])
def test_with_fewer_films_than_features_the_path_is_that_of_their_covariance(folded, monkeypatch):
    """The trained regressions reach beyond what the films span, and stay what they are there."""
    monkeypatch.setattr(refit, "_TOLERANCE", 1e-16)
    draw = np.random.default_rng(7)
    mixing = draw.standard_normal((90, 90)) / 9 + np.eye(90)
    z, z_valid, z_test = (draw.standard_normal((n, 90)) @ mixing + 1 for n in (50, 40, 30))
    weights = draw.standard_normal((2, 90)) / 5
    wanted = weights + draw.standard_normal((2, 90)) / 5
    y, y_valid = labels(z, wanted, 0.8, 1), labels(z_valid, wanted, 0.9, 2)
    starts = None
    if folded:
        others = draw.standard_normal((FOLDS, 2, 90)) / 5
        starts = Starts(np.arange(90) % FOLDS, others, np.zeros((FOLDS, 2)))
    given = z, z_valid, np.arange(40), weights, np.zeros(2)
    paths = Refitter(*given, starts=starts).paths([0, 1], y, y_valid)
    sizes = []

    def by_covariance(x, least):
        assert least == refit._FLAT
        found = refit._principal(x.T @ x / len(x))
        sizes.append(found[1].shape)
        return found

    monkeypatch.setattr(refit, "spanned", by_covariance)
    expected = Refitter(*given, starts=starts).paths([0, 1], y, y_valid)
    assert sizes == [(90, 49)]
    outside = np.linalg.svd(z - z.mean(0))[2][49:]  # directions in which no training film varies
    for c in range(2):
        for name in ("weights", "biases", "scores"):
            found, wanted_ = (getattr(path[c], name) for path in (paths, expected))
            np.testing.assert_allclose(found, wanted_, atol=1e-6, rtol=0)
        assert abs(paths[c].weights[-1] - weights[c]).max() > 0.01
        kept = paths[c].weights @ outside.T - weights[c] @ outside.T
        np.testing.assert_allclose(kept, 0, atol=1e-12)
        assert abs(z_test @ (paths[c].weights[-1] - weights[c])).max() > 0.1


def test_the_directions_of_a_search_are_those_of_the_covariance_with_few_films_too():
    z = torch.from_numpy(films(8, 3))
    z = z - z.mean(0)
    before = z.clone()
    basis = refit.basis_of(z)
    assert torch.equal(z, before)
    assert basis.shape == (D, 7)
    variances, axes = np.linalg.eigh(np.cov(z.T.numpy().astype(np.float64), bias=True))
    metric = axes[:, -7:] / np.sqrt(variances[-7:]) @ axes[:, -7:].T  # S^(-1/2), but for its scale
    metric *= 7 / np.sqrt(variances[-7:]).sum()
    np.testing.assert_allclose((basis @ basis.T).numpy(), metric, atol=1e-5, rtol=1e-5)


def test_categories_side_by_side_are_fitted_as_each_by_itself():
    true, z, z_valid = draw_weights(3), films(300, 1), films(100, 2)
    weights = true + 0.5 * draw_weights(3, seed=8)
    y, y_valid = labels(z, true, 0.9, 1), labels(z_valid, true, 1.0, 2)
    refitter = Refitter(z, z_valid, np.arange(100), weights, np.zeros(3))
    for c, path in enumerate(refitter.paths([0, 1, 2], y, y_valid)):
        alone = refitter.path(c, y[:, c], y_valid[:, c])
        for s in range(len(STRENGTHS)):
            np.testing.assert_allclose(z @ path.weights[s], z @ alone.weights[s], atol=0.02)
        np.testing.assert_allclose(path.scores, alone.scores, atol=0.02)


@pytest.mark.parametrize(
    ("known", "groups"),
    [
        ([[1, 1, 1], [1, 1, 1]], [[0, 1, 2]]),  # the same films
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 1], [2]]),  # together a half, then a third
        ([[1, 0], [1, 0], [1, 1]], [[0, 1]]),
        ([[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]], [[0, 1], [2]]),
    ],
)
def test_categories_that_know_much_the_same_films_are_fitted_together(known, groups):
    assert refit.groups_of(np.where(np.array(known) == 1, 0.0, np.nan)) == groups


def test_no_more_categories_are_fitted_together_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(refit, "LOGITS", 2 * (1 + FOLDS) * 10)
    assert refit.groups_of(np.zeros((10, 5))) == [[0, 1], [2, 3], [4]]


def test_the_strongest_penalty_hardly_moves():
    weights, z, z_valid = draw_weights(1), films(200, 1), films(100, 2)
    y, y_valid = labels(z, -weights, 1.0, 1), labels(z_valid, -weights, 1.0, 2)
    paths, _ = fit_all(z, y, z_valid, y_valid, np.arange(100), weights)
    scores = z @ weights[0], z @ paths[0].weights[0]
    assert np.corrcoef(*scores)[0, 1] > 0.99


# --- No leaks -----------------------------------------------------------------------------------


def test_a_validation_film_is_scored_without_its_patients_labels():
    weights, z, z_valid = draw_weights(1), films(100, 1), films(60, 2)
    patients = np.repeat(np.arange(20), 3)
    y, y_valid = labels(z, weights, 1.0, 1), labels(z_valid, weights, 1.0, 2)
    turned = y_valid.copy()
    turned[patients == 7] = 1 - turned[patients == 7]
    scores = [
        fit_all(z, y, z_valid, given, patients, weights)[0][0].scores for given in (y_valid, turned)
    ]
    moved = np.abs(scores[0] - scores[1]).max(0)
    # What is left is how exactly a fit is brought to its end.
    assert moved[patients == 7].max() < 0.02
    assert moved.max() > 0.2


def test_unknown_labels_do_not_matter():
    weights, z, z_valid = draw_weights(1), films(200, 1), films(60, 2)
    y, y_valid = labels(z, weights, 0.5, 1), labels(z_valid, weights, 1.0, 2)
    paths, _ = fit_all(z, y, z_valid, y_valid, np.arange(60), weights)
    known = ~np.isnan(y[:, 0])
    # The same distances, which come from all films, known or not.
    refitter = Refitter(z, z_valid, np.arange(60), weights, np.zeros(1))
    changed = np.where(known, y[:, 0], np.nan)
    again = refitter.path(0, changed, y_valid[:, 0])
    np.testing.assert_array_equal(paths[0].weights, again.weights)


def test_the_order_of_the_categories_does_not_matter():
    true, z, z_valid = draw_weights(4), films(300, 1), films(100, 2)
    weights = true + 0.5 * draw_weights(4, seed=8)
    y, y_valid = labels(z, true, 0.6, 1), labels(z_valid, true, 1.0, 2)
    paths, choice = fit_all(z, y, z_valid, y_valid, np.arange(100), weights)
    order = [2, 0, 3, 1]
    turned, again = fit_all(
        *(z, y[:, order], z_valid, y_valid[:, order], np.arange(100), weights[order])
    )
    assert again.index == choice.index
    np.testing.assert_allclose(again.gains, choice.gains, atol=1e-12)
    for new, old in enumerate(order):
        np.testing.assert_array_equal(turned[new].weights, paths[old].weights)


# --- What comes out -----------------------------------------------------------------------------


def test_the_weights_and_biases_give_scores_on_the_trained_scale():
    """A film of strongest penalty scores all but its trained logit, bias and mean included."""
    weights, biases = draw_weights(1), np.array([-2.5], np.float32)
    z, z_valid = films(300, 1), films(100, 2)
    y, y_valid = labels(z, weights, 1.0, 1), labels(z_valid, weights, 1.0, 2)
    paths, _ = fit_all(z, y, z_valid, y_valid, np.arange(100), weights, biases)
    trained = z_valid @ weights[0] + biases[0]
    refitted = z_valid @ paths[0].weights[0] + paths[0].biases[0]
    np.testing.assert_allclose(refitted, trained, atol=0.3)
    np.testing.assert_allclose(paths[0].scores[0], trained, atol=0.3)


def test_with_too_few_cases_the_trained_logits_are_taken_as_they_are():
    y, films = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]), torch.ones(7)
    assert refit._slope_and_bias(torch.arange(7.0), y, films) == (1.0, 0.0)


def test_patients_choose_alike_by_name_and_by_number():
    draw = np.random.default_rng(4)
    y = (draw.random((80, 2)) < 0.4).astype(np.float32)
    trained, scores = draw.standard_normal((2, 80, 2)).astype(np.float32)
    paths = {c: Path(np.zeros((1, 1)), np.zeros(1), scores[None, :, c]) for c in range(2)}
    numbers = np.arange(80) // 3
    names = np.array([f"patient {number:03}" for number in numbers])
    first, second = (choose(paths, trained, y, who) for who in (numbers, names))
    np.testing.assert_array_equal(first.gains, second.gains)
    np.testing.assert_array_equal(first.errors, second.errors)
    assert first.errors > 0


def test_cases_are_patients_of_the_rarer_class_with_a_known_label():
    y = np.array([[1, 1], [1, 0], [0, np.nan], [np.nan, np.nan], [np.nan, 0], [1, 0]])
    assert _cases(y, np.array(list("aabcdd"))).tolist() == [1, 1]
    assert _cases(y, np.array(list("abcdef"))).tolist() == [1, 1]
    assert _cases(1 - y, np.array(list("abcdef"))).tolist() == [1, 1]


def test_average_precision_can_decide():
    true, z, z_valid = draw_weights(3), films(2000, 1), films(400, 2)
    weights = true + draw_weights(3, seed=8)
    y, y_valid = labels(z, true, 0.6, 1), labels(z_valid, true, 1.0, 2)
    _, choice = fit_all(z, y, z_valid, y_valid, np.arange(400), weights, metric="ap")
    assert choice.index is not None
    assert choice.gains[choice.index] > 0


def test_a_category_of_three_positives_is_fitted_without_an_error():
    weights, z, z_valid = draw_weights(1), films(200, 1), films(60, 2)
    y, y_valid = np.zeros((200, 1), np.float32), np.zeros((60, 1), np.float32)
    y[:2] = 1
    y_valid[0] = 1
    paths, choice = fit_all(z, y, z_valid, y_valid, np.arange(60), weights)
    assert isinstance(paths[0], Path)
    assert np.isfinite(paths[0].scores).all()
    assert np.isfinite(choice.gains).all()
