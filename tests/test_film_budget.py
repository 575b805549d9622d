"""How much memory reading takes: films are decoded in parts, and large ones one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cft
from benchmarks.film_memory import resident
from cft.errors import RadiographError
from cft.film import budget
from cft.film.budget import Budget
from cft.film.read import read_radiograph
from cft.model.ensemble import write_ensemble
from cft.model.preprocess import Preprocess
from tests import films
from tests.conftest import ROOT
from tests.films import every_film


def test_threads_hold_no_more_than_the_budget_and_a_larger_film_is_alone():
    shared, held, most, alone = Budget(100), [0], [0], []
    lock = threading.Lock()

    def decode(pixels):
        with shared.of(pixels):
            with lock:
                held[0] += pixels
                most[0] = max(most[0], held[0])
                if pixels > 100:
                    alone.append(held[0] == pixels)
            threading.Event().wait(0.001)
            with lock:
                held[0] -= pixels

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [30, 60, 500, 20, 100, 1, 99, 500] * 5))
    assert most[0] == 500
    assert all(alone)
    assert held == [0]


def test_who_asks_first_is_served_first():
    shared, order = Budget(10), []

    def decode(name, pixels):
        with shared.of(pixels):
            order.append(name)

    with shared.of(6):
        threads = []
        for name, pixels in (("large", 10), ("small", 1)):
            threads.append(threading.Thread(target=decode, args=(name, pixels), daemon=True))
            threads[-1].start()
            while len(shared._waiting) < len(threads):
                threading.Event().wait(0.001)
        assert order == []  # there is room for the small film, but it is not its turn
    for thread in threads:
        thread.join(10)
    assert order == ["large", "small"]


def test_a_film_that_cannot_be_decoded_gives_its_share_back():
    shared = Budget(10)
    with pytest.raises(ValueError, match="no film"), shared.of(10):
        raise ValueError("no film")
    with shared.of(10):
        pass


def test_a_film_is_counted_until_its_work_is_done():
    shared = Budget(10)
    with shared.kept():
        with shared.of(6):
            pass
        assert shared._left == 4
        with shared.of(10):  # the next film: the first one's pixels are free again
            pass
        assert shared._left == 0
    assert shared._left == 10
    with shared.of(6):
        pass
    assert shared._left == 10


def test_a_film_that_cannot_be_decoded_is_counted_no_longer_than_its_block():
    shared = Budget(10)
    with pytest.raises(ValueError, match="no film"), shared.kept(), shared.of(10):
        raise ValueError("no film")
    assert shared._left == 10


@pytest.mark.parametrize("kind", ["one model", "ensemble"])
@pytest.mark.parametrize("form", [str, Image.open, lambda path: np.asarray(Image.open(path))])
def test_callers_in_many_threads_hold_one_large_film_at_a_time(
    form, kind, model_folder, tmp_path, monkeypatch
):
    """From the decoder to the network's input: the film at its full size lives as long."""
    path = tmp_path / "film.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)).save(path)
    monkeypatch.setattr(budget.DECODING, "_all", 100_000)
    budget.DECODING.reset()
    model = cft.load(model_folder, engine="torch")
    if kind == "ensemble":
        members = [("a", model_folder, 1.0), ("b", model_folder, 1.0)]
        config = {key: model.config[key] for key in ("label_names", "pretrained_cfg")}
        config |= {"architecture": "ensemble", "cft": {}}
        write_ensemble(tmp_path / "e", members, average="logits", config=config, card="# e\n")
        model = cft.load(tmp_path / "e", engine="torch")
    lock, met, held, most = threading.Lock(), threading.Event(), [0], [0]
    prepare = Preprocess.geometry

    def watched(self, pixels):
        with lock:
            held[0] += np.asarray(pixels).size
            most[0] = max(most[0], held[0])
            if held[0] > 100_000:
                met.set()
        met.wait(0.02)  # others come in, if they may
        result = prepare(self, pixels)
        with lock:
            held[0] -= np.asarray(pixels).size
        return result

    monkeypatch.setattr(Preprocess, "geometry", watched)
    try:
        with ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(model.predict, [form(path) for _ in range(4)]) for _ in "abc"]
            answers = [call.result(60) for call in calls]
    finally:
        monkeypatch.undo()
        budget.DECODING.reset()
    assert most[0] == 90_000
    assert {round(f.scores["Effusion"], 4) for films in answers for f in films} == {
        round(model.predict(form(path)).scores["Effusion"], 4)
    }


@pytest.mark.parametrize("name", ["PNG", "DICOM"])
def test_the_reader_asks_for_the_pixels_of_a_film(name, monkeypatch):
    asked = []
    film = next(film for key, film in every_film().items() if key.startswith(name))

    class Recorder(Budget):
        def of(self, pixels):
            asked.append(pixels)
            return super().of(pixels)

    for module in ("picture", "dicom"):
        monkeypatch.setattr(f"cft.film.{module}.DECODING", Recorder(10**9))
    size = read_radiograph(film.data).pixels.size
    assert asked == [size]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("name", "side"), [("PNG, RGBA, 16 bits", 4000), ("WebP, lossless, transparent", 5656)]
)
def test_the_largest_film_takes_less_than_a_gigabyte(name, side):
    """In a process of its own, whose memory is then its own."""
    command = [sys.executable, "-m", "benchmarks.film_memory", name]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.strip().endswith(f"({side}, {side})"), said
    assert float(said.split(" MB")[1]) < 1000, said


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_damaged_film_leaves_nothing_in_memory(channels):
    """libpng's way out of an error, as imagecodecs takes it, kept the picture for ever."""
    noise = np.random.default_rng(0).integers(0, 2**16, (1000, 1000, channels), dtype=np.uint16)
    whole = films.png(noise.squeeze(), 16)
    data = whole[: len(whole) // 2]

    def refuse():
        with pytest.raises(RadiographError, match="the PNG file is"):
            read_radiograph(data)

    refuse()
    before = resident("VmRSS")
    for _ in range(20):
        refuse()
    assert resident("VmRSS") - before < 10 * noise.nbytes / 2 / 1e6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_the_whole_budget():
    with budget.DECODING.of(1):
        child = os.fork()
        if not child:
            os._exit(0 if budget.DECODING._left == budget.DECODING._all else 1)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_while_a_film_is_held_ends_with_the_whole_budget():
    with budget.one_film():
        with budget.DECODING.of(1):
            pass
        child = os.fork()
    if not child:
        whole = all(b._left == b._all for b in (budget.DECODING, budget._FILMS))
        os._exit(0 if whole else 1)
    assert os.waitpid(child, 0)[1] == 0
