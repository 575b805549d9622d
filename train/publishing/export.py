"""A finished run of stage 1 -> model folder: calibration, figures, provenance, card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

import cft
from cft.architectures.heads import fold_heads
from cft.architectures.light import timm
from cft.errors import ModelFolderError, RadiographError
from cft.labels import DESCRIPTIONS
from cft.model.folder import write_model_folder
from cft.model.gate_statistics import GateStatistics
from cft.model.load import load
from cft.model.preprocess import Preprocess
from cft.model.selftest import write_reference
from train.datasets.labels import LabelTable
from train.publishing.card import model_card
from train.publishing.sources import licence_of

if TYPE_CHECKING:
    from cft.model.network import Network

# A network that starts from random weights needs about this many films to be more than a start.
_MANY = 20_000
_FEW = " (few: this is a demonstration model)"

# Decimals of figures in config.json: far below the width of any interval.
_DECIMALS = 6


def export(
    folder: Path,
    network: Network,
    preprocess: Preprocess,
    label_names: Sequence[str],
    categories: Mapping[str, Any],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    gate: GateStatistics | None = None,
    *,
    half: bool = False,
) -> Path:
    """Write the model folder of a network.

    Parameters
    ----------
    folder
        Where.
    network
        The timm network. Two heads of which the scores are a weighted sum become one linear layer.
    preprocess
        How its input is made.
    label_names
        The categories, in the order of the outputs.
    categories
        From `calibrate`.
    metrics
        Name of a test set -> what `train.evaluation.scores.evaluate_scores` found.
    provenance
        Where the model comes from; see `provenance_of`.
    gate
        What the gate has learnt, if it has.
    half
        Store the weights in 16 bits; `round_weights` has to have rounded them, or what was measured
        is another network.

    Raises
    ------
    ModelFolderError
        If what was written cannot be used.
    """
    known = {label: DESCRIPTIONS[label] for label in label_names if label in DESCRIPTIONS}
    own = network.pretrained_cfg
    config = {
        "architecture": own["architecture"],
        "num_classes": len(label_names),
        "num_features": network.num_features,
        "global_pool": _pooling(network),
        "model_args": {**_built_with(network), "in_chans": preprocess.input_size[0]},
        "label_names": list(label_names),
        "label_descriptions": known,
        "problem_type": "multi_label_classification",
        "pretrained_cfg": {
            **preprocess.to_config(),
            "num_classes": len(label_names),
            "first_conv": own["first_conv"],
            "classifier": own["classifier"],
            "license": licence_of(provenance),
        },
        "cft": {
            "categories": dict(categories),
            "provenance": dict(provenance),
            "metrics": rounded(dict(metrics)),
            **({} if gate is None else {"gate": gate.to_config()}),
        },
    }
    config, state = fold_heads(config, network.state_dict())
    if half:
        state = {name: x.half() if x.is_floating_point() else x for name, x in state.items()}
    write_model_folder(folder, state_dict=state, config=config, card=model_card(config))
    return usable(folder)


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """Round the tensors of a network to what 16 bits hold, in place."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


def usable(folder: Path) -> Path:
    """A model folder that has just been written, if whoever uses it can load it.

    What it says of the example film is added to it, for `cft selftest`.

    Raises
    ------
    ModelFolderError
        If it cannot be loaded, or predicts nothing.
    """
    try:
        write_reference(folder, load(folder, "cpu", engine="torch"))  # without exporting it first
    except (ModelFolderError, RadiographError) as error:
        raise ModelFolderError(f"a model was written that cannot be used: {error}") from None
    return folder


def provenance_of(table: LabelTable, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What data and what code make the model; `rows` are those used of each split."""
    counts = {
        split: {"films": len(used), "patients": len(np.unique(table.patients[used]))}
        for split, used in rows.items()
    }
    trained = counts["train"]
    views = table.attributes["view"][rows["train"]] if "view" in table.attributes else []
    return {
        "trained_on": f"{trained['films']:,} films of {trained['patients']:,} patients of the data "
        f"set {table.dataset!r}" + (_FEW if trained["films"] < _MANY else ""),
        "stage": "negative",
        "dataset": table.dataset,
        "splits": counts,
        "views": {view or "unknown": n for view, n in Counter(map(str, views)).items()},
        "notes": list(table.notes),
        "parent": None,
        "versions": {"cft": cft.__version__, "torch": torch.__version__, "timm": timm.__version__},
        "date": date.today().isoformat(),
    }


def _built_with(network: Network) -> dict[str, Any]:
    """The arguments that lay out the network; dropout is only for training."""
    elsewhere = ("num_classes", "global_pool")  # at the root of config.json
    arguments = getattr(network, "built_with", {})
    return {
        name: value
        for name, value in arguments.items()
        if name not in elsewhere and not name.startswith("drop_")
    }


def _pooling(network: nn.Module) -> str:
    """Name of the network's pooling, as `timm.create_model` takes it."""
    for module in (network, getattr(network, "head", None)):
        pool = getattr(module, "global_pool", None)
        if pool is not None:
            return pool if isinstance(pool, str) else pool.pool_type
    return "avg"


def rounded(value: Any) -> Any:
    """The same JSON with every float rounded for config.json."""
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(x) for x in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value
