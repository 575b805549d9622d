"""Which DICOM files belong to one study, without keeping the number that says so.

The Study Instance UID points to a patient in the archive that gave it. Here it becomes a keyed
hash, which tells whether two files have the same one and, without the key, nothing else. Whoever
groups films draws a key, uses it for one request, and forgets it.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from cft.film.elements import Tag, read_header
from cft.film.read import is_dicom, read_bytes

__all__ = ["new_key", "study_hash"]


def new_key() -> bytes:
    """A key for `study_hash`, to be used for the films of one request and then forgotten."""
    return secrets.token_bytes(32)


def study_hash(source: Any, key: bytes) -> str | None:
    """The keyed hash of a file's Study Instance UID (0020,000D).

    Parameters
    ----------
    source
        As of `cft.read_radiograph`; anything else, such as an array, belongs to no study.
    key
        From `new_key`.

    Returns
    -------
    str or None
        32 hexadecimal digits; None if the file is not DICOM, cannot be read, or has no such UID.
    """
    if not isinstance(source, (str, bytes, bytearray, memoryview)) and not hasattr(
        source, "__fspath__"
    ):
        return None
    try:
        data = read_bytes(source)
        if not is_dicom(data):
            return None
        uid = read_header(data, frozenset({Tag.StudyInstanceUID})).text(Tag.StudyInstanceUID)
    except Exception:  # of a damaged file the reader says what is wrong, and its error may quote it
        return None
    return hashlib.blake2b(uid.encode(), digest_size=16, key=key).hexdigest() if uid else None
