"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# A shell that starts the tests in the background lets them ignore SIGINT, and what a test starts
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing in the tests may reach a remote host; set before huggingface_hub is imported anywhere.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Test models see noise and phantoms all day; the tests of the gate switch it on.
os.environ["CFT_GATE"] = "off"
# Nor may a process that a test starts: Python ones load `tests/loopback/sitecustomize.py`, and what
# is not Python (the client's transfers in Rust, a browser) finds a proxy that is not there.
_OURS = [str(ROOT / "tests" / "loopback"), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(_OURS)
for _name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ[_name] = os.environ[_name.upper()] = "http://127.0.0.1:9"
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost,::1"


# Tests that run beside others (pytest-xdist) share the processors, and so does what they start.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
if _WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))

# Servers that processes start side by side take ports apart: the one that finds a port free and the
# one that listens first may be two, and a client would ask the wrong one.
if "PYTEST_XDIST_WORKER" in os.environ:
    _NUMBER = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.environ["GRADIO_SERVER_PORT"] = str(7860 + 200 * _NUMBER)

# Graphs that the engine of the extra `fast` keeps lie in a folder that goes with the tests, of all
# processes one.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _KEPT = tempfile.TemporaryDirectory(prefix="cft-tests-")
    os.environ["CFT_CACHE"] = _KEPT.name


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data (``CFT_SHARED``, or ``shared`` beside the repository)."""
    folder = Path(os.environ.get("CFT_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"no reference data at {folder} (set CFT_SHARED)")
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A model folder with a small network of random weights: three labels, 64 x 64, one channel."""
    return _random_model(tmp_path_factory.mktemp("models") / "random", random_model_config())


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory) -> Path:
    """The same with a network of a tenth of the size, where only files matter."""
    config = {**random_model_config(), "architecture": "test_resnet", "num_features": 96}
    return _random_model(tmp_path_factory.mktemp("models") / "tiny", config)


@pytest.fixture(scope="session")
def phantoms() -> np.ndarray:
    """(150, 64, 64) uint8: chest films drawn by code."""
    from train.datasets import read_dataset

    table = read_dataset("phantoms", None, phantoms=150, phantom_size=64)
    assert table.pixels is not None
    return np.asarray(table.pixels)


@pytest.fixture(scope="session")
def gated_folder(tmp_path_factory, model_folder, phantoms) -> Path:
    """A model of random weights whose gate has learnt from 80 phantoms; 30 chose its limits."""
    from cft.model.folder import read_model_folder
    from cft.model.gate_fit import fit_gate
    from cft.model.gate_folder import store_gate
    from cft.model.network import build_network

    path = tmp_path_factory.mktemp("gated") / "model"
    shutil.copytree(model_folder, path)
    folder = read_model_folder(path)
    network = build_network(folder)
    store_gate(folder, fit_gate(network, folder.facts.preprocess, phantoms[:80], phantoms[80:110]))
    return path


def _random_model(folder: Path, config: dict) -> Path:
    import timm
    import torch

    from cft.model.folder import write_model_folder

    torch.manual_seed(0)
    network = timm.create_model(config["architecture"], num_classes=3, in_chans=1).eval()
    # Logits of an untrained head are all but equal; spread them, so that tests can tell them apart.
    torch.nn.init.normal_(network.get_classifier().weight)
    card = "# A model with random weights, for tests\n"
    return write_model_folder(folder, state_dict=network.state_dict(), config=config, card=card)


def random_model_config() -> dict:
    """The ``config.json`` of the fixture `model_folder`."""
    labels = ["Cardiomegaly", "Effusion", "Hernia"]
    return {
        "architecture": "resnet10t",
        "num_classes": 3,
        "num_features": 512,
        "global_pool": "avg",
        "model_args": {"in_chans": 1},
        "label_names": labels,
        "label_descriptions": {label: f"About {label}." for label in labels},
        "problem_type": "multi_label_classification",
        "pretrained_cfg": {
            "num_classes": 3,
            "input_size": [1, 64, 64],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": [0.5],
            "std": [0.25],
            "first_conv": "conv1.0",
            "classifier": "fc",
        },
        "cft": {
            "categories": {
                "Cardiomegaly": {
                    "platt": {"scale": 2.0, "bias": -1.0},
                    "operating_point": {
                        "threshold": 0.25,
                        "sensitivity": 0.8,
                        "specificity": 0.7,
                        "rule": "youden",
                    },
                    "best_f1": {
                        "threshold": 0.5,
                        "sensitivity": 0.6,
                        "specificity": 0.9,
                        "rule": "f1",
                    },
                },
                "Effusion": {
                    "platt": None,
                    "operating_point": {
                        "threshold": 0.0,
                        "sensitivity": 1.0,
                        "specificity": 0.0,
                        "rule": "youden",
                    },
                },
            },
            "provenance": {"trained_on": "Nothing: the weights are random."},
        },
    }


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> list[Path]:
    """Five grey PNG files of different shapes, each with its own pattern."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("films")
    generator = np.random.default_rng(0)
    paths = []
    for number, shape in enumerate([(64, 64), (100, 80), (80, 130), (256, 256), (333, 222)]):
        coarse = generator.integers(0, 256, (6, 6), dtype=np.uint8)
        path = folder / f"film {number}.png"
        Image.fromarray(coarse).resize(shape[::-1]).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def no_plots(monkeypatch):
    """Reports of evaluations have no plots, whose drawing takes most of the time."""
    from train.evaluation import plots, report_folder

    monkeypatch.setattr(plots, "draw_all", lambda *_: [])
    monkeypatch.setattr(report_folder, "training_plots", lambda *_: [])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on loopback that `huggingface_hub` talks to, with an empty cache and a login.

    The client reads its settings when it is imported, so that its constants are changed here. Waits
    between two tries are recorded in ``hub.waits`` and not waited for.
    """
    import socket

    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    from tests.hub_server import TOKEN, Hub

    find = socket.getaddrinfo

    def find_loopback(host, *rest, **more):
        assert host in ("127.0.0.1", b"127.0.0.1"), f"a test asks for the remote host {host}"
        return find(host, *rest, **more)

    with Hub() as server:
        monkeypatch.setattr(socket, "getaddrinfo", find_loopback)
        server.waits = []
        monkeypatch.setattr("time.sleep", server.waits.append)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        address = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        close_session()
