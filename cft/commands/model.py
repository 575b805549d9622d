"""The options with which commands choose a model and what it answers, and the model so chosen."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cft.model.classifier import Classifier
    from cft.model.ensemble import Ensemble

__all__ = ["UsageError", "add_answer_options", "add_engine_options", "check_counts", "load"]


class UsageError(ValueError):
    """Options cannot be followed; the message is one sentence for the user."""


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """Which model answers, at which operating points, and what becomes of what is no film."""
    parser.add_argument(
        "--model",
        metavar="REF",
        help="model folder or hf-hub:org/name@revision (default: what CFT_MODEL names, else the "
        "bundled model)",
    )
    parser.add_argument(
        "--point",
        "--operating-point",
        dest="operating_point",
        metavar="NAME",
        help="specific, balanced or sensitive: which thresholds decide (default: the model's own "
        "choice; a model may have only one)",
    )
    parser.add_argument(
        "--gate",
        choices=("refuse", "warn", "off"),
        default="refuse",
        help="what becomes of a picture that does not look like an upright frontal chest film: "
        "refuse (default) withholds its findings and ends with exit status 1, warn prints them "
        "with the reason, off prints them",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """How much is worked on at once, and by what."""
    parser.add_argument("--batch-size", type=int, default=16, metavar="N")
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU if there is one)")
    parser.add_argument(
        "--engine",
        choices=("auto", "torch", "onnx"),
        default="auto",
        help="what runs the network on a CPU: onnx needs the extra `fast` (default: auto, onnx "
        "where it is installed and agrees with torch)",
    )


def check_counts(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program with wrong usage (status 2) where a number is impossible."""
    if options.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    if options.jobs is not None and options.jobs < 1:
        parser.error("--jobs must be at least 1")


def load(options: argparse.Namespace) -> Classifier | Ensemble:
    """The model that the options name.

    Raises
    ------
    UsageError
        If it cannot be used, or has no such operating points.
    """
    import cft  # heavy: after the arguments are known to be right
    from cft.model.category import point_names

    try:
        model = cft.load(options.model, options.device, options.engine)
    except cft.ModelFolderError as error:
        raise UsageError(str(error)) from error
    except (RuntimeError, AssertionError) as error:  # torch's word on an impossible --device
        raise UsageError(f"--device {options.device} cannot be used ({error})") from error
    names = point_names(model.categories)
    if options.operating_point not in (None, *names):
        has = f"it has {', '.join(names)}" if names else "it has only one of each finding"
        raise UsageError(f"--point {options.operating_point}: no such; {has}")
    return model
