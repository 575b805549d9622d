"""Where a network starts: random tensors, timm's own weights, a model of the Hub, or a folder.

Weights are read from a model folder alone, which stock timm's own repositories on the Hub are as
well (`cft.model.hub` fetches them). What of them changes is done on a network built as theirs was:
timm resamples position embeddings and converts what other projects call otherwise; the stem is
summed to one grey channel where that gives the same features; the logistic regressions are taken by
the names of their labels.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from cft.architectures.light import timm
from cft.architectures.spatial_pyramid import NAME as PYRAMID
from cft.architectures.spatial_pyramid import SpatialPyramid
from cft.model.folder import read_config, read_model_folder
from cft.model.hub import Source, resolve
from cft.model.network import arguments_in, lay_out, new_network
from cft.model.preprocess import Preprocess
from train.errors import TrainingError
from train.stage1.layers import heads_of
from train.stage1.model_args import model_args_in
from train.stage1.settings import Settings

if TYPE_CHECKING:
    from cft.model.folder import ModelFolder
    from cft.model.network import Network

logger = logging.getLogger(__name__)

RANDOM, PRETRAINED, HUB = "random", "pretrained", "hf-hub:"

# Of the provenance of a start that is a model of this project: what tells how to make it again.
_KEPT_OF_START = ("stage", "command", "seed", "best_epoch", "start", "joined", "date")

# About the mean and the spread of films; what a random start uses.
_FILMS = (0.5,), (0.25,)


def check_architecture(arch: str) -> None:
    """Whether timm knows the network and, if it is named as ``arch.tag``, its weights.

    Raises
    ------
    ValueError
        If not; the message is a sentence.
    """
    if not timm.is_model(arch):
        raise ValueError(f"timm {timm.__version__} has no architecture {arch!r}")
    plain, _, tag = arch.partition(".")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{plain}.*")]
    if tag and tag not in tags:
        raise ValueError(
            f"timm {timm.__version__} has no weights {tag!r} of {plain}; there are "
            + (", ".join(tags) or "none")
        )


def arguments_of(settings: Settings) -> dict[str, Any]:
    """What timm builds the network of a run from, besides channels, categories and dropout."""
    arguments: dict[str, Any] = {}
    if settings.init != RANDOM:
        arguments = dict(_arguments_in(_source_of(settings)))
    arguments |= model_args_in(settings.model_args)
    known = timm.models.get_pretrained_cfg(settings.arch)
    if "img_size" in arguments or (known and known.fixed_input_size):
        arguments["img_size"] = settings.image_size
    return arguments


def input_of(settings: Settings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, per channel, that a network's input is normalised with.

    They are those that the weights were trained with: zero padding is no longer grey at another
    mean, so that no change of the stem makes up for it. One channel where they are the same in all
    channels and the sum of the stem's weights gives the same features; three otherwise.

    Raises
    ------
    TrainingError
        If the start states none.
    ModelFolderError
        If it cannot be had or read.
    """
    if settings.init == RANDOM:
        return _FILMS
    source = _source_of(settings)
    stated = _config_of(source)["pretrained_cfg"]
    channels = _channels(source)
    side = settings.image_size
    try:
        numbers = {"mean": _per_channel(stated["mean"], channels)}
        numbers["std"] = _per_channel(stated["std"], channels)
        Preprocess.from_config({"input_size": [channels, side, side], **numbers})
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{_name(source)} does not say how its input is normalised ({error})"
        ) from None
    mean, std = tuple(numbers["mean"]), tuple(numbers["std"])
    same = len(set(mean)) == len(set(std)) == 1
    if same and (channels == 1 or _stem_sums(settings, channels)):
        return mean[:1], std[:1]
    return mean, std


def take_over(
    settings: Settings,
    network: Network,
    label_names: Sequence[str],
    arguments: Mapping[str, Any],
) -> np.ndarray:
    """Give a new network the tensors of its start.

    Parameters
    ----------
    settings
        `init` names the start.
    network
        With new tensors; the logistic regressions of labels that the start does not have keep them.
    label_names
        The C categories.
    arguments
        What the network was built from, besides categories and dropout.

    Returns
    -------
    np.ndarray
        (C,) bool: the logistic regressions that are new.

    Raises
    ------
    TrainingError
        If the tensors are not those of such a network.
    ModelFolderError
        If the start cannot be read.
    """
    source = _source_of(settings)
    folder = _folder_of(source)
    _folder_of.cache_clear()  # a large network's tensors would stay in memory for the whole run
    channels = _channels(source)
    if (held := _architecture(source)) == settings.arch.partition(".")[0]:
        before = _network_of(folder, settings.arch, {**arguments, "in_chans": channels}, source)
        theirs, labels = before.state_dict(), _labels_of(folder)
    else:  # the network that the new one holds, without its regressions: those see other features
        inside = {**_arguments_in(source), "in_chans": channels}
        before = _network_of(folder, held, inside, source)
        theirs = {f"network.{name}": x for name, x in before.state_dict().items()}
        labels = ()
    tensors: dict[str, torch.Tensor] = {}
    place = {label: row for row, label in enumerate(labels)}
    new = np.array([label not in place for label in label_names])
    rows = torch.tensor([place[label] for label in label_names if label in place])
    heads = tuple(f"{name}." for name in heads_of(network))
    beside: set[str] = getattr(network, "label_parameters", set)()
    for name, own in network.state_dict().items():
        if not name.startswith(heads) and name not in beside:
            tensors[name] = _summed(theirs[name], own, channels)
        elif new.all():
            tensors[name] = own
        elif len(own) == len(label_names) and len(theirs[name]) == len(place):
            tensors[name] = own.clone()
            tensors[name][torch.from_numpy(~new)] = theirs[name][rows]
        else:  # below the last layer of a head that has several
            tensors[name] = theirs[name]
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise _misfit(source, error) from None
    _say_head(source, [label for label in label_names if label not in place], len(label_names))
    return new


def origin_of(settings: Settings) -> dict[str, Any] | None:
    """What a model's provenance says of its start; None for random tensors."""
    if settings.init == RANDOM:
        return None
    source = _source_of(settings)
    folder = _folder_of(source)
    facts: dict[str, Any] = {"reference": source.reference, "commit": source.commit}
    made = made_by(folder.config)
    facts |= {"made": made} if made else {}
    return {"init": settings.init, **facts, "weights_sha256": folder.weights_sha256}


def made_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """What tells how a model of this project was made, from its ``config.json``; else nothing."""
    provenance = config.get("cft", {}).get("provenance", {})
    return {key: provenance[key] for key in _KEPT_OF_START if provenance.get(key)}


# ------------------------------------------------------------------------------- what is there


def _source_of(settings: Settings) -> Source:
    return _source_for(settings.init, settings.arch, _held_by(settings))


def _held_by(settings: Settings) -> str | None:
    """The network that the one of a run holds, if that is a spatial pyramid."""
    if settings.arch != PYRAMID:
        return None
    return str(model_args_in(settings.model_args).get("of", SpatialPyramid.OF))


@functools.lru_cache(maxsize=1)
def _source_for(init: str, arch: str, held: str | None) -> Source:
    """The folder of a start. Asked for once: a branch of the Hub may move while a run begins.

    A spatial pyramid may start from another, or from the network that it holds.
    """
    if init == PRETRAINED:
        source = resolve(HUB + _repository_of(held or arch))
    elif init.startswith(HUB):
        source = resolve(init)
    else:
        source = Source(Path(init))
        if not source.path.is_dir():
            raise TrainingError(
                f"--init: {init} is not a folder, nor is it random, pretrained or hf-hub:org/name"
            )
    config, name = _config_of(source), _name(source)
    if "members" in config.get("cft", {}):
        raise TrainingError(f"{name} is an ensemble; start from one of its members")
    theirs, ours = _architecture(source), arch.partition(".")[0]
    if theirs not in (ours, (held or ours).partition(".")[0]):
        raise TrainingError(f"{name} holds a {theirs}, not the {held or ours} of --arch")
    return source


@functools.lru_cache(maxsize=1)
def _config_of(source: Source) -> dict[str, Any]:
    """The start's ``config.json``, which nobody changes."""
    return read_config(source.path, named=False)


@functools.lru_cache(maxsize=1)
def _folder_of(source: Source) -> ModelFolder:
    """The start, read once until its tensors are taken over."""
    return read_model_folder(source.path, named=False)


def _repository_of(arch: str) -> str:
    """Where timm's own weights of ``arch`` or ``arch.tag`` are on the Hub."""
    known = timm.models.get_pretrained_cfg(arch)
    repository = known.hf_hub_id if known else None
    if not repository:
        raise TrainingError(
            f"timm {timm.__version__} knows no weights of {arch} on the Hub; name some by --init "
            "hf-hub:org/name, or a folder"
        )
    return repository


def _architecture(source: Source) -> str:
    """Without the tag of its weights."""
    return str(_config_of(source)["architecture"]).partition(".")[0]


def _name(source: Source) -> str:
    return source.reference or str(source.path)


def _channels(source: Source) -> int:
    """Of the input that the weights were trained on."""
    config = _config_of(source)
    size = config["pretrained_cfg"].get("input_size", (3,))
    return int(config.get("model_args", {}).get("in_chans") or size[0])


@functools.lru_cache(maxsize=1)
def _arguments_in(source: Source) -> dict[str, Any]:
    """What the network was built with, besides its outputs, channels and dropout."""
    folder = _folder_of(source)
    arguments = arguments_in(folder)
    lay_out(folder, arguments)  # refuses what would keep timm busy for ever
    return {k: v for k, v in arguments.items() if k != "in_chans" and not k.startswith("drop_")}


def _labels_of(folder: ModelFolder) -> tuple[str, ...]:
    """The labels of the outputs; none where they are not stated, one by one."""
    names = folder.label_names
    return names if len(names) == _classes(folder.config) else ()


def _classes(config: Mapping[str, Any]) -> int:
    return config.get("num_classes", config["pretrained_cfg"].get("num_classes", 0))


def _per_channel(values: Sequence[float], channels: int) -> list[float]:
    """One number a channel; timm states three for a network with one grey channel, too."""
    return [values[0]] * channels if len(set(values)) == 1 else list(values)


# ---------------------------------------------------------------------------- what is done to it


def _network_of(
    folder: ModelFolder, arch: str, arguments: Mapping[str, Any], source: Source
) -> Network:
    """A network with a folder's tensors, its own channels and outputs, at this run's size."""
    stated = folder.config["pretrained_cfg"]
    classes = _classes(folder.config)
    try:
        network = new_network(arch, num_classes=classes, **arguments)
        try:
            network.load_state_dict(folder.state_dict, strict=True)
            return network
        except RuntimeError:  # another size, or names of another project: timm knows what to do
            overlay = {
                **{"state_dict": folder.state_dict, "custom_load": False, "num_classes": classes},
                **{"source": "", "url": "", "file": "", "hf_hub_id": "", "label_offset": None},
                "input_size": (arguments["in_chans"], *stated.get("input_size", (3, 224, 224))[1:]),
            }
            return cast(
                "Network",
                timm.create_model(
                    arch,
                    pretrained=True,
                    pretrained_cfg_overlay=overlay,
                    num_classes=classes,
                    **arguments,
                ),
            )
    except Exception as error:  # whatever constructors and filters make of what is not theirs
        raise _misfit(source, error) from None


def _misfit(source: Source, error: Exception) -> TrainingError:
    reason = " ".join(str(error).split())
    return TrainingError(f"the tensors of {_name(source)} do not fit: {reason[:400]}")


def _summed(tensor: torch.Tensor, own: torch.Tensor, channels: int) -> torch.Tensor:
    """A tensor of the start as the network has it: the stem's weights summed over the channels."""
    if tensor.shape == own.shape or tensor.ndim < 2 or tensor.shape[1] % channels:
        return tensor
    # Stems that first fold space into depth have the channels of each place side by side.
    return tensor.unflatten(1, (-1, channels)).sum(2)


@functools.lru_cache(maxsize=1)
def _stem_sums(settings: Settings, channels: int) -> bool:
    """Whether the summed stem sees in a grey film what the stem sees in the film repeated.

    Asked of a network with random tensors. It does not where a stem standardises its weights, or
    mixes its channels before it.
    """
    arguments, side = arguments_of(settings), settings.image_size
    with torch.random.fork_rng([]), torch.inference_mode():
        try:
            three = new_network(settings.arch, num_classes=0, in_chans=channels, **arguments).eval()
            one = new_network(settings.arch, num_classes=0, in_chans=1, **arguments).eval()
            tensors, own = three.state_dict(), one.state_dict()
            one.load_state_dict({n: _summed(tensors[n], own[n], channels) for n in own})
            film = torch.rand(1, 1, side, side)
            found = one.forward_features(film)
            expected = three.forward_features(film.repeat(1, channels, 1, 1))
        except (TypeError, ValueError, AssertionError, RuntimeError, KeyError):
            return False  # what is wrong is said when the network is built
    return bool((found - expected).abs().max() <= 1e-3 * expected.abs().max())


def _say_head(source: Source, new: Sequence[str], count: int) -> None:
    """One line on the logistic regressions: which are the start's, which are new."""
    if not new:
        logger.info("start: %s, with its logistic regressions by name", _name(source))
    elif len(new) == count:
        logger.info("start: %s; the logistic regressions are new", _name(source))
    else:
        logger.info(
            "start: %s, with its logistic regressions by name; new are those of %s",
            *(_name(source), ", ".join(new)),
        )
