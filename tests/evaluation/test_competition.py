"""The competition's official figures, and its protocol."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_curve

from cft.labels import CHEXPERT_5
from tests.evaluation.conftest import evaluate, rewrite
from train.evaluate import main
from train.evaluation import competition
from train.evaluation.essential_tables import reader_benefit_parts
from train.evaluation.predictions import Predictions, Truth
from train.evaluation.protocol import Settings, evaluate_models
from train.metrics.roc import roc_vertices

pytestmark = pytest.mark.slow


# Official mean AUROC of the five tasks (the competition's server; ngango2's is the organisers'
# data scored by the same rule) and readers below the curve, in the order of CHEXPERT_5.
OFFICIAL = {
    "drnet": (0.925528, [3, 3, 2, 3, 2]),
    "ihil": (0.926628, None),
    "ngango2": (0.923432, None),
    "sensexdr": (0.926643, None),
    "uestc": (0.924016, None),
    "yww211": (0.923129, [1, 3, 3, 3, 2]),
}


@pytest.fixture(scope="module")
def official(shared, tmp_path_factory):
    """The six competition models on the test set, with the readers: the folder written."""
    source = shared / "reference" / "chexpert-test"
    out = tmp_path_factory.mktemp("official")
    predictions = sorted(map(str, (source / "predictions").glob("*.csv")))
    arguments = ["--predictions", *predictions, "--truth", str(source / "groundtruth.csv")]
    arguments += ["--radiologists", str(source / "radiologists"), "--ensemble", "mean"]
    assert main([*arguments, "--replicates", "200", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def report(official):
    return json.loads((official / "report.json").read_text())


# --- CheXpert's official figures ----------------------------------------------------------------


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_mean_of_the_five_tasks_equals_the_official_score(report, name):
    mean = report["models"][name]["subsets"]["chexpert_5"]
    assert round(mean["auroc"], 6) == OFFICIAL[name][0]
    assert mean["ci_low"] < mean["auroc"] < mean["ci_high"]


@pytest.mark.parametrize("name", ["drnet", "yww211"])
def test_readers_below_the_curve_equal_the_official_counts(report, name):
    below = report["models"][name]["radiologists_below"]
    assert [below[label] for label in CHEXPERT_5] == OFFICIAL[name][1]
    assert below["mean"] == pytest.approx(np.mean(OFFICIAL[name][1]))


@pytest.mark.parametrize(
    ("reader", "label", "sensitivity", "false_positive_rate"),
    [
        ("bc4", "Atelectasis", 0.8039, 0.2133),
        ("bc6", "Edema", 0.7949, 0.1872),
        ("bc8", "Pleural Effusion", 0.8942, 0.1364),
    ],
)
def test_each_readers_rates_equal_the_published_ones(
    report, reader, label, sensitivity, false_positive_rate
):
    rates = report["radiologists"][reader][label]
    assert round(rates["sensitivity"], 4) == sensitivity
    assert round(rates["false_positive_rate"], 4) == false_positive_rate


def test_the_place_is_that_of_the_official_table(shared, report):
    table = shared / "reference" / "chexpert_leaderboard_scores.csv"
    with table.open(newline="") as file:
        figures = [
            float(row["mean_auc"]) + float(row["mean_rads"]) / 1000 for row in csv.DictReader(file)
        ]
    assert len(figures) == 290
    for name in ("drnet", "ihil", "sensexdr", "uestc", "yww211"):
        model = report["models"][name]
        own = OFFICIAL[name][0] + model["radiologists_below"]["mean"] / 1000
        place = 1 + sum(figure > own + 1e-9 for figure in figures)
        assert model["leaderboard"] == {"place": place, "of": 290}


def test_scores_that_exceed_one_are_ranked_and_not_clipped(report):
    row = report["models"]["ngango2"]["categories"]["Atelectasis"]
    assert row["auroc"] > 0.88
    assert row["brier"] is None


def test_the_folder_holds_report_predictions_and_plots(official):
    for name in ("report.html", "report.json", "report.md", "predictions.csv"):
        assert (official / name).stat().st_size > 0
    for name in ("auroc", "roc", "precision-recall", "reliability"):
        with Image.open(official / "plots" / f"{name}.png") as image:
            assert min(image.size) > 800
            assert len(image.convert("L").getcolors(256)) > 50  # not a blank page
        assert (official / "plots" / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        assert f"plots/{name}.png" in (official / "report.md").read_text()


def all_files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_report_lists_the_files_of_its_folder(official, report):
    assert report["files"] == all_files(official)


def test_plots_of_an_earlier_report_are_removed_and_other_files_stay(tables, tmp_path):
    truth, a, _ = tables
    out = tmp_path / "out"
    evaluate("--predictions", a, "--truth", truth, out=out)
    assert (out / "plots" / "subgroups.png").exists()
    (out / "plots" / "mine.png").write_text("mine")
    rewrite(truth, lambda rows: [{k: r[k] for k in ("Study", "Edema", "Mass")} for r in rows])
    report = evaluate("--predictions", a, "--truth", truth, out=out)
    assert not list((out / "plots").glob("subgroups.*"))
    assert all_files(out) == sorted([*report["files"], "plots/mine.png"])


@pytest.mark.parametrize("damaged", ["", "[]", "null", '{"files": 5}', '{"files": [5, null, []]}'])
def test_a_damaged_report_is_written_anew(tables, tmp_path, no_plots, damaged):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text(damaged)
    report = evaluate("--predictions", tables[1], "--truth", tables[0], out=out)
    assert report["files"] == ["predictions.csv", "report.html", "report.json", "report.md"]


def test_only_plots_within_the_folder_are_ever_removed(tables, tmp_path, no_plots):
    out, elsewhere = tmp_path / "out", tmp_path / "plots"
    inside = [out / name for name in ("notes.txt", "plots/notes.txt", "films/a.png")]
    outside = [elsewhere / "roc.png", tmp_path / "a.png"]
    (out / "plots" / "folder.png").mkdir(parents=True)
    (out / "plots" / "linked").symlink_to(elsewhere)
    for path in (*inside, *outside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    listed = [str(path.relative_to(out)) for path in inside] + list(map(str, outside))
    listed += ["../plots/roc.png", "plots/../../a.png", "plots/../../plots/roc.png"]
    listed += ["plots/linked/roc.png", "plots/folder.png", "plots/gone.png", "\0/a.png"]
    (out / "report.json").write_text(json.dumps({"files": listed}))
    evaluate("--predictions", tables[1], "--truth", tables[0], out=out)
    assert all(path.read_text() == "mine" for path in (*inside, *outside))


def test_the_ensemble_is_scored_among_the_models(report):
    ensemble = report["models"]["ensemble"]
    best = max(r["subsets"]["all"]["auroc"] for n, r in report["models"].items() if n in OFFICIAL)
    assert ensemble["subsets"]["all"]["auroc"] > best
    assert any("ngango2" in note for note in ensemble["notes"])  # its scores are no probabilities


def test_every_pair_of_models_is_compared(report):
    pairs = {(c["first"], c["second"]) for c in report["comparisons"]}
    assert len(pairs) == 21
    comparison = next(c for c in report["comparisons"] if c["second"] == "uestc")
    same = comparison["categories"]["Consolidation"]  # drnet and uestc share these scores
    assert same["difference"] == 0
    assert same["delong"]["p"] == same["bootstrap"]["p"] == 1
    five = comparison["subsets"]["chexpert_5"]
    assert five.pop("categories") == list(CHEXPERT_5)
    assert five == pytest.approx(comparison["mean"])


def test_a_comparison_names_the_mean_over_the_five_tasks_once(official):
    text = (official / "report.md").read_text()
    assert text.count("mean AUROC over chexpert_5") == 21
    assert "mean AUROC over all" not in text


def test_only_models_that_were_run_have_a_plot_of_calibration(official):
    assert not (official / "plots" / "calibration.png").exists()


def test_the_roc_grid_has_a_band_however_many_models_there_are(official, tables, tmp_path):
    svg = (official / "plots" / "roc.svg").read_text()
    assert svg.count('id="FillBetweenPolyCollection') == 5  # the best of seven models, five tasks
    assert "Band and figures: 95 % interval of ensemble" in svg


# --- The step rule, by hand ---------------------------------------------------------------------

# Vertices: (0, 0) (0, 1/2) (1/2, 1/2) (1/2, 1) (1, 1).
SCORES, TRUTH = np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("sensitivity", "false_positive_rate", "below"),
    [
        (0.5, 0.25, True),  # before the vertex (1/2, 1/2) the curve is at 1/2
        (0.51, 0.25, False),
        (0.5, 0.5, True),  # the first vertex at 1/2 is (1/2, 1/2); before it 1/2
        (0.51, 0.5, False),  # though the curve climbs to 1 at this very rate
        (1.0, 0.75, True),
        (0.1, 0.0, False),  # nothing lies before the first vertex
        (0.0, 0.0, True),
    ],
)
def test_the_step_rule_reads_the_curve_before_the_vertex(sensitivity, false_positive_rate, below):
    result = competition.readers_below(SCORES, TRUTH, {"r": (sensitivity, false_positive_rate)})
    assert result == {"count": int(below), "readers": ["r"] if below else []}


def test_the_vertices_are_those_of_scikit_learn():
    generator = np.random.default_rng(4)
    labels = generator.choice([0, 1, np.nan], 200, p=[0.6, 0.3, 0.1])
    scores = (generator.standard_normal(200) + np.nan_to_num(labels)).round(1)
    known = ~np.isnan(labels)
    expected = roc_curve(labels[known], scores[known], drop_intermediate=False)[:2]
    np.testing.assert_allclose(roc_vertices(scores, labels), expected)


def test_tied_scores_make_one_vertex():
    x, y = roc_vertices(np.array([1.0, 1.0, 0.0, 5.0]), np.array([1, 0, 0, np.nan]))
    np.testing.assert_allclose([x, y], [[0, 0.5, 1], [0, 1, 1]])


def test_readers_rates_leave_out_what_is_unknown():
    decisions, labels = np.array([1, 0, np.nan, 1, 1]), np.array([1, 1, 1, 0, np.nan])
    assert competition.reader_rates(decisions, labels) == (0.5, 1.0)


def test_the_majority_of_three_readers_is_a_reader_of_its_own():
    truth = Truth("t", tuple("abcd"), ("Edema",), np.array([[1.0], [1], [0], [0]]),
                  np.arange(4), "study")  # fmt: skip
    votes = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1]])
    readers = [Predictions(f"r{i}", ("Edema",), votes[:, [i]].astype(float)) for i in range(3)]
    model = Predictions("m", ("Edema",), np.array([[0.9], [0.8], [0.2], [0.1]]))
    results = evaluate_models(truth, [model], readers, Settings(replicates=5))
    majority = results["radiologists"]["majority"]["Edema"]
    assert majority == {"sensitivity": 0.5, "false_positive_rate": 0.5}
    assert results["models"]["m"]["radiologists_below"] == {"Edema": 3, "mean": 3.0}
    assert "leaderboard" not in results["models"]["m"]  # these are not the competition's studies
    title, table = reader_benefit_parts(results["reader_net_benefit"])
    assert title.startswith("Net benefit")
    # Of four films one is found and one a false alarm: (1 - t / (1 - t)) / 4.
    found = ["+0.2368", "+0.2222", "+0.1875", "+0.1429", "+0.0000"]
    assert table.rows[1] == ["Edema", "majority", *found]
    # The third calls the two without it: -2 t / (1 - t) / 4.
    alarms = ["-0.0263", "-0.0556", "-0.1250", "-0.2143", "-0.5000"]
    assert table.rows[-1] == ["Edema", "r2", *alarms]
    assert reader_benefit_parts({}) == []
