"""Models of the Hub: what is refused, what is repeated, what is in the cache afterwards.

The client is the real one; the Hub is `tests.hub_server` on loopback.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

import cft
from cft.model import hub as cft_hub
from cft.model import hub_files
from cft.model.folder import CARD, CONFIG, WEIGHTS, read_model_folder
from cft.model.hub import ModelFolderError, resolve
from tests.conftest import ROOT
from tests.hub_server import TOKEN, USER, git_hash

pytestmark = pytest.mark.slow

NAME = f"{USER}/model"


@pytest.fixture(scope="session")
def model_files(tiny_model_folder) -> dict[str, bytes]:
    return {name: (tiny_model_folder / name).read_bytes() for name in (CONFIG, WEIGHTS, CARD)}


@pytest.fixture
def published(hub, model_files) -> str:
    """The commit of a repository with a model."""
    return hub.add(NAME, {**model_files, "train.py": b"raise SystemExit", "x/config.json": b"{}"})


def cache_files(hub_cache: Path) -> list[str]:
    return sorted(p.name for p in hub_cache.rglob("snapshots/*/*"))


def blobs_are_whole(hub_cache: Path) -> bool:
    """Whether the cache holds nothing but files that have the hash that they are kept under."""
    hashes = {40: git_hash, 64: lambda data: hashlib.sha256(data).hexdigest()}
    files = hub_cache.rglob("blobs/*")
    return all(hashes[len(f.name)](f.read_bytes()) == f.name for f in files)


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
@pytest.mark.parametrize("request_", ["/revision/", f"GET /{NAME}/resolve"])
def test_a_hub_that_goes_on_failing_is_one_sentence(hub, published, status, request_):
    hub.fail(request_, status=status, times=99)
    with pytest.raises(ModelFolderError, match="try again later"):
        resolve(NAME)
    assert hub.count(request_) == 5
    assert hub.waits == [1, 2, 4, 8]


def test_a_hub_that_is_not_there_is_one_sentence_that_says_what_to_do(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelFolderError, match=r"cannot be reached.*cft pull"):
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
    hub.model(NAME).lies[WEIGHTS] = {"size": 10 * 10**9}
    with pytest.raises(ModelFolderError, match=r"9\.31 GiB, more than the 4\.00 GiB"):
        resolve(NAME)
    assert hub.count("/resolve/") == 0
    assert not cache.exists()


def test_members_of_nine_gigabytes_together_are_refused_before_their_weights_are_fetched(
    hub, model_files, cache
):
    """Each is below the limit for one file, so the limit of the sum has to notice."""
    folders = [f"members/{number}" for number in range(3)]
    config = json.loads(model_files[CONFIG])
    config["cft"] = {"average": "logits", "members": [{"folder": f, "weight": 1} for f in folders]}
    files = {f"{folder}/{name}": b"x" for folder in folders for name in (CONFIG, WEIGHTS)}
    hub.add(NAME, {**files, CONFIG: json.dumps(config).encode(), WEIGHTS: b"x"})
    for folder in folders:
        hub.model(NAME).lies[f"{folder}/{WEIGHTS}"] = {"size": 3 * 2**30}
    with pytest.raises(ModelFolderError, match=r"9\.00 GiB with all its members.* 8\.00 GiB"):
        resolve(NAME)
    assert hub.count(f"/{WEIGHTS}") == 0


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
        (_drop, "missing tensors: 1"),
        (_add, "unexpected tensors: 1"),
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


def everything(folder: Path) -> set[Path]:
    """All files below a folder, links as they are."""
    return {path for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


@pytest.mark.parametrize(
    "lie",
    [
        {"size": None},
        {"size": -1},
        {"size": "12"},
        {"lfs": None, "blobId": None},
        {"lfs": None, "blobId": "../../../../evil"},
        {"lfs": {"sha256": "../../../../evil", "size": 1, "pointerSize": 1}},
    ],
)
def test_a_listing_that_cannot_be_is_refused_and_nothing_is_written(hub, published, tmp_path, lie):
    before = everything(tmp_path.parent)
    hub.model(NAME).lies[WEIGHTS] = lie
    with pytest.raises(ModelFolderError, match=r"gives no size and hash of model.safetensors"):
        resolve(NAME)
    assert everything(tmp_path.parent) == before


def test_a_commit_that_cannot_be_is_refused_and_nothing_is_written(hub, published, tmp_path):
    before = everything(tmp_path.parent)
    hub.model(NAME).facts["sha"] = "../../../../evil"
    with pytest.raises(ModelFolderError, match="names no commit"):
        resolve(NAME)
    assert everything(tmp_path.parent) == before


def test_headers_and_names_of_files_lead_nowhere(hub, model_files, cache, tmp_path):
    before = everything(tmp_path.parent)
    tricks = ("../../../../evil", "/evil", "members/../../evil/config.json")
    commit = hub.add(NAME, {**model_files, **dict.fromkeys(tricks, b"x")})
    hub.model(NAME).headers = dict.fromkeys(NAMING, '"../../../../evil"')
    hub.model(NAME).headers["Content-Disposition"] = 'attachment; filename="../../evil";'
    hub.model(NAME).headers |= {"Content-Encoding": "gzip", "X-Linked-Size": "7"}
    source = resolve(NAME)
    assert source.path == cache / "models--tester--model" / "snapshots" / commit
    assert read_model_folder(source.path)
    written = everything(tmp_path.parent) - before
    assert all(cache in path.parents for path in written)
    assert not [path for path in written if "evil" in str(path)]


NAMING = ("ETag", "X-Linked-Etag", "X-Repo-Commit", "Location", "X-Xet-Hash", "X-Xet-Refresh-Route")


@pytest.mark.parametrize("status", [404, 403])
def test_headers_of_a_refusal_lead_nowhere(hub, published, cache, tmp_path, status):
    before = everything(tmp_path.parent)
    lies = {**dict.fromkeys(NAMING, "../../../../evil"), "X-Error-Code": "EntryNotFound"}
    hub.fail(f"/{WEIGHTS}", status=status, headers=lies, times=9)
    with pytest.raises(ModelFolderError):
        resolve(NAME)
    written = everything(tmp_path.parent) - before
    assert all(cache in path.parents for path in written)
    assert not [path for path in written if "evil" in str(path)]


@pytest.mark.parametrize("where", ["../../../../evil", "/", ""])
def test_without_the_fence_headers_still_lead_nowhere(
    hub, published, cache, tmp_path, monkeypatch, where
):
    """As if another thread had replaced the session that the fence is in."""
    before = everything(tmp_path.parent)
    monkeypatch.setattr(hub_files, "_fence", lambda *_: contextlib.nullcontext())
    name = f"{tmp_path}/evil" if where == "/" else where
    hub.model(NAME).headers = dict.fromkeys(("ETag", "X-Linked-Etag"), f'"{name}"')
    hub.model(NAME).headers["X-Repo-Commit"] = name
    with contextlib.suppress(ModelFolderError):
        resolve(NAME)
    written = everything(tmp_path.parent) - before
    assert all(cache in path.parents for path in written)
    assert not [path for path in written if "evil" in str(path)]
    assert blobs_are_whole(cache)


def test_the_fence_is_around_its_own_thread_and_its_own_time(hub, published):
    from huggingface_hub.utils import get_session

    def ask() -> str:
        return get_session().head(f"{hub.url}/{NAME}/resolve/main/{CONFIG}").headers["ETag"]

    hooks, true = list(get_session().event_hooks["response"]), ask()
    with hub_files._fence(published, hub_files.RemoteFile(CONFIG, 1, "0" * 40)):
        assert ask() == "0" * 40
        with ThreadPoolExecutor() as pool:
            assert pool.submit(ask).result(60) == true
    assert ask() == true
    assert get_session().event_hooks["response"] == hooks


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_more_bytes_than_the_listing_promised_are_not_kept(hub, published, cache, name):
    hub.fail(f"GET /{NAME}/resolve/{published}/{name}", "endless")
    with pytest.raises(ModelFolderError, match=rf"sends more of {name} .* than the [\d,]+ bytes"):
        resolve(NAME)
    assert name not in cache_files(cache)
    assert blobs_are_whole(cache)


def test_other_bytes_than_the_listing_promised_are_not_kept(hub, published, cache):
    hub.model(NAME).lies[CONFIG] = {"blobId": "0" * 40}
    with pytest.raises(ModelFolderError, match=r"config.json .* arrived damaged twice"):
        resolve(NAME)
    assert cache_files(cache) == []


def test_only_the_files_of_the_format_are_fetched(hub, published, cache):
    resolve(NAME)
    assert cache_files(cache) == sorted([CARD, CONFIG, WEIGHTS])
    assert hub.count("train.py") == 0


# --------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("request_", ["/revision/", f"GET /{NAME}/resolve"])
@pytest.mark.parametrize(
    ("kind", "facts", "wait"),
    [
        ("cut", {}, 1),
        ("status", {"status": 408}, 1),
        ("status", {"status": 500}, 1),
        ("status", {"status": 503, "headers": {"Retry-After": "20"}}, 20),
        ("status", {"status": 429, "headers": {"Retry-After": "7"}}, 7),
        ("status", {"status": 429, "headers": {"RateLimit": '"api";r=0;t=55'}}, 55),
        ("status", {"status": 429, "headers": {"Retry-After": "Wed, 21 Oct 2026"}}, 1),
    ],
)
def test_a_fault_that_passes_is_repeated_after_the_wait_asked_for_and_succeeds(
    hub, published, tiny_model_folder, request_, kind, facts, wait
):
    hub.fail(request_, kind, **facts)
    source = resolve(NAME)
    assert source.commit == published
    assert (source.path / WEIGHTS).read_bytes() == (tiny_model_folder / WEIGHTS).read_bytes()
    assert not hub.faults
    assert hub.waits == [wait]


@pytest.mark.parametrize("request_", ["/revision/", f"GET /{NAME}/resolve"])
def test_a_wait_that_nobody_would_sit_through_is_one_sentence_at_once(hub, published, request_):
    hub.fail(request_, status=429, headers={"Retry-After": "86400"})
    with pytest.raises(ModelFolderError, match=r"asks for patience.*try again in 86400 s"):
        resolve(NAME)
    assert hub.waits == []


def test_a_long_wait_is_told(hub, published, caplog):
    hub.fail("/revision/", status=429, headers={"Retry-After": "30"})
    resolve(NAME)
    assert "error 429; trying again in 30 s" in caplog.text


def test_a_body_that_stops_is_gone_on_with_at_the_last_10_mib(hub, model_files, monkeypatch):
    from huggingface_hub import constants

    weights = bytes(range(256)) * (24 * 2**12)
    commit = hub.add(NAME, {CONFIG: model_files[CONFIG], WEIGHTS: weights})
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    hub.fail(f"GET /{NAME}/resolve/{commit}/{WEIGHTS}", "stall")
    assert (resolve(NAME).path / WEIGHTS).read_bytes() == weights
    assert hub.ranges == [f"bytes={10 * 2**20}-"]


def test_a_line_that_breaks_again_and_again_is_gone_on_with_as_long_as_it_brings_something(
    hub, published
):
    hub.fail(f"GET /{NAME}/resolve/{published}/{WEIGHTS}", "truncate", times=12)
    assert read_model_folder(resolve(NAME).path)
    assert not hub.faults


@pytest.mark.parametrize(
    ("request_", "most"),
    # Five tries, or five times the six of the client itself.
    [("GET /api/", 5), ("HEAD", 5), (f"/{WEIGHTS}", 5), (f"GET /{NAME}/resolve", 30)],
)
def test_a_hub_that_never_answers_is_one_sentence(
    hub, published, cache, monkeypatch, request_, most
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    monkeypatch.setattr(hub_files, "TIMEOUT", 0.05)
    monkeypatch.setattr(cft_hub, "TIMEOUT", 0.05)
    hub.fail(request_, "hold", times=99)
    with pytest.raises(ModelFolderError, match=r"line was cut.*pull tester/model@main") as caught:
        resolve(NAME)
    assert "\n" not in str(caught.value)
    assert hub.count(request_) <= most
    assert sum(hub.waits) < 60
    assert cft_hub._cached(NAME, "main") is None
    assert blobs_are_whole(cache)


@pytest.mark.parametrize("kind", ["truncate", "corrupt", "slow"])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, CARD])
def test_a_bad_body_never_stays_in_the_cache(hub, published, tiny_model_folder, cache, kind, name):
    hub.fail(f"GET /{NAME}/resolve/{published}/{name}", kind)
    source = resolve(NAME)
    assert not hub.faults
    assert (source.path / name).read_bytes() == (tiny_model_folder / name).read_bytes()
    assert blobs_are_whole(cache)


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
    assert blobs_are_whole(cache)


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
    hub, published, tiny_model_folder, monkeypatch
):
    from huggingface_hub import constants

    weights = resolve(NAME).path / WEIGHTS
    weights.resolve().write_bytes(b"\0" * weights.stat().st_size)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFolderError, match="not in the cache"):
        resolve(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert (resolve(NAME).path / WEIGHTS).read_bytes() == (tiny_model_folder / WEIGHTS).read_bytes()


def test_a_disk_that_takes_no_more_is_one_sentence(hub, published, cache):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(ModelFolderError, match=r"cannot be kept in .* \(File too large\)"):
            resolve(NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert WEIGHTS not in cache_files(cache)
    assert blobs_are_whole(cache)
    assert read_model_folder(resolve(NAME).path)


def test_progress_is_shown_of_large_files_only(hub, published, monkeypatch, capsys):
    resolve(NAME)
    assert capsys.readouterr().err == ""
    hub.model(NAME).commit({WEIGHTS: bytes(2**16)})
    monkeypatch.setattr(hub_files, "_LARGE", 2**16)
    resolve(NAME)
    shown = capsys.readouterr().err
    assert f"{WEIGHTS}: 100%" in shown
    assert CONFIG not in shown
    assert "/resolve/" not in shown


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
    from cft.page.about import about_html

    assert published in about_html(cft.load(f"hf-hub:{NAME}"))


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


def test_with_the_model_in_the_cache_nobody_waits_for_a_hub_that_asks_for_patience(
    hub, published, caplog
):
    resolve(NAME)
    hub.fail("/revision/", status=429, headers={"Retry-After": "60"})
    assert resolve(NAME).commit == published
    assert hub.waits == []
    assert f"try again in 60 s; going on with commit {published}" in caplog.text


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
    with pytest.raises(ModelFolderError, match=f"run `cft pull {NAME}@main` once"):
        resolve(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert cft_hub.pull(NAME) == 0
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
    from cft.page import loading, render

    monkeypatch.setenv("CFT_MODEL", "hf-hub:tester/absent")
    with pytest.raises(ModelFolderError):
        loading.load_model()
    monkeypatch.setenv("CFT_FALLBACK", "bundled")
    classifier, reason = loading.load_model()
    assert classifier.commit is None
    assert "tester/absent" in render.fallback_notice(reason)
    assert "The bundled model is used instead" in capsys.readouterr().err
    assert render.fallback_notice("") == ""


def test_pull_answers_wrong_usage_with_2_and_failure_with_1(hub, capsys):
    for reference, status in ((NAME, 1), ("../x", 2), ("hf-hub:x", 2)):
        assert cft_hub.pull(reference) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("cft pull: ")
        assert err.count("\n") == 1


def test_pull_prints_the_commit_and_the_folder(hub, published, capsys):
    assert cft_hub.pull(NAME) == 0
    source = resolve(NAME)
    assert capsys.readouterr() == (f"{NAME}@{published}\n{source.path}\n", "")


PULL = [sys.executable, "-c", f"import sys, cft.model.hub as h; sys.exit(h.pull({NAME!r}))"]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}


def test_a_pull_that_is_killed_leaves_nothing_that_could_be_loaded(hub, published, cache):
    hub.fail(f"GET /{NAME}/resolve/{published}/{WEIGHTS}", "stall")
    process = subprocess.Popen(PULL, env=hub.environment(cache), **PIPES)
    assert hub.stuck.wait(600)
    process.kill()
    process.communicate(timeout=60)
    assert cft_hub._cached(NAME, "main") is None
    assert WEIGHTS not in cache_files(cache)
    (left,) = cache.rglob("blobs/.*")
    hub.let_go()
    assert read_model_folder(resolve(NAME).path)
    assert not left.exists()
    assert blobs_are_whole(cache)


def test_a_pull_that_is_interrupted_ends_at_once_and_leaves_nothing_that_could_be_loaded(
    hub, published, cache
):
    hub.fail(f"GET /{NAME}/resolve/{published}/{WEIGHTS}", "stall")
    environment = {**hub.environment(cache), "HF_HUB_DOWNLOAD_TIMEOUT": "300"}
    process = subprocess.Popen(PULL, env=environment, **PIPES)
    assert hub.stuck.wait(600)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)  # the client alone: after its own timeout
    assert process.returncode == 130
    assert err == "cft pull: interrupted; nothing incomplete is kept\n"
    assert cft_hub._cached(NAME, "main") is None
    assert blobs_are_whole(cache)
    hub.let_go()
    assert read_model_folder(resolve(NAME).path)


def test_two_processes_may_pull_at_once(hub, published, cache):
    weights = f"GET /{NAME}/resolve/{published}/{WEIGHTS}"
    hub.fail(weights, "stall")
    process = subprocess.Popen(PULL, env=hub.environment(cache), **PIPES)
    assert hub.stuck.wait(600)  # one is in the middle of it
    with ThreadPoolExecutor() as pool:
        here = pool.submit(resolve, NAME)
        hub.let_go()
        out, err = process.communicate(timeout=120)
        assert here.result(120).commit == published
    assert process.returncode == 0, err
    assert out.startswith(f"{NAME}@{published}\n")
    assert TOKEN not in out + err
    assert cft_hub._cached(NAME, "main").commit == published
    assert blobs_are_whole(cache)
    assert hub.count(weights) == 2  # the one that was cut off, and its rest


def test_the_hubs_own_client_finds_what_was_pulled(hub, published, cache):
    from huggingface_hub import hf_hub_download, scan_cache_dir

    source = resolve(NAME)
    hub.requests.clear()
    for name in (CONFIG, WEIGHTS, CARD):
        found = hf_hub_download(NAME, name, local_files_only=True, cache_dir=cache)
        assert Path(found) == source.path / name
    assert hub.requests == []
    (repository,) = scan_cache_dir(cache).repos
    assert {r.commit_hash for r in repository.revisions} == {published}
    assert {ref for r in repository.revisions for ref in r.refs} == {"main"}


def test_stock_timm_loads_the_same_model_from_the_hub(hub, published):
    stock = timm.create_model(f"hf-hub:{NAME}", pretrained=True).eval()
    batch = torch.linspace(0, 1, 64 * 64).reshape(1, 1, 64, 64)
    with torch.inference_mode():
        expected = stock(batch)
    torch.testing.assert_close(cft.load(NAME, "cpu").logits(batch), expected)
