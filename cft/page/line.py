"""The line of requests that wait for the model: how long it is, in seconds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

#: Who would have to wait longer is told so instead. Browsers and patience end soon after.
LONGEST_WAIT = 120.0

# Seconds for a film until some were measured, and how much the latest request counts.
_FIRST_GUESS, _LATEST = 0.3, 0.2

_SOONEST = 5.0  # seconds, so that nobody asks all the time


class Line:
    """What waits, by request, and how fast it goes.

    Parameters
    ----------
    is_alive
        Whether a request, by its id, still waits or runs.
    """

    def __init__(self, is_alive: Callable[[str], bool] = lambda request: True):
        self.is_alive = is_alive
        self._films: dict[str, int] = {}
        self._seconds_per_film = _FIRST_GUESS
        self._lock = threading.Lock()

    def joined(self, request: str, films: int) -> None:
        """A request with so many films waits from now on."""
        with self._lock:
            self._films[request] = max(1, films)

    def seconds(self) -> float:
        """How long it will take until all that waits or runs has been answered."""
        with self._lock:
            self._films = {r: films for r, films in self._films.items() if self.is_alive(r)}
            return sum(self._films.values()) * self._seconds_per_film

    def refusal(self) -> str:
        """The sentence for who would have to wait too long; empty if nobody has to."""
        seconds = self.seconds()
        if seconds <= LONGEST_WAIT:
            return ""
        return (
            f"The page is busy: films for about {seconds / 60:.0f} minutes wait already. "
            "Try again when some of them have been read. None of yours was read."
        )

    def seconds_until_taken(self) -> float:
        """When who was refused may come back: a part of what waits has been answered then."""
        return max(_SOONEST, self.seconds() - LONGEST_WAIT)

    @contextlib.contextmanager
    def timed(self, films: int) -> Iterator[None]:
        """Measure how long some films take."""
        began = time.perf_counter()
        try:
            yield
        finally:
            took = (time.perf_counter() - began) / max(1, films)
            with self._lock:
                self._seconds_per_film += _LATEST * (took - self._seconds_per_film)
