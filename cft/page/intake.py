"""Uploads as they arrive, in place of Gradio's own route for them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gradio_client.utils import strip_invalid_filename_characters  # type: ignore[import-untyped]
from python_multipart.exceptions import FormParserError
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from cft.film.radiograph import MAX_BYTES
from cft.page.upkeep import UNHEARD_SECONDS
from cft.page.uploads import MAX_FILES_OF_ONE, Transfer

__all__ = ["take"]


async def take(
    scope: Any, receive: Any, transfer: Transfer, *, parser: Any, statuses: Any
) -> tuple[int, Any]:
    """In place of Gradio's upload, whose files have the same name if their content is the same.

    `parser` and `statuses` are Gradio's ``GradioMultiPartParser`` and ``file_upload_statuses``.
    """
    request = Request(scope, receive)
    progress = request.query_params.get("upload_id")
    try:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return 400, "Films are sent as multipart/form-data."
        form = await parser(
            request.headers,
            request.stream(),
            max_files=MAX_FILES_OF_ONE,
            max_fields=0,
            upload_dir=transfer.place,
            upload_id=progress,
            upload_progress=statuses if progress else None,
            # The reader refuses from MAX_BYTES on, with a sentence in the film's place; what is
            # refused here takes all the other films of the drop along.
            max_file_size=2 * MAX_BYTES,
        ).parse()
    except MultiPartException as error:
        return (413 if "maximum" in error.message.lower() else 400), error.message
    except FormParserError as error:  # of its header; those of the body are the ones above
        return 400, f"The upload could not be read: {error}."
    except ClientDisconnect:
        return 400, "The upload broke off."
    finally:
        if progress:
            statuses.set_done(progress)
            forget = statuses.stop_tracking
            asyncio.get_running_loop().call_later(UNHEARD_SECONDS, forget, progress)
    files = []
    for number, (_, film) in enumerate(form.multi_items()):
        assert not isinstance(film, str)  # there are no fields
        film.file.close()
        place = transfer.place / str(number)
        place.mkdir()
        files.append(Path(film.file.name).rename(place / _name(film.filename)))
    if not files:
        return 400, "There is no whole file in the upload."
    transfer.complete(files)
    return 200, [str(path) for path in files]


def _name(sent: str | None) -> str:
    """What to call a file here that was sent under a name."""
    name = strip_invalid_filename_characters(Path(sent or "").name)
    return "film" if name in ("", "..") else name
