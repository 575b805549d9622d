"""Packing films: the pixels of inference, resumed after a kill, never those of other films."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cft import files
from cft.film.read import read_radiograph
from cft.model.preprocess import Preprocess
from tests.conftest import ROOT
from train.datasets import pixels
from train.datasets.pixels import Pixels, pack, resized

PREPROCESS = Preprocess((1, 48, 48), "bilinear", mean=(0.5,), std=(0.25,))
CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Ten films of different shapes, one of 16 bits."""
    generator = np.random.default_rng(0)
    paths = []
    for number in range(10):
        shape = (40 + 7 * number, 90 - 5 * number)
        film = generator.integers(0, 256, shape, dtype=np.uint8)
        path = tmp_path / f"{number}.png"
        deep = film.astype(np.uint16) * 257
        Image.fromarray(deep if number == 3 else film).save(path)
        paths.append(path)
    return paths


def expected(images: list[Path]) -> np.ndarray:
    films = [PREPROCESS.geometry(read_radiograph(image).pixels) for image in images]
    return np.stack([(film * 255).round().astype(np.uint8) for film in films])


def test_a_pack_holds_the_pixels_of_inference_rounded_to_bytes(images, tmp_path):
    packed = pack(images, PREPROCESS, tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(packed.array, expected(images))
    assert packed.unreadable == {}


@pytest.mark.slow
def test_several_processes_pack_the_same(images, tmp_path, monkeypatch):
    started, pool = [], pixels.ProcessPoolExecutor
    monkeypatch.setattr(pixels, "_STARTING", 0)
    monkeypatch.setattr(pixels, "_THREADS", 1)
    monkeypatch.setattr(pixels, "_TASK", 3)
    monkeypatch.setattr(
        pixels, "ProcessPoolExecutor", lambda n, *more: started.append(n) or pool(n, *more)
    )
    packed = pack(images, PREPROCESS, tmp_path / "cache", workers=2, progress=False)
    np.testing.assert_array_equal(packed.array, expected(images))
    assert started == [2]


@pytest.mark.parametrize(("workers", "starting"), [(2, 0), (8, 1e6)])
def test_two_cores_and_films_that_are_packed_at_once_need_no_process(
    images, tmp_path, monkeypatch, workers, starting
):
    monkeypatch.setattr(pixels, "ProcessPoolExecutor", None)
    monkeypatch.setattr(pixels, "_TASK", 1)
    monkeypatch.setattr(pixels, "_STARTING", starting)
    packed = pack(images, PREPROCESS, tmp_path / "cache", workers, progress=False)
    np.testing.assert_array_equal(packed.array, expected(images))


def test_a_pack_is_made_once(images, tmp_path, monkeypatch):
    first = pack(images, PREPROCESS, tmp_path / "cache", progress=False)
    monkeypatch.setattr(pixels, "read_radiograph", None)  # decoding again would fail
    again = pack(images, PREPROCESS, tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(again.array, first.array)


def test_packs_of_older_versions_lie_in_the_cache_itself_and_are_found(
    images, tmp_path, monkeypatch
):
    first = pack(images, PREPROCESS, tmp_path / "cache", progress=False)
    older = first.folder.rename(tmp_path / "cache" / first.folder.name)
    assert first.folder.parent == tmp_path / "cache" / "pixels"
    monkeypatch.setattr(pixels, "read_radiograph", None)  # decoding again would fail
    again = pack(images, PREPROCESS, tmp_path / "cache", progress=False)
    assert again.folder == older
    np.testing.assert_array_equal(again.array, expected(images))


def test_packing_goes_on_where_it_was_stopped(images, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "_TASK", 3)
    read = []

    def stop_at_the_fifth(path):
        read.append(path)
        if len(read) == 5:
            raise KeyboardInterrupt
        return read_radiograph(path)

    monkeypatch.setattr(pixels, "read_radiograph", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        pack(images, PREPROCESS, tmp_path / "cache", workers=1, progress=False)
    packed = pack(images, PREPROCESS, tmp_path / "cache", workers=1, progress=False)
    np.testing.assert_array_equal(packed.array, expected(images))
    assert read[5:] == images[3:]  # the first task was whole


def test_what_another_thread_has_begun_is_not_lost_when_packing_is_stopped(
    images, tmp_path, monkeypatch
):
    """Nor marked: what the array holds of it is packed again."""
    monkeypatch.setattr(pixels, "_TASK", 2)
    stopping = threading.Event()

    def stop_at_the_fifth(path):
        if path == images[4]:
            stopping.set()
            raise KeyboardInterrupt
        if path in images[2:4]:  # of the task beside it
            assert stopping.wait(10)
        return read_radiograph(path)

    monkeypatch.setattr(pixels, "read_radiograph", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        pack(images, PREPROCESS, tmp_path / "cache", workers=2, progress=False)
    monkeypatch.setattr(pixels, "read_radiograph", read_radiograph)
    packed = pack(images, PREPROCESS, tmp_path / "cache", workers=2, progress=False)
    np.testing.assert_array_equal(packed.array, expected(images))


def test_a_film_that_cannot_be_read_is_named_and_the_others_are_packed(images, tmp_path):
    images[4].write_bytes(b"no image")
    images[6].unlink()
    for _ in range(2):  # packed, then opened
        packed = pack(images, PREPROCESS, tmp_path / "cache", progress=False)
        assert set(packed.unreadable) == {4, 6}
        assert all(isinstance(reason, str) for reason in packed.unreadable.values())
    good = [0, 1, 2, 3, 5, 7, 8, 9]
    np.testing.assert_array_equal(packed.array[good], expected([images[i] for i in good]))


def test_films_of_which_none_can_be_read_are_refused(images, tmp_path):
    for image in images:
        image.write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 10 films can be read; the first: "):
        pack(images, PREPROCESS, tmp_path / "cache", progress=False)


def test_no_films_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no films to pack"):
        pack([], PREPROCESS, tmp_path / "cache")


def test_a_disk_without_room_is_said_before_a_film_is_read_and_nothing_is_left(
    images, tmp_path, monkeypatch
):
    free = files.LEFT_FREE + 10 * 48 * 48 - 1
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(pixels, "read_radiograph", None)  # never reached
    with pytest.raises(OSError, match=r"are needed and 0\.25 GiB are left for others, but"):
        pack(images, PREPROCESS, tmp_path / "cache", progress=False)
    assert not list((tmp_path / "cache").rglob("*.*8"))


def test_a_disk_that_is_full_half_way_keeps_nothing_of_the_pack(images, tmp_path, monkeypatch):
    sizes = []

    def full(handle, start, size):
        sizes.append(size)
        if len(sizes) == 2:  # the pixels have their place, the marks do not
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        pack(images, PREPROCESS, tmp_path / "cache", progress=False)
    assert sizes == [10 * 48 * 48, 10]
    assert not list((tmp_path / "cache").rglob("*.*8"))


@pytest.mark.parametrize(
    "damage",
    [
        ("index.json", b""),
        ("index.json", b"{"),
        ("index.json", b"[" * 100_000),
        ("index.json", b"[]"),
        ("index.json", b"{}"),
        ("index.json", b'{"unreadable": {"99": "no film"}}'),
        ("pixels.u8", b"short"),
        ("done.u8", b""),
    ],
)
def test_a_damaged_pack_is_packed_again(images, tmp_path, damage):
    folder = pack(images, PREPROCESS, tmp_path / "cache", progress=False).folder
    name, content = damage
    (folder / name).write_bytes(content)
    packed = pack(images, PREPROCESS, tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(packed.array, expected(images))


def test_two_processes_pack_the_same_films_one_after_the_other(images, tmp_path):
    """Without a lock the second could begin the files anew that the first is filling."""
    code = (
        "import sys; from pathlib import Path; from train.locks import locked\n"
        "folder = Path(sys.argv[1])\n"
        "with locked(folder):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    folder = pack(images, PREPROCESS, tmp_path / "cache", progress=False).folder
    words = [sys.executable, "-c", code, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=ROOT, **pipes) as other, ThreadPoolExecutor(1) as thread:
        assert other.stdout.readline() == "held\n"
        mine = thread.submit(pack, images, PREPROCESS, tmp_path / "cache", progress=False)
        with pytest.raises(TimeoutError):
            mine.result(timeout=0.5)
        other.communicate("")
        np.testing.assert_array_equal(mine.result(timeout=60).array, expected(images))


@pytest.mark.parametrize("change", ["order", "content", "size"])
def test_another_set_of_films_gets_another_pack(images, tmp_path, change):
    pack(images, PREPROCESS, tmp_path / "cache", progress=False)
    preprocess = PREPROCESS
    if change == "order":
        images = images[::-1]
    elif change == "content":
        Image.fromarray(np.zeros((60, 60), np.uint8)).save(images[0])
        os.utime(images[0], ns=(0, 0))
    else:
        preprocess = Preprocess((1, 40, 48), "bilinear", mean=(0.5,), std=(0.25,))
    packed = pack(images, preprocess, tmp_path / "cache", progress=False)
    assert len(list((tmp_path / "cache" / "pixels").iterdir())) == 2
    assert packed.array.shape[1:] == preprocess.input_size[1:]


def test_normalisation_does_not_decide_the_pack(images, tmp_path):
    """Mean and spread act after packing, so models that differ in them share the films."""
    pack(images, PREPROCESS, tmp_path / "cache", progress=False)
    other = Preprocess((3, 48, 48), "bilinear", mean=(0.4,) * 3, std=(0.2,) * 3)
    pack(images, other, tmp_path / "cache", progress=False)
    assert len(list((tmp_path / "cache" / "pixels").iterdir())) == 1


def test_the_index_says_what_the_pack_is(images, tmp_path):
    folder = pack(images, PREPROCESS, tmp_path / "cache", progress=False).folder
    index = json.loads((folder / "index.json").read_text())
    assert (index["films"], index["input_size"]) == (10, [48, 48])
    assert (folder / "pixels.u8").stat().st_size == 10 * 48 * 48


def test_films_in_memory_are_resized_as_files_are():
    films = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    for film, small in zip(films, resized(films, PREPROCESS).array, strict=True):
        want = PREPROCESS.geometry(film.astype(np.float32) / 255) * 255
        np.testing.assert_array_equal(small, want.round().astype(np.uint8))
    same = resized(films, Preprocess((1, 64, 64), mean=(0.5,), std=(0.25,)))
    assert same.array is films


def test_batches_come_in_the_order_that_was_asked_for():
    films = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    rows = [np.array([3, 1]), np.array([19]), np.array([0, 0, 7])]
    loader = Pixels(films, {}).loader(CPU)
    for index, batch in zip(rows, loader.batches(iter(rows)), strict=True):
        np.testing.assert_array_equal(batch.numpy(), films[index][:, None])


@pytest.mark.parametrize("where", ["device", "host"])
def test_a_gpu_gets_the_same_batches(where):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    films = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    rows = [np.array([3, 1]), np.array([19]), np.array([0, 0, 7])]
    loader = Pixels(films, {}).loader(torch.device("cuda"), where)
    for index, batch in zip(rows, loader.batches(iter(rows)), strict=True):
        np.testing.assert_array_equal(batch.cpu().numpy(), films[index][:, None])
