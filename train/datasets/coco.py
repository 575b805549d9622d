"""MS-COCO (Lin et al., ECCV 2014) as a multi-label data set: which of 80 kinds of object are there?

An image is positive for the categories of its annotated objects (crowds included) and negative for
all others; an image without annotations is negative for all. ``instances_train*.json`` is for
training, ``instances_val*.json`` the test set, and the validation set is drawn from the training
images. ``--known 0.1`` hides nine labels in ten: the partial-label benchmark.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from train.datasets import csv_core, reading
from train.datasets.labels import LabelTable, Paths
from train.datasets.options import Request
from train.errors import DatasetError


def recognises(data: Path) -> bool:
    """Whether this is a folder with ``instances_*.json``, or such a file."""
    return bool(_files(data))


def read(data: Path, options: Request) -> LabelTable:
    """MS-COCO's instances as labels of images."""
    paths = _files(data)
    if not paths:
        raise DatasetError(f"no annotations/instances_*.json of MS-COCO in {data}")
    parts = [_read_instances(path) for path in paths]
    label_names = parts[0][2]
    for path, part in zip(paths, parts, strict=True):
        if part[2] != label_names:
            raise DatasetError(f"{path} has other categories than {paths[0]}")
    names = [name for part in parts for name in part[0]]
    y = np.concatenate([part[1] for part in parts])
    sides = [_side(path) if len(paths) > 1 else "" for path in paths]
    return reading.build_table(
        "coco",
        options,
        names=names,
        images=Paths(
            f"{_image_folder(path)}/{name}"
            for path, part in zip(paths, parts, strict=True)
            for name in part[0]
        ),
        y=y,
        uncertain=np.zeros(y.shape, bool),
        label_names=label_names,
        patients=names,
        studies=names,
        split=[side for side, part in zip(sides, parts, strict=True) for _ in part[0]],
        attributes={},
        files=paths,
    )


def _files(data: Path) -> list[Path]:
    if data.is_dir():
        return sorted(data.glob("annotations/instances_*.json")) or sorted(
            data.glob("instances_*.json")
        )
    return [data] if data.suffix == ".json" and data.exists() else []


def _side(path: Path) -> str:
    return "test" if "val" in path.name else "train"


def _image_folder(path: Path) -> Path:
    """``annotations/instances_val2014.json`` describes the images in ``val2014/``."""
    base = path.parent.parent if path.parent.name == "annotations" else path.parent
    return base / path.stem.removeprefix("instances_")


def _read_instances(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Names of images, (N, C) float32 of 1 and 0, and names of categories by ascending id."""
    try:
        content = json.loads(csv_core.read_text(path))
        categories = sorted(content["categories"], key=lambda category: category["id"])
        column_of = {category["id"]: column for column, category in enumerate(categories)}
        row_of = {image["id"]: row for row, image in enumerate(content["images"])}
        names = [image["file_name"] for image in content["images"]]
        objects = [(a["image_id"], a["category_id"]) for a in content["annotations"]]
        label_names = [category["name"] for category in categories]
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON ({error})") from error
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} is not a COCO instances file: it needs categories, images and annotations "
            f"with their ids ({type(error).__name__}: {error})"
        ) from error
    for kind, known, given in (
        ("image", row_of, {image for image, _ in objects}),
        ("category", column_of, {category for _, category in objects}),
    ):
        if not given <= known.keys():
            stranger = min(given - known.keys(), key=str)
            raise DatasetError(
                f"{path}: an annotation refers to {kind} {stranger}, which is not listed"
            )
    if len(row_of) < len(names):
        raise DatasetError(f"{path} gives the same id to two images")
    y = np.zeros((len(names), len(label_names)), np.float32)
    for image, category in objects:
        y[row_of[image], column_of[category]] = 1
    return names, y, label_names
