"""What a column of one's own table can be besides a category, and how people call such columns."""

from __future__ import annotations

from collections.abc import Iterable

#: Role -> other names of its column. Case does not matter.
ROLES = {
    "image": ("path", "filename", "file", "file_name", "image_path", "image_id", "img"),
    "patient": ("patientid", "patient_id", "subject_id"),
    "study": ("studyinstanceuid", "study_id"),
    "split": ("set", "subset"),
    "age": (),
    "sex": ("gender",),
    "view": ("viewposition", "view_position"),
    "width": (),
    "order": ("follow_up", "followup", "follow-up", "follow-up #"),
}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in (role, *names)}


def role_of(column: str) -> str | None:
    """The role that a column can have by its name; None if it can only be a category."""
    return _ROLE_OF.get(column.strip().lower())


def candidates(columns: Iterable[str]) -> dict[str, list[str]]:
    """Role -> the columns that can have it, the usual name first; only roles that have some."""
    found: dict[str, list[str]] = {}
    for column in columns:
        role = role_of(column)
        if role:
            found.setdefault(role, []).append(column)
    for role, names in found.items():
        usual = (role, *ROLES[role])
        names.sort(key=lambda name: usual.index(name.strip().lower()))
    return found
