"""``python -m tests.screenshot``: draw ``docs/page.png``, the README's picture of the page.

It shows the synthetic example film: no picture of a patient is ever committed.
"""

from __future__ import annotations

import io
import sys

from PIL import Image

import cft
from cft.files import atomic_write
from cft.page import server
from tests.chromium import chromium
from tests.conftest import ROOT

_LIMIT = 300_000


def main() -> int:
    """Draw the picture; returns the exit status."""
    with server.serve(cft.load()) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        page.goto(address)
        page.click("#example")
        page.wait_for_selector("#answer table")
        height = page.locator("#answer").bounding_box()["height"] + 170
        page.set_viewport_size({"width": 1280, "height": int(height)})
        page.wait_for_timeout(500)  # the progress veil fades
        shot = Image.open(io.BytesIO(page.screenshot()))
    encoded = io.BytesIO()
    shot.convert("RGB").quantize(128).save(encoded, format="PNG", optimize=True)
    if encoded.tell() > _LIMIT:
        print(f"the picture has {encoded.tell()} bytes, more than {_LIMIT}", file=sys.stderr)
        return 1
    target = ROOT / "docs" / "page.png"
    target.parent.mkdir(exist_ok=True)
    atomic_write(target, encoded.getvalue())
    print(f"{target}: {encoded.tell()} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
