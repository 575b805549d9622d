"""Films of other hospitals: no patient on two sides, and no film that was looked at in the test."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import gate, other_hospitals
from benchmarks.other_hospitals import by, other_films


def folder_of(path, images):
    with open(path / "sources.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "repo", "view"])
        table.writerows([name, name.split("_")[0], "AP"] for name in images)
    return path


@pytest.fixture
def everything(tmp_path):
    """A folder that lists every film whose group is known, in the order of their names."""
    with open(other_hospitals._GROUPS, newline="") as file:
        return folder_of(tmp_path, [row["image"] for row in csv.DictReader(file)])


def test_a_film_without_a_group_is_refused(tmp_path):
    folder = folder_of(tmp_path, ["hannover_0957ce54.jpg", "new.jpg"])
    with pytest.raises(ValueError, match=r"sources\.csv: no group is known of new\.jpg"):
        other_films(folder)


def test_without_the_folder_there_are_none(tmp_path):
    assert other_films(tmp_path) == []


def test_films_of_a_group_are_on_one_side_and_children_on_none(everything):
    films = other_films(everything)
    sides = {}
    for film in films:
        sides.setdefault(film.group, set()).add(film.side)
    assert all(len(side) == 1 for side in sides.values())
    assert set.union(*sides.values()) == {"train", "valid", "test"}
    assert "child" not in sides
    assert len(films) == 428


def test_no_group_of_a_film_that_was_looked_at_tests(everything):
    with open(everything / "sources.csv", newline="") as file:
        seen = {row["image"] for row in list(csv.DictReader(file))[::6]}
    films = other_films(everything)
    looked_at = {film.group for film in films if film.path.name in seen}
    assert not looked_at & {film.group for film in films if film.side == "test"}
    assert looked_at >= {film.group for film in films if film.side != "test"}


def test_the_known_patients_are_together(everything):
    # Two films of one patient, by the list of the Hannover Medical School and by COVID-CXNet's.
    group = {film.path.name: film.group for film in other_films(everything)}
    assert group["hannover_19abe1f3.jpg"] == group["hannover_ffe8b4cb.jpg"]
    assert group["cxnet_800.jpg"] == group["cxnet_803.jpg"] != group["cxnet_804.jpg"]


def test_the_lists_name_the_films_behind_their_options(everything, tmp_path, monkeypatch):
    table = SimpleNamespace(
        images=["a.png", "b.png", "c.png"], split=np.array(["train", "valid", "test"])
    )
    (tmp_path / "ood" / "frontal_other").mkdir(parents=True)
    (everything / "sources.csv").rename(tmp_path / "ood" / "frontal_other" / "sources.csv")
    monkeypatch.setattr(gate, "read_dataset", lambda *_: table)
    assert gate.main(["--shared", str(tmp_path), "--lists", str(tmp_path / "lists")]) == 0
    films = other_films(tmp_path / "ood" / "frontal_other")
    for side, first, option in (
        ("train", "a.png", "--others"),
        ("valid", "b.png", "--others-check"),
    ):
        lines = (tmp_path / "lists" / f"{side}.txt").read_text().splitlines()
        assert lines[:2] == [first, option]
        paths = [str(film.path) for film in films if film.side == side]
        assert lines[2 : 2 + len(paths)] == paths
        assert lines[2 + len(paths) :] == (
            ["--credit", other_hospitals.CREDIT] if side == "train" else []
        )


def test_parts_by_view_and_collection(everything):
    films = other_films(everything)
    parts = dict(by(films, lambda film: film.repository))
    assert list(parts) == ["cxnet", "hannover"]
    assert sum(map(len, parts.values())) == len(films)
