"""A checkpoint of another project -> model folder. ``python -m cft.convert NAME SOURCE FOLDER``

Run by hand, once; nothing else reads another format than safetensors.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from cft import NOT_A_MEDICAL_DEVICE
from cft.convert.catalogue import CONVERTERS, listing
from cft.errors import ConversionError, ModelFolderError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 failed; wrong usage exits with 2)."""
    parser = argparse.ArgumentParser(
        prog="cft convert",
        description="Make a model folder of another project's checkpoint. Nothing that is in the "
        "checkpoint is run.",
        epilog=NOT_A_MEDICAL_DEVICE,
    )
    parser.add_argument("name", nargs="?", choices=CONVERTERS, help="whose checkpoint it is")
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="the file, a folder with one, or hf-hub:org/name where the weights are safetensors",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="the folder to write"
    )
    parser.add_argument(
        "--labels",
        metavar="A,B,...",
        help="what the outputs are, in their order, or one of nih-14, chexpert-14, chexpert-5",
    )
    parser.add_argument(
        "--list", action="store_true", help="say what there is, from where, under which licence"
    )
    options = parser.parse_args(argv)
    if options.list:
        print(listing())
        return 0
    if options.folder is None:
        parser.error("NAME, SOURCE and FOLDER are needed; --list says which names there are")
    try:
        architecture = _convert(options)
    except (ConversionError, ModelFolderError) as error:
        print(f"cft.convert: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cft.convert: {error.strerror or error} ({error.filename})", file=sys.stderr)
        return 1
    folder = options.folder
    print(f"wrote {folder}: {architecture}, for --arch {architecture} --init {folder}")
    return 0


def _convert(options: argparse.Namespace) -> str:
    # Heavy: after the arguments are known to be right.
    module = importlib.import_module(f"cft.convert.{CONVERTERS[options.name].module}")
    if options.name == "efficientnet-lite":
        if options.labels is not None:
            raise ConversionError("efficientnet-lite has ImageNet's classes; leave out --labels")
        return module.write(Path(options.source), options.folder)
    from cft.convert.result import refuse_existing, write

    refuse_existing(options.folder)
    converted, file = module.convert(options.source, options.labels, options.name)
    return write(converted, options.name, file, options.folder)


if __name__ == "__main__":
    sys.exit(main())
