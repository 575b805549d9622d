"""Model folder -> the timm network that it describes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from cft.architectures.light import timm  # with the networks of that package
from cft.errors import ModelFolderError
from cft.model.depths import Depth
from cft.model.fields import Fields, shown
from cft.model.folder import CONFIG, ModelFolder
from cft.model.listening import listening
from cft.model.preprocess import MAX_SIDE

if TYPE_CHECKING:

    class Network(nn.Module):
        """What every network of timm has beyond `nn.Module`. Only a type: no object is of it."""

        pretrained_cfg: dict[str, Any]
        num_features: int
        built_with: dict[str, Any]

        def forward_features(self, x: torch.Tensor) -> torch.Tensor: ...

        def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor: ...

        def get_classifier(self) -> nn.Module: ...


#: Most operations for a film: about half a minute on two cores. The largest network of timm that
#: anyone reads films with (DINOv2's giant at 518 pixels) needs about as many.
MAX_FLOPS = 3e12

#: Most elements of the tensors that a network computes for itself, such as tables of positions.
MAX_COMPUTED = 2**28

# Parts that a network may register for each tensor of its file, and besides.
_PARTS_A_TENSOR, _PARTS = 10, 2_000
_LONGEST_ARGUMENT = 200  # elements of a list, or characters

#: Arguments of timm.create_model that would load something else than the folder's own tensors.
FORBIDDEN_MODEL_ARGS = {
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

# What gives a tensor other numbers, and then gives it back.
_FILLING = {
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_),
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_),
}


def new_network(architecture: str, /, **arguments: Any) -> Network:
    """`timm.create_model` without pretrained weights, as what it is.

    Its attribute `built_with` keeps the arguments: a model folder has to state them.
    """
    network = cast("Network", timm.create_model(architecture, pretrained=False, **arguments))
    network.built_with = arguments
    return network


def build_network(folder: ModelFolder) -> Network:
    """The timm network that a model folder describes, with the folder's tensors.

    The network is first laid out without memory and compared with the tensors, so that a
    configuration cannot promise a size that the weights file does not have.

    Raises
    ------
    ModelFolderError
        If the architecture is unknown, the tensors are not exactly the network's, or it would take
        absurdly long to build or to use.
    """
    where = folder.path / CONFIG
    architecture = folder.facts.architecture
    arguments = {"num_classes": len(folder.label_names), **arguments_in(folder)}
    network = lay_out(folder, arguments)
    _check_tensors(network, folder)
    computed = {n: x for n, x in network.named_buffers() if n not in folder.state_dict}
    if sum(buffer.numel() for buffer in computed.values()) > MAX_COMPUTED:
        raise ModelFolderError(f"{where}: {architecture!r} would compute tensors of absurd sizes")
    _check_work(network.eval(), folder)
    if computed:
        # Buffers that are not saved have to be computed, which a network without memory cannot.
        network = new_network(architecture, **arguments)
    network.load_state_dict(folder.state_dict, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def lay_out(folder: ModelFolder, arguments: Mapping[str, Any]) -> Network:
    """The network that a folder names, without memory.

    Raises
    ------
    ModelFolderError
        If timm does not know it, cannot build it from the arguments, or would build something far
        deeper than the folder has tensors for.
    """
    where, architecture = folder.path / CONFIG, folder.config["architecture"]
    if not timm.is_model(architecture):
        raise ModelFolderError(
            f"{where} names the architecture {shown(architecture)}, which timm {timm.__version__} "
            "does not know"
        )
    try:
        with torch.device("meta"), _Unfilled(), limited(len(folder.state_dict)):
            return new_network(architecture, **arguments)
    except Exception as error:  # whatever a constructor makes of arguments that are not its own
        raise ModelFolderError(
            f"{where}: timm cannot build {architecture!r} from these arguments ({error})"
        ) from error


class _Unfilled(TorchFunctionMode):
    """Tensors without memory are not filled with random numbers.

    It changes nothing, and PyTorch would import its compiler for it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def arguments_in(folder: ModelFolder) -> dict[str, Any]:
    """The arguments of `timm.create_model` that a folder states, besides the number of outputs.

    Raises
    ------
    ModelFolderError
        If one of them would load something else than the folder's own tensors, or is larger than
        anything that these hold.
    """
    where = folder.path / CONFIG
    given = folder.facts.arguments
    forbidden = FORBIDDEN_MODEL_ARGS & set(_names(given))
    if forbidden:
        raise ModelFolderError(f'"model_args" in {where} may not set {sorted(forbidden)}')
    widest = max((max(x.shape, default=0) for x in folder.state_dict.values()), default=0)
    most = max(MAX_SIDE, widest, len(folder.state_dict))
    for key, value in given.items():
        _check_argument(value, Fields(given, "model_args", str(where)), key, most)
    return given


def _names(value: Any) -> Iterator[str]:
    """The names of all arguments, those of a network inside another included."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _names(item)


def _check_argument(value: Any, of: Fields, key: str, most: int) -> None:
    """A number in it is no larger than any length or count that the tensors have, or an input."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        if len(value) > _LONGEST_ARGUMENT:
            raise of.refuse(key, f"of at most {_LONGEST_ARGUMENT} values", value)
        for item in value:
            _check_argument(item, of, key, most)
    elif isinstance(value, (int, float)) and not -most <= value <= most:
        raise of.refuse(key, f"at most {most}, the largest size in its tensors", value)
    elif isinstance(value, str) and len(value) > _LONGEST_ARGUMENT:
        raise of.refuse(key, f"of at most {_LONGEST_ARGUMENT} characters", value)


@contextlib.contextmanager
def limited(tensors: int) -> Iterator[None]:
    """Stop the making of a network that has far more parts than there are tensors for them.

    Depth cannot be read off the arguments, which each architecture names in its own way; but each
    block of a network registers parameters, and in the end each of these needs a tensor.

    Raises
    ------
    ValueError
        From inside the constructor.
    """
    thread, parts = threading.get_ident(), 0

    def count(*_: Any) -> None:
        nonlocal parts
        if threading.get_ident() != thread:
            return
        parts += 1
        if parts > _PARTS_A_TENSOR * tensors + _PARTS:
            raise ValueError(f"it has far more parts than the {tensors} tensors of its file")

    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_work(network: Network, folder: ModelFolder) -> None:
    """Refuse a network that would be busy with a film for minutes, before it sees one."""
    channels, height, width = folder.facts.preprocess.input_size
    if at_most(network, height * width) <= MAX_FLOPS:
        return  # without counting, which takes a while
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    # Not every network runs without memory. Whether it runs at all, `try_out` says.
    with contextlib.suppress(Exception), torch.no_grad(), torch.device("meta"), counter:
        batch = torch.empty(1, channels, height, width)
        network.forward_head(network.forward_features(batch))
    if counter.get_total_flops() > MAX_FLOPS:
        raise ModelFolderError(
            f"{folder.path / CONFIG} describes a network that needs more than "
            f"{MAX_FLOPS / 1e12:g} trillion operations for a film of {width} x {height} pixels"
        )


def at_most(network: nn.Module, pixels: int) -> int:
    """Operations that a network cannot exceed for a film of so many pixels.

    No weight is used more often than there are pixels. An attention compares no more tokens than
    there are pixels and, of tokens that are parameters, than the longest side of any; nor are its
    queries and values longer than that.
    """
    shapes = [x.shape for x in network.parameters()]
    longest = max((max(shape, default=1) for shape in shapes), default=1)
    attentions = sum("Att" in type(x).__name__ for x in network.modules())
    weights = sum(shape.numel() for shape in shapes)
    return 2 * weights * pixels + 4 * attentions * (pixels + longest) ** 2 * longest


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
            f"the weights in {folder.path} are not those of {folder.facts.architecture}: "
            + ", ".join(problems)
        )


def try_out(
    network: Network, folder: ModelFolder, device: str | torch.device, depths: Sequence[Depth] = ()
) -> bool:
    """Give a network a film of all greys, and see what it makes of it.

    `depths`: where its gate listens.

    Returns
    -------
    bool
        Whether the score is the mean over positions of a linear function of the feature map, which
        is what heat maps need. Asked of the network itself, not of its name: random features go
        through the head, and the result is compared with the linear layer applied to their mean.

    Raises
    ------
    ModelFolderError
        If it cannot take such a film, does not answer with a finite score for each label, or shows
        no map of features at one of the depths.
    """
    preprocess, where = folder.facts.preprocess, folder.path
    grey = torch.from_numpy(preprocess.grey_film()).to(device)
    parts = {name for name, _ in network.named_modules()}
    for depth in depths:
        if depth.module not in parts:
            raise ModelFolderError(
                f'"cft.gate" in {where / CONFIG} is of another network: this one has no part '
                f"{depth.module[:100]!r}"
            )
    with torch.inference_mode():
        try:
            with listening(network, tuple(depths)) as heard:
                features = network.forward_features(grey)
            scores = network.forward_head(features)
        except Exception as error:  # an input that the architecture cannot take, in its own words
            size = " x ".join(map(str, preprocess.input_size))
            raise ModelFolderError(
                f"{where}: the network cannot take an input of {size} ({error})"
            ) from error
        if tuple(scores.shape) != (1, len(folder.label_names)):
            raise ModelFolderError(
                f"{where}: the network answers with {tuple(scores.shape)} numbers for a film "
                f"instead of one for each of {len(folder.label_names)} labels"
            )
        if not torch.isfinite(scores).all():
            raise ModelFolderError(f"{where}: the network's scores of a grey film are not finite")
        for depth in depths:
            if depth.module not in heard:
                raise ModelFolderError(
                    f'"cft.gate" in {where / CONFIG} is of another network: in this one the part '
                    f"{depth.module[:100]!r} shows no map of {depth.channels} features"
                )
        return has_linear_head(network, features)


def has_linear_head(network: Network, features: torch.Tensor) -> bool:
    """Whether a network's scores are the mean over positions of a linear function of its features.

    Parameters
    ----------
    network
        In evaluation mode.
    features
        What its ``forward_features`` gave of some films; only the shape counts.
    """
    head, shape = network.get_classifier(), features.shape
    if not isinstance(head, nn.Linear) or head.bias is None:
        return False
    if len(shape) != 4 or shape[1] != head.in_features:
        return False
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=generator).to(features.device)
    expected = head(features.mean(dim=(2, 3)))
    return torch.allclose(network.forward_head(features), expected, rtol=1e-3, atol=1e-4)
