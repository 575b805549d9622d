"""The page: drop chest X-rays, see findings. The one module of `cft` that imports Gradio.

`build` wires the page, `serve` starts it; what it shows is computed by `cft` and written by
`cft.page.render`.

Nothing of a visitor's is kept. An upload is deleted once it has been read (and by a sweeper if
nobody asks for it), pictures and tables travel inside the answer instead of lying in files with
an address, and no file name is logged. `cft.page.gate` stands before Gradio's routes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import torch
from gradio.route_utils import GradioMultiPartParser
from gradio.routes import file_upload_statuses
from gradio_client.utils import strip_invalid_filename_characters  # type: ignore[import-untyped]
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

import cft
from cft import results
from cft.film.radiograph import MAX_BYTES
from cft.film.read import as_radiograph
from cft.film.turn import turned
from cft.model.bundled import BUNDLED
from cft.model.category import point_names
from cft.model.selftest import EXAMPLE, SelfTest, self_test
from cft.page import api, batch, render, together
from cft.page import study as studies
from cft.page.addresses import Addresses
from cft.page.folders import upload_folder
from cft.page.gate import Gate
from cft.page.line import Line
from cft.page.picture import Picture
from cft.page.uploads import MAX_FILES_OF_ONE, MAX_FILMS, Film, Refused, Transfer, Uploads

if TYPE_CHECKING:
    from cft.results import Model

# A free Space has two cores; more threads than cores make every film slower.
_THREADS = 2

# Requests that wait, at most; `cft.page.line` refuses long before by the time that they will take.
_WAITING = 500

# An answer that nobody has begun to fetch by then is forgotten.
_UNHEARD_SECONDS = 60


# ------------------------------------------------------------------------------ handlers


def predict(
    classifier: Model, films: Iterable[Film], point: str | None = None, gate: str = "refuse"
) -> dict[str, Any]:
    """The findings of some films as the JSON document of `cft.results.document`.

    `point` names the operating points; None: the model's own choice. `gate`: see there.
    """
    found = ((name, result) for name, result, _ in examine(classifier, films))
    at = ((name, r if isinstance(r, cft.RadiographError) else r.at(point)) for name, r in found)
    return results.document(classifier, at, gate)


def show(classifier: Model, films: Iterable[Film]) -> str:
    """The findings of some films as the HTML of the page's results."""
    films, offers = list(films), dict[int, render.Shown]()
    return render.films_html(classifier, list(examine(classifier, films, offers)), offers)


def show_together(classifier: Model, current: Sequence[Film], prior: Sequence[Film] = ()) -> str:
    """Films that are one study, beside those of a prior one if there are any, as HTML.

    Raises
    ------
    Refused
        If there is no current film.
    """
    if not current:
        raise Refused("There is no current film: choose one file or several. None was read.")
    full = len(current) == 1 and len(prior) <= 1
    shown = list(examine(classifier, [*current, *prior], full=full))
    return together.together_html(classifier, shown[: len(current)], shown[len(current) :])


def check_point(classifier: Model, point: Any) -> None:
    """Refuse, before a film is read, operating points that the model has not."""
    names = point_names(classifier.categories)
    if not isinstance(point, str) or (point and point not in names):
        has = f"it has {', '.join(names)}" if names else "it has one of each finding"
        raise Refused(f"The model has no operating points of that name; {has}.")


def check_gate(gate: Any) -> None:
    """Refuse, before a film is read, what cannot be done with a film that the gate refuses."""
    if gate not in results.GATES:
        raise Refused(f"gate is {', '.join(results.GATES[:-1])} or {results.GATES[-1]}.")


def self_tested(classifier: Model) -> SelfTest:
    """Whether the model gives its reference figures here; it says so loudly if it does not."""
    try:
        result = self_test(classifier)
    except cft.RadiographError as error:
        result = SelfTest(False, f"the example film has no figures ({error})")
    if result.passed is False:
        print(f"THE SELF-TEST FAILED: {result.sentence}.", file=sys.stderr, flush=True)
    return result


def examine(
    classifier: Model,
    films: Iterable[Film],
    offers: dict[int, render.Shown] | None = None,
    full: bool = False,
) -> Iterator[render.Shown]:
    """Film by film: name, findings or error, and the film for the screen.

    A film that is the only one is shown at its full depth, and with `full` every one. Only
    one film is in memory at its full size, however many there are. Into `offers` goes, by its
    number, how a film would be answered that certainly lies wrongly, if it were turned.
    """
    films = list(films)
    alone = full or len(films) == 1
    for number, (name, film) in enumerate(films):
        try:
            radiograph = as_radiograph(film)
        except cft.RadiographError as error:
            yield name, error, None
            continue
        findings = next(iter(classifier.stream([radiograph])))
        picture = Picture.of(radiograph, alone)
        if offers is not None and (offer := _offer(classifier, name, radiograph, findings)):
            offers[number] = offer
        del radiograph  # before the next one is read
        yield name, findings, picture


def _offer(
    classifier: Model, name: str, film: cft.Radiograph, findings: results.Result
) -> render.Shown | None:
    """The film turned as its gate proposes, unless the gate would refuse that as well."""
    if isinstance(findings, cft.RadiographError) or findings.gate.turn is None:
        return None
    other = turned(film, findings.gate.turn)
    answer = next(iter(classifier.stream([other])))
    if isinstance(answer, cft.RadiographError) or answer.gate.verdict == "refuse":
        return None
    return name, answer, Picture.of(other, alone=False)


def example_film() -> Film:
    """The film for visitors who have none, drawn by code."""
    return "Synthetic example film", cft.read_radiograph(EXAMPLE)


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

    refusers: dict[int, int]  # see `cft.page.gate.Gate`

    def is_alive(self, request: str) -> bool:
        """Whether a request of the queue, by its id, waits or runs."""
        return request in self._queue.event_ids_to_events

    async def preprocess_data(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().preprocess_data(*args, **kwargs)
        except gr.Error:
            raise
        except Exception:
            raise _refusal("The request names no uploaded files.") from None


def build(
    classifier: Model,
    uploads: Uploads,
    line: Line,
    fallback: str = "",
    tested: SelfTest | None = None,
) -> _Page:
    """The page, wired to one model; nothing is started. `fallback`: see `load_model`."""

    def predict_uploads(files: list, point: str = "", gate: str = "refuse") -> dict:
        """Findings of chest X-rays. Research software, not a medical device.

        Takes up to 20 uploaded films (PNG, JPEG, TIFF, BMP, WebP or DICOM, up to 50 MB each) and
        gives a JSON object: "model" (architecture, weights_sha256, trained_on), "disclaimer" and
        "films". Each film has "file" and either "error", a sentence, or "sentence" (what is found),
        "gate" (verdict: "pass", "warn" or "refuse"; reasons: sentences), "findings", most evidence
        first (label, probability in 0 to 1, score, operating_point, distance from it, positive,
        ruled in or out, figures of test films), "view", "notes", "height" and "width". The findings
        of a film that is refused are left out, unless gate is "off". The point is specific,
        balanced or sensitive, which operating points decide; empty for the model's own choice.
        """
        with answering(files) as films:
            check_gate(gate)
            check_point(classifier, point)
            return predict(classifier, films, point or None, gate)

    def predict_study(
        files: list, study: str = "one", point: str = "", gate: str = "refuse"
    ) -> dict:
        """Findings of studies, each of several films of one patient. Research software.

        Takes up to 20 uploaded films. study says which belong together: "one" (all are one study),
        "auto" (by DICOM study, else by name), "dicom", "name", or a list with a text for each film,
        equal for films of a study. Gives a JSON object: "model", "disclaimer" and
        "studies". Each has "study" (its name), "sentence", "scored" and "not_scored" (with
        reasons: lateral films, films that are refused or cannot be read), "findings" as of a film,
        each the maximum over the films that are scored, with the "file" that it comes from, and
        "films" as /predict gives them.
        """
        with answering(files) as films:
            check_gate(gate)
            check_point(classifier, point)
            return studies.predict_study(classifier, films, study, point or None, gate)

    def compare(prior: list, current: list, point: str = "", gate: str = "refuse") -> dict:
        """What has changed from a prior study to the current one. Research software.

        Takes the uploaded films of both, up to 20 together, and gives a JSON object: "model",
        "disclaimer", "prior" and "current" as /predict_study gives a study, and "changes", largest
        first. Each has "label", "prior" and "current" (probabilities), "difference" (of their
        logits), "repeatability" (what two films of the same state differ by: "limit", its "level"
        and interval, "pairs", "patients"; or null) and "verdict": "more", "less", "none" (no change
        beyond that), or null where nothing decides.
        """
        with answering([*(prior or ()), *(current or ())]) as films:
            check_gate(gate)
            check_point(classifier, point)
            first = len(prior or ())
            both = films[:first], films[first:]
            return studies.compare(classifier, *both, point or None, gate)

    def heat_map(files: list, label: str, gate: str = "refuse") -> str:
        """Where in a film the score of a finding comes from. Research software.

        Takes one uploaded film and one of the model's labels, and gives a PNG of the film with the
        heat map over it, as a data: address. Unless gate is "off" or "warn", a film that the gate
        refuses has none.
        """
        with answering(files) as films:
            check_gate(gate)
            return api.heat_map(classifier, films, label, gate)

    def gate_uploads(files: list) -> list:
        """Whether films would be answered. Research software, not a medical device.

        Takes up to 20 uploaded films and gives a list: of each "file" and either "error", a
        sentence, or "verdict" ("pass", "warn" or "refuse") and "reasons", sentences.
        """
        with answering(files) as films:
            return api.gates(classifier, films)

    def models() -> list:
        """The models that answer here: what they are, their labels and operating points."""
        return [api.model(classifier)]

    @contextlib.contextmanager
    def answering(files: list) -> Iterator[list[Film]]:
        try:
            with uploads.reading(files) as films, line.timed(len(films)):
                yield films
        except Refused as refused:
            raise _refusal(str(refused)) from None

    def show_uploads(files: list) -> str:
        with answering(files) as films:
            return show(classifier, films)

    def row_of_upload(files: list) -> dict:
        with answering(files) as films:
            if len(films) != 1:
                raise Refused("A row is of one film.")
            return batch.row(classifier, films[0][1])

    def show_both(current: list, prior: list) -> str:
        current, prior = current or [], prior or []
        with answering([*current, *prior]) as films:
            return show_together(classifier, films[: len(current)], films[len(current) :])

    def show_example() -> str:
        with line.timed(1):
            return show(classifier, [example_film()])

    def refuse_call(sentence: str) -> None:
        raise _refusal(sentence)

    # One film at a time uses both cores of a free Space, so that requests wait for each other.
    heavy: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
    light: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
    with _Page(title="Chest X-ray findings", analytics_enabled=False) as demo:
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
            gr.HTML(render.about_html(classifier), apply_default_css=False)
        with gr.Accordion("For programs", open=False):
            gr.HTML(render.api_html(MAX_FILMS), apply_default_css=False)
        # What programs call, and the page's own scripts do; Gradio shows none of these.
        drop = gr.File(file_count="multiple", visible=False)
        setattr(drop, "async_move_resource_to_block_cache", _only_uploads)  # noqa: B010, a method
        hidden, findings = gr.Button(visible=False), gr.JSON(label="findings", visible=False)
        point = gr.Textbox("", label="point", visible=False)
        gate = gr.Textbox("refuse", label="gate", visible=False)
        study = gr.Textbox("one", label="study", visible=False)
        earlier = gr.File(label="prior", file_count="multiple", visible=False)
        setattr(earlier, "async_move_resource_to_block_cache", _only_uploads)  # noqa: B010, a method
        label, text = gr.Textbox(label="label", visible=False), gr.Textbox(visible=False)
        own, documented = "private", "public"
        as_sent: dict[str, Any] = {"preprocess": False}
        calls = [
            hidden.click(
                function, inputs, output, api_name=name, api_visibility=whose, **heavy, **as_sent
            )
            for name, whose, function, inputs, output in (
                ("film", own, show_uploads, [drop], text),
                ("row", own, row_of_upload, [drop], findings),
                ("example", own, show_example, [], text),
                ("together", own, show_both, [drop, earlier], text),
                ("predict", documented, predict_uploads, [drop, point, gate], findings),
                ("predict_study", documented, predict_study, [drop, study, point, gate], findings),
                ("compare", documented, compare, [earlier, drop, point, gate], findings),
                ("heatmap", documented, heat_map, [drop, label, gate], text),
                ("gate", documented, gate_uploads, [drop], findings),
                ("models", documented, models, [], findings),
            )
        ]
        # Where an answer would have stood, a sentence stands that the gate has chosen.
        sentence = gr.Textbox(visible=False)
        refused = [(call, hidden.click(refuse_call, sentence, findings, **light)) for call in calls]
    demo.refusers = {event["id"]: other["id"] for event, other in refused}
    demo.queue(max_size=_WAITING, api_open=False)
    _harden(demo)
    uploads.is_alive = line.is_alive = demo.is_alive
    return demo


def _harden(demo: _Page) -> None:
    """Keep Gradio's queue alive and small.

    A message to a visitor who has just left is a KeyError that ends the queue for everybody; and
    figures about the last 10,000 requests, which nobody sees, are computed after each.
    """
    queue = demo._queue
    send = queue.send_message

    def send_if_there(event: Any, message: Any) -> None:
        if event.session_hash in queue.pending_messages_per_session:
            send(event, message)

    setattr(queue, "send_message", send_if_there)  # noqa: B010, a method
    queue.ANALYTICS_MAX_EVENTS, queue.ANAYLTICS_CACHE_FREQUENCY = 1, sys.maxsize


async def _forget_unheard(demo: _Page) -> None:
    """Forget what nobody fetches: Gradio would keep 2,000 answers, films and all, for ever."""
    since: dict[str, float] = {}  # when it was first seen that an answer waits
    while True:
        await asyncio.sleep(_UNHEARD_SECONDS / 12)
        with contextlib.suppress(Exception):  # whatever it is, the next time may succeed
            since = await _forget_once(demo._queue, since)
        if len(file_upload_statuses._signals) > 1000:  # kept for each id that was ever asked for
            file_upload_statuses._signals.clear()


async def _forget_once(queue: Any, since: dict[str, float]) -> dict[str, float]:
    waiting, now = queue.pending_messages_per_session, asyncio.get_running_loop().time()
    unheard = [name for name, messages in list(waiting.items()) if not messages.empty()]
    since = {name: since.get(name, now) for name in unheard}
    for name, began in since.items():
        if now - began > _UNHEARD_SECONDS:
            waiting.pop(name, None)
            await queue.clean_events(session_hash=name)
            queue.pending_event_ids_session.pop(name, None)
    return since


async def _take(scope: Any, receive: Any, transfer: Transfer) -> tuple[int, Any]:
    """In place of Gradio's upload, whose files have the same name if their content is the same."""
    request = Request(scope, receive)
    progress = request.query_params.get("upload_id")
    try:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return 400, "Films are sent as multipart/form-data."
        form = await GradioMultiPartParser(
            request.headers,
            request.stream(),
            max_files=MAX_FILES_OF_ONE,
            max_fields=0,
            upload_dir=transfer.place,
            upload_id=progress,
            upload_progress=file_upload_statuses if progress else None,
            # The reader refuses from MAX_BYTES on, with a sentence in the film's place; what is
            # refused here takes all the other films of the drop along.
            max_file_size=2 * MAX_BYTES,
        ).parse()
    except MultiPartException as error:
        return (413 if "maximum" in error.message.lower() else 400), error.message
    except ClientDisconnect:
        return 400, "The upload broke off."
    finally:
        if progress:
            file_upload_statuses.set_done(progress)
            forget = file_upload_statuses.stop_tracking
            asyncio.get_running_loop().call_later(_UNHEARD_SECONDS, forget, progress)
    files = []
    for number, (_, film) in enumerate(form.multi_items()):
        assert not isinstance(film, str)  # there are no fields
        film.file.close()
        place = transfer.place / str(number)
        place.mkdir()
        name = strip_invalid_filename_characters(Path(film.filename or "").name) or "film"
        files.append(Path(film.file.name).rename(place / name))
    transfer.complete(files)
    return 200, [str(path) for path in files]


@contextlib.contextmanager
def serve(classifier: Model, fallback: str = "", **place: Any) -> Iterator[str]:
    """Serve the page; gives its address. Uploads live in a folder that goes with it.

    `place` is Gradio's ``server_name`` and ``server_port``; without them its variables of the
    environment decide (``GRADIO_SERVER_NAME``, ``GRADIO_SERVER_PORT``).
    """
    _limit_threads()
    listening = place.get("server_name") or os.environ.get("GRADIO_SERVER_NAME")
    with upload_folder() as folder:
        uploads, line, tested = Uploads(folder), Line(), self_tested(classifier)
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
                self_test_passed=tested.passed,
            )
            forgetting = asyncio.create_task(_forget_unheard(demo))
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
                theme=_theme(),
                head=f"<style>{render.style(classifier)}</style><script>{render.script()}</script>"
                f'<script type="module">{render.batch_script()}</script>',
            )
            try:
                if not isinstance(demo.app.middleware_stack, Gate):
                    raise RuntimeError("the page's gate was not put before its routes")
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
