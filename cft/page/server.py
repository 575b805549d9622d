"""The page: drop chest X-rays, see findings. The one module of `cft` that imports Gradio.

`build` wires the page, `serve` starts it; what it shows is computed by `cft` and written by
`cft.page.render`.

Nothing of a visitor's is kept. An upload is deleted once it has been read (and by a sweeper if
nobody asks for it), pictures and tables travel inside the answer instead of lying in files with
an address, and no file name is logged.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import torch

import cft
from cft import heatmap, results
from cft.film.radiograph import MAX_BYTES
from cft.film.read import as_radiograph
from cft.model.bundled import BUNDLED
from cft.page import render
from cft.page.uploads import MAX_FILMS, Film, Refused, Uploads, upload_folder

if TYPE_CHECKING:
    from cft.results import Model

# Longest side in pixels of the film that the browser gets.
_FILM_SIDE = 1024

# A free Space has two cores; more threads than cores make every film slower.
_THREADS = 2
_WAITING = 16

_EXAMPLE = Path(__file__).with_name("example.png")  # a phantom that `train` draws


# ------------------------------------------------------------------------------ handlers


def predict(classifier: Model, films: Iterable[Film]) -> dict[str, Any]:
    """The findings of some films as the JSON document of `cft.results.document`."""
    return results.document(classifier, ((name, r) for name, r, _ in examine(classifier, films)))


def show(classifier: Model, films: Iterable[Film]) -> str:
    """The findings of some films as the HTML of the page's results."""
    return render.films_html(classifier, list(examine(classifier, films)))


def examine(
    classifier: Model, films: Iterable[Film]
) -> Iterator[tuple[str, results.Result, np.ndarray | None]]:
    """Film by film: name, findings or error, and the film for the screen, (h, w) uint8.

    Only one film is in memory at its full size, however many there are.
    """
    for name, film in films:
        try:
            radiograph = as_radiograph(film)
        except cft.RadiographError as error:
            yield name, error, None
            continue
        findings = next(iter(classifier.stream([radiograph])))
        yield name, findings, heatmap.rendering(radiograph.pixels, _FILM_SIDE)


def example_film() -> Film:
    """The film for visitors who have none, drawn by code."""
    film = cft.read_radiograph(_EXAMPLE)
    note = "drawn by a program: it shows no patient, and findings in it mean nothing"
    return "Synthetic example film", replace(film, notes=(note,))


# --------------------------------------------------------------------------------- page


def _refusal(sentence: str) -> gr.Error:
    return gr.Error(sentence, title="Not read", duration=None, print_exception=False)


async def _only_uploads(path: str | None) -> str | None:
    """In place of Gradio's own step, which would fetch any address that a visitor names."""
    if path and path.startswith(("http://", "https://")):
        raise _refusal("Films are uploaded, not fetched from an address.")
    return path


class _Page(gr.Blocks):
    """Blocks that answer a malformed request with a sentence.

    Gradio would answer with nothing and write the request, file names and all, to the log.
    """

    async def preprocess_data(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().preprocess_data(*args, **kwargs)
        except gr.Error:
            raise
        except Exception:
            raise _refusal("The request names no uploaded files.") from None


def build(classifier: Model, fallback: str = "") -> gr.Blocks:
    """The page, wired to one model; nothing is started. `fallback`: see `load_model`."""
    uploads = Uploads()

    def predict_uploads(files: list) -> dict:
        """Findings of chest X-rays. Research software, not a medical device.

        Takes up to 20 uploaded films (PNG, JPEG, TIFF, BMP, WebP or DICOM, up to 50 MB each) and
        gives a JSON object: "model" (architecture, weights_sha256, trained_on), "disclaimer" and
        "films". Each film has "file" and either "error", a sentence, or "findings", most probable
        first (label, probability in 0 to 1, score, operating_point, positive), "view", "notes",
        "height" and "width".
        """
        try:
            with uploads.reading(files) as films:
                return predict(classifier, films)
        except Refused as refused:
            raise _refusal(str(refused)) from None

    def show_uploads(files: list) -> tuple[str, None]:
        try:
            with uploads.reading(files) as films:
                answer = show(classifier, films)
        except Refused as refused:
            answer = render.refusal_html(str(refused))
        return answer, None  # the drop zone is free for the next films

    def show_example() -> str:
        return show(classifier, [example_film()])

    # One film at a time uses both cores of a free Space, so that requests wait for each other.
    heavy: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
    with _Page(title="Chest X-ray findings", analytics_enabled=False) as demo:
        demo.upload_file_set = uploads
        top = render.banner() + render.fallback_notice(fallback)
        gr.HTML(top, apply_default_css=False, elem_classes="top")
        gr.HTML(render.title(), apply_default_css=False)
        with gr.Row(elem_classes="columns"):
            with gr.Column(elem_classes="side", min_width=0):
                drop = gr.File(
                    label="Chest X-rays", file_count="multiple", height=170, elem_id="drop"
                )
                setattr(drop, "async_move_resource_to_block_cache", _only_uploads)  # noqa: B010, a method
                example = gr.Button("Show a synthetic example film", size="sm", elem_id="example")
                gr.HTML(render.drop_help(MAX_FILMS), apply_default_css=False)
            with gr.Column(elem_classes="main", min_width=0):
                answer = gr.HTML(render.no_results(), apply_default_css=False, elem_id="answer")
        with gr.Accordion("About this model", open=False):
            gr.HTML(render.about_html(classifier), apply_default_css=False)
        drop.upload(
            show_uploads, drop, [answer, drop], preprocess=False,
            show_progress_on=answer, api_visibility="private", **heavy,
        )  # fmt: skip
        example.click(
            show_example, None, answer, show_progress_on=answer, api_visibility="private", **heavy
        )
        gr.Button(visible=False).click(
            predict_uploads, drop, gr.JSON(label="findings", visible=False), preprocess=False,
            api_name="predict", **heavy,
        )  # fmt: skip
    return demo.queue(max_size=_WAITING, api_open=False)


@contextlib.contextmanager
def serve(classifier: Model, fallback: str = "", **place: Any) -> Iterator[str]:
    """Serve the page; gives its address. Uploads live in a folder that goes with it.

    `place` is Gradio's ``server_name`` and ``server_port``; without them its variables of the
    environment decide (``GRADIO_SERVER_NAME``, ``GRADIO_SERVER_PORT``).
    """
    torch.set_num_threads(min(_THREADS, os.cpu_count() or 1))
    with upload_folder():
        demo = build(classifier, fallback)
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
            # The reader refuses from MAX_BYTES on, with a sentence in the film's place; what Gradio
            # refuses takes all the other films of the drop along.
            max_file_size=2 * MAX_BYTES,
            # Gradio remembers the last answer of so many visitors, films and all.
            state_session_capacity=1,
            footer_links=["api"],  # "settings" offers to record the screen
            theme=_theme(),
            head=f"<style>{render.style(classifier)}</style>",
        )
        try:
            yield address
        finally:
            demo.close(verbose=False)


def _theme() -> gr.themes.Base:
    """System fonts alone: Gradio's own theme fetches its fonts from Google."""
    return gr.themes.Base(
        primary_hue="sky",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def load_model() -> tuple[Model, str]:
    """The model that ``CFT_MODEL`` names, else the bundled one.

    With ``CFT_FALLBACK=bundled`` in the environment also where the named one cannot be had; the
    reason is then the second value, for the page to show, and otherwise it is empty.
    """
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
        classifier, fallback = load_model()
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
