"""Finished runs -> one network: their networks side by side, its logits the mean of the runs'.

What an ensemble gains is worth more than a run: the mean of two runs that differ in nothing but
their seed is better than each. Here it is a network like any other (`cft.architectures.joined`), of
which the logistic regressions are the runs' on their joined features. The mean of the runs' weights
(a model soup, Wortsman et al., ICML 2022) would cost no more than one to use, but runs of a high
learning rate do not lie in one valley: tried on two of ``nih-demo``, it has a validation AUROC of
0.67, where the runs have 0.70 and 0.71, and their mean 0.73.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cft.architectures.joined import NAME as JOINED
from cft.architectures.joined import Joined
from cft.model.classifier import Classifier
from cft.model.load import load
from cft.model.network import new_network
from train.errors import TrainingError
from train.evaluation.seen import Splits, origins_of
from train.frozen.features import linear_head
from train.stage1.layers import heads_of
from train.stage1.loop import figures_of
from train.stage1.network import build, preprocess_of
from train.stage1.run import Run
from train.stage1.settings import Settings
from train.stage1.start import made_by

if TYPE_CHECKING:
    from cft.model.network import Network


@dataclass(frozen=True)
class Member:
    """A finished run that is joined to others.

    Attributes
    ----------
    folder
        Its model folder.
    model
        As it was loaded.
    """

    folder: str
    model: Classifier

    @classmethod
    def of(cls, folder: str, label_names: Sequence[str]) -> Member:
        """Load a model folder, or a model of the Hub.

        Raises
        ------
        ModelFolderError
            If it cannot be read.
        TrainingError
            If it is an ensemble, ends in something else than average pooling and a linear layer,
            or does not know a category; the message names it.
        """
        model = load(folder, "cpu")
        if not isinstance(model, Classifier):
            raise TrainingError(f"{folder} is an ensemble; name its members instead")
        missing = [label for label in label_names if label not in model.label_names]
        if missing:
            raise TrainingError(f"{folder} does not know {', '.join(missing)}")
        if model.heatmap_kind != "cam":
            raise TrainingError(
                f"{folder} cannot be joined: it does not end in average pooling and a linear layer"
            )
        return cls(folder, model)

    def settings(self, settings: Settings) -> Settings:
        """A run's settings with this member as its start."""
        architecture = str(self.model.config["architecture"])
        return replace(settings, init=self.folder, arch=architecture, model_args="")

    @property
    def facts(self) -> dict[str, Any]:
        """What names it in the provenance of the joined network, and tells how it was made."""
        provenance, made = self.model.config.get("cft", {}).get("provenance", {}), {}
        if found := made_by(self.model.config):
            made = {"made": found}
        sha256, seed = self.model.weights_sha256, provenance.get("seed")
        return {"weights_sha256": sha256, "seed": seed, **made}


def check_films(members: Sequence[Member], run: Run, splits: Splits) -> None:
    """Refuse members that have learnt from the films that judge them.

    Raises
    ------
    TrainingError
        If one has, or does not say; the message names it.
    """
    for member in members:
        origins = origins_of(member.model, member.folder)
        for split, learnt in (("valid", ("train",)), ("test", ("train", "valid"))):
            films = run.table.names[run.rows[split]].tolist()
            if seen := splits.seen(origins, films, learnt):
                raise TrainingError(
                    f"{member.folder} cannot be judged on the {split} films of this run: {seen}"
                )


class JoinRun:
    """A run of stage 1 that trains nothing.

    Parameters
    ----------
    run
        Settings and data.
    members
        At least one.

    Attributes
    ----------
    network
        The joined network, in evaluation mode on the device.

    Raises
    ------
    TrainingError
        If a member has another input than the first.
    ModelFolderError
        If one cannot be read.
    """

    def __init__(self, run: Run, members: Sequence[Member]):
        self._run, self._members = run, members
        self._networks = [_network_of(run, member) for member in members]
        architectures = [str(member.model.config["architecture"]) for member in members]
        self.network = join(self._networks, architectures)
        self.network.to(run.here.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack memory_format

    def records(self) -> Iterator[dict[str, Any]]:
        """The figures of each member, then of all, on the validation films.

        Yields
        ------
        dict
            ``weights_sha256``, ``seed`` and ``made`` of a member, nothing of all; ``valid``
            (figures).
        """
        for member, network in zip(self._members, self._networks, strict=True):
            yield {**member.facts, "valid": self._judged(network)}
        yield {"valid": self._judged(self.network)}

    def scores(self, split: str) -> np.ndarray:
        """(n, C) float32 logits of the films of a split."""
        return self._run.scores(self.network, split)

    def _judged(self, network: Network) -> dict[str, Any]:
        run = self._run
        return figures_of(run.scores(network, "valid"), run.table.subset(run.rows["valid"]))


def join(networks: Sequence[Network], architectures: Sequence[str]) -> Network:
    """Networks as one, whose logits are the mean of theirs.

    Parameters
    ----------
    networks
        At least one; each ends in average pooling and one linear layer. Of one that is joined
        itself, the networks stand beside the others.
    architectures
        Their names.

    Returns
    -------
    Network
        In evaluation mode, without gradients.
    """
    parts = [
        part for pair in zip(networks, architectures, strict=True) for part in _parts_of(*pair)
    ]
    names = [part.architecture for part in parts]
    each = [{k: v for k, v in part.arguments.items() if k != "in_chans"} for part in parts]
    arguments = {"in_chans": parts[0].arguments["in_chans"], "of": names, "each": each}
    if len(set(names)) == 1 and "of" not in each[0] and all(own == each[0] for own in each):
        arguments |= {"of": names[0], "copies": len(parts), **each[0]}
        del arguments["each"]
    joined = new_network(JOINED, num_classes=len(linear_head(networks[0]).bias), **arguments)
    tensors = {
        f"networks.{number}.{name}": tensor
        for number, part in enumerate(parts)
        for name, tensor in part.tensors.items()
    }
    tensors["head.weight"] = torch.cat([part.weight for part in parts], 1) / len(networks)
    biases = torch.stack([linear_head(network).bias.detach() for network in networks])
    tensors["head.bias"] = biases.mean(0)
    joined.load_state_dict(tensors, strict=True)
    return joined.eval().requires_grad_(False)


class _Part(NamedTuple):
    """A network without its regressions, and their weights."""

    architecture: str
    arguments: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    weight: torch.Tensor


def _parts_of(network: Network, architecture: str) -> Iterator[_Part]:
    """The networks side by side in one that is joined; any other as it is."""
    built, weight = network.built_with, linear_head(network).weight
    common = {k: v for k, v in built.items() if not k.startswith("drop_") and k != "num_classes"}
    if not isinstance(network, Joined):
        heads = tuple(f"{name}." for name in heads_of(network))
        tensors = {k: v for k, v in network.state_dict().items() if not k.startswith(heads)}
        yield _Part(architecture, common, tensors, weight)
        return
    common = {k: v for k, v in common.items() if k not in ("of", "copies", "each")}
    begins = 0
    inside: list[Any] = list(network.networks)
    for inner, (name, own) in zip(inside, network.kinds, strict=True):
        ends = begins + inner.num_features
        yield _Part(name, {**common, **own}, inner.state_dict(), weight[:, begins:ends])
        begins = ends


def _network_of(run: Run, member: Member) -> Network:
    """A member's network as this run would start from it."""
    settings = member.settings(run.settings)
    if preprocess_of(settings) != run.preprocess:
        raise TrainingError(f"{member.folder} has another input than {run.settings.join[0]}")
    known = run.targets[torch.from_numpy(run.rows["train"])].numpy(force=True)
    network = build(settings, run.table.label_names, known).eval().requires_grad_(False)
    return network.to(run.here.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack memory_format
