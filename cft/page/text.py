"""How the page writes labels, shares and pictures."""

from __future__ import annotations

import base64

__all__ = ["data_address", "percent", "plain_label", "short_percent"]


def plain_label(label: str) -> str:
    """A label as it is read."""
    return label.replace("_", " ")


def percent(share: float, decimals: int = 1) -> str:
    """Such as ``12.3 %``."""
    return f"{100 * share:.{decimals}f}\N{NARROW NO-BREAK SPACE}%"


def short_percent(share: float) -> str:
    """The same without decimals that no sample of films supports; page.js has this rule, too."""
    return percent(share, 1 if 0 < share < 0.0995 or 0.9905 < share < 1 else 0)


def data_address(content: bytes, kind: str) -> str:
    """The address of a content that travels inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
