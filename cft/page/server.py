"""The page: drop chest X-rays, see findings. Here it is started and served.

`cft.page.blocks` wires it; what it shows is computed by `cft` and written by `cft.page.render`.

Nothing of a visitor's is kept. An upload is deleted once it has been read (and by a sweeper if
nobody asks for it), pictures and tables travel inside the answer instead of lying in files with
an address, and no file name is logged. `cft.page.gate` stands before Gradio's routes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

import cft
from cft.film.radiograph import MAX_BYTES
from cft.model.bundled import BUNDLED
from cft.model.selftest import SelfTest, self_test
from cft.page import render
from cft.page.addresses import Addresses
from cft.page.answers import check_point, example_film, predict, show, show_together
from cft.page.folders import upload_folder
from cft.page.gate import Gate
from cft.page.line import Line
from cft.page.stubs import no_stubs
from cft.page.uploads import Uploads

if importlib.util.find_spec("gradio") is None:  # it is imported when the page starts, see `main`
    raise ModuleNotFoundError("the page needs Gradio", name="gradio")

if TYPE_CHECKING:
    from cft.results import Model

__all__ = [
    "check_point",
    "example_film",
    "load_model",
    "main",
    "predict",
    "self_tested",
    "serve",
    "show",
    "show_together",
]

# A free Space has two cores; more threads than cores make every film slower.
_THREADS = 2


def self_tested(classifier: Model) -> SelfTest:
    """Whether the model gives its reference figures here; it says so loudly if it does not."""
    try:
        result = self_test(classifier)
    except cft.RadiographError as error:
        result = SelfTest(False, f"the example film has no figures ({error})")
    if result.passed is False:
        print(f"THE SELF-TEST FAILED: {result.sentence}.", file=sys.stderr, flush=True)
    return result


@contextlib.contextmanager
def serve(classifier: Model, fallback: str = "", **place: Any) -> Iterator[str]:
    """Serve the page; gives its address. Uploads live in a folder that goes with it.

    `place` is Gradio's ``server_name`` and ``server_port``; without them its variables of the
    environment decide (``GRADIO_SERVER_NAME``, ``GRADIO_SERVER_PORT``).
    """
    blocks, intake, upkeep = _of_gradio()
    _limit_threads()
    listening = place.get("server_name") or os.environ.get("GRADIO_SERVER_NAME")
    with upload_folder() as folder:
        uploads, line, tested = Uploads(folder), Line(), self_tested(classifier)
        demo = blocks.build(classifier, uploads, line, fallback, tested)

        @contextlib.asynccontextmanager
        async def gated(app: Any) -> AsyncIterator[None]:
            """The gate is there before the first request."""
            app.middleware_stack = Gate(
                app.middleware_stack,
                Addresses.of(listening),
                uploads,
                line,
                intake.take,
                demo.refusers,
                queue_runs=lambda: not demo._queue.stopped,
                self_test_passed=tested.passed,
            )
            forgetting = asyncio.create_task(upkeep.forget_unheard(demo))
            yield
            forgetting.cancel()

        with uploads.swept():
            _, address, _ = demo.launch(
                **place,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                run_history=False,
                enable_monitoring=False,
                strict_cors=True,
                mcp_server=False,
                pwa=False,
                ssr_mode=False,
                app_kwargs={"lifespan": gated},
                max_file_size=2 * MAX_BYTES,  # what the browser refuses before it sends
                # Gradio remembers the last answer of so many visitors, films and all.
                state_session_capacity=1,
                # Gradio's own: "settings" offers to record the screen, "api" shows snippets that
                # do not run here, and a server for MCP that there is not.
                footer_links=[],
                theme=blocks.theme(),
                head=f"<style>{render.style(classifier)}</style><script>{render.script()}</script>"
                f'<script type="module">{render.batch_script()}</script>',
            )
            try:
                if not isinstance(demo.app.middleware_stack, Gate):
                    raise RuntimeError("the page's gate was not put before its routes")
                yield address
            finally:
                demo.close(verbose=False)


def _of_gradio() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The modules that import Gradio, which takes seconds the first time."""
    with no_stubs():
        from cft.page import blocks, intake, upkeep
    return blocks, intake, upkeep


def _limit_threads() -> None:
    torch.set_num_threads(min(_THREADS, os.cpu_count() or 1))


def load_model() -> tuple[Model, str]:
    """The model that ``CFT_MODEL`` names, else the bundled one.

    With ``CFT_FALLBACK=bundled`` in the environment also where the named one cannot be had; the
    reason is then the second value, for the page to show, and otherwise it is empty.
    """
    _limit_threads()  # an engine takes as many as torch when a model is loaded
    try:
        return cft.load(), ""
    except cft.ModelFolderError as error:
        if os.environ.get("CFT_FALLBACK") != "bundled":
            raise
        print(f"The bundled model is used instead: {error}", file=sys.stderr)
        return cft.load(BUNDLED), str(error)


def main(arguments: Sequence[str] = (), program: str | None = None) -> int:
    """Serve the page until interrupted; returns the exit status.

    Parameters
    ----------
    arguments
        The command line.
    program
        What the help calls the program; None for the name of the file that was started.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description="Serve the page. CFT_MODEL in the environment names another model than the "
        "bundled one.",
        epilog=cft.NOT_A_MEDICAL_DEVICE,
    )
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="(default: the first that is free from 7860 on)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the uploads' folder goes, too
    try:
        with ThreadPoolExecutor(1) as beside:  # the model is loaded while Gradio is imported
            loading = beside.submit(load_model)
            _of_gradio()
            classifier, fallback = loading.result()
        place = {"server_name": options.host, "server_port": options.port}
        with (
            serve(classifier, fallback, **place) as address,
            contextlib.suppress(KeyboardInterrupt),
        ):
            print(f"Chest X-ray findings: {address}  (Ctrl+C to stop)", flush=True)
            threading.Event().wait()
    except (cft.ModelFolderError, OSError) as error:  # OSError: no port is free
        print(f"The page cannot start: {error}", file=sys.stderr)
        return 1
    return 0
