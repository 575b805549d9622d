"""Models of the Hub: what is refused, what is repeated, what is in the cache afterwards.

The client is the real one; the Hub is `tests.hub_server` on loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import cft
from cft import hub as cft_hub
from cft.hub import ModelFolderError, resolve
from cft.model_folder import CARD, CONFIG, WEIGHTS, read_model_folder
from tests.conftest import ROOT
from tests.hub_server import TOKEN, USER, Hub

NAME = f"{USER}/model"


@pytest.fixture(scope="session")
def model_files(model_folder) -> dict[str, bytes]:
    return {name: (model_folder / name).read_bytes() for name in (CONFIG, WEIGHTS, CARD)}


@pytest.fixture
def published(hub, model_files) -> str:
    """The commit of a repository with a model."""
    return hub.add(NAME, {**model_files, "train.py": b"raise SystemExit", "x/config.json": b"{}"})


def cache_files(hub_cache: Path) -> list[str]:
    return sorted(p.name for p in hub_cache.rglob("snapshots/*/*"))


@pytest.fixture
def cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


# ------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "reference",
    [
        "hf-hub:../x",
        "hf-hub:a/../b",
        "hf-hub:a/b@../../x",
        "hf-hub:x",
        "hf-hub:a/b/c",
        "hf-hub:a/b@",
    ],
)
def test_a_malformed_reference_is_refused_before_anything_is_asked(hub, reference):
    with pytest.raises(ModelFolderError, match="no reference to a model on the Hub"):
        resolve(reference)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "headers", "sentence"),
    [
        (401, {}, "does not accept the login"),
        (401, {"X-Error-Code": "RepoNotFound"}, "no tester/model@main, or it is private"),
        (403, {}, "may not do that"),
        (403, {"X-Error-Code": "GatedRepo"}, "is gated: accept its conditions"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no tester/model@main, or it is private"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no revision tester/model@main"),
    ],
)
def test_an_answer_that_will_not_change_is_one_sentence_at_once(
    hub, published, status, headers, sentence
):
    hub.fail("/revision/", status=status, headers=headers)
    with pytest.raises(ModelFolderError, match=sentence) as caught:
        resolve(NAME)
    assert "\n" not in str(caught.value)
    assert len(hub.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_goes_on_failing_is_one_sentence(hub, published, status):
    hub.fail("/revision/", status=status, times=99)
    with pytest.raises(ModelFolderError, match="try again later"):
        resolve(NAME)
    assert len(hub.requests) == 5


def test_a_hub_that_is_not_there_is_one_sentence_that_says_what_to_do(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelFolderError, match=r"cannot be reached.*python -m cft.hub pull"):
        resolve(NAME)


def test_a_pickle_only_repository_is_refused_and_not_fetched(hub, model_files, cache):
    hub.add(NAME, {CONFIG: model_files[CONFIG], "pytorch_model.bin": b"\x80\x04"})
    with pytest.raises(ModelFolderError, match=r"only as pytorch_model.bin, a pickle"):
        resolve(NAME)
    assert not cache.exists()


def test_a_repository_without_config_is_refused(hub):
    hub.add(NAME, {"README.md": b"# nothing"})
    with pytest.raises(ModelFolderError, match=r"has no config.json"):
        resolve(NAME)


def test_a_promise_of_ten_gigabytes_is_refused_before_a_byte_is_fetched(hub, published, cache):
    hub.model(NAME).promises[WEIGHTS] = 10 * 10**9
    with pytest.raises(ModelFolderError, match=r"9\.31 GiB, more than the 4\.00 GiB"):
        resolve(NAME)
    assert hub.count("/resolve/") == 0
    assert not cache.exists()


def changed_weights(model_files, change) -> bytes:
    tensors = safetensors.torch.load(model_files[WEIGHTS])
    change(tensors)
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def _drop(tensors):
    tensors.pop("fc.bias")


def _add(tensors):
    tensors["extra"] = torch.zeros(1)


def _reshape(tensors):
    tensors["fc.bias"] = torch.zeros(4)


def _spoil(tensors):
    tensors["fc.bias"][0] = float("nan")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_drop, "1 tensors missing"),
        (_add, "1 tensors too many"),
        (_reshape, "do not fit"),
        (_spoil, "NaN or infinity"),
    ],
)
def test_tensors_that_are_not_the_networks_are_refused(hub, model_files, change, sentence):
    config = json.loads(model_files[CONFIG])
    del config["cft"]
    weights = changed_weights(model_files, change)
    hub.add(NAME, {CONFIG: json.dumps(config).encode(), WEIGHTS: weights})
    with pytest.raises(ModelFolderError, match=sentence):
        cft.load(NAME)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architecture": "os.system"}, "does not know"),
        ({"label_names": None}, 'no "label_names"'),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "may not set"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(hub, model_files, change, sentence):
    config = {**json.loads(model_files[CONFIG]), **change}
    hub.add(NAME, {**model_files, CONFIG: json.dumps(config).encode()})
    with pytest.raises(ModelFolderError, match=sentence):
        cft.load(NAME)


def test_members_with_path_tricks_are_not_fetched_and_the_ensemble_is_refused(
    hub, model_files, cache, tmp_path
):
    config = json.loads(model_files[CONFIG])
    config["cft"] = {"average": "logits", "members": [{"folder": "../../../evil", "weight": 1}]}
    evil = {f"../../../evil/{name}": b"x" for name in (CONFIG, WEIGHTS)}
    hub.add(NAME, {**model_files, **evil, CONFIG: json.dumps(config).encode()})
    with pytest.raises(ModelFolderError, match="not inside"):
        cft.load(NAME)
    assert hub.count("evil") == 0
    assert not list(tmp_path.rglob("evil*"))


def test_only_the_files_of_the_format_are_fetched(hub, published, cache):
    resolve(NAME)
    assert cache_files(cache) == sorted([CARD, CONFIG, WEIGHTS])
    assert hub.count("train.py") == 0


# --------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("request_", ["/revision/", "HEAD ", f"GET /{NAME}/resolve"])
@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("cut", {}),
        ("status", {"status": 500}),
        ("status", {"status": 429, "headers": {"Retry-After": "7"}}),
    ],
)
def test_a_fault_that_passes_is_repeated_until_it_succeeds(
    hub, published, model_folder, request_, kind, facts
):
    hub.fail(request_, kind, **facts)
    source = resolve(NAME)
    assert source.commit == published
    assert (source.path / WEIGHTS).read_bytes() == (model_folder / WEIGHTS).read_bytes()
    assert not hub.faults
    if facts.get("status") == 429 and request_ == "/revision/":
        assert 7 <= max(hub.waits) <= 8


@pytest.mark.parametrize("kind", ["truncate", "corrupt", "slow"])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, CARD])
def test_a_bad_body_never_stays_in_the_cache(hub, published, model_folder, cache, kind, name):
    hub.fail(f"GET /{NAME}/resolve/{published}/{name}", kind)
    source = resolve(NAME)
    assert not hub.faults
    assert (source.path / name).read_bytes() == (model_folder / name).read_bytes()
    assert not list(cache.rglob("*.incomplete"))


def test_a_body_that_is_always_corrupt_leaves_nothing_that_could_be_loaded(hub, published, cache):
    hub.fail(f"GET /{NAME}/resolve/{published}/{WEIGHTS}", "corrupt", times=99)
    with pytest.raises(ModelFolderError, match="arrived damaged twice"):
        resolve(NAME)
    assert WEIGHTS not in cache_files(cache)
    hub.faults.clear()
    assert read_model_folder(resolve(NAME).path)


def test_a_body_that_always_breaks_off_leaves_nothing_that_could_be_loaded(hub, published, cache):
    hub.fail(f"GET /{NAME}/resolve/{published}/{WEIGHTS}", "cut", times=99)
    with pytest.raises(ModelFolderError, match="line was cut"):
        resolve(NAME)
    assert WEIGHTS not in cache_files(cache)
    assert not list(cache.rglob("*.incomplete"))


def test_an_interrupted_update_leaves_the_old_model_for_offline_use(
    hub, published, model_files, monkeypatch
):
    from huggingface_hub import constants

    resolve(NAME)
    hub.add(NAME, {WEIGHTS: model_files[WEIGHTS] + b"new"})
    hub.fail(
        f"/{WEIGHTS}", "status", status=404, times=9, headers={"X-Error-Code": "EntryNotFound"}
    )
    with pytest.raises(ModelFolderError):
        resolve(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve(NAME).commit == published


def test_a_damaged_cache_is_mended_with_a_network_and_refused_without(
    hub, published, model_folder, monkeypatch
):
    from huggingface_hub import constants

    weights = resolve(NAME).path / WEIGHTS
    weights.resolve().write_bytes(b"\0" * weights.stat().st_size)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFolderError, match="not in the cache"):
        resolve(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert (resolve(NAME).path / WEIGHTS).read_bytes() == (model_folder / WEIGHTS).read_bytes()


def test_a_full_disk_is_one_sentence(hub, published, monkeypatch):
    import huggingface_hub

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(ModelFolderError, match="No space left on device"):
        resolve(NAME)


# ------------------------------------------------------------------------ what one gets


def test_a_revision_is_resolved_once_and_named_in_results(hub, published, films, capsys):
    from cft.__main__ import main

    hub.model(NAME).tags["v1"] = published
    hub.add(NAME, {"README.md": b"# later"})
    assert main(["--model", f"hf-hub:{NAME}@v1", "--json", str(films[0])]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert (model["reference"], model["commit"]) == (f"{NAME}@v1", published)
    assert hub.count("/revision/") == 1
    assert hub.count("/resolve/") == hub.count(f"/resolve/{published}/")
    assert main(["--model", f"{NAME}@v1", str(films[0])]) == 0
    assert f"({NAME}@v1, commit {published[:12]})" in capsys.readouterr().out


def test_the_page_names_the_commit(hub, published):
    from cft import page

    assert published in page.about_html(cft.load(f"hf-hub:{NAME}"))


def test_a_commit_in_the_cache_needs_no_network(hub, published):
    resolve(NAME)
    hub.requests.clear()
    assert resolve(f"{NAME}@{published}").commit == published
    assert hub.requests == []


def test_without_a_network_the_cache_serves(hub, published, monkeypatch, caplog):
    from huggingface_hub import constants

    resolve(NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert resolve(NAME).commit == published
    assert f"going on with commit {published}" in caplog.text


def test_a_repository_that_was_withdrawn_is_not_served_from_the_cache(hub, published):
    resolve(NAME)
    hub.repositories.clear()
    with pytest.raises(ModelFolderError, match="the Hub has no"):
        resolve(NAME)


def test_offline_the_cache_serves_and_without_it_a_sentence_says_what_to_do(
    hub, published, monkeypatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFolderError, match=f"run `python -m cft.hub pull {NAME}@main` once"):
        resolve(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert cft_hub.main(["pull", NAME]) == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert resolve(NAME).commit == published
    assert hub.requests == []


def test_a_plain_timm_model_with_label_names_loads(hub, model_files, films):
    config = json.loads(model_files[CONFIG])
    del config["cft"], config["problem_type"]
    hub.add(NAME, {CONFIG: json.dumps(config).encode(), WEIGHTS: model_files[WEIGHTS]})
    assert set(cft.load(NAME).predict(films[0]).probabilities) == set(config["label_names"])


def test_the_environment_names_a_model_of_the_hub(hub, published, monkeypatch):
    monkeypatch.setenv("CFT_MODEL", f"hf-hub:{NAME}")
    assert cft.load().commit == published


def test_the_page_falls_back_only_if_told_to_and_says_so(hub, monkeypatch, capsys):
    import app
    from cft import page

    monkeypatch.setenv("CFT_MODEL", "hf-hub:tester/absent")
    with pytest.raises(ModelFolderError):
        app.load_model()
    monkeypatch.setenv("CFT_FALLBACK", "bundled")
    classifier, reason = app.load_model()
    assert classifier.commit is None
    assert "tester/absent" in page.fallback_notice(reason)
    assert "The bundled model is used instead" in capsys.readouterr().err
    assert page.fallback_notice("") == ""


def test_pull_answers_wrong_usage_with_2_and_failure_with_1(hub, capsys):
    assert cft_hub.main(["pull", NAME]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as caught:
        cft_hub.main(["pull", "../x"])
    assert caught.value.code == 2


def environment(hub: Hub, cache: Path) -> dict[str, str]:
    """Of a process of its own that talks to the loopback Hub."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "CFT_"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(cache),
        "HF_HOME": str(cache.parent / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        "OMP_NUM_THREADS": "1",
    }


def test_two_processes_may_pull_at_once(hub, published, cache, model_folder):
    command = [sys.executable, "-m", "cft.hub", "pull", NAME]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen(command, cwd=ROOT, env=environment(hub, cache), **pipes) for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.startswith(f"{NAME}@{published}\n")
        assert TOKEN not in out + err
    assert cft_hub._cached(NAME, "main").commit == published
    assert not list(cache.rglob("*.incomplete"))


def test_stock_timm_loads_the_same_model_from_the_hub(hub, published, cache, model_folder):
    program = (
        "import sys, timm, torch\n"
        f"model = timm.create_model('hf-hub:{NAME}', pretrained=True).eval()\n"
        "batch = torch.linspace(0, 1, 64 * 64).reshape(1, 1, 64, 64)\n"
        "print(model(batch).tolist())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(hub, cache), cwd=cache.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    batch = torch.linspace(0, 1, 64 * 64).reshape(1, 1, 64, 64)
    ours = cft.load(NAME, "cpu").logits(batch)
    torch.testing.assert_close(torch.tensor(json.loads(run.stdout)), ours, rtol=1e-5, atol=1e-5)
