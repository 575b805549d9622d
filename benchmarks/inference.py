"""One film, file to probabilities: ours by each engine, beside torchxrayvision's.

    pip install torchxrayvision scikit-image     # the peer, in any environment that runs ours
    python -m benchmarks.inference [--arch densenet121] [--size 224] [--repeats 50] [--threads 2]
    python -m benchmarks.inference --model weights       # a model folder, with its gate
    python -m benchmarks.inference --busy 2      # beside so many other processes that are busy

All read the same 1024 x 1024 PNG of 8 bits (drawn by code) and run the same network, at 224 x 224
with 18 outputs and the same random weights:

- ours: `Classifier.predict(path)`, with the class activation maps that come along, by torch and,
  where the extra `fast` is installed, by ONNX Runtime;
- torchxrayvision (DenseNet-121 alone): its own script's steps, `utils.load_image`,
  `XRayCenterCrop`, `XRayResizer(224)` and `models.DenseNet(apply_sigmoid=True)` under
  `torch.no_grad()`.

They take turns film by film, so that other work on the machine falls on all. The second row of each
is its network alone, on a prepared film: of ours with the activation maps and what the gate looks
at. The row "timm, PyTorch" is the network as timm makes it, called as its documentation says: it
gives logits alone. The last column compares within the turns: the median of the ratio to the first
row of the kind. Below it: what the processor allows (the network's multiplications and additions at
the speed at which it multiplies large matrices), where our milliseconds go, by how much the
networks differ on the same input (rounding), and the prepared films from each other (the resizing
filters differ).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import cft
from cft.film.read import read_radiograph
from cft.model.engine import TOLERANCE
from cft.model.folder import write_model_folder
from train.datasets.phantom_drawing import draw_phantom

SIZE, SIDE, LABELS = 224, 1024, 18

# torchxrayvision's pixels are within [-1024, 1024]: x * 2048 - 1024 = (x - 0.5) / (1 / 2048).
_PRETRAINED_CFG = {
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "mean": [0.5],
    "std": [1 / 2048],
}

_WARM_UP = 5

# Large enough that multiplying is nearly all of the time.
_MATRIX = 1024
PRODUCT = f"product of two {_MATRIX:,} x {_MATRIX:,} matrices"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="densenet121", help="the network, by timm's name")
    parser.add_argument("--model", help="a model folder, in the place of --arch and --size")
    parser.add_argument("--size", type=int, default=SIZE, help="side of its input")
    parser.add_argument("--repeats", type=int, default=50, help="films of each")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the networks")
    parser.add_argument("--busy", type=int, default=0, help="other processes that are busy")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.png"
        Image.fromarray(draw_phantom((), SIDE, np.random.default_rng(0))).save(film)
        if options.model is None:
            torchs = random_classifier(Path(folder) / "model", options.arch, options.size)
            source = str(Path(folder) / "model")
        else:
            torchs = cft.load(options.model, "cpu", "torch")
            source = options.model
        models = {"ours, torch": torchs}
        with contextlib.suppress(cft.ModelFolderError):
            models["ours, onnx"] = cft.load(source, "cpu", "onnx")
        is_theirs = (options.arch, options.size, options.model) == ("densenet121", SIZE, None)
        peer = Peer(torchs) if is_theirs and has_peer() else None
        with busy(options.busy):
            rows = candidates(models, peer, film) | {PRODUCT: product()}
            seconds = measure(rows, options.repeats)
            parts = measure(stages(models, film), options.repeats)
        print(table(seconds, options))
        print(limit_of_processor(torchs, seconds))
        print(table_of_stages(parts))
        if "ours, onnx" not in models:
            print('\nONNX Runtime is not installed: pip install ".[fast]"')
        else:
            print(agreement_of_engines(models, film))
        if peer is not None:
            print(agreement(torchs, peer, film))
        elif is_theirs:
            print("\ntorchxrayvision is not installed: pip install torchxrayvision scikit-image")


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Other processes that compute all the time."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def random_classifier(
    folder: Path,
    architecture: str = "densenet121",
    size: int = SIZE,
    device: str | torch.device = "cpu",
) -> cft.Classifier:
    """A network with random weights, loaded from a model folder as every model is."""
    torch.manual_seed(0)
    network = timm.create_model(architecture, in_chans=1, num_classes=LABELS)
    config = {
        "architecture": architecture,
        "model_args": {"in_chans": 1},
        "num_classes": LABELS,
        "label_names": [f"Finding {i}" for i in range(LABELS)],
        "pretrained_cfg": {**_PRETRAINED_CFG, "input_size": [1, size, size]},
    }
    write_model_folder(folder, state_dict=network.state_dict(), config=config, card="Random.\n")
    return cft.load(folder, device=device, engine="torch")


def has_peer() -> bool:
    """Whether torchxrayvision can be imported."""
    try:
        import torchxrayvision  # noqa: F401
    except ImportError:
        return False
    return True


class Peer:
    """torchxrayvision's pipeline with the classifier's weights."""

    def __init__(self, classifier: cft.Classifier):
        import torchvision
        import torchxrayvision

        self.load_image = torchxrayvision.utils.load_image
        self.transform = torchvision.transforms.Compose(
            [
                torchxrayvision.datasets.XRayCenterCrop(),
                torchxrayvision.datasets.XRayResizer(SIZE),
            ]
        )
        self.network = torchxrayvision.models.DenseNet(num_classes=LABELS, apply_sigmoid=True)
        self.network.load_state_dict(classifier.network.state_dict())  # the same names
        self.network.eval()

    def prepare(self, film: Path) -> torch.Tensor:
        """File -> (1, 1, 224, 224)."""
        return torch.from_numpy(self.transform(self.load_image(str(film))))[None]

    def probabilities(self, batch: torch.Tensor) -> torch.Tensor:
        """(1, 1, 224, 224) -> (1, 18)."""
        with torch.no_grad():
            return self.network(batch)


def candidates(
    models: dict[str, cft.Classifier], peer: Peer | None, film: Path
) -> dict[str, Callable[[], object]]:
    """What is measured, by the name of its row; first what the others are compared with."""
    rows: dict[str, Callable[[], object]] = {}
    if peer is not None:
        theirs = peer.prepare(film)
        rows["torchxrayvision"] = lambda: peer.probabilities(peer.prepare(film))
        rows["torchxrayvision, network alone"] = lambda: peer.probabilities(theirs)
    first = models["ours, torch"]
    plain = copy.deepcopy(first.network).to(memory_format=torch.contiguous_format)
    grey = torch.from_numpy(first.preprocess(read_radiograph(film).pixels)[None])

    @torch.inference_mode()
    def timms() -> object:
        return plain(grey)

    if peer is None:
        rows["timm, PyTorch, network alone"] = timms
    for name, model in models.items():
        prepared = model.preprocess(read_radiograph(film).pixels)[None]
        rows[name] = lambda model=model: model.predict(film).probabilities
        rows[f"{name}, network alone"] = lambda model=model, x=prepared: model.logits(x)
    return rows


def stages(models: dict[str, cft.Classifier], film: Path) -> dict[str, Callable[[], object]]:
    """The steps from file to findings, by name."""
    first = next(iter(models.values()))
    data, radiograph = film.read_bytes(), read_radiograph(film)
    items = {name: [model.prepare(radiograph)] for name, model in models.items()}
    item = first.prepare(radiograph)
    scores, maps, gates = (x[0] for x in first._forward([item]))
    rows: dict[str, Callable[[], object]] = {
        "read the file": film.read_bytes,
        "decode, by Pillow alone": lambda: Image.open(film).load(),
        "decode to grey in [0, 1]": lambda: read_radiograph(data),
        "resize and normalise": lambda: first.preprocess(radiograph.pixels),
    }
    for name, model in models.items():
        rows[f"network and activation maps, {name}"] = lambda m=model, x=items[name]: m._forward(x)
    rows["findings"] = lambda: first._findings(item, scores, maps, gates)
    return rows


def measure(rows: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each repetition of each row; the rows take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for repetition in range(_WARM_UP + repeats):
        for name, run in rows.items():
            began = time.perf_counter()
            run()
            if repetition >= _WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def table(seconds: dict[str, list[float]], options: argparse.Namespace) -> str:
    """Medians, the middle half and paired ratios, in Markdown."""
    lines = [
        f"{options.model or f'{options.arch} at {options.size} px'}, one {SIDE} x {SIDE} PNG, "
        f"{options.threads} CPU threads, {options.repeats} films each, beside {options.busy} busy "
        f"processes; torch {torch.__version__}, timm {timm.__version__}",
        "",
        "| file to probabilities | median ms | middle half ms | times as fast as the first |",
        "|---|---|---|---|",
    ]
    first: dict[bool, list[float]] = {}
    for name, values in seconds.items():
        if name == PRODUCT:
            continue
        base = first.setdefault("alone" in name, values)
        ratio = statistics.median(x / y for x, y in zip(base, values, strict=True))
        times = "1" if base is values else f"{ratio:.2f}"
        lines.append(f"| {name} | {_milliseconds(values)} | {times} |")
    return "\n".join(lines)


def product() -> Callable[[], object]:
    """A product of two large matrices, at which a processor is about as fast as it gets."""
    one, other = torch.randn(2, _MATRIX, _MATRIX).unbind()
    return lambda: one @ other


def limit_of_processor(classifier: cft.Classifier, seconds: dict[str, list[float]]) -> str:
    """How fast the network would be at the speed of a product of large matrices."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        classifier.network(torch.zeros(1, *classifier.preprocess.input_size))
    work, large = counter.get_total_flops(), 2 * _MATRIX**3

    products = seconds[PRODUCT]
    base = next(values for name, values in seconds.items() if "alone" in name)
    ratio = statistics.median(x / y for x, y in zip(base, products, strict=True))
    taken = statistics.median(products)
    return (
        f"\nThe network is {work / 1e9:.2f} GFLOP. At the speed of the {PRODUCT}, "
        f"{large / taken / 1e9:.0f} GFLOP/s, it would take {1000 * taken * work / large:.1f} ms, "
        f"{ratio * large / work:.2f} times as fast as the first network alone."
    )


def table_of_stages(seconds: dict[str, list[float]]) -> str:
    """Where the milliseconds go, in Markdown."""
    lines = ["", "| step | median ms | middle half ms |", "|---|---|---|"]
    lines += [f"| {name} | {_milliseconds(values)} |" for name, values in seconds.items()]
    return "\n".join(lines)


def _milliseconds(values: list[float]) -> str:
    low, median, high = (1000 * x for x in statistics.quantiles(values, n=4))
    return f"{median:.1f} | {low:.1f} to {high:.1f}"


def agreement_of_engines(models: dict[str, cft.Classifier], film: Path) -> str:
    """How far the engines are from each other on the same film."""
    batch = models["ours, torch"].preprocess(read_radiograph(film).pixels)[None]
    one, other = (model.logits(batch) for model in models.values())
    apart = np.abs(one - other).max()
    return f"\nThe engines' logits differ by at most {apart:.1e} (allowed: {TOLERANCE:g})."


def agreement(classifier: cft.Classifier, peer: Peer, film: Path) -> str:
    """How far the two are from each other on the same film."""
    ours = torch.from_numpy(classifier.preprocess(cft.read_radiograph(film).pixels)[None])
    theirs = peer.prepare(film)
    with torch.no_grad():
        scores = peer.network.classifier(peer.network.features2(ours))
    networks = ((classifier.logits(ours) - scores).abs().max() / scores.abs().max()).item()
    greys = (ours - theirs).abs() / 2048
    return (
        f"\nThe networks differ by at most {networks:.1e} of the largest score on the same input; "
        f"the prepared films by {greys.mean():.4f} (mean), {greys.max():.4f} (most) of full scale."
    )


if __name__ == "__main__":
    main()
