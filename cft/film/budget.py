"""How much is decoded at once: over all threads, at most one film of the largest size."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator

from cft.film.radiograph import MAX_PIXELS


class Budget:
    """Pixels that threads may decode at the same time; whoever asks first is served first.

    Parameters
    ----------
    pixels
        The sum. A film that needs more than all of it is decoded alone.
    """

    def __init__(self, pixels: int):
        self._all = pixels
        self.reset()

    def reset(self) -> None:
        """All of it is free: so it is in a process that was forked while threads decoded."""
        self._left = self._all
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels of it for the block; wait until they are free."""
        pixels, turn = min(pixels, self._all), object()
        with self._changed:
            self._waiting.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is turn and pixels <= self._left)
                self._left -= pixels
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


#: What the reader holds to. A decoder needs up to 12 bytes a pixel, so this is some 0.8 GB.
DECODING = Budget(MAX_PIXELS)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DECODING.reset)
