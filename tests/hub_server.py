"""A small Hugging Face Hub on loopback that can be told to fail, for tests.

It speaks what `huggingface_hub` asks of the real one: whoami, creation of repositories, preupload,
LFS batch and upload, commit (ndjson), branches and tags, information on a revision, and files by
HEAD and GET with the Hub's headers. `Hub.fail` plans faults: each is used up by one request whose
"METHOD /path" contains a text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

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
    promises: dict[str, int] = field(default_factory=dict)  # sizes that are claimed

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        parent = self.branches.get(branch, "")
        content = {**self.commits.get(parent, {}), **files}
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
    many pieces).
    """

    match: str
    kind: str = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)


class Hub:
    """The server; use as a context manager."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.on_request: Callable[[str], None] | None = None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def model(self, name: str, kind: str = "models") -> Repository:
        return self.repositories[kind, name]

    def add(self, name: str, files: dict[str, bytes], **facts) -> str:
        repository = self.repositories.setdefault(("models", name), Repository(**facts))
        return repository.commit(files)

    def fail(self, match: str, kind: str = "status", times: int = 1, **facts) -> None:
        self.faults += [Fault(match, kind, **facts) for _ in range(times)]

    def take_fault(self, line: str) -> Fault | None:
        with self._lock:
            self.requests.append(line)
            for fault in self.faults:
                if fault.match in line:
                    self.faults.remove(fault)
                    return fault
        return None

    def count(self, text: str) -> int:
        return sum(text in line for line in self.requests)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

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
            if self.fault and self.fault.kind == "cut":
                self.close_connection = True
                self.connection.shutdown(2)
                return
            if self.fault and self.fault.kind == "status":
                self._send(self.fault.status, {"error": "planned"}, self.fault.headers)
                return
            self._route(path)

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
                self._send(409 if taken else 200, {})
            else:
                self._send(404, {"error": f"the loopback Hub does not know {action}"})

        def _info(self, repository: Repository, name: str, revision: str) -> None:
            commit = repository.find(revision)
            if commit is None:
                self._send(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = []
            for file, data in repository.commits[commit].items():
                size = repository.promises.get(file, len(data))
                entry = {"rfilename": file, "size": size, "blobId": git_hash(data)}
                if file.endswith(_LARGE):
                    sha256 = hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 130}
                siblings.append(entry)
            facts = {"id": name, "modelId": name, "sha": commit, "private": repository.private}
            self._send(200, {**facts, "siblings": siblings, "tags": [], "downloads": 0})

        def _batch(self) -> None:
            objects = []
            for asked in json.loads(self.body)["objects"]:
                if asked["oid"] not in hub.lfs:
                    upload = {"href": f"{hub.url}/lfs/{asked['oid']}", "header": {}}
                    asked = {**asked, "actions": {"upload": upload}}
                objects.append(asked)
            self._send(200, {"transfer": "basic", "objects": objects})

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
            files = {}
            for line in lines[1:]:
                value = line["value"]
                small = line["key"] == "file"
                files[value["path"]] = (
                    base64.b64decode(value["content"]) if small else hub.lfs[value["oid"]]
                )
            commit = repository.commit(files, branch)
            if self.fault and self.fault.kind == "lost":
                self.close_connection = True
                self.connection.shutdown(2)
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
            self._send_bytes(data, headers)

        def _send_bytes(self, data: bytes, headers: dict[str, str]) -> None:
            start, total = 0, len(data)
            if self.headers.get("Range"):
                start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
                headers = {**headers, "Content-Range": f"bytes {start}-{total - 1}/{total}"}
            kind = self.fault.kind if self.fault and self.command == "GET" else ""
            if kind == "corrupt":
                data = bytes(255 - byte for byte in data)
            body = data[start:]
            self.send_response(206 if start else 200)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if kind == "truncate":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)
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
