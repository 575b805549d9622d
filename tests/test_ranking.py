"""AUROC and average precision against scikit-learn, one vector at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import average_precision_score, roc_auc_score

from train.metrics import ranking
from train.metrics.ranking import auroc, average_precision

METRICS = {
    "auroc": (auroc, roc_auc_score, ranking._auroc_by_running_sums),
    "ap": (average_precision, average_precision_score, ranking._ap_by_running_sums),
}

CASES = {
    "continuous": lambda g, n: g.standard_normal(n),
    "heavily tied": lambda g, n: g.integers(0, 4, n).astype(float),
    "constant": lambda g, n: np.full(n, 0.5),
    "tiny differences": lambda g, n: 1 + g.integers(0, 50, n) * 2.0**-52,
    "huge": lambda g, n: g.standard_normal(n) * 1e300,
    "subnormal": lambda g, n: g.integers(0, 50, n) * 5e-324,
    "signed zeros": lambda g, n: g.choice([0.0, -0.0, 1.0], n),
}


def expected(reference, labels, scores):
    known = ~np.isnan(labels)
    labels, scores = labels[known], scores[known]
    if not len(labels) or len(np.unique(labels)) < 2:
        return np.nan
    return reference(labels, scores)


@pytest.fixture(params=METRICS)
def metric(request):
    return METRICS[request.param]


@pytest.mark.parametrize("bad", [2, -1, 0.5, float("inf")])
def test_a_label_other_than_one_zero_or_nan_is_refused(metric, bad):
    scores, labels = torch.rand(4), torch.tensor([0.0, 1.0, bad, 1.0])
    with pytest.raises(ValueError, match=r"labels are 1, 0 or NaN"):
        metric[0](scores, labels)


def test_a_nan_score_is_refused_even_where_the_label_is_unknown(metric):
    scores = torch.tensor([0.1, float("nan"), 0.3])
    with pytest.raises(ValueError, match="NaN"):
        metric[0](scores, torch.tensor([0.0, float("nan"), 1.0]))


@pytest.mark.parametrize(
    ("scores", "labels", "sentence"),
    [
        ([0.1, 0.2, 0.3], [0, 2, 1], r"a label is 2\.0; labels are 1, 0 or NaN"),
        ([0.1, float("nan"), 0.3], [0, float("nan"), 1], "scores hold NaN"),
    ],
)
def test_other_devices_refuse_what_the_cpu_refuses(metric, scores, labels, sentence):
    """The part of other devices, here on the CPU."""
    rows = torch.tensor([scores]), torch.tensor([labels], dtype=torch.float64)
    with pytest.raises(ValueError, match=sentence):
        ranking._on_device(*rows, torch.zeros(1, dtype=torch.long), metric[2])


@pytest.mark.parametrize("shape", [(3,), (2, 4), (5, 3, 4)])
def test_labels_that_do_not_broadcast_are_refused(metric, shape):
    with pytest.raises(ValueError, match="do not fit"):
        metric[0](torch.rand(3, 4), torch.zeros(shape))


def test_a_vector_without_a_dimension_is_refused(metric):
    with pytest.raises(ValueError, match="last dimension"):
        metric[0](torch.tensor(1.0), torch.tensor(1.0))


def test_complex_scores_are_refused(metric):
    with pytest.raises(ValueError, match="real"):
        metric[0](torch.zeros(3, dtype=torch.complex64), torch.zeros(3))


def test_the_auroc_is_nan_without_both_classes():
    scores = torch.rand(4, 5)
    labels = torch.tensor([[1.0] * 5, [0.0] * 5, [torch.nan] * 5, [1, 0, 1, 0, torch.nan]])
    assert auroc(scores, labels).isnan().tolist() == [True, True, True, False]


def test_the_average_precision_is_nan_only_without_a_positive():
    scores = torch.rand(3, 5)
    labels = torch.tensor([[1.0] * 5, [0.0] * 5, [torch.nan] * 5])
    result = average_precision(scores, labels)
    assert result[0] == 1.0  # as scikit-learn
    assert result[1:].isnan().all()


def test_no_films_give_nan(metric):
    assert metric[0](torch.zeros(2, 0), torch.zeros(2, 0)).isnan().all()


def test_an_empty_batch_gives_an_empty_result(metric):
    assert metric[0](torch.zeros(0, 5), torch.zeros(5)).shape == (0,)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_both_metrics_equal_scikit_learn(metric, case, share):
    generator = np.random.default_rng(len(case))
    for n in (2, 3, 17, 400):
        scores = CASES[case](generator, n)
        labels = (generator.random(n) < share).astype(float)
        labels[:2] = [0, 1]
        np.testing.assert_allclose(
            metric[0](scores, labels), metric[1](labels, scores), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("case", CASES)
def test_running_sums_equal_scikit_learn(metric, case):
    """The kernel of other devices, here on the CPU."""
    generator = np.random.default_rng(5)
    scores = np.stack([CASES[case](generator, 60) for _ in range(5)])
    labels = generator.choice([0, 1, np.nan], (5, 60))
    result = metric[2](torch.from_numpy(scores), torch.from_numpy(labels))
    reference = [expected(metric[1], y, s) for s, y in zip(scores, labels, strict=True)]
    np.testing.assert_allclose(result, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows_at_once", [1, 2, 5])
def test_other_devices_take_the_rows_in_parts(metric, rows_at_once, monkeypatch):
    """Five rows of scores, whose labels are those of two categories."""
    monkeypatch.setattr(ranking, "_CHUNK", 60 * rows_at_once)
    generator = np.random.default_rng(6)
    scores, owner = generator.standard_normal((5, 60)), np.array([0, 1, 1, 0, 1])
    labels = generator.choice([0, 1, np.nan], (2, 60))
    result = ranking._on_device(*map(torch.from_numpy, (scores, labels, owner)), metric[2])
    reference = [expected(metric[1], labels[o], s) for o, s in zip(owner, scores, strict=True)]
    np.testing.assert_allclose(result, reference, rtol=0, atol=1e-12)


def test_running_sums_are_nan_where_undefined(metric):
    labels = torch.tensor([[0.0, 0.0], [torch.nan, torch.nan]])
    assert metric[2](torch.rand(2, 2), labels).isnan().all()


def test_infinities_are_ordered(metric):
    scores = np.array([-np.inf, -1e308, 0.0, 1e308, np.inf, np.inf])
    finite = np.array([-2, -1, 0, 1, 2, 2])
    labels = np.array([0, 1, 0, 0, 1, 0])
    np.testing.assert_allclose(metric[0](scores, labels), metric[1](labels, finite), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int16])
def test_every_real_dtype_is_ranked_by_its_own_values(metric, dtype):
    scores = (torch.randn(300, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    labels = (torch.arange(300) % 3 == 0).float()
    reference = metric[1](labels.numpy(), scores.double().numpy())
    np.testing.assert_allclose(metric[0](scores, labels), reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float32, torch.float64]
)
def test_labels_may_have_any_dtype(metric, dtype):
    labels = (torch.arange(50) % 4 == 0).to(dtype)
    scores = torch.rand(50, generator=torch.Generator().manual_seed(1))
    reference = metric[1](labels.double().numpy(), scores.numpy())
    np.testing.assert_allclose(metric[0](scores, labels), reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "label_shape", [(4, 5, 80), (4, 1, 80), (1, 5, 80), (5, 80), (1, 80), (80,)]
)
def test_labels_broadcast_over_any_batch(metric, label_shape):
    generator = np.random.default_rng(2)
    scores = generator.standard_normal((4, 5, 80)).round(1)
    labels = generator.choice([0, 1, np.nan], label_shape)
    result = metric[0](scores, labels)
    assert result.shape == (4, 5)
    assert result.dtype == torch.float64
    everywhere = np.broadcast_to(labels, scores.shape)
    for index in np.ndindex(4, 5):
        reference = expected(metric[1], everywhere[index], scores[index])
        np.testing.assert_allclose(result[index], reference, rtol=0, atol=1e-12)


def test_a_batch_large_enough_for_threads_equals_scikit_learn(metric):
    generator = np.random.default_rng(3)
    scores = generator.standard_normal((6, 30_000)).astype(np.float32)
    labels = generator.choice([0, 1, np.nan], (6, 30_000), p=[0.6, 0.1, 0.3])
    reference = [expected(metric[1], y, s) for s, y in zip(scores, labels, strict=True)]
    np.testing.assert_allclose(metric[0](scores, labels), reference, rtol=0, atol=1e-12)


def test_an_error_in_a_thread_reaches_the_caller(metric):
    labels = torch.zeros(6, 30_000)
    labels[4, 7] = 3
    with pytest.raises(ValueError, match="a label is 3"):
        metric[0](torch.rand(6, 30_000), labels)


def test_the_count_of_pairs_may_exceed_32_bits():
    labels = np.zeros(200_000)
    labels[100_000:] = 1  # 10^10 pairs
    assert auroc(np.arange(200_000), labels) == 1.0
    assert auroc(-np.arange(200_000), labels) == 0.0


def test_the_inputs_are_left_as_they_were(metric):
    scores, labels = torch.rand(3, 50), torch.ones(3, 50)
    before = scores.clone()
    metric[0](scores, labels)
    assert torch.equal(scores, before)


def test_reversed_and_read_only_scores_are_ranked(metric):
    scores = np.random.default_rng(4).random((60, 3))
    scores.flags.writeable = False
    labels = np.arange(60) % 2
    result = metric[0](scores[::-1].T, labels)
    reference = [metric[1](labels, column) for column in scores[::-1].T]
    np.testing.assert_allclose(result, reference, rtol=0, atol=1e-12)


def test_unknown_labels_change_nothing(metric):
    scores, labels = np.random.default_rng(6).random(40), np.arange(40) % 2
    padded = np.concatenate([scores, [-1e9, 1e9]])
    with_unknown = np.concatenate([labels, [np.nan, np.nan]])
    assert metric[0](padded, with_unknown) == metric[0](scores, labels)


def test_scikit_learn_is_asked_only_where_it_is_defined():
    with pytest.warns(UndefinedMetricWarning):  # why `expected` has its own rule for one class
        roc_auc_score([1, 1], [0.1, 0.2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_numbers(metric, monkeypatch):
    monkeypatch.setattr(ranking, "_CHUNK", 1000)  # several chunks
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(7, 3, 333, generator=generator).mul(4).round()
    labels = torch.randint(0, 2, (3, 333), generator=generator).float()
    labels[:, ::5] = torch.nan
    on_gpu = metric[0](scores.cuda(), labels.cuda())
    torch.testing.assert_close(on_gpu.cpu(), metric[0](scores, labels), rtol=0, atol=1e-12)
