"""A network by ONNX Runtime, on a CPU: the extra ``fast``.

The graph is exported from the network in memory and its answers are compared with torch's, once:
then it is kept in the user's cache folder under a hash of all that decides what it is. It computes
in float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from cft import __version__, cache
from cft.errors import EngineError
from cft.model.depths import GRID, Depth
from cft.model.engine import TOLERANCE, Pass, as_pass
from cft.threads import threads

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from cft.model.network import Network
    from cft.model.torch_engine import Outputs

__all__ = ["OnnxEngine", "onnx_engine"]

#: Largest sum of a network's tensors in bytes. A file of this format has less than 2 GiB.
MAX_BYTES = 2**30

# Another number here makes every graph anew: after a change of networks of ours, or of `Outputs`.
_GRAPH = 5

_MISSING = 'the engine onnx is not installed: pip install "cft[fast]"'


def onnx_engine(
    build: Callable[[], tuple[Network, bool]],
    identity: Sequence[str],
    example: np.ndarray,
    depths: Sequence[Depth],
) -> OnnxEngine:
    """The engine of a network; the parameters are those of `cft.model.engines.make_engine`.

    Raises
    ------
    EngineError
        If ONNX Runtime is not installed, or cannot run this network as torch does.
    """
    _needs("onnxruntime")
    name = f"{_key(identity, example, depths)}.onnx"
    if (graph := cache.fetch(name)) is not None:
        with contextlib.suppress(EngineError):  # of another version of ONNX Runtime: made anew
            return OnnxEngine(graph)
    _needs("onnx")
    from cft.model.torch_engine import Outputs, TorchEngine  # slow to import

    outputs = Outputs(*build(), depths).eval()
    plain = TorchEngine(outputs, "cpu")
    graph = _export(outputs, example)
    engine = OnnxEngine(graph)
    noise = np.random.default_rng(0).standard_normal((2, *example.shape[1:]), np.float32)
    for batch in (example, np.concatenate([example, noise])):  # any number of films
        engine.check(batch, plain(batch))
    cache.keep(name, graph)
    return engine


class OnnxEngine:
    """Runs an exported network; make one with `onnx_engine`."""

    name = "onnx"

    def __init__(self, graph: bytes):
        self._session = _session(graph)
        self._names = [output.name for output in self._session.get_outputs()]
        self.has_maps = "maps" in self._names

    def __call__(self, batch: np.ndarray) -> Pass:
        films = np.ascontiguousarray(batch)
        if not len(films):
            nothing = self(np.zeros((1, *films.shape[1:]), films.dtype)).named()
            return as_pass(self._names, [nothing[name][:0] for name in self._names])
        each = [self._session.run(self._names, {"films": film[None]}) for film in films]
        return as_pass(self._names, map(np.concatenate, zip(*each, strict=True)))

    def check(self, batch: np.ndarray, expected: Pass) -> None:
        """Refuse a graph whose answers are not the expected ones, to `TOLERANCE`."""
        try:
            found = self(batch).named()
        except Exception as error:  # ONNX Runtime's own, of many kinds
            raise EngineError(f"ONNX Runtime cannot run this network ({error})") from error
        for name, x in expected.named().items():
            most = TOLERANCE * max(1.0, float(np.abs(x).max()))
            y = found.get(name)
            if y is None or y.shape != x.shape or not np.allclose(y, x, rtol=0, atol=most):
                raise EngineError(f"ONNX Runtime's {name} are not those of torch")


def _needs(package: str) -> None:
    try:
        __import__(package)
    except ImportError as error:
        raise EngineError(_MISSING) from error


def _key(identity: Sequence[str], example: np.ndarray, depths: Sequence[Depth]) -> str:
    """Names the graph of a network: other weights, arguments or versions are other graphs."""
    versions = [_GRAPH, __version__, version("torch"), version("timm")]
    heard = [[depth.module, depth.channels] for depth in depths]
    facts = [*identity, list(example.shape[1:]), heard, GRID, versions]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _export(outputs: Outputs, example: np.ndarray) -> bytes:
    """The graph of a network, for one film.

    Were their number open, ONNX Runtime would know no size beforehand and compute the padding of
    some convolutions in each pass, which takes a quarter of it. Films in one pass are no faster.

    By torch's exporter of traces: the one that is built on torch.export needs two more packages and
    took twenty times as long.
    """
    import torch

    size = sum(x.numel() * x.element_size() for x in outputs.state_dict().values())
    if size > MAX_BYTES:
        raise EngineError(f"the engine onnx takes networks of up to {MAX_BYTES / 2**30:g} GiB")
    names = list(outputs.names)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what a trace fixes: the answers are compared instead
        try:
            torch.onnx.export(
                outputs,
                (torch.from_numpy(example),),
                file,  # type: ignore[arg-type]  # its types know the other exporter
                dynamo=False,
                input_names=["films"],
                output_names=names,
            )
        except Exception as error:  # whatever an exporter makes of a network it does not know
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EngineError(f"this network cannot be exported to ONNX ({first})") from error
    return file.getvalue()


def _session(graph: bytes) -> InferenceSession:
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # only builds for Windows have any
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 4  # what matters is raised
    # Threads that wait in a loop take the processor from the process beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot read this network ({error})") from error
