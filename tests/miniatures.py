"""Public collections in miniature: the files and folders of the real ones, films drawn by code.

Each function writes one collection of some hundred films below a folder. Labels follow what is on a
film where phantoms have such a finding, and are drawn by chance elsewhere.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cft.labels import CHEXPERT_14, NIH_14, RANZCR_CLIP_11
from train.datasets.phantom_drawing import PHANTOM_FINDINGS, draw_phantom

SIDE = 64
#: Distinct drawings; a drawing takes longer than training on it, so each is used several times.
_DRAWN = 32

# The first 24 of MS-COCO's 80 categories by their ids, which have gaps.
_COCO = {
    **{1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train"},
    **{8: "truck", 9: "boat"},
    **{10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench"},
    **{16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant"},
    **{23: "bear", 24: "zebra", 25: "giraffe"},
}


@functools.cache
def _drawings() -> list[tuple[frozenset[str], np.ndarray]]:
    """What is on each film, and the film, (SIDE, SIDE) uint8."""
    random = np.random.default_rng(0)
    chosen = [frozenset(np.array(PHANTOM_FINDINGS)[random.random(7) < 0.3]) for _ in range(_DRAWN)]
    return [(on, draw_phantom(on, SIDE, np.random.default_rng([1, n]))) for n, on in
            enumerate(chosen)]  # fmt: skip


class _Films:
    """Draws films with labels, one after the other, and writes them."""

    def __init__(self, labels: Sequence[str], share: float = 0.25):
        self.labels, self.share = labels, share
        self.random = np.random.default_rng(2)

    def write(self, path: Path) -> dict[str, int]:
        """Write a film; returns its labels, 1 or 0."""
        on, film = _drawings()[self.random.integers(_DRAWN)]
        noise = self.random.normal(0, 4, film.shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(film + noise, 0, 255).astype(np.uint8)).save(path)
        seen = {"Effusion": "Pleural Effusion", "Lung Lesion": "Mass", "Lung Opacity": "Nodule"}
        return {
            label: int(seen.get(label, label) in on)
            if seen.get(label, label) in PHANTOM_FINDINGS
            else int(self.random.random() < self.share)
            for label in self.labels
        }


def chexpert(folder: Path, train: int = 160, valid: int = 40, test: int = 40) -> Path:
    """CheXpert-v1.0-small with its test set, and the decisions of three readers beside it."""
    films = _Films(CHEXPERT_14)
    root = folder / "CheXpert-v1.0-small"
    facts = ["Sex", "Age", "Frontal/Lateral", "AP/PA"]
    for side, count, first in (("train", train, 1), ("valid", valid, 64541), ("test", test, 64741)):
        rows, studies = [], []
        for number in range(count):
            # Two films a study in training, as frontal and lateral; one elsewhere.
            patient = f"patient{first + (number // 2 if side == 'train' else number):05}"
            lateral = side == "train" and number % 2 == 1
            view = "view2_lateral" if lateral else "view1_frontal"
            path = f"{side}/{patient}/study1/{view}.jpg"
            labels = films.write(root / path)
            cells = {name: _mined(films, value) if side == "train" else f"{value}.0"
                     for name, value in labels.items()}  # fmt: skip
            row = {"Path": f"CheXpert-v1.0-small/{path}", "Sex": "Female", "Age": "61"}
            row |= {"Frontal/Lateral": "Lateral" if lateral else "Frontal"}
            row |= {"AP/PA": "" if lateral else "AP"}
            rows.append({**row, **cells})
            studies.append({"Study": f"CheXpert-v1.0/test/{patient}/study1", **labels})
        write_csv(root / f"{side}.csv", ["Path", *facts, *CHEXPERT_14], rows)
    for reader in ("bc4", "bc6", "bc8"):
        said = [{k: v if k == "Study" else int((films.random.random() < 0.2) != v)
                 for k, v in study.items()} for study in studies]  # fmt: skip
        write_csv(folder / "radiologists" / f"{reader}.csv", ["Study", *CHEXPERT_14], said)
    return root


def _mined(films: _Films, value: int) -> str:
    """What a report miner makes of a label: a few uncertain, many blank, most where it is 0."""
    draw = films.random.random()
    if draw < 0.1:
        return "-1.0"
    return "" if draw < (0.2 if value else 0.7) else f"{value}.0"


def coco(folder: Path, train: int = 160, test: int = 80) -> Path:
    """MS-COCO 2014: 24 of its categories, objects as annotations, colour pictures."""
    random = np.random.default_rng(3)
    root = folder / "COCO"
    categories = [{"id": key, "name": name, "supercategory": "thing"} for key, name in
                  _COCO.items()]  # fmt: skip
    for side, count in (("train2014", train), ("val2014", test)):
        (root / side).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            name = f"COCO_{side}_{number:012}.jpg"
            pixels = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((96, 72)).save(root / side / name)
            images.append({"id": number, "file_name": name, "height": 72, "width": 96})
            for category in random.permutation(list(_COCO))[: random.integers(0, 12)]:
                annotation = {"id": len(annotations), "image_id": number, "iscrowd": 0}
                box = [1, 2, 30, 40]
                annotations.append({**annotation, "category_id": int(category), "bbox": box})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{side}.json").write_text(json.dumps(content))
    return root


def cxr11(folder: Path, counts: Sequence[int] = (120, 40, 40)) -> Path:
    """RANZCR CLiP as delivered, with the published lists of CXR11 beside its ``train.csv``."""
    films, root = _Films(RANZCR_CLIP_11), folder / "CXR11"
    rows: list[dict] = []
    root.mkdir(parents=True)
    names = [name.replace(" - ", "-") for name in RANZCR_CLIP_11]
    (root / "chest_x-rays11_multi_label_classes.txt").write_text("\n".join(names) + "\n")
    for side, count in zip(("train", "val", "test"), counts, strict=True):
        lines = []
        for _ in range(count):
            study = f"1.2.826.0.1.3680043.8.498.{10**37 + len(rows)}"
            labels = films.write(root / "train" / f"{study}.jpg")
            rows.append({"StudyInstanceUID": study, **labels, "PatientID": f"p{len(rows):04}"})
            cells = ",".join(map(str, labels.values()))
            lines.append(f"chest_x-rays11_kaggle/{study}.jpg\t{cells}")
        (root / f"chest_x-rays11_kaggle_{side}.txt").write_text("\n".join(lines) + "\n")
    columns = ["StudyInstanceUID", *RANZCR_CLIP_11, "PatientID"]
    write_csv(root / "train.csv", columns, rows)
    return root


def cxr14(folder: Path, counts: Sequence[int] = (120, 40, 40)) -> Path:
    """The lists of CXR14 with NIH's films; as in the real ones a patient is on two sides."""
    names = sorted(NIH_14)
    films, root = _Films(names), folder / "CXR14"
    root.mkdir(parents=True)
    (root / "chest14_classes.txt").write_text("\n".join(names) + "\n")
    patient = 0
    for side, count in zip(("train", "val", "test"), counts, strict=True):
        lines = []
        for _ in range(count):
            patient += 1
            name = f"{patient:08}_000.png"
            labels = films.write(root / "images" / name)
            labels[names[films.random.integers(14)]] = 1  # every film of the lists is abnormal
            first = next(label for label, value in labels.items() if value)
            cells = ",".join(map(str, labels.values()))
            lines.append(f"NIH-Chest_x-rays14_multi-label/{first}/{name}\t{cells}")
        if side == "test":
            films.write(root / "images" / "00000001_001.png")
            cells = ",".join("1" for _ in names)
            lines.append(f"NIH-Chest_x-rays14_multi-label/Mass/00000001_001.png\t{cells}")
        (root / f"chest14_{side}_labels.txt").write_text("\n".join(lines) + "\n")
    return root


def nih(folder: Path, patients: int = 130) -> Path:
    """ChestX-ray14 as NIH delivers it: the table, two of the archives' folders, two lists."""
    films, root = _Films(NIH_14), folder / "NIH"
    rows, lists = [], {"train_val_list.txt": [], "test_list.txt": []}
    for patient in range(1, patients + 1):
        for follow_up in range(1 + patient % 2):
            name = f"{patient:08}_{follow_up:03}.png"
            archive = "images_001" if patient <= patients // 2 else "images_002"
            labels = films.write(root / archive / "images" / name)
            found = "|".join(label for label, value in labels.items() if value)
            row = {"Image Index": name, "Finding Labels": found or "No Finding"}
            row |= {"Follow-up #": follow_up, "Patient ID": patient, "Patient Age": 20 + patient}
            row |= {"Patient Gender": "FM"[patient % 2], "View Position": "PA"}
            rows.append(row)
            where = "test_list.txt" if patient % 5 == 0 else "train_val_list.txt"
            lists[where].append(name)
    write_csv(root / "Data_Entry_2017_v2020.csv", list(rows[0]), rows)
    for name, listed in lists.items():
        (root / name).write_text("\n".join(listed) + "\n")
    boxes = [
        {"Image Index": row["Image Index"], "Finding Label": row["Finding Labels"].split("|")[0]}
        | {"Bbox [x": 200, "y": 300, "w": 200, "h": 250}
        for row in rows
        if row["Image Index"] in lists["test_list.txt"] and row["Finding Labels"] != "No Finding"
    ]
    write_csv(root / "BBox_List_2017.csv", list(boxes[0]), boxes)
    return root


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
