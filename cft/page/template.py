"""The templates of the page, filled in.

Whatever a visitor or a model folder could have written is text: the templates escape it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import cft
from cft import heatmap, results
from cft.page.text import percent, short_percent

__all__ = ["HERE", "fill"]

#: This room: the page's templates, style sheets and scripts.
HERE = Path(__file__).resolve().parent


@cache
def _templates() -> Environment:
    """The templates; what they print is escaped, and a name without a value is an error."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["percent"] = percent
    environment.filters["short"] = short_percent
    environment.filters["number"] = lambda share: short_percent(share)[:-2]
    environment.globals["about_grad_cam"] = heatmap.ABOUT_GRAD_CAM
    environment.globals["about_evidence"] = results.ABOUT_EVIDENCE
    environment.globals["disclaimer"] = cft.NOT_A_MEDICAL_DEVICE.split(". ", 1)
    return environment


def fill(name: str, **data: Any) -> str:
    """A template of this room, filled in."""
    return _templates().get_template(f"{name}.html").render(data)
