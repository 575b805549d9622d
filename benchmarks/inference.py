"""One film, file to probabilities: ours beside torchxrayvision's, with the same network.

    pip install torchxrayvision scikit-image     # the peer, in any environment that runs ours
    python -m benchmarks.inference [--repeats 50] [--threads 2]

Both read the same 1024 x 1024 PNG of 8 bits (drawn by code) and run a DenseNet-121 at 224 x 224
with 18 outputs and the same random weights:

- ours: `Classifier.predict(path)`, with the class activation maps that come along;
- torchxrayvision: its own script's steps, `utils.load_image`, `XRayCenterCrop`, `XRayResizer(224)`
  and `models.DenseNet(apply_sigmoid=True)` under `torch.no_grad()`.

The two take turns film by film, so that other work on the machine falls on both. The second row of
each is its network alone, on a prepared film. Below the table: by how much the networks differ on
the same input (rounding), and the prepared films from each other (the resizing filters differ).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

import cft
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


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=50, help="films of each")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the networks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.png"
        Image.fromarray(draw_phantom((), SIDE, np.random.default_rng(0))).save(film)
        classifier = random_classifier(Path(folder) / "model")
        peer = Peer(classifier) if has_peer() else None
        seconds = measure(candidates(classifier, peer, film), options.repeats)
        print(table(seconds, options))
        if peer is None:
            print("\ntorchxrayvision is not installed: pip install torchxrayvision scikit-image")
        else:
            print(agreement(classifier, peer, film))


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
    return cft.load(folder, device=device)


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
    classifier: cft.Classifier, peer: Peer | None, film: Path
) -> dict[str, Callable[[], object]]:
    """What is measured, by the name of its row."""
    ours = classifier.preprocess(cft.read_radiograph(film).pixels)[None]
    rows: dict[str, Callable[[], object]] = {
        "ours": lambda: classifier.predict(film).probabilities,
        "ours, network alone": lambda: classifier.logits(ours),
    }
    if peer is not None:
        theirs = peer.prepare(film)
        rows["torchxrayvision"] = lambda: peer.probabilities(peer.prepare(film))
        rows["torchxrayvision, network alone"] = lambda: peer.probabilities(theirs)
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
    """Median and the middle half of the repetitions, in Markdown."""
    ours = statistics.median(seconds["ours"])
    lines = [
        f"DenseNet-121 at {SIZE} px, one {SIDE} x {SIDE} PNG, {options.threads} CPU threads, "
        f"{options.repeats} films each; torch {torch.__version__}, timm {timm.__version__}",
        "",
        "| file to probabilities | median ms | middle half ms | times ours |",
        "|---|---|---|---|",
    ]
    for name, values in seconds.items():
        low, median, high = (1000 * x for x in statistics.quantiles(values, n=4))
        times = "" if "alone" in name else f"{median / 1000 / ours:.2f}"
        lines.append(f"| {name} | {median:.1f} | {low:.1f} to {high:.1f} | {times} |")
    return "\n".join(lines)


def agreement(classifier: cft.Classifier, peer: Peer, film: Path) -> str:
    """How far the two are from each other on the same film."""
    ours = classifier.preprocess(cft.read_radiograph(film).pixels)[None]
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
