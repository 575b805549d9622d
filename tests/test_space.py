"""The Space: exactly what it needs, pinned, and able to start alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cft.model_folder import CARD, CONFIG, WEIGHTS, ModelFolderError
from tests.hub_server import USER
from train.push import main
from train.space import build_space

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


def test_a_space_of_a_hub_model_is_pinned_and_has_no_weights(hub, model_folder, tmp_path):
    files = {name: (model_folder / name).read_bytes() for name in (CONFIG, WEIGHTS, CARD)}
    commit = hub.add(NAME, files)
    space = build_space(tmp_path / "space", NAME)
    front = front_matter(space)
    assert front["preload_from_hub"] == [f"{NAME} {CONFIG},{WEIGHTS},{CARD} {commit}"]
    assert front["models"] == [NAME]
    assert f'"CFT_MODEL", "hf-hub:{NAME}@{commit}"' in (space / "app.py").read_text()
    top = {path.name for path in space.iterdir()}
    assert top == {"app.py", "cft", "requirements.txt", "LICENSE", "README.md"}
    assert not [p for p in space.rglob("*") if p.is_file() and p.suffix in (".pyc", ".safetensors")]


def test_a_space_is_published_in_one_commit(hub, capsys):
    assert main(["--space", f"{USER}/page"]) == 0
    repository = hub.model(f"{USER}/page", "spaces")
    sent = repository.commits[repository.branches["main"]]
    assert {"app.py", "requirements.txt", "cft/hub.py", f"weights/{WEIGHTS}"} <= set(sent)
    assert len(repository.commits) == 2
    assert f"{hub.url}/spaces/{USER}/page" in capsys.readouterr().out


def test_the_space_starts_alone(tmp_path):
    space = build_space(tmp_path / "space")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CFT_", "PYTHON"))}
    environment = {**kept, "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    page = subprocess.Popen(
        [sys.executable, "app.py"], cwd=space, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        line = page.stdout.readline()
        assert re.search(r"http://\S+", line), page.communicate(timeout=5)[1]
    finally:
        page.send_signal(signal.SIGTERM)
        page.communicate(timeout=60)
    assert front_matter(space)["app_file"] == "app.py"
