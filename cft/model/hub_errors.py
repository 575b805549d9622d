"""Faults of the Hugging Face Hub: which may pass, how long to wait, what to tell the user."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

#: Answers that may be different a little later.
TRANSIENT = {408, 429, 500, 502, 503, 504}

# How often to ask, and the longest wait between, in seconds: the Hub counts requests in windows of
# five minutes.
_TRIES = 5
_LONGEST_WAIT = 300.0
_LONG_WAIT = 5.0  # from here on the user is told
_TOLD_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})\b")
T = TypeVar("T")


def patiently(call: Callable[[], T], reconnect: bool = True) -> T:
    """Call, and call again after a fault that may pass: a full or failing server, a cut line.

    Parameters
    ----------
    call
        Something that asks the Hub and may be repeated.
    reconnect
        False where there is something to go on with: do not try again if the Hub cannot be reached
        at all, and do not wait for long.

    Raises
    ------
    Exception
        The last fault: at once if it will not pass or the server asks for a wait of more than five
        minutes, else after five tries.
    """
    longest = _LONGEST_WAIT if reconnect else _LONG_WAIT
    for number in range(1, _TRIES + 1):
        try:
            return call()
        except Exception as error:
            status, asked = _status(error), _asked_wait(error)
            wait = 2.0 ** (number - 1) if asked is None else asked
            hopeless = not is_transient(error) or (status is None and not reconnect)
            if number == _TRIES or hopeless or wait > longest:
                raise
            level = logging.INFO if wait < _LONG_WAIT else logging.WARNING
            reason = f"error {status}" if status else "no answer"
            logger.log(level, "the Hub: %s; trying again in %g s", reason, wait)
        time.sleep(wait)
    raise AssertionError("unreachable")


def _asked_wait(error: BaseException) -> float | None:
    """Seconds that the server asks to wait: the usual header, or the Hub's own on its limits."""
    response = getattr(_origin(error), "response", None)
    headers = {} if response is None else response.headers
    limit = re.search(r";\s*r=0\s*;\s*t=(\d+)", headers.get("RateLimit", ""))
    asked = limit[1] if limit else headers.get("Retry-After", "").strip()
    return float(asked) if asked.isascii() and asked.isdigit() else None


def _origin(error: BaseException) -> BaseException:
    """What happened on the line: the client wraps such errors into others."""
    from huggingface_hub.errors import HTTPError

    while error.__cause__ is not None and not isinstance(error, HTTPError):
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    """The status of the answer that an error is about; None if there was no answer."""
    cause = _origin(error)
    status = getattr(getattr(cause, "response", None), "status_code", None)
    # What the client transfers by `hf_xet` fails with a text alone.
    told = isinstance(cause, ConnectionError) and _TOLD_STATUS.search(str(cause))
    return int(told[1]) if told else status


def is_transient(error: Exception) -> bool:
    """Whether a fault may pass: the same may be answered a little later."""
    from huggingface_hub.errors import HTTPError

    status = _status(error)
    if status is not None:
        return status in TRANSIENT
    return isinstance(_origin(error), (HTTPError, ConnectionError, TimeoutError))


def is_known(error: Exception) -> bool:
    """Whether an error is one of the line, the Hub or the disk, and not a mistake of ours."""
    from huggingface_hub.errors import HTTPError

    return isinstance(_origin(error), (HTTPError, OSError, ValueError, RuntimeError))


def explain(error: Exception, what: str) -> str:
    """One sentence for the user on an error of the Hub, of the line or of the disk.

    Parameters
    ----------
    error
        What `huggingface_hub` raised.
    what
        The repository, with its revision if there is one.
    """
    from huggingface_hub import constants, errors

    cause, status = _origin(error), _status(error)
    by_kind = {
        errors.GatedRepoError: f"{what} is gated: accept its conditions on its page on the Hub",
        errors.RevisionNotFoundError: f"the Hub has no revision {what}",
        errors.DisabledRepoError: f"the Hub has disabled {what}",
        errors.RepositoryNotFoundError: (
            f"the Hub has no {what}, or it is private and this account may not see it; check the "
            "name, or log in with `hf auth login`"
        ),
        errors.OfflineModeIsEnabled: (
            f"HF_HUB_OFFLINE is set, so {what} cannot be reached; unset it"
        ),
        errors.LocalTokenNotFoundError: (
            "nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN"
        ),
    }
    for kind, sentence in by_kind.items():
        if isinstance(cause, kind):
            return sentence
    asked = _asked_wait(error)
    later = "later" if asked is None else f"in {asked:g} s"
    changed = f"{what} was changed by someone else meanwhile; look at it and try again"
    by_status = {
        401: f"the Hub does not accept the login for {what}; run `hf auth login` again",
        403: f"this account may not do that with {what}; its token needs the right to",
        404: f"the Hub has no {what}",
        409: changed,
        412: changed,
        429: f"the Hub asks for patience (too many requests) with {what}; try again {later}",
    }
    if status is not None:
        plain = f"the Hub answers {what} with error {status}; try again {later}"
        return by_status.get(status, plain)
    if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
        return f"{what} cannot be kept in {constants.HF_HUB_CACHE} ({cause.strerror})"
    if is_transient(error):
        return (
            f"the Hub ({constants.ENDPOINT}) cannot be reached, or the line was cut, for {what}; "
            "check the network and try again"
        )
    return f"the Hub's answer for {what} cannot be understood ({type(cause).__name__})"
