"""Which paths of Gradio's the page needs, and what the calls among them take.

What a new version of Gradio adds is closed until it is listed here.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from cft.page.asgi import Scope

__all__ = [
    "ANSWERS",
    "CALL",
    "CALLS",
    "HEALTH",
    "JOIN",
    "UPLOAD",
    "asked_for",
    "completed",
    "is_allowed",
]

_API = "/gradio_api"
UPLOAD, JOIN, CALL = f"{_API}/upload", f"{_API}/queue/join", f"{_API}/call"
ANSWERS = f"{_API}/queue/data"
HEALTH = "/health"

#: What programs may call, by its path -> its last inputs, as they are if nothing is asked for, and
#: how many inputs it has.
CALLS: dict[str, tuple[tuple[str, ...], int]] = {
    # The page's own.
    f"{CALL}/film": ((), 1),
    f"{CALL}/row": (("",), 2),  # the salt of the DICOM study's hash
    f"{CALL}/example": ((), 0),
    f"{CALL}/together": ((), 2),
    # What is documented.
    f"{CALL}/predict": (("", "refuse"), 3),  # operating points, what is done with refused films
    f"{CALL}/predict_study": (("one", "", "refuse"), 4),  # which films are a study, and the same
    f"{CALL}/compare": (("", "refuse"), 4),
    f"{CALL}/heatmap": (("refuse",), 3),
    f"{CALL}/gate": ((), 1),
    f"{CALL}/models": ((), 0),
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
        ("GET", f"{_API}/upload_progress"), ("POST", JOIN), ("GET", ANSWERS),
        ("POST", f"{_API}/cancel"), ("POST", f"{_API}/reset"),
        *(("POST", call) for call in CALLS), *(("GET", f"{call}/*") for call in CALLS),
    }
)  # fmt: skip


def is_allowed(method: str, path: str) -> bool:
    """Whether a request is let through to the routes."""
    if (method, path) in ALLOWED:
        return True
    return any(
        method == m and p.endswith("*") and path.startswith(p[:-1]) and len(path) >= len(p)
        for m, p in ALLOWED
    )


def asked_for(scope: Scope) -> str | None:
    """The session or the request whose answer is asked for; None if none is named."""
    if scope["path"] != ANSWERS:
        return scope["path"].rpartition("/")[2]
    named = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return named.get("session_hash", [None])[-1]


def completed(path: str, document: dict[str, Any]) -> dict[str, Any]:
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
