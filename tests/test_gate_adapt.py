"""Films of other hospitals correct what a gate takes for mirrored."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from cft import __main__ as command
from cft.errors import ModelFolderError
from cft.heatmap import write_png
from cft.model.fields import Fields
from cft.model.folder import read_model_folder
from cft.model.gate_adapt import _STRENGTH, _moved, adapt_gate
from cft.model.gate_statistics import GateStatistics
from cft.model.network import build_network
from train.publishing.card import model_card


@pytest.fixture(scope="module")
def gate(gated_folder):
    return read_model_folder(gated_folder).facts.gate


def adapted(folder, films, checks) -> GateStatistics:
    read = read_model_folder(folder)
    return adapt_gate(
        build_network(read), read.facts.preprocess, read.facts.gate, films, checks
    )  # fmt: skip


# --- What is refused ------------------------------------------------------------------------------


def test_too_few_films_are_refused(gated_folder, phantoms):
    with pytest.raises(ValueError, match="19 films of other hospitals; it takes 20"):
        adapted(gated_folder, phantoms[:19], phantoms[:30])
    with pytest.raises(ValueError, match="3 films to check with; it takes 20"):
        adapted(gated_folder, phantoms[:30], phantoms[:3])


def test_the_command_says_what_is_missing(
    capsys, gated_folder, model_folder, phantoms, tmp_path
):  # fmt: skip
    write_png(tmp_path / "film.png", phantoms[0])
    with pytest.raises(SystemExit) as ended:
        command.main(["gate-fit", str(gated_folder)])
    assert ended.value.code == 2
    assert "give FILMS to learn from, or --others" in capsys.readouterr().err
    words = ["--others", str(tmp_path / "film.png")]
    assert command.main(["gate-fit", str(model_folder), *words]) == 2
    assert "has no gate to correct; give FILMS, too" in capsys.readouterr().err
    before = (gated_folder / "config.json").read_bytes()
    assert command.main(["gate-fit", str(gated_folder), *words]) == 1
    assert "0 films of other hospitals; it takes 20" in capsys.readouterr().err
    assert (gated_folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(("entry", "wrong"), [("others", -1), ("others", "many"), ("credit", 5)])
def test_a_folder_that_says_something_else_is_refused(gate, entry, wrong):
    config = {**gate.to_config(), entry: wrong}
    with pytest.raises(ModelFolderError, match=entry):
        GateStatistics.read(Fields(config, "cft.gate", "config.json"))


# --- What is learnt -------------------------------------------------------------------------------


def test_the_weights_are_the_most_likely_ones_around_those_before():
    random = np.random.default_rng(0)
    side = random.normal(0, 1, 5).astype(np.float32)
    right, wrong = (random.normal(m, 1, (60, 5)).astype(np.float32) for m in (-0.3, 0.3))

    def loss(weights):
        z = np.concatenate([-(right @ weights), wrong @ weights])
        return np.logaddexp(0, -z).sum() + _STRENGTH / 2 * ((weights - side) ** 2).sum()

    expected = minimize(loss, np.zeros(5), tol=1e-10).x
    assert _moved(side, right, wrong) == pytest.approx(expected, abs=2e-3)
    assert np.abs(expected - side).max() > 0.02


def test_nothing_but_left_and_right_changes(gated_folder, gate, phantoms):
    # As of a hospital where all is the other way round: the gate believes the films.
    flipped = phantoms[:, :, ::-1].copy()
    found = adapted(gated_folder, flipped[:60], flipped[60:110])
    assert (found.others, found.checked) == (60, 50)
    same = replace(
        found,
        side=gate.side,
        mirrored=gate.mirrored,
        again=gate.again,
        checked=gate.checked,
        others=gate.others,
    )
    assert json.dumps(same.to_config()) == json.dumps(gate.to_config())
    assert found.side.shape == gate.side.shape
    assert np.abs(found.side - gate.side).max() > 0


def test_the_command_corrects_the_gate_of_a_folder_and_the_card_names_the_films(
    capsys, gated_folder, phantoms, tmp_path
):  # fmt: skip
    folder, films = tmp_path / "model", tmp_path / "films"
    shutil.copytree(gated_folder, folder)
    films.mkdir()
    for number, film in enumerate(phantoms[:60]):
        write_png(films / f"{number:03}.png", film)
    listed = ["--others", *sorted(map(str, films.glob("0[0-3]*.png")))]
    listed += ["--credit", "The General Hospital, CC BY 4.0"]
    (tmp_path / "list.txt").write_text("\n".join(listed) + "\n")
    checks = sorted(map(str, films.glob("0[45]*.png")))
    words = ["gate-fit", str(folder), f"@{tmp_path / 'list.txt'}", "--others-check", *checks]
    assert command.main(words) == 0
    said = capsys.readouterr().out
    assert "has learnt from 80 films, corrected by 40 of other hospitals; 20 others chose" in said
    config = json.loads((folder / "config.json").read_text())
    assert config["cft"]["gate"]["others"] == 40
    card = " ".join(model_card(config).split())
    assert "learnt from 80 films, without labels, and 40 of other hospitals taught it" in card
    assert "20 others chose its limits. Films of The General Hospital, CC BY 4.0." in card
    assert "A gate beside it withholds or warns" in card
    del config["cft"]["gate"]
    card = model_card(config)
    assert "gate" not in card
    assert "It always answers" in card
