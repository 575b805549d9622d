"""Fixtures and small functions that the tests of the evaluation share."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.datasets.labels import LabelTable
from train.evaluate import main


def write_csv(path: Path, columns: dict[str, list]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture
def tables(tmp_path):
    """Truth of 60 studies in two categories, and two models' predictions: (truth, a, b)."""
    generator = np.random.default_rng(0)
    studies = [f"patient{i // 2}/study{i}" for i in range(60)]
    y = generator.integers(0, 2, (60, 2))
    truth = write_csv(
        tmp_path / "truth.csv",
        {
            "Study": studies,
            "Edema": y[:, 0],
            "Mass": y[:, 1],
            "Sex": ["F", "M", ""] * 20,
            "Age": [30, 50, 70] * 20,
        },
    )
    models = []
    for name in ("a", "b"):
        p = 1 / (1 + np.exp(-generator.standard_normal((60, 2)) - 2 * y + 1))
        order = generator.permutation(60)
        columns = {"Mass": p[order, 1], "Study": [studies[i] for i in order], "Edema": p[order, 0]}
        models.append(write_csv(tmp_path / f"{name}.csv", columns))
    return truth, *models


def evaluate(*arguments, out) -> dict:
    assert main([*map(str, arguments), "--replicates", "20", "--out", str(out)]) == 0
    return json.loads((out / "report.json").read_text())


def rewrite(path: Path, change) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = change(rows)
    write_csv(path, {column: [row[column] for row in rows] for column in rows[0]})


def failure(capsys, *arguments, out) -> str:
    """The one sentence of a failed command that wrote nothing."""
    assert main([*map(str, arguments), "--out", str(out)]) == 1
    assert not out.exists()
    message = capsys.readouterr().err
    # One sentence; where a table has several problems, a line for each follows.
    assert all(line.startswith("  ") for line in message.splitlines()[1:])
    return message


@pytest.fixture
def nih(tmp_path):
    """A data set of 24 phantoms in the compact layout of ChestX-ray14, with experts' labels."""
    from cft.labels import NIH_14

    folder = tmp_path / "nih"
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(3)
    names = [f"{i:08d}_000.png" for i in range(24)]
    for name in names:
        pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / "images" / name)
    columns = {
        "image": names,
        "patient_id": [str(i) for i in range(24)],
        "age": [40 + i for i in range(24)],
        "sex": ["F", "M"] * 12,
        "view": ["PA"] * 24,
        **{label: generator.integers(0, 2, 24) for label in NIH_14},
        "width": [1024] * 24,
    }
    write_csv(folder / "labels.csv", columns)
    experts = {"image": names[:14], **{x: generator.integers(0, 2, 14) for x in NIH_14}}
    write_csv(folder / "expert_labels.csv", experts)
    return folder


@pytest.fixture
def drawn_nih(nih):
    """A data set whose test films are drawn by a seed, not named by the data set."""
    (nih / "expert_labels.csv").unlink()
    return nih


@pytest.fixture
def table(films):
    """Five films of three studies of two patients, labelled in three of the model's categories."""
    y = np.array([[1, 0, 0], [1, 0, 0], [0, 1, np.nan], [0, 1, np.nan], [1, 1, 0]], np.float32)
    return LabelTable(
        images=tuple(films),
        y=y,
        uncertain=np.zeros(y.shape, bool),
        label_names=("Effusion", "Cardiomegaly", "Mass"),
        patients=np.array(["p", "p", "p", "p", "q"]),
        studies=np.array(["s1", "s1", "s0", "s0", "s2"]),
        split=np.array(["test"] * 5),
        attributes={
            "sex": np.array(["F", "F", "F", "F", "M"]),
            "age": np.array([50, 50, np.nan, np.nan, 70], np.float32),
            "view": np.array(["PA", "lateral", "AP", "AP", "PA"]),
        },
        dataset="films",
    )


@pytest.fixture(scope="module")
def classifier(model_folder):
    import cft

    return cft.load(model_folder, device="cpu")


def trained_on(dataset, model_folder, folder, seed, **arguments) -> Path:
    """A copy of a model folder that says that it was trained on a data set drawn with a seed."""
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["cft"]["provenance"] = {"dataset": dataset, "seed": seed, "arguments": arguments}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def trained_on_nih(model_folder, folder, seed, **arguments) -> Path:
    return trained_on("nih", model_folder, folder, seed, **arguments)


def seen_films(report, model) -> list[str]:
    return [n for n in report["models"][model]["notes"] if "the model has been trained on" in n]
