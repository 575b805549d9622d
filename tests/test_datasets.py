"""Readers: what they refuse, what they skip and say, and what they make of the real tables."""

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cft.labels import CHEXPERT_5, CHEXPERT_14, NIH_14, RANZCR_CLIP_11
from train.command import add_options, options_of
from train.datasets import READERS, DatasetError, missing_images, read_dataset, table_of
from train.datasets.__main__ import main
from train.datasets.csv_core import read_csv
from train.datasets.labels import LabelTable
from train.datasets.options import DATASETS, DataOptions, of_splits

ROOT = Path(__file__).resolve().parent.parent


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def arguments(*words: str) -> LabelTable:
    parser = argparse.ArgumentParser()
    add_options(parser, DataOptions)
    return table_of(options_of(DataOptions, vars(parser.parse_args(words))), check_images=False)


def names_in(table: LabelTable, split: str) -> set[str]:
    return set(table.names[table.split == split].tolist())


def sides_of_patients(table: LabelTable) -> Counter:
    """How many patients are on one side of the split, on two, on three."""
    pairs = set(zip(table.patients.tolist(), table.split.tolist(), strict=True))
    return Counter(Counter(patient for patient, _ in pairs).values())


def rows(path: Path) -> list[dict[str, str]]:
    """The independent reading that the tests compare with."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


# --- A table of one's own: what is refused ------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,Edema", "a.png,2"], r"row 2, column 'Edema': '2' is not allowed; expected 1, 0, "),
        (["image,Edema", "a.png,1", "", "b.png,maybe"], "row 4, column 'Edema': 'maybe'"),
        (["image,Edema", "a.png,inf"], "row 2, column 'Edema': 'inf'"),
        (["image,Edema", "a.png,0.5"], "row 2, column 'Edema': '0.5'"),
        (["image,Edema", "a.png,1,0"], "row 2 has 3 cells, but the header has 2"),
        (["image,Edema,Edema", "a.png,1,0"], "two columns named 'Edema'"),
        (["image,Edema"], "holds no rows"),
        (["image,patient", "a.png,p"], "no column of labels beside image, patient"),
        (["film,Edema", "a.png,1"], r"no column 'image'; say .* --map image=COLUMN .*film, Edema"),
        (["image,patient,Edema", "a.png,p,1", "b.png,,1"], "row 3, column 'patient': ''"),
        (["image,split,Edema", "a.png,dev,1"], "row 2, column 'split': 'dev' is not allowed"),
        (["image,study,Edema", "a.png, ,1"], "row 2, column 'study': ' ' is not allowed"),
        (
            ["image,Path,patient_id,Edema", "a.png,b.png,1,1"],
            "has 2 columns that could be the image: image, Path; say which with --map image=image",
        ),
        (
            ["Filename,PatientID,subject_id,Edema", "a.png,1,2,1"],
            "has 2 columns that could be the patient: PatientID, subject_id",
        ),
        (["image,width,Edema", "a.png,wide,1"], "row 2, column 'width': 'wide'"),
        (["image,Edema", "a.png,1", "b.png,0", "a.png,0"], "a.png is listed twice .* 1 and 3"),
        (["image,split,Edema", "a.png,train,1", "a.png,test,1"], "a.png is listed twice"),
        (["nothing"], "holds no rows"),
    ],
)
def test_a_table_that_cannot_be_is_refused_with_the_place_named(tmp_path, lines, message):
    with pytest.raises(DatasetError, match=message):
        read_dataset("csv", write(tmp_path / "table.csv", *lines))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00image", "is not UTF-8 text"),
        (gzip.compress(b"image,Edema\na.png,1\n", mtime=0)[:-9], "is not a whole gzip file"),
        (b"image,Edema", "is not a whole gzip file"),
    ],
)
@pytest.mark.parametrize("name", ["csv", None])
def test_a_file_that_is_not_text_is_refused(tmp_path, name, content, message):
    path = tmp_path / ("table.csv" if content[0] == 0xFF else "table.csv.gz")
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_dataset(name, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,\u00d6dem\na.png,1\n".encode("cp1252"), "is not UTF-8 text"),
        ("image,Edema\na.png,1\n".encode("utf-16"), "is not UTF-8 text"),
        (b"", "holds no rows"),
        (b"image,Edema", "holds no rows"),
        (b"image\na.png\n", "is none of the data sets"),
    ],
)
def test_what_is_wrong_with_a_table_that_nothing_recognises_is_said(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_dataset(None, path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--map", "image"], "write NAME=COLUMN"),
        (["--map", "image=nowhere"], "no column 'nowhere'; its columns are image, Edema"),
        (["--map", "image=image", "image=Edema"], "two columns for image"),
        (["--map", "Edema=image"], "has a column 'Edema' already"),
        (["--labels", "Hernia"], "no column 'Hernia'"),
        (["--view", "frontal"], "csv does not tell the view of films; omit --view"),
        (["--min-width", "100"], "csv does not tell the width of films; omit --min-width"),
        (["--valid", "0.5", "--test", "0.5"], "leave nothing to train on"),
        (["--valid", "-0.1"], "must be in"),
        (["--valid", "nan"], "must be in"),
        (["--test", "nan"], "must be in"),
        (["--known", "0"], "share of known labels is 0"),
        (["--phantoms", "5"], "--phantoms is for the data set phantoms, and this is csv"),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused(tmp_path, words, message):
    path = write(tmp_path / "table.csv", "image,Edema", "a.png,1")
    with pytest.raises(DatasetError, match=message):
        arguments("--data", str(path), *words)


def test_every_reader_can_be_named():
    assert tuple(READERS) == DATASETS


def test_splits_are_decided_by_every_option_but_those_of_labels_and_place():
    given = {"valid": 0.1, "view": "frontal", "map": [], "known": 0.5, "labels": "Mass", "lr": 1}
    assert of_splits(given) == {"valid": 0.1, "view": "frontal", "map": []}


@pytest.mark.parametrize("lateral", ["lateral", "Lateral", "LL", " LAT "])
def test_laterals_are_known_however_they_are_written(tmp_path, lateral):
    rows = (f"a.png,{lateral},m,1", "b.png,pa,FEMALE,0", "c.png,oblique,x,0", "d.png,,,1")
    path = write(tmp_path / "t.csv", "image,view,sex,Edema", *rows)
    table = arguments("--data", str(path), "--dataset", "csv")
    assert table.attributes["view"].tolist() == ["lateral", "PA", "", ""]
    assert table.attributes["sex"].tolist() == ["M", "F", "", ""]
    assert "Treated 1 unknown value of the column view as frontal: oblique." in table.notes
    assert "Treated 1 unknown value of the column sex as unknown: x." in table.notes
    frontal = arguments("--data", str(path), "--dataset", "csv", "--view", "frontal")
    assert frontal.names.tolist() == ["b.png", "c.png", "d.png"]


WAY_OUT = "; if this is no category, name the categories with --labels, or its role with --map "


@pytest.mark.parametrize(
    ("column", "pair"),
    [("years", "ROLE=years"), ("report_id", "ROLE=report_id"), ("Row no", "'ROLE=Row no'")],
)
def test_a_column_that_is_no_category_is_refused_with_a_way_out(tmp_path, column, pair):
    path = write(tmp_path / "t.csv", f"image,Edema,{column}", "a.png,1,41", "b.png,0,50")
    with pytest.raises(DatasetError, match=f"'41' is not allowed; expected .*{WAY_OUT}{pair}"):
        arguments("--data", str(path))
    assert arguments("--data", str(path), "--labels", "Edema").label_names == ("Edema",)
    mapped = arguments("--data", str(path), "--map", pair.strip("'").replace("ROLE", "age"))
    assert mapped.label_names == ("Edema",)


@pytest.mark.parametrize("words", [["--labels", "Edema,Age"], ["--map", "Sepsis=Age"]])
def test_a_column_that_was_named_as_a_category_is_one(tmp_path, words):
    path = write(tmp_path / "t.csv", "image,Edema,Age", "a.png,1,41")
    with pytest.raises(DatasetError, match=r"'41' is not allowed; expected .* \(unknown\)$"):
        arguments("--data", str(path), *words)


def test_the_help_of_map_names_every_role():
    parser = argparse.ArgumentParser()
    add_options(parser, DataOptions)
    text = " ".join(parser.format_help().split())
    assert "(image, patient, study, split, age, sex, view, width, order)" in text


@pytest.mark.parametrize("words", [["--valid", "0.9"], ["--valid", "0.5", "--test", "0.49"]])
def test_a_draw_that_leaves_no_training_films_is_refused(tmp_path, words):
    path = write(tmp_path / "t.csv", "image,Edema", *(f"{i}.png,1" for i in range(10)))
    with pytest.raises(DatasetError, match="no training films are left: make --valid or --test"):
        arguments("--data", str(path), *words)
    arguments("--data", str(path), "--valid", "0.7")


def test_a_table_of_test_films_alone_is_read(tmp_path):
    path = write(tmp_path / "t.csv", "image,split,Edema", "a,test,1", "b,test,0", "c,test,0")
    assert set(arguments("--data", str(path)).split) == {"test"}


def test_a_share_for_a_split_that_the_source_names_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", "image,split,Edema", "a,train,1", "b,valid,1")
    with pytest.raises(DatasetError, match="has a valid split of its own; leave out --valid"):
        arguments("--data", str(path), "--valid", "0.2")


def test_data_that_is_not_there_or_not_recognised_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no .*nowhere"):
        read_dataset(None, tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="is none of the data sets chexpert, nih"):
        read_dataset(None, tmp_path)
    with pytest.raises(DatasetError, match="chexpert needs --data"):
        read_dataset("chexpert", None)
    with pytest.raises(DatasetError, match=r"no train\.csv of CheXpert"):
        read_dataset("chexpert", tmp_path)
    with pytest.raises(DatasetError, match="no data set is called 'mimic'"):
        read_dataset("mimic", tmp_path)
    with pytest.raises(DatasetError, match="phantoms are drawn, not read"):
        read_dataset("phantoms", tmp_path)


def test_what_never_ends_is_no_data(tmp_path):
    """Looking into a pipe that nobody fills, or into /dev/zero, would take for ever."""
    os.mkfifo(tmp_path / "pipe.csv")
    code = "import sys, train.datasets.__main__ as m; sys.exit(m.main(sys.argv[1:]))"
    for data in (tmp_path / "pipe.csv", Path("/dev/zero")):
        words = [sys.executable, "-c", code, str(data)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert done.stderr == f"train.datasets: {data} is neither a folder nor a regular file\n"


def test_all_that_is_wrong_with_a_table_is_said_at_once(tmp_path):
    lines = ["a,p,train,1,0", "b,,train,2,0", "c,p,dev,1,maybe", "d,p,train,1", "a,p,train,0,0"]
    path = write(tmp_path / "t.csv", "image,patient,split,Edema,Mass", *lines)
    with pytest.raises(DatasetError) as error:
        read_dataset("csv", path)
    assert [line.strip().partition(";")[0] for line in str(error.value).splitlines()] == [
        f"{path} has 6 problems:",
        "row 5 has 4 cells, but the header has 5",
        "row 3, column 'Edema': '2' is not allowed",
        "row 4, column 'Mass': 'maybe' is not allowed",
        "row 3, column 'patient': '' is not allowed",
        "row 4, column 'split': 'dev' is not allowed",
        "a is listed twice with different labels or splits (films 1 and 4 of the list)",
    ]


def test_a_table_takes_a_few_times_its_size_in_memory(tmp_path):
    """Blocks are read, and equal cells are one string: the text is never there as a whole."""
    rows = (f"p{n}/view.png,{n % 3 - 1}.0,,{n % 2}.0,1.0,,,0.0,1.0,," for n in range(40_000))
    table = write(tmp_path / "t.csv", "image,A,B,C,D,E,F,G,H,I,J", *rows)
    tracemalloc.start()
    columns = read_csv(table)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(columns) == 40_000
    assert columns["A"][:4] == ["-1.0", "0.0", "1.0", "-1.0"]
    assert columns["image"][-1] == "p39999/view.png"
    assert most < 6 * table.stat().st_size  # 16 times, when all of it was read at once


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_line_without_an_end_is_refused_when_it_is_too_long_for_a_table(tmp_path, name):
    write(tmp_path / name, "image,A", "x" * 30_000_000)
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"line 2 is longer than 1,048,576 bytes"):
        read_csv(tmp_path / name)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8_000_000


def test_a_byte_that_is_no_text_is_named_by_its_place_in_the_file(tmp_path):
    """Far behind the first block, after a mark of byte order, in the middle of a line."""
    good = b"\xef\xbb\xbfimage,A\n" + "ü.png,1\n".encode() * 30_000
    (tmp_path / "t.csv").write_bytes(good + b"a\xff,1\n")
    with pytest.raises(DatasetError, match=rf"is not UTF-8 text \(byte {len(good) + 1}\)"):
        read_csv(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(good)
    columns = read_csv(tmp_path / "t.csv")
    assert list(columns.cells) == ["image", "A"]
    assert set(columns["image"]) == {"ü.png"}
    assert len(columns) == 30_000


def test_a_comma_at_the_end_of_each_line_makes_no_category(tmp_path):
    table = read_csv(write(tmp_path / "t.csv", "image,A, ,", "a.png,1,x,", "b.png,0,y,"))
    assert list(table.cells) == ["image", "A"]
    data = DataOptions(data=tmp_path / "t.csv", valid=0.0, test=0.0, labels="A,")
    assert table_of(data, 0, check_images=False).label_names == ("A",)


def test_of_many_problems_the_first_twenty_are_told(tmp_path):
    path = write(tmp_path / "t.csv", "image,Edema", *(f"{i}.png,x" for i in range(30)))
    with pytest.raises(DatasetError) as error:
        read_dataset("csv", path)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{path} has 30 problems:"
    assert lines[20].startswith("  row 21, column 'Edema': 'x' is not allowed")
    assert lines[21:] == ["  and 10 more"]


# --- A table of one's own: what comes out -------------------------------------------------------


def test_ones_own_table_is_read_as_written(tmp_path):
    path = write(
        tmp_path / "table.csv.gz",
        "\ufeffsplit;study;Edema;image;Mass;patient;sex;age",
        "train;s1; 1.0;a/1.png;;p1;F;60",
        ";s1;0;a/2.png;-1.0;p1;Male;",
        "VAL;s2;-1;b.png;0.0;p2;;250",
        'test;s3;;"c;d.png";1;p3;F;7',
    )
    table = read_dataset(None, path)
    assert table.dataset == "csv"
    assert table.label_names == ("Edema", "Mass")
    np.testing.assert_array_equal(table.y, [[1, np.nan], [0, np.nan], [np.nan, 0], [np.nan, 1]])
    np.testing.assert_array_equal(table.uncertain, [[0, 0], [0, 1], [1, 0], [0, 0]])
    assert table.patients.tolist() == ["p1", "p1", "p2", "p3"]
    assert table.studies.tolist() == ["s1", "s1", "s2", "s3"]
    assert table.split.tolist() == ["train", "train", "valid", "test"]
    assert table.attributes["sex"].tolist() == ["F", "M", "", "F"]
    np.testing.assert_array_equal(table.attributes["age"], [60, np.nan, np.nan, 7])
    assert table.images[0] == tmp_path / "a/1.png"
    assert table.images[3] == tmp_path / "c;d.png"
    assert "Treated 1 impossible age as unknown: 250." in table.notes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((text, np.nan) for text in ("", " ", "nan", "NaN", "NA", "n/a", "None", "null")),
        *((text, 1) for text in ("1", "1.0", " 1 ", "yes", "TRUE", "True")),
        *((text, 0) for text in ("0", "0.0", "-0", "No", "false")),
    ],
)
def test_the_usual_spellings_of_a_label_are_read(tmp_path, value, expected):
    path = write(tmp_path / "t.csv", "image,Edema", f"a,{value}", "b,1")
    table = read_dataset("csv", path)
    np.testing.assert_array_equal(table.y[:, 0], [expected, 1])
    assert not table.uncertain.any()


def test_the_usual_names_of_columns_are_known_and_said(tmp_path):
    path = write(
        tmp_path / "t.csv",
        "Path,PatientID,StudyInstanceUID,Subset,Gender,AGE,ViewPosition,Edema",
        " a.png , p1 , s1 ,val,F,60,LL,1",
    )
    table = arguments("--data", str(path), "--dataset", "csv")
    assert table.label_names == ("Edema",)
    assert [table.names[0], table.patients[0], table.studies[0]] == ["a.png", "p1", "s1"]
    assert table.images[0] == tmp_path / "a.png"
    assert table.split.tolist() == ["valid"]
    assert {k: v[0] for k, v in table.attributes.items()} == {
        "age": 60,
        "sex": "F",
        "view": "lateral",
    }
    assert table.notes[0] == (
        "Took columns by their names: Path as image, PatientID as patient, StudyInstanceUID as "
        "study, Subset as split, Gender as sex, AGE as age, ViewPosition as view."
    )


def test_of_two_columns_for_one_role_the_one_that_was_named_counts(tmp_path):
    path = write(tmp_path / "t.csv", "image_id,file,Edema", "7,a.png,1")
    table = arguments("--data", str(path), "--map", "image=file")
    assert table.names.tolist() == ["a.png"]
    assert table.label_names == ("Edema",)
    assert "Did not use 1 column: image_id." in table.notes


def test_a_category_without_any_label_is_said(tmp_path):
    path = write(tmp_path / "t.csv", "image,Edema,Mass,Hernia", "a,1,,", "b,0,NA,-1")
    table = read_dataset("csv", path)
    assert "1 category is blank in every row: Mass." in table.notes


def test_other_spellings_are_mapped_and_errors_name_the_file_s_own(tmp_path):
    path = write(tmp_path / "t.csv", "filename,pid,oedema,comment", "a,1,1,fine", "b,2,x,worse")
    words = ["--data", str(path), "--map", "image=filename", "patient=pid", "Edema=oedema"]
    with pytest.raises(DatasetError, match="row 3, column 'oedema': 'x'"):
        arguments(*words, "--labels", "Edema")
    path.write_text(path.read_text().replace("x", "0"))
    table = arguments(*words, "--labels", "Edema")
    assert table.label_names == ("Edema",)
    np.testing.assert_array_equal(table.y, [[1], [0]])
    assert table.patients.tolist() == ["1", "2"]


def test_a_film_listed_twice_alike_counts_once(tmp_path):
    path = write(tmp_path / "t.csv", "image,Edema", "a,1", "b,", "a,1.0", "b,", "c,0")
    table = read_dataset("csv", path)
    assert table.names.tolist() == ["a", "b", "c"]
    assert table.source["rows"] == 5
    assert "Counted 2 repeated films once: a, b." in table.notes


def test_a_patient_on_two_sides_keeps_the_more_important_side(tmp_path):
    path = write(
        tmp_path / "t.csv",
        "image,patient,split,Edema",
        *("a1,a,train,1", "a2,a,valid,1", "a3,a,test,1"),
        *("b1,b,train,1", "b2,b,valid,1", "c1,c,train,1", "d1,d,test,1"),
    )
    table = read_dataset("csv", path)
    assert table.names.tolist() == ["a3", "b2", "c1", "d1"]
    assert sides_of_patients(table) == {1: 4}
    assert table.notes == (
        "The source's split shares 2 patients: a, b.",
        "Skipped 2 train and 1 valid films of patients who are in test or valid as well.",
    )
    kept = read_dataset("csv", path, shared_patients="keep")
    assert len(kept) == 7
    assert kept.source["listed"] == {"train": 3, "valid": 2, "test": 2}
    assert any("scores will flatter" in note for note in kept.notes)


def test_a_drawn_split_is_by_patient_and_does_not_depend_on_the_order_of_rows(tmp_path):
    lines = [f"film{i},p{i % 100},1" for i in range(400)]
    path = write(tmp_path / "t.csv", "image,patient,Edema", *lines)
    mixed = write(tmp_path / "mixed" / "t.csv", "image,patient,Edema", *lines[::-1])
    first, second = read_dataset("csv", path, seed=3), read_dataset("csv", mixed, seed=3)
    assert sides_of_patients(first) == {1: 100}
    assert Counter(first.split.tolist()) == {"train": 280, "valid": 40, "test": 80}
    for side in ("train", "valid", "test"):
        assert names_in(first, side) == names_in(second, side)
    assert names_in(read_dataset("csv", path, seed=4), "test") != names_in(first, "test")
    shares = read_dataset("csv", path, valid=0.3, test=0.0)
    assert Counter(shares.split.tolist()) == {"train": 280, "valid": 120}


def test_runs_of_several_seeds_share_their_splits_by_the_seed_of_the_data(tmp_path):
    lines = [f"film{i},p{i},1" for i in range(100)]
    path = write(tmp_path / "own.csv", "image,patient,Edema", *lines)

    def sides(seed, **options):
        table = table_of(DataOptions(data=path, **options), seed, check_images=False)
        return table.split.tolist()

    assert sides(0, data_seed=3) == sides(5, data_seed=3) == sides(3)
    assert sides(0) != sides(3)


def test_one_patient_more_moves_hardly_anyone(tmp_path):
    lines = [f"film{i},p{i},1" for i in range(500)]
    small = read_dataset("csv", write(tmp_path / "a.csv", "image,patient,Edema", *lines))
    more = write(tmp_path / "b.csv", "image,patient,Edema", "new,new,1", *lines)
    moved = (read_dataset("csv", more).split[1:] != small.split).sum()
    assert moved <= 2


def test_missing_images_are_skipped_and_named_and_none_at_all_is_an_error(tmp_path, films):
    lines = [f"{film},1" for film in films]
    path = write(tmp_path / "t.csv", "image,Edema", *lines, "gone.png,1", "lost.png,0")
    table = read_dataset("csv", path, check_images=True)
    assert table.names.tolist() == [str(film) for film in films]
    assert "Skipped 2 missing images: gone.png, lost.png." in table.notes
    assert len(read_dataset("csv", path)) == len(films) + 2
    path = write(tmp_path / "t.csv", "image,Edema", "gone.png,1", "lost.png,0")
    with pytest.raises(DatasetError, match=r"none of the 2 images .* first would be .*gone.png"):
        read_dataset("csv", path, check_images=True)


# --- CheXpert -----------------------------------------------------------------------------------

CHEXPERT_HEADER = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_14])


def chexpert_row(path: str, *labels: str) -> str:
    values = dict(zip(("Edema", "Fracture"), labels, strict=False))
    return ",".join([path, "Female", "61", "?", "AP", *(values.get(n, "") for n in CHEXPERT_14)])


@pytest.fixture(scope="module")
def chexpert(shared) -> LabelTable:
    return read_dataset(None, shared / "reference" / "chexpert_train_labels.csv.gz")


def test_the_real_chexpert_table_has_its_known_counts(chexpert):
    expected = {
        "No Finding": (22381, 0, 0, 201033),
        "Cardiomegaly": (27000, 11116, 8087, 177211),
        "Edema": (52246, 20726, 12984, 137458),
        "Consolidation": (14783, 28097, 27742, 152792),
        "Atelectasis": (33376, 1328, 33739, 154971),
        "Pneumothorax": (19448, 56341, 3145, 144480),
        "Pleural Effusion": (86187, 35396, 11628, 90203),
        "Support Devices": (116001, 6137, 1079, 100197),
    }
    counts = chexpert.counts()
    assert chexpert.dataset == "chexpert"
    assert chexpert.label_names == CHEXPERT_14
    assert {name: tuple(counts[name].values()) for name in expected} == expected
    assert len(chexpert) == 223_414
    assert len(set(chexpert.patients.tolist())) == 64_540
    assert sides_of_patients(chexpert) == {1: 64_540}
    drawn = len(np.unique(chexpert.patients[chexpert.split == "valid"]))
    assert drawn == 6_454


def test_every_chexpert_row_agrees_with_a_plain_reading(chexpert, shared):
    meaning = {"": (np.nan, 0), "1.0": (1, 0), "0.0": (0, 0), "-1.0": (np.nan, 1)}
    table = rows(shared / "reference" / "chexpert_train_labels.csv.gz")
    for row in range(0, len(table), 97):
        cells = [meaning[table[row][name]] for name in CHEXPERT_14]
        np.testing.assert_array_equal(chexpert.y[row], [y for y, _ in cells])
        np.testing.assert_array_equal(chexpert.uncertain[row], [mark for _, mark in cells])
        assert chexpert.names[row] == table[row]["Path"].removeprefix("CheXpert-v1.0-small/")
        assert f"/{chexpert.studies[row]}/" in table[row]["Path"]
        assert chexpert.attributes["age"][row] == float(table[row]["Age"])


@pytest.mark.slow
def test_chexpert_views_and_the_five_tasks_can_be_chosen(chexpert, shared):
    path = shared / "reference" / "chexpert_train_labels.csv.gz"
    frontal = arguments("--data", str(path), "--view", "frontal", "--labels", "chexpert-5")
    assert len(frontal) == 191_027
    assert frontal.label_names == CHEXPERT_5
    assert set(frontal.attributes["view"].tolist()) == {"PA", "AP", ""}
    assert (chexpert.attributes["view"] == "lateral").sum() == 223_414 - 191_027


def test_lateral_films_alone_can_be_chosen(tmp_path):
    views = ("view1_frontal", "view2_lateral", "view3_frontal")
    films = [chexpert_row(f"train/patient00001/study1/{view}.jpg") for view in views]
    table = arguments(
        "--data",
        str(write(tmp_path / "train.csv", CHEXPERT_HEADER, *films)),
        *("--view", "lateral"),
    )
    assert table.names.tolist() == ["train/patient00001/study1/view2_lateral.jpg"]
    assert "Left out 2 films that are not lateral." in table.notes


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0-small/", "CheXpert-v1.0/", ""])
def test_chexpert_films_are_found_beside_the_table_whatever_its_prefix(tmp_path, prefix):
    train = chexpert_row(f"{prefix}train/patient00001/study1/view1_frontal.jpg", "1.0", "-1.0")
    valid = chexpert_row(f"{prefix}valid/patient64541/study1/view2_lateral.jpg", "0.0", "1.0")
    write(tmp_path / "train.csv", CHEXPERT_HEADER, train)
    write(tmp_path / "valid.csv", CHEXPERT_HEADER, valid)
    film = write(tmp_path / "train/patient00001/study1/view1_frontal.jpg", "")
    for data in (tmp_path, tmp_path / "train.csv"):
        assert read_dataset(None, data).images[0] == film
    table = read_dataset(None, tmp_path)
    assert table.split.tolist() == ["train", "valid"]
    assert table.attributes["view"].tolist() == ["AP", "lateral"]
    assert missing_images(table).tolist() == [False, True]


def test_chexpert_films_are_found_below_the_folder_that_the_table_names(tmp_path):
    path = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    write(tmp_path / "train.csv", CHEXPERT_HEADER, chexpert_row(path))
    film = write(tmp_path / path, "")
    assert read_dataset(None, tmp_path).images[0] == film


def test_the_folder_above_chexpert_will_do(tmp_path):
    path = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    write(tmp_path / "CheXpert-v1.0-small/train.csv", CHEXPERT_HEADER, chexpert_row(path))
    film = write(tmp_path / path, "")
    assert read_dataset(None, tmp_path).images[0] == film


def test_chexpert_columns_are_found_by_name_in_any_order_and_may_be_missing(tmp_path):
    labels = dict.fromkeys(CHEXPERT_14, "0")
    labels["Fracture"] = "1"
    header = [*reversed(CHEXPERT_14), "Path"]
    row = [labels.get(name, "test/patient64741/study1/view1_frontal.jpg") for name in header]
    data = write(tmp_path / "test_labels.csv", ",".join(header), ",".join(row))
    for table in (read_dataset(None, data), read_dataset("chexpert", tmp_path)):
        assert table.y[0, CHEXPERT_14.index("Fracture")] == 1
        assert table.y.sum() == 1
        assert table.split.tolist() == ["test"]


def test_a_column_that_a_layout_lacks_is_named_and_one_too_many_is_noted(tmp_path):
    row = chexpert_row("train/patient00001/study1/view1_frontal.jpg")
    path = write(tmp_path / "train.csv", CHEXPERT_HEADER + ",Tube", row + ",1")
    assert "train.csv has 1 unknown column: Tube." in read_dataset(None, path).notes
    write(path, CHEXPERT_HEADER.replace("Edema", "Oedema"), row)
    with pytest.raises(DatasetError, match="has no column 'Edema'; its columns are Path, Sex"):
        read_dataset("chexpert", path)


def test_a_chexpert_path_that_tells_no_patient_is_refused(tmp_path):
    path = write(tmp_path / "train.csv", CHEXPERT_HEADER, chexpert_row("view1_frontal.jpg"))
    with pytest.raises(DatasetError, match="row 2, column 'Path': 'view1_frontal"):
        read_dataset(None, path)


# --- NIH ChestX-ray14 ---------------------------------------------------------------------------


def test_the_compact_nih_layout_tests_on_the_experts_patients(shared):
    table = read_dataset(None, shared / "nih", min_width=0)
    assert table.dataset == "nih"
    plain = {row["image"]: row for row in rows(shared / "nih" / "labels.csv")}
    experts = {row["image"] for row in rows(shared / "nih" / "expert_labels.csv")}
    patients = {plain[image]["patient_id"] for image in experts}
    assert names_in(table, "test") == {i for i, r in plain.items() if r["patient_id"] in patients}
    assert len(table) == len(plain)
    assert set(sides_of_patients(table)) == {1}
    for row, name in enumerate(table.names.tolist()):
        assert table.y[row].tolist() == [float(plain[name][label]) for label in NIH_14]
        assert table.attributes["width"][row] == int(plain[name]["width"])
    assert not missing_images(table).any()


def test_a_film_as_wide_as_asked_for_is_wide_enough(tmp_path):
    table = write(tmp_path / "t.csv", "image,width,A", "a.png,199,1", "b.png,200,1", "c.png,201,0")
    found = read_dataset("csv", table, min_width=200, valid=0.0, test=0.0)
    assert found.names.tolist() == ["b.png", "c.png"]


def test_one_pixel_is_a_width_that_is_asked_for(tmp_path):
    table = write(tmp_path / "t.csv", "image,width,A", "a.png,0,1", "b.png,1,1", "c.png,2,0")
    found = read_dataset("csv", table, min_width=1, valid=0.0, test=0.0)
    assert found.names.tolist() == ["b.png", "c.png"]


def test_a_reader_that_notes_no_problems_names_its_file(tmp_path):
    """CheXpert's films, one of them twice with different labels."""
    path = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    rows = chexpert_row(path, "1"), chexpert_row(path, "0")
    table = write(tmp_path / "train.csv", CHEXPERT_HEADER, *rows)
    with pytest.raises(DatasetError, match=r"is listed twice") as caught:
        read_dataset(None, table)
    assert str(caught.value).startswith(f"{table}: ")


def test_small_nih_films_are_left_out_by_default(shared):
    table = read_dataset(None, shared / "nih")
    assert table.attributes["width"].min() >= 224
    widths = [int(row["width"]) for row in rows(shared / "nih" / "labels.csv")]
    small = sum(width < 224 for width in widths)
    assert (len(table), table.source["rows"]) == (len(widths) - small, len(widths))
    assert f"Left out {small} films that are less than 224 pixels wide." in table.notes


def test_experts_labels_are_a_test_set_of_their_own(shared):
    table = read_dataset("nih-experts", shared / "nih", known=0.1)
    votes = {row["image"]: row for row in rows(shared / "nih" / "expert_labels.csv")}
    assert len(table) == 395
    assert set(table.split.tolist()) == {"test"}
    assert len(set(table.patients.tolist())) == 266
    for row, name in enumerate(table.names.tolist()):
        assert table.y[row].tolist() == [float(votes[name][label]) for label in NIH_14]


def test_the_official_nih_table_has_its_known_counts(shared):
    table = read_dataset(None, shared / "reference" / "nih_Data_Entry_2017_v2020.csv.gz")
    plain = rows(shared / "reference" / "nih_Data_Entry_2017_v2020.csv.gz")
    expected = Counter(name for row in plain for name in row["Finding Labels"].split("|"))
    del expected["No Finding"]
    assert {name: count["positive"] for name, count in table.counts().items()} == expected
    assert not np.isnan(table.y).any()
    assert len(table) == 112_120
    assert sides_of_patients(table) == {1: 30_805}
    share = {s: len(np.unique(table.patients[table.split == s])) for s in ("valid", "test")}
    assert share == {"valid": 3080, "test": 6161}


def nih_folder(folder: Path, *findings: str) -> Path:
    lines = [
        f"0000000{i}_000.png,{found},0,{i},{58 * 10**i},M,PA,2000,2500,0.1,0.1"
        for i, found in enumerate(findings, 1)
    ]
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
    header += "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    write(folder / "Data_Entry_2017_v2020.csv", header, *lines)
    return folder


def test_the_official_nih_lists_make_the_split_and_the_archives_hold_the_images(tmp_path):
    nih_folder(tmp_path, "Mass", "No Finding", "Edema|Hernia")
    write(tmp_path / "train_val_list.txt", "00000001_000.png", "00000002_000.png", "9_000.png")
    write(tmp_path / "test_list.txt", "00000003_000.png")
    film = write(tmp_path / "images_007/images/00000002_000.png", "")
    table = read_dataset(None, tmp_path, valid=0.0)
    assert table.split.tolist() == ["train", "train", "test"]
    assert table.images[1] == film
    assert table.images[0] == tmp_path / "images/00000001_000.png"
    assert table.y.sum(0).tolist() == [x in ("Mass", "Edema", "Hernia") for x in NIH_14]
    assert "train_val_list.txt names 1 image that the table lacks: 9_000.png." in table.notes
    assert "Treated 3 impossible ages as unknown: 580, 5800, 58000." in table.notes


@pytest.mark.parametrize("finding", ["Edemma", "", "No Finding|Mass"])
def test_a_finding_that_nih_does_not_have_is_refused(tmp_path, finding):
    with pytest.raises(DatasetError, match=r"row 3, column 'Finding Labels': .* is not allowed"):
        read_dataset(None, nih_folder(tmp_path, "Mass", finding))


# --- RANZCR CLiP, CXR11, CXR14 ------------------------------------------------------------------


def test_cxr11_has_its_published_split(shared):
    table = read_dataset("cxr11", shared / "reference" / "chexnet-splits")
    assert Counter(table.split.tolist()) == {"train": 21_059, "valid": 6_016, "test": 3_008}
    assert table.label_names == RANZCR_CLIP_11
    assert table.counts()["Swan Ganz Catheter Present"]["positive"] == 830
    assert any("The lists name no patients" in note for note in table.notes)


def test_cxr14_has_its_published_split_if_shared_patients_are_kept(shared):
    folder = shared / "reference" / "chexnet-splits"
    table = read_dataset("cxr14", folder, shared_patients="keep")
    assert Counter(table.split.tolist()) == {"train": 46_563, "valid": 3_624, "test": 1_572}
    nih = read_dataset(None, shared / "reference" / "nih_Data_Entry_2017_v2020.csv.gz")
    row_of = {name: row for row, name in enumerate(nih.names.tolist())}
    same = [row_of[name] for name in table.names.tolist()]
    np.testing.assert_array_equal(table.y, nih.y[same])
    np.testing.assert_array_equal(table.patients, nih.patients[same])


def test_cxr14_trains_on_no_patient_of_its_test_set(shared):
    table = read_dataset("cxr14", shared / "reference" / "chexnet-splits")
    assert set(sides_of_patients(table)) == {1}
    assert Counter(table.split.tolist()) == {"train": 22_574, "valid": 2_572, "test": 1_572}
    assert table.source["listed"] == {"train": 46_563, "valid": 3_624, "test": 1_572}
    assert any("shares 2,663 patients" in note for note in table.notes)


def test_a_folder_with_two_data_sets_asks_which(shared):
    with pytest.raises(DatasetError, match="holds cxr11 and cxr14; say which with --dataset"):
        read_dataset(None, shared / "reference" / "chexnet-splits")


def cxr11_folder(folder: Path, *lines: str) -> Path:
    names = [name.replace(" - ", "-").replace(" ", "-") for name in RANZCR_CLIP_11]
    write(folder / "chest_x-rays11_multi_label_classes.txt", *names)
    for word, line in zip(("train", "val", "test"), lines, strict=True):
        write(folder / f"chest_x-rays11_kaggle_{word}.txt", line)
    return folder


def cxr11_line(film: str, positive: int) -> str:
    labels = ",".join(str(int(i == positive)) for i in range(11))
    return f"chest_x-rays11_kaggle/{film}.jpg\t{labels}"


def test_cxr11_takes_its_patients_from_ranzcr_where_that_is_at_hand(tmp_path):
    cxr11_folder(tmp_path, cxr11_line("1.2", 0), cxr11_line("1.3", 1), cxr11_line("1.4", 10))
    header = ",".join(["StudyInstanceUID", *RANZCR_CLIP_11, "PatientID"])
    zeros = ",".join("0" * 11)
    ids = ("1.2", "ann"), ("1.3", "bob"), ("1.4", "ann")
    write(tmp_path / "train.csv", header, *(f"{film},{zeros},{who}" for film, who in ids))
    write(tmp_path / "train" / "1.3.jpg", "")
    table = read_dataset("cxr11", tmp_path)
    assert table.patients.tolist() == ["bob", "ann"]
    assert table.split.tolist() == ["valid", "test"]
    assert table.images[0] == tmp_path / "train" / "1.3.jpg"
    ranzcr = read_dataset("ranzcr", tmp_path)
    assert ranzcr.studies.tolist() == ["1.2", "1.3", "1.4"]
    assert ranzcr.images[2] == tmp_path / "train" / "1.4.jpg"


@pytest.mark.parametrize(
    "line", ["a.jpg 1,0,0,0,0,0,0,0,0,0,0", "a.jpg\t1,0", cxr11_line("a", 0).replace("1,", "2,")]
)
def test_a_line_of_a_list_that_is_not_a_film_with_labels_is_refused(tmp_path, line):
    cxr11_folder(tmp_path, cxr11_line("b", 0), line, cxr11_line("c", 0))
    with pytest.raises(DatasetError, match=r"_val\.txt, line 1: expected a path, a tab and 11"):
        read_dataset(None, tmp_path)


def test_lists_whose_categories_are_not_named_are_refused(tmp_path):
    cxr11_folder(tmp_path, *(cxr11_line(film, 0) for film in "abc"))
    write(tmp_path / "chest_x-rays11_multi_label_classes.txt", *RANZCR_CLIP_11[:-1])
    with pytest.raises(DatasetError, match="must name each of these once"):
        read_dataset(None, tmp_path)


def test_the_categories_file_decides_which_label_is_which(tmp_path):
    cxr11_folder(tmp_path, *(cxr11_line(film, 0) for film in "abc"))
    write(tmp_path / "chest_x-rays11_multi_label_classes.txt", *reversed(RANZCR_CLIP_11))
    table = read_dataset(None, tmp_path)
    assert table.label_names == RANZCR_CLIP_11
    assert table.y[:, -1].tolist() == [1, 1, 1]
    assert table.y.sum() == 3


# --- MS-COCO ------------------------------------------------------------------------------------


def coco(first_image: int, count: int, **changes) -> str:
    content = {
        "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "person"}],
        "images": [
            {"id": i, "file_name": f"COCO_{i:012}.jpg"}
            for i in range(first_image, first_image + count)
        ],
        "annotations": [
            {"image_id": first_image, "category_id": 3, "iscrowd": 0},
            {"image_id": first_image, "category_id": 3, "iscrowd": 1},
            {"image_id": first_image + 1, "category_id": 1, "iscrowd": 1},
        ],
    }
    return json.dumps({**content, **changes})


def test_coco_images_are_positive_for_what_is_annotated_and_negative_for_the_rest(tmp_path):
    write(tmp_path / "annotations/instances_train2014.json", coco(0, 20))
    write(tmp_path / "annotations/instances_val2014.json", coco(50, 3))
    write(tmp_path / "annotations/captions_val2014.json", "{}")
    table = read_dataset(None, tmp_path)
    assert table.dataset == "coco"
    assert table.label_names == ("person", "cat")
    assert table.y[:3].tolist() == [[0, 1], [1, 0], [0, 0]]
    assert Counter(table.split.tolist()) == {"train": 18, "valid": 2, "test": 3}
    assert names_in(table, "test") == {f"COCO_{i:012}.jpg" for i in (50, 51, 52)}
    assert table.images[0] == tmp_path / "train2014/COCO_000000000000.jpg"
    assert table.images[-1] == tmp_path / "val2014/COCO_000000000052.jpg"


def test_coco_labels_are_known_with_the_probability_asked_for(tmp_path):
    path = write(tmp_path / "instances_train2017.json", coco(0, 3000))
    table = arguments("--data", str(path), "--known", "0.1", "--test", "0")
    share = (~np.isnan(table.y[table.split == "train"])).mean()
    assert abs(share - 0.1) < 5 * np.sqrt(0.09 / 5400)
    assert not np.isnan(table.y[table.split == "valid"]).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a COCO instances file"),
        ("{}", "is not a COCO instances file"),
        (coco(0, 1), "an annotation refers to image 1, which is not listed"),
        (
            coco(0, 2, categories=[{"id": 3, "name": "cat"}]),
            "refers to category 1, which is not listed",
        ),
        (coco(0, 2, images=[{"id": 0, "file_name": "a"}] * 2), "refers to image 1"),
    ],
)
def test_a_coco_file_that_does_not_hold_together_is_refused(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        read_dataset("coco", write(tmp_path / "instances_train2014.json", text))


# --- The command line ---------------------------------------------------------------------------


def test_the_command_describes_a_table_without_its_images(tmp_path, capsys):
    path = write(tmp_path / "t.csv", "image,patient,split,Edema", "a,p,train,1", "b,q,test,-1")
    assert main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "split of the source: train 1, test 1" in text
    assert [line.split() for line in text.splitlines() if line.startswith("Edema")] == [
        ["Edema", "1", "0", "1", "0"]
    ]


def test_the_command_gives_the_same_facts_as_json(tmp_path, capsys):
    path = write(tmp_path / "t.csv", "image,patient,split,Edema", "a,p,train,1", "b,p,train,")
    assert main([str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dataset"] == "csv"
    assert (facts["rows"], facts["films"], facts["patients"], facts["studies"]) == (2, 2, 1, 2)
    assert facts["splits"] == {"train": {"films": 2, "patients": 1}}
    assert facts["categories"]["Edema"] == {
        "positive": 1,
        "negative": 0,
        "uncertain": 0,
        "blank": 1,
    }


def test_the_command_counts_and_names_missing_images(tmp_path, capsys):
    write(tmp_path / "here.png", "")
    path = write(tmp_path / "t.csv", "image,Edema", "here.png,1", "gone.png,0")
    assert main([str(path), "--check-images", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["missing_images"] == 1
    assert "1 image is not there: gone.png." in facts["notes"]


def test_the_command_fails_with_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "train.datasets", str(tmp_path / "nowhere")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"train.datasets: there is no {tmp_path / 'nowhere'}\n"


def test_the_command_with_impossible_usage_says_so_with_status_two(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--dataset", "mimic"])
    assert exit_.value.code == 2
    assert "invalid choice: 'mimic'" in capsys.readouterr().err


def test_reading_a_table_needs_no_torch():
    code = "import sys, train.datasets; print({'torch', 'timm', 'PIL'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
