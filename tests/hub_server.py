"""A small Hugging Face Hub on loopback that can be told to fail, for tests.

It speaks what `huggingface_hub` asks of the real one: whoami, creation of repositories, preupload,
uploads by LFS and by xet's chunks, commit (ndjson), branches and tags, information on a revision,
and files by HEAD and GET with the Hub's headers. `Hub.fail` plans faults: each is used up by one
request whose "METHOD /path" contains a text.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import imagecodecs

TOKEN = "hf_loopbackSecretNobodyMaySee"
USER = "tester"
_LARGE = (".safetensors", ".bin", ".png")


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """Commits (identifier -> name -> content) and the branches and tags that name them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lies: dict[str, dict] = field(default_factory=dict)  # name -> what its listing says instead
    facts: dict = field(default_factory=dict)  # what its information says instead
    headers: dict[str, str] = field(default_factory=dict)  # that come with every file

    def commit(self, files: dict[str, bytes | None], branch: str = "main") -> str:
        """Add, replace or, with None, remove files."""
        parent = self.branches.get(branch, "")
        content = {**self.commits.get(parent, {}), **files}
        content = {name: data for name, data in content.items() if data is not None}
        listing = {name: git_hash(data) for name, data in sorted(content.items())}
        facts = json.dumps([parent, listing, len(self.commits)])
        commit = hashlib.sha1(facts.encode()).hexdigest()
        self.commits[commit] = content
        self.branches[branch] = commit
        return commit

    def find(self, revision: str) -> str | None:
        known = {**self.branches, **self.tags}
        return known.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """One thing that goes wrong once.

    kind: "status" (answer ``status``), "cut" (close without an answer), "truncate" (close after
    half of the body), "corrupt" (a body of the right length with other bytes), "slow" (a body in
    many pieces), "stall" (half of the body, then nothing until `Hub.let_go`), "endless" (a body
    that does not end), "hold" (nothing is done or answered until `Hub.let_go`, and then no more),
    "lost" (a commit or tag is made, its answer cut off).
    """

    match: str
    kind: str = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    answer: dict = field(default_factory=lambda: {"error": "planned"})


class Hub:
    """The server; use as a context manager."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.xorbs: dict[str, list[bytes]] = {}  # by their hash, as hexadecimal digits
        self.requests: list[str] = []
        self.ranges: list[str] = []  # what parts of files were asked for
        self.faults: list[Fault] = []
        self.on_request: Callable[[str], None] | None = None
        self.stuck = threading.Event()  # a request has met "stall" or "hold"
        self._let_go = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self._server.shutdown()
        self._server.server_close()

    def model(self, name: str, kind: str = "models") -> Repository:
        return self.repositories[kind, name]

    def add(self, name: str, files: dict[str, bytes], **facts) -> str:
        repository = self.repositories.setdefault(("models", name), Repository(**facts))
        return repository.commit(files)

    def fail(self, match: str, kind: str = "status", times: int = 1, **facts) -> None:
        self.faults += [Fault(match, kind, **facts) for _ in range(times)]

    def let_go(self) -> None:
        """End the requests that "stall" and "hold" keep."""
        self._let_go.set()

    def stick(self) -> None:
        self.stuck.set()
        self._let_go.wait(60)

    def take_fault(self, line: str) -> Fault | None:
        with self._lock:
            self.requests.append(line)
            for fault in self.faults:
                if fault.match in line:
                    self.faults.remove(fault)
                    return fault
        return None

    def environment(self, cache: Path) -> dict[str, str]:
        """Of a process of its own that talks to this Hub."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "CFT_"))}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HUB_CACHE": str(cache),
            "HF_HOME": str(cache.parent / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
            "OMP_NUM_THREADS": "1",
        }

    def count(self, text: str) -> int:
        return sum(text in line for line in self.requests)


def read_xorb(data: bytes) -> list[bytes]:
    """The chunks of a xorb: each has its version, packed size, packing and size before it."""
    chunks, place = [], 0
    while place < len(data) and data[place : place + 7] != b"XETBLOB":
        packed, packing = int.from_bytes(data[place + 1 : place + 4], "little"), data[place + 4]
        size = int.from_bytes(data[place + 5 : place + 8], "little")
        chunk = data[place + 8 : place + 8 + packed]
        if packing:
            chunk = imagecodecs.lz4f_decode(chunk)
        if packing == 2:  # the first byte of each four, then the second of each, ...
            groups, chunk = chunk, bytearray(size)
            start = 0
            for k in range(4):
                length = len(range(k, size, 4))
                chunk[k::4] = groups[start : start + length]
                start += length
        assert len(chunk) == size
        chunks.append(bytes(chunk))
        place += 8 + packed
    return chunks


def read_shard(data: bytes, xorbs: dict[str, list[bytes]]) -> Iterator[tuple[str, bytes]]:
    """SHA-256 and content of each file of a shard, whose records have 48 bytes each."""
    records = (data[place : place + 48] for place in range(48, len(data), 48))
    while (head := next(records))[:32] != b"\xff" * 32:
        flags, count = struct.unpack("<II", head[32:40])
        parts = [next(records) for _ in range(count)]
        for _ in range(count if flags >> 31 else 0):
            next(records)  # verification
        sha256 = _hexadecimal(next(records)[:32]) if flags >> 30 & 1 else ""
        content = b""
        for part in parts:
            first, end = struct.unpack("<II", part[40:48])
            content += b"".join(xorbs[_hexadecimal(part[:32])][first:end])
        yield sha256, content


def _hexadecimal(hash_: bytes) -> str:
    """A hash as xet writes it: four little-endian numbers of 8 bytes."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", hash_))


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer()

        do_HEAD = do_POST = do_PUT = do_GET

        def _answer(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            line = f"{self.command} {path}"
            self.fault = hub.take_fault(line)
            if hub.on_request:
                hub.on_request(line)
            if self.fault and self.fault.kind in ("cut", "hold"):
                if self.fault.kind == "hold":
                    hub.stick()
                self._cut()
                return
            if self.fault and self.fault.kind == "status":
                self._send(self.fault.status, self.fault.answer, self.fault.headers)
                return
            self._route(path)

        def _cut(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):  # the client was quicker
                self.connection.shutdown(2)

        def _route(self, path: str) -> None:
            if path == "/api/whoami-v2":
                known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                self._send(200 if known else 401, {"name": USER, "type": "user", "orgs": []})
            elif path == "/api/repos/create":
                self._create()
            elif path == "/api/validate-yaml":
                self._send(200, {"errors": [], "warnings": []})
            elif path.endswith("/info/lfs/objects/batch"):
                self._batch()
            elif path.startswith("/v1/"):
                self._xet(path.split("/")[2:])
            elif path.startswith("/lfs/"):
                self._store(path.removeprefix("/lfs/"))
            elif path.startswith("/api/"):
                self._api(path.removeprefix("/api/").split("/"))
            else:
                self._file(path)

        def _create(self) -> None:
            asked = json.loads(self.body)
            name = f"{asked.get('organization') or USER}/{asked['name']}"
            kind = asked.get("type", "model") + "s"
            exists = (kind, name) in hub.repositories
            if not exists:
                private = asked.get("visibility") == "private" or bool(asked.get("private"))
                hub.repositories[kind, name] = Repository(private)
                hub.repositories[kind, name].commit({".gitattributes": b"*.safetensors lfs\n"})
            self._send(409 if exists else 200, {"url": f"{hub.url}/{name}"})

        def _api(self, parts: list[str]) -> None:
            kind, name, action = parts[0], "/".join(parts[1:3]), (parts[3:] or ["revision"])[0]
            rest = "/".join(parts[4:]) or "main"
            repository = hub.repositories.get((kind, name))
            if repository is None:
                self._send(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
            elif action == "revision":
                self._info(repository, name, rest)
            elif action == "preupload":
                files = json.loads(self.body)["files"]
                modes = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(_LARGE) else "regular",
                        "shouldIgnore": False,
                    }
                    for f in files
                ]
                self._send(200, {"files": modes})
            elif action == "commit":
                self._commit(repository, name, rest)
            elif action == "branch":
                repository.branches[rest] = repository.branches["main"]
                self._send(200, {})
            elif action == "tag":
                tag = json.loads(self.body)["tag"]
                taken = tag in repository.tags
                repository.tags.setdefault(tag, repository.find(rest))
                if self.fault and self.fault.kind == "lost":
                    self._cut()
                    return
                self._send(409 if taken else 200, {})
            elif action == "xet-write-token":
                self._send(200, {"casUrl": hub.url, "accessToken": "xet", "exp": 2**33})
            else:
                self._send(404, {"error": f"the loopback Hub does not know {action}"})

        def _info(self, repository: Repository, name: str, revision: str) -> None:
            commit = repository.find(revision)
            if commit is None:
                self._send(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = []
            for file, data in repository.commits[commit].items():
                entry = {"rfilename": file, "size": len(data), "blobId": git_hash(data)}
                if file.endswith(_LARGE):
                    sha256 = hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
                siblings.append({**entry, **repository.lies.get(file, {})})
            facts = {"id": name, "modelId": name, "sha": commit, "private": repository.private}
            facts |= {"siblings": siblings, "tags": [], "downloads": 0}
            self._send(200, {**facts, **repository.facts})

        def _batch(self) -> None:
            objects = []
            for asked in json.loads(self.body)["objects"]:
                if asked["oid"] not in hub.lfs:
                    upload = {"href": f"{hub.url}/lfs/{asked['oid']}", "header": {}}
                    asked = {**asked, "actions": {"upload": upload}}
                objects.append(asked)
            self._send(200, {"transfer": "basic", "objects": objects})

        def _xet(self, parts: list[str]) -> None:
            """Uploads by chunks: blocks of chunks ("xorbs") and then what files they make."""
            if parts[0] == "xorbs":
                hub.xorbs[parts[-1]] = read_xorb(self.body)
                self._send(200, {"was_inserted": True})
            elif parts[0] == "shards":
                for sha256, data in read_shard(self.body, hub.xorbs):
                    assert hashlib.sha256(data).hexdigest() == sha256
                    hub.lfs[sha256] = data
                self._send(200, {"result": 1})
            else:
                self._send(404, {"error": "no chunk is known"})

        def _store(self, oid: str) -> None:
            sound = hashlib.sha256(self.body).hexdigest() == oid
            if sound:
                hub.lfs[oid] = self.body
            self._send(200 if sound else 400, {})

        def _commit(self, repository: Repository, name: str, branch: str) -> None:
            lines = [json.loads(line) for line in self.body.splitlines()]
            parent = lines[0]["value"].get("parentCommit")
            if parent and parent != repository.branches.get(branch):
                self._send(412, {"error": "the branch has moved"})
                return
            files: dict[str, bytes | None] = {}
            for line in lines[1:]:
                kind, value = line["key"], line["value"]
                if kind == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                else:
                    files[value["path"]] = hub.lfs[value["oid"]] if kind == "lfsFile" else None
            commit = repository.commit(files, branch)
            if self.fault and self.fault.kind == "lost":
                self._cut()
                return
            url = f"{hub.url}/{name}/commit/{commit}"
            self._send(200, {"commitUrl": url, "commitOid": commit})

        def _file(self, path: str) -> None:
            name, _, rest = path.lstrip("/").partition("/resolve/")
            repository = hub.repositories.get(("models", name))
            if repository is None:
                self._send(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
                return
            revision, _, file = rest.partition("/")
            commit = repository.find(revision)
            data = repository.commits.get(commit, {}).get(file)
            if data is None:
                code = "EntryNotFound" if commit else "RevisionNotFound"
                self._send(404, {"error": "no"}, {"X-Error-Code": code})
                return
            large = file.endswith(_LARGE)
            etag = hashlib.sha256(data).hexdigest() if large else git_hash(data)
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
            if large:
                headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            self._send_bytes(data, {**headers, **repository.headers})

        def _send_bytes(self, data: bytes, headers: dict[str, str]) -> None:
            start, total = 0, len(data)
            if self.headers.get("Range"):
                hub.ranges.append(self.headers["Range"])
                start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
                headers = {**headers, "Content-Range": f"bytes {start}-{total - 1}/{total}"}
            kind = self.fault.kind if self.fault and self.command == "GET" else ""
            if kind == "corrupt":
                data = bytes(255 - byte for byte in data)
            body = data[start:]
            self.send_response(206 if start else 200)
            length = {} if kind == "endless" else {"Content-Length": str(len(body))}
            for key, value in {**headers, **length}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if kind == "endless":
                with contextlib.suppress(OSError):  # the client has had enough
                    while True:
                        self.wfile.write(bytes(2**16))
            if kind in ("truncate", "stall"):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if kind == "stall":
                    hub.stick()
            if kind in ("truncate", "stall", "endless"):
                self._cut()
                return
            step = max(1, len(body) // 50) if kind == "slow" else len(body) or 1
            for place in range(0, len(body), step):
                self.wfile.write(body[place : place + step])
                self.wfile.flush()

        def _send(self, status: int, answer: dict, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            headers = {**(headers or {}), "Content-Type": "application/json"}
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
