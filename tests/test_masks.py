"""CheXlocalize's masks, and kinds of maps against each other."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from train.errors import TableError
from train.evaluation.boxes import Boxes, film_id, read_boxes
from train.evaluation.localisation_tables import localisation_parts
from train.evaluation.localise import compare_maps, floor_of_boxes, localisation
from train.evaluation.masks import MASK_SIDE, read_masks, run_lengths
from train.metrics.localisation import (
    fixed_box_overlaps,
    fixed_point_hits,
    hits,
    map_overlaps,
)


def coded(mask: np.ndarray) -> dict:
    """A mask as COCO writes one, without the code for its lengths."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int), [2]])
    changes = np.flatnonzero(np.diff(flat) != 0)
    return {"size": list(mask.shape), "counts": np.diff(np.append(0, changes)).tolist()}


def compressed(lengths: list[int]) -> str:
    """COCO's code for run lengths, written from its description: five bits a letter."""
    text = ""
    for i, length in enumerate(lengths):
        x, more = length - (lengths[i - 2] if i > 2 else 0), True
        while more:
            bits, x = x & 31, x >> 5
            more = x != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | (32 if more else 0)))
    return text


@pytest.mark.parametrize(
    ("text", "size"), [("PVWX6", (2320, 2828)), ("nefl3", (2022, 2021))]
)  # the empty masks of CheXlocalize's own sample
def test_a_published_empty_mask_is_one_run(text, size):
    assert run_lengths(text) == [size[0] * size[1]]


def test_run_lengths_are_read_back():
    generator = np.random.default_rng(0)
    for most in (3, 40, 1_000_000):
        lengths = generator.integers(0, most, 50).tolist()
        assert run_lengths(compressed(lengths)) == lengths


def test_masks_are_those_of_pycocotools(tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(1)
    drawn = np.asfortranarray(generator.random((MASK_SIDE, MASK_SIDE)) < 0.3)
    code = mask.encode(drawn.astype(np.uint8))
    entry = {"size": list(code["size"]), "counts": code["counts"].decode()}
    assert np.array_equal(read_masks(written(tmp_path, {"f": {"Mass": entry}}))["f", "Mass"], drawn)


def written(folder, films, name="gt_segmentations_val.json"):
    path = folder / name
    path.write_text(json.dumps(films))
    return path


def test_masks_are_read_by_film_and_finding_and_empty_ones_left_out(tmp_path):
    mask = np.zeros((200, 300), bool)
    mask[:100, 150:] = True  # the upper right quarter
    path = written(
        tmp_path,
        {
            "patient1_study1_view1_frontal": {
                "Airspace Opacity": coded(mask),
                "Edema": coded(np.zeros((200, 300), bool)),
            }
        },
    )
    boxes = read_boxes(path)
    assert boxes.kind == "masks"
    assert list(boxes.of) == [("patient1_study1_view1_frontal", "Lung Opacity")]  # CheXpert's name
    (grid,) = boxes.of.values()
    half = MASK_SIDE // 2
    assert grid[:half, half:].all()
    assert grid.sum() == half * half
    packed = tmp_path / "masks.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal(*(next(iter(read_masks(x).values())) for x in (path, packed)))


def test_a_mask_smaller_than_the_grid_is_not_lost(tmp_path):
    mask = np.zeros((1000, 1000), bool)
    mask[500, 7] = True
    grid = read_masks(written(tmp_path, {"f": {"Nodule": coded(mask)}}))["f", "Nodule"]
    assert np.argwhere(grid).tolist() == [[64, 0]]


@pytest.mark.parametrize(
    ("films", "said"),
    [
        ([], "film -> finding -> mask"),
        ({"f": 1}, "film -> finding -> mask"),
        ({}, "there is no mask in it"),
        ({"f": {"Mass": {"size": [4], "counts": "16"}}}, "f, Mass: the size must be"),
        ({"f": {"Mass": {"size": [2**20, 2**20], "counts": []}}}, "none of a film"),
        ({"f": {"Mass": {"size": [4, 4], "counts": [3, 4]}}}, "the runs have 7 pixels, and 4 x 4"),
        ({"f": {"Mass": {"size": [4, 4], "counts": [-3, 19]}}}, "must be lengths of runs"),
        ({"f": {"Mass": {"size": [4, 4], "counts": "P"}}}, "end within a number"),
        ({"f": {"Mass": {"size": [4, 4], "counts": "é"}}}, "not in COCO's code"),
        ({"f": {"Mass": 7}}, "the size must be"),
    ],
)
def test_what_is_no_mask_is_refused_by_name(tmp_path, films, said):
    with pytest.raises(TableError, match=said):
        read_masks(written(tmp_path, films))


def test_a_file_that_is_no_json_or_is_not_there_is_named(tmp_path):
    for name, content in (("a.json", b"{"), ("b.json.gz", b"no gzip"), ("c.json", b"\xff")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TableError, match=name):
            read_masks(tmp_path / name)
    with pytest.raises(TableError, match="cannot be read"):
        read_masks(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CheXpert-v1.0/test/patient1/study1/view1_frontal.jpg", "patient1_study1_view1_frontal"),
        ("images/00000013_005.png", "00000013_005"),
        ("00000013_005.png", "00000013_005"),
        ("view1_frontal.jpg", "view1_frontal"),
        ("a.b.dcm", "a.b"),
        ("film", "film"),
    ],
)  # fmt: skip
def test_a_film_is_named_as_the_tables_of_boxes_name_it(name, expected):
    assert film_id(name) == expected


def rectangle(x: int, y: int, width: int, height: int, side: int = 16) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[y : y + height, x : x + width] = True
    return mask


RECTANGLES = [(0, 0, 8, 8), (2, 2, 8, 4), (8, 8, 4, 4), (0, 4, 16, 8)]


def test_a_mask_that_is_a_box_is_scored_as_the_box():
    masks = [rectangle(*x) for x in RECTANGLES]
    boxes = [np.array([x], float) / 16 for x in RECTANGLES]
    patients = list("abca")
    for mask, box in zip(masks, boxes, strict=True):
        heat = np.random.default_rng(0).random((16, 16))
        for found, expected in zip(map_overlaps(heat, mask), map_overlaps(heat, box), strict=True):
            assert np.array_equal(found, expected)
        for x, y in ((0.1, 0.1), (0.55, 0.55), (0.99, 0.01)):
            assert hits((x, y), mask) == hits((x, y), box)
    for found, expected in zip(
        fixed_box_overlaps(masks, patients), fixed_box_overlaps(boxes, patients), strict=True
    ):
        assert found == pytest.approx(expected)
    assert np.array_equal(fixed_point_hits(masks, patients), fixed_point_hits(boxes, patients))


def test_the_box_around_a_mask_overlaps_another_mask_by_its_places():
    first, second = rectangle(0, 0, 8, 8), rectangle(0, 0, 8, 8)
    second[0, :4] = False  # 60 of 64 places
    iou, iobb = fixed_box_overlaps([first, second], ["a", "b"])
    assert iou == pytest.approx([1, 60 / 64])  # the box around the second is the first's
    assert iobb == pytest.approx([1, 60 / 64])


def framed(n: int = 12):
    boxes = Boxes("b", {(f"{i}_0", "Mass"): rectangle(4, 4, 4, 4) for i in range(n)})
    right, wrong = rectangle(4, 4, 4, 4).astype(float), rectangle(12, 12, 4, 4).astype(float)
    good = dict.fromkeys(boxes.of, right)
    poor = {key: right if i < 3 else wrong for i, key in enumerate(boxes.of)}
    return boxes, {"cam": good, "gradient": poor}


def test_kinds_of_maps_are_compared_on_the_same_films():
    boxes, maps = framed()
    found = compare_maps(maps, boxes, {}, replicates=200)
    assert found["kinds"]["cam"]["micro"]["hit"] == 1
    assert found["kinds"]["gradient"]["micro"]["hit"] == 0.25
    assert found["kinds"]["cam"] == localisation(maps["cam"], boxes, {}, replicates=200)
    (row,) = found["differences"]
    assert (row["first"], row["second"]) == ("cam", "gradient")
    assert row["hit"]["difference"] == 0.75
    assert 0.4 < row["hit"]["low"] < 0.75 < row["hit"]["high"] <= 1
    assert row["hit"]["p_holm"] < 0.05


def test_a_kind_against_itself_differs_by_nothing():
    boxes, maps = framed()
    same = compare_maps({"cam": maps["cam"], "grad-cam": maps["cam"]}, boxes, {}, replicates=50)
    assert same["differences"][0]["hit"] == {
        "difference": 0, "low": 0, "high": 0, "p": 1, "p_holm": 1,
    }  # fmt: skip


def test_kinds_of_different_films_are_not_compared():
    boxes, maps = framed()
    maps["gradient"] = dict(list(maps["gradient"].items())[1:])
    with pytest.raises(ValueError, match="different films"):
        compare_maps(maps, boxes, {}, replicates=10)


def test_the_report_shows_the_kinds_with_floor_and_differences():
    boxes, maps = framed()
    micro = localisation(maps["cam"], boxes, {}, replicates=20)
    result = {
        "localisation": micro["micro"],
        "categories": {"Mass": {"localisation": micro["categories"]["Mass"]}},
        "maps": compare_maps(maps, boxes, {}, replicates=20),
    }
    about = {"name": boxes.name, "kind": boxes.kind, "floor": floor_of_boxes(boxes, {})}
    text = "\n".join(map(str, localisation_parts(result, about)))
    assert "Maps against the masks of b" in text
    assert "| cam minus gradient | +0.7500" in text
    assert "| gradient | 12 | 0.2500" in text
