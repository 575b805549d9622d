"""How the page starts: the model is loaded and tried while Gradio is imported."""

from __future__ import annotations

import argparse
import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING

import cft
from cft.page.loading import load_model, self_tested
from cft.page.stubs import no_commands, no_stubs, no_templates

if TYPE_CHECKING:
    from cft.model.selftest import SelfTest
    from cft.results import Model

__all__ = ["main", "with_gradio"]


def with_gradio() -> ModuleType:
    """`cft.page.server`, which imports Gradio.

    None of what is imported is garbage: to look for it all the time would take a tenth longer.
    """
    gc.disable()
    try:
        with no_stubs(), no_templates(), no_commands():
            from cft.page import server
    finally:
        gc.enable()
    return server


def _loaded_and_tested() -> tuple[Model, str, SelfTest]:
    classifier, fallback = load_model()
    return classifier, fallback, self_tested(classifier)


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
        with ThreadPoolExecutor(1) as beside:
            loading = beside.submit(_loaded_and_tested)
            server = with_gradio()
            loaded = loading.result()
        place = {"server_name": options.host, "server_port": options.port}
        with (
            server.serve(*loaded, **place) as address,
            contextlib.suppress(KeyboardInterrupt),
        ):
            print(f"Chest X-ray findings: {address}  (Ctrl+C to stop)", flush=True)
            threading.Event().wait()
    except (cft.ModelFolderError, OSError) as error:  # OSError: no port is free
        print(f"The page cannot start: {error}", file=sys.stderr)
        return 1
    return 0
