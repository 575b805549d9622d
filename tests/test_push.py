"""Publishing a model folder: what is refused, one commit or none, and what is on the Hub after."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from cft.hub import resolve
from cft.model_folder import CARD, CONFIG, WEIGHTS
from tests.conftest import random_model_config
from tests.hub_server import TOKEN, USER
from train.push import main
from train.report import model_card

NAME = f"{USER}/model"


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    """A model folder with a whole card, a report and a plot."""
    target = tmp_path / "folder"
    shutil.copytree(model_folder, target)
    (target / CARD).write_text(model_card(random_model_config()))
    (target / "report.json").write_text("{}")
    (target / "roc.png").write_bytes(b"\x89PNG")
    (target / "log.jsonl").write_text("not for others")
    return target


def refusal(capsys) -> str:
    """The last line on stderr, after the client's progress; the token is in none of them."""
    written = capsys.readouterr()
    assert TOKEN not in written.out + written.err
    return written.err.splitlines()[-1]


def commits(hub, name=NAME) -> int:
    repository = hub.repositories.get(("models", name))
    return len(repository.commits) if repository else 0


# ------------------------------------------------------------------------------- refusals


def test_nobody_logged_in_is_told_how(hub, folder, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert main([str(folder), NAME]) == 1
    assert "run `hf auth login`" in refusal(capsys)
    assert hub.requests == []


def test_a_login_that_is_not_accepted_is_one_sentence(hub, folder, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN + "x")
    assert main([str(folder), NAME]) == 1
    assert "does not accept the login" in refusal(capsys)
    assert not hub.repositories


@pytest.mark.parametrize("name", ["model", "a/b/c", "a/b.git", "a/b--c", "hf-hub:a/b", "a/b@v1"])
def test_a_name_that_cannot_be_is_refused_before_anything_is_sent(hub, folder, name, capsys):
    assert main([str(folder), name]) == 1
    assert "cannot be the name" in refusal(capsys)
    assert hub.requests == []


def _no_weights(folder):
    (folder / WEIGHTS).unlink()


def _other_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4] + b"abcd")


def _numbered_labels(folder):
    config = json.loads((folder / CONFIG).read_text())
    config["label_names"] = ["LABEL_0", "LABEL_1", "LABEL_2"]
    config["cft"]["categories"] = {}
    (folder / CONFIG).write_text(json.dumps(config))


def _other_network(folder):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "architecture": "resnet18"}))


def _no_metadata(folder):
    import safetensors.torch

    config = json.loads((folder / CONFIG).read_text())
    del config["cft"]
    (folder / CONFIG).write_text(json.dumps(config))
    safetensors.torch.save_file(safetensors.torch.load_file(folder / WEIGHTS), folder / WEIGHTS)


def _short_card(folder):
    (folder / CARD).write_text("---\nlicense: mit\n---\n# A model\n")


def _broken_card(folder):
    (folder / CARD).write_text("---\nlicense: [\n---\n# A model\n")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_no_weights, "has no model.safetensors"),
        (_other_weights, "is not the file that config.json was written for"),
        (_numbered_labels, "says nothing; name the findings"),
        (_other_network, "are not those of resnet18"),
        (_no_metadata, "lacks the metadata"),
        (_short_card, "is not complete: it lacks library_name"),
        (_broken_card, "front matter"),
    ],
)
def test_a_folder_that_is_not_fit_is_refused_before_anything_is_sent(
    hub, folder, spoil, sentence, capsys
):
    spoil(folder)
    assert main([str(folder), NAME]) == 1
    assert sentence in refusal(capsys)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("request_", "facts", "sentence"),
    [
        ("/api/repos/create", {"status": 403}, "may not do that"),
        ("/preupload/", {"status": 403}, "may not do that"),
        ("/commit/", {"status": 403}, "may not do that"),
        ("/commit/", {"status": 409}, "changed by someone else"),
        ("/commit/", {"status": 412}, "changed by someone else"),
        ("PUT /lfs/", {"status": 500, "times": 99}, "error 500"),
        ("PUT /lfs/", {"kind": "cut", "times": 99}, "line was cut"),
        ("/commit/", {"status": 500, "times": 99}, "error 500"),
        ("/commit/", {"kind": "cut", "times": 99}, "line was cut"),
    ],
)
def test_a_push_that_fails_leaves_the_repository_as_it_was(
    hub, folder, request_, facts, sentence, capsys
):
    hub.fail(request_, **facts)
    assert main([str(folder), NAME]) == 1
    assert sentence in refusal(capsys)
    assert commits(hub) <= 1  # what a new repository begins with
    hub.faults.clear()
    assert main([str(folder), NAME]) == 0
    assert commits(hub) == 2


def test_private_is_refused_for_a_repository_that_is_public(hub, folder, capsys):
    hub.add(NAME, {"README.md": b""})
    assert main([str(folder), NAME, "--private"]) == 1
    assert "there and public" in refusal(capsys)
    assert commits(hub) == 1


def test_a_tag_is_never_moved(hub, folder, capsys):
    assert main([str(folder), NAME, "--tag", "v1"]) == 0
    first = hub.model(NAME).tags["v1"]
    capsys.readouterr()
    (folder / "report.json").write_text('{"changed": 1}')
    assert main([str(folder), NAME, "--tag", "v1"]) == 1
    assert "has a tag v1 already" in refusal(capsys)
    assert (hub.model(NAME).tags["v1"], commits(hub)) == (first, 2)


# ---------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "request_",
    ["whoami", "repos/create", "/revision/", "/preupload/", "/objects/batch", "PUT /lfs/"],
)
@pytest.mark.parametrize("facts", [{"status": 500}, {"kind": "cut"}, {"status": 429}])
def test_a_fault_that_passes_is_repeated_and_makes_one_commit(hub, folder, request_, facts):
    hub.fail(request_, **facts)
    assert main([str(folder), NAME]) == 0
    assert not hub.faults
    assert commits(hub) == 2


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, folder):
    hub.fail("/commit/", "lost")
    assert main([str(folder), NAME]) == 0
    assert commits(hub) == 2


# --------------------------------------------------------------------------- what is there


def test_a_push_is_one_commit_of_exactly_the_files_that_belong(hub, folder, capsys):
    assert main([str(folder), NAME]) == 0
    repository = hub.model(NAME)
    commit = repository.branches["main"]
    sent = repository.commits[commit]
    assert set(sent) == {".gitattributes", CONFIG, WEIGHTS, CARD, "report.json", "roc.png"}
    assert sent[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    assert hub.count("/commit/main") == 1
    out = capsys.readouterr().out
    assert f"{hub.url}/{NAME}" in out
    assert f"{NAME}@{commit}" in out
    assert resolve(f"hf-hub:{NAME}").commit == commit


def test_the_same_content_again_is_no_new_commit_and_nothing_is_sent(hub, folder, capsys):
    assert main([str(folder), NAME]) == 0
    hub.requests.clear()
    assert main([str(folder), NAME]) == 0
    assert hub.count("/commit/") == hub.count("PUT ") == 0
    assert "Already there" in capsys.readouterr().out


def test_a_dry_run_lists_what_would_be_sent_and_sends_nothing(hub, folder, capsys):
    assert main([str(folder), NAME, "--dry-run", "--private"]) == 0
    out = capsys.readouterr().out
    names = [line.split()[-1] for line in out.splitlines()[1:]]
    assert set(names) == {CONFIG, WEIGHTS, CARD, "report.json", "roc.png"}
    assert "(private)" in out
    assert f"{(folder / WEIGHTS).stat().st_size:,}" in out
    assert hub.requests == []


def test_without_a_name_it_is_made_of_user_architecture_and_data_set(hub, folder):
    config = json.loads((folder / CONFIG).read_text())
    config["cft"]["provenance"]["dataset"] = "NIH 14"
    (folder / CONFIG).write_text(json.dumps(config))
    assert main([str(folder)]) == 0
    assert ("models", f"{USER}/cft-resnet10t-nih-14") in hub.repositories


def test_private_branch_and_tag_are_as_asked(hub, folder):
    assert main([str(folder), NAME, "--private", "--revision", "trial", "--tag", "v1"]) == 0
    repository = hub.model(NAME)
    assert repository.private
    assert WEIGHTS not in repository.commits[repository.branches["main"]]
    assert repository.tags["v1"] == repository.branches["trial"]
    assert WEIGHTS in repository.commits[repository.tags["v1"]]


def test_the_card_on_the_hub_is_valid_and_names_the_repository(hub, folder):
    assert main([str(folder), NAME]) == 0
    repository = hub.model(NAME)
    text = repository.commits[repository.branches["main"]][CARD].decode()
    card = ModelCard(text)
    assert (card.data.library_name, card.data.pipeline_tag) == ("timm", "image-classification")
    assert f'cft.load("hf-hub:{NAME}")' in text
    assert f'timm.create_model("hf-hub:{NAME}", pretrained=True)' in text


def test_the_card_of_the_bundled_model_lists_each_category_in_its_index():
    root = Path(__file__).resolve().parent.parent
    config = json.loads((root / "weights" / CONFIG).read_text())
    results = ModelCard(model_card(config)).data.eval_results
    names = {result.metric_name for result in results}
    assert {f"AUROC of {label}" for label in config["label_names"]} <= names


def test_the_token_is_nowhere(hub, folder, capsys, caplog, tmp_path):
    caplog.set_level("DEBUG")
    hub.fail("PUT /lfs/", status=500)
    assert main([str(folder), NAME]) == 0
    resolve(f"hf-hub:{NAME}")
    written = capsys.readouterr()
    assert TOKEN not in written.out + written.err + caplog.text
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file
    repository = hub.model(NAME)
    for content in repository.commits.values():
        assert all(TOKEN.encode() not in data for data in content.values())


@pytest.mark.parametrize(
    "arguments", [[], ["folder", "a/b", "--space", "a/c"], ["folder", "--model", "a/b"]]
)
def test_wrong_usage_ends_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
