"""Pointing into boxes, and the floor that sees no film."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pytest

from train.metrics.localisation import fixed_point_hits, inside, peak


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
