"""``python app.py``: time to its first answer, time per film, and the memory it takes.

    python -m benchmarks.app_memory [--films 50] [--dropped 200] [--model FOLDER]

The page is started as a program of its own with the model that it would serve (``--model``, else
``CFT_MODEL``, else the bundled one). Each film is a drawn one, 1024 x 1024, 8-bit PNG, sent by
Gradio's own client, so that the time per film holds the upload and the queue. Then one visitor
drops many films at once, as the page does: a row of the matrix for each, three under way at a time.
Memory is that of the process as Linux tells it (``/proc/PID/status``, resident).
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
from gradio_client import Client, handle_file
from PIL import Image

from cft.model.hub import ENVIRONMENT_VARIABLE
from train.datasets.phantom_drawing import draw_phantom

ROOT = Path(__file__).resolve().parent.parent

_AT_ONCE = 3  # as in cft/page/batch.js


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--films", type=int, default=50)
    parser.add_argument("--dropped", type=int, default=200)
    parser.add_argument("--model", help="model folder, or hf-hub:org/name@revision")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        films = draw_films(Path(folder), max(options.films, options.dropped))
        began = time.perf_counter()
        with running_app(options.model) as (process, address, _):
            healthy = time.perf_counter() - began
            rows = [("start to healthy", healthy, "s"), ("memory then", resident(process), "MB")]
            client = Client(address, verbose=False)
            seconds = [predict(client, film) for film in films[: options.films]]
            rows += [
                ("first film", 1000 * seconds[0], "ms"),
                (f"a film, median of {options.films}", 1000 * statistics.median(seconds), "ms"),
                (f"memory after {options.films} films", resident(process), "MB"),
            ]
            began = time.perf_counter()
            size = drop(address, films[: options.dropped])
            took = time.perf_counter() - began
            rows += [
                (f"{options.dropped} films dropped on the page", took, "s"),
                ("size of a row, mean", size / options.dropped / 1e3, "kB"),
                ("memory after them", resident(process), "MB"),
                ("most memory at any time", resident(process, "VmHWM"), "MB"),
            ]
    for name, value, unit in rows:
        print(f"{name:32}{value:10.1f} {unit}")


def draw_films(folder: Path, count: int, side: int = 1024) -> list[Path]:
    """PNG files of films that differ, of so many pixels a side."""
    drawn = [draw_phantom((), side, np.random.default_rng(seed)) for seed in range(5)]
    paths = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.fromarray(np.roll(drawn[number % len(drawn)], number, axis=1)).save(path)
        paths.append(path)
    return paths


@contextmanager
def running_app(
    model: str | None = None,
) -> Iterator[tuple[subprocess.Popen, str, list[str]]]:
    """The page as a program of its own, once it answers: process, address, and what it writes.

    Parameters
    ----------
    model
        Folder or name on the Hub; None for the model that the page would serve.
    """
    environment = os.environ | ({ENVIRONMENT_VARIABLE: model} if model else {})
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    written: list[str] = []
    try:
        address = None
        while not address:
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the page did not start:\n" + "".join(written))
            written.append(line)
            address = re.search(r"http://\S+", line)
        # Somebody has to read on, or the page waits when the pipe is full.
        Thread(target=lambda: written.extend(process.stdout), daemon=True).start()
        httpx.get(address.group()).raise_for_status()
        yield process, address.group(), written
    finally:
        process.terminate()
        process.wait()


def predict(client: Client, film: Path) -> float:
    """Seconds from file to answer."""
    began = time.perf_counter()
    client.predict([handle_file(film)], api_name="/predict")
    return time.perf_counter() - began


def drop(address: str, films: list[Path]) -> int:
    """Do what the page does when films are dropped; gives the size of all answers in bytes."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return sum(pool.map(partial(row, f"{address}gradio_api"), films))


def row(api: str, film: Path) -> int:
    """Ask for the row of a film; gives the size of the answer in bytes."""
    (path,) = httpx.post(f"{api}/upload", files={"files": film.read_bytes()}, timeout=600).json()
    data = [[{"path": path, "meta": {"_type": "gradio.FileData"}}]]
    joined = httpx.post(f"{api}/call/row", json={"data": data}, timeout=600).raise_for_status()
    answer = httpx.get(f"{api}/call/row/{joined.json()['event_id']}", timeout=600).text
    if "event: complete" not in answer:
        raise SystemExit(f"the page answered {answer[:500]}")
    return len(answer)


def resident(process: subprocess.Popen, entry: str = "VmRSS") -> float:
    """Memory in MB: now (VmRSS) or the most so far (VmHWM)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"{entry}:\s+(\d+) kB", status).group(1)) / 1000


if __name__ == "__main__":
    main()
