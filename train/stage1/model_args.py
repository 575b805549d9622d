"""``--model-args``: arguments of an architecture, as words."""

from __future__ import annotations

import json
from typing import Any

from cft.model.network import FORBIDDEN_MODEL_ARGS

# What other options of a run decide.
_ELSEWHERE = {
    "in_chans": "--init",
    "img_size": "--image-size",
    "drop_rate": "--dropout",
    "drop_path_rate": "--drop-path",
    "num_classes": "--data",
    "folded": "the export of the model",
}


def model_args_in(text: str) -> dict[str, Any]:
    """Arguments of `timm.create_model` from words like "width=16,depth=6,ib=false".

    Values are numbers, true, false, null, or otherwise text.

    Raises
    ------
    ValueError
        If an item is no ``name=value``, is there twice, or is decided elsewhere.

    Examples
    --------
    >>> model_args_in("width=16,ib=false,act_layer=gelu")
    {'width': 16, 'ib': False, 'act_layer': 'gelu'}
    """
    arguments: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not (equals and value and name.isidentifier()):
            raise ValueError(f"--model-args: {item!r} is not name=value")
        if name in arguments:
            raise ValueError(f"--model-args names {name} twice")
        if name in _ELSEWHERE:
            raise ValueError(f"--model-args: {name} is decided by {_ELSEWHERE[name]}")
        if name in FORBIDDEN_MODEL_ARGS:
            raise ValueError(f"--model-args may not set {name}; the weights are --init's")
        arguments[name] = _value(value)
    return arguments


def _value(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=str)  # NaN and Infinity are no numbers here
    except ValueError:
        return text
    return text if isinstance(value, (list, dict)) else value
