"""The page as a program of its own, and what a visitor without a browser asks of it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx


class Page:
    """A program that prints the address at which it serves the page.

    Attributes
    ----------
    address
        Without a slash at the end.
    said
        What it printed; all of it once it has ended.
    status
        Its exit status; None while it runs.
    """

    def __init__(self, command: Sequence[str], cwd: Path, env: dict[str, str]):
        self.address, self.said, self.status = "", "", None
        self._process = subprocess.Popen(
            command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._heard = threading.Event()  # the address, or the end
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._process.stdout:
            self.said += line
            found = re.search(r"http://[^/\s]+", line)
            if found and not self.address:
                self.address = found[0]
                self._heard.set()
        self._heard.set()

    def wait(self, seconds: float) -> None:
        """Until it serves.

        Raises
        ------
        AssertionError
            If it ends instead, or says nothing for so long.
        """
        heard = self._heard.wait(seconds)
        assert heard, f"no address after {seconds} s; it said: {self.said}"
        assert self.address, f"it ended without an address; it said: {self.said}"

    def stop(self) -> None:
        """End it as a Space's machine does, or by force if it does not listen."""
        self._process.terminate()
        try:
            self.status = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.status = self._process.wait()
        self._listener.join(60)


@contextlib.contextmanager
def running(
    command: Sequence[str], cwd: Path, env: dict[str, str], seconds: float = 180
) -> Iterator[Page]:
    """The page, serving; it ends with the block."""
    page = Page(command, cwd, env)
    try:
        page.wait(seconds)
        yield page
    finally:
        page.stop()


def predict(address: str, film: Path) -> dict:
    """The answer of a page's API, asked with nothing but HTTP."""
    with film.open("rb") as file:
        uploaded = httpx.post(f"{address}/gradio_api/upload", files={"files": file}).json()
    film_data = {"path": uploaded[0], "meta": {"_type": "gradio.FileData"}}
    call = f"{address}/gradio_api/call/predict"
    event = httpx.post(call, json={"data": [[film_data]]}).json()["event_id"]
    lines = httpx.get(f"{call}/{event}", timeout=60).text.splitlines()
    assert lines[0] == "event: complete", lines
    return json.loads(lines[1].removeprefix("data: "))[0]


def example(address: str) -> str:
    """What the page shows after a click on the button for the example film."""
    call = f"{address}/gradio_api/call/example"
    event = httpx.post(call, json={"data": []}).json()["event_id"]
    lines = httpx.get(f"{call}/{event}", timeout=60).text.splitlines()
    assert lines[0] == "event: complete", lines
    return json.loads(lines[1].removeprefix("data: "))[0]


def assert_whole(address: str) -> None:
    """The page has its templates, its style sheet and its example film."""
    front = httpx.get(address).text
    assert "Not a medical device." in front
    assert "nothing is kept on the server" in front
    assert ".by-finding" in front
    assert "Synthetic example film" in example(address)
