"""Model folder -> the timm network that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from torch import nn

from cft.errors import ModelFolderError
from cft.model.folder import CONFIG, ModelFolder
from cft.model.preprocess import Preprocess

if TYPE_CHECKING:

    class Network(nn.Module):
        """What every network of timm has beyond `nn.Module`. Only a type: no object is of it."""

        pretrained_cfg: dict[str, Any]
        num_features: int
        built_with: dict[str, Any]

        def forward_features(self, x: torch.Tensor) -> torch.Tensor: ...

        def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor: ...

        def get_classifier(self) -> nn.Module: ...


# Arguments of timm.create_model that would load something else than the folder's own tensors.
_FORBIDDEN_MODEL_ARGS = {
    "cache_dir",
    "checkpoint_path",
    "exportable",
    "features_only",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "scriptable",
}


def new_network(architecture: str, /, **arguments: Any) -> Network:
    """`timm.create_model` without pretrained weights, as what it is.

    Its attribute `built_with` keeps the arguments: a model folder has to state them.
    """
    network = cast("Network", timm.create_model(architecture, pretrained=False, **arguments))
    network.built_with = arguments
    return network


def arguments_in(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of `timm.create_model` that a ``config.json`` states.

    Parameters
    ----------
    config, path
        The parsed file and its folder.

    Raises
    ------
    ModelFolderError
        If one of them would load something else than the folder's own tensors.
    """
    arguments = dict(config.get("model_args", {}))
    forbidden = _FORBIDDEN_MODEL_ARGS & set(arguments)
    if forbidden:
        raise ModelFolderError(f'"model_args" in {path / CONFIG} may not set {sorted(forbidden)}')
    if "global_pool" in config:
        arguments.setdefault("global_pool", config["global_pool"])
    return arguments


def build_network(folder: ModelFolder) -> Network:
    """The timm network that a model folder describes, with the folder's tensors.

    The network is first laid out without memory and compared with the tensors, so that a
    configuration cannot promise a size that the weights file does not have.

    Raises
    ------
    ModelFolderError
        If the architecture is unknown or the tensors are not exactly the network's.
    """
    where = folder.path / CONFIG
    architecture = folder.config["architecture"]
    arguments = {"num_classes": len(folder.label_names), **arguments_in(folder.config, folder.path)}
    if not timm.is_model(architecture):
        raise ModelFolderError(
            f"{where} names the architecture {architecture!r}, which timm {timm.__version__} does "
            "not know"
        )
    try:
        with torch.device("meta"):
            network = new_network(architecture, **arguments)
    except Exception as error:  # whatever a constructor makes of arguments that are not its own
        raise ModelFolderError(
            f"{where}: timm cannot build {architecture!r} from these arguments ({error})"
        ) from error
    _check_tensors(network, folder)
    if not set(dict(network.named_buffers())) <= set(folder.state_dict):
        # Buffers that are not saved have to be computed, which a network without memory cannot.
        network = new_network(architecture, **arguments)
    network.load_state_dict(folder.state_dict, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _check_tensors(network: nn.Module, folder: ModelFolder) -> None:
    expected, found = network.state_dict(), folder.state_dict
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    misfit = [
        f"{name} is {tuple(found[name].shape)} {found[name].dtype} instead of "
        f"{tuple(tensor.shape)} {tensor.dtype}"
        for name, tensor in expected.items()
        if name in found
        and (found[name].shape != tensor.shape or found[name].dtype != tensor.dtype)
    ]
    problems = [
        f"{what}: {len(names)} (first: {names[0]})"
        for what, names in (
            ("missing tensors", missing),
            ("unexpected tensors", extra),
            ("tensors that do not fit", misfit),
        )
        if names
    ]
    if problems:
        raise ModelFolderError(
            f"the weights in {folder.path} are not those of {folder.config['architecture']}: "
            + ", ".join(problems)
        )


def has_linear_head(network: Network, preprocess: Preprocess, device: torch.device) -> bool:
    """Whether the score is the mean over positions of a linear function of the feature map.

    Asked of the network itself, not of its name: random features go through the head, and the
    result is compared with the linear layer applied to their mean.
    """
    head = network.get_classifier()
    if not isinstance(head, nn.Linear) or head.bias is None:
        return False
    with torch.inference_mode():
        shape = network.forward_features(
            torch.zeros(1, *preprocess.input_size, device=device)
        ).shape
        if len(shape) != 4 or shape[1] != head.in_features:
            return False
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(shape, generator=generator).to(device)
        expected = head(features.mean(dim=(2, 3)))
        return torch.allclose(network.forward_head(features), expected, rtol=1e-3, atol=1e-4)
