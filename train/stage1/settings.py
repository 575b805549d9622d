"""The settings of stage 1; each field is an option of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from cft.model.preprocess import MAX_SIDE, MIN_SIDE
from train.command import (
    ABOVE_ZERO,
    FACTOR,
    FROM_ZERO,
    POSITIVE,
    SHARE,
    UP_TO_ONE,
    WHOLE,
    Number,
    option,
)
from train.stage1.mix import FOLLOWERS
from train.stage1.schedule import SCHEDULES

#: What `cft.load` reads; a model of another size could not be used.
SIDE = Number(
    int, lambda x: MIN_SIDE <= x <= MAX_SIDE, f"a whole number from {MIN_SIDE} to {MAX_SIDE}"
)


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run, besides the data. Each field is an option of the command."""

    arch: str = option("resnet18d", "a timm architecture, or one of this project's")
    model_args: str = option(
        "", 'arguments of the architecture, such as "width=16,depth=6"; see timm for its own'
    )
    image_size: int = option(224, "side of the network's input in pixels", type=SIDE)
    init: str = option(
        "random",
        "where the tensors come from: random; pretrained (timm's weights of --arch; arch.tag "
        "chooses which); hf-hub:org/name[@revision]; or a model folder",
    )
    dropout: float = option(0.0, "dropout before the logistic regressions", type=SHARE)
    drop_path: float = option(
        0.0, "largest probability of leaving out a residual block in training", type=SHARE
    )
    epochs: int = option(30, "passes over the training films", type=POSITIVE)
    batch_size: int = option(32, "films an optimiser step, over all processes", type=POSITIVE)
    accumulate: int = option(
        1, "parts in which a process computes its share of a batch", type=POSITIVE
    )
    lr: float = option(1e-3, "highest learning rate", type=ABOVE_ZERO)
    optimizer: str = option("adamw", "optimiser", choices=("adamw", "adam"))
    beta1: float = option(0.9, "decay of the optimiser's mean of the gradients", type=SHARE)
    weight_decay: float = option(
        0.05, "on weights; biases, normalisation and tokens have none", type=FROM_ZERO
    )
    layer_decay: float = option(
        1.0, "factor of the learning rate from a layer to the one below it", type=FACTOR
    )
    freeze_below: float = option(
        0.0,
        "with --layer-decay: layers whose factor is smaller are never trained; their batch "
        "statistics stay too; 0: all are trained",
        type=SHARE,
    )
    freeze_epochs: int = option(
        0, "epochs at the start in which only the head is trained", type=WHOLE
    )
    schedule: str = option("one-cycle", "course of the learning rate", choices=SCHEDULES)
    warmup: float = option(0.2, "share of the steps in which the learning rate rises", type=SHARE)
    final_rate: float = option(
        0.0, "where the schedule cosine ends, as a share of --lr", type=SHARE
    )
    clip: float = option(5.0, "largest norm of the gradient; 0: no limit", type=FROM_ZERO)
    loss: str = option(
        "bce",
        "bce, focal:alpha=,gamma= or asl:gamma_negative=,clip=,...; A+B: their mean",
    )
    augment: str = option(
        "",
        'strengths other than those of train/augment.py, such as "flip=0.5,rotate=5"; "none": no '
        "augmentation",
    )
    ema: float = option(
        0.995, "decay of the averaged weights that are kept; 0: no average", type=SHARE
    )
    metric: str = option("auroc", "validation metric that decides", choices=("auroc", "map"))
    patience: int = option(
        0, "stop after this many epochs without a new best; 0: never", type=WHOLE
    )
    precision: str = option(
        "auto",
        "of the network; auto: bfloat16 on a GPU that has it, float32 otherwise",
        choices=("auto", "float32", "bfloat16"),
    )
    judge_width: int = option(
        0, "validate and test only on films stored at least this wide", type=WHOLE
    )
    also_test: str | None = option(None, "reader of further labels of the data to test on")
    seed: int = option(0, "of everything random", type=WHOLE)
    mix: str = option(
        "none",
        "mix films of a batch: their labels by weighted mean, or by logical OR (LogicMix)",
        choices=tuple(FOLLOWERS),
    )
    teacher: tuple[str, ...] = option(
        (),
        "models whose answers, in the mean, are a part of the targets",
        machine=True,
        metavar="FOLDER",
    )
    teacher_weight: float = option(0.5, "share of the teachers in the targets", type=UP_TO_ONE)
    join: tuple[str, ...] = option(
        (),
        "train nothing: put the networks of these finished runs side by side in one, whose logits "
        "are the mean of theirs",
        machine=True,
        metavar="RUN",
    )
    store: str = option(
        "float32",
        "of the weights in the model folder; float16 is half as large and computed as float32",
        choices=("float32", "float16"),
    )
    freeze: bool = option(
        False,
        "never train the network: compute features once and fit the logistic regressions to them",
    )
    freeze_copies: int = option(
        0, "augmented copies of each training film whose features are fitted as well", type=WHOLE
    )
    freeze_strength: float | None = option(
        None,
        "of the penalty, in films (default: chosen by cross-fitting over training patients)",
        type=ABOVE_ZERO,
    )
    shuffle_labels: bool = option(
        False, "a control: training films have each other's labels, so that nothing can be learnt"
    )
