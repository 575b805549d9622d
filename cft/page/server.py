"""The page: drop chest X-rays, see findings. Gradio builds and serves it here, and here alone.

What the page shows is computed by `cft` and written by `cft.page.render`; `cft.page.start` loads
the model and calls `serve`.

Nothing of a visitor's is kept. An upload is deleted once it has been read (and by a sweeper if
nobody asks for it), pictures and tables travel inside the answer instead of lying in files with
an address, and no file name is logged. `cft.page.gate` stands before Gradio's routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.route_utils import GradioMultiPartParser
from gradio.routes import App, file_upload_statuses

from cft.film.radiograph import MAX_BYTES
from cft.model.selftest import SelfTest
from cft.page import intake, render, upkeep
from cft.page.about import about_html, api_html
from cft.page.addresses import Addresses
from cft.page.answers import check_point, example_film, predict, show, show_together
from cft.page.calls import Calls
from cft.page.folders import upload_folder
from cft.page.gate import Gate
from cft.page.line import Line
from cft.page.loading import self_tested
from cft.page.stubs import no_applications
from cft.page.uploads import MAX_FILMS, Refused, Uploads
from cft.threads import limit_threads

if TYPE_CHECKING:
    from cft.results import Model

__all__ = [
    "Page",
    "build",
    "check_point",
    "example_film",
    "predict",
    "serve",
    "show",
    "show_together",
    "theme",
]

_take = functools.partial(intake.take, parser=GradioMultiPartParser, statuses=file_upload_statuses)

# Requests that wait, at most; `cft.page.line` refuses long before by the time that they will take.
_WAITING = 500


def _refusal(sentence: str) -> gr.Error:
    return gr.Error(sentence, title="Not read", duration=None, print_exception=False)


async def _only_uploads(path: str | None) -> str | None:
    """In place of Gradio's own step, which would fetch any address that a visitor names."""
    if path and path.startswith(("http://", "https://")):
        raise _refusal("Films are uploaded, not fetched from an address.")
    return path


class Page(gr.Blocks):
    """Blocks that answer a malformed request with a sentence.

    Gradio would answer with nothing and write the request, file names and all, to the log.
    """

    refusers: dict[int, int]  # see `cft.page.gate.Gate`

    def is_alive(self, request: str) -> bool:
        """Whether a request of the queue, by its id, waits or runs."""
        return request in self._queue.event_ids_to_events

    def has_answer(self, name: str) -> bool:
        """Whether the queue has, or will have, an answer for a session or a request, by its id."""
        queue = self._queue
        return (
            name in queue.pending_messages_per_session  # a program's session is its request
            or self.is_alive(name)
            or any(name in requests for requests in queue.pending_event_ids_session.values())
        )

    async def preprocess_data(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().preprocess_data(*args, **kwargs)
        except gr.Error:
            raise
        except Exception:
            raise _refusal("The request names no uploaded files.") from None


def _answered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for Gradio, which shows a refusal as a sentence."""

    @functools.wraps(function)
    def answered(*inputs: Any) -> Any:
        try:
            return function(*inputs)
        except Refused as refused:
            raise _refusal(str(refused)) from None

    return answered


def build(
    classifier: Model,
    uploads: Uploads,
    line: Line,
    fallback: str = "",
    tested: SelfTest | None = None,
) -> Page:
    """The page, wired to one model; nothing is started.

    `fallback`: see `cft.page.loading.load_model`.
    """
    calls = Calls(classifier, uploads, line)

    def refuse_call(sentence: str) -> None:
        raise _refusal(sentence)

    # One film at a time uses both cores of a free Space, so that requests wait for each other.
    heavy: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "preprocess": False}
    light: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
    with Page(title="Chest X-ray findings", analytics_enabled=False) as demo:
        top = render.banner() + render.fallback_notice(fallback)
        top += render.self_test_notice(tested) if tested else ""
        gr.HTML(top, apply_default_css=False, elem_classes="top")
        gr.HTML(render.title(), apply_default_css=False)
        with gr.Row(elem_classes="columns"):
            with gr.Column(elem_classes="side", min_width=0):
                gr.HTML(render.drop_zone(), apply_default_css=False)
            with gr.Column(elem_classes="main", min_width=0):
                gr.HTML(render.desk(classifier), apply_default_css=False)
        with gr.Accordion("About this model", open=False):
            gr.HTML(about_html(classifier), apply_default_css=False)
        with gr.Accordion("For programs", open=False):
            gr.HTML(api_html(MAX_FILMS), apply_default_css=False)
        # What programs call, and the page's own scripts do; Gradio shows none of these.
        drop = gr.File(file_count="multiple", visible=False)
        setattr(drop, "async_move_resource_to_block_cache", _only_uploads)  # noqa: B010, a method
        hidden, findings = gr.Button(visible=False), gr.JSON(label="findings", visible=False)
        point = gr.Textbox("", label="point", visible=False)
        gate = gr.Textbox("refuse", label="gate", visible=False)
        salt = gr.Textbox("", label="salt", visible=False)
        study = gr.Textbox("one", label="study", visible=False)
        earlier = gr.File(label="prior", file_count="multiple", visible=False)
        setattr(earlier, "async_move_resource_to_block_cache", _only_uploads)  # noqa: B010, a method
        label, text = gr.Textbox(label="label", visible=False), gr.Textbox(visible=False)
        own, public, how = "private", "public", [point, gate]
        events = [
            hidden.click(
                _answered(function), ins, out, api_name=name, api_visibility=whose, **heavy
            )
            for name, whose, function, ins, out in (
                ("film", own, calls.show_uploads, [drop], text),
                ("row", own, calls.row_of_upload, [drop, salt], findings),
                ("example", own, calls.show_example, [], text),
                ("together", own, calls.show_both, [drop, earlier], text),
                ("predict", public, calls.predict_uploads, [drop, *how], findings),
                ("predict_study", public, calls.predict_study, [drop, study, *how], findings),
                ("compare", public, calls.compare, [earlier, drop, *how], findings),
                ("heatmap", public, calls.heat_map, [drop, label, gate], text),
                ("gate", public, calls.gate_uploads, [drop], findings),
                ("models", public, calls.models, [], findings),
            )
        ]
        # Where an answer would have stood, a sentence stands that the gate has chosen.
        sentence = gr.Textbox(visible=False)
        others = [hidden.click(refuse_call, sentence, findings, **light) for _ in events]
    demo.refusers = {a["id"]: b["id"] for a, b in zip(events, others, strict=True)}
    demo.queue(max_size=_WAITING, api_open=False)
    upkeep.harden(demo)
    uploads.is_alive = line.is_alive = demo.is_alive
    return demo


def theme() -> gr.themes.Base:
    """System fonts alone: Gradio's own theme fetches its fonts from Google."""
    return gr.themes.Base(
        primary_hue="sky",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


@contextlib.contextmanager
def serve(
    classifier: Model, fallback: str = "", tested: SelfTest | None = None, **place: Any
) -> Iterator[str]:
    """Serve the page; gives its address. Uploads live in a folder that goes with it.

    `tested` is what `self_tested` says of the model, which is tried if it is not given. `place` is
    Gradio's ``server_name`` and ``server_port``; without them its variables of the
    environment decide (``GRADIO_SERVER_NAME``, ``GRADIO_SERVER_PORT``).
    """
    limit_threads()
    listening = place.get("server_name") or os.environ.get("GRADIO_SERVER_NAME")
    with upload_folder() as folder:
        uploads, line = Uploads(folder), Line()
        tested = tested or self_tested(classifier)
        with no_applications(App):
            demo = build(classifier, uploads, line, fallback, tested)

        @contextlib.asynccontextmanager
        async def gated(app: Any) -> AsyncIterator[None]:
            """The gate is there before the first request."""
            app.middleware_stack = Gate(
                app.middleware_stack,
                Addresses.of(listening),
                uploads,
                line,
                _take,
                demo.refusers,
                queue_runs=lambda: not demo._queue.stopped,
                has_answer=demo.has_answer,
                self_test_passed=tested.passed,
            )
            forgetting = asyncio.create_task(upkeep.forget_unheard(demo, file_upload_statuses))
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
                # It would ask for the front page and, if that took three seconds, refuse to start.
                _frontend=False,
                # Gradio's own: "settings" offers to record the screen, "api" shows snippets that
                # do not run here, and a server for MCP that there is not.
                footer_links=[],
                theme=theme(),
                head=f"<style>{render.style(classifier)}</style><script>{render.script()}</script>"
                f'<script type="module">{render.batch_script()}</script>',
            )
            try:
                if not isinstance(demo.app.middleware_stack, Gate):
                    raise RuntimeError("the page's gate was not put before its routes")
                yield address
            finally:
                demo.close(verbose=False)
