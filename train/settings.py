"""What a run of stage 1 can be told, as dataclasses and as the options of its command line."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm

from train.augment import Augmentation
from train.command import ABOVE_ZERO, FROM_ZERO, POSITIVE, SHARE, WHOLE
from train.datasets import add_dataset_arguments
from train.labels import add_policy_arguments
from train.losses import loss_named
from train.presets import PRESETS
from train.push import PUSH_OPTIONS, add_push_arguments
from train.schedule import SCHEDULES


class TrainingError(RuntimeError):
    """The run cannot go on; the message is one sentence for the user."""


def _setting(default: Any, text: str, **argument: Any) -> Any:
    return field(default=default, metadata={"help": text, **argument})


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run, besides the data. Each field is an option of the command."""

    arch: str = _setting("resnet18d", "a timm architecture, or one of this project's")
    image_size: int = _setting(224, "side of the network's input in pixels", type=POSITIVE)
    init: str | None = _setting(None, "model folder whose tensors are the start (default: random)")
    dropout: float = _setting(0.0, "dropout before the logistic regressions", type=SHARE)
    epochs: int = _setting(30, "passes over the training films", type=POSITIVE)
    batch_size: int = _setting(32, "films an optimiser step, over all processes", type=POSITIVE)
    accumulate: int = _setting(
        1, "parts in which a process computes its share of a batch", type=POSITIVE
    )
    lr: float = _setting(1e-3, "highest learning rate", type=ABOVE_ZERO)
    optimizer: str = _setting("adamw", "optimiser", choices=("adamw", "adam"))
    weight_decay: float = _setting(
        0.05, "on weights; biases and normalisation have none", type=FROM_ZERO
    )
    schedule: str = _setting("one-cycle", "course of the learning rate", choices=SCHEDULES)
    warmup: float = _setting(0.2, "share of the steps in which the learning rate rises", type=SHARE)
    clip: float = _setting(5.0, "largest norm of the gradient; 0: no limit", type=FROM_ZERO)
    loss: str = _setting("bce", "bce, focal:alpha=,gamma= or asl:gamma_negative=,clip=,...")
    augment: str = _setting(
        "",
        'strengths other than those of train/augment.py, such as "flip=0.5,rotate=5"; "none": no '
        "augmentation",
    )
    ema: float = _setting(
        0.995, "decay of the averaged weights that are kept; 0: no average", type=SHARE
    )
    metric: str = _setting("auroc", "validation metric that decides", choices=("auroc", "map"))
    patience: int = _setting(
        0, "stop after this many epochs without a new best; 0: never", type=WHOLE
    )
    precision: str = _setting(
        "auto",
        "of the network; auto: bfloat16 on a GPU that has it, float32 otherwise",
        choices=("auto", "float32", "bfloat16"),
    )
    judge_width: int = _setting(
        0, "validate and test only on films stored at least this wide", type=WHOLE
    )
    also_test: str | None = _setting(None, "reader of further labels of the data to test on")
    seed: int = _setting(0, "of everything random", type=WHOLE)


@dataclass(frozen=True)
class Work:
    """How a run is carried out; none of it changes the result beyond rounding."""

    out: Path = field(
        default=Path("runs/negative"),
        metadata={"help": "folder of the run and of the model that it makes"},
    )
    resume: bool = _setting(False, "go on from the run's last checkpoint")
    device: str | None = _setting(None, 'such as "cpu" or "cuda" (default: a GPU if there is one)')
    pixels: str = _setting(
        "auto",
        "where the films are kept: in the GPU's memory, in files, or where they fit",
        choices=("auto", "device", "host"),
    )
    cache: Path | None = field(
        default=None, metadata={"help": "folder of packed films (default: pixels/ beside --out)"}
    )
    workers: int | None = _setting(
        None, "processes that pack films (default: one a core)", type=POSITIVE
    )
    threads: int | None = _setting(
        None, "CPU threads of each process (default: PyTorch's choice)", type=POSITIVE
    )
    compile: bool = _setting(False, "torch.compile the network")
    checkpoint_minutes: float = _setting(
        15.0, "also save the state this often within an epoch", type=FROM_ZERO
    )
    track: str = _setting(
        "none", "also log to this, if installed", choices=("none", "tensorboard", "trackio")
    )

    @property
    def last(self) -> Path:
        """The state of the run."""
        return self.out / "checkpoint" / "last.safetensors"

    @property
    def best(self) -> Path:
        """The average of the best epoch."""
        return self.out / "checkpoint" / "best.safetensors"


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings, Work]:
    """The command line -> options of the data set and the labels, settings, work.

    A preset changes the defaults, so that any option given beside it wins. The options hold the
    command that repeats the run elsewhere as ``command``.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    name = options.preset or (None if options.data else "rehearsal")
    preset = PRESETS[name] if name else {}
    parser.set_defaults(**{k: v for k, v in preset.items() if not isinstance(v, list)})
    options = parser.parse_args(argv)
    for key, value in preset.items():
        # An option that collects words would add its own to a default, so a preset's list stands
        # in only where the command line has none.
        if isinstance(value, list) and not getattr(options, key):
            setattr(options, key, value)
    if not timm.is_model(options.arch):
        parser.error(f"timm {timm.__version__} has no architecture {options.arch!r}")
    for check, text in ((loss_named, options.loss), (Augmentation.named, options.augment)):
        try:
            check(text)
        except ValueError as error:
            parser.error(str(error))
    machine = {*(f.name for f in dataclasses.fields(Work)), *PUSH_OPTIONS}
    program = "python -m train.negative"
    options.command = command_of(program, parser, options, machine, name, preset)
    return options, _of(Settings, options), _of(Work, options)


def command_of(
    program: str,
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    left_out: Collection[str],
    preset: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> str:
    """The command that repeats a run elsewhere, without what belongs to one machine.

    Parameters
    ----------
    program
        Such as ``python -m train.negative``.
    parser, options
        What was asked for; options at their defaults are not named.
    left_out
        Options that belong to one machine: folders, device and the like.
    preset, values
        The preset's name, and the arguments that it stands for.
    """
    words = [program]
    words += [f"--preset {preset}"] if preset else []
    words += ["--data DATA"] if options.data else []
    for key, value in sorted(vars(options).items()):
        default = (values or {}).get(key, parser.get_default(key))
        if key not in {*left_out, "preset", "data"} and value != default:
            given = value if isinstance(value, list) else [value]
            words += [f"--{key.replace('_', '-')}", *(shlex.quote(str(x)) for x in given)]
    return " ".join(words)


def _of(kind: type, options: argparse.Namespace) -> Any:
    return kind(**{f.name: getattr(options, f.name) for f in dataclasses.fields(kind)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.negative",
        description="Stage 1: train a network on partially labelled films; writes a model folder. "
        "Without --data: a rehearsal on phantoms drawn by code, in about two minutes.",
    )
    parser.add_argument("--preset", choices=PRESETS, help="a recipe; see train/presets.py")
    for title, kind in (("the run", Settings), ("the work", Work)):
        group = parser.add_argument_group(title)
        for option in dataclasses.fields(kind):
            _add(group, option)
    add_dataset_arguments(parser)
    add_policy_arguments(parser)
    add_push_arguments(parser)
    return parser


def _add(group: argparse._ArgumentGroup, option: dataclasses.Field) -> None:
    """One option from one field."""
    argument = dict(option.metadata)
    flag = "--" + option.name.replace("_", "-")
    if option.type == "bool":
        group.add_argument(flag, action="store_true", **argument)
        return
    argument.setdefault("type", Path if option.type.startswith("Path") else str)
    argument["help"] += "" if option.default in (None, "") else f" (default: {option.default!s})"
    group.add_argument(flag, default=option.default, **argument)
