"""Training labels that the other films of a patient have a say in."""

import gzip
import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cft.labels import NIH_14
from tests.test_labels import table as drawn_table
from train import negative
from train.datasets import DataOptions, HistoryOptions, read_dataset
from train.datasets import history as history_module
from train.datasets.history import History
from train.datasets.labels import LabelTable, hide_labels, targets
from train.errors import DatasetError, UsageError

NAN = np.nan
LABELS = ("Edema", "Atelectasis", "Mass")
HEADER = "image,patient,order,Edema,Atelectasis"


def write(path: Path, *lines: str) -> Path:
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def history_of(
    path: Path, labels=LABELS[:2], share: float = 0.4, reach: float = 5.0, **data
) -> History:
    options = HistoryOptions(history=path, history_share=share, history_reach=reach)
    history = History.of(options, DataOptions(**data), labels)
    assert history is not None
    return history


def collection(seed: int, films: int = 240) -> LabelTable:
    """Films of some 40 patients with all kinds of labels; the number of a film is its order."""
    draw = np.random.default_rng(seed)
    people = np.sort(draw.integers(0, 40, films))
    whole = drawn_table(films, seed)
    return replace(
        whole,
        y=draw.choice(np.array([1, 0, NAN], np.float32), (films, 3), p=[0.3, 0.5, 0.2]),
        uncertain=np.zeros((films, 3), bool),
        label_names=LABELS,
        patients=np.array([f"p{i}" for i in people]),
        split=np.where(people < 30, "train", np.where(people < 35, "valid", "test")),
        names=np.array([f"film-{i}.jpg" for i in range(films)]),
    )


def history_from(whole: LabelTable, seed: int, **changes) -> History:
    """The films of a table, as PNG, with an order of which some is unknown or given twice."""
    draw = np.random.default_rng(seed)
    order = draw.integers(0, 12, len(whole)).astype(float)
    order[draw.random(len(whole)) < 0.1] = np.nan
    films = replace(
        whole,
        names=np.array([name.replace(".jpg", ".png") for name in whole.names]),
        attributes={"order": order},
    )
    return History(**{"films": films, "share": 0.45, "reach": 3.0, "sha256": "", **changes})


def literally(history: History, own: np.ndarray, table: LabelTable) -> np.ndarray:
    """The rule, film by film and label by label."""
    films, order = history.films, history.films.attributes["order"]
    here = {name.split(".")[0]: row for row, name in enumerate(table.names)}
    there = {name.split(".")[0]: row for row, name in enumerate(films.names)}
    result = own.astype(np.float64)
    for name, a in here.items():
        if table.split[a] != "train" or name not in there or math.isnan(order[there[name]]):
            continue
        for c, label in enumerate(table.label_names):
            s = h = 0.0
            for other, g in there.items():
                if other == name or films.patients[g] != table.patients[a]:
                    continue
                y = films.y[g, films.label_names.index(label)]
                if other in here:
                    y = table.y[here[other], c]
                if math.isnan(order[g]) or math.isnan(y):
                    continue
                k = math.exp(-abs(order[g] - order[there[name]]) / history.reach)
                s, h = s + k, h + k * y
            w = history.share * min(1, s)
            if w:
                result[a, c] = (1 - w) * own[a, c] + w * h / s
    return result


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--history-share", "0.5"], "--history-share is 0.5; it must be at least 0 and below 0.5"),
        (["--history-share", "-0.1"], "it must be at least 0 and below 0.5"),
        (["--history-share", "nan"], "it must be at least 0 and below 0.5"),
        (["--history-reach", "0"], "--history-reach is 0; it must be above 0"),
        (["--history-reach", "inf"], "--history-reach is inf; it must be above 0"),
    ],
)
def test_a_share_or_reach_that_cannot_be_is_wrong_usage(words, message, capsys):
    assert negative.main(["--history", "table.csv", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--history-share", "0.3"], "--history-share and --history-reach are for --history"),
        (["--history", "t.csv", "--join", "a"], "--join trains nothing: leave out"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(words, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        negative.main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,order,Edema", "a.png,1,1"], "does not say whose each film is"),
        (["image,patient,Edema", "a.png,p,1"], "does not say in which order"),
        (["image,patient,order,Edema", "a.png,p,late,1"], "column 'order': 'late' is not allowed"),
        (["image,patient,order,Edema", "a.png,p,inf,1"], "'inf' is not allowed; expected a number"),
        (["image,patient,order,Hernia", "a.png,p,1,1"], "has none of the categories Edema, Atel"),
        ([HEADER], "holds no rows"),
    ],
)
def test_a_table_without_what_is_needed_is_refused(tmp_path, lines, message):
    with pytest.raises(DatasetError, match=message):
        history_of(write(tmp_path / "table.csv", *lines))


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="there is no"):
        history_of(tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png,stranger,1,1,0", "has no patient in common with the training films"),
        ("b.png,p0,1,1,0", "lists none of the training films, such as film-0"),
        ("film-0.png,p0,1,1,0\nfilm-1.png,p7,1,1,0", "gives film-1 another patient than the data"),
    ],
)
def test_a_table_of_other_films_is_refused(tmp_path, line, message):
    table = drawn_table()
    history = history_of(write(tmp_path / "table.csv", HEADER, line))
    with pytest.raises(DatasetError, match=message):
        history.apply(targets(table), table)


def test_a_patient_of_validation_or_test_is_not_in_common(tmp_path):
    """Films 2 and 3 of the table are of p1, who has no training film."""
    table = drawn_table(4)
    path = write(tmp_path / "table.csv", HEADER, "film-2.png,p1,1,1,0", "x.png,p1,1,1,0")
    with pytest.raises(DatasetError, match="no patient in common"):
        history_of(path).apply(targets(table), table)


# --- The rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("unknown", ["negative", "ignore", "positive"])
def test_the_targets_are_those_of_the_rule_carried_out_film_by_film(seed, unknown, monkeypatch):
    monkeypatch.setattr(history_module, "_AT_ONCE", 2 if seed else 1024)
    whole = collection(seed)
    history = history_from(whole, seed)
    table = whole.subset(np.random.default_rng(seed + 10).random(len(whole)) < 0.6)
    table = table.with_labels(("Mass", "Edema"))
    own = targets(table, unknown)
    found = history.apply(own, table)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, literally(history, own, table), rtol=1e-6)
    assert (found != own)[~np.isnan(own)].sum() > 50


def test_only_training_films_have_other_targets():
    whole = collection(3)
    own = targets(whole)
    found = history_from(whole, 3).apply(own, whole)
    other = whole.split != "train"
    np.testing.assert_array_equal(found[other], own[other])


def test_labels_of_patients_in_validation_and_test_enter_nothing():
    """Whatever stands there of their films, at hand or not, the targets are the same."""
    whole = collection(4)
    history = history_from(whole, 4)
    table = whole.subset(np.arange(len(whole)) % 3 > 0)
    others = ~np.isin(history.films.patients, table.patients[table.split == "train"])
    assert others.sum() > 40
    changed = np.where(others[:, None], 1 - history.films.y, history.films.y)
    another = replace(history, films=replace(history.films, y=changed))
    own = targets(table)
    np.testing.assert_array_equal(another.apply(own, table), history.apply(own, table))


def test_training_films_of_a_patient_on_two_sides_keep_their_labels():
    """``--shared-patients keep`` leaves such patients."""
    whole = collection(5)
    people, films = np.unique(whole.patients[whole.split == "train"], return_counts=True)
    both = whole.patients == people[films.argmax()]
    split = whole.split.copy()
    split[np.flatnonzero(both)[0]] = "test"
    own = targets(whole)
    history = history_from(whole, 5)
    assert (history.apply(own, whole)[both] != own[both]).any()
    shared = whole.with_split(split)
    found = history.apply(own, shared)
    np.testing.assert_array_equal(found[both], own[both])


def test_a_film_is_not_another_film_of_its_patient():
    """The table lists only the films that are at hand, one of each patient, as JPEG or PNG."""
    whole = collection(6)
    first = np.unique(whole.patients, return_index=True)[1]
    history, one = history_from(whole, 6), whole.subset(first)
    own = targets(one)
    alone = replace(history, films=history.films.subset(first))
    np.testing.assert_array_equal(alone.apply(own, one), own)


def test_the_last_number_of_a_uid_is_no_suffix(tmp_path):
    """1.2.3 and 1.2.4 are two films: the one has a say in the other."""
    names = np.array(["1.2.3", "1.2.4"])
    table = drawn_table(
        2,
        **{"names": names, "y": np.array([[1, 0], [0, 0]], np.float32)},
        **{"uncertain": np.zeros((2, 2), bool), "split": np.array(["train", "train"])},
    )
    path = write(tmp_path / "table.csv", HEADER, "1.2.3,p0,1,1,0", "1.2.4,p0,1,0,0")
    found = history_of(path).apply(targets(table), table)
    np.testing.assert_allclose(found, [[0.6, 0], [0.4, 0]], rtol=1e-6)


def test_no_label_tips():
    whole = collection(7)
    own = targets(whole)
    found = history_from(whole, 7, share=0.499, reach=1e6).apply(own, whole)
    np.testing.assert_array_equal(found >= 0.5, own >= 0.5)
    assert found[own == 0].max() > 0.49


def test_a_share_of_nothing_changes_nothing():
    whole = collection(8)
    own = targets(whole)
    np.testing.assert_array_equal(history_from(whole, 8, share=0.0).apply(own, whole), own)


def test_hidden_labels_stay_hidden():
    """A label that --known hides is not seen again through the patient's other films."""
    whole = replace(collection(9), y=np.ones((240, 3), np.float32))
    table = hide_labels(whole, 0.001, seed=1)
    own = targets(table)
    found = history_from(whole, 9).apply(own, table)
    few = np.isin(table.patients, table.patients[(table.y == 1).any(1) & (table.split == "train")])
    assert few.sum() < len(table) / 2
    np.testing.assert_array_equal(found[~few & (table.split == "train")], 0)


# --- Tables -------------------------------------------------------------------------------------


def test_nihs_table_is_read_with_its_follow_up_numbers(tmp_path):
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    )
    path = write(
        tmp_path / "Data_Entry_2017.csv.gz",
        header,
        "1_000.png,No Finding,0,1,50,M,PA",
        "1_001.png,Mass|Edema,3,1,51,M,AP",
        "1_002.png,Mass,5,1,52,M,AP",
    )
    rows = np.array(["1_000.jpg", "1_002.jpg"])
    table = drawn_table(
        2,
        **{"names": rows, "patients": np.array(["1", "1"]), "split": np.array(["train"] * 2)},
        **{"y": np.array([[0, 0], [0, 1]], np.float32), "uncertain": np.zeros((2, 2), bool)},
        **{"label_names": ("Edema", "Mass")},
    )
    history = history_of(path, table.label_names, share=0.3, reach=2.0)
    assert history.facts == {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "films": 3,
    }
    found = history.apply(targets(table), table)
    k01, k02, k12 = math.exp(-3 / 2), math.exp(-5 / 2), math.exp(-1)
    w0, w2 = 0.3 * (k01 + k02), 0.3 * min(1, k12 + k02)
    expected = [
        [w0 * k01 / (k01 + k02), w0],
        [w2 * k12 / (k12 + k02), (1 - w2) + w2 * k12 / (k12 + k02)],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_compact_layout_of_nih_may_have_an_order(tmp_path):
    header = ",".join(["image,patient_id,age,sex,view,width,order", *NIH_14])
    rows = [f"1_00{n}.png,1,50,M,PA,320,{n or ''},{','.join('0' * 14)}" for n in range(3)]
    history = history_of(write(tmp_path / "labels.csv", header, *rows), NIH_14)
    np.testing.assert_array_equal(history.films.attributes["order"], [NAN, 1, 2])


def test_ones_own_table_may_have_other_names_and_other_columns(tmp_path):
    """A column that the run has no use for may hold anything; --map holds where it fits."""
    path = write(
        tmp_path / "table.csv",
        "Path,PatientID,Follow-up,oedema,remark",
        "film-0.png,p0,1,1,seen",
        "film-1.png,p0,2.5,-1,",
    )
    history = history_of(path, map=("Edema=oedema", "image=scan"))
    np.testing.assert_array_equal(history.films.attributes["order"], [1, 2.5])
    np.testing.assert_array_equal(history.films.y, [[1], [NAN]])
    assert history.films.label_names == ("Edema",)


def test_an_order_is_no_category_of_a_table_to_train_on(tmp_path):
    path = write(tmp_path / "table.csv", HEADER, "a.png,p,1,1,0", "b.png,q,,0,1")
    table = read_dataset("csv", path)
    assert table.label_names == ("Edema", "Atelectasis")
    np.testing.assert_array_equal(table.attributes["order"], [1, NAN])


def test_options_that_cannot_be_are_refused_wherever_they_come_from():
    with pytest.raises(UsageError, match=r"--history-share is 0\.9"):
        HistoryOptions(history_share=0.9)
