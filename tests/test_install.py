"""The wheel: what is in it, and that it works where the repository is not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import cft
from cft.model.bundled import BUNDLED
from tests import pages
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

MEGABYTE = 2**20
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [*PIP, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--no-index", "-w", folder],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the package and nothing else, as `site-packages` would."""
    folder = tmp_path_factory.mktemp("installed")
    command = [*PIP, "install", str(wheel), "--no-deps", "--no-index", "--target", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def elsewhere(installed, tmp_path) -> dict:
    """For `subprocess.run`: another folder, where the package is that one and nothing is ours.

    The libraries are those of this interpreter; the guard against remote hosts is the tests' own.
    """
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("CFT_MODEL", None)
    guard = str(ROOT / "tests" / "loopback")
    environment["PYTHONPATH"] = os.pathsep.join([guard, str(installed)])
    return {"cwd": tmp_path, "env": environment}


def run(command: list, elsewhere: dict) -> str:
    done = subprocess.run(
        list(map(str, command)), **elsewhere, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def names(requirements: Path) -> list[str]:
    """The projects that a requirements file states."""
    lines = requirements.read_text().splitlines()
    return [found[0].lower() for line in lines if (found := re.match(r"[A-Za-z][\w.-]*", line))]


def test_the_wheel_is_the_package_with_its_model_and_all_its_files(wheel):
    ours = [p for p in (ROOT / "cft").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    expected = {str(path.relative_to(ROOT)) for path in ours}
    expected |= {
        f"cft/weights/{name}" for name in ("README.md", "config.json", "model.safetensors")
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert {"cft/page/page.css", "cft/page/example.png", "cft/page/templates/film.html"} <= held
    assert wheel.stat().st_size < 30 * MEGABYTE


def test_the_wheel_states_the_version_and_every_dependency(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (file,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        stated = Parser().parsestr(archive.read(file).decode())
    assert stated["Version"] == cft.__version__
    extras = {"page", "fast", "convert", "train", "score", "ray", "dev"}
    assert set(stated.get_all("Provides-Extra")) == extras
    requirements: dict[str, set[str]] = {}
    for line in stated.get_all("Requires-Dist"):
        name, _, extra = line.partition("; extra == ")
        requirements.setdefault(extra.strip("'"), set()).add(re.match(r"[\w.-]+", name)[0].lower())
    assert {"gradio", "jinja2"} == requirements["page"]
    assert {"onnxruntime", "onnx"} == requirements["fast"]
    assert ({"pyarrow"}, {"ray"}) == (requirements["score"], requirements["ray"])
    assert {"torch", "timm", "imagecodecs", "huggingface-hub"} <= requirements[""]
    assert not {"gradio", "jinja2", "onnxruntime", "scikit-learn", "matplotlib"} & requirements[""]
    assert set().union(*(requirements[extra] for extra in extras)) <= requirements["dev"]
    parts = ("", "-convert", "-score", "-train", "-dev")
    files = [ROOT / f"requirements{part}.txt" for part in parts]
    assert {name for file in files for name in names(file)} == set().union(*requirements.values())


def test_every_dependency_is_written_once():
    parts = ("", "-convert", "-score", "-train", "-dev", "-peers")
    files = [ROOT / f"requirements{part}.txt" for part in parts]
    written = [name for file in files for name in names(file)]
    assert len(written) == len(set(written)) > 10


@pytest.mark.slow
def test_the_installed_command_answers_where_the_repository_is_not(installed, elsewhere, films):
    where = "import cft, importlib.util as u; print(cft.__file__, u.find_spec('train'))"
    assert run([sys.executable, "-c", where], elsewhere) == f"{installed}/cft/__init__.py None\n"
    command = installed / "bin" / "cft"
    assert run([command, "--version"], elsewhere) == f"cft {cft.__version__}\n"
    answer = run([command, films[0], "--plain"], elsewhere)
    found = cft.load(BUNDLED, "cpu").predict(films[0])
    marks = {label: " (no evidence)" if found.evidence[label] else "" for label in found.evidence}
    expected = found.probabilities.items()
    assert answer == "".join(f"{label}: {p:.4f}{marks[label]}\n" for label, p in expected)


@pytest.mark.slow
def test_the_installed_command_serves_the_whole_page(installed, elsewhere, films):
    with pages.running([str(installed / "bin" / "cft"), "serve"], **elsewhere) as page:
        pages.assert_whole(page.address)
        answer = pages.predict(page.address, films[0])
    assert page.status == 0
    assert len(answer["films"][0]["findings"]) == 14
