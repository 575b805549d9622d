"""``cft selftest [FOLDER]``: does the model say of the example film what it said when made?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cft import NOT_A_MEDICAL_DEVICE


def main(arguments: Sequence[str]) -> int:
    """Compare, or store what to compare with; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="cft selftest",
        description="Predict the packaged example film and compare with the figures that the "
        "model folder states. Exit status 1 if they differ, or if there are none.",
        epilog=NOT_A_MEDICAL_DEVICE,
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="FOLDER",
        help="model folder or hf-hub:org/name@revision (default: what CFT_MODEL names, else the "
        "bundled model)",
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU if there is one)")
    parser.add_argument(
        "--write",
        action="store_true",
        help="store this machine's figures in FOLDER instead, computed on the CPU",
    )
    options = parser.parse_args(arguments)
    if options.write and not options.model:
        parser.error("--write needs the FOLDER that the figures are stored in")
    if options.write and options.device not in (None, "cpu"):
        parser.error("--write computes on the CPU, so it does not go with --device")
    import cft  # heavy: after the arguments are known to be right
    from cft.model.hub import resolve
    from cft.model.selftest import self_test, write_reference

    try:
        if options.write:
            source = resolve(options.model)
            if source.commit:
                parser.error("--write changes a folder on this machine, not a model of the Hub")
            write_reference(source.path, cft.load(source.path, "cpu"))
            print(f"wrote the reference figures into {source.path}")
            return 0
        model = cft.load(options.model, options.device)
        result = self_test(model)
    except (cft.ModelFolderError, RuntimeError, AssertionError) as error:
        print(f"cft selftest: {error}", file=sys.stderr)  # torch's word on an impossible --device
        return 2
    except cft.RadiographError as error:
        print(f"cft selftest: the example film has no figures ({error})", file=sys.stderr)
        return 1
    if result.passed:
        print(f"{model.name}: {result.sentence}")
        return 0
    print(f"cft selftest: {model.name}: {result.sentence}", file=sys.stderr)
    return 1
