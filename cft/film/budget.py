"""How much is decoded at once: over all threads, at most one film of the largest size.

A reader holds its film's pixels of the budget while it decodes. Who works on with the film at its
full size, as a classifier does until the network's input is made, holds them to the end of that by
`one_film`.
"""

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
        self._of_thread = threading.local()

    @contextlib.contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels of it for the block; wait until they are free."""
        self._give_back_kept()  # a thread that waits holds nothing, so that all go on in the end
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
            if self._kept is None:
                self._give_back(pixels)
            else:
                self._of_thread.kept = pixels

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """What this thread takes within the block is given back at its end, or for the next film.

        Blocks of one thread do not lie within each other.
        """
        self._of_thread.kept = 0
        try:
            yield
        finally:
            self._give_back_kept()
            self._of_thread.kept = None

    @property
    def _kept(self) -> int | None:
        """Pixels that this thread holds beyond its decoder; None outside of `kept`."""
        return getattr(self._of_thread, "kept", None)

    def _give_back_kept(self) -> None:
        if self._kept:
            self._give_back(self._kept)
            self._of_thread.kept = 0

    def _give_back(self, pixels: int) -> None:
        with self._changed:
            self._left = min(self._left + pixels, self._all)  # a fork may have freed it before
            self._changed.notify_all()


#: What the reader holds to. A decoder needs up to 12 bytes a pixel, so this is some 0.8 GB.
DECODING = Budget(MAX_PIXELS)

# Films that threads may read or hold at a time: a file has up to 50 MB before it is decoded.
_FILMS = Budget(max(4, os.cpu_count() or 1))

if hasattr(os, "register_at_fork"):
    for _budget in (DECODING, _FILMS):
        os.register_at_fork(after_in_child=_budget.reset)


@contextlib.contextmanager
def one_film() -> Iterator[None]:
    """Read a film and work on it at its full size, in the block.

    Whatever the number of threads, and of those who call, no more files are read at a time than
    there are processors (at least four), and their films have no more pixels than `DECODING`.
    """
    with _FILMS.of(1), DECODING.kept():
        yield
