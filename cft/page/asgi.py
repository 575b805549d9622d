"""Requests and answers as ASGI hands them over: bodies with limits, replies with a sentence.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

__all__ = [
    "App",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "Stop",
    "drain",
    "headers_of",
    "parsed",
    "paths_in",
    "replayed",
    "reply",
    "sized",
    "timed",
    "whole",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# A request for 20 films has some 10 kB and 250 values.
_MAX_BODY = 128 * 1024
_MAX_VALUES = 2000
_DRAINED = 256 * 2**20  # of an upload that is refused, so that the sentence arrives


class Stop(Exception):
    """Answer with a status and a sentence, and read no further.

    `seconds`: when to ask again, of what will be answered then.
    """

    def __init__(self, status: int, sentence: str, seconds: float | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.seconds = status, sentence, seconds


def headers_of(scope: Scope) -> dict[str, str]:
    """Name in lower case -> value."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def reply(send: Send, status: int, document: Any, later: float | None = None) -> None:
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


def timed(receive: Receive, seconds: float) -> Receive:
    """Receive a body that has to be there in so many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def receiving() -> Message:
        try:
            return await asyncio.wait_for(receive(), max(0.001, end - loop.time()))
        except asyncio.TimeoutError:
            raise Stop(408, f"The request took longer than {seconds:.0f} seconds.") from None

    return receiving


async def whole(receive: Receive) -> bytes:
    """A body of at most `_MAX_BODY` bytes; not a byte more than a chunk is read of a longer one."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Stop(400, "The request broke off.")
        body += message.get("body", b"")
        if len(body) > _MAX_BODY:
            raise Stop(413, f"The request is longer than {_MAX_BODY // 1024} kB.")
        if not message.get("more_body"):
            return bytes(body)


async def drain(receive: Receive) -> None:
    """Read on, and keep nothing, so that the sender comes to read the answer."""
    left = _DRAINED
    while left > 0:
        try:
            message = await receive()
        except Stop:
            return
        left -= len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


def replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, once more; afterwards what comes."""
    messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receiving() -> Message:
        return next(messages, None) or await receive()

    return receiving


def sized(scope: Scope, body: bytes) -> Scope:
    """The scope of a request whose body may be another by now."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}


def parsed(body: bytes) -> dict[str, Any]:
    """The object that a body holds, of at most `_MAX_VALUES` values."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Stop(400, "The request is not JSON.") from None
    if not isinstance(document, dict):
        raise Stop(400, "The request is not a JSON object.")
    values, left = [document], _MAX_VALUES
    while values:
        value = values.pop()
        inside = list(value.values()) if isinstance(value, dict) else value
        if isinstance(inside, list):
            left -= len(inside)
            if left < 0:
                raise Stop(413, "The request names more files than are answered.")
            values += inside
    return document


def paths_in(data: Any) -> Iterator[str]:
    """The paths that a request's data names, whatever else it holds."""
    for files in data if isinstance(data, list) else ():
        for file in files if isinstance(files, list) else ():
            if isinstance(file, dict) and isinstance(file.get("path"), str):
                yield file["path"]
