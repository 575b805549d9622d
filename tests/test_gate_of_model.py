"""The gate by a model's own features: what it learns, where it is kept, and who is told."""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import cft
from cft import __main__ as command
from cft import results
from cft.errors import ModelFolderError
from cft.film.turn import turned
from cft.model import gate as model_gate
from cft.model.config import ModelConfig
from cft.model.folder import read_config, read_model_folder
from cft.model.gate_fit import FEWEST, fit_gate
from cft.model.gate_folder import store_gate
from cft.model.gate_statistics import MAX_CHARACTERS
from cft.model.network import build_network


@pytest.fixture(autouse=True)
def gate_is_on(monkeypatch):
    """The other tests switch it off."""
    monkeypatch.delenv("CFT_GATE")
    model_gate.bundled_gatekeeper.cache_clear()


@pytest.fixture
def model(gated_folder) -> cft.Classifier:
    return cft.load(gated_folder, "cpu")


@pytest.fixture(scope="module")
def unseen(phantoms) -> list[cft.Radiograph]:
    """40 phantoms that neither fitted nor checked."""
    return [cft.Radiograph(x.astype(np.float32) / 255) for x in phantoms[110:]]


def verdicts(model: cft.Classifier, films: list) -> list[str]:
    return [findings.gate.verdict for findings in model.predict(films)]


def test_films_like_those_it_learnt_from_pass(model, unseen):
    assert verdicts(model, unseen).count("pass") >= 0.8 * len(unseen)


@pytest.mark.parametrize("turn", ["turn right", "turn left", "turn around", "invert"])
def test_turned_films_are_not_answered_and_the_turn_back_is_offered(turn, model, unseen):
    back = {"turn right": "turn left", "turn left": "turn right"}.get(turn, turn)
    gates = [f.gate for f in model.predict([turned(film, turn) for film in unseen])]
    assert sum(gate.verdict == "refuse" for gate in gates) >= 0.9 * len(gates)
    offers = [gate.turn for gate in gates if gate.turn]
    assert offers.count(back) >= 0.9 * len(gates)


def test_what_shows_no_chest_does_not_pass(model):
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64]
    pictures = [
        random.random((64, 64)),
        (x // 8 + y // 8) % 2 * 0.8 + 0.1 * random.random((64, 64)),
        np.clip(np.hypot(x - 32, y - 32) / 45, 0, 1),
        np.sin(x / 3) * 0.4 + 0.5 + 0.05 * random.random((64, 64)),
    ]
    films = [cft.Radiograph(picture.astype(np.float32)) for picture in pictures]
    assert "pass" not in verdicts(model, films)


def test_the_scores_are_those_of_the_same_model_without_a_gate(model, model_folder, unseen):
    plain = cft.load(model_folder, "cpu").predict(unseen[0])
    assert model.predict(unseen[0]).scores == plain.scores


def test_the_gate_is_the_same_for_one_film_and_for_many(model, unseen):
    films = unseen[:6]
    together = [findings.gate for findings in model.predict(films)]
    assert together == [model.predict(film).gate for film in films]


def test_fitting_again_gives_the_same_statistics(gated_folder, phantoms):
    folder = read_model_folder(gated_folder)
    again = fit_gate(
        build_network(folder), folder.facts.preprocess, phantoms[:80], phantoms[80:110]
    )
    assert again.to_config() == folder.config["cft"]["gate"]


def test_what_is_stored_is_what_was_fitted_and_small(gated_folder):
    folder = read_model_folder(gated_folder)
    stored = folder.config["cft"]["gate"]
    assert len(json.dumps(stored)) < 300_000
    assert folder.facts.gate is not None
    assert folder.facts.gate.to_config() == stored


def test_too_few_films_are_refused(gated_folder, phantoms):
    folder = read_model_folder(gated_folder)
    network = build_network(folder)
    with pytest.raises(ValueError, match=f"3 films to fit the gate with; it takes {FEWEST}"):
        fit_gate(network, folder.facts.preprocess, phantoms[:3], phantoms[:30])


def test_a_lateral_film_is_refused(model, unseen):
    lateral = cft.Radiograph(unseen[0].pixels, "lateral")
    gate = model.predict(lateral).gate
    assert gate.verdict == "refuse"
    assert any("lateral" in reason for reason in gate.reasons)


# ---------------------------------------------------------------- folders of all kinds


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda gate: gate.update(grid=5), '"cft.gate.grid" in .* must be 4'),
        (lambda gate: gate.update(looks=["a"]), "cft.gate.looks"),
        (lambda gate: gate.update(depths=[]), "cft.gate.depths"),
        (lambda gate: gate.update(depths=[3]), "cft.gate.depths"),
        (lambda gate: gate.update(passes=2), "cft.gate.passes"),
        (lambda gate: gate.update(far="x"), "cft.gate.far"),
        (lambda gate: gate.pop("mirrored"), "cft.gate.mirrored"),
        (lambda gate: gate.update(bias=[1]), "cft.gate.bias"),
        (lambda gate: gate.update(bias=[True] * 6), "cft.gate.bias"),
        (lambda gate: gate.update(weights="AAAA"), "cft.gate.weights"),
        (lambda gate: gate.update(weights="not base64!"), "cft.gate.weights"),
        (lambda gate: gate.update(weights="/3" * 10**5), "characters"),
        (lambda gate: gate["depths"][0].update(rank=10**6), "rank"),
        (lambda gate: gate["depths"][0].update(module=None), "module"),
        (lambda gate: gate["depths"][0].update(rest=[0, 0]), "rest"),
        (lambda gate: gate["depths"].append(gate["depths"][0]), "depths"),
        (lambda gate: gate["depths"][0].update(mean="AHw=" * 50), "mean"),
    ],
)
def test_statistics_that_do_not_fit_are_refused_in_one_sentence(spoil, message, gated_folder):
    config = copy.deepcopy(read_config(gated_folder))
    spoil(config["cft"]["gate"])
    with pytest.raises(cft.ModelFolderError, match=message) as refused:
        ModelConfig.read(config, "config.json")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_statistics_hold_no_number_that_is_not_finite(gated_folder):
    config = copy.deepcopy(read_config(gated_folder))
    text = config["cft"]["gate"]["side"]
    config["cft"]["gate"]["side"] = "AHwA" + text[4:]  # 0x7c00: infinity
    with pytest.raises(cft.ModelFolderError, match=r"cft\.gate\.side"):
        ModelConfig.read(config, "config.json")


def test_statistics_of_another_network_are_refused(gated_folder, tmp_path):
    shutil.copytree(gated_folder, tmp_path / "model")
    config = read_config(tmp_path / "model")
    config["cft"]["gate"]["depths"][0]["module"] = "blocks.99"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(cft.ModelFolderError, match=r"of another network.*blocks\.99"):
        cft.load(tmp_path / "model", "cpu")


def test_more_than_a_folder_may_hold_is_not_written(gated_folder, tmp_path):
    shutil.copytree(gated_folder, tmp_path / "model")
    folder = read_model_folder(tmp_path / "model")
    statistics = folder.facts.gate
    assert statistics is not None
    before = (tmp_path / "model" / "config.json").read_bytes()
    wide = copy.copy(statistics)
    object.__setattr__(wide, "side", np.zeros(MAX_CHARACTERS, np.float32))
    with pytest.raises(cft.ModelFolderError, match="characters"):
        store_gate(folder, wide)
    assert (tmp_path / "model" / "config.json").read_bytes() == before


def test_a_folder_without_statistics_is_judged_by_the_bundled_model(
    gated_folder, tiny_model_folder, unseen, monkeypatch
):
    monkeypatch.setattr(model_gate, "BUNDLED", gated_folder)
    model_gate.bundled_gatekeeper.cache_clear()
    plain = cft.load(tiny_model_folder, "cpu")
    own = cft.load(gated_folder, "cpu")
    films = [*unseen[:5], turned(unseen[0], "turn around"), turned(unseen[1], "invert")]
    assert [f.gate for f in plain.predict(films)] == [f.gate for f in own.predict(films)]
    model_gate.bundled_gatekeeper.cache_clear()


@pytest.mark.parametrize("bundled", ["without statistics", "absent"])
def test_without_any_statistics_the_plain_picture_decides(
    bundled, tiny_model_folder, tmp_path, unseen, monkeypatch
):
    place = tiny_model_folder if bundled == "without statistics" else tmp_path / "none"
    monkeypatch.setattr(model_gate, "BUNDLED", place)
    plain = cft.load(tiny_model_folder, "cpu")
    assert plain.gatekeeper is None
    blank = cft.Radiograph(np.zeros((64, 64), np.float32))
    assert verdicts(plain, [turned(unseen[0], "turn around"), blank]) == ["pass", "refuse"]
    model_gate.bundled_gatekeeper.cache_clear()


def test_the_gate_can_be_switched_off_for_a_whole_process(gated_folder, unseen, monkeypatch):
    monkeypatch.setenv("CFT_GATE", "off")
    model = cft.load(gated_folder, "cpu")
    assert model.predict(turned(unseen[0], "turn around")).gate == cft.film.gate.Gate()


def test_the_bundled_model_is_read_with_or_without_statistics():
    model = cft.load(None, "cpu")
    example = Path(cft.__file__).parent / "page" / "example.png"
    assert model.predict(example).gate.verdict == "warn"


@pytest.mark.parametrize(
    "architecture", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"]
)
def test_networks_of_every_layout_are_heard(architecture):

    from cft.model.depths import GRID
    from cft.model.listening import depths_of, listening

    network = timm.create_model(architecture, in_chans=1, num_classes=2).eval()
    depths = depths_of(network)
    assert 0 < len(depths) <= 4
    size = network.pretrained_cfg["input_size"][-1]
    with torch.inference_mode(), listening(network, depths) as heard:
        network.forward_features(torch.rand(2, 1, size, size))
    shapes = {name: tuple(x.shape) for name, x in heard.items()}
    assert shapes == {d.module: (2, GRID * GRID, d.channels) for d in depths}
    assert not any(module._forward_hooks for module in network.modules())


def test_a_pass_ends_where_the_gate_listens_last():
    """Of networks side by side only the first is listened to; the others need not run."""
    from cft.model.gate_fit import Pictures
    from cft.model.listening import depths_of, listening
    from cft.model.preprocess import Preprocess

    network = timm.create_model("joined", of="test_resnet", copies=2, num_classes=3, in_chans=1)
    network.eval().networks[1].forward_features = None  # fails if it is called
    depths = depths_of(network)
    films = torch.rand(2, 1, 64, 64)
    preprocess = Preprocess(input_size=(1, 64, 64), mean=(0.5,), std=(0.5,))
    found = Pictures(network, preprocess, depths).features(iter([films]))
    with torch.inference_mode(), listening(network, depths) as heard:
        network.networks[0].forward_features(preprocess.normalize(films))
    assert found.keys() == heard.keys()
    for name, fields in found.items():
        np.testing.assert_allclose(fields, heard[name], atol=1e-3)  # kept in 16 bits


def test_fields_are_in_the_order_of_the_film():
    from cft.model.listening import _fields

    rows = torch.arange(8.0)[:, None].expand(8, 8)[None, None]
    fields = _fields(rows, 1, 0)
    assert fields is not None
    assert fields[0, :, 0].tolist() == [0.5] * 4 + [2.5] * 4 + [4.5] * 4 + [6.5] * 4
    tokens = torch.cat([torch.full((1, 1, 1), 99.0), rows.reshape(1, 64, 1)], 1)
    assert torch.equal(_fields(tokens, 1, 1), fields)
    assert torch.equal(_fields(rows.permute(0, 2, 3, 1).expand(1, 8, 8, 3), 3, 0)[..., :1], fields)


# ---------------------------------------------------------------- what a user is told


@pytest.fixture
def files(unseen, model, tmp_path) -> list[Path]:
    """A film that passes, and the same upside down."""
    from cft.heatmap import write_png

    film = next(film for film in unseen if model.predict(film).gate.verdict == "pass")
    paths = [tmp_path / "upright.png", tmp_path / "upside.png"]
    for path, radiograph in zip(paths, (film, turned(film, "turn around")), strict=True):
        write_png(path, (radiograph.pixels * 255).round().astype(np.uint8))
    assert verdicts(model, paths) == ["pass", "refuse"]
    return paths


def run(capsys, *words: object) -> tuple[int, str, str]:
    status = command.main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command_withholds_the_numbers_of_a_refused_film(capsys, gated_folder, files):
    status, out, _ = run(capsys, *files, "--model", gated_folder)
    assert status == 1
    upright, upside = out.split(str(files[1]))
    assert "Cardiomegaly" in upright
    assert "Cardiomegaly" not in upside
    assert "Not answered.\n  The film looks upside down." in upside
    assert run(capsys, files[0], "--model", gated_folder)[0] == 0


def test_the_command_warns_if_asked_to_or_says_nothing(capsys, gated_folder, files):
    status, out, _ = run(capsys, files[1], "--model", gated_folder, "--gate", "warn")
    assert status == 0
    assert "The film looks upside down." in out
    assert "Cardiomegaly" in out
    status, out, err = run(capsys, files[1], "--model", gated_folder, "--gate", "off")
    assert (status, err) == (0, "")
    assert "upside down" not in out
    assert "Cardiomegaly" in out


def test_plain_lines_and_heat_maps_are_withheld_too(capsys, gated_folder, files, tmp_path):
    maps = tmp_path / "maps"
    status, out, err = run(capsys, files[1], "--model", gated_folder, "--plain", "--heatmaps", maps)
    assert (status, out) == (1, "")
    assert f"{files[1]}: Not answered. The film looks upside down." in err
    assert list(maps.iterdir()) == []


def test_the_json_document_has_the_gate_and_no_findings(capsys, gated_folder, files):
    status, out, _ = run(capsys, *files, "--model", gated_folder, "--json")
    upright, upside = json.loads(out)["films"]
    assert status == 1
    assert upright["gate"] == {"verdict": "pass", "reasons": []}
    assert len(upright["findings"]) == 3
    assert upside["gate"]["verdict"] == "refuse"
    assert upside["findings"] == []
    _, out, _ = run(capsys, files[1], "--model", gated_folder, "--json", "--gate", "off")
    assert len(json.loads(out)["films"][0]["findings"]) == 3


def test_the_csv_table_has_a_column_and_blank_numbers(gated_folder, files, model):
    found = list(zip(["a", "b"], model.predict(files), strict=True))
    rows = list(csv.DictReader(io.StringIO("".join(results.csv_rows(model.label_names, found)))))
    assert rows[0]["gate"] == "pass"
    assert float(rows[0]["Hernia"]) == found[0][1].probabilities["Hernia"]
    assert rows[1]["gate"].startswith("refuse: The film looks upside down.")
    assert [rows[1][label] for label in model.label_names] == ["", "", ""]
    shown = "".join(results.csv_rows(model.label_names, found, "warn"))
    assert all(row["Hernia"] for row in csv.DictReader(io.StringIO(shown)))


def test_the_page_withholds_numbers_behind_one_click_and_offers_the_turn(model, files):
    pytest.importorskip("gradio")
    from cft.page import server

    named = [(path.name, path) for path in files]
    html = server.show(model, named)
    assert "Not answered: The film looks upside down" in html
    assert html.index("and read it again<") < html.index("Show the film and its numbers")
    refused = html[html.index('<section class="refused">') :]
    before = refused.split("<details", 1)[0]
    inside = refused.split("<details><summary>", 1)[1]
    assert "Cardiomegaly" not in before
    assert "Not to be answered." in inside.split('class="reading"')[0]
    assert "Cardiomegaly" in inside
    assert html.count("Turn it the other way up and read it again") == 1
    assert html.count("<article") == html.count("</article") == 3
    ids = [part.split('"')[0] for part in html.split(' id="film-')[1:]]
    assert len(set(ids)) == 3


def test_the_interface_of_programs_withholds_them_unless_told_otherwise(model, files):
    pytest.importorskip("gradio")
    from cft.page import server

    named = [(path.name, path) for path in files]
    assert [len(film["findings"]) for film in server.predict(model, named)["films"]] == [3, 0]
    shown = server.predict(model, named, gate="off")["films"]
    assert [len(film["findings"]) for film in shown] == [3, 3]
    assert "Not answered" not in shown[1]["sentence"]


def test_an_ensemble_follows_most_of_its_members():
    from cft.film.gate import Gate
    from cft.model.ensemble import _middle

    refused, passed = Gate("refuse", ("x",)), Gate()
    assert _middle([refused, passed, refused], [0.3, 0.4, 0.3]) == refused
    assert _middle([refused, passed, passed], [0.4, 0.3, 0.3]) == passed
    assert _middle([refused, passed], [0.5, 0.5]) == passed  # of two middles the milder


# -------------------------------------------------------------------------- gate-fit


def test_gate_fit_adds_a_gate_to_any_folder(capsys, tiny_model_folder, phantoms, tmp_path):
    from cft.heatmap import write_png

    shutil.copytree(tiny_model_folder, tmp_path / "model")
    (tmp_path / "films").mkdir()
    for number, film in enumerate(phantoms[:100]):
        write_png(tmp_path / "films" / f"{number:03}.png", film)
    (tmp_path / "films" / "broken.png").write_bytes(b"no film")
    listed = sorted(map(str, (tmp_path / "films").glob("0[0-6]*.png")))
    (tmp_path / "fit.txt").write_text("\n".join(listed) + "\n")
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    status, out, err = run(capsys, "gate-fit", tmp_path / "model", tmp_path / "films")
    assert status == 0
    assert out.endswith("the gate has learnt from 80 films; 20 others chose its limits\n")
    assert "broken.png: the file is not a picture" in err
    first = read_config(tmp_path / "model")["cft"]["gate"]
    checks = [str(tmp_path / "films" / f"{n:03}.png") for n in range(70, 95)]
    status, out, _ = run(
        capsys, "gate-fit", tmp_path / "model", f"@{tmp_path / 'fit.txt'}", "--check", *checks
    )
    assert status == 0
    second = read_config(tmp_path / "model")["cft"]["gate"]
    assert (second["fitted"], second["checked"]) == (70, 25)
    assert first != second
    assert cft.load(tmp_path / "model", "cpu").gatekeeper is not None
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights


def test_gate_fit_says_what_is_wrong(capsys, tiny_model_folder, phantoms, tmp_path):
    from cft.heatmap import write_png

    shutil.copytree(tiny_model_folder, tmp_path / "model")
    write_png(tmp_path / "film.png", phantoms[0])
    status, _, err = run(capsys, "gate-fit", tmp_path / "model", tmp_path / "film.png")
    assert status == 1
    assert "0 films to fit the gate with; it takes 20" in err
    status, _, err = run(capsys, "gate-fit", tmp_path / "none", tmp_path / "film.png")
    assert status == 2
    assert "is not a folder" in err


def test_a_gate_that_cannot_judge_a_film_leaves_the_folder_as_it_was(
    capsys, gated_folder, phantoms, tmp_path, monkeypatch
):
    from cft.heatmap import write_png

    folder, films = tmp_path / "model", tmp_path / "films"
    shutil.copytree(gated_folder, folder)
    films.mkdir()
    for number, film in enumerate(phantoms[:100]):
        write_png(films / f"{number:03}.png", film)
    before = (folder / "config.json").read_bytes()
    elsewhere = copy.deepcopy(read_model_folder(folder).facts.gate)
    object.__setattr__(elsewhere.depths[0], "module", "a_part_that_is_not_there")
    monkeypatch.setattr("cft.model.gate_fit.fit_gate", lambda *_, **__: elsewhere)
    status, out, err = run(capsys, "gate-fit", folder, films)
    assert status == 2
    assert "has no part 'a_part_that_is_not_there'" in err
    assert "has learnt" not in out
    assert (folder / "config.json").read_bytes() == before
    monkeypatch.setattr(model_gate, "verdicts", raising(ValueError("no verdict")))
    with pytest.raises(ModelFolderError, match=r"cannot judge a film \(no verdict\)"):
        store_gate(read_model_folder(folder), read_model_folder(folder).facts.gate)
    assert (folder / "config.json").read_bytes() == before


def raising(error: Exception):
    def work(*_):
        raise error

    return work


def test_a_model_that_was_replaced_meanwhile_is_not_given_the_gate(
    gated_folder, tiny_model_folder, tmp_path
):
    folder = tmp_path / "model"
    shutil.copytree(gated_folder, folder)
    fitted = read_model_folder(folder)
    shutil.copytree(tiny_model_folder, folder, dirs_exist_ok=True)
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ModelFolderError, match="have changed since the gate was fitted"):
        store_gate(fitted, fitted.facts.gate)
    assert (folder / "config.json").read_bytes() == before


class _Packed:
    """Films as a run has them packed."""

    def __init__(self, films: np.ndarray):
        self.films = films

    def batches(self, rows):
        for batch in rows:
            yield torch.from_numpy(self.films[batch])[:, None]


def test_training_fits_its_gate_on_training_films_and_checks_with_validation_films(
    tiny_model_folder, phantoms, monkeypatch, caplog
):
    from train.publishing.gate import gate_of_run

    folder = read_model_folder(tiny_model_folder)
    network, preprocess = build_network(folder), folder.facts.preprocess
    rows = {"train": np.arange(60), "valid": np.arange(60, 90), "test": np.arange(90, 150)}
    spoilt = phantoms.copy()
    spoilt[90:] = 0  # test films have no say
    found = [
        gate_of_run(network, preprocess, _Packed(films), rows, seed=3)  # type: ignore[arg-type]
        for films in (phantoms, spoilt)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert (found[0].fitted, found[0].checked) == (60, 30)
    assert found[0].to_config() == found[1].to_config()
    few = {**rows, "valid": np.arange(60, 65)}
    packed = _Packed(phantoms)
    assert gate_of_run(network, preprocess, packed, few, seed=3) is None  # type: ignore[arg-type]
    assert "no gate of its own: 5 films to check the gate with" in caplog.text
    monkeypatch.setenv("CFT_GATE", "off")
    assert gate_of_run(network, preprocess, packed, rows, seed=3) is None  # type: ignore[arg-type]


def test_what_the_gate_of_a_frozen_network_learnt_is_found_again(
    gated_folder, phantoms, tmp_path, monkeypatch
):
    from train.publishing import gate as of_runs

    folder = read_model_folder(gated_folder)
    network, preprocess, gate = build_network(folder), folder.facts.preprocess, folder.facts.gate
    rows = {"train": np.arange(60), "valid": np.arange(60, 90)}
    fits: list[int] = []
    monkeypatch.setattr(of_runs, "fit_gate", lambda *_, **__: fits.append(1) or gate)

    def learnt(rows=rows, seed=3, kept=tmp_path):
        packed = _Packed(phantoms)
        found = of_runs.gate_of_run(network, preprocess, packed, rows, seed, kept)  # type: ignore[arg-type]
        assert found is not None
        return found.to_config()

    assert [learnt(kept=None), learnt(), learnt()] == [gate.to_config()] * 3
    assert len(fits) == 2
    learnt(seed=4)
    learnt({**rows, "valid": np.arange(61, 91)})
    assert len(fits) == 4  # other films, or another draw, teach something else
    for file in tmp_path.iterdir():
        file.write_text(file.read_text()[:1000])
    assert learnt() == gate.to_config()
    assert len(fits) == 5
