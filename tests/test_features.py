"""Features of a frozen backbone: the model's own, kept once, never those of something else."""

from __future__ import annotations

import errno
import hashlib

import numpy as np
import pytest
import timm
import torch

from cft import files
from cft.errors import ModelFolderError
from cft.model.classifier import Classifier
from cft.model.folder import read_model_folder, write_model_folder
from tests.conftest import random_model_config
from train.datasets.pixels import Pixels
from train.frozen import features
from train.frozen.features import FrozenNetwork, features_of


@pytest.fixture(scope="module")
def classifier(model_folder) -> Classifier:
    return Classifier(read_model_folder(model_folder), "cpu")


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    generator = np.random.default_rng(0)
    return Pixels(generator.integers(0, 256, (10, 64, 64), dtype=np.uint8), {})


def compute(classifier, pixels, cache, **more):
    return features_of(classifier, pixels, cache, batch_size=4, progress=False, **more)


@pytest.fixture
def no_computing(monkeypatch):
    def refuse(*_):
        raise AssertionError("the features were computed again")

    monkeypatch.setattr(features, "_features", refuse)


# --- What is refused ----------------------------------------------------------------------------


def test_a_network_without_a_linear_end_is_refused(classifier, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier.network, "get_classifier", torch.nn.Identity)
    with pytest.raises(ModelFolderError, match="does not end in one linear layer"):
        compute(classifier, pixels, tmp_path)


def test_logits_that_are_not_those_of_the_last_layer_are_refused(
    classifier, pixels, tmp_path, monkeypatch
):
    whole = classifier.network.forward_head

    def twice(maps, pre_logits=False):
        return whole(maps, pre_logits) * (1 if pre_logits else 2)

    monkeypatch.setattr(classifier.network, "forward_head", twice)
    with pytest.raises(ModelFolderError, match="not those of its last layer"):
        compute(classifier, pixels, tmp_path)


def test_a_full_disk_is_an_error_before_anything_is_computed(
    classifier, pixels, tmp_path, monkeypatch, no_computing
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        compute(classifier, pixels, tmp_path)
    assert not list(tmp_path.glob("*/features.f32"))


def test_a_disk_that_is_full_half_way_keeps_nothing_of_the_features(
    classifier, pixels, tmp_path, monkeypatch, no_computing
):
    sizes = []

    def full(handle, start, size):
        sizes.append(size)
        if len(sizes) == 2:  # the features have their place, the marks do not
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        compute(classifier, pixels, tmp_path)
    assert len(sizes) == 2
    assert not list(tmp_path.glob("*/*.*[28]"))


# --- What they are ------------------------------------------------------------------------------


def test_the_features_give_the_classifiers_own_logits(classifier, pixels, tmp_path):
    found = compute(classifier, pixels, tmp_path)
    films = torch.from_numpy(pixels.array).float() / 255
    expected = torch.from_numpy(
        classifier.logits(np.stack([classifier.preprocess(film) for film in films]))
    )
    assert found.z.dtype == np.float32
    logits = found.z @ found.weights.T + found.biases
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5, rtol=1e-5)


def test_the_features_are_the_same_in_batches_of_any_size(classifier, pixels, tmp_path):
    found = compute(classifier, pixels, tmp_path / "four").z
    whole = features_of(classifier, pixels, tmp_path / "ten", batch_size=10, progress=False).z
    np.testing.assert_allclose(found, whole, atol=1e-5, rtol=1e-5)


def test_only_the_films_that_are_asked_for_are_computed(classifier, pixels, tmp_path, monkeypatch):
    whole = np.array(compute(classifier, pixels, tmp_path / "whole").z)
    seen = []
    compute_one = features._features
    monkeypatch.setattr(
        features, "_features", lambda c, films: seen.append(len(films)) or compute_one(c, films)
    )
    found = compute(classifier, pixels, tmp_path, rows=np.array([7, 2, 7])).z
    assert seen == [2]
    np.testing.assert_allclose(found[[2, 7]], whole[[2, 7]], atol=1e-5, rtol=1e-5)
    compute(classifier, pixels, tmp_path, rows=np.arange(2, 8))
    assert seen == [2, 4]  # those that were missing


class Darker:
    """A change: each film by a share of its own."""

    def __init__(self, shares: np.ndarray):
        self.shares, self.name = torch.from_numpy(shares), f"darker {shares.tolist()}"

    def __call__(self, films, rows):
        return films * self.shares[torch.from_numpy(rows)][:, None, None, None]


def test_changed_films_have_features_of_their_own(classifier, pixels, tmp_path):
    plain = np.array(compute(classifier, pixels, tmp_path).z)
    shares = np.linspace(0.5, 1, 10, dtype=np.float32)
    found = compute(classifier, pixels, tmp_path, rows=np.array([3, 9]), change=Darker(shares)).z
    films = torch.from_numpy(pixels.array).float() / 255
    films = classifier.preprocess.normalize(films[3:4, None] * shares[3])
    with torch.inference_mode():
        maps = classifier.network.forward_features(films)
        expected = classifier.network.forward_head(maps, pre_logits=True)
    np.testing.assert_allclose(found[3], expected[0].numpy(), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found[9], plain[9], atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(compute(classifier, pixels, tmp_path).z, plain)
    other = compute(classifier, pixels, tmp_path, change=Darker(shares / 2)).z
    assert not np.allclose(other[3], found[3])


# --- What is kept -------------------------------------------------------------------------------


def test_other_logistic_regressions_find_the_features(classifier, pixels, tmp_path, request):
    """Stage 1 fits them to a network that stage 2 knows as a folder; both have the same."""
    first = compute(classifier, pixels, tmp_path)
    network = timm.create_model("resnet10t", num_classes=5, in_chans=1, drop_rate=0.3)
    own = {k: v for k, v in classifier.network.state_dict().items() if not k.startswith("fc.")}
    network.load_state_dict(own, strict=False)
    request.getfixturevalue("no_computing")
    frozen = FrozenNetwork(network.eval(), classifier.preprocess, classifier.device)
    found = compute(frozen, pixels, tmp_path)
    assert found.key == first.key
    assert found.weights.shape == (5, 512)


@pytest.mark.parametrize("changed", [{"output_stride": 16}, {"act_layer": "gelu"}])
def test_the_same_tensors_in_another_network_have_features_of_their_own(
    classifier, pixels, tmp_path, changed
):
    first = compute(classifier, pixels, tmp_path)
    network = timm.create_model("resnet10t", num_classes=3, in_chans=1, **changed)
    network.load_state_dict(classifier.network.state_dict())
    frozen = FrozenNetwork(network.eval(), classifier.preprocess, classifier.device)
    found = compute(frozen, pixels, tmp_path)
    assert found.key != first.key
    assert not np.allclose(found.z, first.z)


def test_the_hash_of_a_pack_is_noted_in_it(tmp_path):
    films = np.zeros((3, 4, 4), np.uint8)
    pack = Pixels(films, {}, tmp_path)
    assert pack.sha256 == hashlib.sha256(bytes(48)).hexdigest()
    assert Pixels(films + 1, {}, tmp_path).sha256 == pack.sha256  # it is not read again
    assert Pixels(films + 1, {}).sha256 == hashlib.sha256(bytes([1] * 48)).hexdigest()


def test_features_are_computed_once(classifier, pixels, tmp_path, request):
    first = np.array(compute(classifier, pixels, tmp_path).z)
    request.getfixturevalue("no_computing")
    again = compute(classifier, Pixels(pixels.array.copy(), {}), tmp_path).z
    assert isinstance(again, np.memmap)
    np.testing.assert_array_equal(again, first)


def test_features_are_not_used_for_other_films(classifier, pixels, tmp_path):
    compute(classifier, pixels, tmp_path)
    changed = pixels.array.copy()
    changed[7, 30, 30] ^= 128
    found = compute(classifier, Pixels(changed, {}), tmp_path)
    np.testing.assert_array_equal(
        found.z, compute(classifier, Pixels(changed, {}), tmp_path / "anew").z
    )


def test_features_are_not_used_for_another_model(classifier, pixels, tmp_path):
    network = timm.create_model("resnet10t", num_classes=3, in_chans=1).eval()
    folder = write_model_folder(
        tmp_path / "other",
        state_dict=network.state_dict(),
        config=random_model_config(),
        card="other weights",
    )
    before = compute(classifier, pixels, tmp_path / "cache").z
    other = Classifier(read_model_folder(folder), "cpu")
    after = compute(other, pixels, tmp_path / "cache").z
    assert not np.allclose(before, after)


def test_an_array_of_the_wrong_size_is_computed_again(classifier, pixels, tmp_path):
    whole = np.array(compute(classifier, pixels, tmp_path).z)
    (array,) = tmp_path.glob("*/features.f32")
    array.write_bytes(array.read_bytes()[:-4])
    np.testing.assert_array_equal(compute(classifier, pixels, tmp_path).z, whole)


def test_no_index_vouches_for_an_array_that_is_begun_anew(
    classifier, pixels, tmp_path, monkeypatch
):
    """The array was lost, and the program ends before the first block of the new one."""
    whole = np.array(compute(classifier, pixels, tmp_path).z)
    (array,) = tmp_path.glob("*/features.f32")
    array.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(features, "atomic_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compute(classifier, pixels, tmp_path)
    np.testing.assert_array_equal(compute(classifier, pixels, tmp_path).z, whole)


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_an_unreadable_index_is_the_same_as_none(classifier, pixels, tmp_path, content):
    whole = np.array(compute(classifier, pixels, tmp_path).z)
    (index,) = tmp_path.glob("*/index.json")
    index.write_text(content)
    np.testing.assert_array_equal(compute(classifier, pixels, tmp_path).z, whole)


def test_an_interrupted_computation_goes_on_where_it_was(classifier, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_BLOCK", 4)
    compute_one = features._features
    seen = []

    def interrupted(classifier, films):
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(len(films))
        return compute_one(classifier, films)

    monkeypatch.setattr(features, "_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compute(classifier, pixels, tmp_path)
    (marks,) = tmp_path.glob("*/done.u8")
    assert list(marks.read_bytes()) == [1] * 4 + [0] * 6
    later = []
    monkeypatch.setattr(
        features, "_features", lambda c, films: later.append(len(films)) or compute_one(c, films)
    )
    found = compute(classifier, pixels, tmp_path).z
    assert later == [4, 2]
    monkeypatch.setattr(features, "_features", compute_one)
    np.testing.assert_array_equal(found, compute(classifier, pixels, tmp_path / "anew").z)
