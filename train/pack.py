"""Decode and resize the films of a data set once. ``python -m train.pack``

``train.negative`` does the same before it trains; on its own it prepares the films on a machine
with many cores before a machine with GPUs is booked. It uses all cores, may be stopped at any time
and goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from train.command import POSITIVE, WHOLE, add_options, exit_code, options_of
from train.datasets import DataOptions, table_of
from train.datasets.pixels import pack
from train.errors import DatasetError
from train.stage1.network import preprocess_of
from train.stage1.settings import SIDE, Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m train.pack", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--image-size",
        type=SIDE,
        default=Settings.image_size,
        metavar="PIXELS",
        help="side of the network's input (default: %(default)s)",
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("runs"), help="as in training (default: %(default)s)"
    )
    parser.add_argument("--workers", type=POSITIVE, help="films at once (default: one a core)")
    parser.add_argument("--seed", type=WHOLE, default=0, help="as in training (default: 0)")
    add_options(parser.add_argument_group("data"), DataOptions)
    options = parser.parse_args(argv)
    if "data" not in options:
        parser.error("name the --data to pack; phantoms are drawn at their size")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return exit_code(
        *("train.pack", lambda: _work_through(options), DatasetError, ValueError),
        interrupted="the same command goes on from here",
    )


def _work_through(options: argparse.Namespace) -> int:
    table = table_of(options_of(DataOptions, vars(options)), options.seed)
    preprocess = preprocess_of(Settings(image_size=options.image_size))
    pixels = pack(table.images, preprocess, options.cache, options.workers)
    for row, reason in pixels.unreadable.items():
        print(f"{table.images[row]}: {reason}", file=sys.stderr)
    print(f"{len(table) - len(pixels.unreadable):,} films packed in {pixels.folder}")
    return 1 if pixels.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
