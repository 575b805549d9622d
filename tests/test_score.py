"""``cft score``: an archive as Parquet parts, on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cft
from cft.__main__ import main
from cft.commands import score
from cft.film.find import find_films
from tests.conftest import ROOT
from tests.films import dataset, dicom, phantom

pa = pytest.importorskip("pyarrow", reason="the extra `score` is not installed")

import pyarrow.parquet as pq  # noqa: E402

from cft.archive import plan as plans  # noqa: E402
from cft.archive.errors import ArchiveError  # noqa: E402
from cft.archive.rows import schema  # noqa: E402
from cft.archive.sources import Film, films_of  # noqa: E402


@pytest.fixture(autouse=True)
def same_threads():
    """The number of torch's threads is as it was before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def archive(films, tmp_path) -> Path:
    """Six films, one of them DICOM and one that cannot be read."""
    place = tmp_path / "films"
    (place / "deep").mkdir(parents=True)
    for number, film in enumerate(films[:4]):
        shutil.copy(film, place / f"{number}.png")
    (place / "deep" / "film").write_bytes(dicom(dataset(phantom())))
    (place / "2b.png").write_bytes(b"no film")
    return place


@pytest.fixture
def run(tiny_model_folder, archive, tmp_path, capsys):
    """Run `cft score`; gives its status and what it said on stderr."""

    def run(*words, sources=(archive,), out=tmp_path / "out", model=tiny_model_folder):
        words = [*sources, "--out", out, "--model", model, "--device", "cpu", *words]
        status = main(["score", *map(str, words)])
        return status, capsys.readouterr().err

    return run


def rows(folder: Path) -> list[dict]:
    """All rows, as any reader of Parquet folders finds them."""
    return pq.read_table(folder).to_pylist()


# --- Wrong usage --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    ["a.png", "--out o", "a.png --out o --jobs 0", "a.png --out o --part-size 0",
     "a.png --out o --batch-size 0", "a.png --out o --on spark"],
)  # fmt: skip
def test_impossible_options_are_wrong_usage(words):
    with pytest.raises(SystemExit) as exit_:
        score.parse_arguments(words.split())
    assert exit_.value.code == 2


def test_without_its_packages_it_says_how_to_install_them(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, said = run()
    assert (status, said) == (
        2,
        'cft score: pyarrow is not installed: pip install "cft[score]"\n',
    )


@pytest.mark.parametrize(
    ("name", "content", "words", "reason"),
    [
        ("none", None, [], "there is no file or folder"),
        ("l.csv", b"", [], "which column has the paths? it has none"),
        ("l.csv", b"a,b\nx,y\n", [], "which column has the paths? it has a, b; name one with"),
        ("l.csv", b"a,b\nx,y\n", ["--column", "c"], "has no column 'c'; it has a, b"),
        ("l.csv", b"file,b\nx\n", [], "l.csv, line 2: 1 cells, but 2 columns"),
        ("l.csv", b"file,b\n,y\n", [], "l.csv, line 2: the cell with the path is empty"),
        ("l.csv", b"file\n\xff\xfe\n", [], "is no CSV file in UTF-8"),
        ("l.csv", b"file\n", [], "there are no films in the sources"),
        ("l.parquet", b"PAR1 no more", [], "is no Parquet list of paths"),
    ],
)
def test_a_source_that_is_none_is_refused_before_any_work(
    run, tmp_path, name, content, words, reason
):
    source = tmp_path / name
    if content is not None:
        source.write_bytes(content)
    status, said = run(*words, sources=(source,))
    assert status == 2
    assert reason in said
    assert said.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


def test_a_folder_of_other_parquet_files_is_not_written_to(run, tmp_path):
    (tmp_path / "out").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "out" / "data.parquet")
    status, said = run()
    assert status == 2
    assert "holds Parquet files that are not of cft score" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data.parquet"]


def test_a_folder_that_cannot_be_written_is_said(run, tmp_path):
    (tmp_path / "file").write_text("")
    status, said = run(out=tmp_path / "file")
    assert status == 1
    assert said == f"cft score: cannot write {tmp_path / 'file'} (File exists)\n"


def test_a_label_with_the_name_of_another_column_is_refused():
    with pytest.raises(ArchiveError, match="label 'gate', which is a column"):
        schema(["Edema", "gate"])


# --- Rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_each_film_has_one_row_with_the_numbers_of_the_film_alone(
    run, archive, tmp_path, tiny_model_folder, engine
):
    status, said = run("--part-size", 4, "--batch-size", 2, "--jobs", 2, "--engine", engine)
    assert status == 1  # one cannot be read
    assert said == f"6 films in 2 parts, 1 without numbers: {tmp_path / 'out'}\n"
    found = rows(tmp_path / "out")
    assert [row["file"] for row in found] == [str(path) for path in find_films([archive])]
    model = cft.load(tiny_model_folder, "cpu", engine)
    for row in found:
        assert row["weights_sha256"] == model.weights_sha256
        if row["file"].endswith("2b.png"):
            assert "is not a picture that can be read" in row["error"]
            assert {row[name] for name in (*model.label_names, "gate", "positives")} == {None}
            continue
        alone = model.predict(row["file"])
        assert row["error"] is None
        assert row["gate"] == "pass"
        assert row["positives"] == alone.positives
        numbers = [row[label] for label in model.label_names]
        assert numbers == pytest.approx([*alone.probabilities.values()], abs=1e-6)


def test_films_that_the_gate_refuses_have_their_reason_and_no_numbers(
    run, tmp_path, monkeypatch, films
):
    from PIL import Image

    from cft.model import gate

    monkeypatch.delenv("CFT_GATE")
    monkeypatch.setattr(gate, "BUNDLED", tmp_path / "none")  # the plain picture decides
    gate.bundled_gatekeeper.cache_clear()
    blank = tmp_path / "blank.png"
    Image.new("L", (64, 64)).save(blank)
    assert run(sources=(blank, films[0]), out=tmp_path / "a")[0] == 1
    refused, passed = rows(tmp_path / "a")
    assert refused["gate"] == "refuse: The picture is blank."
    assert (refused["Effusion"], refused["positives"], refused["error"]) == (None, None, None)
    assert (passed["gate"], passed["Effusion"] is None) == ("pass", False)
    assert run("--gate", "warn", sources=(blank, films[0]), out=tmp_path / "b")[0] == 0
    shown = rows(tmp_path / "b")[0]
    assert (shown["gate"], shown["Effusion"] is None) == (refused["gate"], False)
    gate.bundled_gatekeeper.cache_clear()


# --- Lists --------------------------------------------------------------------------------------


def test_lists_name_films_from_their_own_folder_and_keep_the_names(run, archive, tmp_path):
    names = ["0.png", "deep/film", str(archive / "1.png")]
    text = "id,Path\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names))
    (archive / "list.csv").write_text(text)
    pq.write_table(pa.table({"Path": names, "id": [1, 2, 3]}), archive / "list.parquet")
    for kind in ("csv", "parquet"):
        assert run(sources=(archive / f"list.{kind}",), out=tmp_path / kind)[0] == 0
    by_csv, by_parquet = rows(tmp_path / "csv"), rows(tmp_path / "parquet")
    assert by_csv == by_parquet
    assert [row["file"] for row in by_csv] == names


def test_a_column_can_be_named(tmp_path):
    (tmp_path / "l.csv").write_text("file,other\na.png,b.png\n")
    assert [film.name for film in films_of([tmp_path / "l.csv"], "other")] == ["b.png"]


def test_no_name_in_a_list_leads_to_writing_elsewhere(run, archive, tmp_path):
    names = ["../../escaped", "/part-00000.parquet", "..", "0.png\0", "a\tb\u202e.png", "0.png"]
    pq.write_table(pa.table({"file": names}), archive / "list.parquet")
    before = sorted(tmp_path.rglob("*"))
    status, _ = run(sources=(archive / "list.parquet",))
    assert status == 1
    found = rows(tmp_path / "out")
    assert [row["file"] for row in found] == names
    assert [row["error"] is None for row in found] == [False] * 5 + [True]
    new = {path.relative_to(tmp_path).parts for path in tmp_path.rglob("*")} - {
        path.relative_to(tmp_path).parts for path in before
    }
    assert new == {("out",), *(("out", n) for n in ("_run.json", "_films.parquet",
                                                    "part-00000.parquet"))}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text")
def test_a_file_name_that_is_no_text_has_a_row(run, films, tmp_path):
    place = tmp_path / "odd"
    place.mkdir()
    shutil.copy(films[0], os.fsencode(place) + b"/\xff.png")
    assert run(sources=(place,))[0] == 0
    assert rows(tmp_path / "out")[0]["file"] == f"{place}/\\xff.png"


# --- Going on -----------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The films that are read from now on."""
    read: list[str] = []
    prepare = cft.Classifier._read
    monkeypatch.setattr(
        cft.Classifier,
        "_read",
        lambda self, film: read.append(Path(film).name) or prepare(self, film),
    )
    return read


def test_a_finished_folder_stays_and_still_says_that_a_film_failed(run, tmp_path, read):
    first = run("--part-size", 4)
    before = contents(tmp_path / "out")
    del read[:]
    assert run("--part-size", 4) == first
    assert read == []
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("damage", ["missing", "cut", "of another run"])
def test_only_parts_that_are_not_whole_are_written_again(run, tmp_path, read, damage):
    run("--part-size", 2)
    before = contents(tmp_path / "out")
    assert len(before) == 5
    part = tmp_path / "out" / "part-00001.parquet"
    if damage == "missing":
        part.unlink()
    elif damage == "cut":
        part.write_bytes(part.read_bytes()[:-10])
    else:
        other = pq.read_table(part).replace_schema_metadata({"cft": json.dumps({"run": "x"})})
        pq.write_table(other, part)
    del read[:]
    run("--part-size", 2)
    assert sorted(read) == ["2.png", "2b.png"]
    assert contents(tmp_path / "out") == before


@pytest.mark.slow
def test_a_killed_run_goes_on_and_leaves_each_film_once(archive, tmp_path, tiny_model_folder, run):
    """The process ends itself, as by SIGKILL, while it writes its second part."""
    code = (
        "import os, sys\n"
        "from cft.archive import plan\n"
        "whole = plan.pq.write_table\n"
        "def torn(table, file, **more):\n"
        "    whole(table, file, **more)\n"
        "    if b'\"part\": 1,' in table.schema.metadata[b'cft']:\n"
        "        os.kill(os.getpid(), 9)\n"
        "plan.pq.write_table = torn\n"
        "from cft.__main__ import main\n"
        "main(sys.argv[1:])\n"
    )
    out = tmp_path / "out"
    words = [archive, "--out", out, "--model", tiny_model_folder, "--device", "cpu"]
    command = [sys.executable, "-c", code, "score", *words, "--part-size", "2"]
    assert subprocess.run(list(map(str, command)), cwd=ROOT).returncode == -9
    assert (out / "part-00000.parquet").exists()
    assert not (out / "part-00001.parquet").exists()
    assert len(list(out.glob(".part-*.part"))) == 1  # what it was writing
    run("--part-size", 2)
    run("--part-size", 2, out=tmp_path / "whole")
    assert contents(out).keys() == contents(tmp_path / "whole").keys()
    assert rows(out) == rows(tmp_path / "whole")
    assert len(rows(out)) == 6


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--gate", "off"], 'begun with gate "refuse", not "off"'),
        (["--part-size", "3"], "begun with part_size 2, not 3"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_stays(run, tmp_path, words, reason):
    run("--part-size", 2)
    before = contents(tmp_path / "out")
    status, said = run("--part-size", 2, *words)
    assert status == 2
    assert reason in said
    assert contents(tmp_path / "out") == before


def test_other_films_or_another_model_are_refused(run, archive, films, tmp_path, model_folder):
    run()
    status, said = run(model=model_folder)
    assert status == 2
    assert "begun with weights_sha256" in said
    shutil.copy(films[4], archive / "new.png")
    status, said = run()
    assert status == 2
    assert "was begun with 6 films, not with these 7" in said


@pytest.mark.parametrize("content", ["[]", "[" * 100_000])
def test_a_run_file_of_something_else_is_refused(run, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_run.json").write_text(content)
    status, said = run()
    assert status == 2
    assert "is no file of cft score" in said


def test_interrupted_it_says_how_to_go_on(run, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("cft.archive.here.score", stop)
    status, said = run()
    assert status == 130
    assert said == "interrupted: the same command goes on with the parts left\n"


# --- A million ----------------------------------------------------------------------------------


def test_the_list_of_a_large_archive_is_read_part_by_part(tmp_path):
    count = 20_500
    plan = plans.begin(
        tmp_path / "out", (Film(f"{i}", b"/%d" % i) for i in range(count)), {}, part_size=1000
    )
    assert (plan.films, plan.parts) == (count, range(21))
    assert plan.films_of(20) == [Film(f"{i}", b"/%d" % i) for i in range(20_000, count)]
    assert all(plan.done(part) is None for part in plan.parts)
