"""Where a network of stage 1 starts, and what of the start it keeps."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import cft
from cft.errors import ModelFolderError
from cft.model.folder import CONFIG, WEIGHTS, read_model_folder
from tests.test_negative import arguments, data, make_run  # noqa: F401
from train import negative
from train.errors import TrainingError
from train.stage1 import start
from train.stage1.network import build, preprocess_of
from train.stage1.run import State
from train.stage1.settings import Settings

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
LABELS = ("Mass", "Hernia", "Edema")
UNKNOWN = np.full((1, 3), np.nan, np.float32)


@pytest.fixture(autouse=True)
def nothing_remembered():
    """A start is asked for once in a process; each test here is one."""
    start._source_for.cache_clear()
    start._config_of.cache_clear()
    start._arguments_in.cache_clear()
    start._folder_of.cache_clear()


def timm_folder(
    folder: Path, arch: str, classes: int = 7, inputs: dict = HALF, **config
) -> tuple[Path, torch.nn.Module]:
    """A folder as timm writes it, which names no labels, and the RGB network that is in it."""
    torch.manual_seed(1)
    network = timm.create_model(arch, num_classes=classes).eval()
    for buffer in network.buffers():  # running statistics other than 0 and 1
        if buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer) * 0.1)
    side = network.pretrained_cfg["input_size"][-1]
    stated = {
        "architecture": arch,
        "num_classes": classes,
        "num_features": network.num_features,
        "pretrained_cfg": {"input_size": [3, side, side], "num_classes": classes, **inputs},
        **config,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(stated))
    save_file({n: x.clone() for n, x in network.state_dict().items()}, folder / WEIGHTS)
    return folder, network


def settings(folder: Path | str, arch: str, **changes) -> Settings:
    return Settings(**{"arch": arch, "init": str(folder), "image_size": 160, **changes})


# --- Input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize(("inputs", "channels"), [(HALF, 1), (IMAGENET, 3)])
def test_a_grey_film_has_the_features_of_the_film_repeated(tmp_path, arch, inputs, channels):
    """Under the weights' own mean and std, which are then the run's."""
    folder, rgb = timm_folder(tmp_path, arch, inputs=inputs)
    asked = settings(folder, arch)
    network, preprocess = build(asked, LABELS, UNKNOWN).eval(), preprocess_of(asked)
    assert preprocess.input_size == (channels, 160, 160)
    assert preprocess.mean == tuple(inputs["mean"][:channels])
    assert preprocess.std == tuple(inputs["std"][:channels])
    film = torch.rand(2, 1, 160, 160)
    mean, std = (torch.tensor(inputs[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        expected = rgb.forward_features((film.repeat(1, 3, 1, 1) - mean) / std)
        found = network.forward_features(preprocess.normalize(film))
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_stem_that_standardises_its_weights_keeps_three_channels(tmp_path):
    """Its weights cannot be summed: what is standardised is their sum then, not each channel."""
    folder, rgb = timm_folder(tmp_path, "test_nfnet")
    asked = settings(folder, "test_nfnet")
    network, preprocess = build(asked, LABELS, UNKNOWN).eval(), preprocess_of(asked)
    assert preprocess.input_size[0] == 3
    film = torch.rand(1, 1, 160, 160)
    with torch.inference_mode():
        expected = rgb.forward_features((film.repeat(1, 3, 1, 1) - 0.5) / 0.5)
        found = network.forward_features(preprocess.normalize(film))
    torch.testing.assert_close(found, expected)


def test_asking_whether_a_stem_sums_draws_no_random_number(tmp_path):
    folder, _ = timm_folder(tmp_path, "test_resnet")
    start._stem_sums.cache_clear()
    before = torch.get_rng_state()
    assert preprocess_of(settings(folder, "test_resnet")).input_size[0] == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_a_random_start_has_one_channel_and_the_statistics_of_films():
    found = preprocess_of(Settings(image_size=64))
    assert (found.input_size, found.mean, found.std) == ((1, 64, 64), (0.5,), (0.25,))


def test_position_embeddings_are_resampled_as_timm_does(tmp_path):
    folder, _ = timm_folder(tmp_path, "test_vit")
    network = build(settings(folder, "test_vit", image_size=96), LABELS, UNKNOWN)
    stock = timm.create_model(
        "test_vit",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(folder / WEIGHTS), "num_classes": 7},
        num_classes=3,
        in_chans=1,
        img_size=96,
    )
    for name, expected in stock.state_dict().items():
        if not name.startswith("head."):
            torch.testing.assert_close(network.state_dict()[name], expected, msg=name)
    assert network.pos_embed.shape[1] == 37  # 6 x 6 places and the class token


def test_arguments_of_the_architecture_come_from_the_folder(tmp_path):
    """As a foundation model with other patches than its namesake in timm needs."""
    torch.manual_seed(0)
    rgb = timm.create_model("test_vit", num_classes=0, patch_size=32).eval()
    folder, _ = timm_folder(tmp_path, "test_vit", 0, model_args={"patch_size": 32})
    save_file({n: x.clone() for n, x in rgb.state_dict().items()}, folder / WEIGHTS)
    network = build(settings(folder, "test_vit"), LABELS, UNKNOWN)
    assert torch.equal(network.pos_embed, rgb.pos_embed)
    assert network.built_with["patch_size"] == 32


# --- Logistic regressions -----------------------------------------------------------------------


def named_folder(tmp_path: Path, names: tuple[str, ...]) -> tuple[Path, torch.nn.Module]:
    return timm_folder(tmp_path, "test_resnet", len(names), label_names=list(names))


@pytest.mark.parametrize(
    "names", [LABELS, LABELS[::-1], ("Other", "Edema", "Mass", "Nodule", "Hernia")]
)
def test_logistic_regressions_are_taken_by_name(tmp_path, caplog, names):
    folder, before = named_folder(tmp_path, names)
    with caplog.at_level(logging.INFO):
        head = build(settings(folder, "test_resnet"), LABELS, UNKNOWN).get_classifier()
    for row, label in enumerate(LABELS):
        theirs = names.index(label)
        assert torch.equal(head.weight[row], before.fc.weight[theirs])
        assert head.bias[row] == before.fc.bias[theirs]
    assert "with its logistic regressions by name" in caplog.text


def test_a_label_that_the_start_does_not_have_is_new(tmp_path, caplog):
    folder, before = named_folder(tmp_path, ("Edema", "Mass"))
    y = np.array([[0, 1, 0]] * 3 + [[0, 0, 1]], np.float32)
    with caplog.at_level(logging.INFO):
        head = build(settings(folder, "test_resnet"), LABELS, y).get_classifier()
    assert torch.equal(head.weight[[0, 2]], before.fc.weight[[1, 0]])
    assert torch.equal(head.bias[[0, 2]], before.fc.bias[[1, 0]])
    share = (3 + 1) / (4 + 2)
    assert head.bias[1].item() == pytest.approx(np.log(share / (1 - share)), rel=1e-6)
    assert "new are those of Hernia" in caplog.text


@pytest.mark.parametrize("names", [("a", "b", "c"), None, ["Mass"]])
def test_other_labels_or_none_make_a_new_head_at_the_log_odds(tmp_path, caplog, names):
    """As many outputs as there are labels, or names that are not one for each, prove nothing."""
    config = {"label_names": list(names)} if names else {}
    folder, before = timm_folder(tmp_path, "test_resnet", 3, **config)
    y = np.array([[0, 1, 0]] * 3 + [[0, np.nan, 1]], np.float32)
    with caplog.at_level(logging.INFO):
        head = build(settings(folder, "test_resnet"), LABELS, y).get_classifier()
    share = (np.array([0, 3, 1]) + 1) / (np.array([4, 3, 4]) + 2)
    np.testing.assert_allclose(head.bias.detach(), np.log(share / (1 - share)), rtol=1e-6)
    assert not torch.equal(head.weight, before.fc.weight)
    assert "the logistic regressions are new" in caplog.text


# --- A whole run --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size", "inputs", "channels"),
    [("test_resnet", 32, IMAGENET, 3), ("test_vit", 48, HALF, 1)],
)
def test_the_model_folder_states_what_was_used(
    data,  # noqa: F811
    tmp_path,
    arch,
    size,
    inputs,
    channels,
):
    folder, _ = timm_folder(tmp_path / "start", arch, inputs=inputs)
    changes = {"arch": arch, "init": folder, "image-size": size, "epochs": 1}
    assert negative.main(arguments(data, tmp_path / "run", **changes)) == 0
    config = read_model_folder(tmp_path / "run").config
    stated = config["pretrained_cfg"]
    assert stated["input_size"] == [channels, size, size]
    assert (stated["mean"], stated["std"]) == (
        inputs["mean"][:channels],
        inputs["std"][:channels],
    )
    origin = config["cft"]["provenance"]["start"]
    assert origin["weights_sha256"] == read_model_folder(folder, named=False).weights_sha256
    classifier = cft.load(tmp_path / "run", device="cpu")
    stock = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    batch = torch.rand(3, channels, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(stock(batch), classifier.logits(batch))
    film = data.parent / "4.png"
    assert set(classifier.predict(film).probabilities) == {"Bright", "Dark"}
    # The pack of a run from random tensors serves this one as well.
    other = arguments(data, tmp_path / "other", **{"image-size": size, "epochs": 1})
    assert negative.main(other) == 0
    assert len(list((tmp_path / "pixels").iterdir())) == 1
    again = {**changes, "init": tmp_path / "run"}
    assert negative.main(arguments(data, tmp_path / "again", **again)) == 0


def test_single_films_go_through_a_network_of_three_channels(tmp_path):
    """One film a step is asked about before training, with the channels of the start."""
    folder, _ = timm_folder(tmp_path, "test_convnext", inputs=IMAGENET)
    y = (np.random.default_rng(0).random((8, 2)) < 0.5).astype(np.float32)
    changes = {"arch": "test_convnext", "init": str(folder), "batch_size": 1}
    state = State.start(make_run(tmp_path / "run", y, **changes))
    assert state.network.stem[0].weight.shape[1] == 3


# --- What cannot be -----------------------------------------------------------------------------


def refusal(asked: Settings) -> str:
    with pytest.raises((TrainingError, ModelFolderError)) as error:
        build(asked, LABELS, UNKNOWN)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_start_is_read_once_and_not_held_when_it_is_taken_over(tmp_path, monkeypatch):
    folder, _ = timm_folder(tmp_path, "resnet18")
    read = []

    def counted(path, **given):
        read.append(path)
        return read_model_folder(path, **given)

    monkeypatch.setattr(start, "read_model_folder", counted)
    settings = Settings(arch="resnet18", image_size=32, init=str(folder))
    assert start.origin_of(settings)["weights_sha256"]
    build(settings, LABELS, UNKNOWN)
    assert len(read) == 1
    assert start._folder_of.cache_info().currsize == 0


def test_a_start_that_is_nowhere_is_refused():
    found = refusal(settings("nowhere", "test_resnet"))
    assert found.startswith("--init: nowhere is not a folder, nor is it random, pretrained or hf-")


def test_another_architecture_is_refused(tmp_path):
    folder, _ = timm_folder(tmp_path, "test_resnet")
    found = refusal(settings(folder, "test_vit"))
    assert f"{folder} holds a test_resnet, not the test_vit of --arch" in found


def test_an_ensemble_is_refused(tmp_path):
    member = {"folder": "members/1", "weight": 1}
    ours = {"members": [member], "average": "logits"}
    folder, _ = timm_folder(tmp_path, "test_resnet", cft=ours)
    assert "is an ensemble; start from one of its members" in refusal(
        settings(folder, "test_resnet")
    )


def test_input_statistics_that_are_not_stated_are_not_made_up(tmp_path):
    folder, _ = timm_folder(tmp_path, "test_resnet", inputs={})
    assert "does not say how its input is normalised" in refusal(settings(folder, "test_resnet"))


def test_tensors_of_another_network_are_refused(tmp_path):
    folder, rgb = timm_folder(tmp_path, "test_resnet")
    tensors = {n: x.clone() for n, x in rgb.state_dict().items() if "layer3" not in n}
    save_file(tensors, folder / WEIGHTS)
    assert f"the tensors of {folder} do not fit" in refusal(settings(folder, "test_resnet"))


def test_arguments_that_load_something_else_are_refused(tmp_path):
    folder, _ = timm_folder(tmp_path, "test_resnet", model_args={"checkpoint_path": "/x"})
    assert "may not set ['checkpoint_path']" in refusal(settings(folder, "test_resnet"))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet0", "has no architecture 'resnet0'"),
        ("test_resnet.other", "has no weights 'other' of test_resnet; there are r160_in1k"),
    ],
)
def test_an_architecture_or_tag_that_timm_does_not_have_is_wrong_usage(capsys, arch, message):
    with pytest.raises(SystemExit) as exit_:
        negative.parse(["--data", "somewhere", "--arch", arch])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


# --- The Hub ------------------------------------------------------------------------------------

REPOSITORY = "timm/test_resnet.r160_in1k"


def published(hub, tmp_path: Path, name: str = REPOSITORY) -> tuple[str, torch.nn.Module]:
    folder, network = timm_folder(tmp_path / "there", "test_resnet")
    files = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    return hub.add(name, {**files, "pytorch_model.bin": b"a pickle"}), network


@pytest.mark.parametrize(
    ("init", "arch"),
    [
        ("pretrained", "test_resnet"),
        ("pretrained", "test_resnet.r160_in1k"),
        (f"hf-hub:{REPOSITORY}", "test_resnet"),
        ("hf-hub:someone/else@v1", "test_resnet"),
    ],
)
def test_weights_of_the_hub_are_fetched_by_the_checked_path(hub, tmp_path, init, arch):
    name = "someone/else" if "else" in init else REPOSITORY
    commit, expected = published(hub, tmp_path, name)
    hub.model(name).tags["v1"] = commit
    asked = settings(init, arch)
    network = build(asked, LABELS, UNKNOWN)
    torch.testing.assert_close(network.layer4.state_dict(), expected.layer4.state_dict())
    assert start.origin_of(asked)["commit"] == commit
    assert hub.count("pytorch_model.bin") == 0
    # The Hub was asked which commit that is once, so that no branch moves in between.
    assert hub.count(f"GET /api/models/{name}/revision") == 1


def test_damaged_weights_are_not_kept(hub, tmp_path):
    published(hub, tmp_path)
    hub.fail(f"GET /{REPOSITORY}/resolve", "corrupt", times=8)
    assert "arrived damaged twice" in refusal(settings("pretrained", "test_resnet"))


def test_a_repository_of_pickles_is_refused(hub, tmp_path):
    hub.add(REPOSITORY, {CONFIG: b"{}", "pytorch_model.bin": b"a pickle"})
    assert "a pickle, which can run code" in refusal(settings("pretrained", "test_resnet"))


def test_without_a_network_the_repository_and_the_way_to_fetch_it_are_named(
    hub, tmp_path, monkeypatch, capsys
):
    """And that way works: `cft pull` takes a repository of timm's, which has no block of ours."""
    from huggingface_hub import constants

    from cft.__main__ import main

    _, expected = published(hub, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = refusal(settings("pretrained", "test_resnet"))
    assert found.startswith(f"{REPOSITORY}@main is not in the cache")
    command = found.partition("run `")[2].partition("`")[0].split()
    assert command == ["cft", "pull", f"{REPOSITORY}@main"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert main(command[1:]) == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    network = build(settings("pretrained", "test_resnet"), LABELS, UNKNOWN)
    torch.testing.assert_close(network.layer4.state_dict(), expected.layer4.state_dict())


def test_an_architecture_without_weights_is_refused():
    arch = next(m for m in timm.list_models("resnet*") if not timm.list_pretrained(f"{m}.*"))
    assert f"knows no weights of {arch} on the Hub" in refusal(settings("pretrained", arch))


def test_a_start_that_would_keep_timm_busy_for_ever_is_refused(tmp_path):
    folder, _ = timm_folder(tmp_path, "test_resnet", model_args={"layers": [4000] * 4})
    with pytest.raises(ModelFolderError, match="far more parts than the"):
        build(settings(folder, "test_resnet"), LABELS, UNKNOWN)
