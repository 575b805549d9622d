"""Spatial pyramids against literal loops; their maps, their start, what of them is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch

import cft
from cft.architectures.spatial_pyramid import SpatialPyramid, placed
from cft.errors import ModelFolderError
from cft.film.radiograph import Radiograph
from cft.model.folder import read_model_folder, write_model_folder
from cft.model.network import build_network
from tests.conftest import random_model_config
from tests.test_negative import arguments, write_data
from train import negative
from train.stage1.join import join

# Network, depths, and the modules of timm whose outputs these are.
NETWORKS = [
    ("test_efficientnet", "blocks.0+blocks.2", ("blocks.0", "blocks.2")),
    ("test_resnet", "layer2+layer3", ("layer2", "layer3")),
    ("regnetx_002", "s2+s3", ("s2", "s3")),
]


def pyramid(of: str, depths: str, **arguments) -> SpatialPyramid:
    torch.manual_seed(0)
    network = timm.create_model("spatial_pyramid", of=of, depths=depths, in_chans=1, **arguments)
    for module in network.modules():  # statistics that are not those of a new network
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return network.eval()


def overlap(field: int, fields: int, place: int, places: int) -> float:
    """The share of a place in a field, along one side."""
    end = min((field + 1) / fields, (place + 1) / places)
    return max(0.0, end - max(field / fields, place / places)) * fields


def averaged(features: np.ndarray, fields: int) -> np.ndarray:
    """(D, h, w) -> (D, fields, fields): means over equal areas, place by place."""
    depth, h, w = features.shape
    found = np.zeros((depth, fields, fields))
    for row in range(fields):
        for column in range(fields):
            for y in range(h):
                for x in range(w):
                    if share := overlap(row, fields, y, h) * overlap(column, fields, x, w):
                        found[:, row, column] += share * features[:, y, x]
    return found


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"of": "no_such"}, "there is no architecture 'no_such'"),
        ({"of": "joined"}, "there is no architecture 'joined'"),
        ({"of": "spatial_pyramid"}, "there is no architecture 'spatial_pyramid'"),
        ({"depths": ""}, "have to be some of the parts"),
        ({"depths": "blocks.2+blocks.1"}, "in their order: conv_stem, bn1, blocks.0"),
        ({"depths": "blocks.1+blocks.9"}, "depths are blocks.1+blocks.9, but"),
        ({"depths": "global_pool"}, "gives no feature map"),
        ({"grid": 0}, "grid is 0, but has to be 1 to 16"),
        ({"grid": 17}, "grid is 17"),
        ({"global_pool": "max"}, "has only 'avg'"),
    ],
)
def test_what_cannot_be_read_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said.replace("+", r"\+")):
        timm.create_model("spatial_pyramid", **{"of": "test_efficientnet", **arguments})


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained", "pretrained_cfg"])
def test_a_network_inside_another_may_load_nothing_either(name, tmp_path):
    config = random_model_config()
    network = timm.create_model("joined", of="test_resnet", num_classes=3, in_chans=1)
    config["architecture"] = "joined"
    config["model_args"] = {
        **{"of": ["test_resnet"] * 2, "in_chans": 1},
        "each": [{}, {name: "file:///etc/passwd"}],
    }
    tensors = network.state_dict()
    write_model_folder(tmp_path / "x", state_dict=tensors, config=config, card="")
    with pytest.raises(ModelFolderError, match=f"may not set .*{name}"):
        cft.load(tmp_path / "x", "cpu")


def test_a_map_that_no_memory_holds_is_refused():
    """Neither a folder nor a run has it: both ways through the network say so."""
    network = pyramid("test_resnet", "layer1", grid=16)
    side = 4 * int((2**26 / network.num_features) ** 0.5) + 16
    for way in (network, network.forward_features, network.pooled):
        with pytest.raises(ValueError, match="positions are too many"):
            way(torch.zeros(1, 1, side, side))


# --- The features -------------------------------------------------------------------------------


@pytest.mark.parametrize(("of", "depths", "modules"), NETWORKS)
@pytest.mark.parametrize("side", [64, 72])
def test_fields_are_means_over_equal_areas(of, depths, modules, side):
    network = pyramid(of, depths, grid=3)
    plain = timm.create_model(of, in_chans=1, num_classes=0).eval()
    plain.load_state_dict(network.network.state_dict(), strict=False)
    heard = {}
    for name in modules:
        plain.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: heard.update({name: output[0].numpy()})
        )
    film = torch.randn(1, 1, side, side)
    with torch.inference_mode():
        plain(film)
        found = network.forward_head(network.forward_features(film), pre_logits=True)[0].numpy()
    finest = max(heard[name].shape[1] for name in modules)
    expected = [averaged(averaged(heard[name], finest), 3).ravel() for name in modules]
    expected = np.concatenate(expected)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("of", "depths", "modules"), NETWORKS)
def test_scores_are_the_mean_of_the_map(of, depths, modules):
    network = pyramid(of, depths)
    films = torch.randn(2, 1, 72, 100)
    with torch.inference_mode():
        features, scores = network.forward_features(films), network(films)
        local = torch.einsum("bdhw,cd->bchw", features, network.head.weight)
        maps = network.forward_maps(films)
    assert features.shape[1] == network.num_features
    torch.testing.assert_close(maps, local + network.head.bias[:, None, None], rtol=1e-4, atol=1e-4)
    mean = local.mean((2, 3)) + network.head.bias
    torch.testing.assert_close(mean, scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.forward_head(features), scores, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        means = network.pooled(films)
    expected = network.forward_head(features, pre_logits=True)
    torch.testing.assert_close(means, expected, rtol=1e-4, atol=1e-4)


def test_a_field_sees_its_part_of_the_film_alone():
    """Bottom right is the last field."""
    network = pyramid("test_resnet", "layer1", grid=4)
    film = torch.zeros(1, 1, 128, 128)
    spot = film.clone()
    spot[..., 108:120, 108:120] = 1
    with torch.inference_mode():
        change = network.forward_features(spot).mean((2, 3)) != network.forward_features(film).mean(
            (2, 3)
        )
    per_field = change.reshape(-1, 16).any(0)
    assert per_field[15]
    assert not per_field[:10].any()


def test_resampling_keeps_the_mean():
    features = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    for h, w in ((14, 10), (4, 4), (9, 23)):
        again = placed(features, h, w)
        torch.testing.assert_close(again.mean((2, 3)), features.mean((2, 3)))


def test_what_comes_after_the_last_depth_is_left_out():
    names = list(pyramid("test_efficientnet", "blocks.1+blocks.2").state_dict())
    inside = {name.split(".")[1:3][-1] for name in names if name.startswith("network.blocks.")}
    assert inside == {"0", "1", "2"}
    assert not [name for name in names if "conv_head" in name or "classifier" in name]


# --- As the network of a run --------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / "start"
    assert negative.main(arguments(data, out, epochs=1)) == 0
    return out


def frozen(data, out, start, **changes) -> list[str]:
    """A pyramid of 4 x 4 fields on the start's network, as a run."""
    words = arguments(data, out, arch="spatial_pyramid", init=start, **changes)
    return [*words, "--freeze", "--model-args", "of=test_resnet,depths=layer1+layer2,grid=2"]


@pytest.mark.slow
def test_it_starts_from_the_network_that_it_holds(data, start, tmp_path):
    out = tmp_path / "out"
    assert negative.main(frozen(data, out, start)) == 0
    held, whole = read_model_folder(start).state_dict, read_model_folder(out).state_dict
    names = [name for name in whole if name.startswith("network.")]
    assert names
    assert all(torch.equal(whole[n], held[n.removeprefix("network.")]) for n in names)
    model = cft.load(out, "cpu")
    assert model.heatmap_kind == "cam"
    film = Radiograph(pixels=np.random.default_rng(0).random((32, 32), np.float32))
    assert model.predict(film).heatmap("Bright").shape == (32, 32)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert max(record["cross_fitted"]["auroc"] for record in log) > 0.9  # the spots are seen


@pytest.mark.slow
def test_it_can_be_trained_and_trained_further(data, start, tmp_path):
    words = arguments(data, tmp_path / "a", arch="spatial_pyramid", init=start, epochs=1)
    more = ["--model-args", "of=test_resnet,depths=layer1+layer2,grid=2"]
    assert negative.main([*words, *more]) == 0
    again = arguments(data, tmp_path / "b", arch="spatial_pyramid", init=tmp_path / "a", epochs=1)
    assert negative.main(again) == 0  # its arguments are those of the folder
    assert read_model_folder(tmp_path / "b").config["model_args"]["grid"] == 2


@pytest.mark.slow
def test_another_network_is_no_start(data, start, tmp_path, capsys):
    words = arguments(data, tmp_path / "out", arch="spatial_pyramid", init=start)
    assert negative.main([*words, "--model-args", "of=regnetx_002,depths=s1"]) == 1
    assert "holds a test_resnet, not the regnetx_002 of --arch" in capsys.readouterr().err


@pytest.mark.slow
def test_it_stands_beside_others(data, start, tmp_path):
    """Joined, the logits are the mean of the runs', of which one is joined already."""
    assert negative.main(frozen(data, tmp_path / "p", start)) == 0
    first = [*arguments(data, tmp_path / "two"), "--join", str(start), str(start)]
    assert negative.main(first) == 0
    both = [str(tmp_path / name) for name in ("two", "p")]
    assert negative.main([*arguments(data, tmp_path / "all"), "--join", *both]) == 0
    folder = read_model_folder(tmp_path / "all")
    assert folder.config["model_args"]["of"] == ["test_resnet"] * 2 + ["spatial_pyramid"]
    film = torch.rand(3, 1, 32, 32)
    with torch.inference_mode():
        joined, one, other = (
            build_network(read_model_folder(place))(film)
            for place in (tmp_path / "all", tmp_path / "p", start)
        )
    torch.testing.assert_close(joined, (one + other) / 2, rtol=1e-4, atol=1e-4)


def test_pyramids_of_one_kind_are_joined_as_well():
    two = [pyramid("test_resnet", "layer1+layer2") for _ in range(2)]
    for network in two:
        network.built_with = {"of": "test_resnet", "depths": "layer1+layer2", "in_chans": 1}
        torch.nn.init.normal_(network.head.weight)
    joined = join(two, ["spatial_pyramid"] * 2)
    film = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        expected = torch.stack([network(film) for network in two]).mean(0)
        torch.testing.assert_close(joined(film), expected, rtol=1e-4, atol=1e-4)


def test_maps_of_joined_networks_are_their_layer_at_each_position():
    joined = timm.create_model(
        "joined",
        of=["test_resnet", "spatial_pyramid", "tf_efficientnet_lite0"],
        each=[{}, {"of": "test_resnet", "depths": "layer1+layer2", "grid": 3}, {}],
        in_chans=1,
        num_classes=5,
    ).eval()
    torch.nn.init.normal_(joined.head.weight)
    films = torch.randn(2, 1, 72, 100)
    with torch.inference_mode():
        features = joined.forward_features(films)
        expected = torch.einsum("bdhw,cd->bchw", features, joined.head.weight)
        expected += joined.head.bias[:, None, None]
        found = joined.forward_maps(films)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
