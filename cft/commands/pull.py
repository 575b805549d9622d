"""``cft pull REF``: fetch a model of the Hub ahead of its use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cft import NOT_A_MEDICAL_DEVICE


def main(arguments: Sequence[str]) -> int:
    """Fetch a model into the cache; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="cft pull",
        description="Fetch a model of the Hugging Face Hub into the cache, for use without a "
        "network. Prints the commit to pin and the model folder.",
        epilog=NOT_A_MEDICAL_DEVICE,
    )
    parser.add_argument("reference", metavar="REF", help="org/name or org/name@revision")
    options = parser.parse_args(arguments)
    from cft.model import hub  # heavy: after the arguments are known to be right

    return hub.pull(options.reference)
