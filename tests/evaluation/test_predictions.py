"""Tables of labels, predictions and decisions, joined by their keys."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from tests.evaluation.conftest import evaluate, failure, rewrite, write_csv
from train.errors import TableError
from train.evaluation.predictions import Predictions, predictions_csv
from train.evaluation.read_tables import read_decisions, read_predictions, read_truth

pytestmark = pytest.mark.slow


# --- Tables -------------------------------------------------------------------------------------


def test_rows_and_columns_are_joined_by_name(tables):
    path, a, _ = tables
    truth = read_truth(path, ["Mass", "Edema"])
    (model,) = read_predictions(a, truth)
    with a.open(newline="") as file:
        by_study = {row["Study"]: row for row in csv.DictReader(file)}
    for label in ("Mass", "Edema"):
        expected = [float(by_study[key][label]) for key in truth.keys]
        np.testing.assert_array_equal(model.column(label), expected)


def test_uncertain_and_blank_labels_are_unknown_and_counted(tmp_path):
    path = write_csv(tmp_path / "t.csv", {"Study": list("abcd"), "Mass": ["1", "", "-1.0", "0"]})
    truth = read_truth(path, ["Mass"])
    np.testing.assert_array_equal(truth.labels[:, 0], [1, np.nan, np.nan, 0])
    assert truth.notes == ("1 labels marked uncertain (-1) are counted as unknown",)


@pytest.mark.parametrize(
    ("columns", "unit", "expected"),
    [
        ({"Study": ["patient1/study1", "patient1/study2"]}, "patient", ["patient1"] * 2),
        ({"Study": ["x", "y"], "patient_id": ["7", "7"]}, "patient", ["7", "7"]),
        ({"Study": ["x", "y"]}, "patient", ["x", "y"]),
        ({"Study": ["patient1/a", "patient1/b"]}, "study", ["patient1/a", "patient1/b"]),
    ],
)
def test_films_are_grouped_by_patient_where_the_table_says_who(tmp_path, columns, unit, expected):
    path = write_csv(tmp_path / "t.csv", {**columns, "Mass": [1, 0]})
    assert read_truth(path, ["Mass"], unit=unit).groups.tolist() == expected


def test_a_misspelt_column_and_surplus_rows_are_named(tables):
    path, a, _ = tables
    rewrite(a, lambda rows: [{**row, "Masss": "0"} for row in rows])
    rewrite(a, lambda rows: [*rows, {**rows[0], "Study": "patient99/study1"}])
    (model,) = read_predictions(a, read_truth(path, ["Mass", "Edema"]))
    assert any("'Masss'" in note for note in model.notes)
    assert any("1 rows" in note for note in model.notes)


def test_categories_that_are_not_predicted_are_named(tables, tmp_path, no_plots):
    truth, a, b = tables
    rewrite(b, lambda rows: [{"Study": row["Study"], "Mass": row["Mass"]} for row in rows])
    report = evaluate("--predictions", a, b, "--truth", truth, out=tmp_path / "both")
    assert "b.csv does not predict Edema" in report["models"]["b"]["notes"]
    assert report["truth"]["notes"] == []  # sex, age and the like are no categories
    report = evaluate("--predictions", b, "--truth", truth, out=tmp_path / "one")
    assert report["truth"]["notes"] == ["not predicted, so not scored: Edema"]


def test_a_truth_without_a_positive_gives_nulls_and_says_so(tables, tmp_path):
    truth, a, _ = tables
    rewrite(truth, lambda rows: [{**row, "Mass": "0", "Edema": "0"} for row in rows])
    report = evaluate("--predictions", a, "--truth", truth, out=tmp_path / "out")
    model = report["models"]["a"]
    for figures in (*model["categories"].values(), *model["subsets"].values()):
        assert figures["auroc"] is figures["ap"] is figures["ci_low"] is None
    assert any("no known positive" in note for note in model["notes"])
    assert any("there is no mean AUROC over 'all'" in note for note in model["notes"])


def test_written_predictions_are_read_back_exactly(tables, tmp_path):
    path, a, b = tables
    truth = read_truth(path, ["Mass", "Edema"])
    models = [*read_predictions(a, truth), *read_predictions(b, truth)]
    models.append(Predictions("only mass", ("Mass",), models[0].columns(["Mass"])))
    copy = tmp_path / "copy.csv"
    copy.write_text(predictions_csv(truth, models))
    for original, again in zip(models, read_predictions(copy, truth), strict=True):
        assert again.name == original.name
        assert set(again.label_names) == set(original.label_names)
        np.testing.assert_array_equal(again.columns(original.label_names), original.scores)


def test_a_reader_may_leave_a_study_open(tables, tmp_path):
    truth = read_truth(tables[0], ["Mass"])
    decisions = write_csv(
        tmp_path / "r.csv", {"Study": truth.keys, "Mass": ["", *["1"] * (len(truth.keys) - 1)]}
    )
    column = read_decisions(decisions, truth).column("Mass")
    assert np.isnan(column[0])
    assert (column[1:] == 1).all()


def test_a_table_with_spaces_and_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeffStudy, Mass \na, 1 \nb,0\n", encoding="utf-8")
    assert read_truth(path, ["Mass"]).labels[:, 0].tolist() == [1, 0]


def test_an_unknown_file_is_a_table_error(tmp_path):
    with pytest.raises(TableError, match=r"cannot read .*none\.csv"):
        read_truth(tmp_path / "none.csv", ["Mass"])


# --- Tables of films ----------------------------------------------------------------------------


@pytest.fixture
def films_tables(tmp_path):
    """What `cft --csv` writes on 12 films, one of which cannot be read, and one's own labels."""
    generator = np.random.default_rng(5)
    y = generator.integers(0, 2, 12)
    y[:2] = 0, 1
    scores = [repr(float(x)) for x in generator.random(12)]
    files = [f"films/{i}.png" for i in range(12)]
    scores[3] = ""
    errors = ["" if x else "not an image" for x in scores]
    columns = {"file": files, "Mass": scores, "view": [""] * 12, "notes": [""] * 12}
    found = write_csv(tmp_path / "findings.csv", {**columns, "error": errors})
    own = {"image": [f"{i}.png" for i in range(12)], "patient": [i // 2 for i in range(12)]}
    return write_csv(tmp_path / "my.csv", {**own, "split": ["test"] * 12, "Mass": y}), found


def test_what_the_program_writes_is_scored_against_ones_own_table(films_tables, tmp_path, no_plots):
    truth, found = films_tables
    report = evaluate("--predictions", found, "--truth", truth, out=tmp_path / "out")
    assert report["truth"]["row"] == "film"
    assert report["truth"]["films"] == report["truth"]["rows"] == 11
    assert report["truth"]["groups"] == 6
    assert report["truth"]["notes"] == [
        "left out 1 film for which findings.csv has an error instead of scores, first '3.png': "
        "not an image"
    ]
    assert report["models"]["findings"]["notes"][0] == (
        "joined 'file' of findings.csv with 'image' of the truth by the last part of their paths"
    )
    scores = {row["file"]: row["Mass"] for row in csv.DictReader(found.open(newline=""))}
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert float(row["Mass"]) == float(scores[f"films/{row['image']}"])


def test_the_csv_of_the_program_itself_is_accepted(films, model_folder, tmp_path, no_plots):
    from cft.__main__ import main as use

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no film")
    found = tmp_path / "found.csv"
    use([*map(str, [*films, bad]), "--model", str(model_folder), "--csv", str(found)])
    columns = {"image": [*(film.name for film in films), "bad.png"], "Effusion": [0, 1, 0, 1, 1, 0]}
    truth = write_csv(tmp_path / "my.csv", columns)
    report = evaluate("--predictions", found, "--truth", truth, out=tmp_path / "out")
    assert report["truth"]["films"] == 5
    assert "left out 1 film for which found.csv has an error" in " ".join(report["truth"]["notes"])


def test_films_of_the_same_name_are_joined_by_their_whole_path_only(films_tables, tmp_path, capsys):
    truth, found = films_tables
    rewrite(found, lambda rows: [*rows, {**rows[0], "file": "others/0.png"}])
    message = failure(capsys, "--predictions", found, "--truth", truth, out=tmp_path / "out")
    assert "lacks 1 of the 11 rows" in message
    rewrite(truth, lambda rows: [{**r, "image": f"films/{r['image']}"} for r in rows])
    report = evaluate("--predictions", found, "--truth", truth, out=tmp_path / "out")
    notes = report["models"]["findings"]["notes"]
    assert "joined 'file' of findings.csv with 'image' of the truth by their values" in notes
    assert "1 rows of findings.csv have no truth and are not used" in notes


def test_a_key_that_is_named_is_used(films_tables, tmp_path, no_plots):
    truth, found = films_tables
    rewrite(truth, lambda rows: [{**r, "case": f"films/{r['image']}"} for r in rows])
    report = evaluate(
        "--predictions", found, "--truth", truth, "--key", "case", out=tmp_path / "out"
    )
    assert "with 'case' of the truth by their values" in report["models"]["findings"]["notes"][0]


@pytest.mark.parametrize("text", ["NaN", "n/a", "none", "NA"])
def test_a_blank_label_is_blank_for_every_reader(tmp_path, text):
    path = write_csv(tmp_path / "t.csv", {"Study": list("abc"), "Mass": [text, "yes", "False"]})
    np.testing.assert_array_equal(read_truth(path, ["Mass"]).labels[:, 0], [np.nan, 1, 0])
