"""The one sentence that stands before all numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["first_sentence"]

# Of the findings that are unsure, so many are named.
_NAMED = 4


def first_sentence(
    above: Sequence[str], unsure: Sequence[str], *, decided: bool, refused: str = ""
) -> str:
    """What is found in a film, in one sentence without a full stop at its end.

    Parameters
    ----------
    above
        Labels above the operating point, those with most evidence first.
    unsure
        Labels that are neither ruled in nor ruled out, in the same order.
    decided
        Whether any finding has an operating point.
    refused
        Why nothing is answered; empty if it is.

    Examples
    --------
    >>> first_sentence(["Effusion"], ["Mass"], decided=True)
    'Above: Effusion. Unsure: Mass'
    """
    if refused:
        return f"Not answered: {refused.rstrip('.')}"
    if not decided:
        return "Nothing is decided: the model has no operating points"
    parts = [f"Above: {_listed(above, unsure)}" if above else "Nothing above the operating point"]
    below = [label for label in unsure if label not in above]
    if below:
        rest = len(below) - _NAMED
        more = f" and {rest} more" if rest > 0 else ""
        parts.append(f"Unsure: {_listed(below[:_NAMED])}{more}")
    return ". ".join(parts)


def _listed(labels: Sequence[str], unsure: Collection[str] = ()) -> str:
    return ", ".join(
        label.replace("_", " ") + (" (unsure)" if label in unsure else "") for label in labels
    )
