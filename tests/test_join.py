"""Finished runs side by side in one network, judged on films that none of them has learnt from."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import load_file
from sklearn.metrics import brier_score_loss

import cft
from cft.errors import ModelFolderError
from cft.film.radiograph import Radiograph
from cft.model.ensemble import write_ensemble
from cft.model.folder import WEIGHTS, read_model_folder, write_model_folder
from tests.test_negative import ROOT, arguments, write_data
from train import cft as stage_2
from train import negative
from train.publishing.export import round_weights
from train.run_folder import LOG

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> list[Path]:
    """Two runs from one start."""
    place = tmp_path_factory.mktemp("runs")
    start = place / "start"
    assert negative.main(arguments(data, start, epochs=1)) == 0
    for seed in (1, 2):
        assert negative.main(arguments(data, place / str(seed), init=start, seed=seed)) == 0
    return [place / "1", place / "2"]


@pytest.fixture(scope="module")
def joined(data, runs) -> Path:
    out = runs[0].parent / "joined"
    assert negative.main([*arguments(data, out), "--join", *map(str, runs)]) == 0
    return out


def refused(words: list[str], capsys) -> str:
    assert negative.main(words) == 1
    return capsys.readouterr().err


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("also", [["--freeze"], ["--teacher", "x"], ["--shuffle-labels"]])
def test_what_needs_training_is_wrong_usage(also, capsys):
    with pytest.raises(SystemExit) as end:
        negative.main(["--data", "x", "--join", "a", "b", *also])
    assert end.value.code == 2
    assert "--join trains nothing" in capsys.readouterr().err


def test_a_run_that_learnt_from_the_films_that_judge_is_refused(data, runs, tmp_path, capsys):
    """The same films, with training and validation exchanged."""
    text = data.read_text().replace(",train,", ",x,").replace(",valid,", ",train,")
    other = data.parent / "other.csv"
    other.write_text(text.replace(",x,", ",valid,"))
    message = refused([*arguments(other, tmp_path / "out"), "--join", *map(str, runs)], capsys)
    assert f"{runs[0]} cannot be judged on the valid films" in message
    assert "trained on 96 of the 96 films" in message
    assert not (tmp_path / "out" / WEIGHTS).exists()


def test_another_input_is_refused(data, runs, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    config = json.loads((other / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.25]
    (other / "config.json").write_text(json.dumps(config))
    words = [*arguments(data, tmp_path / "out"), "--join", str(runs[0]), str(other)]
    assert f"{other} has another input than {runs[0]}" in refused(words, capsys)


def test_other_labels_are_refused_by_name(data, runs, tmp_path, capsys):
    text = data.read_text().replace("Bright", "Round")
    other = data.parent / "labels.csv"
    other.write_text(text)
    message = refused([*arguments(other, tmp_path / "out"), "--join", *map(str, runs)], capsys)
    assert f"{runs[0]} does not know Round" in message


def test_an_ensemble_is_refused(data, runs, tmp_path, capsys):
    config = read_model_folder(runs[0]).config
    kept = {key: config[key] for key in ("label_names", "label_descriptions", "pretrained_cfg")}
    folder = write_ensemble(
        tmp_path / "ensemble",
        [(run.name, run, 1.0) for run in runs],
        average="logits",
        config={"architecture": "ensemble", **kept},
        card="",
    )
    words = [*arguments(data, tmp_path / "out"), "--join", str(runs[0]), str(folder)]
    assert "is an ensemble; name its members" in refused(words, capsys)


def test_a_network_without_a_linear_end_is_refused(data, tmp_path, capsys):
    other = tmp_path / "other"
    assert negative.main(arguments(data, other, arch="test_vit", epochs=1)) == 0
    words = [*arguments(data, tmp_path / "out", arch="test_vit"), "--join", str(other)]
    assert "does not end in average pooling and a linear layer" in refused(words, capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"of": "joined"}, "no architecture 'joined' to join"),
        ({"of": "hf-hub:org/name"}, "no architecture 'hf-hub:org/name' to join"),
        ({"of": "local-dir:/tmp"}, "no architecture 'local-dir:/tmp' to join"),
        ({"copies": 0}, "copies is 0"),
        ({"global_pool": "max"}, "only 'avg'"),
    ],
)
def test_a_joined_network_that_cannot_be_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("joined", **{"of": "test_resnet", **more})


def test_a_folder_that_would_join_far_more_than_it_holds_is_refused(joined, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(joined, other)
    config = json.loads((other / "config.json").read_text())
    config["model_args"]["copies"] = 200
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match="far more parts than the"):
        cft.load(other)


# --- What comes of it ---------------------------------------------------------------------------


def films(n: int = 3) -> list[Radiograph]:
    draw = np.random.default_rng(5)
    return [Radiograph(draw.random((40, 40), np.float32)) for _ in range(n)]


def test_a_logit_is_the_mean_of_the_runs(joined, runs):
    found, *members = (
        cft.load(folder, device="cpu").predict(films()) for folder in (joined, *runs)
    )
    for film, answer in enumerate(found):
        for label, score in answer.scores.items():
            mean = np.mean([member[film].scores[label] for member in members])
            assert score == pytest.approx(mean, abs=1e-5)


def test_a_map_is_the_mean_of_the_maps_of_the_runs(joined, runs):
    found, *members = (
        cft.load(folder, device="cpu").predict(films()) for folder in (joined, *runs)
    )
    for film, answer in enumerate(found):
        mean = np.mean([member[film]._maps for member in members], 0)
        np.testing.assert_allclose(answer._maps, mean, atol=1e-5)


def test_stock_timm_reads_the_folder(joined):
    network = timm.create_model(f"local-dir:{joined}", pretrained=True).eval()
    ours = cft.load(joined, device="cpu")
    film = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(network(film), ours.logits(film))


def test_the_lines_that_the_card_shows_for_timm_run_in_a_new_process(joined):
    card = (joined / "README.md").read_text()
    (lines,) = [x for x in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "timm" in x]
    lines = lines.replace("path/to/this/folder", str(joined))
    before = "import torch\nbatch = torch.zeros(2, 1, 32, 32)\n"
    after = "\nassert probabilities.shape == (2, 2)\n"
    done = subprocess.run([sys.executable, "-c", before + lines + after], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_labels_in_another_order_are_joined_by_name(data, runs, tmp_path):
    """The second run's outputs in the other order, as another table might have them."""
    other = tmp_path / "other"
    folder = read_model_folder(runs[1])
    config, tensors = folder.config, dict(folder.state_dict)
    config["label_names"] = config["label_names"][::-1]
    for name in ("fc.weight", "fc.bias"):
        tensors[name] = tensors[name].flip(0)
    shutil.copytree(runs[1], other)
    write_model_folder(other, state_dict=tensors, config=config, card="")
    out = tmp_path / "out"
    assert negative.main([*arguments(data, out), "--join", str(runs[0]), str(other)]) == 0
    found, *members = (cft.load(folder, device="cpu").predict(films()) for folder in (out, *runs))
    for label, score in found[0].scores.items():
        assert score == pytest.approx(np.mean([m[0].scores[label] for m in members]), abs=1e-5)


def test_the_folder_says_what_it_was_made_of(joined, runs):
    provenance = cft.load(joined, device="cpu").config["cft"]["provenance"]
    *members, whole = provenance["joined"]
    assert [one["seed"] for one in members] == [1, 2]
    assert [one["weights_sha256"] for one in members] == [
        read_model_folder(run).weights_sha256 for run in runs
    ]
    for one, run in zip(members, runs, strict=True):  # judged as in their own runs
        records = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
        best = max(record["valid"]["auroc"] for record in records)
        assert one["valid"]["auroc"] == pytest.approx(best, abs=1e-6)
    card = (joined / "README.md").read_text()
    assert f"{whole['valid']['auroc']:.4f}" in card
    assert "run 1 (seed 1)" in card
    assert "run 2 (seed 2)" in card
    for one, run in zip(members, runs, strict=True):
        made = cft.load(run, device="cpu").config["cft"]["provenance"]
        assert one["made"]["command"] == made["command"]
    assert all(f"Run {number} of these was made by" in card for number in (1, 2))
    assert "`epochs`" not in card  # nothing was trained


def test_it_is_not_written_over(data, joined, runs, capsys):
    words = [*arguments(data, joined), "--join", *map(str, runs)]
    assert "already holds a run" in refused(words, capsys)


def test_stage_2_fits_the_regressions_on_the_joined_features(data, joined, tmp_path):
    out = tmp_path / "cft"
    words = f"--model {joined} --data {data} --out {out} --device cpu --threads 1 --workers 1"
    assert stage_2.main(words.split()) == 0
    before, after = (load_file(folder / WEIGHTS) for folder in (joined, out))
    assert before["head.weight"].shape == after["head.weight"].shape == (2, 2 * 96)
    for name in before:
        if not name.startswith("head."):
            np.testing.assert_array_equal(before[name], after[name])
    first, second = (read_model_folder(x).config["cft"]["provenance"] for x in (joined, out))
    assert second["stage_1"]["joined"] == first["joined"]
    card = (out / "README.md").read_text()
    assert all(record["weights_sha256"] in card for record in first["joined"][:-1])


def test_a_run_that_starts_from_a_joined_network_says_of_what_it_was_joined(data, joined, tmp_path):
    out = tmp_path / "further"
    words = arguments(data, out, arch="joined", init=joined, epochs=1, augment="noise=0.01")
    assert negative.main(words) == 0
    before = read_model_folder(joined).config["cft"]["provenance"]
    start = read_model_folder(out).config["cft"]["provenance"]["start"]
    assert start["made"]["joined"] == before["joined"]
    assert start["made"]["command"] == before["command"]
    card = (out / "README.md").read_text()
    assert "Its start is a model of this project" in card
    assert all(record["weights_sha256"] in card for record in before["joined"][:-1])


# --- Weights of 16 bits -------------------------------------------------------------------------


def test_half_of_the_bytes_give_the_figures_that_the_folder_states(data, joined, runs, tmp_path):
    """What was measured is the rounded network."""
    out = tmp_path / "half"
    words = [*arguments(data, out), "--store", "float16", "--join", *map(str, runs)]
    assert negative.main(words) == 0
    whole, half = ((folder / WEIGHTS).stat().st_size for folder in (joined, out))
    assert half < 0.6 * whole
    tensors, exact = load_file(out / WEIGHTS), load_file(joined / WEIGHTS)
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.floating):
            assert tensor.dtype == np.float16
            np.testing.assert_array_equal(tensor, exact[name].astype(np.float16))
    read = read_model_folder(out).state_dict
    assert {x.dtype for x in read.values() if x.is_floating_point()} == {torch.float32}
    table = list(csv.DictReader(data.open()))
    tested = [row for row in table if row["split"] == "test"]
    found = cft.load(out, device="cpu").predict([data.parent / row["image"] for row in tested])
    stated = cft.load(out).config["cft"]["metrics"]["csv"]["categories"]
    for label in ("Bright", "Dark"):
        truth = [int(row[label]) for row in tested]
        brier = brier_score_loss(truth, [one.probabilities[label] for one in found])
        assert stated[label]["brier"] == pytest.approx(brier, rel=1e-3)


def test_weights_that_16_bits_cannot_hold_are_refused_when_they_are_written():
    network = torch.nn.Linear(1, 1)
    with torch.no_grad():
        network.weight.fill_(1e6)
    round_weights(network)
    assert torch.isinf(network.weight).all()  # `write_model_folder` refuses infinity
