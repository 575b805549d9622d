"""Loading a model and predicting with it."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import cft
from cft.__main__ import main
from cft.model.classifier import Classifier
from cft.model.findings import LATERAL
from cft.model.folder import write_model_folder
from tests.conftest import ROOT, random_model_config

LABELS = ["Cardiomegaly", "Effusion", "Hernia"]


@pytest.fixture(scope="module")
def classifier(model_folder) -> Classifier:
    return cft.load(model_folder, device="cpu")


@pytest.fixture
def copy(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "copy")


def rewrite(folder, *, tensors=None, **changes):
    """Change a model folder's configuration or tensors so that only that change is wrong."""
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    config["cft"].pop("weights_sha256", None)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors:
        safetensors.torch.save_file(tensors, folder / "model.safetensors")


# Loading


def test_stock_timm_loads_the_same_model(model_folder, classifier):
    network = timm.create_model(f"local-dir:{model_folder}", pretrained=True).eval()
    batch = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(batch), classifier.logits(batch), atol=1e-5)
    assert network.pretrained_cfg["label_names"] == LABELS


def test_no_reference_means_the_environments_model(model_folder, monkeypatch):
    monkeypatch.setenv("CFT_MODEL", str(model_folder))
    assert cft.load().label_names == tuple(LABELS)


def test_a_missing_folder_is_named_with_where_the_name_came_from(monkeypatch):
    monkeypatch.setenv("CFT_MODEL", "/no/such/model")
    with pytest.raises(cft.ModelFolderError, match=r"/no/such/model.*CFT_MODEL"):
        cft.load()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architecture": "resnet1000"}, "'resnet1000'.*not know"),
        ({"architecture": "hf-hub:some/model"}, "not know"),
        ({"architecture": "resnet18"}, "not those of resnet18"),
        ({"model_args": {"in_chans": 3}}, "do not fit.*conv1"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "may not set.*checkpoint_path"),
        ({"model_args": {"nonsense": 1}}, "cannot build"),
        ({"label_names": ["a", "b"], "num_classes": 2, "cft": {}}, r"do not fit.*fc\."),
        ({"cft": {"categories": {"Fracture": {}}}}, "'Fracture'.*not a label"),
        ({"cft": {"categories": {"Hernia": {"platt": {"scale": -1, "bias": 0}}}}}, "Hernia"),
        ({"cft": {"categories": {"Hernia": {"platt": {"scale": 1}}}}}, "bias"),
        ({"cft": {"categories": {"Hernia": {"operating_point": {"threshold": 7}}}}}, "Hernia"),
        ({"cft": {"categories": {"Hernia": {"best_f1": {"threshold": -1}}}}}, "Hernia"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(copy, changes, named):
    rewrite(copy, **changes)
    with pytest.raises(cft.ModelFolderError, match=named):
        cft.load(copy)


def test_an_impossible_input_size_is_refused(copy):
    pretrained_cfg = {**random_model_config()["pretrained_cfg"], "input_size": [1, 5, 5]}
    rewrite(copy, pretrained_cfg=pretrained_cfg)
    with pytest.raises(cft.ModelFolderError, match=r"config\.json: pretrained_cfg\.input_size"):
        cft.load(copy)


def test_missing_and_extra_tensors_are_refused_by_name(copy):
    tensors = safetensors.torch.load_file(copy / "model.safetensors")
    bias = tensors.pop("fc.bias")
    rewrite(copy, tensors={**tensors, "fc.bais": bias})
    reason = r"missing tensors: 1 \(first: fc\.bias\).*fc\.bais"
    with pytest.raises(cft.ModelFolderError, match=reason):
        cft.load(copy)


def test_a_configuration_cannot_promise_more_memory_than_the_weights_have(copy):
    rewrite(copy, model_args={"in_chans": 1, "stem_width": 10**6})
    with pytest.raises(cft.ModelFolderError, match=r"model_args\.stem_width.* at most 4096"):
        cft.load(copy)
    rewrite(copy, model_args={"in_chans": 1, "stem_width": 4096})
    with pytest.raises(cft.ModelFolderError, match="are not those of resnet10t"):
        cft.load(copy)


# Predicting


def test_probabilities_follow_the_definition(classifier, films):
    """Platt scaling of the network's own output on Pillow's reading of the file."""
    film = np.asarray(Image.open(films[0]), dtype=np.float32) / 255  # 64 x 64: nothing to resize
    logits = classifier.logits(torch.from_numpy((film - 0.5) / 0.25)[None, None])[0].tolist()
    findings = classifier.predict(films[0])
    assert list(findings.probabilities) == list(findings.scores) == LABELS
    assert list(findings.scores.values()) == pytest.approx(logits, abs=1e-5)
    expected = [1 / (1 + np.exp(-x)) for x in (2 * logits[0] - 1, logits[1], logits[2])]
    assert list(findings.probabilities.values()) == pytest.approx(expected, abs=1e-6)


def test_a_film_gives_the_same_numbers_alone_and_in_any_batch(classifier, films):
    alone = [classifier.predict(film) for film in films]
    for batch_size in (1, 2, 16):
        together = classifier.predict(films, batch_size=batch_size)
        assert len(together) == len(films)
        for one, other in zip(alone, together, strict=True):
            assert list(one.scores.values()) == pytest.approx(list(other.scores.values()), abs=1e-5)
            assert np.abs(one.heatmap("Hernia") - other.heatmap("Hernia")).max() < 1e-5


def test_every_form_of_a_film_gives_the_same_numbers(classifier, films):
    path = films[1]
    image = Image.open(path)
    forms = [
        path,
        str(path),
        path.read_bytes(),
        io.BytesIO(path.read_bytes()),
        image,
        np.asarray(image),
        np.asarray(image, dtype=np.float32) / 255,
        cft.read_radiograph(path),
    ]
    scores = [list(findings.scores.values()) for findings in classifier.predict(forms)]
    for other in scores[1:]:
        assert other == pytest.approx(scores[0], abs=1e-5)


def test_an_empty_list_gives_an_empty_list(classifier):
    assert classifier.predict([]) == []


def test_a_bad_film_raises_alone_and_stays_in_its_place_in_a_stream(classifier, films):
    with pytest.raises(cft.RadiographError):
        classifier.predict([films[0], b"not an image"])
    results = list(classifier.stream([films[0], b"not an image", films[1]], batch_size=2))
    assert [isinstance(result, cft.RadiographError) for result in results] == [False, True, False]


def test_a_stream_reads_no_further_than_one_batch_ahead(classifier, films):
    taken = []

    def endless():
        while True:
            taken.append(films[0])
            yield films[0]

    stream = classifier.stream(endless(), batch_size=2)
    next(stream)
    assert len(taken) == 2


def test_a_batch_size_below_one_is_refused(classifier, films):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        classifier.predict(films, batch_size=0)


def test_positives_are_those_at_or_above_their_operating_point(classifier, films):
    for findings in classifier.predict(films):
        expected = [
            label
            for label, point in (("Cardiomegaly", 0.25), ("Effusion", 0.0))
            if findings.probabilities[label] >= point
        ]
        assert sorted(findings.positives) == sorted(expected)
        assert findings.operating_points["Hernia"] is None


def test_a_lateral_film_is_answered_with_a_warning(classifier, model_folder, tmp_path):
    pixels = np.random.default_rng(0).random((64, 64), np.float32)
    lateral, frontal = cft.Radiograph(pixels, "lateral", ("note",)), cft.Radiograph(pixels, "PA")
    assert classifier.predict(lateral).notes == (LATERAL, "note")
    assert classifier.predict(frontal).notes == ()
    shutil.copytree(model_folder, tmp_path / "model")
    rewrite(tmp_path / "model", cft={"provenance": {"views": {"PA": 3, "lateral": 2}}})
    assert cft.load(tmp_path / "model").predict(lateral).notes == ("note",)


def test_the_dictionary_is_plain_json_sorted_by_probability(classifier, films):
    answer = json.loads(json.dumps(classifier.predict(films[0]).to_dict()))
    probabilities = [row["probability"] for row in answer["findings"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert {row["label"]: row["positive"] for row in answer["findings"]}["Hernia"] is None
    assert (answer["height"], answer["width"]) == (64, 64)


def test_predicting_needs_no_gradient_memory(classifier, films):
    classifier.predict(films[0])
    assert not any(p.requires_grad for p in classifier.network.parameters())


# Class activation maps


def test_the_heat_map_is_the_class_activation_map_of_the_film(classifier, films):
    """Against a map computed by hand; its mean over positions must be the film's score."""
    findings = classifier.predict(films[3])  # 256 x 256
    film = cft.read_radiograph(films[3]).pixels
    with torch.no_grad():
        batch = torch.from_numpy(classifier.preprocess(film))[None]
        features = classifier.network.forward_features(batch)
    weight, bias = classifier.network.fc.weight[0], classifier.network.fc.bias[0]
    local = (weight[:, None, None] * features[0]).sum(0) + bias
    assert local.mean().item() == pytest.approx(findings.scores["Cardiomegaly"], abs=1e-4)
    spread = torch.nn.functional.interpolate(
        local[None, None], size=(256, 256), mode="bilinear", align_corners=False
    )[0, 0]
    heat = findings.heatmap("Cardiomegaly")
    assert heat.dtype == np.float32
    assert np.abs(heat - torch.sigmoid(2 * spread - 1).numpy()).max() < 1e-4


def test_every_heat_map_has_its_films_size_and_a_range_of_zero_to_one(classifier, films):
    for path, findings in zip(films, classifier.predict(films), strict=True):
        for label in LABELS:
            heat = findings.heatmap(label)
            assert heat.shape == cft.read_radiograph(path).pixels.shape
            assert heat.min() >= 0
            assert heat.max() <= 1


def test_a_finding_the_model_does_not_know_is_refused(classifier, films):
    with pytest.raises(KeyError, match="no finding 'Fracture'"):
        classifier.predict(films[0]).heatmap("Fracture")


def test_a_network_whose_head_is_not_linear_draws_grad_cam(tmp_path, films):
    config = random_model_config()
    config["architecture"] = "mobilenetv3_small_050"
    config["num_features"] = 1024
    network = timm.create_model("mobilenetv3_small_050", num_classes=3, in_chans=1)
    folder = write_model_folder(
        tmp_path / "model", state_dict=network.state_dict(), config=config, card=""
    )
    classifier = cft.load(folder, device="cpu")
    findings = classifier.predict(films[0])
    assert len(findings.probabilities) == 3
    assert classifier.heatmap_kind == findings.heatmap_kind == "grad-cam"
    assert findings.heatmap("Hernia").shape == findings.shape


def test_a_network_without_a_map_of_features_says_that_it_has_no_heat_maps(
    tmp_path, films, monkeypatch
):
    monkeypatch.setattr("cft.model.gradients.has_grad_cam", lambda *_: False)
    config = random_model_config()
    config["architecture"] = "mobilenetv3_small_050"
    config["num_features"] = 1024
    network = timm.create_model("mobilenetv3_small_050", num_classes=3, in_chans=1)
    folder = write_model_folder(
        tmp_path / "model", state_dict=network.state_dict(), config=config, card=""
    )
    classifier = cft.load(folder, device="cpu", engine="torch")
    assert not classifier.has_heatmaps
    with pytest.raises(ValueError, match="no heat maps"):
        classifier.predict(films[0]).heatmap("Hernia")


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    ["densenet121", "efficientnet_lite0", "regnetx_002", "swin_tiny_patch4_window7_224"],
)
def test_networks_of_other_families_load_and_agree_with_timm(architecture, tmp_path):
    """Buffers that are not saved (Swin's index tables) must not stay without memory."""
    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=3, in_chans=1).eval()
    config = random_model_config()
    config["architecture"] = architecture
    config["pretrained_cfg"]["input_size"] = [1, 224, 224]
    folder = write_model_folder(
        tmp_path / "model", state_dict=network.state_dict(), config=config, card=""
    )
    batch = torch.randn(1, 1, 224, 224)
    classifier = cft.load(folder, "cpu", engine="torch")
    with torch.no_grad():
        assert torch.allclose(classifier.logits(batch), network(batch), atol=1e-4)


# The command line


@pytest.fixture
def run(capsys):
    """Run the command line in this process: (exit status, stdout, stderr)."""

    def run(*arguments, model=None):
        arguments = [str(argument) for argument in arguments]
        if model:
            arguments += ["--model", str(model), "--device", "cpu"]
        try:
            status = main(arguments)
        except SystemExit as exit:  # argparse's way out
            status = exit.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("option", "name", "why"),
    [
        ("--csv", "nowhere/x.csv", "No such file or directory"),
        ("--csv", "folder", "it is a folder"),
        ("--heatmaps", "file/maps", "Not a directory"),
    ],
)
def test_what_cannot_be_written_is_said_before_a_film_is_read(
    run, films, tmp_path, option, name, why, model_folder, monkeypatch
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Classifier, "stream", None)
    status, stdout, stderr = run(films[0], option, tmp_path / name, model=model_folder)
    assert (status, stdout) == (2, "")
    assert stderr == f"cft: cannot write to {tmp_path / name} ({why})\n"


@pytest.mark.slow
def test_the_command_runs_as_a_module(films, model_folder):
    command = [sys.executable, "-m", "cft", str(films[0]), "--plain", "--model", str(model_folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == LABELS


def test_wrong_usage_is_one_sentence_and_exit_status_2(run, tmp_path, films):
    for arguments, sentence in [
        ([tmp_path], f"no films in {tmp_path}"),
        ([films[0], "--model", "/no/such/model"], "there is no model folder at /no/such/model"),
        ([films[0], "--batch-size", "0"], "--batch-size must be at least 1"),
        ([films[0], "--json", "--plain"], "not allowed with"),
    ]:
        status, _, stderr = run(*arguments)
        assert status == 2
        assert sentence in stderr


def test_a_bad_film_is_named_and_the_rest_are_answered(run, films, model_folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    status, stdout, stderr = run(films[0], bad, "/no/such/film", "--csv", "-", model=model_folder)
    assert status == 1
    assert len(stderr.splitlines()) == 2
    assert str(bad) in stderr
    assert "/no/such/film" in stderr
    header, good, *failed = stdout.splitlines()
    words = "operating_point,above,unsure,sentence,view,notes,no_evidence,gate"
    words += ",thresholds,weights_sha256,error"
    assert header == f"file,Cardiomegaly,Effusion,Hernia,{words}"
    assert good.startswith(str(films[0]))
    assert [line.count(",") >= 6 for line in failed] == [True, True]


def test_every_output_shows_the_same_numbers(run, films, model_folder, classifier, tmp_path):
    expected = classifier.predict(films[1]).probabilities
    document = json.loads(run(films[1], "--json", model=model_folder)[1])
    rows = {row["label"]: row["probability"] for row in document["films"][0]["findings"]}
    assert rows == pytest.approx(expected, abs=1e-6)
    assert "Not a medical device" in document["disclaimer"]
    plain = run(films[1], "--plain", model=model_folder)[1]
    assert plain == "".join(f"{label}: {p:.4f}\n" for label, p in expected.items())
    table = run(films[1], model=model_folder)[1]
    assert all(f"{p:.4f}" in table for p in expected.values())
    assert "Not a medical device" in table
    _, _, stderr = run(films[1], "--csv", tmp_path / "out.csv", model=model_folder)
    cells = (tmp_path / "out.csv").read_text().splitlines()[1].split(",")
    assert [float(x) for x in cells[1:4]] == pytest.approx(list(expected.values()), abs=1e-6)
    assert str(tmp_path / "out.csv") in stderr


def test_a_folder_is_searched_and_heat_maps_are_written(run, films, model_folder, tmp_path):
    maps = tmp_path / "maps"
    status, stdout, _ = run(films[0].parent, "--plain", "--heatmaps", maps, model=model_folder)
    assert status == 0
    assert stdout.count("Hernia: ") == len(films)
    written = sorted(maps.iterdir())
    assert {path.name[:5] for path in written} == {f"{n:05d}" for n in range(1, len(films) + 1)}
    for path in written:
        number = int(path.name[:5]) - 1
        assert Image.open(path).size == Image.open(films[number]).size
        assert " " not in path.name
