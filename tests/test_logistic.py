"""Regressions on frozen features: those of scikit-learn, whatever the scale of the features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from train.frozen import design, lbfgs, logistic, span
from train.frozen import rows as rows_module
from train.frozen.logistic import Films, fit

pytestmark = pytest.mark.slow

N, D = 400, 20


def features(seed: int = 0) -> np.ndarray:
    """(N, D) float32, correlated, with spreads from 1e-4 to 1e4 and means far from zero."""
    draw = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(D, D)) / 3 + np.eye(D)
    spread = np.geomspace(1e-4, 1e4, D)
    return ((draw.normal(size=(N, D)) @ mixing + 3) * spread).astype(np.float32)


def labels(z: np.ndarray, categories: int = 3, seed: int = 1) -> np.ndarray:
    """(N, C) in {1, 0}, common and rare ones."""
    draw = np.random.default_rng(seed)
    x = (z - z.mean(0)) / z.std(0)
    logits = x @ draw.normal(size=(D, categories)) / 2 - np.linspace(0, 3, categories)
    return (draw.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def reference(
    z: np.ndarray, y: np.ndarray, strength: float, weights: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """scikit-learn's regression of one category on standardised features, folded back."""
    scaler = StandardScaler().fit(z.astype(np.float64))
    x = scaler.transform(z.astype(np.float64))
    model = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000)
    model.fit(x, y, sample_weight=weights)
    w = model.coef_[0] / scaler.scale_
    return w, float(model.intercept_[0] - w @ scaler.mean_)


def check(z, weights, bias, expected, atol=2e-3):
    """Regressions are compared by their logits, in which every feature counts by its spread."""
    w, b = expected
    np.testing.assert_allclose(
        z.astype(np.float64) @ weights + bias, z.astype(np.float64) @ w + b, atol=atol, rtol=2e-3
    )


@pytest.mark.parametrize("strength", [0.1, 10.0, 1000.0])
def test_the_fit_is_scikit_learns(strength):
    z = features()
    y = labels(z)
    films = Films([z], np.arange(N))
    weights, biases = fit(films, y, strength).folded(films)
    assert weights.shape == (1, 3, D)
    for c in range(3):
        check(z, weights[0, c], biases[0, c], reference(z, y[:, c], strength))


@pytest.mark.parametrize("strength", [1.0, 100.0])
def test_the_fit_is_scikit_learns_to_a_millionth_of_a_logit(strength, monkeypatch):
    """In float64, and brought to its end; as shipped a fit ends sooner, far below one film."""
    monkeypatch.setattr(logistic, "_TOLERANCE", 1e-16)
    z = features().astype(np.float64)
    y = labels(z)
    fold = np.arange(N) % 2
    films = Films([z], np.arange(N))
    fitted = fit(films, y, strength, fold[:, None] != np.arange(2))
    assert fitted.theta.dtype == torch.float64
    x = (z - z.mean(0)) / z.std(0)
    basis = films.basis.numpy() * z.std(0)[:, None]
    for f in range(2):
        for c in range(3):
            model = LogisticRegression(C=1 / strength, tol=1e-14, solver="newton-cholesky")
            model.fit(x[fold != f], y[fold != f, c])
            theta = fitted.theta[f, c].numpy()
            found = x @ (basis @ theta[:-1]) + theta[-1]
            np.testing.assert_allclose(found, model.decision_function(x), atol=1e-6, rtol=0)


def test_unknown_targets_and_other_films_contribute_nothing():
    z = features()
    y = labels(z)
    draw = np.random.default_rng(3)
    y[draw.random(y.shape) < 0.4] = np.nan
    counted = draw.random((N, 2)) < 0.7
    films = Films([z], np.arange(N))
    weights, biases = fit(films, y, 5.0, counted).folded(films)
    for f in range(2):
        for c in range(3):
            used = counted[:, f] & ~np.isnan(y[:, c])
            # Standardised over all films, as the fit does it.
            mean, spread = z.astype(np.float64).mean(0), z.astype(np.float64).std(0)
            model = LogisticRegression(C=1 / 5.0, tol=1e-10, max_iter=10_000)
            model.fit(((z - mean) / spread)[used], y[used, c])
            w = model.coef_[0] / spread
            check(z, weights[f, c], biases[f, c], (w, float(model.intercept_[0] - w @ mean)))


def test_a_soft_target_is_so_much_of_a_positive_and_the_rest_a_negative():
    z = features()
    hard = labels(z, 1)[:, 0]
    soft = np.where(hard == 1, 0.7, 0.1).astype(np.float32)
    films = Films([z], np.arange(N))
    weights, biases = fit(films, soft[:, None], 5.0).folded(films)
    twice = np.concatenate([z, z])
    both = np.repeat([1.0, 0.0], N)
    expected = reference(twice, both, 5.0, np.concatenate([soft, 1 - soft]))
    check(z, weights[0, 0], biases[0, 0], expected)


def test_copies_share_the_weight_of_one_film():
    z = features()
    copy = (z * (1 + 0.1 * np.random.default_rng(8).normal(size=z.shape))).astype(np.float32)
    y = labels(z, 1)
    films = Films([z, copy], np.arange(N))
    weights, biases = fit(films, y, 5.0).folded(films)
    expected = reference(np.concatenate([z, copy]), np.tile(y[:, 0], 2), 5.0, np.full(2 * N, 0.5))
    check(z, weights[0, 0], biases[0, 0], expected)


def test_a_constant_feature_has_no_weight_and_changes_nothing():
    z = features()
    y = labels(z, 1)
    films = Films([z], np.arange(N))
    plain = fit(films, y, 5.0).folded(films)
    more = np.concatenate([z, np.full((N, 1), 1e5, np.float32), np.zeros((N, 1), "f4")], axis=1)
    films = Films([more], np.arange(N))
    weights, biases = fit(films, y, 5.0).folded(films)
    assert (weights[0, 0, D:] == 0).all()
    check(z, weights[0, 0, :D], biases[0, 0], (plain[0][0, 0], plain[1][0, 0]))


def test_a_category_of_one_class_is_its_share():
    z = features()
    y = labels(z)
    y[:, 1] = 0
    y[:100, 1] = np.nan
    films = Films([z], np.arange(N))
    weights, biases = fit(films, y, 5.0).folded(films)
    assert (weights[0, 1] == 0).all()
    assert biases[0, 1] == pytest.approx(np.log(1 / 301))


def test_separable_films_end_as_well():
    z = features()
    y = (z[:, :1] > np.median(z[:, 0])).astype(np.float32)
    films = Films([z], np.arange(N))
    fitted = fit(films, y, 1e-3)
    weights, biases = fitted.folded(films)
    assert np.isfinite(weights).all()
    assert (((z @ weights[0, 0] + biases[0]) > 0) == y[:, 0]).all()


def test_a_start_elsewhere_ends_in_the_same_place_sooner():
    z = features()
    y = labels(z)
    films = Films([z], np.arange(N))
    stronger = fit(films, y, 20.0)
    cold, warm = fit(films, y, 10.0), fit(films, y, 10.0, start=stronger)
    np.testing.assert_allclose(warm.theta, cold.theta, atol=1e-3)
    assert warm.steps <= cold.steps


# --- Fewer films and copies than features -------------------------------------------------------

FEW, MANY = 60, 150


def few_films(views: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """(FEW, MANY) float64 features of films and copies, (FEW, 3) labels, and (FEW, 2) sets."""
    draw = np.random.default_rng(11)
    mixing = draw.normal(size=(MANY, MANY)) / 8 + np.eye(MANY)
    z = (draw.normal(size=(FEW, MANY)) @ mixing + 2) * np.geomspace(1e-3, 1e3, MANY)
    copies = [z * (1 + 0.1 * draw.normal(size=z.shape)) for _ in range(views - 1)]
    for array in (z, *copies):
        array[:, 7] = 4.0  # a constant
    y = (z[:, :3] / z[:, :3].std(0) + draw.normal(size=(FEW, 3)) > 2.5).astype(np.float32)
    y[draw.random(y.shape) < 0.3] = np.nan
    return [z, *copies], y, draw.random((FEW, 2)) < 0.8


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("strength", [1.0, 100.0])
def test_with_few_films_the_weights_are_scikit_learns(views, strength, monkeypatch):
    """Every weight, so that there is none outside of what the films span, whatever the set."""
    monkeypatch.setattr(logistic, "_TOLERANCE", 1e-16)
    arrays, y, counted = few_films(views)
    films = Films(arrays, np.arange(FEW))
    fitted = fit(films, y, strength, counted)
    assert fitted.theta.shape == (2, 3, views * FEW - 1 + 1)  # centred rows, and the bias
    every = np.concatenate(arrays)
    spread = every.std(0)
    spread[7] = np.inf
    x = (every - every.mean(0)) / spread
    weights = fitted.theta[..., :-1].numpy() @ (films.basis.numpy() * every.std(0)[:, None]).T
    for f in range(2):
        for c in range(3):
            used = np.tile(counted[:, f] & ~np.isnan(y[:, c]), views)
            model = LogisticRegression(C=1 / strength, tol=1e-14, solver="newton-cholesky")
            model.fit(x[used], np.tile(y[:, c], views)[used], np.full(used.sum(), 1 / views))
            np.testing.assert_allclose(weights[f, c], model.coef_[0], atol=1e-7, rtol=0)
            bias = fitted.theta[f, c, -1]
            np.testing.assert_allclose(bias, model.intercept_[0], atol=1e-7, rtol=0)


def test_few_films_in_float32_are_fitted_as_along_every_feature(monkeypatch):
    (z,), y, counted = few_films(1)
    z = z.astype(np.float32)
    spanned = Films([z], np.arange(FEW))
    weights, biases = fit(spanned, y, 5.0, counted).folded(spanned)
    assert weights.shape == (2, 3, MANY)
    assert (weights[..., 7] == 0).all()
    monkeypatch.setattr(Films, "_span", Films._curvature)
    whole = Films([z], np.arange(FEW))
    others = fit(whole, y, 5.0, counted).folded(whole)
    assert (spanned.design.directions, whole.design.directions) == (FEW - 1, MANY)
    for f in range(2):
        for c in range(3):
            check(z, weights[f, c], biases[f, c], (others[0][f, c], others[1][f, c]))


def test_few_films_are_read_in_blocks_from_their_rows(monkeypatch):
    arrays, y, counted = few_films(2)
    plain = Films(arrays, np.arange(FEW))
    whole = fit(plain, y, 5.0, counted).folded(plain)
    monkeypatch.setattr(rows_module, "BLOCK", 16)
    monkeypatch.setattr(design, "_KEPT_BYTES", 0)
    monkeypatch.setattr(span, "_COLUMNS", 13)
    rows = np.random.default_rng(4).permutation(2 * FEW)[:FEW]
    scattered = [np.full((2 * FEW, MANY), np.nan) for _ in arrays]
    for target, array in zip(scattered, arrays, strict=True):
        target[rows] = array
    films = Films(scattered, rows)
    parts = fit(films, y, 5.0, counted).folded(films)
    for f in range(2):
        for c in range(3):
            check(arrays[0], parts[0][f, c], parts[1][f, c], (whole[0][f, c], whole[1][f, c]))


def test_few_films_that_are_all_alike_have_the_bias_of_their_share():
    films = Films([np.full((6, 9), 3.0, np.float32)], np.arange(6))
    y = np.array([[1.0], [0], [0], [0], [0], [0]], np.float32)
    weights, biases = fit(films, y, 1.0).folded(films)
    assert (weights == 0).all()
    assert biases[0, 0] == pytest.approx(np.log(1 / 5), abs=1e-3)


def test_directions_of_few_films_are_their_principal_axes():
    """Against a singular value decomposition, with two films that are the same one."""
    x = np.random.default_rng(2).normal(size=(8, 30))
    x[5] = x[1]
    singular, axes = np.linalg.svd(x, full_matrices=False)[1:]
    variances, directions = span.spanned(torch.from_numpy(x.copy()), 1e-12)
    assert directions.shape == (30, 7)
    np.testing.assert_allclose(variances.flip(0), singular[:7] ** 2 / 8, rtol=1e-12)
    same = directions.T.flip(0).numpy() @ axes[:7].T
    np.testing.assert_allclose(abs(same), np.eye(7), atol=1e-12)


def test_rows_and_blocks_are_read_as_one_array(monkeypatch):
    """What does not fit into memory is read again for each step, block by block."""
    z = features()
    y = labels(z)
    films = Films([z], np.arange(N))
    whole = fit(films, y, 5.0).folded(films)
    monkeypatch.setattr(rows_module, "BLOCK", 64)
    monkeypatch.setattr(design, "_KEPT_BYTES", 0)
    monkeypatch.setattr(lbfgs, "LOGITS", 2 * N)  # two regressions at once
    scattered = np.full((2 * N, D), np.nan, np.float32)
    rows = np.random.default_rng(4).permutation(2 * N)[:N]
    scattered[rows] = z
    films = Films([scattered], rows)
    parts = fit(films, y, 5.0).folded(films)
    assert films.design._kept is None
    for c in range(3):
        check(z, parts[0][0, c], parts[1][0, c], (whole[0][0, c], whole[1][0, c]))


def test_each_film_is_scored_by_the_regressions_of_its_fold():
    z = features()
    y = labels(z)
    fold = np.arange(N) % 3
    films = Films([z, z], np.arange(N))
    fitted = fit(films, y, 5.0, fold[:, None] != np.arange(3))
    weights, biases = fitted.folded(films)
    expected = np.stack([weights[f] @ x + biases[f] for f, x in zip(fold, z, strict=True)])
    np.testing.assert_allclose(fitted.scores(films, fold), expected, atol=2e-3)


def test_the_same_call_gives_the_same_bytes():
    z = features()
    y = labels(z)
    first, second = (fit(Films([z], np.arange(N)), y, 5.0).theta.numpy() for _ in range(2))
    assert first.tobytes() == second.tobytes()
