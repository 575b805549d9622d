"""``cft serve``: start the page."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_OF_THE_EXTRA = ("gradio", "jinja2")


def main(arguments: Sequence[str]) -> int:
    """Serve the page until interrupted; returns the exit status."""
    try:
        from cft.page import start

        return start.main(arguments, "cft serve")
    except ModuleNotFoundError as error:
        if error.name not in _OF_THE_EXTRA:
            raise
        print('cft serve: the page needs the extra: pip install "cft[page]"', file=sys.stderr)
        return 1
