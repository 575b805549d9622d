"""Many films at once, and a table that is taken up again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

import cft
from cft.__main__ import main
from cft.commands.films import parse_arguments
from cft.model import gate, parallel
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def same_threads():
    """The number of torch's threads is as it was before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(films, tmp_path) -> Path:
    """Seven films, one of which cannot be read."""
    place = tmp_path / "films"
    place.mkdir()
    for number, film in enumerate([*films, films[0]]):
        shutil.copy(film, place / f"{number}.png")
    (place / "3b.png").write_bytes(b"no film")
    return place


@pytest.fixture
def run(tiny_model_folder, folder, capsys):
    """Run `cft` on the folder; gives its status and what it said on stderr."""

    def run(*words, model=tiny_model_folder, films=folder):
        status = main([str(films), "--model", str(model), "--device", "cpu", *map(str, words)])
        return status, capsys.readouterr().err

    return run


def rows(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# --- Names --------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
@pytest.mark.parametrize("way", ["text", "--plain", "--json", "--study", "--csv"])
def test_a_film_whose_name_is_no_text_is_answered_in_every_way(
    tiny_model_folder, films, tmp_path, way
):
    """As of an archive that was packed in another encoding; the bytes are written as such."""
    place, table = tmp_path / "films", tmp_path / "table.csv"
    place.mkdir()
    shutil.copy(films[0], os.fsencode(place) + b"/\xff_pa.png")
    Path(os.fsdecode(os.fsencode(place) + b"/\xfe.png")).write_bytes(b"no film")
    words = {"text": [], "--study": ["--study", "auto", "--json"], "--csv": ["--csv", str(table)]}
    command = [sys.executable, "-m", "cft", str(place), "--model", str(tiny_model_folder)]
    done = subprocess.run(
        [*command, "--device", "cpu", *words.get(way, [way])],
        cwd=ROOT, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )  # fmt: skip
    assert done.returncode == 1
    assert rb"/\xfe.png: the file is" in done.stderr
    assert b"Traceback" not in done.stderr
    if way == "--csv":
        assert [row[0] for row in rows(table)[1:]] == [
            rf"{place}/\xfe.png",
            rf"{place}/\xff_pa.png",
        ]
        return
    said = done.stdout.decode()
    assert ("\\\\xff_pa.png" if "--json" in words.get(way, [way]) else r"\xff_pa.png") in said


# --- Several batches at once --------------------------------------------------------------------


@pytest.mark.parametrize("words", ["--jobs 0", "--jobs -1", "--resume", "--resume --csv -"])
def test_impossible_options_are_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_arguments(["film.png", *words.split()])
    assert exit_.value.code == 2
    assert words.split()[0] in capsys.readouterr().err


def test_jobs_below_one_are_refused(tiny_model_folder, films):
    model = cft.load(tiny_model_folder, "cpu")
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        list(parallel.stream(model, films, jobs=0))


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_several_jobs_give_the_same_numbers_in_the_same_order(run, tmp_path, engine):
    for jobs in (1, 3):
        words = ["--batch-size", 1, "--jobs", jobs, "--engine", engine]
        assert run("--csv", tmp_path / f"{jobs}.csv", *words)[0] == 1  # one cannot be read
    one, three = rows(tmp_path / "1.csv"), rows(tmp_path / "3.csv")
    assert [row[0] for row in one] == [row[0] for row in three]
    assert len(one) == 8
    for row, other in zip(one[1:], three[1:], strict=True):
        assert row[4:] == other[4:]
        if row[1]:
            assert [*map(float, row[1:4])] == pytest.approx([*map(float, other[1:4])], abs=1e-5)


def test_batches_are_worked_on_at_the_same_time_and_no_more_are_read_than_needed():
    """A model whose batches wait for each other: one at a time would wait for ever."""
    taken = []
    together = threading.Barrier(2, timeout=30)

    class Waiting:
        def stream(self, films, batch_size):
            assert len(films) == batch_size
            together.wait()
            yield from films

    def endless():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = parallel.stream(Waiting(), endless(), batch_size=2, jobs=2)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    assert len(taken) <= 2 * (2 + 2)
    together.abort()  # nobody waits for the batches that are begun
    results.close()


def test_an_error_of_the_program_is_not_hidden_by_a_thread():
    class Faulty:
        def stream(self, films, batch_size):
            raise ZeroDivisionError
            yield

    with pytest.raises(ZeroDivisionError):
        list(parallel.stream(Faulty(), range(10), batch_size=1, jobs=2))


def test_a_batch_alone_takes_all_processors_and_several_share_them(monkeypatch):
    monkeypatch.setattr(parallel, "processors", lambda: 4)
    torch.set_num_threads(3)
    assert parallel.share_processors(None, 1) == 1
    assert torch.get_num_threads() == 3
    assert parallel.share_processors(None, 2) == 2
    assert torch.get_num_threads() == 2
    assert parallel.share_processors(8, 20) == 8
    assert torch.get_num_threads() == 1


# --- Going on with a table ----------------------------------------------------------------------


def test_a_table_that_is_begun_anew_is_the_one_without_resume(run, tmp_path):
    assert run("--csv", tmp_path / "whole.csv") == run("--csv", tmp_path / "whole.csv")
    status, said = run("--csv", tmp_path / "rows.csv", "--resume")
    assert status == 1
    assert said.splitlines()[-1] == f"7 films: {tmp_path / 'rows.csv'}"
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("cut", [0, 5, 70, 150, 300, 430, -1])
def test_a_killed_run_is_taken_up_wherever_it_was_killed(run, tmp_path, cut, monkeypatch):
    run("--csv", tmp_path / "whole.csv")
    whole = (tmp_path / "whole.csv").read_bytes()
    (tmp_path / "part.csv").write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n") - 1  # without the header
    read = []
    prepare = cft.Classifier._read
    monkeypatch.setattr(
        cft.Classifier, "_read", lambda self, film: read.append(film) or prepare(self, film)
    )
    assert run("--csv", tmp_path / "part.csv", "--resume")[0] == 1
    assert (tmp_path / "part.csv").read_bytes() == whole
    checked = 1 if kept > 0 else 0
    assert len(read) == 7 - max(0, kept) + checked


def test_a_finished_table_stays_and_still_says_that_a_film_failed(run, tmp_path):
    run("--csv", tmp_path / "t.csv", "--resume")
    before = (tmp_path / "t.csv").read_bytes()
    status, said = run("--csv", tmp_path / "t.csv", "--resume")
    assert (status, said) == (1, f"7 films: {tmp_path / 't.csv'}\n")
    assert (tmp_path / "t.csv").read_bytes() == before


def test_a_film_whose_name_looks_like_a_formula_is_not_read_twice(
    run, films, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(films[0], "=1+1.png")
    for _ in range(2):
        assert run("--csv", "t.csv", "--resume", films=Path("=1+1.png"))[0] == 0
    assert [row[0] for row in rows(Path("t.csv"))] == ["file", "'=1+1.png"]


def test_the_table_of_another_model_is_refused(run, model_folder, tmp_path):
    run("--csv", tmp_path / "t.csv")
    before = (tmp_path / "t.csv").read_bytes()
    status, said = run("--csv", tmp_path / "t.csv", "--resume", model=model_folder)
    assert status == 2
    assert said.startswith(f"cft: {tmp_path / 't.csv'} is the table of another model: it says ")
    assert (tmp_path / "t.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"file,Edema\n", "its columns differ"),
        (b"a film\nand another\n", "its columns differ"),
        (b"\x89PNG\r\n\x1a\n\0", "is no table of cft"),
        (b"{header}1.png,0.5,0.5\nx,y\n", "a row has too few or many cells"),
        (b"{header}{film},high,0.5,0.5,,,,,,,,,,,\n", "Cardiomegaly is no number"),
    ],
)
def test_another_file_is_refused_and_stays(run, folder, tmp_path, content, reason):
    run("--csv", tmp_path / "right.csv")
    header = (tmp_path / "right.csv").read_bytes().splitlines(keepends=True)[0]
    content = content.replace(b"{header}", header)
    content = content.replace(b"{film}", str(folder / "0.png").encode())
    (tmp_path / "t.csv").write_bytes(content)
    status, said = run("--csv", tmp_path / "t.csv", "--resume")
    assert status == 2
    assert reason in said
    assert said.count("\n") == 1
    assert (tmp_path / "t.csv").read_bytes() == content


def test_films_that_the_gate_refused_are_done_and_the_status_says_so(
    run, films, tmp_path, monkeypatch
):
    monkeypatch.delenv("CFT_GATE")
    monkeypatch.setattr(gate, "BUNDLED", tmp_path / "none")  # the plain picture decides
    gate.bundled_gatekeeper.cache_clear()
    place, read = tmp_path / "some", []
    place.mkdir()
    shutil.copy(films[0], place / "a.png")
    Image.new("L", (64, 64)).save(place / "b.png")  # a blank picture
    table = tmp_path / "t.csv"
    assert run("--csv", table, "--resume", films=place)[0] == 1
    _, film, blank = rows(table)
    at = rows(table)[0].index("gate")
    assert (film[at], blank[at].split(":")[0]) == ("pass", "refuse")
    assert blank[1:4] == ["", "", ""]
    before = table.read_bytes()
    prepare = cft.Classifier._read
    monkeypatch.setattr(
        cft.Classifier, "_read", lambda self, film: read.append(film) or prepare(self, film)
    )
    assert run("--csv", table, "--resume", films=place)[0] == 1  # not answered, as before
    assert [Path(film).name for film in read] == ["a.png"]  # read again to compare
    assert table.read_bytes() == before
    shutil.copy(films[1], place / "c.png")
    assert run("--csv", table, "--resume", films=place)[0] == 1
    assert [row[at].split(":")[0] for row in rows(table)[1:]] == ["pass", "refuse", "pass"]
    gate.bundled_gatekeeper.cache_clear()


def test_rows_at_other_operating_points_are_not_added(run, tmp_path, tiny_model_folder):
    """Columns such as `above` would mean two things."""
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for category in config["cft"]["categories"].values():
        point = category["operating_point"]
        category["operating_points"] = {"specific": point, "sensitive": point}
    (folder / "config.json").write_text(json.dumps(config))
    table = tmp_path / "t.csv"
    assert run("--csv", table, "--point", "specific", model=folder)[0] == 1
    before = table.read_bytes()
    status, said = run("--csv", table, "--point", "sensitive", "--resume", model=folder)
    assert (status, table.read_bytes()) == (2, before)
    assert "has the operating points specific, not sensitive" in said
    assert run("--csv", table, "--point", "specific", "--resume", model=folder)[0] == 1
    assert table.read_bytes() == before
