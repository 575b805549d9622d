"""Gradio's queue, kept alive and small: what nobody fetches is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

__all__ = ["UNHEARD_SECONDS", "forget_unheard", "harden"]

#: An answer that nobody has begun to fetch by then is forgotten.
UNHEARD_SECONDS = 60


def harden(demo: Any) -> None:
    """Keep Gradio's queue alive and small.

    A message to a visitor who has just left is a KeyError that ends the queue for everybody; and
    figures about the last 10,000 requests, which nobody sees, are computed after each.
    """
    queue = demo._queue
    send = queue.send_message

    def send_if_there(event: Any, message: Any) -> None:
        if event.session_hash in queue.pending_messages_per_session:
            send(event, message)

    setattr(queue, "send_message", send_if_there)  # noqa: B010, a method
    queue.ANALYTICS_MAX_EVENTS, queue.ANAYLTICS_CACHE_FREQUENCY = 1, sys.maxsize


async def forget_unheard(demo: Any, statuses: Any) -> None:
    """Forget what nobody fetches: Gradio would keep 2,000 answers, films and all, for ever.

    And of each session, answered or not, an entry.

    `statuses` is its ``file_upload_statuses``.
    """
    since: dict[str, float] = {}  # when it was first seen that an answer waits
    while True:
        await asyncio.sleep(UNHEARD_SECONDS / 12)
        with contextlib.suppress(Exception):  # whatever it is, the next time may succeed
            since = await _forget_once(demo._queue, since)
        if len(statuses._signals) > 1000:  # kept for each id that was ever asked for
            statuses._signals.clear()


def _forget_answered(queue: Any) -> None:
    """Forget sessions that have all their answers, or whose answers can no longer be fetched."""
    waiting = queue.pending_messages_per_session
    for name, events in list(queue.pending_event_ids_session.items()):
        is_lost = name not in waiting and not any(map(queue.event_ids_to_events.get, events))
        if not events or is_lost:
            waiting.pop(name, None)
            queue.pending_event_ids_session.pop(name, None)


async def _forget_once(queue: Any, since: dict[str, float]) -> dict[str, float]:
    _forget_answered(queue)
    waiting, now = queue.pending_messages_per_session, asyncio.get_running_loop().time()
    unheard = [name for name, messages in list(waiting.items()) if not messages.empty()]
    since = {name: since.get(name, now) for name in unheard}
    for name, began in since.items():
        if now - began > UNHEARD_SECONDS:
            waiting.pop(name, None)
            await queue.clean_events(session_hash=name)
            queue.pending_event_ids_session.pop(name, None)
    return since
