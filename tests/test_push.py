"""Publishing a model folder: what is refused, one commit or none, and what is on the Hub after."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
from huggingface_hub import ModelCard

import cft
import train.cft
import train.negative
from cft.model.ensemble import write_ensemble
from cft.model.folder import CARD, CONFIG, WEIGHTS
from cft.model.hub import resolve
from tests.conftest import ROOT, random_model_config
from tests.hub_server import TOKEN, USER
from train import errors
from train.publishing import hub as hub_module
from train.publishing import push_options
from train.publishing.card import model_card
from train.publishing.check import check_folder
from train.push import main

pytestmark = pytest.mark.slow

NAME = f"{USER}/model"


@pytest.fixture
def folder(tiny_model_folder, tmp_path) -> Path:
    """A model folder with a whole card, a report and a plot."""
    target = tmp_path / "folder"
    shutil.copytree(tiny_model_folder, target)
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


def test_the_splits_of_a_run_are_never_sent(folder):
    """They may hold ids of patients."""
    (folder / "splits.csv").write_text("film,patient,split\na.png,Ann,train\n")
    sent = {CONFIG, WEIGHTS, CARD, "report.json", "roc.png"}
    assert set(check_folder(folder)) == sent


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


def test_a_card_that_the_hub_refuses_is_one_sentence_with_its_reason(hub, folder, capsys):
    answer = {"errors": [{"message": '"license" must be one of apache-2.0, mit'}], "warnings": []}
    hub.fail("validate-yaml", status=400, answer=answer)
    assert main([str(folder), NAME]) == 1
    reason = '("license" must be one of apache-2.0, mit)'
    assert refusal(capsys).endswith(f"the Hub does not accept the model card {reason}")
    assert commits(hub) == 1


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


@pytest.mark.parametrize(
    ("option", "sentence"),
    [(["--revision", "a b"], "name of a branch"), (["--tag", "../v1"], "name of a tag")],
)
def test_a_branch_or_tag_that_cannot_be_is_refused_before_anything_is_sent(
    hub, folder, option, sentence, capsys
):
    assert main([str(folder), NAME, *option]) == 1
    assert sentence in refusal(capsys)
    assert hub.requests == []


# ---------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "request_",
    ["whoami", "repos/create", "/revision/", "/preupload/", "/objects/batch", "PUT /lfs/"],
)
@pytest.mark.parametrize("facts", [{"status": 429}, {"kind": "cut"}])
def test_a_fault_that_passes_is_repeated_and_makes_one_commit(hub, folder, request_, facts):
    hub.fail(request_, **facts)
    assert main([str(folder), NAME]) == 0
    assert not hub.faults
    assert commits(hub) == 2


@pytest.mark.parametrize("request_", ["/commit/", "/tag/"])
def test_a_commit_or_tag_whose_answer_was_lost_is_not_made_twice(hub, folder, request_):
    hub.fail(request_, "lost")
    assert main([str(folder), NAME, "--tag", "v1"]) == 0
    assert not hub.faults
    assert commits(hub) == 2
    assert hub.model(NAME).tags == {"v1": hub.model(NAME).branches["main"]}


@pytest.mark.parametrize("request_", ["whoami", "repos/create", "PUT /lfs/", "/commit/"])
def test_an_answer_that_does_not_come_is_asked_for_again(hub, folder, request_, monkeypatch):
    monkeypatch.setattr(hub_module, "_TIMEOUT", 0.3)
    hub.fail(request_, "hold")
    assert main([str(folder), NAME]) == 0
    assert commits(hub) == 2


def test_a_push_that_is_interrupted_leaves_the_repository_as_it_was(hub, folder, tmp_path):
    before = hub.add(NAME, {"README.md": b"# mine"})
    hub.fail("PUT /lfs/", "hold")
    process = subprocess.Popen(
        [sys.executable, "-m", "train.push", str(folder), NAME],
        env=hub.environment(tmp_path / "cache"), cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert hub.stuck.wait(600)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "train.push: interrupted; a push is one commit, whole or not at all\n" in err
    assert "Published" not in out
    assert TOKEN not in out + err
    assert hub.model(NAME).branches["main"] == before
    hub.let_go()
    assert main([str(folder), NAME]) == 0
    assert commits(hub) == 2


# ------------------------------------------------------------- the client's own way to send


@pytest.fixture
def by_xet(hub, monkeypatch, tmp_path):
    """The client sends large files in chunks ("xet"), as it does wherever `hf_xet` is installed."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


def test_a_push_by_chunks_arrives_whole_in_one_commit(hub, folder, by_xet, capsys):
    assert main([str(folder), NAME]) == 0
    repository = hub.model(NAME)
    assert repository.commits[repository.branches["main"]][WEIGHTS] == (
        (folder / WEIGHTS).read_bytes()
    )
    assert hub.count("POST /v1/shards") >= 1
    assert hub.count("/lfs/") == 0
    assert commits(hub) == 2
    hub.requests.clear()
    assert main([str(folder), NAME]) == 0
    assert hub.count("POST ") == 0
    written = capsys.readouterr()
    assert TOKEN not in written.out + written.err


@pytest.mark.parametrize("request_", ["xet-write-token", "/v1/shards"])
def test_a_push_by_chunks_that_is_refused_leaves_the_repository_as_it_was(
    hub, folder, by_xet, request_, capsys
):
    hub.fail(request_, status=403, times=99)
    assert main([str(folder), NAME]) == 1
    assert refusal(capsys).startswith("train.push: not published: this account may not do that")
    assert hub.waits == []
    assert commits(hub) == 1
    hub.faults.clear()
    hub.fail("/v1/xorbs/", status=500)
    assert main([str(folder), NAME]) == 0


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


def test_weights_of_an_earlier_push_go_and_what_others_added_stays(hub, folder):
    others = {"members/0-a/model.safetensors": b"old", "notes.txt": b"mine"}
    hub.add(NAME, others)
    assert main([str(folder), NAME]) == 0
    sent = hub.model(NAME).commits[hub.model(NAME).branches["main"]]
    assert set(sent) == {CONFIG, WEIGHTS, CARD, "report.json", "roc.png", "notes.txt"}


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
    assert ("models", f"{USER}/cft-test_resnet-nih-14") in hub.repositories


def test_private_branch_and_tag_are_as_asked(hub, folder):
    assert main([str(folder), NAME, "--private", "--revision", "trial", "--tag", "v1"]) == 0
    repository = hub.model(NAME)
    assert repository.private
    assert WEIGHTS not in repository.commits[repository.branches["main"]]
    assert repository.tags["v1"] == repository.branches["trial"]
    assert WEIGHTS in repository.commits[repository.tags["v1"]]


@pytest.fixture
def ensemble(tiny_model_folder, tmp_path) -> Path:
    """An ensemble of two models, as `train.evaluate --save-ensemble` writes it."""
    config = random_model_config()
    config = {**config, "architecture": "ensemble", "cft": {"provenance": {"stage": "ensemble"}}}
    members = [("a", tiny_model_folder, 1.0), ("b", tiny_model_folder, 3.0)]
    target = tmp_path / "ensemble"
    return write_ensemble(target, members, average="logits", config=config, card=model_card(config))


def test_an_ensemble_is_pushed_with_its_members_and_loads_as_it_was(hub, ensemble, films):
    assert main([str(ensemble), NAME]) == 0
    sent = hub.model(NAME).commits[hub.model(NAME).branches["main"]]
    inside = {f"members/{m}/{name}" for m in ("0-a", "1-b") for name in (CONFIG, WEIGHTS, CARD)}
    assert set(sent) == {".gitattributes", CONFIG, CARD} | inside
    pulled, local = cft.load(f"hf-hub:{NAME}", "cpu"), cft.load(ensemble, "cpu")
    assert pulled.weights_sha256 == local.weights_sha256
    assert pulled.predict(films[0]).probabilities == local.predict(films[0]).probabilities
    assert pulled.commit == hub.model(NAME).branches["main"]
    assert f"(tester/model@main, commit {pulled.commit[:12]})" in pulled.name


def test_an_ensemble_of_other_weights_than_its_config_names_is_refused(hub, ensemble, capsys):
    assert main([str(ensemble), NAME]) == 0
    name = f"members/1-b/{WEIGHTS}"
    tensors = safetensors.torch.load((ensemble / name).read_bytes())
    tensors["fc.bias"] += 1
    config = json.loads((ensemble / "members/1-b" / CONFIG).read_text())
    del config["cft"]["weights_sha256"]
    other = {
        name: safetensors.torch.save(tensors, {"format": "pt"}),
        f"members/1-b/{CONFIG}": json.dumps(config).encode(),
    }
    hub.add(NAME, other)
    with pytest.raises(cft.ModelFolderError, match="not the file that the ensemble was made of"):
        cft.load(NAME)


def test_an_ensemble_that_lacks_a_member_is_refused(hub, ensemble):
    assert main([str(ensemble), NAME]) == 0
    hub.model(NAME).commit({f"members/0-a/{WEIGHTS}": None})
    with pytest.raises(cft.ModelFolderError, match=f"0-a has no {WEIGHTS}"):
        cft.load(NAME)


def test_an_ensemble_of_too_many_bytes_is_refused_before_its_members_are_fetched(hub, ensemble):
    config = json.loads((ensemble / CONFIG).read_text())
    (entry, _) = config["cft"]["members"]
    names = ["members/0-a", "members/1-b", "members/2-c"]
    config["cft"]["members"] = [{**entry, "folder": name} for name in names]
    hub.add(NAME, {CONFIG: json.dumps(config).encode(), **{f"{n}/{WEIGHTS}": b"" for n in names}})
    hub.model(NAME).lies |= {f"{name}/{WEIGHTS}": {"size": 3 * 2**30} for name in names}
    with pytest.raises(cft.ModelFolderError, match=r"9\.00 GiB with all its members, more than"):
        resolve(NAME)
    assert hub.count("/members/") == 0


def test_an_ensemble_whose_members_lie_elsewhere_is_refused(hub, ensemble, capsys):
    shutil.move(ensemble / "members" / "0-a", ensemble / "elsewhere")
    config = json.loads((ensemble / CONFIG).read_text())
    config["cft"]["members"][0]["folder"] = "elsewhere"
    (ensemble / CONFIG).write_text(json.dumps(config))
    assert main([str(ensemble), NAME]) == 1
    assert "a member in 'elsewhere'; on the Hub members have to be" in refusal(capsys)
    assert hub.requests == []


# ------------------------------------------------------------------ the commands that train


MACHINE = ["--device", "cpu", "--threads", "1", "--workers", "1"]
TINY = ["--arch", "test_resnet", "--phantoms", "100", "--epochs", "1", "--batch-size", "32"]


def test_both_stages_push_under_the_default_name_and_are_pulled_back(
    hub, tmp_path, capsys, caplog, films
):
    name = f"{USER}/cft-test_resnet-phantoms"
    first, second = tmp_path / "negative", tmp_path / "cft"
    assert train.negative.main([*TINY, *MACHINE, "--out", str(first), "--push"]) == 0
    assert train.cft.main(
        ["--model", str(first), "--out", str(second), *MACHINE, "--push", "--tag", "stage-2"]
    ) == 0  # fmt: skip
    repository = hub.model(name)
    assert commits(hub, name) == 3
    assert repository.tags == {"stage-2": repository.branches["main"]}
    assert "HTTP Request" not in caplog.text
    out = capsys.readouterr().out
    assert f"Commit to pin: {name}@{repository.tags['stage-2']}" in out
    for folder, commit in zip((first, second), list(repository.commits)[1:], strict=True):
        pulled, local = cft.load(f"hf-hub:{name}@{commit}", "cpu"), cft.load(folder, "cpu")
        assert pulled.commit == commit
        assert pulled.predict(films[0]).probabilities == local.predict(films[0]).probabilities
    card = repository.commits[repository.tags["stage-2"]][CARD].decode()
    assert "python -m train.negative --preset rehearsal --arch test_resnet" in card
    assert "python -m train.cft --model MODEL" in card


def test_a_run_whose_push_fails_says_that_the_model_is_there(hub, folder):
    hub.fail("/commit/", status=403)
    options = argparse.Namespace(push=NAME, private=False, revision=None, tag=None, dry_run=False)
    with pytest.raises(errors.PushError, match=r"the model is whole in .*: `python -m train.push`"):
        push_options.push_from_arguments(options, folder)
    push_options.push_from_arguments(options, folder)
    assert commits(hub) == 2


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--push", "a/b/c"], "cannot be the name of a repository"),
        (["--push", "--tag", "a b"], "cannot be the name of a tag"),
        (["--push", NAME], "run `hf auth login`"),
        (["--push", "--dry-run"], "run `hf auth login`"),
    ],
)
@pytest.mark.parametrize("stage", [train.negative, train.cft])
def test_a_push_that_cannot_be_is_refused_before_the_run(
    hub, tmp_path, tiny_model_folder, stage, option, sentence, monkeypatch, capsys
):
    monkeypatch.delenv("HF_TOKEN")
    words = ["--out", str(tmp_path / "out"), *MACHINE, *option]
    if stage is train.cft:
        words += ["--model", str(tiny_model_folder), "--data", str(tmp_path)]
    assert stage.main(words) == 1
    assert sentence in refusal(capsys)
    assert not (tmp_path / "out").exists()


def test_details_of_a_push_without_one_are_wrong_usage(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        train.negative.main(["--out", str(tmp_path / "out"), "--dry-run"])
    assert caught.value.code == 2
    assert "--dry-run goes with --push" in refusal(capsys)


# --------------------------------------------------------------------------------- the card


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


def test_the_card_names_the_branch_that_it_is_pushed_to(hub, folder):
    assert main([str(folder), NAME, "--revision", "trial"]) == 0
    repository = hub.model(NAME)
    text = repository.commits[repository.branches["trial"]][CARD].decode()
    assert f'cft.load("hf-hub:{NAME}@trial")' in text
    assert main([str(folder), NAME, "--revision", "trial"]) == 0
    assert len(repository.commits) == 2


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
