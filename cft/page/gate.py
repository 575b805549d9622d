"""What stands before the page's routes: who is answered, by which of them, and what may be sent.

`Gate` is an ASGI application around another. It knows the paths of Gradio's that the page needs,
and answers every other with 404, so that what a new version of Gradio adds is closed until it is
listed here. Nothing here imports Gradio.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from cft.page.addresses import Addresses
from cft.page.line import Line
from cft.page.uploads import Refused, Transfer, Uploads

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Takes an upload that arrives: (scope, its counted body, where it belongs) -> (status, document).
Intake = Callable[[Scope, Receive, Transfer], Awaitable[tuple[int, Any]]]

_API = "/gradio_api"
UPLOAD, JOIN, _CALL = f"{_API}/upload", f"{_API}/queue/join", f"{_API}/call"
_ANSWERS = f"{_API}/queue/data"
HEALTH = "/health"

#: What programs may call, by its path -> its last inputs, as they are if nothing is asked for, and
#: how many inputs it has.
CALLS: dict[str, tuple[tuple[str, ...], int]] = {
    # The page's own.
    f"{_CALL}/film": ((), 1),
    f"{_CALL}/row": (("",), 2),  # the salt of the DICOM study's hash
    f"{_CALL}/example": ((), 0),
    f"{_CALL}/together": ((), 2),
    # What is documented.
    f"{_CALL}/predict": (("", "refuse"), 3),  # operating points, what is done with refused films
    f"{_CALL}/predict_study": (("one", "", "refuse"), 4),  # which films are a study, and the same
    f"{_CALL}/compare": (("", "refuse"), 4),
    f"{_CALL}/heatmap": (("refuse",), 3),
    f"{_CALL}/gate": ((), 1),
    f"{_CALL}/models": ((), 0),
}

#: Method and path of what is answered; a path that ends with * stands for all that begin so.
ALLOWED = frozenset(
    {
        ("GET", HEALTH),
        ("GET", "/"), ("HEAD", "/"), ("GET", "/config"), ("GET", "/config/"), ("GET", "/theme.css"),
        ("GET", "/robots.txt"), ("GET", "/favicon.ico"), ("GET", "/manifest.json"),
        ("GET", "/assets/*"), ("GET", "/static/*"), ("GET", "/svelte/*"),
        ("GET", f"{_API}/info"), ("GET", f"{_API}/info/"), ("GET", f"{_API}/startup-events"),
        ("GET", f"{_API}/theme.css"), ("GET", f"{_API}/heartbeat/*"), ("POST", UPLOAD),
        ("GET", f"{_API}/upload_progress"), ("POST", JOIN), ("GET", _ANSWERS),
        ("POST", f"{_API}/cancel"), ("POST", f"{_API}/reset"),
        *(("POST", call) for call in CALLS), *(("GET", f"{call}/*") for call in CALLS),
    }
)  # fmt: skip

# A request for 20 films has some 10 kB and 250 values.
_MAX_BODY = 128 * 1024
_MAX_VALUES = 2000
_MAX_ADDRESS = 2048  # bytes of path and query, which Gradio keeps as ids
_MAX_OPEN = 500  # requests at a time, those that wait for an answer among them
_BODY_SECONDS, _UPLOAD_SECONDS = 30.0, 300.0
_LATER = 10.0  # seconds after which who found no room may ask again
_DRAINED = 256 * 2**20  # of an upload that is refused, so that the sentence arrives

_COOKIE = "cft_visitor"

_SELF_TEST = {True: "passed", False: "failed", None: "not possible"}


def is_allowed(method: str, path: str) -> bool:
    """Whether the gate lets a request through to the routes."""
    if (method, path) in ALLOWED:
        return True
    return any(
        method == m and p.endswith("*") and path.startswith(p[:-1]) and len(path) >= len(p)
        for m, p in ALLOWED
    )


class _Stop(Exception):
    """Answer with a status and a sentence, and read no further.

    `seconds`: when to ask again, of what will be answered then.
    """

    def __init__(self, status: int, sentence: str, seconds: float | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.seconds = status, sentence, seconds


@dataclass
class Gate:
    """An ASGI application that answers or passes on.

    Attributes
    ----------
    app
        What is behind the gate.
    intake
        Takes uploads, in place of Gradio's own route.
    refusers
        Event of the page -> the event that shows a sentence in the same place.
    queue_runs
        Whether what has joined the queue is still being answered.
    has_answer
        Whether there is, or will be, an answer for a session or a request, by its id.
    self_test_passed
        Whether the model gives its reference figures here; None if it has none.
    """

    app: App
    addresses: Addresses
    uploads: Uploads
    line: Line
    intake: Intake
    refusers: dict[int, int]
    queue_runs: Callable[[], bool]
    has_answer: Callable[[str], bool]
    self_test_passed: bool | None = None
    _open: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._open += 1
        try:
            await self._answer(scope, receive, send)
        except _Stop as stop:
            await _reply(send, stop.status, {"detail": stop.sentence}, stop.seconds)
        except Refused as refused:
            await _reply(send, 503, {"detail": str(refused)}, _LATER)
        finally:
            self._open -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, request = _headers(scope), (scope["method"], scope["path"])
        refusal = self.addresses.refusal(headers.get("host"), headers.get("origin"))
        if refusal:
            raise _Stop(403, refusal)
        if not is_allowed(*request):
            raise _Stop(404, "There is nothing here.")
        if len(scope["path"]) + len(scope["query_string"]) > _MAX_ADDRESS:
            raise _Stop(414, "The address is too long.")
        if request == ("GET", HEALTH):
            await self._health(send)
        elif self._open > _MAX_OPEN:
            raise _Stop(503, "Too many requests are open: try again in a few minutes.", _LATER)
        elif request == ("POST", UPLOAD):
            await self._upload(scope, receive, send, headers)
        elif scope["method"] == "POST":
            await self._json(scope, receive, send)
        elif scope["path"].startswith((_ANSWERS, _CALL)):
            await self._stream(scope, receive, send)
        else:
            await self.app(scope, receive, self._with_cookie(scope, headers, send))

    async def _health(self, send: Send) -> None:
        runs, health = self.queue_runs(), self.uploads.health()
        health["ok"] = health["ok"] and runs and self.self_test_passed is not False
        health["self_test"] = _SELF_TEST[self.self_test_passed]
        health |= {"queue_runs": runs, "seconds_to_wait": round(self.line.seconds(), 1)}
        await _reply(send, 200 if health["ok"] else 503, health)

    # -------------------------------------------------------------------------- visitors

    def _with_cookie(self, scope: Scope, headers: dict[str, str], send: Send) -> Send:
        """Give the visitor of the front page a name, by which his uploads are counted."""
        if scope["path"] != "/" or _cookie(headers):
            return send
        # In a frame of another site, as a Space's is, a cookie has to say so.
        framed = "SameSite=None; Secure; Partitioned" if self.addresses.framing else "SameSite=Lax"
        cookie = f"{_COOKIE}={secrets.token_urlsafe(12)}; Path=/; HttpOnly; {framed}"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"set-cookie", cookie.encode())]
            await send(message)

        return sending

    # --------------------------------------------------------------------------- uploads

    async def _upload(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]
    ) -> None:
        visitor = _cookie(headers) or str((scope.get("client") or ("",))[0])
        body, is_whole = _timed(receive, _UPLOAD_SECONDS), False
        later: float | None = None
        try:
            with self.uploads.arriving(visitor) as transfer:

                async def counted() -> Message:
                    nonlocal is_whole
                    message = await body()
                    is_whole = not message.get("more_body")
                    transfer.count(len(message.get("body", b"")))
                    return message

                status, document = await self.intake(scope, counted, transfer)
        except Refused as refused:
            status, document, later = 413, str(refused), _LATER
        except OSError:  # the disk is full: Gradio's answer would be a traceback
            status, document = 507, "There is no room for more films: try again in a few minutes."
            later = _LATER
        if not is_whole:
            await _drain(body)
        await _reply(send, status, document, later)

    # --------------------------------------------------------------------------- answers

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that comes in pieces.

        Gradio would break it off, with some hundred lines in the log, where there is nothing to
        answer, and where a session is forgotten while a second one listens to it.
        """
        asked = _asked_for(scope)
        if asked is not None and not self.has_answer(asked):
            raise _Stop(404, "There is no such request, or its answer was fetched or forgotten.")
        try:
            await self.app(scope, receive, send)
        except RuntimeError as error:  # Starlette's: the answer had begun
            if getattr(error.__cause__, "status_code", None) != 404:
                raise
            await send({"type": "http.response.body", "body": b""})

    # ------------------------------------------------------------------- requests of JSON

    async def _json(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _whole(_timed(receive, _BODY_SECONDS))
        document = _parsed(body)
        if scope["path"] != JOIN and scope["path"] not in CALLS:
            await self.app(scope, _replayed(body, receive), send)
            return
        document = _completed(scope["path"], document)
        body = json.dumps(document).encode()
        paths = list(_named(document.get("data")))
        joined = False
        try:
            self._check_event(scope["path"], document)
            refusal = self.line.refusal()
            if refusal:
                body = self._refusing(scope["path"], document, refusal)
            request = await self._join(_sized(scope, body), _replayed(body, receive), send)
            if request and not refusal:
                self.line.joined(request, len(paths))
                self.uploads.claim(paths, request)
                joined = True
        finally:
            if not joined:
                self.uploads.delete(paths)

    def _check_event(self, path: str, document: dict[str, Any]) -> None:
        """Gradio would answer an event that there is not with a traceback in the log."""
        index = document.get("fn_index")
        known = {*self.refusers, *self.refusers.values()}
        if path == JOIN and not (type(index) is int and index in known):
            raise _Stop(404, "The page has no such event.")

    def _refusing(self, path: str, document: dict[str, Any], sentence: str) -> bytes:
        """The request that shows a sentence where the answer to this one would have stood."""
        index = document.get("fn_index")
        if path != JOIN or index not in self.refusers:
            raise _Stop(503, sentence, self.line.seconds_until_taken())
        refused = {**document, "fn_index": self.refusers[index], "data": [sentence]}
        return json.dumps(refused).encode()

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> str | None:
        """Pass a request to the queue on; gives its id there, or None if it was not taken."""
        status, answer = 0, b""

        async def sending(message: Message) -> None:
            nonlocal status, answer
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                answer += message.get("body", b"")
            await send(message)

        # Compressed, the answer could not be read here.
        kept = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self.app({**scope, "headers": kept}, receive, sending)
        return json.loads(answer)["event_id"] if status == 200 else None


# ------------------------------------------------------------------------------------ ASGI


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _cookie(headers: dict[str, str]) -> str:
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[_COOKIE].value[:64] if _COOKIE in cookies else ""


def _asked_for(scope: Scope) -> str | None:
    """The session or the request whose answer is asked for; None if none is named."""
    if scope["path"] != _ANSWERS:
        return scope["path"].rpartition("/")[2]
    named = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return named.get("session_hash", [None])[-1]


async def _reply(send: Send, status: int, document: Any, later: float | None = None) -> None:
    """A string as text, anything else as JSON; `later`: in how many seconds to ask again."""
    is_text = isinstance(document, str)
    body = (document if is_text else json.dumps(document)).encode()
    kind = b"text/plain; charset=utf-8" if is_text else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if status != 200:
        headers.append((b"connection", b"close"))  # what is left of the request is not read
    if later is not None:
        headers.append((b"retry-after", str(math.ceil(later)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _timed(receive: Receive, seconds: float) -> Receive:
    """Receive a body that has to be there in so many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def receiving() -> Message:
        try:
            return await asyncio.wait_for(receive(), max(0.001, end - loop.time()))
        except asyncio.TimeoutError:
            raise _Stop(408, f"The request took longer than {seconds:.0f} seconds.") from None

    return receiving


async def _whole(receive: Receive) -> bytes:
    """A body of at most `_MAX_BODY` bytes; not a byte more than a chunk is read of a longer one."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Stop(400, "The request broke off.")
        body += message.get("body", b"")
        if len(body) > _MAX_BODY:
            raise _Stop(413, f"The request is longer than {_MAX_BODY // 1024} kB.")
        if not message.get("more_body"):
            return bytes(body)


async def _drain(receive: Receive) -> None:
    """Read on, and keep nothing, so that the sender comes to read the answer."""
    left = _DRAINED
    while left > 0:
        try:
            message = await receive()
        except _Stop:
            return
        left -= len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, once more; afterwards what comes."""
    messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receiving() -> Message:
        return next(messages, None) or await receive()

    return receiving


def _sized(scope: Scope, body: bytes) -> Scope:
    """The scope of a request whose body may be another by now."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}


# ------------------------------------------------------------------------------------ JSON


def _parsed(body: bytes) -> dict[str, Any]:
    """An object of at most `_MAX_VALUES` values."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise _Stop(400, "The request is not JSON.") from None
    if not isinstance(document, dict):
        raise _Stop(400, "The request is not a JSON object.")
    values, left = [document], _MAX_VALUES
    while values:
        value = values.pop()
        inside = list(value.values()) if isinstance(value, dict) else value
        if isinstance(inside, list):
            left -= len(inside)
            if left < 0:
                raise _Stop(413, "The request names more files than are answered.")
            values += inside
    return document


def _completed(path: str, document: dict[str, Any]) -> dict[str, Any]:
    """A single film as a list of one, and the inputs that a call leaves out."""
    data = document.get("data")
    if not isinstance(data, list):
        return document
    data = [[value] if isinstance(value, dict) else value for value in data]
    unasked, inputs = CALLS.get(path, ((), 0))
    missing = inputs - len(data)
    if 0 < missing <= len(unasked):
        data = [*data, *unasked[-missing:]]
    return {**document, "data": data}


def _named(data: Any) -> Iterator[str]:
    """The paths that a request's data names, whatever else it holds."""
    for files in data if isinstance(data, list) else ():
        for file in files if isinstance(files, list) else ():
            if isinstance(file, dict) and isinstance(file.get("path"), str):
                yield file["path"]
