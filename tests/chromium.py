"""Debian's Chromium without a screen, for the browser tests and the README's picture."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path

PATH = Path("/usr/bin/chromium")

# Without the switches for the background Chromium looks for its maker's hosts at every start.
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# A machine whose cores are busy with other things answers late, but it does.
_MILLISECONDS = 180_000

_DROP = """
(zone, files) => {
  const transfer = new DataTransfer();
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  for (const type of ["dragenter", "dragover", "drop"]) {
    zone.dispatchEvent(
      new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true })
    );
  }
}
"""


@contextlib.contextmanager
def chromium() -> Iterator:
    """A playwright ``Browser``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PATH, args=_FLAGS)
        yield browser
        browser.close()


def drop(page, films: list[tuple[str, bytes]]) -> None:
    """Drag and drop files onto the page, and wait for the answer: the film, or all rows.

    Parameters
    ----------
    page
        A playwright ``Page`` that shows the app.
    films
        Name and content of each file.
    """
    page.set_default_timeout(_MILLISECONDS)
    page.locator("#drop").evaluate(
        _DROP, [[name, base64.b64encode(data).decode()] for name, data in films]
    )
    page.wait_for_selector("#many.done" if len(films) > 1 else "#answer [role=status]")
