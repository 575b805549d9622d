"""What stands before the page's routes: whom it answers, which paths, how much may be sent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest

import cft
from cft.page import line as line_module
from cft.page import server, upkeep
from cft.page import uploads as uploads_module
from cft.page.addresses import Addresses
from cft.page.folders import remove_abandoned, upload_folder
from cft.page.line import Line
from cft.page.routes import is_allowed
from cft.page.uploads import Refused, Uploads
from tests.conftest import ROOT

META = {"_type": "gradio.FileData"}


# ------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (None, None),
        ("", None),
        ("evil", None),
        ("evil", "http://evil"),
        ("localhost.evil.com", None),
        ("[::1", None),
        ("127.0.0.1/evil", None),
        ("127.0.0.1#@evil", None),
        ("evil@localhost", None),
        ("local\thost", None),
        ("127.0.0.1:7860", "http://evil"),
        ("127.0.0.1:7860", "null"),
        ("127.0.0.1:7860", "http://127.0.0.1:3000"),
        ("127.0.0.1:7860", "file://127.0.0.1:7860"),
        ("127.0.0.1:7860", "https://huggingface.co"),
    ],
)
def test_other_addresses_and_other_pages_are_refused(host, origin):
    assert Addresses.of(None, {}).refusal(host, origin)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:7860", "http://localhost:7860"),
        ("127.0.0.1:7860", None),
        ("[::1]:7860", "http://[::1]:7860"),
        ("192.168.1.5:8080", "http://192.168.1.5:8080"),
        ("films.example", "https://films.example"),
        ("127.0.0.1:7860", "https://films.example"),  # a proxy that asks by its own name
    ],
)
def test_the_addresses_that_are_served_are_answered(host, origin):
    assert not Addresses.of(None, {"CFT_HOSTS": "other.example, Films.example"}).refusal(
        host, origin
    )


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("org-page.hf.space", None),
        ("org-page.hf.space", "https://org-page.hf.space"),
        ("org-page.hf.space", "https://huggingface.co"),
        ("10.0.3.7:7860", "https://org-page.hf.space"),
    ],
)
def test_a_space_is_answered_at_its_own_address_and_in_its_frame(host, origin):
    addresses = Addresses.of("0.0.0.0", {"SPACE_HOST": "org-page.hf.space"})
    assert not addresses.refusal(host, origin)
    assert addresses.refusal("other.hf.space", origin)
    assert addresses.refusal(host, "https://other.hf.space")
    assert addresses.refusal(host, "http://huggingface.co")


# --------------------------------------------------------------------------- uploads


def arrive(uploads: Uploads, visitor: str, size: int, names: tuple[str, ...] = ("film",)) -> list:
    with uploads.arriving(visitor) as transfer:
        transfer.count(size * len(names))
        files = [transfer.place / name for name in names]
        for file in files:
            file.write_bytes(b"")
            os.truncate(file, size)
        transfer.complete(files)
    return [{"path": str(file)} for file in files]


def left(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def test_one_visitor_may_let_less_wait_than_all_together(tmp_path):
    uploads, size = Uploads(tmp_path), 60 * 2**20
    of_a = [arrive(uploads, "a", size) for _ in range(3)]
    with pytest.raises(Refused, match="more than 200 MB"):
        arrive(uploads, "a", size)
    for _ in range(3):
        arrive(uploads, "b", size)
    with pytest.raises(Refused, match="other visitors"):
        arrive(uploads, "c", size)
    assert len(left(tmp_path)) == 6
    for files in of_a:
        uploads.delete([file["path"] for file in files])
    arrive(uploads, "c", size)
    assert uploads.health()["files"] == 4


def test_a_transfer_counts_while_it_arrives_and_no_longer(tmp_path):
    uploads = Uploads(tmp_path)
    with uploads.arriving("b") as other:
        other.count(150 * 2**20)
        assert uploads.health()["bytes"] > 150 * 2**20
    with pytest.raises(Refused, match="more than 200 MB"):
        arrive(uploads, "a", 201 * 2**20)
    assert left(tmp_path) == []
    assert uploads.health()["bytes"] == 0


def test_many_small_files_are_refused(tmp_path):
    uploads = Uploads(tmp_path)
    arrive(uploads, "a", 1, tuple(map(str, range(100))))
    with pytest.raises(Refused, match="Too many files"):
        arrive(uploads, "a", 1)


def test_only_what_was_uploaded_is_read_and_deleted(tmp_path):
    uploads = Uploads(tmp_path / "uploads")
    uploads.folder.mkdir()
    other = tmp_path / "other.png"
    other.write_bytes(b"x")
    files = [{"path": str(other)}]
    with pytest.raises(Refused, match="no uploaded files"), uploads.reading(files):
        pass
    assert other.exists()


def test_an_upload_stays_while_its_request_lives_and_no_longer(tmp_path):
    alive = {"request"}
    uploads = Uploads(tmp_path, lambda request: request in alive)
    (file,) = arrive(uploads, "a", 1)
    uploads.claim([file["path"]], "request")
    uploads._files[file["path"]].since -= 10_000  # it has waited for long
    uploads.sweep()
    assert Path(file["path"]).exists()
    alive.clear()
    uploads.sweep()
    assert left(tmp_path) == []


def test_an_upload_that_nobody_names_is_deleted(tmp_path):
    uploads = Uploads(tmp_path)
    (file,) = arrive(uploads, "a", 1)
    uploads.sweep()
    assert Path(file["path"]).exists()
    uploads._files[file["path"]].since -= 301
    uploads.sweep()
    assert left(tmp_path) == []


def test_the_sweeper_survives_anything_and_says_so(tmp_path, monkeypatch):
    uploads, broken = Uploads(tmp_path), threading.Event()
    monkeypatch.setattr(uploads_module, "_SWEEP_SECONDS", 0.01)

    def sweep():
        if broken.is_set():
            raise ZeroDivisionError

    uploads.sweep = sweep
    assert uploads.health()["ok"]
    broken.set()
    with uploads.swept():
        while uploads.health()["ok"]:
            time.sleep(0.005)
        seen = uploads.health()
        broken.clear()
        while not uploads.health()["ok"]:
            time.sleep(0.005)
    assert (seen["ok"], seen["sweeper_error"]) == (False, "ZeroDivisionError")
    assert uploads.health()["ok"]
    uploads._swept -= 31  # it hangs
    assert not uploads.health()["ok"]


# --------------------------------------------------------------------------- folders


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(tmp_path):
    program = (
        "from cft.page.folders import upload_folder\n"
        "with upload_folder() as folder:\n"
        "    (folder / 'film.png').write_bytes(b'x')\n"
        "    print(folder, flush=True)\n"
        "    input()\n"
    )
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    folder = Path(process.stdout.readline().strip())
    remove_abandoned(tmp_path)
    assert (folder / "film.png").exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (folder / "film.png").exists()
    remove_abandoned(tmp_path)
    assert left(tmp_path) == []


def test_what_only_looks_like_a_folder_of_uploads_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    names = ["cft-uploads-mine", "cft-uploads-abcdefgh", "cft-data"]
    for name in names:
        (tmp_path / name).mkdir(mode=0o755)
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "cft-uploads-12345678").symlink_to(real)
    with upload_folder() as folder:
        assert folder.parent == tmp_path
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
    assert not folder.exists()
    assert {path.name for path in left(tmp_path)} == {*names, "real", "cft-uploads-12345678"}


# ------------------------------------------------------------------------------ line


def test_the_line_is_as_long_as_its_films_take():
    alive = {"a", "b"}
    line = Line(lambda request: request in alive)
    line._seconds_per_film = 2.0
    line.joined("a", 20)
    line.joined("b", 0)  # the example film
    assert line.seconds() == 42
    assert line.refusal() == ""
    line._seconds_per_film = 10.0
    assert "about 4 minutes" in line.refusal()
    alive.remove("a")
    assert line.seconds() == 10


def test_the_line_learns_how_long_a_film_takes():
    line = Line()
    for _ in range(50):
        with line.timed(2):
            time.sleep(0.002)
    assert 0.001 <= line._seconds_per_film < 0.1


# ------------------------------------------------------------------------- the gate


class Forgetful(CookieJar):
    """A visitor that keeps no cookies."""

    def set_cookie(self, cookie):
        pass


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    """The page, served: its address, the folder that Gradio writes to, and its parts."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        with server.serve(cft.load(model_folder, "cpu")) as address:
            (demo,) = [b for b in gr.Blocks.get_instances() if b.is_running]
            with httpx.Client(timeout=120, cookies=Forgetful()) as client:
                yield SimpleNamespace(address=address, folder=folder, demo=demo, client=client)
    assert not list(folder.iterdir())


def routes(router) -> set[tuple[str, str]]:
    """(method, path) of all routes, those of routers inside among them."""
    found = set()
    for route in router.routes:
        if hasattr(route, "original_router"):
            found |= routes(route.original_router)
        elif hasattr(route, "routes") and not hasattr(route, "methods"):
            raise AssertionError(f"what stands under {route.path} is not known")
        else:
            found |= {(method, route.path) for method in route.methods or ["GET"]}
    return found


@pytest.mark.slow
def test_every_route_is_known_and_all_but_the_listed_answer_404(served):
    found = routes(served.demo.app.router)
    answered = {route for route in found if is_allowed(*route)}
    assert {("POST", "/gradio_api/process_recording"), ("POST", "/gradio_api/upload")} < found
    api = "/gradio_api"
    assert answered == {
        ("GET", "/"), ("HEAD", "/"), ("GET", "/config"), ("GET", "/config/"),
        ("GET", "/theme.css"), ("GET", "/robots.txt"), ("GET", "/favicon.ico"),
        ("GET", "/manifest.json"), ("GET", "/assets/{path:path}"), ("GET", "/static/{path:path}"),
        ("GET", "/svelte/{path:path}"), ("GET", f"{api}/info"), ("GET", f"{api}/info/"),
        ("GET", f"{api}/startup-events"), ("GET", f"{api}/theme.css"),
        ("GET", f"{api}/heartbeat/{{session_hash}}"), ("POST", f"{api}/upload"),
        ("GET", f"{api}/upload_progress"), ("POST", f"{api}/queue/join"),
        ("GET", f"{api}/queue/data"), ("POST", f"{api}/cancel"), ("POST", f"{api}/reset"),
    }  # fmt: skip
    for method, path in sorted(found - answered):
        if "{" in path and is_allowed(method, path.replace("{api_name}", "predict")):
            continue  # the one call that there is
        for place in {path.replace("{path:path}", "x").replace("{api_name}", "predict2"), path}:
            answer = served.client.request(method, served.address.rstrip("/") + place)
            assert answer.status_code == 404, (method, place)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    ["process_recording", "process_recording/", "../gradio_api/vibe-edit", "component_server"],
)
def test_nothing_else_takes_a_file(served, path):
    files = {"files": ("a.png", b"x" * 1000)}
    answer = served.client.post(f"{served.address}gradio_api/{path}", files=files)
    assert answer.status_code == 404
    assert files_in(served) == []


def files_in(served) -> list[Path]:
    walk = os.walk(served.folder)  # unlike rglob, it outlives a folder that vanishes meanwhile
    return [Path(place, name) for place, _, names in walk for name in names]


def is_empty(served, seconds: float = 20) -> bool:
    """Whether nothing of an upload is left; an answer may arrive a moment before its end."""
    end = time.monotonic() + seconds
    while files_in(served) and time.monotonic() < end:
        time.sleep(0.05)
    return not files_in(served)


def upload(served, data: bytes = b"no film", count: int = 1, **headers) -> httpx.Response:
    files = [("files", (f"{i}.png", data)) for i in range(count)]
    return served.client.post(f"{served.address}gradio_api/upload", files=files, headers=headers)


def join(served, files: object, event: int = 0, **more) -> httpx.Response:
    body = {"data": [files], "fn_index": event, "session_hash": "visitor", **more}
    return served.client.post(f"{served.address}gradio_api/queue/join", json=body)


def answer_of(served, session: str = "visitor") -> dict:
    """What the queue answers a session."""
    place = f"{served.address}gradio_api/queue/data"
    with served.client.stream("GET", place, params={"session_hash": session}) as events:
        for row in events.iter_lines():
            message = json.loads(row.removeprefix("data: ")) if row else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


def named(response: httpx.Response) -> list[dict]:
    return [{"path": path, "meta": META} for path in response.json()]


@pytest.mark.slow
def test_another_host_or_origin_is_answered_with_a_sentence_and_no_credentials(served):
    for headers in ({"Host": "evil", "Origin": "http://evil"}, {"Origin": "http://evil"}):
        answer = served.client.get(f"{served.address}config", headers=headers)
        assert answer.status_code == 403
        assert "access-control-allow-credentials" not in answer.headers
        assert "The page" in answer.json()["detail"]
    assert upload(served, Origin="http://evil").status_code == 403
    assert served.client.get(
        served.address, headers={"Origin": served.address.rstrip("/")}
    ).is_success


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[1, 2]", 400),
        (b"{", 400),
        (b"[" * 50_000, 400),
        (b'{"data": ' + b"9" * 5000 + b"}", 400),
        (b'{"data": [[' + b"{}," * 100_000 + b"{}]]}", 413),
        (json.dumps({"data": [[{}] * 3000]}).encode(), 413),
        (b" " * 20_000_000, 413),
    ],
)
def test_a_hostile_body_is_refused_at_once_and_before_gradio_sees_it(served, body, status):
    for path in ("queue/join", "call/predict", "cancel", "reset"):
        began = time.perf_counter()
        try:
            answer = served.client.post(f"{served.address}gradio_api/{path}", content=body)
        except httpx.WriteError:  # it was not read to its end
            assert len(body) > 10_000_000
            continue
        assert answer.status_code == status, answer.text
        assert answer.json()["detail"]
        assert time.perf_counter() - began < 30


@pytest.mark.slow
def test_a_field_that_is_no_file_is_refused(served):
    for data in ({"x": "y" * 10_000_000}, {"x": "y"}):
        answer = served.client.post(
            f"{served.address}gradio_api/upload", data=data, files={"a": b"x"}
        )
        assert answer.status_code == 413
    assert files_in(served) == []


BOUNDARY = "multipart/form-data; boundary=cut"


def send(served, body: bytes, content_type: str = BOUNDARY) -> httpx.Response:
    place = f"{served.address}gradio_api/upload"
    return served.client.post(place, content=body, headers={"Content-Type": content_type})


def part(data: bytes, name: str = "a.png") -> bytes:
    head = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


@pytest.mark.slow
def test_an_upload_without_its_end_is_refused_and_leaves_nothing(served):
    cut = part(bytes(100_000))[:-2]
    for body in (b"", b"--cut--\r\n", cut):
        answer = send(served, body)
        assert (answer.status_code, "no whole file" in answer.text) == (400, True)
        assert list(next(iter(served.folder.iterdir())).iterdir()) == []
    whole_and_cut = send(served, part(b"no film") + cut)
    assert whole_and_cut.status_code == 200
    assert [file.read_bytes() for file in files_in(served)] == [b"no film"]
    join(served, named(whole_and_cut))
    answer_of(served)
    assert is_empty(served)


@pytest.mark.slow
def test_an_upload_that_cannot_be_taken_apart_is_refused_in_a_sentence(served, capfd):
    long = send(served, b"--cut--\r\n", "multipart/form-data; boundary=" + "x" * 1000)
    noise = send(served, b"noise" * 100)
    assert (long.status_code, noise.status_code) == (400, 400)
    assert "could not be read" in long.text
    assert "Traceback" not in "".join(capfd.readouterr())
    assert files_in(served) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["..", ".", "", "/", "../..", "..\\.."])
def test_a_file_may_be_called_as_folders_are(served, name):
    answer = send(served, part(b"no film", name) + b"--cut--\r\n")
    assert answer.status_code == 200, answer.text
    assert len(files_in(served)) == 1
    join(served, named(answer))
    assert answer_of(served)["success"]
    assert is_empty(served)


@pytest.mark.slow
def test_uploads_beyond_the_limit_get_a_sentence_and_the_page_lives(served, monkeypatch):
    monkeypatch.setattr(uploads_module, "MAX_WAITING_OF_ONE", 3 * 2**20)
    monkeypatch.setattr(uploads_module, "MAX_WAITING", 5 * 2**20)
    kept = [upload(served, bytes(2**20), 2, Cookie=f"cft_visitor={who}") for who in "ab"]
    assert [answer.status_code for answer in kept] == [200, 200]
    of_one = upload(served, bytes(2**20), 2, Cookie="cft_visitor=a")
    of_all = upload(served, bytes(2**20), 2, Cookie="cft_visitor=c")
    assert (of_one.status_code, of_all.status_code) == (413, 413)
    assert "3 MB are too many" in of_one.text
    assert "other visitors" in of_all.text
    assert len(files_in(served)) == 4
    assert served.client.get(served.address).is_success
    for response in kept:
        join(served, named(response))
        answer_of(served)
    assert is_empty(served)
    again = upload(served, Cookie="cft_visitor=a")
    assert again.status_code == 200
    join(served, named(again))
    answer_of(served)
    assert is_empty(served)


@pytest.mark.slow
def test_a_full_disk_is_a_sentence(served, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    answer = upload(served)
    assert (answer.status_code, "no room" in answer.text) == (507, True)


@pytest.mark.slow
def test_the_front_page_names_the_visitor_by_a_cookie_once(served):
    with httpx.Client() as visitor:
        cookie = visitor.get(served.address).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "set-cookie" not in visitor.get(served.address).headers


@pytest.mark.slow
def test_nothing_of_an_upload_is_left_after_a_refusal_or_a_cancelled_request(served):
    for refused in ({"fn_index": 99}, {"session_hash": None}, {"fn_index": "x"}):
        assert join(served, named(upload(served)), **refused).status_code >= 400
        assert is_empty(served)
    session = {"session_hash": "who cancels"}
    request = join(served, named(upload(served)), **session).json()["event_id"]
    body = {**session, "fn_index": 0, "event_id": request}
    served.client.post(f"{served.address}gradio_api/cancel", json=body)
    assert is_empty(served)


@pytest.mark.slow
def test_who_would_wait_too_long_is_told_so_in_place_of_the_answer(served, monkeypatch):
    monkeypatch.setattr(line_module, "LONGEST_WAIT", -1.0)
    for event in (0, 1, 3):  # a film, a row, and a program that joins the queue
        assert join(served, named(upload(served)), event=event).is_success
        refused = answer_of(served)
        assert not refused["success"]
        assert "The page is busy" in refused["output"]["error"]
        assert is_empty(served)
    place = f"{served.address}gradio_api/call/predict"
    answer = served.client.post(place, json={"data": [named(upload(served))]})
    assert (answer.status_code, "busy" in answer.json()["detail"]) == (503, True)
    assert int(answer.headers["retry-after"]) >= 5
    assert is_empty(served)


@pytest.mark.slow
def test_an_answer_that_nobody_fetches_is_forgotten(served, monkeypatch):
    waiting = served.demo._queue.pending_messages_per_session
    assert join(served, named(upload(served)), session_hash="deaf").is_success
    assert "deaf" in waiting
    end = time.monotonic() + 60
    monkeypatch.setattr(upkeep, "UNHEARD_SECONDS", 0.5)
    while "deaf" in waiting:
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_nothing_is_kept_of_a_visitor_who_has_every_answer(served, monkeypatch):
    """Gradio keeps an entry of each session for ever, a thousand bytes and more."""
    queue = served.demo._queue
    monkeypatch.setattr(upkeep, "UNHEARD_SECONDS", 3.0)  # looked after four times a second
    for number in range(3):
        join(served, named(upload(served)), session_hash=f"visitor {number}")
        assert answer_of(served, f"visitor {number}")["success"]
    place = f"{served.address}gradio_api/call/predict"
    call = served.client.post(place, json={"data": [named(upload(served))]}).json()["event_id"]
    assert "event: complete" in served.client.get(f"{place}/{call}").text
    end = time.monotonic() + 60
    while queue.pending_event_ids_session or len(queue.pending_messages_per_session):
        assert time.monotonic() < end
        time.sleep(0.1)
    join(served, named(upload(served)), session_hash="visitor 0")  # who comes back
    assert answer_of(served, "visitor 0")["success"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "queue/data?session_hash=nobody",
        "queue/data?session_hash=%ff&session_hash=nobody",
        "call/predict/nothing",
        "call/models/%ff",
    ],
)
def test_an_answer_that_there_is_not_is_a_sentence_and_nothing_in_the_log(served, capfd, path):
    answer = served.client.get(f"{served.address}gradio_api/{path}")
    assert answer.status_code == 404
    assert "no such request" in answer.json()["detail"]
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_an_answer_that_two_ask_for_ends_for_both_and_leaves_nothing_in_the_log(
    served, monkeypatch, capfd
):
    """One of them gets it; for the other one the session is forgotten while it listens."""
    monkeypatch.setattr(upkeep, "UNHEARD_SECONDS", 3.0)  # looked after four times a second
    place = f"{served.address}gradio_api/queue/data"
    join(served, named(upload(served)), session_hash="shared")
    with ThreadPoolExecutor(2) as both:
        asked = [
            both.submit(served.client.get, place, params={"session_hash": "shared"})
            for _ in range(2)
        ]
        heard = sorted(answer.result().text for answer in asked)
    assert sum("process_completed" in text for text in heard) == 1
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_the_queue_outlives_a_visitor_who_leaves_without_a_word(served):
    queue = served.demo._queue
    for _ in range(3):
        join(served, named(upload(served)), session_hash="gone")
    queue.pending_messages_per_session.pop("gone", None)
    join(served, named(upload(served)))
    assert answer_of(served)["success"]
    assert not queue.stopped


@pytest.mark.slow
def test_the_health_check_says_how_the_page_is(served, monkeypatch):
    answer = served.client.get(f"{served.address}health")
    assert answer.status_code == 200
    health = answer.json()
    assert health["ok"]
    assert set(health) == {
        "ok", "files", "bytes", "seconds_since_sweep", "sweeper_error", "queue_runs",
        "seconds_to_wait", "self_test",
    }  # fmt: skip
    monkeypatch.setattr(served.demo.app.middleware_stack, "queue_runs", lambda: False)
    answer = served.client.get(f"{served.address}health")
    assert (answer.status_code, answer.json()["ok"]) == (503, False)
