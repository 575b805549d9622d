"""Many visitors of the page at once, hostile ones among them: who is answered, and how soon.

    python -m benchmarks.page_load [--visitors 50] [--requests 20] [--hostile 0.1]
                                   [--model FOLDER] [--side 1024] [--minutes M]

The page is started as a program of its own. Each visitor sends films by HTTP, one after the other,
and compares each answer with the one that the film got when it was alone. A hostile request is one
of those of `HOSTILE`. The page's memory, as Linux tells it, is printed on the way. At the end: what
the page still holds on disk two seconds after the last answer, and whether a name of a film stands
in what it wrote. Exit status 1 if a film got another's answer or none, a hostile request was taken,
an upload is left or a name was written.

Whether anything is mixed up, kept or lost does not depend on the network. For many requests, a
small one is enough::

    python -m train.negative --phantoms 80 --phantom-size 64 --arch test_resnet --image-size 64 \\
        --batch-size 16 --lr 0.01 --epochs 1 --device cpu --out /tmp/small
    python -m benchmarks.page_load --requests 1000 --model /tmp/small --side 256
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import httpx
import numpy as np

from benchmarks.app_memory import draw_films, resident, running_app

_FILMS = 10
_NAME = "Jane-Doe"  # begins the name of every film
_REPORTED = (100, 1_000, 10_000, 50_000)  # requests after which the memory is printed


async def ask(client: httpx.AsyncClient, name: str, film: bytes) -> dict | str:
    """The film's entry in the answer, or the sentence of a refusal."""
    sent = await client.post("/gradio_api/upload", files={"files": (name, film)})
    if sent.status_code != 200:
        return sent.text
    return await call(client, [{"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}])


async def call(client: httpx.AsyncClient, files: list, *more: str) -> dict | str:
    joined = await client.post("/gradio_api/call/predict", json={"data": [files, *more]})
    if joined.status_code != 200:
        return joined.json()["detail"]
    answer = (await client.get(f"/gradio_api/call/predict/{joined.json()['event_id']}")).text
    data = json.loads(answer.rpartition("data: ")[2])
    if "event: complete" not in answer:
        return str(data)
    return data[0]["films"][0]


async def _large_json(client: httpx.AsyncClient) -> int:
    body = b'{"data":[[' + b"{}," * 100_000 + b"{}]]}"
    return (await client.post("/gradio_api/queue/join", content=body)).status_code


async def _other_route(client: httpx.AsyncClient) -> int:
    files = {"file": ("a.mp4", bytes(2**20))}
    return (await client.post("/gradio_api/process_recording", files=files)).status_code


async def _other_host(client: httpx.AsyncClient) -> int:
    headers = {"Host": "evil", "Origin": "http://evil"}
    return (await client.get("/config", headers=headers)).status_code


async def _broken_film(client: httpx.AsyncClient) -> int:
    answer = await ask(client, f"{_NAME}.dcm", random.randbytes(100_000))
    return 400 if isinstance(answer, str) or "error" in answer else 200


async def _bomb(client: httpx.AsyncClient) -> int:
    """A few bytes that promise four gigapixels, under a name that leads elsewhere."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", 65_000, 65_000, 16, 6, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    data += struct.pack(">I", zlib.crc32(header)) + bytes(100)
    answer = await ask(client, f"../../{_NAME}\n.png", data)
    return 400 if isinstance(answer, str) or "error" in answer else 200


async def _nonsense(client: httpx.AsyncClient) -> int:
    """Words that stand for nothing, in place of an operating point and of the gate's."""
    sent = await client.post("/gradio_api/upload", files={"files": (_NAME, bytes(1000))})
    if sent.status_code != 200:
        return sent.status_code
    files = [{"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}]
    return 400 if isinstance(await call(client, files, "<b>" * 1000, "open"), str) else 200


async def _foreign_path(client: httpx.AsyncClient) -> int:
    answer = await call(client, [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}])
    return 400 if isinstance(answer, str) else 200


async def _gone(client: httpx.AsyncClient) -> int:
    """Uploads, asks, and leaves without a word."""
    sent = await client.post("/gradio_api/upload", files={"files": ("a.png", bytes(2**20))})
    if sent.status_code == 200:
        files = [{"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}]
        await client.post("/gradio_api/call/predict", json={"data": [files]})
    return 400


async def _endless(client: httpx.AsyncClient) -> int:
    """The beginning of a film whose end never comes, though the request is whole."""
    head = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{_NAME}"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    body = head.encode() + bytes(2**20)
    return (await client.post("/gradio_api/upload", content=body, headers=headers)).status_code


async def _no_answer(client: httpx.AsyncClient) -> int:
    """Asks for an answer that there is not; broken off, it would be a traceback in the log."""
    try:
        return (await client.get(f"/gradio_api/call/predict/{random.random()}")).status_code
    except httpx.TransportError:
        return 200


HOSTILE: tuple[Callable[[httpx.AsyncClient], Awaitable[int]], ...] = (
    _large_json, _other_route, _other_host, _broken_film, _bomb, _nonsense, _foreign_path, _gone,
    _endless, _no_answer,
)  # fmt: skip


@dataclass
class Outcome:
    """What became of the requests, and how many seconds each answer took."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Requests of which something is wrong; a film that is refused with a sentence is not."""
        return sum(count for name, count in self.counts.items() if name.split()[0].isupper())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--hostile", type=float, default=0.1, help="share of the requests")
    parser.add_argument("--model", help="model folder, or hf-hub:org/name@revision")
    parser.add_argument("--side", type=int, default=1024, help="pixels of a film's side")
    parser.add_argument("--minutes", type=float, help="send nothing more after so many")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        kept_below(Path(folder, "page")) as kept,
        running_app(options.model) as (process, address, written),
    ):
        paths = draw_films(Path(folder), _FILMS, options.side)
        films = [path.read_bytes() for path in paths]
        began = time.perf_counter()
        outcome = asyncio.run(visit(address, films, options, process))
        took = time.perf_counter() - began
        time.sleep(2)
        health = httpx.get(f"{address}health").json()
        left = [path for path in kept.rglob("*") if path.is_file()]
        named = sum(_NAME in line for line in written)
        median, most = np.quantile(outcome.seconds, (0.5, 0.95))
        rows = [(name, str(count)) for name, count in sorted(outcome.counts.items())]
        rows += [
            ("answers a second", f"{len(outcome.seconds) / took:.1f}"),
            ("an answer, median", f"{median:.1f} s"),
            ("an answer, 95th percentile", f"{most:.1f} s"),
            ("an answer, slowest", f"{max(outcome.seconds):.1f} s"),
            ("most memory at any time", f"{resident(process, 'VmHWM'):.0f} MB"),
            ("lines written; with a film's name", f"{len(written)}; {named}"),
            ("files left 2 s after the last answer", str(len(left))),
            ("health then", json.dumps(health)),
        ]
    for name, value in rows:
        print(f"{name:40}{value}")
    return 1 if outcome.faults or named or left else 0


@contextmanager
def kept_below(folder: Path) -> Iterator[Path]:
    """Have the page write its files below a folder of ours."""
    folder.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield folder
    finally:
        del os.environ["GRADIO_TEMP_DIR"]


async def visit(address, films, options, process) -> Outcome:
    """Send what the options ask for, every visitor at once."""
    outcome = Outcome()
    async with httpx.AsyncClient(base_url=address, timeout=600) as client:
        right = [await ask(client, f"{_NAME}.png", film) for film in films]
    for answer in right:
        if not isinstance(answer, dict) or "findings" not in answer:
            raise SystemExit(f"the page answered a film that was alone: {answer}")
    if any(same(one, other) for one, other in combinations(right, 2)):
        raise SystemExit("two of the films have the same answer: a mistake would not be seen")
    print(f"{'memory when idle':40}{resident(process):.0f} MB", flush=True)

    until = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")

    async def visitor(number: int) -> None:
        drawn = random.Random(number)
        headers = {"Cookie": f"cft_visitor={number}"}
        async with httpx.AsyncClient(base_url=address, timeout=600, headers=headers) as client:
            for _ in range(options.requests):
                if time.monotonic() > until:
                    break
                if drawn.random() < options.hostile:
                    outcome.counts[await attack(client, drawn.choice(HOSTILE))] += 1
                else:
                    which = drawn.randrange(len(films))
                    name, began = f"{_NAME}-{number}.png", time.perf_counter()
                    found = await judge(client, name, films[which], right[which])
                    outcome.counts[found] += 1
                    if found == _RIGHT:
                        outcome.seconds.append(time.perf_counter() - began)
                if (done := outcome.counts.total()) in _REPORTED:
                    what = f"memory after {done:,} requests"
                    print(f"{what:40}{resident(process):.0f} MB", flush=True)

    await asyncio.gather(*(visitor(number) for number in range(options.visitors)))
    return outcome


_RIGHT = "answered rightly"


async def judge(client: httpx.AsyncClient, name: str, film: bytes, right: dict) -> str:
    """What becomes of a film, in words; capitals where it should not."""
    try:
        answer = await ask(client, name, film)
    except httpx.TransportError as error:
        return f"LOST, {type(error).__name__}"
    if isinstance(answer, str):
        return f"refused: {answer[:60]}"
    return _RIGHT if same(answer, right) and answer["file"] == name else "WRONG answer"


async def attack(
    client: httpx.AsyncClient, kind: Callable[[httpx.AsyncClient], Awaitable[int]]
) -> str:
    """What becomes of a hostile request, in words; capitals where it is not refused."""
    try:
        status = await kind(client)
    except httpx.TransportError:  # the page hung up on it
        status = 400
    return "hostile, refused" if status >= 400 else f"TAKEN, {kind.__name__.strip('_')}"


def same(one: dict, other: dict) -> bool:
    """Whether two answers are of the same film."""
    pairs = zip(one.get("findings", ()), other.get("findings", ()), strict=False)
    return bool(one.get("findings")) and all(
        a["label"] == b["label"] and abs(a["probability"] - b["probability"]) < 1e-4
        for a, b in pairs
    )


if __name__ == "__main__":
    sys.exit(main())
