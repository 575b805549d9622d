"""Pointing into boxes, and the floor that sees no film."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pytest
from scipy.stats import binom

from train.errors import TableError
from train.evaluation.boxes import Boxes, read_boxes
from train.evaluation.localisation_tables import localisation_parts
from train.evaluation.localise import OVERLAPS, floor_of_boxes, localisation
from train.metrics.localisation import (
    LEVELS,
    cross_fitted,
    fixed_box_figures,
    fixed_box_overlaps,
    fixed_point_hits,
    inside,
    map_overlaps,
    peak,
)
from train.tables import Table


def test_the_peak_is_the_centre_of_the_largest_pixel():
    heat = np.zeros((4, 8))
    heat[1, 6] = 1
    assert peak(heat) == (6.5 / 8, 1.5 / 4)


def test_a_flat_map_points_to_the_middle():
    x, y = peak(np.ones((5, 5)))
    assert (x, y) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("point", "expected"), [((0.2, 0.3), True), ((0.5, 0.5), True), ((0.51, 0.4), False)]
)
def test_the_edge_of_a_box_belongs_to_it(point, expected):
    assert inside(np.array(point), np.array([0.2, 0.3, 0.3, 0.2])) == expected


def test_the_fixed_point_is_chosen_on_the_other_patients():
    left, right = np.array([[0.0, 0.0, 0.4, 1.0]]), np.array([[0.6, 0.0, 0.4, 1.0]])
    hits = fixed_point_hits([left, left, left, right], ["a", "b", "c", "d"])
    assert hits.tolist() == [True, True, True, False]


def test_a_patient_s_own_films_do_not_choose_the_point():
    left, right = np.array([[0.0, 0.0, 0.4, 1.0]]), np.array([[0.6, 0.0, 0.4, 1.0]])
    hits = fixed_point_hits([left, left, left, right, right], ["a", "a", "a", "b", "c"])
    assert hits.tolist() == [False, False, False, False, False]


def test_no_films_no_hits():
    assert fixed_point_hits([], []).shape == (0,)


def test_the_floor_of_nih_s_boxes_is_what_others_found(shared):
    """About 0.39 over all 984 boxes, 0.99 of hearts, hardly a nodule (leave one patient out)."""
    path = shared / "reference" / "nih_BBox_List_2017.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = list(csv.reader(file))[1:]
    hits = {}
    for finding in {row[1] for row in rows}:
        own = [row for row in rows if row[1] == finding]
        boxes = [np.array([row[2:6]], float) / 1024 for row in own]
        hits[finding] = fixed_point_hits(boxes, [row[0].split("_")[0] for row in own])
    assert len(np.concatenate(list(hits.values()))) == 984
    assert np.concatenate(list(hits.values())).mean() == pytest.approx(0.391, abs=0.02)
    assert hits["Cardiomegaly"].mean() == pytest.approx(0.986, abs=0.02)
    assert hits["Nodule"].mean() < 0.1


def box(x, y, width, height):
    return np.array([[x, y, width, height]], float)


class TestMapOverlaps:
    def test_a_map_that_is_the_box_overlaps_it_wholly(self):
        heat = np.zeros((8, 8))
        heat[2:6, 4:8] = 1
        iou, iobb = map_overlaps(heat, box(0.5, 0.25, 0.5, 0.5))
        assert (iou == 1).all()
        assert (iobb == 1).all()

    def test_each_level_is_compared_by_itself(self):
        generator = np.random.default_rng(0)
        heat = generator.random((10, 12))
        boxes = np.array([[0.1, 0.2, 0.5, 0.4], [0.5, 0.5, 0.3, 0.5]])
        truth = np.zeros((10, 12), bool)
        for x, y, w, h in boxes:
            for row, column in np.ndindex(10, 12):
                truth[row, column] |= (
                    x <= (column + 0.5) / 12 <= x + w and y <= (row + 0.5) / 10 <= y + h
                )
        share = (heat - heat.min()) / (heat.max() - heat.min())
        iou, iobb = map_overlaps(heat, boxes)
        for i in (0, 9, 18):
            mask = share >= LEVELS[i]
            assert iou[i] == pytest.approx((mask & truth).sum() / (mask | truth).sum())
            assert iobb[i] == pytest.approx((mask & truth).sum() / mask.sum())

    def test_a_flat_map_points_to_the_whole_film(self):
        iou, _ = map_overlaps(np.full((4, 4), 0.3), box(0, 0, 0.5, 0.5))
        assert iou == pytest.approx(np.full(len(LEVELS), 0.25))


def test_the_level_is_chosen_on_the_other_patients():
    values = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0.9, 0]])
    assert cross_fitted(values, ["a", "b", "c"]).tolist() == [1, 0, 0]
    assert cross_fitted(values[:1], ["a"]).tolist() == [1]  # no other: the middle level


def test_the_fixed_box_is_another_patient_s_with_the_best_overlap():
    common, odd = box(0.2, 0.2, 0.4, 0.4), box(0.8, 0.8, 0.1, 0.1)
    near = box(0.2, 0.2, 0.4, 0.2)
    iou, iobb = fixed_box_overlaps([common, common, near, odd], ["a", "b", "c", "d"])
    assert iou == pytest.approx([1, 1, 0.5, 0])
    assert iobb == pytest.approx([1, 1, 0.5, 0])


def test_a_patient_s_own_box_is_never_the_fixed_one():
    iou, _ = fixed_box_overlaps([box(0, 0, 0.1, 0.1), box(0.5, 0.5, 0.1, 0.1)], ["a", "b"])
    assert iou.tolist() == [0, 0]
    assert fixed_box_overlaps([box(0, 0, 1, 1)], ["a"])[0].tolist() == [0]


def test_each_figure_has_the_fixed_box_that_is_best_for_it_on_the_other_patients():
    """Against a search over all boxes, film by film."""
    generator = np.random.default_rng(3)
    boxes = [
        np.concatenate([generator.uniform(0, 0.5, (n, 2)), generator.uniform(0.1, 0.5, (n, 2))], 1)
        for n in generator.integers(1, 3, 24)
    ]
    patients = [f"p{i // 2}" for i in range(24)]
    overlaps = (0.1, 0.3, 0.5)
    found = fixed_box_figures(boxes, patients, overlaps)

    def measures(one, film):
        pairs = []
        for other in film:
            low = np.maximum(one[:2], other[:2])
            high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
            common = np.clip(high - low, 0, None).prod()
            area = one[2] * one[3]
            pairs.append((common / (area + other[2] * other[3] - common), common / area))
        return np.max(pairs, axis=0)

    for i, patient in enumerate(patients):
        others = [k for k, name in enumerate(patients) if name != patient]
        candidates = np.concatenate([boxes[k] for k in others])
        values = np.array([[measures(x, boxes[k]) for k in others] for x in candidates])
        mean = values[..., 0].mean(axis=1)
        assert (found["iou"][i], found["iobb"][i]) == pytest.approx(
            measures(candidates[mean.argmax()], boxes[i])
        )
        for measure, name in enumerate(("at_iou", "at_iobb")):
            for place, overlap in enumerate(overlaps):
                share = (values[..., measure] >= overlap).mean(axis=1)
                best = np.flatnonzero(share == share.max())
                best = best[values[best, :, measure].mean(axis=1).argmax()]
                reached = measures(candidates[best], boxes[i])[measure] >= overlap
                assert found[name][i, place] == reached


def test_without_other_patients_no_figure_of_a_fixed_box():
    found = fixed_box_figures([box(0, 0, 1, 1)], ["a"], (0.1,))
    assert {name: of.ravel().tolist() for name, of in found.items()} == {
        **{"iou": [0], "iobb": [0]},
        **{"at_iou": [False], "at_iobb": [False]},
    }
    assert fixed_box_figures([], [], (0.1,))["at_iou"].shape == (0, 1)


class TestReadBoxes:
    HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"

    def test_nih_s_form_and_name(self, tmp_path):
        path = tmp_path / "boxes.csv"
        path.write_text(self.HEADER + "1_0.png,Infiltrate,256,512,128,64\n1_0.png,Mass,0,0,64,64\n")
        boxes = read_boxes(path)
        assert boxes.films == {"1_0"}
        assert boxes.of["1_0", "Infiltration"] == pytest.approx(box(0.25, 0.5, 0.125, 0.0625))

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ("1.png,Mass,1,2,3", "row 2 must be film, finding, x, y, width, height"),
            ("1.png,Mass,1,2,3,wide", "row 2 must be"),
            ("1.png,Mass,1,2,nan,3", "row 2 must be"),
            ("1.png,Mass,1000,2,60,3", "row 2: the box is not on a film of 1024 x 1024"),
            ("1.png,Mass,1,2,0,3", "row 2: the box is not on"),
            ("1.png,Mass,-1,2,4,3", "row 2: the box is not on"),
            ("", "there is no box in it"),
        ],
    )
    def test_what_is_no_box_is_refused_with_its_row(self, tmp_path, row, said):
        path = tmp_path / "boxes.csv"
        path.write_text(self.HEADER + row + "\n")
        with pytest.raises(TableError, match=said):
            read_boxes(path)


def scene(hits: int, misses: int):
    """Maps and boxes of one finding in the same place, of which a map finds so many."""
    heat, elsewhere = np.zeros((16, 16)), np.zeros((16, 16))
    heat[4:8, 4:8] = elsewhere[12:16, 12:16] = 1
    n = hits + misses
    boxes = Boxes("b", {(f"{i}_0", "Mass"): box(0.25, 0.25, 0.25, 0.25) for i in range(n)})
    maps = {(f"{i}_0", "Mass"): heat if i < hits else elsewhere for i in range(n)}
    return maps, boxes


def figures_of(hits: int, misses: int, replicates: int = 200):
    return localisation(*scene(hits, misses), {}, replicates=replicates)["micro"]


def test_a_map_is_scored_beside_the_floor_with_their_difference():
    micro = figures_of(6, 2)
    assert (micro["n"], micro["hit"], micro["floor_hit"]) == (8, 0.75, 1)
    assert (micro["iou"], micro["floor_iou"]) == pytest.approx((0.75, 1))
    assert micro["hit_difference"] == pytest.approx(-0.25)
    assert micro["hit_low"] < 0.75 < micro["hit_high"]
    assert micro["hit_difference_high"] <= 0
    assert micro["at_iou"][0] == pytest.approx([0.1, 0.75, 1])


def test_one_patient_has_no_interval():
    micro = figures_of(1, 0)
    assert micro["hit"] == 1
    assert micro["hit_low"] is None
    assert micro["at_iou_interval"][0] == [0.1, None, None]
    assert micro["at_iobb_difference"][0] == [0.1, 1, None, None]  # no floor without others


def test_shares_of_overlaps_have_intervals_as_binomial_draws_have():
    """Each of 20 patients has one film, so a replicate's count is a binomial draw."""
    micro = figures_of(14, 6, replicates=4000)
    low, high = binom.ppf([0.025, 0.975], 20, 0.7) / 20
    for name in ("at_iou", "at_iobb"):
        for place, overlap in enumerate(OVERLAPS):
            assert micro[name][place] == pytest.approx([overlap, 0.7, 1])
            assert micro[f"{name}_interval"][place] == pytest.approx([overlap, low, high])
            assert micro[f"{name}_floor_interval"][place] == [overlap, 1, 1]
            difference = [overlap, -0.3, low - 1, high - 1]
            assert micro[f"{name}_difference"][place] == pytest.approx(difference)


def test_the_report_has_the_shares_of_each_finding_beside_the_floor():
    found = localisation(*scene(14, 6), {}, replicates=200)
    result = {
        "localisation": found["micro"],
        "categories": {"Mass": {"localisation": found["categories"]["Mass"]}},
    }
    boxes = {"name": "b", "kind": "boxes", "floor": {"n": 20, "hit": 1.0, "at_iou": [[0.1, 1.0]]}}
    tables = [x.rows for x in localisation_parts(result, boxes) if isinstance(x, Table)]
    for label, (_, *rows) in zip(("All together", "Mass"), tables[1:], strict=True):
        assert {row[0] for row in rows} == {label}
        assert [float(row[1]) for row in rows] == list(OVERLAPS)
        _, low, high = found["micro"]["at_iobb_interval"][3]
        assert rows[3][5] == f"0.7000 ({low:.4f} to {high:.4f})"
        assert rows[3][6] == "1.0000 (1.0000 to 1.0000)"
        assert rows[3][7] == f"-0.3000 ({low - 1:+.4f} to {high - 1:+.4f})"


def test_films_that_are_not_scored_help_to_choose_the_floor():
    boxes = Boxes("b", {(f"{i}_0", "Mass"): box(0, 0, 0.5, 0.5) for i in range(3)})
    found = localisation({("0_0", "Mass"): np.eye(4)}, boxes, {}, replicates=10)
    assert found["micro"]["n"] == 1
    assert found["micro"]["floor_hit"] == 1
    assert localisation({}, boxes, {}, replicates=10) == {"categories": {}, "micro": None}


def test_the_floor_of_all_984_boxes_is_near_to_the_one_found_elsewhere(shared):
    """.391 of the points, .588, .244 and .157 of the boxes at IoU .1, .3 and .5."""
    boxes = read_boxes(shared / "reference" / "nih_BBox_List_2017.csv.gz")
    floor = floor_of_boxes(boxes, {})
    assert floor["n"] == 984
    assert floor["hit"] == pytest.approx(0.391, abs=0.005)
    at = dict(map(tuple, floor["at_iou"]))
    assert [at[t] for t in (0.1, 0.3, 0.5)] == pytest.approx([0.588, 0.244, 0.157], abs=0.005)
