"""Grad-CAM and the gradient at the film: closed forms, finite differences, networks of timm."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import timm
import torch
from torch import nn

import cft
from cft.heatmap import ABOUT_GRAD_CAM, beside_peak
from cft.model.folder import write_model_folder
from cft.model.gradients import _cut, grad_cam, has_grad_cam, input_gradient
from tests.conftest import random_model_config


class Small(nn.Module):
    """A convolution, average pooling, and a head that is linear or is not."""

    num_features = 4

    def __init__(self, bend=None):
        super().__init__()
        self.conv, self.head, self.bend = nn.Conv2d(1, 4, 3), nn.Linear(4, 2), bend
        self.double().eval().requires_grad_(False)

    def forward_features(self, x):
        return self.conv(x)

    def forward_head(self, features):
        pooled = features.mean(dim=(2, 3))
        return self.head(pooled if self.bend is None else self.bend(features).mean(dim=(2, 3)))


@pytest.fixture
def film():
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1, 1, 7, 9), generator=generator, dtype=torch.float64)


def small(bend=None) -> Small:
    torch.manual_seed(1)
    return Small(bend)


def test_without_a_map_of_features_there_is_none(film):
    network = small()
    network.forward_features = lambda x: x.flatten(1)
    network.forward_head = lambda x: x[:, :2]
    assert not has_grad_cam(network, film.detach().numpy(), "cpu")
    with pytest.raises(ValueError, match="2 dimensions are no map"):
        grad_cam(network, film)


def test_of_pooling_and_a_linear_layer_it_is_the_class_activation_map_without_bias(film):
    network = small()
    features = network.conv(film)[0]
    cam = torch.einsum("kc,chw->khw", network.head.weight, features)
    assert (cam < 0).any()
    expected = cam.clamp(min=0) / features[0].numel()
    assert torch.allclose(grad_cam(network, film).double(), expected, atol=1e-7)


def test_of_a_bent_head_it_is_what_finite_differences_give(film):
    network = small(bend=lambda x: torch.tanh(2 * x) + 0.1 * x**2)
    features = network.conv(film)
    step = 1e-5
    slopes = torch.zeros(2, *features.shape[1:], dtype=torch.float64)
    for place in np.ndindex(*features.shape[1:]):
        ends = []
        for sign in (1, -1):
            moved = features.clone()
            moved[(0, *place)] += sign * step
            ends.append(network.forward_head(moved)[0])
        slopes[(slice(None), *place)] = (ends[0] - ends[1]) / (2 * step)
    weights = slopes.mean(dim=(2, 3))  # equation 1
    expected = torch.einsum("kc,chw->khw", weights, features[0]).clamp(min=0)  # equation 2
    assert torch.allclose(grad_cam(network, film).double(), expected, atol=1e-6)
    assert expected.max() > 0


def test_the_gradient_at_the_film_is_what_finite_differences_give(film):
    network = small(bend=torch.tanh)
    found = input_gradient(network, film)
    assert found.shape == (2, 7, 9)
    step = 1e-5
    for place in ((0, 0), (3, 4), (6, 8)):
        ends = []
        for sign in (1, -1):
            moved = film.clone()
            moved[(0, 0, *place)] += sign * step
            ends.append(network.forward_head(network.forward_features(moved))[0])
        slope = ((ends[0] - ends[1]) / (2 * step)).abs()
        assert torch.allclose(found[(slice(None), *place)].double(), slope, atol=1e-6)


def vit(**more):
    torch.manual_seed(0)
    options = {"img_size": (64, 96), "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 2}
    network = timm.create_model(
        "vit_tiny_patch16_224", num_classes=3, in_chans=1, **{**options, **more}
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}]
)
def test_tokens_become_the_film_s_grid_without_class_and_register_tokens(options):
    network, seen = vit(**options), torch.randn(1, 1, 64, 96)
    found = grad_cam(network, seen)
    assert found.shape == (3, 4, 6)
    # The same by hooks that keep the tokens and their gradients.
    kept = []

    def keep(module, inputs, output):
        output.retain_grad()
        kept.append(output)

    network.requires_grad_(True)
    network.blocks[-1].norm1.register_forward_hook(keep)
    network(seen)[0, 1].backward()
    first = network.num_prefix_tokens
    tokens, slopes = kept[0][0, first:].detach(), kept[0].grad[0, first:]
    expected = (tokens @ slopes.mean(0)).clamp(min=0).reshape(4, 6)
    assert torch.allclose(found[1], expected, atol=1e-5)
    assert expected.max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        "swin_tiny_patch4_window7_224",
        "convnext_atto",
        "eva02_tiny_patch14_224",
        "coatnet_nano_rw_224",
    ],
)
def test_networks_of_other_layouts_have_maps(architecture):
    network = timm.create_model(architecture, num_classes=2).eval().requires_grad_(False)
    found = grad_cam(network, torch.randn(1, 3, 224, 224))
    assert found.ndim == 3
    assert len(found) == 2
    assert found.shape[1] == found.shape[2] < 20
    assert torch.isfinite(found).all()


def test_a_pass_of_another_thread_is_not_cut():
    network, answers = vit(), []
    with _cut(network.blocks[-1].norm1) as cut:
        with torch.no_grad():
            expected = network(torch.ones(1, 1, 64, 96))
        cut.clear()

        def other():
            with torch.inference_mode():
                answers.append(network(torch.ones(1, 1, 64, 96)))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert cut == []
    assert torch.equal(answers[0], expected)


def test_the_largest_value_is_the_film_s_probability():
    found = beside_peak(np.array([[0, 2.0], [4, 1]]), 0.3)
    assert np.allclose(found, [[0, 0.15], [0.3, 0.075]])
    assert beside_peak(np.zeros((2, 2)), 0.3).max() == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = random_model_config()
    config["architecture"] = "vit_tiny_patch16_224"
    options = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 2}
    config["model_args"] = {**config["model_args"], **options}
    config["global_pool"] = "token"
    config["num_features"] = 48
    config["pretrained_cfg"]["input_size"] = [1, 64, 64]
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3, in_chans=1, **options)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    place = tmp_path_factory.mktemp("vit") / "model"
    return write_model_folder(place, state_dict=network.state_dict(), config=config, card="")


def test_a_transformer_s_findings_have_maps_that_peak_at_the_probability(folder, films):
    classifier = cft.load(folder, "cpu", engine="torch")
    findings = classifier.predict(films[2])
    assert classifier.has_heatmaps
    assert classifier.heatmap_kind == findings.heatmap_kind == "grad-cam"
    for label, probability in findings.probabilities.items():
        heat = findings.heatmap(label)
        assert heat.shape == findings.shape
        assert heat.min() >= 0
        # Spreading smooths the peak a little.
        assert 0.5 * probability < heat.max() <= probability + 1e-6 or heat.max() == 0
    with torch.inference_mode():  # whatever mode the caller is in
        again = classifier.predict(films[2]).heatmap("Effusion")
    assert np.array_equal(again, findings.heatmap("Effusion"))


def test_the_map_is_torch_s_where_onnx_runtime_gives_the_score(folder, films):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    fast, plain = (cft.load(folder, "cpu", engine=name) for name in ("onnx", "torch"))
    assert fast.engine.name == "onnx"
    maps = [model.predict(films[1]).heatmap("Effusion") for model in (fast, plain)]
    assert np.allclose(*maps, atol=1e-4)


@pytest.mark.slow
def test_the_page_and_the_command_say_what_such_a_map_is_not(folder, films, tmp_path, capsys):
    from cft.__main__ import main
    from cft.page import api, server

    classifier = cft.load(folder, "cpu", engine="torch")
    html = server.show(classifier, [("film.png", films[0])])
    assert ABOUT_GRAD_CAM.split(":")[1].strip()[:60] in html
    assert "what the score is made of" not in html
    assert api.model(classifier)["heat_map_kind"] == "grad-cam"
    words = ["--model", str(folder), "--gate", "off", "--heatmaps", str(tmp_path / "maps")]
    assert main([str(films[0]), *words]) == 0
    assert ABOUT_GRAD_CAM in capsys.readouterr().err
    assert list((tmp_path / "maps").glob("*.png"))
