"""Which engine runs a network, and the network of a model folder with its engine.

Where ONNX Runtime has a graph that was kept, PyTorch is not even imported: it takes longer to start
than many films take to read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cft.errors import EngineError
from cft.model.depths import Depth
from cft.model.engine import Engine
from cft.model.folder import ModelFolder
from cft.model.onnx_engine import onnx_engine

if TYPE_CHECKING:
    from cft.model.network import Network

__all__ = ["ENGINES", "FolderNetwork", "make_engine"]

#: What `make_engine` can be asked for.
ENGINES = ("auto", "torch", "onnx")

_log = logging.getLogger(__name__)


def make_engine(
    build: Callable[[], tuple[Network, bool]],
    identity: Sequence[str],
    example: np.ndarray,
    device: str,
    wanted: str,
    depths: Sequence[Depth] = (),
) -> Engine:
    """The engine that runs a network.

    Parameters
    ----------
    build
        Gives the network, in evaluation mode on the device, and whether its head makes maps (see
        `cft.model.network.try_out`). Not called where its exported graph was kept: building it
        takes longer than all the rest.
    identity
        What names the network exactly, such as its weights' hash and its arguments: the graph is
        kept under it.
    example
        (1, C, H, W): a film that the network answers.
    device
        Where it runs, see `cft.model.devices.device_name`.
    wanted
        "torch"; "onnx", ONNX Runtime (CPU only; the extra ``fast``); or "auto": that where it is
        installed, the device is a CPU and it agrees with torch to `TOLERANCE`, else torch.
    depths
        Where the network is listened to: every `Pass` holds the ``fields`` of each.

    Raises
    ------
    ValueError
        If there is no such engine, or the network has no such module.
    EngineError
        If "onnx" cannot run this network here.
    """
    if wanted not in ENGINES:
        raise ValueError(f"no engine {wanted!r}; there are {', '.join(ENGINES)}")
    if wanted != "torch":
        try:
            if device != "cpu":
                raise EngineError(f"the engine onnx runs on a CPU only, not on {device}")
            return onnx_engine(build, identity, example, depths)
        except EngineError as error:
            if wanted == "onnx":
                raise
            _log.info("torch runs the network: %s", error)
    from cft.model.torch_engine import Outputs, TorchEngine  # slow to import

    return TorchEngine(Outputs(*build(), depths).eval(), device)


class FolderNetwork:
    """The network of a model folder, and what runs it.

    Parameters
    ----------
    folder
        With one head, see `cft.model.heads.with_one_head`.
    device, wanted, depths
        As of `make_engine`.

    Attributes
    ----------
    engine
        What runs it.

    Raises
    ------
    ModelFolderError
        If the folder does not fit, see `cft.model.network.build_network` and `try_out`.
    ValueError, EngineError
        As of `make_engine`.
    """

    def __init__(
        self,
        folder: ModelFolder,
        device: str,
        wanted: str,
        depths: Sequence[Depth] = (),
    ):
        self._folder, self._device, self._depths = folder, device, tuple(depths)
        facts = folder.facts
        identity = (
            folder.weights_sha256,
            json.dumps([facts.architecture, facts.arguments, len(folder.label_names)]),
            json.dumps(facts.preprocess.to_config()),  # the checks of a kept graph were made of it
        )
        example = facts.preprocess.grey_film()
        self.engine = make_engine(
            lambda: self._built, identity, example, device, wanted, self._depths
        )

    @property
    def network(self) -> Network:
        """The timm network, in evaluation mode on the device; built when it is first asked for."""
        return self._built[0]

    @cached_property
    def _built(self) -> tuple[Network, bool]:
        import torch  # slow to import, as these are

        from cft.model.network import build_network, try_out

        network = build_network(self._folder)
        network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack memory_format
        return network, try_out(network, self._folder, self._device, self._depths)
