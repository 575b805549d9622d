"""CTransCNN and CheXNet's hybrid network against slow, literal formulas; folding; training."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from torch import nn

import cft
import cft.architectures
from cft.architectures.conv_block import ConvBlock
from cft.architectures.heads import fold_heads
from cft.architectures.interaction import ToMap, ToTokens
from cft.architectures.transformer import (
    Attention,
    InnerBranch,
    MultiScaleAttention,
    TransformerLayer,
)
from cft.errors import ModelFolderError
from cft.model.folder import read_model_folder, write_model_folder
from tests.conftest import ROOT, random_model_config

NAMES = ("ctranscnn", "chexnet_hybrid")
TINY = {"width": 8, "depth": 3}

# --- Literal references: loops over offsets, places, heads and queries --------------------------


def conv(x, w, b=None, stride=1, padding=0, groups=1):
    """(B, I, H, W) with (O, I / groups, k, k): a sum over the places of the kernel."""
    k = w.shape[-1]
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + 2 * padding, x.shape[3] + 2 * padding)
    padded[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]] = x
    h = (padded.shape[2] - k) // stride + 1
    v = (padded.shape[3] - k) // stride + 1
    total = 0
    for i in range(k):
        for j in range(k):
            part = padded[:, :, i : i + stride * h : stride, j : j + stride * v : stride]
            if groups == 1:
                total = total + torch.einsum("bihw,oi->bohw", part, w[:, :, i, j])
            else:
                total = total + part * w[None, :, 0, i, j, None, None]
    return total if b is None else total + b[:, None, None]


def batch_norm(x, p, name, eps=1e-6):
    """By the batch's own statistics, as in training."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    scale, shift = (p[f"{name}.{kind}"][:, None, None] for kind in ("weight", "bias"))
    return (x - mean) / (variance + eps).sqrt() * scale + shift


def layer_norm(x, p, name, eps=1e-6):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def relu(x):
    return torch.where(x > 0, x, 0)


def sigmoid(x):
    return 1 / (1 + (-x).exp())


def linear(x, p, name):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def conv_of(x, p, name, stride=1, padding=0, groups=1):
    return conv(x, p[f"{name}.weight"], p.get(f"{name}.bias"), stride, padding, groups)


def under(p, name):
    return {key[len(name) + 1 :]: value for key, value in p.items() if key.startswith(name + ".")}


def conv_block(p, x, extra=None, stride=1, project=False, edition=2):
    inner = relu(batch_norm(conv_of(x, p, "conv1"), p, "norm1"))
    if extra is not None:
        inner = inner + extra
    inner = conv_of(inner, p, "conv2", stride, 1)
    rectified = relu(2 * batch_norm(inner, p, "norm2") + conv_of(inner, p, "branch"))
    y = batch_norm(conv_of(rectified, p, "conv3"), p, "norm3")
    y = y + (batch_norm(conv_of(x, p, "identity.0", stride), p, "identity.1") if project else x)
    y = relu(y + batch_norm(conv_of(x, p, "shortcut.0", stride), p, "shortcut.1"))
    return y, rectified if edition == 2 else inner


def attend(q, k, v):
    """One head of one film: (T, d) each."""
    rows = []
    for query in q:
        scores = sigmoid((k * query).sum(1) / math.sqrt(q.shape[1]))
        weights = scores.exp() / scores.exp().sum()
        rows.append((weights[:, None] * v).sum(0))
    return torch.stack(rows)


def attention(p, x, heads, around=lambda q, k, v: attend(q, k, v)):
    dim = x.shape[2]
    size = dim // heads
    films = []
    for film in x:
        qkv = linear(film, p, "qkv")
        found = []
        for head in range(heads):
            start = head * size
            q, k, v = (qkv[:, part * dim + start : part * dim + start + size] for part in range(3))
            found.append(around(q, k, v))
        films.append(torch.cat(found, 1))
    return linear(torch.stack(films), p, "proj")


def pooled(x, size):
    """(h, w, d) -> (size, size, d): means over the bins of adaptive pooling."""
    h, w = x.shape[:2]
    rows = []
    for i in range(size):
        top, bottom = i * h // size, -(-(i + 1) * h // size)
        for j in range(size):
            left, right = j * w // size, -(-(j + 1) * w // size)
            rows.append(x[top:bottom, left:right].mean((0, 1)))
    return torch.stack(rows).reshape(size, size, -1)


def bilinear(x, height, width):
    """(h, w, d) -> (height, width, d), between the centres of pixels."""
    h, w = x.shape[:2]
    rows = []
    for i in range(height):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        top = int(y)
        for j in range(width):
            z = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            left = int(z)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = y - top, z - left
            rows.append(
                (1 - a) * ((1 - b) * x[top, left] + b * x[top, right])
                + a * ((1 - b) * x[bottom, left] + b * x[bottom, right])
            )
    return torch.stack(rows).reshape(height, width, -1)


def multi_scale_attention(p, x, heads, grid):
    special = x.shape[1] - grid[0] * grid[1]

    def around(*qkv):
        total = 0
        for scale in (2, 3, 4):
            small = []
            for part in qkv:
                maps = pooled(part[special:].reshape(*grid, -1), scale)
                small.append(torch.cat([part[:special], maps.reshape(scale**2, -1)]))
            out = attend(*small)
            maps = bilinear(out[special:].reshape(scale, scale, -1), *grid)
            total = total + torch.cat([out[:special], maps.flatten(0, 1)])
        return total / 3

    return attention(p, x, heads, around)


def as_map(tokens, grid):
    special = tokens.shape[1] - grid[0] * grid[1]
    return tokens[:, special:].reshape(len(tokens), *grid, -1).permute(0, 3, 1, 2)


def inner_branch(p, x, grid):
    special = x.shape[1] - grid[0] * grid[1]
    maps = conv_of(as_map(x, grid), p, "conv", padding=1, groups=x.shape[2])
    maps = gelu(batch_norm(maps, p, "norm")).permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([torch.zeros_like(x[:, :special]), maps], 1)


def transformer_layer(p, x, heads, grid, memsp=False, ib=False):
    x = x + attention(under(p, "attention1"), layer_norm(x, p, "norm1"), heads)
    normed = layer_norm(x, p, "norm2")
    second = under(p, "attention2")
    if memsp:
        y = multi_scale_attention(second, normed, heads, grid)
    else:
        y = attention(second, normed, heads)
    x = x + y + (inner_branch(under(p, "inner"), normed, grid) if ib else 0)
    return x + linear(gelu(linear(layer_norm(x, p, "norm3"), p, "mlp.0")), p, "mlp.2")


def to_tokens(p, maps, special, stride, eps=1e-5):
    x = conv_of(maps, p, "conv")
    y = sigmoid(batch_norm(conv_of(x, p, "branch.0"), p, "branch.1", eps))
    x = x + conv_of(y, p, "branch.3")
    h, w = x.shape[2] // stride, x.shape[3] // stride
    places = [
        x[:, :, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].mean((2, 3))
        for i in range(h)
        for j in range(w)
    ]
    return torch.cat([special, gelu(layer_norm(torch.stack(places, 1), p, "norm"))], 1)


def to_map(p, tokens, grid, stride):
    x = relu(batch_norm(conv_of(as_map(tokens, grid), p, "conv"), p, "norm"))
    up = [bilinear(film.permute(1, 2, 0), stride * grid[0], stride * grid[1]) for film in x]
    x = torch.stack(up).permute(0, 3, 1, 2)
    return x + sigmoid(conv_of(relu(conv_of(x, p, "branch.0")), p, "branch.2"))


def max_pool(x):
    """3 x 3 with stride 2, padded by one."""
    padded = x.new_full((*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2), -math.inf)
    padded[:, :, 1:-1, 1:-1] = x
    h, w = (x.shape[2] - 1) // 2 + 1, (x.shape[3] - 1) // 2 + 1
    shifted = [
        padded[:, :, i : i + 2 * h : 2, j : j + 2 * w : 2][:, :, :h, :w]
        for i in range(3)
        for j in range(3)
    ]
    return torch.stack(shifted).amax(0)


def network(p, x, width, depth, memsp, ib, iim, edition=2):
    """Both heads' logits, (2, B, C)."""
    eps = 1e-5 if edition == 2 else 1e-6
    x = conv_of(x, p, "stem.0", 2, 3)
    x = max_pool(relu(batch_norm(x, p, "stem.1", eps=1e-5)))
    padded = x.new_zeros(*x.shape[:2], -(-x.shape[2] // 4) * 4, -(-x.shape[3] // 4) * 4)
    padded[:, :, : x.shape[2], : x.shape[3]] = x
    x = padded
    patches = conv_of(x, p, "patches", 4)
    grid = patches.shape[2:]
    special = p["class_token"][0]
    if memsp:
        special = torch.cat([special, p["label_tokens"]])
    tokens = torch.stack([torch.cat([special, film.flatten(1).T]) for film in patches])
    x, _ = conv_block(under(p, "first_block"), x, project=True)
    tokens = transformer_layer(under(p, "first_layer"), tokens, 6, grid, memsp, ib)
    for level in range(1, depth):
        q = under(p, f"levels.{level - 1}")
        before, now = (level - 1) // (depth // 3), level // (depth // 3)
        finer, wider = 4 // 2**now, now > before
        x, told = conv_block(under(q, "first"), x, stride=1 + wider, project=wider, edition=edition)
        if iim:
            said = to_tokens(under(q, "to_tokens"), told, tokens[:, : len(special)], finer, eps)
            tokens = tokens + said
        tokens = transformer_layer(under(q, "layer"), tokens, 6, grid, memsp, ib)
        extra = to_map(under(q, "to_map"), tokens, grid, finer) if iim else None
        last = level == depth - 1
        x, _ = conv_block(under(q, "second"), x, extra, stride=1 + last, project=last)
    conv_logits = linear(x.mean((2, 3)), p, "head_conv")
    class_token = layer_norm(tokens[:, 0], p, "norm", eps)
    return torch.stack([conv_logits, linear(class_token, p, "head_transformer")])


def shaken(module):
    """In float64, in training, with every parameter at random, so that none is 0 or 1 by design."""
    module.double().train()
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = 0.3 * noise + (0.8 if parameter.ndim == 1 else 0)
    return module


def agrees(module, inputs, call, reference):
    """Values, and gradients of inputs and parameters, for a random weighting of the outputs."""
    shaken(module)
    inputs = [x.double().requires_grad_() for x in inputs]
    parameters = dict(module.named_parameters())
    found, expected = call(*inputs), reference(parameters, *inputs)
    found = found if isinstance(found, tuple) else (found,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    gradients = []
    for outputs in (found, expected):
        generator = torch.Generator().manual_seed(2)
        loss = sum(
            (x * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum()
            for x in outputs
        )
        wanted = [*inputs, *parameters.values()]
        gradients.append(torch.autograd.grad(loss, wanted, allow_unused=True))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    names = [*(f"input {i}" for i in range(len(inputs))), *parameters]
    for name, one, other in zip(names, *gradients, strict=True):
        one, other = (torch.zeros(()) if x is None else x for x in (one, other))
        if name.startswith("input"):
            assert one.abs().max() > 1e-6, name
        assert torch.allclose(one, other.to(one), rtol=1e-7, atol=1e-8), name


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("with_extra", [False, True])
def test_the_convolutional_block_is_its_formula(stride, with_extra):
    block = ConvBlock(6, 8, stride, project=True)
    inputs = [randn(2, 6, 5, 6), *([randn(2, 2, 5, 6, seed=1)] if with_extra else [])]
    agrees(block, inputs, block, lambda p, *x: conv_block(p, *x, stride=stride, project=True))


def test_the_convolutional_block_without_projection_keeps_its_input():
    block = ConvBlock(8, 8)
    agrees(block, [randn(2, 8, 4, 5)], block, lambda p, x: conv_block(p, x))


def test_the_convolutional_block_counts_a_batch_twice_as_its_authors_code_does():
    """That normalises the same features twice, so that its running statistics move further."""
    torch.manual_seed(0)
    block, twice = ConvBlock(8, 16, project=True), nn.BatchNorm2d(4, 1e-6)
    x = randn(4, 8, 6, 6)
    with torch.no_grad():
        inner = block.conv2(block.norm1(block.conv1(x)).relu())
        for _ in range(2):
            twice(inner)
        block(x)
    torch.testing.assert_close(block.norm2.running_mean, twice.running_mean)
    torch.testing.assert_close(block.norm2.running_var, twice.running_var)


def test_the_convolutional_block_begins_without_its_bottleneck():
    block = ConvBlock(8, 8).train()
    x = randn(2, 8, 4, 5)
    short = nn.functional.batch_norm(
        nn.functional.conv2d(x, block.shortcut[0].weight), None, None, training=True, eps=1e-6
    )
    torch.testing.assert_close(block(x)[0], (x + short).relu())


def test_attention_has_a_sigmoid_before_its_softmax():
    layer = Attention(12, 3)
    agrees(
        *(layer, [randn(2, 7, 12)], lambda x: layer(x, (2, 3))),
        lambda p, x: attention(p, x, 3),
    )


@pytest.mark.parametrize("grid", [(5, 7), (4, 3), (3, 3), (2, 2)])
def test_multi_scale_attention_pools_to_three_scales_and_brings_them_back(grid):
    layer = MultiScaleAttention(12, 3)
    x = randn(2, 3 + grid[0] * grid[1], 12)
    agrees(
        *(layer, [x], lambda x: layer(x, grid)),
        lambda p, x: multi_scale_attention(p, x, 3, grid),
    )


def test_the_inner_branch_sees_the_neighbours_of_a_patch_and_no_special_token():
    layer, grid = InnerBranch(6), (4, 5)
    x = randn(2, 2 + 20, 6)
    agrees(layer, [x], lambda x: layer(x, grid), lambda p, x: inner_branch(p, x, grid))
    assert (layer(x.double(), grid)[:, :2] == 0).all()


@pytest.mark.parametrize("memsp", [False, True])
@pytest.mark.parametrize("ib", [False, True])
def test_the_transformer_layer_is_its_formula(memsp, ib):
    layer, grid = TransformerLayer(12, 3, memsp, ib), (4, 5)
    agrees(
        *(layer, [randn(2, 22, 12)], lambda x: layer(x, grid)),
        lambda p, x: transformer_layer(p, x, 3, grid, memsp, ib),
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_the_map_tells_the_tokens_what_it_should(stride):
    bridge = ToTokens(5, 8, stride)
    agrees(
        *(bridge, [randn(2, 5, 3 * stride, 4 * stride), randn(2, 2, 8, seed=1)], bridge),
        lambda p, x, special: to_tokens(p, x, special, stride),
    )


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_tokens_tell_the_map_what_they_should(stride):
    bridge, grid = ToMap(8, 5, stride), (3, 4)
    agrees(
        *(bridge, [randn(2, 14, 8)], lambda x: bridge(x, grid)),
        lambda p, x: to_map(p, x, grid, stride),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "memsp", "ib", "iim"),
    [
        (3, False, False, True), (3, True, True, True), (3, True, False, False),
        (3, False, True, True), (6, False, False, True), (6, True, True, True),
    ],
)  # fmt: skip
def test_the_whole_network_is_its_formula(depth, memsp, ib, iim):
    parts = {"memsp": memsp, "ib": ib, "iim": iim}
    built = timm.create_model("ctranscnn", num_classes=3, in_chans=1, width=8, depth=depth, **parts)
    agrees(
        *(built, [randn(2, 1, 70, 64)], lambda x: torch.stack(built(x))),
        lambda p, x: network(p, x, 8, depth, **parts),
    )


@pytest.mark.slow
def test_what_was_folded_before_there_were_editions_keeps_its_scores():
    built = timm.create_model("chexnet_hybrid", num_classes=3, in_chans=1, folded=True, **TINY)

    def reference(p, x):
        parts = p["head.weight"].split([32, 48], 1)
        two = {**p, "head_conv.weight": parts[0], "head_conv.bias": p["head.bias"]}
        two |= {"head_transformer.weight": parts[1], "head_transformer.bias": 0}
        return network(two, x, 8, 3, True, True, True, edition=1).sum(0)

    agrees(built, [randn(2, 1, 64, 64)], built, reference)


# --- What was published -------------------------------------------------------------------------


def awake(built):
    """With the bottlenecks that are silent when training begins."""
    for module in built.modules():
        if isinstance(module, ConvBlock):
            nn.init.ones_(module.norm3.weight)
    return built.eval()


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


def test_the_trunk_has_the_published_number_of_parameters():
    with torch.device("meta"):
        built = timm.create_model("ctranscnn", num_classes=14)
    heads = count(p for head in built.get_classifier() for p in head.parameters())
    assert count(built.parameters()) - heads == 33_985_392
    unused = 2 * 14 * 14 + 14  # a layer that the original builds and never uses
    assert count(built.parameters()) == 33_994_786 - unused


def test_only_the_second_block_of_a_level_is_left_out_and_later_ones_more_often():
    with torch.device("meta"):
        built = timm.create_model("ctranscnn", num_classes=14, drop_path_rate=0.1)
    rates = torch.linspace(0, 0.1, 12)[1:].tolist()
    assert [level.first.drop_path.drop_prob for level in built.levels] == [0] * 11
    assert [level.second.drop_path.drop_prob for level in built.levels] == rates
    assert [level.layer.drop_path.drop_prob for level in built.levels] == rates
    assert built.first_block.drop_path.drop_prob == 0


def test_the_hybrid_network_without_its_modules_is_ctranscnn():
    with torch.device("meta"):
        plain, hybrid = (
            timm.create_model(name, num_classes=11, **parts)
            for name, parts in zip(NAMES, ({}, {"memsp": False, "ib": False}), strict=True)
        )
        whole = timm.create_model("chexnet_hybrid", num_classes=11)
    shapes = [{n: x.shape for n, x in net.state_dict().items()} for net in (plain, hybrid)]
    assert shapes[0] == shapes[1]
    # MEMSP adds a token a label; IB a 3 x 3 convolution a channel and its normalisation, 12 times.
    assert count(whole.parameters()) - count(plain.parameters()) == 11 * 384 + 12 * 384 * (9 + 2)


def test_without_interaction_no_branch_depends_on_the_other():
    built = awake(timm.create_model("chexnet_hybrid", num_classes=3, iim=False, **TINY))
    x = randn(1, 3, 64, 64).requires_grad_()
    features = built.forward_head(built.forward_features(x), pre_logits=True)
    ours = features[0, : built.map_features].sum()
    parameters = dict(built.named_parameters())
    gradients = torch.autograd.grad(ours, [*parameters.values()], allow_unused=True)
    reached = {n for n, g in zip(parameters, gradients, strict=True) if g is not None and g.any()}
    assert "levels.1.second.conv3.weight" in reached
    assert not any("layer" in name or "token" in name for name in reached)


def test_a_label_token_reaches_the_scores_of_the_other_labels():
    torch.manual_seed(0)
    built = awake(timm.create_model("chexnet_hybrid", num_classes=3, **TINY))
    (gradient,) = torch.autograd.grad(built(randn(1, 3, 64, 64))[0, 0], built.label_tokens)
    assert (gradient.abs().amax(1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_can_be_learnt_by_heart(name):
    torch.manual_seed(0)
    built = timm.create_model(name, num_classes=4, in_chans=1, **TINY)
    films, labels = randn(8, 1, 32, 32), (randn(8, 4, seed=1) > 0).float()
    optimizer = torch.optim.AdamW(built.parameters(), 1e-2)
    first = []
    for _ in range(120):
        heads = built(films)
        losses = [nn.functional.binary_cross_entropy_with_logits(x, labels) for x in heads]
        first = first or losses
        right = ((0.9 * heads[0] + 0.1 * heads[1] > 0) == (labels > 0)).all()
        # The transformer has one token to answer with and learns more slowly.
        if right and losses[0] < 0.1 * first[0] and losses[1] < 0.8 * first[1]:
            return
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    raise AssertionError(f"after 120 steps the losses are {losses}, at first {first}")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"width": 4}, "width is 4, which is no multiple of 4 from 8 on"),
        ({"width": 10}, "width is 10, which is no multiple of 4 from 8 on"),
        ({"depth": 4}, "depth is 4, which is no multiple of 3"),
        ({"global_pool": "max"}, "global_pool is 'max'"),
        ({"edition": 3}, r"edition is 3, but has to be one of \[1, 2\]"),
    ],
)
def test_impossible_arguments_are_refused(arguments, why):
    with pytest.raises(ValueError, match=why):
        timm.create_model("ctranscnn", **arguments)


def test_other_labels_get_new_heads_and_tokens():
    built = timm.create_model("chexnet_hybrid", num_classes=3, **TINY)
    built.reset_classifier(5)
    assert built.train()(randn(2, 3, 64, 64))[1].shape == (2, 5)
    assert built.label_tokens.shape == (5, 48)
    built.reset_classifier(0)
    assert built.eval()(randn(2, 3, 64, 64)).shape == (2, 32 + 48)


def test_importing_cft_does_not_import_the_networks():
    code = "import cft, sys; assert not {'torch', 'timm', 'cft.architectures'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- Folding ------------------------------------------------------------------------------------


@pytest.fixture(params=NAMES)
def two_heads(request, tmp_path):
    """A network with two heads, and the model folder that holds it as it is."""
    torch.manual_seed(0)
    built = awake(timm.create_model(request.param, num_classes=3, in_chans=1, **TINY))
    for head in built.get_classifier():
        nn.init.normal_(head.weight)
        nn.init.normal_(head.bias)
    config = random_model_config()
    config |= {"architecture": request.param, "num_features": 80}
    config["model_args"] |= TINY
    config["pretrained_cfg"] |= {"input_size": [1, 96, 64], "classifier": ["head_conv"]}
    folder = write_model_folder(
        tmp_path / "two", state_dict=built.state_dict(), config=config, card=""
    )
    return built, folder


def test_folding_changes_no_score(two_heads, tmp_path):
    built, folder = two_heads
    parent = read_model_folder(folder)
    config, tensors = fold_heads(parent.config, parent.state_dict)
    assert config["model_args"]["folded"] is True
    assert config["model_args"]["edition"] == 2
    folded = write_model_folder(tmp_path / "one", state_dict=tensors, config=config, card="")
    films = randn(4, 1, 96, 64)
    with torch.no_grad():
        z = built.forward_head(built.forward_features(films), pre_logits=True)
        conv = z[:, : built.map_features] @ built.head_conv.weight.T + built.head_conv.bias
        other = z[:, built.map_features :] @ built.head_transformer.weight.T
        expected = 0.9 * conv + 0.1 * (other + built.head_transformer.bias)
        torch.testing.assert_close(built(films), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(cft.load(folded, "cpu", engine="torch").logits(films), expected)
        stock = timm.create_model(f"local-dir:{folded}", pretrained=True).eval()
        torch.testing.assert_close(stock(films), expected)
        # A folder with two heads is folded when it is loaded.
        torch.testing.assert_close(cft.load(folder, "cpu", engine="torch").logits(films), expected)
    again = fold_heads(config, tensors)
    assert (again[0], list(again[1])) == (config, list(tensors))


def test_heat_maps_vary_with_the_map_alone_and_their_mean_is_the_score(two_heads, films):
    built, folder = two_heads
    classifier = cft.load(folder, "cpu")
    assert classifier.has_heatmaps
    batch = classifier.preprocess(cft.read_radiograph(films[1]).pixels)[None]
    seen = classifier.engine(batch)
    scores, maps = seen.logits, seen.maps
    np.testing.assert_allclose(maps.mean((2, 3)), scores, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        local = built.forward_features(torch.from_numpy(batch))[0, : built.map_features]
        expected = 0.9 * torch.einsum("kd,dhw->khw", built.head_conv.weight, local)
    spread = maps[0] - maps[0].mean((1, 2), keepdims=True)
    expected = expected - expected.mean((1, 2), keepdim=True)
    np.testing.assert_allclose(spread, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(spread).max() > 1e-3


def test_another_network_is_not_touched():
    config = random_model_config()
    tensors = timm.create_model("test_resnet", num_classes=3).state_dict()
    assert fold_heads(config, tensors) == (config, tensors)


def test_heads_that_do_not_fit_are_refused_by_name(two_heads, tmp_path):
    _, folder = two_heads
    parent = read_model_folder(folder)
    tensors = {**parent.state_dict, "head_conv.weight": torch.zeros(2, 32)}
    wrong = write_model_folder(
        tmp_path / "wrong", state_dict=tensors, config=parent.config, card=""
    )
    with pytest.raises(ModelFolderError, match=r"first: head_conv\.weight is \(2, 32\)"):
        cft.load(wrong, "cpu")


def test_a_start_gives_heads_and_label_tokens_by_the_names_of_the_labels(two_heads, tmp_path):
    from train.stage1.network import build
    from train.stage1.settings import Settings

    _, folder = two_heads
    parent = read_model_folder(folder)
    config, tensors = fold_heads(parent.config, parent.state_dict)
    start = write_model_folder(tmp_path / "one", state_dict=tensors, config=config, card="")
    settings = Settings(arch=config["architecture"], init=str(start), image_size=64)
    network = build(settings, ["Hernia", "New", "Cardiomegaly"], np.array([[0.0, 1.0, 0.0]] * 4))
    names = ["head.weight", *(["label_tokens"] if "label_tokens" in tensors else [])]
    for name in names:
        found = network.state_dict()[name]
        assert torch.equal(found[[0, 2]], tensors[name][[2, 0]])
        assert not (found[1] == tensors[name]).all(1).any()


# --- From training to stage 2 -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_small_one_trains_goes_on_and_passes_through_stage_2(name, tmp_path, films, monkeypatch):
    from train.cft import main as stage_2
    from train.negative import main as stage_1
    from train.publishing.check import check_folder
    from train.stage2 import methods

    words = [
        *("--preset", name, "--model-args", "width=8,depth=3", "--image-size", "64"),
        *("--phantoms", "60", "--phantom-size", "64", "--batch-size", "16", "--epochs", "2"),
        *("--threads", "1", "--device", "cpu", "--workers", "1", "--valid", "0.3", "--lr", "3e-3"),
    ]
    assert stage_1([*words, "--out", str(tmp_path / "whole")]) == 0
    whole = read_model_folder(tmp_path / "whole")
    assert whole.config["model_args"] == {
        "width": 8, "depth": 3, "in_chans": 1, "folded": True, "edition": 2
    }  # fmt: skip
    assert "head.weight" in whole.state_dict
    # Its checkpoint has two heads; gone on with at its end, it gives the same folder.
    assert stage_1([*words, "--out", str(tmp_path / "whole"), "--resume"]) == 0
    assert read_model_folder(tmp_path / "whole").weights_sha256 == whole.weights_sha256
    classifier = cft.load(tmp_path / "whole", "cpu")
    assert classifier.has_heatmaps
    findings = classifier.predict(films[3])
    assert findings.heatmap(classifier.label_names[0]).shape == (256, 256)
    monkeypatch.setattr(methods, "descend", functools.partial(methods.descend, epochs=20))
    options = ["--model", str(tmp_path / "whole"), "--out", str(tmp_path / "cft")]
    assert stage_2([*options, "--device", "cpu", "--method", "gradient"]) == 0
    tuned = read_model_folder(tmp_path / "cft")
    changed = {n for n, x in tuned.state_dict.items() if not torch.equal(x, whole.state_dict[n])}
    assert changed <= {"head.weight", "head.bias"}
    before = json.loads((tmp_path / "cft" / "report.json").read_text())
    assert before["parent"] == whole.weights_sha256
    check_folder(tmp_path / "cft")
