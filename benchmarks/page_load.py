"""Many visitors of the page at once, hostile ones among them: who is answered, and how soon.

    python -m benchmarks.page_load [--visitors 50] [--requests 20] [--hostile 0.1]

The page is started as a program of its own. Each visitor sends films by HTTP, one after the other,
and compares each answer with the one that the film got when it was alone. A hostile request is one
of those of `HOSTILE`. At the end: what the page still holds on disk two seconds after the last
answer, and its memory as Linux tells it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from benchmarks.app_memory import draw_films, resident, running_app

_FILMS = 10


async def ask(client: httpx.AsyncClient, name: str, film: bytes) -> dict | str:
    """The film's entry in the answer, or the sentence of a refusal."""
    sent = await client.post("/gradio_api/upload", files={"files": (name, film)})
    if sent.status_code != 200:
        return sent.text
    return await call(client, [{"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}])


async def call(client: httpx.AsyncClient, files: list) -> dict | str:
    joined = await client.post("/gradio_api/call/predict", json={"data": [files]})
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
    answer = await ask(client, "broken.dcm", random.randbytes(100_000))
    return 400 if isinstance(answer, str) or "error" in answer else 200


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


HOSTILE: tuple[Callable[[httpx.AsyncClient], Awaitable[int]], ...] = (
    _large_json, _other_route, _other_host, _broken_film, _foreign_path, _gone,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--hostile", type=float, default=0.1, help="share of the requests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_app() as (process, address):
        films = [path.read_bytes() for path in draw_films(Path(folder), _FILMS)]
        counts, seconds, took = asyncio.run(visit(address, films, options, process))
        time.sleep(2)
        health = httpx.get(f"{address}health").json()
        rows = [(name, str(count)) for name, count in sorted(counts.items())]
        rows += [
            ("answers a second", f"{len(seconds) / took:.1f}"),
            ("an answer, median", f"{statistics.median(seconds):.1f} s"),
            ("an answer, slowest", f"{max(seconds):.1f} s"),
            ("most memory at any time", f"{resident(process, 'VmHWM'):.0f} MB"),
            ("health 2 s after the last answer", json.dumps(health)),
        ]
    for name, value in rows:
        print(f"{name:40}{value}")


async def visit(address, films, options, process) -> tuple[Counter, list[float], float]:
    """Counts of what became of the requests, seconds of each answer, and of all together."""
    counts: Counter[str] = Counter()
    seconds: list[float] = []
    async with httpx.AsyncClient(base_url=address, timeout=600) as client:
        right = [await ask(client, "alone.png", film) for film in films]
    print(f"{'memory when idle':40}{resident(process):.0f} MB", flush=True)

    async def visitor(number: int) -> None:
        drawn = random.Random(number)
        headers = {"Cookie": f"cft_visitor={number}"}
        async with httpx.AsyncClient(base_url=address, timeout=600, headers=headers) as client:
            for _ in range(options.requests):
                if drawn.random() < options.hostile:
                    kind = drawn.choice(HOSTILE)
                    try:
                        status = await kind(client)
                    except httpx.TransportError:  # the page hung up on it
                        status = 400
                    counts[f"hostile, {'refused' if status >= 400 else 'TAKEN'}"] += 1
                    continue
                which = drawn.randrange(len(films))
                name, began = f"{number}.png", time.perf_counter()
                try:
                    answer = await ask(client, name, films[which])
                except httpx.TransportError as error:
                    counts[f"LOST, {type(error).__name__}"] += 1
                    continue
                if isinstance(answer, str):
                    counts[f"refused: {answer[:60]}"] += 1
                    continue
                seconds.append(time.perf_counter() - began)
                is_right = same(answer, right[which]) and answer["file"] == name
                counts["answered rightly" if is_right else "WRONG"] += 1

    began = time.perf_counter()
    await asyncio.gather(*(visitor(number) for number in range(options.visitors)))
    return counts, seconds, time.perf_counter() - began


def same(one: dict, other: dict) -> bool:
    """Whether two answers are of the same film."""
    pairs = zip(one.get("findings", ()), other.get("findings", ()), strict=False)
    return bool(one.get("findings")) and all(
        a["label"] == b["label"] and abs(a["probability"] - b["probability"]) < 1e-4
        for a, b in pairs
    )


if __name__ == "__main__":
    main()
