"""The Space: exactly what it needs, pinned, and able to start alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import cft
from cft.errors import ModelFolderError
from cft.model.folder import CARD, CONFIG, WEIGHTS
from tests import pages
from tests.conftest import ROOT
from tests.hub_server import USER
from train.publishing.space import build_space
from train.push import main

NAME = f"{USER}/model"


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_a_space_of_an_absent_model_is_refused(hub, tmp_path):
    with pytest.raises(ModelFolderError, match=r"the Hub has no tester/absent"):
        build_space(tmp_path / "space", f"{USER}/absent")
    assert not (tmp_path / "space").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    assert main(["--space", "a/b", "--build", str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err


def test_a_space_of_a_model_that_cannot_be_loaded_is_refused(hub, tiny_model_folder, tmp_path):
    files = {name: (tiny_model_folder / name).read_bytes() for name in (CONFIG, WEIGHTS, CARD)}
    hub.add(NAME, {**files, WEIGHTS: files[WEIGHTS][:-4] + b"abcd"})
    with pytest.raises(ModelFolderError, match="is not the file"):
        build_space(tmp_path / "space", NAME)
    assert not (tmp_path / "space").exists()


def test_a_space_of_a_hub_model_is_pinned_and_has_no_weights(hub, tiny_model_folder, tmp_path):
    files = {name: (tiny_model_folder / name).read_bytes() for name in (CONFIG, WEIGHTS, CARD)}
    commit = hub.add(NAME, files)
    space = build_space(tmp_path / "space", NAME)
    front = front_matter(space)
    assert front["preload_from_hub"] == [f"{NAME} {CARD},{CONFIG},{WEIGHTS} {commit}"]
    assert front["models"] == [NAME]
    required = (ROOT / "requirements.txt").read_text()
    assert f"\ngradio=={front['sdk_version']} " in required
    assert front["sdk"] == "gradio"
    assert re.fullmatch(r"3\.\d+", front["python_version"])
    assert front["app_file"] == "app.py"
    assert f'"CFT_MODEL", "hf-hub:{NAME}@{commit}"' in (space / "app.py").read_text()
    top = {path.name for path in space.iterdir()}
    assert top == {"app.py", "cft", "requirements.txt", "LICENSE", "README.md"}
    assert not [p for p in space.rglob("*") if p.is_file() and p.suffix in (".pyc", ".safetensors")]


def test_a_space_is_published_in_one_commit(hub, capsys):
    assert main(["--space", f"{USER}/page"]) == 0
    repository = hub.model(f"{USER}/page", "spaces")
    sent = repository.commits[repository.branches["main"]]
    assert {"app.py", "requirements.txt", "cft/model/hub.py", f"weights/{WEIGHTS}"} <= set(sent)
    assert len(repository.commits) == 2
    assert f"{hub.url}/spaces/{USER}/page" in capsys.readouterr().out


def test_a_space_with_the_bundled_model_holds_every_file_of_the_package(tmp_path):
    space = build_space(tmp_path / "space")
    kept = [p for p in (ROOT / "cft").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    held = {path.relative_to(space) for path in (space / "cft").rglob("*") if path.is_file()}
    assert held == {path.relative_to(ROOT) for path in kept}
    assert {path.suffix for path in held} >= {".py", ".html", ".css", ".png"}
    command = [sys.executable, "-m", "cft", "--version"]
    said = subprocess.run(command, cwd=space, capture_output=True, text=True, check=True).stdout
    assert said == f"cft {cft.__version__}\n"


def test_a_page_that_does_not_start_fails_its_test_in_time(tmp_path):
    for program, seconds, reason in [
        ("print('no'); raise SystemExit(1)", 60, "it ended without an address; it said: no"),
        ("import time; time.sleep(99)", 1, "no address after 1 s"),
    ]:
        command = [sys.executable, "-c", program]
        with (
            pytest.raises(AssertionError, match=reason),
            pages.running(command, tmp_path, {}, seconds),
        ):
            pass


@pytest.mark.slow
def test_the_space_of_a_hub_model_starts_alone_and_answers_with_it(
    hub, tiny_model_folder, films, tmp_path
):
    files = {name: (tiny_model_folder / name).read_bytes() for name in (CONFIG, WEIGHTS, CARD)}
    commit = hub.add(NAME, files)
    space = build_space(tmp_path / "space", NAME)
    hub.add(NAME, {"README.md": b"# later"})  # the Space is pinned, so this changes nothing
    kept = {k: v for k, v in hub.environment(tmp_path / "fresh").items() if k != "PYTHONPATH"}
    guard = {"PYTHONPATH": str(ROOT / "tests" / "loopback"), "HOME": str(tmp_path)}
    command = [sys.executable, "app.py"]
    with pages.running(command, cwd=space, env={**kept, **guard}) as page:
        answer = pages.predict(page.address, films[0])
        pages.assert_whole(page.address)
    assert (answer["model"]["reference"], answer["model"]["commit"]) == (f"{NAME}@{commit}", commit)
    expected = cft.load(tiny_model_folder, "cpu").predict(films[0]).probabilities
    given = {f["label"]: f["probability"] for f in answer["films"][0]["findings"]}
    assert given == pytest.approx(expected, abs=1e-6)
