"""What stands before the page's routes: who is answered, by which of them, and what may be sent.

`Gate` is an ASGI application around another. It lets through what `cft.page.routes` lists and
answers everything else with 404. Nothing here imports Gradio.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

from cft.page.addresses import Addresses
from cft.page.asgi import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    Stop,
    drain,
    headers_of,
    parsed,
    paths_in,
    replayed,
    reply,
    sized,
    timed,
    whole,
)
from cft.page.line import Line
from cft.page.routes import (
    ANSWERS,
    CALL,
    CALLS,
    HEALTH,
    JOIN,
    UPLOAD,
    asked_for,
    completed,
    is_allowed,
)
from cft.page.uploads import Refused, Transfer, Uploads

__all__ = ["Gate"]

#: Takes an upload that arrives: (scope, its counted body, where it belongs) -> (status, document).
Intake = Callable[[Scope, Receive, Transfer], Awaitable[tuple[int, Any]]]

_MAX_ADDRESS = 2048  # bytes of path and query, which Gradio keeps as ids
_MAX_OPEN = 500  # requests at a time, those that wait for an answer among them
_BODY_SECONDS, _UPLOAD_SECONDS = 30.0, 300.0
_LATER = 10.0  # seconds after which who found no room may ask again

_COOKIE = "cft_visitor"

_SELF_TEST = {True: "passed", False: "failed", None: "not possible"}


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
        except Stop as stop:
            await reply(send, stop.status, {"detail": stop.sentence}, stop.seconds)
        except Refused as refused:
            await reply(send, 503, {"detail": str(refused)}, _LATER)
        finally:
            self._open -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, request = headers_of(scope), (scope["method"], scope["path"])
        refusal = self.addresses.refusal(headers.get("host"), headers.get("origin"))
        if refusal:
            raise Stop(403, refusal)
        if not is_allowed(*request):
            raise Stop(404, "There is nothing here.")
        if len(scope["path"]) + len(scope["query_string"]) > _MAX_ADDRESS:
            raise Stop(414, "The address is too long.")
        if request == ("GET", HEALTH):
            await self._health(send)
        elif self._open > _MAX_OPEN:
            raise Stop(503, "Too many requests are open: try again in a few minutes.", _LATER)
        elif request == ("POST", UPLOAD):
            await self._upload(scope, receive, send, headers)
        elif scope["method"] == "POST":
            await self._json(scope, receive, send)
        elif scope["path"].startswith((ANSWERS, CALL)):
            await self._stream(scope, receive, send)
        else:
            await self.app(scope, receive, self._with_cookie(scope, headers, send))

    async def _health(self, send: Send) -> None:
        runs, health = self.queue_runs(), self.uploads.health()
        health["ok"] = health["ok"] and runs and self.self_test_passed is not False
        health["self_test"] = _SELF_TEST[self.self_test_passed]
        health |= {"queue_runs": runs, "seconds_to_wait": round(self.line.seconds(), 1)}
        await reply(send, 200 if health["ok"] else 503, health)

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
        body, is_whole = timed(receive, _UPLOAD_SECONDS), False
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
            await drain(body)
        await reply(send, status, document, later)

    # --------------------------------------------------------------------------- answers

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that comes in pieces.

        Gradio would break it off, with some hundred lines in the log, where there is nothing to
        answer, and where a session is forgotten while a second one listens to it.
        """
        asked = asked_for(scope)
        if asked is not None and not self.has_answer(asked):
            raise Stop(404, "There is no such request, or its answer was fetched or forgotten.")
        try:
            await self.app(scope, receive, send)
        except RuntimeError as error:  # Starlette's: the answer had begun
            if getattr(error.__cause__, "status_code", None) != 404:
                raise
            await send({"type": "http.response.body", "body": b""})

    # ------------------------------------------------------------------- requests of JSON

    async def _json(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await whole(timed(receive, _BODY_SECONDS))
        document = parsed(body)
        if scope["path"] != JOIN and scope["path"] not in CALLS:
            await self.app(scope, replayed(body, receive), send)
            return
        document = completed(scope["path"], document)
        body = json.dumps(document).encode()
        paths = list(paths_in(document.get("data")))
        joined = False
        try:
            self._check_event(scope["path"], document)
            refusal = self.line.refusal()
            if refusal:
                body = self._refusing(scope["path"], document, refusal)
            request = await self._join(sized(scope, body), replayed(body, receive), send)
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
            raise Stop(404, "The page has no such event.")

    def _refusing(self, path: str, document: dict[str, Any], sentence: str) -> bytes:
        """The request that shows a sentence where the answer to this one would have stood."""
        index = document.get("fn_index")
        if path != JOIN or index not in self.refusers:
            raise Stop(503, sentence, self.line.seconds_until_taken())
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


def _cookie(headers: dict[str, str]) -> str:
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[_COOKIE].value[:64] if _COOKIE in cookies else ""
