"""Benchmarks run and measure every row of their tables; that of a GPU without one as well."""

from __future__ import annotations

import argparse
import re

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import (
    decision_curves,
    drawn_maps,
    evaluation,
    exponent,
    follow_up,
    frozen_memory,
    gate,
    gpu,
    growth,
    harm,
    intervals,
    ranking,
    start,
    waiting,
)
from cft.labels import NIH_14
from tests.miniatures import write_csv
from train.datasets.labels import LabelTable
from train.evaluation.cross_fit import deal
from train.evaluation.localise import MAP_SIDE, localisation
from train.metrics.net_benefit import net_benefit


@pytest.mark.slow
def test_every_row_of_the_table_is_measured(capsys):
    assert gpu.main(["--device", "cpu", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    assert [what for what, _, _ in cells] == [
        "stage 1, bare step",
        "stage 1, loop",
        "packed films from the device",
        "packed films from the host",
        "stage 2, auto",
        "stage 2, ga",
        "stage 2, gradient",
        "stage 2, a generation of the published search",
        "inference, one film, file to probabilities",
        "inference, files to probabilities",
        "inference, network alone",
    ]
    for *_, result in cells:
        (number,) = re.match(r"([\d,.]+) (?:films/s|s|ms)\b", result).groups()
        assert float(number.replace(",", "")) > 0
    assert lines[0].startswith("CPU, ")


@pytest.mark.slow
def test_features_on_disk_go_through_both_stages(capsys, tmp_path):
    words = ["--films", "3000", "--features", "16", "--categories", "2", "--threads", "1"]
    frozen_memory.main([*words, "--work", str(tmp_path)])
    sizes, *stages, last = capsys.readouterr().out.splitlines()
    assert sizes == "3,000 films x 16 features, 2 categories, 0 MB"
    assert [line.split(":")[0] for line in stages] == ["stage 1", "stage 2"]
    for line in stages:
        lowest = re.search(r"of processors\), [-\d,]+ MB, AUROC ([\d.]+) to", line)[1]
        assert float(lowest) > 0.8
    assert stages[1].endswith("of 3,000 films")
    assert last.startswith("the process: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_methods_of_stage_2_are_compared_on_films(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CFT_GATE", "off")  # as the benchmark leaves it
    generator, count = np.random.default_rng(0), 80
    (tmp_path / "nih" / "images").mkdir(parents=True)
    names = [f"{number:08}_000.png" for number in range(count)]
    for name in names:
        film = generator.integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(film).save(tmp_path / "nih" / "images" / name)
    same = {"age": 50, "sex": "F", "view": "PA", "width": 1024}
    rows = [
        {"image": name, "patient_id": name} | same | dict.fromkeys(NIH_14, number % 2)
        for number, name in enumerate(names)
    ]
    write_csv(tmp_path / "nih" / "labels.csv", list(rows[0]), rows)
    columns = ["image", *NIH_14]
    experts = [{column: row[column] for column in columns} for row in rows[:20]]
    write_csv(tmp_path / "nih" / "expert_labels.csv", columns, experts)

    words = ["films", "--data", str(tmp_path / "nih"), "--work", str(tmp_path / "work")]
    words += ["--arch", "test_resnet", "--image-size", "32", "--epochs", "1", "--seeds", "0"]
    assert harm.main([*words, "--methods", "auto"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line for line in lines if line.endswith(" before, 1 seed")]
    assert [cell.split(": ")[0] for cell in cells] == [
        f"{pattern}, labels of {truth}"
        for pattern in ("random", "reports")
        for truth in ("nih", "nih-experts")
    ]
    assert sum(line.startswith("| auto |") for line in lines) == 4


def test_a_machine_without_a_gpu_is_told_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("benchmarks.gpu: torch sees no GPU on this machine; ")
    assert said.err.count("\n") == 1


def test_shares_of_the_gate_have_wilsons_interval():
    z = 1.959964
    assert gate._share(0, 40) == f"0.000 (0.000 to {z**2 / (40 + z**2):.3f})"  # the closed form
    assert gate._share(40, 40) == f"1.000 ({40 / (40 + z**2):.3f} to 1.000)"
    assert gate._share(20, 40).startswith("0.500 (")


def test_a_kind_of_picture_that_is_not_there_has_a_row_that_says_so():
    assert gate._row(gate.Kind("pictures", []), gate.Counter())[2::5] == ["0", "not there"]


@pytest.mark.slow
def test_an_evaluation_is_measured_at_each_size(capsys):
    assert evaluation.main(["--films", "60", "120", "--replicates", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table, grown = lines[:7], lines[7:]
    assert [line.split("  ")[0] for line in table] == ["films", *["60"] * 3, *["120"] * 3]
    assert "everything" in table[-1]
    assert [line.split(":")[0] for line in grown] == [
        "CPU s, AUROC, AP, rates",
        "CPU s, calibration, net benefit",
        "CPU s, everything",
    ]


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_the_exponent_of_a_power_law_is_found(power):
    costs = {n: 3 * n**power for n in (10, 40, 160)}
    assert exponent.exponent(costs) == pytest.approx(power, abs=1e-9)
    assert exponent.line("work", costs).endswith(f"; exponent {abs(power):.2f}")


def test_n_log_n_has_an_exponent_a_little_above_one():
    costs = {n: n * np.log(n) for n in (10_000, 40_000, 160_000)}
    assert 1.05 < exponent.exponent(costs) < 1.15


@pytest.mark.slow
def test_the_growth_of_a_part_is_measured_at_three_sizes(capsys):
    assert growth.main(["--only", "DeLong", "--scale", "0.01"]) == 0
    (found,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"DeLong, one finding: 50 films \S+ s, 200 films \S+ s, 800 films \S+ s; "
        r"exponent -?[\d.]+",
        found,
    )


def test_what_limits_of_repeatability_leave_to_see_is_counted_pair_by_pair():
    """Three patients of two films: no change, a finding that comes, one that goes unseen."""
    y = np.array([[0, 0], [0, 0], [0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    names = [f"p{i // 2}_{i % 2}" for i in range(6)]
    films = LabelTable(
        images=[f"{name}.png" for name in names],
        y=y,
        uncertain=np.zeros(y.shape, bool),
        label_names=("A", "B"),
        patients=np.array([name[:2] for name in names]),
        studies=np.array(names),
        split=np.full(6, "test"),
    )
    logits = np.array([[0, 0], [0.5, 3], [0, 0], [2, 0], [0, 0], [0.2, 0]], float)
    said = follow_up.lines(logits, films, np.array([1.0, 1.0]))
    assert [re.search(r"(\d\.\d{3}) \(", line)[1] for line in said] == [
        "0.500",
        "0.500",
        "0.500",
        "0.000",
    ]
    assert said[0].startswith("1 pairs with equal labels")
    assert said[1].startswith("2 changed labels")


def test_maps_of_what_was_drawn_hit_it_and_maps_of_a_corner_do_not():
    findings = ["Mass", "Pleural Effusion"]
    films, places = drawn_maps.cases(3, findings)
    corner = np.zeros((MAP_SIDE, MAP_SIDE))
    corner[0, 0] = 1
    found = {
        "chexnet": localisation(
            {case: of.astype(float) for case, of in places.of.items()}, places, {}
        ),
        "no-iim": localisation(dict.fromkeys(films, corner), places, {}),
    }
    rows = drawn_maps.table(found)
    assert [row.count("1.00 (1.00 to 1.00)") for row in rows[2:4]] == [4, 0]  # hits and IoU of both
    assert rows[3].count("| 0.00 (0.00 to 0.00)") == 4
    figure = drawn_maps.draw(films, places, {"chexnet": dict.fromkeys(films, corner)})
    assert [axes.get_title("left") for axes in figure.axes] == ["drawn", "chexnet", "", ""]


class TestDecisionCurves:
    @pytest.fixture
    def films(self):
        generator = np.random.default_rng(3)
        y = (generator.random(400) < 0.3).astype(float)
        return y, np.arange(400) // 2, generator.normal(y)

    def test_a_scaling_moves_no_film_past_another_of_its_fold(self, films):
        y, patients, scores = films
        found = decision_curves.recalibrated(scores, y, patients)
        fold = deal(y, patients)
        for k in range(5):
            own = np.flatnonzero(fold == k)[np.argsort(scores[fold == k])]
            assert (np.diff(found[own]) >= 0).all()
        assert abs(found.mean() - y.mean()) < 0.02

    def test_a_films_own_label_has_no_part_in_its_probability(self, films):
        y, patients, scores = films
        fold = deal(y, patients)
        other = np.where(fold == 0, 1 - y, y)
        assert (deal(other, patients) != fold).any(), "folds depend on labels, so hold them fixed"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decision_curves, "deal", lambda *_: fold)
            first, second = (
                decision_curves.recalibrated(scores, of, patients) for of in (y, other)
            )
        np.testing.assert_array_equal(first[fold == 0], second[fold == 0])
        assert not np.allclose(first[fold == 1], second[fold == 1])

    @pytest.mark.parametrize("t", [0.1, 0.5])
    def test_films_add_up_to_the_net_benefit(self, films, t):
        y, _, scores = films
        p = 1 / (1 + np.exp(-scores))
        called = p >= t
        table = called[y == 1].sum() / 400 - called[y == 0].sum() / 400 * t / (1 - t)
        assert decision_curves.per_film(called, y, t).mean() == pytest.approx(table)
        assert net_benefit(p, y, np.array([t]))[0] == pytest.approx(table)

    def test_every_task_model_and_threshold_has_a_row(self, shared, capsys):
        folder = shared / "reference" / "chexpert-test"
        options = ["--predictions", str(folder / "predictions" / "yww211.csv")]
        options += ["--truth", str(folder / "groundtruth.csv")]
        options += ["--radiologists", str(folder / "radiologists")]
        assert decision_curves.main(options) == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if "yww211" in line]
        assert len(rows) == 20
        # Radiologist bc4 on atelectasis as published: 0.8039 and 0.2133, of 153 and 347 studies.
        treated = 0.8039 * 153 / 500 - 0.2133 * 347 / 500 * 0.2 / 0.8
        assert f"{treated:+.3f}" in next(
            row for row in rows if "Atelectasis" in row and " 0.2 " in row
        )


@pytest.mark.slow
def test_all_ways_to_wait_are_measured_at_each_size(capsys):
    assert waiting.main(["--busy", "0", "--repeats", "1", "--threads", "1"]) == 0
    table, said = (lines := capsys.readouterr().out.splitlines())[:10], lines[10:]
    assert [row.rsplit(maxsplit=3)[0].strip() for row in table[1:]] == [
        *["in a loop"] * 3,
        *["briefly"] * 3,
        *["asleep"] * 3,
    ]
    assert ["exponent" in row for row in said] == [True] * 3 + [False] * 2


@pytest.mark.slow
def test_a_process_that_does_not_end_well_is_not_measured():
    with pytest.raises(SystemExit, match="ended with 3"):
        start.seconds_of(["-c", "raise SystemExit(3)"])
    wall, processors = start.seconds_of(["-c", "pass"])
    assert wall > 0
    assert processors >= 0


def test_the_kernels_of_ranking_are_measured_at_three_sizes():
    options = argparse.Namespace(vectors=2, films=640, positives=0.3, rounds=1)
    lines = ranking.growth_of(options)
    assert [text.split(" of ")[0] for text in lines] == [
        "AUROC",
        "AP",
        "sorting both classes alone",
    ]
    assert all("40 films" in text and "640 films" in text for text in lines)


@pytest.mark.slow
def test_intervals_are_measured_at_three_sizes(capsys, monkeypatch):
    words = ["--studies", "160", "--replicates", "40", "--rounds", "1", "--categories", "2"]
    monkeypatch.setattr("sys.argv", ["intervals", *words])
    intervals.main()
    assert capsys.readouterr().out.count("; exponent ") == 2
