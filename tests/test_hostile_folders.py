"""Model folders from anybody: each is refused in one short sentence, and none keeps us waiting."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch.utils import flop_counter

import cft
from cft.errors import LONGEST, ModelFolderError
from cft.model.config import ModelConfig
from cft.model.folder import open_model_folder, read_model_folder, read_regular
from cft.model.network import at_most, build_network, limited, new_network
from tests import fuzz_folders
from tests.conftest import ROOT, random_model_config
from tests.fuzzing import folders

HUGE, NAN, INFINITE = 10**400, float("nan"), float("inf")

#: What no entry that is read may be.
NEITHER_TEXT = [7, 2.5, True, [], {}, [None]]
NO_OBJECT = [7, "text", True, [], [{}]]
NO_NUMBER = ["0.5", True, [], {}, HUGE, -HUGE, NAN, INFINITE]
NO_SHARE = [*NO_NUMBER, -0.1, 1.5, 2, 1e300]

_POINT = "cft.categories.Effusion.operating_point"
#: Place -> values that it may not have.
WRONG = {
    "architecture": [*NEITHER_TEXT, None, "", "../x", "hf-hub:a/b", "resnet\n1", "x" * 100_000],
    "num_classes": ["3", True, 2, -3, HUGE, 2.5, []],
    "label_names": [None, "abc", [], [1, 2, 3], ["a", "a", "b"], ["x" * 10_000, "b", "c"],
                    {"0": "a", "5": "b", "2": "c"}, {}],
    "label_descriptions": [*NO_OBJECT, {"Effusion": 7}, {"Effusion": ["text"]}],
    "global_pool": [7, ["avg"], {}, "x" * 10_000, "nonsense"],
    "pretrained_cfg": [*NO_OBJECT, None],
    "pretrained_cfg.input_size": [None, "1x64x64", [], [1, 64], [1, 64, 64, 64], [2, 64, 64],
                                  [1, 64, HUGE], [1, HUGE, HUGE], [1, -64, 64], [1, 64.5, 64],
                                  [1, NAN, 64], [1, 10**6, 10**6], ["1", 64, 64], [1, 5, 5]],
    "pretrained_cfg.mean": [None, "0.5", [], [0.5, 0.5], [HUGE], [1e300], [NAN], ["0.5"]],
    "pretrained_cfg.std": [None, "0.5", [], [0], [-1], [HUGE], [INFINITE], [1e300], [1e-300]],
    "pretrained_cfg.crop_pct": ["1", [], 0.01, 1.5, -1, HUGE, NAN],
    "pretrained_cfg.crop_mode": [7, [], "fold", {}],
    "pretrained_cfg.interpolation": [7, [], "magic", {}, None],
    "model_args": [*NO_OBJECT, {"checkpoint_path": "/etc/passwd"}, {"pretrained": True},
                   {"in_chans": "1"}, {"in_chans": -1}, {"in_chans": HUGE}, {"in_chans": 0},
                   {"layers": 10**5}, {"layers": [10**5] * 4}, {"layers": [4000] * 4},
                   {"layers": [1] * 10_000}, {"stem_width": 10**5}, {"block_args": {"x": HUGE}},
                   {"drop_rate": INFINITE}, {"nonsense": 1}, {"block": "x" * 10_000}],
    "cft": NO_OBJECT,
    "cft.format": ["1", 2, True, -1, HUGE, [], 1.5],
    "cft.weights_sha256": [*NEITHER_TEXT, "00"],
    "cft.provenance": [*NO_OBJECT, None],
    "cft.provenance.trained_on": NEITHER_TEXT,
    "cft.provenance.views": NO_OBJECT,
    "cft.provenance.splits": NO_OBJECT,
    "cft.categories": [*NO_OBJECT, None, {"Fracture": {}}],
    "cft.categories.Effusion": NO_OBJECT,
    "cft.categories.Effusion.platt": [*NO_OBJECT, {}, {"scale": 1}, {"bias": 0}],
    "cft.categories.Cardiomegaly.platt.scale": [*NO_NUMBER, None, 0, -1, 1e300],
    "cft.categories.Cardiomegaly.platt.bias": [*NO_NUMBER, None, 1e300],
    "cft.categories.Effusion.evidence": [*NEITHER_TEXT, "some", ""],
    "cft.categories.Effusion.band": [*NO_OBJECT, {}, {"rule_out_error": 0.1}],
    "cft.categories.Effusion.band.rule_in": NO_SHARE,
    "cft.categories.Effusion.training": NO_OBJECT,
    "cft.categories.Effusion.training.positives": ["9", -1, 1.5, HUGE, []],
    "cft.reference": [*NO_OBJECT, {}, {"scores": {"Effusion": 0}, "probabilities": {}}],
    "cft.reference.scores": [*NO_OBJECT, {}],
    "cft.categories.Effusion.operating_points": [*NO_OBJECT, {"specific": {}}, {"specific": 1}],
    _POINT: [*NO_OBJECT, {}],
    f"{_POINT}.threshold": [*NO_SHARE, None],
    f"{_POINT}.sensitivity": NO_SHARE,
    f"{_POINT}.name": NEITHER_TEXT,
    "cft.metrics": NO_OBJECT,
    "cft.metrics.nih.categories.Effusion.auroc": NO_SHARE,
    "cft.metrics.nih.categories.Effusion.positives": ["9", -1, 1.5, HUGE, []],
    "cft.metrics.nih.points": NO_OBJECT,
    "cft.metrics.nih.band": [*NO_OBJECT, {"rule_in": 7}, {"rule_in": {"categories": [7]}}],
    "cft.metrics.nih.films": ["9", -1, 1.5, HUGE, []],
    "cft.metrics.nih.level": NO_SHARE,
    "cft.metrics.nih.subsets": NO_OBJECT,
    "cft.members": [*NO_OBJECT[:3], [], [{}], {}, None, [{"folder": "../x", "weight": 1}],
                    [{"folder": "members/x", "weight": HUGE}], [{"folder": 7, "weight": 1}],
                    [{"folder": "members/\0", "weight": 1}]],
    "anything": [NAN, HUGE, INFINITE],
}  # fmt: skip

CASES = [(place, value) for place, values in WRONG.items() for value in values]


def config_with(place: str, value: object) -> dict:
    """The configuration of a good model folder, with one entry that is not."""
    config = random_model_config()
    config["architecture"], config["num_features"] = "test_resnet", 96
    config["pretrained_cfg"].pop("num_classes")
    entry, *rest = reversed(place.split("."))
    inside = config
    for key in reversed(rest):
        inside = inside.setdefault(key, {})
    inside[entry] = value
    if place.startswith("cft.metrics.nih."):
        config["cft"]["metrics"]["nih"].setdefault("categories", {})
    return config


@pytest.mark.parametrize("text", ["\ud800", "\x1b[2J", "\x9b2J", "\0", "a\x7f", "\udfffb"])
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("label_names", lambda text: [f"A{text}", "B", "C"]),
        ("label_descriptions", lambda text: {"Effusion": f"About{text}"}),
        ("cft.provenance.trained_on", lambda text: text),
        ("cft.metrics", lambda text: {f"nih{text}": {}}),
        ("unknown_to_us", lambda text: [{"a": [text]}]),
    ],
)
def test_a_text_that_would_break_whoever_shows_it_is_refused(place, value, text):
    """Half a character, which nothing can write, and what makes a terminal do something."""
    with pytest.raises(ModelFolderError, match="characters that cannot be shown"):
        ModelConfig.read(config_with(place, value(text)), "config.json")


def test_texts_of_any_language_and_of_several_lines_are_read():
    config = config_with("cft.provenance.trained_on", "films\tof\r\n two sites, \N{GRINNING FACE}")
    config["label_names"] = ["Épanchement", "\u0646\u06cc\u0645\u200c\u0641\u0627", "胸水"]
    config["label_descriptions"], config["cft"]["categories"] = {}, {}
    config["cft"].pop("reference", None)
    assert ModelConfig.read(config, "config.json").label_names == tuple(config["label_names"])


@pytest.fixture(scope="module")
def hostile(tiny_model_folder, tmp_path_factory):
    """A copy of a good folder whose configuration each test replaces."""
    return shutil.copytree(tiny_model_folder, tmp_path_factory.mktemp("hostile") / "folder")


def test_the_folder_is_good_until_one_thing_is_wrong(hostile):
    (hostile / "config.json").write_text(json.dumps(config_with("unknown_to_us", {"kept": [1]})))
    classifier = cft.load(hostile, "cpu")
    assert classifier.config["unknown_to_us"] == {"kept": [1]}


@pytest.mark.slow
def test_two_hundred_hostile_folders_are_refused_in_one_short_sentence(hostile):
    """All that is listed, in a seeded order, so that none leans on another."""
    assert len(CASES) >= 200
    through, clumsy = [], []
    for place, value in random.Random(0).sample(CASES, len(CASES)):
        (hostile / "config.json").write_text(json.dumps(config_with(place, value)))
        name = f"{place} = {str(value)[:40]}"
        start = time.process_time()
        try:
            cft.load(hostile, "cpu")
        except ModelFolderError as error:
            if len(str(error)) > LONGEST or "\n" in str(error):
                clumsy.append((name, str(error)))
        except Exception as error:  # what escapes is what is looked for
            through.append((name, repr(error)))
        else:
            through.append((name, "loaded"))
        if time.process_time() - start > 20:  # of work, not of waiting; usually far below one
            clumsy.append((name, "slow"))
    assert not through
    assert not clumsy


@pytest.mark.slow
def test_random_damage_is_refused_or_harmless(hostile):
    """Any entry replaced by any kind of value: what still loads also gives JSON."""
    generator = random.Random(1)
    values = [None, True, -1, 0, 3, HUGE, 1e308, "text", "", [], {}, [[]], {"a": 1}, NAN]
    for _ in range(120):
        config = random_model_config()
        config["architecture"], config["num_features"] = "test_resnet", 96
        inside = config
        while True:
            key = generator.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
            if not inside[key] or not isinstance(inside[key], (dict, list)):
                break
            if generator.random() < 0.3:
                break
            inside = inside[key]
        inside[key] = generator.choice(values)
        (hostile / "config.json").write_text(json.dumps(config))
        try:
            classifier = cft.load(hostile, "cpu")
        except ModelFolderError:
            continue
        from cft import results
        from cft.page.about import about_html

        json.dumps(results.document(classifier, []), allow_nan=False)
        assert about_html(classifier)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.slow
def test_damaged_folders_are_refused_or_used_and_never_anything_else(tiny_model_folder):
    """In a process whose memory is limited; see `tests.fuzz_folders`."""
    tallies = fuzz_folders.fuzz(tiny_model_folder, count=60, seed=5)
    outcomes = sum((tally.outcomes for tally in tallies.values()), start=Counter())
    assert [line for tally in tallies.values() for line in tally.faults] == []
    assert outcomes["read"] + outcomes["refused"] == 60
    assert min(outcomes["read"], outcomes["refused"]) > 5
    assert set(tallies) == set(folders.KINDS)


# --- Tensors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("bn1.running_var", -1.0), ("fc.weight", 3e38), ("bn1.weight", 1e38)]
)
def test_finite_tensors_whose_scores_are_not_are_refused_at_load(hostile, name, value):
    (hostile / "config.json").write_text(json.dumps(config_with("unknown_to_us", 1)))
    good = (hostile / "model.safetensors").read_bytes()
    tensors = safetensors.torch.load(good)
    tensors[name] = torch.full_like(tensors[name], value)
    safetensors.torch.save_file(tensors, hostile / "model.safetensors")
    try:
        with pytest.raises(ModelFolderError, match="grey film are not finite"):
            cft.load(hostile, "cpu")
    finally:
        (hostile / "model.safetensors").write_bytes(good)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("test_vit", {"depth": 4000}),
        ("convnext_atto", {"depths": [4000] * 4}),
        ("densenet121", {"block_config": [4000] * 4}),
        ("resnet10t", {"layers": [4000] * 4}),
        pytest.param(
            "swin_tiny_patch4_window7_224", {"depths": [4000] * 4}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_network_is_not_built_deeper_than_the_file_has_tensors(architecture, arguments):
    """Without the limit each of these takes minutes; with it, no more parts than that are made."""
    made = 0

    def count(*_):
        nonlocal made
        made += 1

    hook = torch.nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        with (
            torch.device("meta"),
            pytest.raises(ValueError, match="far more parts than the 100 tensors"),
            limited(100),
        ):
            new_network(architecture, **arguments)
    finally:
        hook.remove()
    assert made <= 3_001
    with torch.device("meta"), limited(100):
        new_network("resnet10t")  # the limit is gone with the failure, and a small network fits


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0", "densenet121", "vit_tiny_patch16_224", "convnext_atto",
        "swin_tiny_patch4_window7_224", "mobilenetv3_small_100", "regnetx_004", "levit_128s",
        "maxvit_rmlp_pico_rw_256", "eva02_tiny_patch14_224", "xcit_nano_12_p16_224", "coat_tiny",
    ],
)  # fmt: skip
def test_a_good_network_stays_far_within_the_limit(name):
    """Each of another family, and with half the tensors that it has."""
    with torch.device("meta"):
        tensors = len(new_network(name).state_dict())
        with limited(tensors // 2):
            new_network(name)


def with_attention(folder: Path, side: int) -> Path:
    """A model folder with a small transformer for films of any size, said to be so many pixels."""
    from cft.model.folder import write_model_folder

    network = timm.create_model("test_vit", num_classes=3, in_chans=1, dynamic_img_size=True)
    config = config_with("architecture", "test_vit")
    config["model_args"] = {"in_chans": 1, "dynamic_img_size": True}
    config["global_pool"] = "token"
    config["pretrained_cfg"]["input_size"] = [1, side, side]
    return write_model_folder(folder, state_dict=network.state_dict(), config=config, card="")


def test_an_input_that_would_take_minutes_is_refused_before_it_is_tried(tmp_path):
    folder = with_attention(tmp_path / "x", 4096)
    with pytest.raises(ModelFolderError, match="trillion operations for a film of 4096 x 4096"):
        build_network(read_model_folder(folder))


def test_a_small_network_with_attention_is_not_counted(tmp_path, monkeypatch):
    """Counting takes as long as all else at its start."""
    folder = with_attention(tmp_path / "x", 64)
    monkeypatch.setattr(flop_counter, "FlopCounterMode", None)
    build_network(read_model_folder(folder))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_vit", {"dynamic_img_size": True}),
        ("chexnet_hybrid", {"width": 8, "depth": 3}),
        ("xcit_nano_12_p16_224", {}),
    ],
)
def test_no_network_needs_more_operations_than_is_supposed_of_it(name, arguments):
    with torch.device("meta"):
        network = new_network(name, num_classes=3, **arguments).eval()
    counter = flop_counter.FlopCounterMode(display=False)
    with torch.no_grad(), torch.device("meta"), counter:
        network(torch.empty(1, 3, 64, 64))
    assert 0 < counter.get_total_flops() <= at_most(network, 64 * 64)


# --- Files that are none ------------------------------------------------------------------------

LOAD = """
import sys
from cft.errors import ModelFolderError
from cft.model.folder import read_model_folder
for folder in sys.argv[1:]:
    try:
        read_model_folder(folder)
    except ModelFolderError as error:
        print(error, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.slow
def test_what_is_no_file_is_refused_without_waiting_for_it(tiny_model_folder, tmp_path):
    """In a process of its own, which is ended if it waits."""
    folders = []
    for name in ("config.json", "model.safetensors"):
        for kind in ("pipe", "zero", "folder", "sparse"):
            folder = shutil.copytree(tiny_model_folder, tmp_path / f"{kind} for {name}")
            folders.append(folder)
            (folder / name).unlink()
            if kind == "pipe":
                os.mkfifo(folder / name)
            elif kind == "zero":
                (folder / name).symlink_to("/dev/zero")
            elif kind == "folder":
                (folder / name).mkdir()
            else:
                with open(folder / name, "wb") as file:
                    file.truncate(2**40)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, folders)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert not done.stderr
    lines = done.stdout.splitlines()
    assert [folder.name in line for folder, line in zip(folders, lines, strict=True)] == [True] * 8
    reasons = ("is not a regular file", "is not a regular file", "cannot be read", "is larger than")
    for reason, line in zip(reasons * 2, lines, strict=True):
        assert reason in line


def test_a_sparse_file_without_a_header_is_refused_unread(tmp_path):
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(2**31)
    asked = []

    def check(start, size):
        asked.append((start, size))
        raise ValueError("stop")

    with pytest.raises(ModelFolderError, match="stop"):
        read_regular(tmp_path / "model.safetensors", 2**32, check)
    assert asked == [(bytes(8), 2**31)]


def test_a_header_longer_than_its_tensors_can_need_is_refused_unread(tiny_model_folder, tmp_path):
    """A hundred megabytes of it took 20 s and 2 GB to take apart."""
    folder = shutil.copytree(tiny_model_folder, tmp_path / "folder")
    (folder / "config.json").write_text(json.dumps(config_with("cft.weights_sha256", None)))
    header = b'{"a": [' + b"[]," * 4_000_000 + b"[]]}"
    weights = len(header).to_bytes(8, "little") + header
    (folder / "model.safetensors").write_bytes(weights)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFolderError, match="header is missing or too long"):
            open_model_folder(folder)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 4 * 10**6


def test_no_more_memory_is_asked_for_than_a_file_has_bytes(tmp_path):
    """Where a process may have only so much, asking for the largest size that is allowed fails."""
    (tmp_path / "model.safetensors").write_bytes(b"12345678" + bytes(10**6))
    tracemalloc.start()
    try:
        content = read_regular(tmp_path / "model.safetensors", 2**32)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert content == b"12345678" + bytes(10**6)
    assert most < 4 * 10**6


def test_a_file_for_which_there_is_no_memory_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(100))

    def check(start, size):
        raise MemoryError

    with pytest.raises(ModelFolderError, match=r"cannot be read .*memory that is left"):
        read_regular(tmp_path / "model.safetensors", 2**32, check)


def test_a_message_is_one_short_line_whatever_the_folder_says():
    text = str(ModelFolderError("a\nb\x1b[31m " + "x" * 5000 + " end"))
    assert len(text) <= LONGEST
    assert text.startswith("a b?[31m x")
    assert text.endswith("x end")
