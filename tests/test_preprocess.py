"""Film -> network input, against Pillow and timm's own evaluation transform."""

import numpy as np
import pytest
import torch
from PIL import Image

from cft.film.resample import resampled
from cft.film.resize import resize
from cft.model.preprocess import Preprocess

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def smooth_film(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / 40
    return (0.5 + 0.25 * np.sin(x) + 0.2 * np.cos(1.7 * y)).astype(np.float32)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(224, 224), (100, 300), (64, 50)])
def test_resizing_agrees_with_pillow(interpolation, size):
    film = smooth_film(500, 400)
    theirs = np.asarray(Image.fromarray(film).resize(size[::-1], PILLOW[interpolation]))
    tensor = resize(torch.from_numpy(film), *size, interpolation).numpy()
    assert np.abs(tensor - theirs.clip(0, 1)).max() < 1e-4
    np.testing.assert_allclose(resize(film, *size, interpolation), theirs.clip(0, 1), atol=2e-6)


@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("shape", [(400, 300), (37, 130), (64, 64), (1, 90)])
def test_a_film_as_an_array_is_what_it_is_as_a_tensor(shape, interpolation, crop_mode):
    preprocess = Preprocess((3, 64, 48), interpolation, 0.9, crop_mode, (0.4,) * 3, (1.0, 2.0, 3.0))
    film = smooth_film(*shape)
    expected = preprocess(torch.from_numpy(film))
    found = preprocess(film)
    assert found.dtype == np.float32
    assert np.abs(found - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((320, 390), (224, 224)),
        ((257, 1021), (96, 320)),
        ((40, 3000), (16, 17)),  # many films' lines under one
        ((33, 47), (224, 45)),  # larger down, smaller across
        ((100, 90), (101, 90)),
    ],
)
def test_resampling_noise_agrees_with_pillow_to_rounding(interpolation, shape, size):
    film = np.random.default_rng(0).random(shape, dtype=np.float32)
    ours = resampled(film, *size, interpolation)
    theirs = np.asarray(Image.fromarray(film).resize(size[::-1], PILLOW[interpolation]))
    assert ours.dtype == np.float32
    assert ours.shape == size
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area"])
def test_resampling_keeps_a_constant_and_takes_integers(interpolation):
    film = np.full((77, 130), 200, np.uint8)
    np.testing.assert_allclose(resampled(film, 50, 200, interpolation), 200, atol=1e-4)
    np.testing.assert_array_equal(resampled(film, 77, 130, interpolation), film)


def test_only_a_film_is_clipped():
    """Bicubic interpolation overshoots at an edge."""
    film = np.zeros((40, 40), np.float32)
    film[:, 20:] = 1
    assert resampled(film, 90, 90, "bicubic").max() > 1
    assert resize(film, 90, 90, "bicubic").max() == 1


@pytest.mark.parametrize("size", [(5, 7), (4, 6), (12, 9), (30, 5)])
def test_area_interpolation_is_the_mean_of_what_a_pixel_covers(size):
    """Each pixel is first divided so finely that the means are of whole parts."""
    film = np.random.default_rng(0).random((12, 15), dtype=np.float32)
    fine = np.kron(film, np.ones(size))
    expected = fine.reshape(size[0], 12, size[1], 15).mean((1, 3))
    found = resize(film, *size, "area")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    batch = resize(torch.from_numpy(film).expand(2, 1, 12, 15), *size, "area").numpy()
    np.testing.assert_allclose(batch[1, 0], found, atol=1e-6)


@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("shape", [(400, 300), (224, 224), (250, 517)])
def test_preprocessing_agrees_with_timms_evaluation_transform(crop_mode, crop_pct, shape):
    from timm.data import create_transform

    ours = Preprocess((3, 224, 224), "bicubic", crop_pct, crop_mode, (0.4,) * 3, (0.2, 0.3, 0.4))
    theirs = create_transform(
        (3, 224, 224),
        interpolation="bicubic",
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        mean=ours.mean,
        std=ours.std,
    )
    film = np.round(255 * smooth_film(*shape)).astype(np.uint8)
    expected = theirs(Image.fromarray(film).convert("RGB"))
    found = ours(film.astype(np.float32) / 255)
    assert found.shape == expected.shape
    # timm works in 8 bits: half a grey level from rounding the film, half from the resized one.
    assert np.abs(found - expected.numpy()).max() < 1.5 / 255 / min(ours.std)


def test_configuration_survives_a_round_trip():
    preprocess = Preprocess((1, 96, 128), "bilinear", 0.9, "border", (0.4,), (0.3,))
    assert Preprocess.from_config(preprocess.to_config()) == preprocess


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_size": None}, "input_size"),
        ({"input_size": [2, 64, 64]}, "input_size"),
        ({"input_size": [1, 10**9, 64]}, "input_size"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"std": [0.0]}, "std"),
        ({"std": [float("nan")]}, "std"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"crop_mode": "diagonal"}, "crop_mode"),
        ({"crop_pct": 7}, "crop_pct"),
        ({"crop_pct": 0.09}, "crop_pct"),
        ({"crop_pct": -0.5}, "crop_pct"),
        ({"input_size": [1, 15, 64]}, "input_size"),
        ({"input_size": [1, 64, 4097]}, "input_size"),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(change, named):
    config = {**Preprocess((1, 64, 64), mean=(0.5,), std=(0.5,)).to_config(), **change}
    with pytest.raises(ValueError, match=named):
        Preprocess.from_config(config)


@pytest.mark.parametrize("side", [16, 4096])
def test_the_smallest_and_the_largest_side_are_read(side):
    config = Preprocess((1, side, side), mean=(0.5,), std=(0.5,)).to_config()
    assert Preprocess.from_config(config).input_size == (1, side, side)


@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
def test_films_in_a_batch_are_cut_as_each_alone(crop_mode):
    preprocess = Preprocess((1, 40, 64), "bilinear", 0.9, crop_mode, (0.5,), (1.0,))
    films = torch.rand(3, 1, 90, 70, generator=torch.Generator().manual_seed(0))
    alone = [preprocess.geometry(film[0]) for film in films]
    torch.testing.assert_close(preprocess.geometry(films)[:, 0], torch.stack(alone))


def test_of_a_film_that_is_a_mere_strip_a_line_is_left():
    """64 pixels of 32 x 10,000 are a fifth of a line high."""
    preprocess = Preprocess((1, 64, 64), "bilinear", 1.0, "border", (0.0,), (1.0,))
    for shape in ((32, 10_000), (10_000, 32)):
        made = preprocess.geometry(np.ones(shape, np.float32))
        assert made.shape == (64, 64)
        assert (made > 0.99).sum() == 64


def test_the_seen_region_is_where_the_network_looks():
    """A bright square at the centre of the input came from the centre of the seen region."""
    for crop_mode in ("squash", "center", "border"):
        preprocess = Preprocess((1, 64, 64), "bilinear", 1.0, crop_mode, (0.0,), (1.0,))
        top, left, bottom, right = preprocess.seen_region(300, 200)
        film = np.zeros((300, 200), np.float32)
        cy, cx = (top + bottom) / 2, (left + right) / 2
        film[int(cy) - 10 : int(cy) + 10, int(cx) - 10 : int(cx) + 10] = 1
        seen = preprocess(film)[0]
        rows, columns = np.nonzero(seen > 0.5)
        assert rows.mean() == pytest.approx(31.5, abs=1)
        assert columns.mean() == pytest.approx(31.5, abs=1)


def test_padding_is_grey_and_nothing_is_cut_off():
    preprocess = Preprocess((1, 64, 64), "bilinear", 1.0, "border", (0.3,), (1.0,))
    seen = preprocess(np.ones((200, 100), np.float32))[0]
    np.testing.assert_allclose(seen[:, :15], 0.0, atol=1e-6)  # the mean itself
    np.testing.assert_allclose(seen[:, 17:47], 0.7, atol=1e-6)


@pytest.mark.parametrize("shape", [(1024, 1024), (2500, 3000), (64, 20_000)])
def test_no_product_of_resizing_is_shared_among_threads(shape, monkeypatch):
    """OpenBLAS keeps one of up to 2^18 multiplications in the thread that asks."""
    sizes, multiply = [], np.matmul

    def counted(a, b, out):
        sizes.append(a.size * b.shape[1])
        return multiply(a, b, out=out)

    monkeypatch.setattr("cft.film.resample.np.matmul", counted)
    resampled(np.zeros(shape, np.float32), 224, 224, "bicubic")
    assert 0 < max(sizes) <= 2**18
