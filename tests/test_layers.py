"""Which layers stage 1 trains, and how fast."""

from __future__ import annotations

import pytest
import timm
import torch

from tests.forks import as_by_torchrun
from tests.test_negative import arguments, data, labels, make_run, weights  # noqa: F401
from train import negative
from train.command import Stop
from train.stage1 import loop
from train.stage1.layers import choose_trained, optimizer_for, rest_frozen, set_rates
from train.stage1.loop import train
from train.stage1.run import State
from train.stage1.schedule import learning_rate
from train.stage1.settings import Settings


def scales(network, **changes) -> dict[str, float]:
    """Name of a parameter -> the factor of its group; those in no group are left out."""
    optimizer = optimizer_for(network, Settings(**changes))
    of = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    return {n: of[id(p)] for n, p in network.named_parameters() if id(p) in of}


# --- Rates --------------------------------------------------------------------------------------


def test_each_layer_learns_at_the_decay_times_the_rate_of_the_one_above():
    """A transformer of 12 blocks: the embedding is layer 0, the head layer 13."""
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    found = scales(network, layer_decay=0.5)
    assert (found["head.weight"], found["norm.weight"]) == (1, 0.5)
    for block in range(12):
        assert found[f"blocks.{block}.mlp.fc1.weight"] == pytest.approx(0.5 ** (12 - block))
    assert found["pos_embed"] == found["patch_embed.proj.weight"] == pytest.approx(0.5**13)


def test_the_schedule_moves_every_group_by_its_factor():
    network = timm.create_model("test_vit", num_classes=3)
    optimizer = optimizer_for(network, Settings(layer_decay=0.8, lr=0.1))
    set_rates(optimizer, learning_rate("cosine", 0.1, 30, 100, 0.1))
    expected = learning_rate("cosine", 0.1, 30, 100, 0.1)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(expected * group["lr_scale"], rel=1e-12)
    assert len({group["lr"] for group in optimizer.param_groups}) > 3


@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_biases_and_normalisation_have_no_weight_decay_whatever_the_layer(decay):
    network = timm.create_model("test_resnet", num_classes=3)
    optimizer = optimizer_for(network, Settings(layer_decay=decay, weight_decay=0.3))
    of = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in network.named_parameters():
        assert of[id(parameter)] == (0.3 if parameter.ndim > 1 else 0.0), name


def test_tokens_have_no_weight_decay_and_the_first_moment_forgets_as_asked():
    network = timm.create_model("chexnet_hybrid", num_classes=3, width=8, depth=3)
    optimizer = optimizer_for(network, Settings(weight_decay=0.3, beta1=0.5))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    found = {name: decays[id(p)] for name, p in network.named_parameters()}
    spared = {name for name, p in network.named_parameters() if p.ndim == 1}
    spared |= {"class_token", "label_tokens"}
    assert found == {name: 0.0 if name in spared else 0.3 for name in found}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.5, 0.999)}


# --- What is not trained ------------------------------------------------------------------------


def frozen_bottom(**changes):
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=3, in_chans=1)
    settings = Settings(layer_decay=0.5, freeze_below=0.1, **changes)
    optimizer = optimizer_for(network, settings)
    choose_trained(network, optimizer, settings, 0)
    network.train()
    rest_frozen(network)
    return network, optimizer


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_optimiser_makes_the_published_step_whatever_the_order_in_memory(name):
    """Kingma and Ba, ICLR 2015, and Loshchilov and Hutter, ICLR 2019, in float64."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    settings = Settings(arch="resnet18", optimizer=name, lr=0.01, weight_decay=0.1)
    optimizer, before = optimizer_for(network, settings), network.weight.double().detach()
    first = second = torch.zeros_like(before)
    for step in range(1, 4):
        (network(torch.randn(2, 3, 8, 8)) ** 2).mean().backward()
        gradient = network.weight.grad.double()
        if name == "adamw":
            before = before * (1 - 0.01 * 0.1)
        else:
            gradient = gradient + 0.1 * before
        first = settings.beta1 * first + (1 - settings.beta1) * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, spread = first / (1 - settings.beta1**step), second / (1 - 0.999**step)
        before = before - 0.01 * mean / (spread.sqrt() + 1e-8)
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(network.weight.double(), before, rtol=1e-4, atol=1e-6)


def test_layers_whose_factor_is_too_small_stay_with_their_batch_statistics():
    network, optimizer = frozen_bottom()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    small = {
        name
        for name, scale in scales(
            timm.create_model("test_efficientnet", num_classes=3), layer_decay=0.5
        ).items()
        if scale < 0.1
    }
    assert {n for n, p in network.named_parameters() if not p.requires_grad} == small
    assert "conv_stem.weight" in small
    network(torch.rand(4, 1, 64, 64)).square().sum().backward()
    optimizer.step()
    after = network.state_dict()
    layers = {name.rpartition(".")[0] for name in small}
    for name, value in before.items():
        below = name.rpartition(".")[0] in layers
        assert torch.equal(after[name], value) == below, name


def test_nothing_is_computed_backwards_below_the_first_layer_that_is_trained():
    network, _ = frozen_bottom()
    first = next(n for n, p in network.named_parameters() if p.requires_grad)
    with_graph = {}
    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda _, inputs, out, name=name: with_graph.update({name: out.requires_grad})
            )
    network(torch.rand(2, 1, 64, 64))
    order = list(with_graph)
    place = order.index(first.rpartition(".")[0])
    assert place > 3
    assert not any(with_graph[name] for name in order[:place])
    assert all(with_graph[name] for name in order[place:])


def test_only_the_head_is_trained_in_the_first_epochs(tmp_path):
    run = make_run(tmp_path, labels(), epochs=3, freeze_epochs=1)
    state = State.start(run)
    epochs = train(run, state, Stop())
    states = [{n: x.clone() for n, x in state.network.state_dict().items()}]
    for _ in range(2):
        next(epochs)
        states.append({n: x.clone() for n, x in state.network.state_dict().items()})
    start, first, second = states
    for name in start:
        assert torch.equal(start[name], first[name]) == (not name.startswith("fc.")), name
    moved = [n for n in start if not torch.equal(first[n], second[n])]
    assert set(moved) == set(start)


def test_the_rate_of_the_log_is_that_of_the_head(tmp_path):
    run = make_run(tmp_path, labels(), epochs=1, layer_decay=0.5, schedule="constant", warmup=0.0)
    record = next(train(run, State.start(run), Stop()))
    assert record["lr"] == run.settings.lr


# --- The command --------------------------------------------------------------------------------

CHANGES = {"layer-decay": 0.7, "freeze-below": 0.4, "freeze-epochs": 1, "drop-path": 0.1}


@pytest.mark.slow
def test_a_run_with_frozen_layers_is_resumed_with_the_same_bytes(data, tmp_path, monkeypatch):  # noqa: F811
    """Stopped in the epoch of the head and in the one after it."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert negative.main(arguments(data, whole, **CHANGES)) == 0
    monkeypatch.setattr(loop, "_LOOK_EVERY", 4)
    asked = property(lambda self: True, lambda self, value: None)
    words = [*arguments(data, parts, **CHANGES), "--resume"]
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "asked", asked, raising=False)
        assert [negative.main(words) for _ in range(3)] == [1, 1, 1]
    assert negative.main(words) == 0
    assert weights(parts) == weights(whole)


@pytest.mark.slow
def test_two_processes_train_the_head_first_as_one_does(data, tmp_path):  # noqa: F811
    from cft.model.folder import read_model_folder

    changes = {**CHANGES, "dropout": 0.0, "drop-path": 0.0, "lr": 0.001, "epochs": 2}
    one, two = tmp_path / "one", tmp_path / "two"
    assert negative.main(arguments(data, one, **changes)) == 0
    for process in as_by_torchrun(2, negative.main, arguments(data, two, **changes)):
        assert process.wait() == 0, process.said
    first, second = (read_model_folder(folder).state_dict for folder in (one, two))
    for name, tensor in first.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(second[name], tensor, atol=2e-3, rtol=2e-3, msg=name)


def test_frozen_layers_need_a_decay(capsys):
    with pytest.raises(SystemExit) as exit_:
        negative.parse(["--data", "somewhere", "--freeze-below", "0.1"])
    assert exit_.value.code == 2
    assert "--freeze-below compares the factors of --layer-decay" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--layer-decay", "0"],
        ["--layer-decay", "1.1"],
        ["--freeze-below", "1"],
        ["--freeze-epochs", "-1"],
        ["--drop-path", "1"],
    ],
)
def test_a_wrong_option_is_wrong_usage(wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        negative.parse(["--data", "somewhere", *wrong])
    assert exit_.value.code == 2


def test_an_architecture_without_drop_path_is_one_sentence(tmp_path):
    from train.errors import TrainingError

    run = make_run(tmp_path, labels(), arch="densenet121", drop_path=0.1)
    with pytest.raises(TrainingError, match="densenet121 takes no --drop-path"):
        State.start(run)
