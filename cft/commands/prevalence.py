"""``--prevalence Effusion=20%,Hernia=0.5%``: in a hundred such patients, how many have it?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from cft.commands.model import UsageError

__all__ = ["check_prevalences", "prevalences"]


def prevalences(text: str) -> dict[str, float]:
    """The value of the option -> label -> share in [0, 1].

    A number needs its percent sign: 0.5 might be meant as a half, or as one in two hundred.

    Raises
    ------
    argparse.ArgumentTypeError
        If it cannot be read; one sentence says what is wrong.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        label, equals, number = (word.strip() for word in part.partition("="))
        if not label or not equals:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not of the form NAME=N%, as Effusion=20%"
            )
        if not number.endswith("%"):
            raise argparse.ArgumentTypeError(
                f"{part.strip()!r} has no percent sign: {label}=20% is twenty in a hundred"
            )
        if label in found:
            raise argparse.ArgumentTypeError(f"{label} is named twice")
        found[label] = _share(number[:-1], label)
    return found


def _share(number: str, label: str) -> float:
    try:
        percent = float(number)
    except ValueError:
        percent = float("nan")
    if not 0 <= percent <= 100:
        raise argparse.ArgumentTypeError(f"{number}% of {label} is not between 0% and 100%")
    return percent / 100


def check_prevalences(stated: Mapping[str, float], labels: Iterable[str]) -> None:
    """Refuse findings that the model does not have.

    Raises
    ------
    UsageError
        If there is one; it names those that the model has.
    """
    has = list(labels)
    for label in stated:
        if label not in has:
            raise UsageError(
                f"--prevalence {label}: the model has no such finding; it has {', '.join(has)}"
            )
